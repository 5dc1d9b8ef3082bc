//! `cutline pki`: credentials for machines that talk over a network.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;
use cutline_runtime::pki::{
    Authority, Credentials, Role,
    pairing::{self, PairingCode},
};
use serde::Serialize;

use crate::{inputs::IdentityArgs, output::Output, process};

/// Make the certificates by which a controller and its agents know each other.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cutline pki init                                   # once, where plans are made\n  cutline agent --listen 0.0.0.0:9001 --pair         # on a board: shows a code\n  cutline pki pair pi.local:9001 --code 7K2QD-...    # where plans are made\n\nIn place of a pairing, a folder of `cutline pki issue` may be copied to the board."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine the controller: an authority of its own, and a certificate by it.
    Init(IdentityArgs),
    /// Write the credentials of another machine into a folder, to be copied there by safe means.
    Issue(IssueArgs),
    /// Give an agent that shows a code its credentials over the network.
    Pair(PairArgs),
    /// Say who this machine is.
    Show(IdentityArgs),
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// What to call it in its certificate.
    name: String,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// What it may do: `agent` serves, `client` infers, `controller` also deploys.
    #[arg(long, value_name = "ROLE", value_enum, default_value = "agent")]
    role: RoleArg,
    /// A name or address for clients of others that check it; repeatable.
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    #[command(flatten)]
    identity: IdentityArgs,
}

#[derive(Debug, clap::Args)]
struct PairArgs {
    /// Where the agent waits, e.g. pi.local:9001.
    address: String,
    /// What it shows.
    #[arg(long, value_name = "CODE")]
    code: PairingCode,
    /// What to call it in its certificate [default: its host name or address].
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    identity: IdentityArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleArg {
    Agent,
    Client,
    Controller,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Agent => Self::Agent,
            RoleArg::Client => Self::Client,
            RoleArg::Controller => Self::Controller,
        }
    }
}

/// One party.
#[derive(Serialize)]
struct Party {
    name: Option<String>,
    roles: Vec<String>,
    /// SHA-256 of its certificate.
    fingerprint: String,
    /// Where its credentials are; absent where they were sent.
    folder: Option<PathBuf>,
}

impl Party {
    fn new(
        name: Option<String>,
        credentials: &Credentials,
        folder: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let roles = [Role::Controller, Role::Agent, Role::Client].into_iter();
        Ok(Self {
            name,
            roles: roles.filter(|&role| credentials.has(role)).map(|r| r.to_string()).collect(),
            fingerprint: credentials.fingerprint()?,
            folder: folder.map(Path::to_owned),
        })
    }
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init(identity) => init(&identity.folder(), output)?,
        Command::Issue(args) => issue(args, output)?,
        Command::Pair(args) => pair(args, output)?,
        Command::Show(identity) => {
            let folder = identity.folder();
            let credentials = Credentials::read(&folder)?;
            let party = Party::new(None, &credentials, Some(&folder))?;
            say(&party, &format!("this machine is {}", party.roles.join(", ")), output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init(folder: &Path, output: &Output) -> anyhow::Result<()> {
    let authority = Authority::generate()?;
    authority.write(folder)?;
    let name = "controller".to_owned();
    let credentials = authority.issue(&name, Role::Controller, &[])?;
    credentials.write(folder)?;
    let words = "this machine is the controller of a new authority; keep ca.key to yourself";
    say(&Party::new(Some(name), &credentials, Some(folder))?, words, output)
}

fn issue(args: IssueArgs, output: &Output) -> anyhow::Result<()> {
    let authority = authority(&args.identity)?;
    let credentials = authority.issue(&args.name, args.role.into(), &args.host)?;
    credentials.write(&args.output)?;
    let words = format!(
        "credentials of `{}`; copy the folder there and start: cutline agent --identity DIR",
        args.name
    );
    say(&Party::new(Some(args.name), &credentials, Some(&args.output))?, &words, output)
}

fn pair(args: PairArgs, output: &Output) -> anyhow::Result<()> {
    let authority = authority(&args.identity)?;
    let (host, _) = args
        .address
        .rsplit_once(':')
        .with_context(|| format!("`{}` is not an address such as pi.local:9001", args.address))?;
    let name = args.name.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
    let credentials = authority.issue(&name, Role::Agent, &[])?;
    process::runtime()?.block_on(pairing::adopt(&args.address, &args.code, &credentials))?;
    let words = format!("the agent at {} is paired, and serves from now on", args.address);
    say(&Party::new(Some(name), &credentials, None)?, &words, output)
}

fn authority(identity: &IdentityArgs) -> anyhow::Result<Authority> {
    let folder = identity.folder();
    Authority::read(&folder).with_context(|| {
        format!("`{}` is not a controller's folder; see `cutline pki init`", folder.display())
    })
}

fn say(party: &Party, words: &str, output: &Output) -> anyhow::Result<()> {
    output.print(party, |out| {
        writeln!(out, "{words}")?;
        if let Some(folder) = &party.folder {
            writeln!(out, "folder       {}", folder.display())?;
        }
        writeln!(out, "fingerprint  {}", party.fingerprint)
    })
}
