//! Component recipes of AWS IoT Greengrass v2, in the format of 2020-01-25, as JSON.
//!
//! A recipe names the program as an artifact in a bucket; the core software fetches it by its own
//! role, and runs it as its own user. What a device may have otherwise is configuration, which a
//! deployment can change.

use serde_json::{Map, Value, json};

use super::{Agent, AgentArgs, Common, File, text};

/// Architectures as Greengrass names them, and as the names of our builds do.
const ARCHITECTURES: [(&str, &str); 3] =
    [("amd64", "x86_64"), ("aarch64", "aarch64"), ("arm", "armv7")];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Where the program is: ARTIFACTS/VERSION/ARCHITECTURE/cutline, for x86_64, aarch64 and armv7.
    #[arg(long, value_name = "s3://BUCKET/PREFIX", default_value = "s3://BUCKET_NAME/cutline")]
    artifacts: String,
    /// What the components' names begin with.
    #[arg(long, value_name = "NAME", default_value = "cutline.agent", value_parser = parse_name)]
    component: String,
    /// Folder of a device's credentials on it, with ca.pem, identity.pem and identity.key.
    #[arg(long, value_name = "DIR", default_value = "/etc/cutline", value_parser = parse_folder)]
    credentials: String,
}

/// The recipe of an agent.
pub(super) fn recipe(agent: &Agent, args: &Args) -> File {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("{}.{}", args.component, agent.name);
    let host = if agent.is_local { "127.0.0.1" } else { "0.0.0.0" };
    let mut configuration = json!({ "listen": format!("{host}:{}", agent.port) });
    let mut script = vec!["exec {artifacts:path}/cutline".to_owned()];
    let arguments = agent.arguments("{configuration:/listen}", "{work:path}/store");
    script.extend(arguments.iter().map(|argument| quoted(argument)));
    if !agent.is_local {
        configuration["identity"] = args.credentials.clone().into();
        script.extend(["--identity".to_owned(), quoted("{configuration:/identity}")]);
    }
    let artifacts = args.artifacts.trim_end_matches('/');
    let manifest = |(architecture, build): (&str, &str)| {
        json!({
            "Platform": { "os": "linux", "architecture": architecture },
            "Lifecycle": { "run": { "Script": script.join(" ") } },
            "Artifacts": [{
                "URI": format!("{artifacts}/{version}/{build}/cutline"),
                "Permission": { "Read": "OWNER", "Execute": "OWNER" },
            }],
        })
    };
    let mut recipe = Map::new();
    let mut put = |key: &str, value: Value| drop(recipe.insert(key.to_owned(), value));
    put("RecipeFormatVersion", "2020-01-25".into());
    put("ComponentName", name.clone().into());
    put("ComponentVersion", version.into());
    put("ComponentType", "aws.greengrass.generic".into());
    put("ComponentDescription", format!("Cutline agent of device {}", agent.device).into());
    put("ComponentPublisher", "Cutline".into());
    put("ComponentConfiguration", json!({ "DefaultConfiguration": configuration }));
    put("Manifests", ARCHITECTURES.map(manifest).to_vec().into());
    let recipe = format!("{:#}\n", Value::Object(recipe));
    text(format!("{name}-{version}.json"), recipe)
}

/// A word of a shell's command line; variables of recipes are left as they are.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A name that a component may have, with room for a device's.
fn parse_name(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !text.is_empty() && text.len() <= 80 && text.chars().all(known) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits, `-`, `_` and `.`, 80 at most".to_owned()),
    }
}

/// A folder that can stand between the quotes of a script, where the core software puts it.
fn parse_folder(text: &str) -> Result<String, String> {
    match text.starts_with('/') && !text.contains('\'') && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("expected a path from the root, without single quotes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_to_the_shell() {
        assert_eq!(quoted("--listen"), "--listen");
        assert_eq!(quoted("it's; rm"), "'it'\\''s; rm'");
        assert_eq!(quoted("{work:path}/store"), "'{work:path}/store'");
        assert!(parse_folder("/etc/cutline").is_ok());
        assert!(parse_folder("/etc/'; reboot; '").is_err());
    }
}
