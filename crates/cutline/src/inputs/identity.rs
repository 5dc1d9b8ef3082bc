//! Who this party is to others: the option that names its credentials.

use std::{path::PathBuf, sync::Arc};

use cutline_runtime::{client::ClientOptions, pki::Credentials};

/// Credentials, where agents are off this machine.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct IdentityArgs {
    /// Folder of this machine's certificate and key, see `cutline pki` [default: the user's
    /// configuration folder].
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
}

impl IdentityArgs {
    /// The folder that was named, or the user's own.
    pub(crate) fn folder(&self) -> PathBuf {
        self.identity.clone().unwrap_or_else(Credentials::default_folder)
    }

    /// Whether a folder was named.
    pub(crate) fn is_named(&self) -> bool {
        self.identity.is_some()
    }

    /// How to call agents: with the credentials of the folder, which may be absent only where none
    /// was named.
    pub(crate) fn client(&self) -> anyhow::Result<ClientOptions> {
        let folder = self.folder();
        let there = self.is_named() || Credentials::are_in(&folder);
        let credentials = there.then(|| Credentials::read(&folder)).transpose()?;
        Ok(ClientOptions { credentials: credentials.map(Arc::new), ..ClientOptions::default() })
    }
}
