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
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/cutline", value_parser = parse_path)]
    binary: PathBuf,
    /// Folder of the devices' credentials: each in DIR/DEVICE, with ca.pem, identity.pem and identity.key.
    #[arg(long, value_name = "DIR", default_value = "/etc/cutline", value_parser = parse_path)]
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
    // Variables are looked for in arguments, not in the program's path.
    let mut command = vec![quoted(&args.binary.display().to_string()).replace("$$", "$")];
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
            let path = path.display().to_string().replace('%', "%%");
            credentials.push_str(&format!("LoadCredential={file}:{path}\n"));
        }
    }
    let engine = agent.engine.as_deref().unwrap_or(WITHOUT_NEW_CODE[0]);
    let new_code = match WITHOUT_NEW_CODE.contains(&engine) {
        true => "MemoryDenyWriteExecute=yes\n".to_owned(),
        false => format!(
            "# `{}` may make code while it runs: no MemoryDenyWriteExecute.\n",
            one_line(engine)
        ),
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

/// A text for people, in which nothing is a specifier, ends the line or joins it with the next.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('%', "%%").replace('\\', "/")
}

/// A path that a unit can hold.
fn parse_path(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') && !text.chars().any(char::is_control) {
        true => Ok(PathBuf::from(text)),
        false => Err("expected a path from the root, without control characters".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_an_argument_means_something_to_systemd() {
        assert_eq!(quoted("/usr/bin/cutline"), "/usr/bin/cutline");
        assert_eq!(quoted("50% of $HOME \"\\\n"), "\"50%% of $$HOME \\\"\\\\ \"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(one_line("a\n[Service]%n\\"), "a [Service]%%n/");
    }

    #[test]
    fn whatever_a_plan_holds_adds_nothing_to_a_unit() {
        let keys = |name: &str, binary: &str, credentials: &str| {
            let common = Common {
                plan: "plan.json".into(),
                best_split: false,
                device: Vec::new(),
                output: "units".into(),
            };
            let (binary, credentials) = (parse_path(binary)?, parse_path(credentials)?);
            let args = Args { common, agent: AgentArgs { mqtt: None }, binary, credentials };
            let agent = Agent {
                name: "a".to_owned(),
                device: name.to_owned(),
                port: 9001,
                is_local: false,
                replicas: 1,
                engine: Some(name.to_owned()),
                threads: None,
                memory: None,
                predicted: None,
                mqtt: Some("mqtt://host".to_owned()),
            };
            let (_, pieces) = unit(&agent, &args);
            let [cutline_core::split::Piece::Inline(text)] = &pieces[..] else {
                return Err("no text".to_owned());
            };
            let text = String::from_utf8(text.to_vec()).unwrap();
            assert!(text.lines().all(|line| !line.ends_with('\\')), "{text}");
            let ours =
                ["%%", "%d", "%S"].iter().fold(text.clone(), |text, it| text.replace(it, ""));
            assert!(!ours.contains('%'), "{text}");
            let key = |line: &str| line.split_once('=').map_or(line, |(key, _)| key).to_owned();
            Ok(text.lines().filter(|line| !line.starts_with('#')).map(key).collect::<Vec<_>>())
        };
        let plain = keys("a", "/usr/bin/cutline", "/etc/cutline").unwrap();
        let hostile = "x`\nExecStartPre=/bin/sh \r[Service] %n $HOME \\";
        let (binary, credentials) = ("/opt/it's 100% $fine/cutline", "/etc/my %i files");
        assert_eq!(keys(hostile, binary, credentials).unwrap(), plain);
        assert!(keys("a", "/bin/x\nUser=root", "/etc/cutline").is_err());
    }
}
