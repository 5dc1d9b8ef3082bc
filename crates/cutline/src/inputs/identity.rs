//! Who this party is to others: the option that names its credentials, and what it is by default.

use std::{env, path::PathBuf, sync::Arc};

use cutline_runtime::{client::ClientOptions, pki::Credentials};

/// Names the folder of credentials where the command line does not.
const VARIABLE: &str = "CUTLINE_IDENTITY";

/// Credentials, where agents are off this machine.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct IdentityArgs {
    /// Folder of this machine's certificate and key, see `cutline pki` [default: what the environment
    /// variable CUTLINE_IDENTITY says, else the user's configuration folder].
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
}

impl IdentityArgs {
    /// The folder that was named, here or in the environment, or the user's own.
    pub(crate) fn folder(&self) -> PathBuf {
        let named = self.identity.clone().or_else(default_of_environment);
        named.unwrap_or_else(Credentials::default_folder)
    }

    /// Whether a folder was named on the command line.
    pub(crate) fn is_named(&self) -> bool {
        self.identity.is_some()
    }

    /// Whether the folder must have credentials: it was named, here or in the environment.
    pub(crate) fn must_be_there(&self) -> bool {
        self.is_named() || default_of_environment().is_some()
    }

    /// How to call agents: with the credentials of the folder, which may be absent only where none
    /// was named.
    pub(crate) fn client(&self) -> anyhow::Result<ClientOptions> {
        let folder = self.folder();
        let there = self.must_be_there() || Credentials::are_in(&folder);
        let credentials = there.then(|| Credentials::read(&folder)).transpose()?;
        Ok(ClientOptions { credentials: credentials.map(Arc::new), ..ClientOptions::default() })
    }
}

/// The folder of the environment; a variable that is set to nothing counts as not set.
fn default_of_environment() -> Option<PathBuf> {
    env::var_os(VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}
