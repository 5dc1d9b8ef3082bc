//! Units of systemd.
//!
//! A unit confines its agent to what one needs: the network, its own folder, its cores. The certificate
//! and its key come as credentials of the unit, so that the agent's user, which exists only while it runs,
//! need not own them.

use std::path::PathBuf;

use super::{Agent, AgentArgs, Common, File, text};

/// Engines whose code is all there when they are loaded, so that no memory need be writable and
/// executable. Libraries of others may make code while they run.
const WITHOUT_NEW_CODE: [&str; 1] = ["rten"];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Where the program is on the devices.
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/cutline")]
    binary: PathBuf,
    /// Folder of the devices' credentials: each in DIR/DEVICE, with ca.pem, identity.pem and identity.key.
    #[arg(long, value_name = "DIR", default_value = "/etc/cutline")]
    credentials: PathBuf,
}

/// Confinement that every agent bears.
const CONFINED: &str = "\
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
UMask=0077
";

/// The unit of an agent.
pub(super) fn unit(agent: &Agent, args: &Args) -> File {
    let name = format!("cutline-agent-{}", agent.name);
    let listen = match agent.is_local {
        true => format!("127.0.0.1:{}", agent.port),
        false => format!("0.0.0.0:{}", agent.port),
    };
    let mut command = vec![quoted(&args.binary.display().to_string())];
    let arguments = agent.arguments(&listen, "STORE");
    command.extend(arguments.iter().map(|argument| match argument.as_str() {
        "STORE" => format!("%S/{name}"),
        argument => quoted(argument),
    }));
    let mut credentials = String::new();
    if !agent.is_local {
        command.extend(["--identity".to_owned(), "%d".to_owned()]);
        for file in ["ca.pem", "identity.pem", "identity.key"] {
            let path = args.credentials.join(&agent.name).join(file);
            credentials.push_str(&format!("LoadCredential={file}:{}\n", path.display()));
        }
    }
    let engine = agent.engine.as_deref().unwrap_or(WITHOUT_NEW_CODE[0]);
    let new_code = match WITHOUT_NEW_CODE.contains(&engine) {
        true => "MemoryDenyWriteExecute=yes\n".to_owned(),
        false => format!("# `{engine}` may make code while it runs: no MemoryDenyWriteExecute.\n"),
    };
    let unit = format!(
        "\
# Written by `cutline export systemd`. Copy to /etc/systemd/system, then:
#   systemctl enable --now {name}
[Unit]
Description=Cutline agent of device {device}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
RestartSec=2
StateDirectory={name}
StateDirectoryMode=0700
LimitNOFILE=65536
{credentials}{CONFINED}{new_code}
[Install]
WantedBy=multi-user.target
",
        device = one_line(&agent.device),
        command = command.join(" "),
    );
    text(format!("{name}.service"), unit)
}

/// An argument as a command line of systemd has it: specifiers, variables and quotes mean themselves.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@[]".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    let mut text = String::from("\"");
    for c in argument.chars() {
        match c {
            '%' => text.push_str("%%"),
            '$' => text.push_str("$$"),
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A text for people, in which nothing is a specifier or ends the line.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_an_argument_means_something_to_systemd() {
        assert_eq!(quoted("/usr/bin/cutline"), "/usr/bin/cutline");
        assert_eq!(quoted("50% of $HOME \"\\\n"), "\"50%% of $$HOME \\\"\\\\ \"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(one_line("a\n[Service]%n"), "a [Service]%%n");
    }
}
