//! Which MQTT broker a command talks to: the options that name it.

use std::{env, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::bail;
use cutline_core::units::{Bytes, Nanos};
use cutline_runtime::mqtt::{Broker, MqttOptions, Password, Reach, Version, check_prefix};

use crate::output::Output;

/// Holds the password where no file does.
const PASSWORD: &str = "CUTLINE_MQTT_PASSWORD";

/// Shortest time between two messages of metrics.
const SHORTEST: Nanos = Nanos(1_000_000_000);

/// A broker, where one is wanted.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "MQTT")]
pub(crate) struct MqttArgs {
    /// Publish to the MQTT broker at mqtt://HOST:PORT or mqtts://HOST:PORT (TLS).
    // The value is checked later: what is wrong with it must be said without repeating a password in it.
    #[arg(long, value_name = "URL")]
    mqtt: Option<String>,
    /// Version of the protocol: 3.1.1 or 5.
    #[arg(long, value_name = "VERSION", default_value = "3.1.1", requires = "mqtt")]
    mqtt_version: Version,
    /// What all topics begin with [default: cutline/DEVICE; for a run cutline/SOURCE/run].
    #[arg(long, value_name = "PREFIX", requires = "mqtt")]
    mqtt_topic: Option<String>,
    /// Name of this client to the broker, different from all others' [default: a random one].
    #[arg(long, value_name = "ID", requires = "mqtt")]
    mqtt_client_id: Option<String>,
    /// Name to log in with; its password comes from the file, or the environment variable
    /// CUTLINE_MQTT_PASSWORD.
    #[arg(long, value_name = "NAME", requires = "mqtt")]
    mqtt_user: Option<String>,
    /// File whose first line is the password.
    #[arg(long, value_name = "FILE", requires = "mqtt_user")]
    mqtt_password_file: Option<PathBuf>,
    /// PEM file of the authorities that vouch for a broker at mqtts:// [default: the system's].
    #[arg(long, value_name = "FILE", requires = "mqtt")]
    mqtt_ca: Option<PathBuf>,
    /// PEM file of this client's certificate, such as identity.pem of a folder of `cutline pki`.
    #[arg(long, value_name = "FILE", requires_all = ["mqtt", "mqtt_key"])]
    mqtt_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    #[arg(long, value_name = "FILE", requires = "mqtt_cert")]
    mqtt_key: Option<PathBuf>,
    /// Take orders from PREFIX/control: whoever the broker lets publish there may give them.
    #[arg(long, requires = "mqtt")]
    mqtt_control: bool,
    /// Publish metrics so often.
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "mqtt", value_parser = parse_every)]
    mqtt_metrics: Nanos,
}

impl MqttArgs {
    /// How to talk to the broker, which is not dialled yet; `prefix` makes the topics of one who names
    /// none, `room` is that for results.
    pub(crate) fn options(
        &self,
        prefix: impl FnOnce() -> String,
        room: Bytes,
        output: &Output,
    ) -> anyhow::Result<Option<MqttOptions>> {
        let Some(url) = &self.mqtt else { return Ok(None) };
        let prefix = self.mqtt_topic.clone().unwrap_or_else(prefix);
        check_prefix(&prefix)?;
        let certificate = match (&self.mqtt_cert, &self.mqtt_key) {
            (Some(certificate), Some(key)) => Some([certificate.as_path(), key.as_path()]),
            _ => None,
        };
        let client_id = match &self.mqtt_client_id {
            Some(id) => id.clone(),
            None => format!("cutline-{}", random()?),
        };
        let broker = Broker::new(&Reach {
            url,
            version: self.mqtt_version,
            client_id,
            user: self.user()?,
            authorities: self.mqtt_ca.as_deref(),
            certificate,
        })?;
        let output = *output;
        Ok(Some(MqttOptions {
            broker,
            prefix,
            room: usize::try_from(room.0).unwrap_or(usize::MAX),
            control: self.mqtt_control,
            remark: Arc::new(move |text| output.note(text)),
        }))
    }

    /// Time between two messages of metrics.
    pub(crate) fn every(&self) -> Duration {
        Duration::from_nanos(self.mqtt_metrics.0)
    }

    fn user(&self) -> anyhow::Result<Option<(String, Option<Password>)>> {
        let from_environment = env::var(PASSWORD).ok().filter(|text| !text.is_empty());
        let password = match (&self.mqtt_password_file, from_environment) {
            (Some(path), _) => Some(Password::read(path)?),
            (None, text) => text.map(Password::new),
        };
        match &self.mqtt_user {
            Some(user) => Ok(Some((user.clone(), password))),
            None if password.is_some() => {
                bail!("{PASSWORD} is set, but nobody is to log in; name the user with --mqtt-user")
            }
            None => Ok(None),
        }
    }
}

/// Sixteen random hex digits.
pub(crate) fn random() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 8];
    use std::io::Read;
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// This machine's name, as part of a topic.
pub(crate) fn host() -> String {
    let read = |path| fs::read_to_string(path).ok();
    let name = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname"));
    topic_level(name.as_deref().unwrap_or_default().trim())
}

/// A name as one level of a topic.
pub(crate) fn topic_level(name: &str) -> String {
    let level = |c: char| if matches!(c, '/' | '+' | '#') || c.is_control() { '-' } else { c };
    let level: String = name.chars().map(level).collect();
    if level.is_empty() { "device".to_owned() } else { level }
}

fn parse_every(text: &str) -> Result<Nanos, String> {
    match text.parse::<Nanos>().map_err(|error| error.to_string())? {
        time if time < SHORTEST => Err(format!("at least {SHORTEST}")),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_level_of_a_topic() {
        for (name, level) in [("pi", "pi"), ("a/b+c#", "a-b-c-"), ("", "device"), ("ü\n", "ü-")] {
            assert_eq!(topic_level(name), level);
            assert!(check_prefix(&format!("cutline/{level}")).is_ok());
        }
        assert!(!host().is_empty());
    }

    #[test]
    fn random_names_differ() {
        let [one, other] = [random().unwrap(), random().unwrap()];
        assert!(one.len() == 16 && one != other);
    }
}
