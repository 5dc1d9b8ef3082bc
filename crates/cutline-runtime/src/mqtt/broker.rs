//! Which broker, and how it is talked to: its address, who we are to it, whose certificate it may show.

use std::{
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use rumqttc::tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use thiserror::Error;

use crate::pki::authorities::{AuthoritiesError, authorities};

/// Ports of MQTT and of MQTT over TLS, as registered.
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;

/// Longest URL, name of a user, identifier of a client and prefix of topics, in bytes.
const MAX_TEXT: usize = 1024;

/// Largest file of a password, a certificate or a key, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// Which version of the protocol is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, which every broker speaks.
    #[default]
    V3,
    /// MQTT 5, whose broker says what it refuses, and whose orders say where their answers go.
    V5,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "3.1.1" | "3" | "4" => Ok(Self::V3),
            "5" | "5.0" => Ok(Self::V5),
            _ => Err("expected 3.1.1 or 5".to_owned()),
        }
    }
}

/// A broker, and who this client is to it.
#[derive(Clone)]
pub struct Broker {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) login: Option<(String, String)>,
}

/// How to reach a broker, as users say it.
#[derive(Clone, Debug, Default)]
pub struct Reach<'a> {
    /// `mqtt://host:port` or `mqtts://host:port`.
    pub url: &'a str,
    /// Version of the protocol.
    pub version: Version,
    /// Name of this client to the broker; two of one name put each other out.
    pub client_id: String,
    /// Name to log in with, and its password where it has one.
    pub user: Option<(String, Option<Password>)>,
    /// PEM file of the authorities that vouch for the broker; absent: the system's.
    pub authorities: Option<&'a Path>,
    /// PEM files of this client's certificate and key.
    pub certificate: Option<[&'a Path; 2]>,
}

/// A password, which is in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("place", &self.place()).finish_non_exhaustive()
    }
}

/// Why a broker cannot be talked to. The address is not part of the text: it may hold a password.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The URL is none of a broker's.
    #[error(
        "the broker's URL {0}; expected mqtt://HOST:PORT or mqtts://HOST:PORT, such as \
         mqtt://127.0.0.1:{PORT}"
    )]
    Url(&'static str),
    /// Certificates for a connection that is not encrypted.
    #[error("certificates are for a broker at mqtts://; this one is dialled at mqtt://")]
    Plaintext,
    /// A name cannot be used.
    #[error("{what} {wrong}")]
    Name {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {what} in `{}`", path.display())]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("`{}` holds no {what}; expected a PEM file", path.display())]
    NotPem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Nobody can vouch for the broker.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    /// Certificate and key cannot be used together.
    #[error("this client's certificate and key cannot be used")]
    Tls(#[from] rustls::Error),
}

impl Password {
    /// The first line of a file.
    pub fn read(path: &Path) -> Result<Self, BrokerError> {
        let text = read("the password", path)?;
        let text = String::from_utf8_lossy(&text);
        Ok(Self(text.lines().next().unwrap_or_default().to_owned()))
    }

    /// A text that is one, e.g. of the environment.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl Broker {
    /// A broker that can be dialled; whether it is there is found out later.
    pub fn new(reach: &Reach) -> Result<Self, BrokerError> {
        let (encrypted, host, port) = parse(reach.url).map_err(BrokerError::Url)?;
        check("the client's identifier", &reach.client_id)?;
        if let Some((user, _)) = &reach.user {
            check("the user's name", user)?;
        }
        let certificates = reach.authorities.is_some() || reach.certificate.is_some();
        let tls = match encrypted {
            true => Some(Arc::new(tls(reach)?)),
            false if certificates => return Err(BrokerError::Plaintext),
            false => None,
        };
        let login = reach.user.clone().map(|(user, password)| {
            (user, password.map_or_else(String::new, |Password(password)| password))
        });
        let (version, client_id) = (reach.version, reach.client_id.clone());
        Ok(Self { host, port, tls, version, client_id, login })
    }

    /// `host:port`, for people.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Checks a broker's URL.
pub fn check_url(url: &str) -> Result<(), BrokerError> {
    parse(url).map(drop).map_err(BrokerError::Url)
}

/// Checks a prefix of topics: not empty, no wildcards, no slash at its ends.
pub fn check_prefix(prefix: &str) -> Result<(), BrokerError> {
    let what = "the topic's prefix";
    check(what, prefix)?;
    let wrong = |wrong| Err(BrokerError::Name { what, wrong });
    match prefix {
        _ if prefix.contains(['+', '#']) => wrong("has a wildcard in it"),
        _ if prefix.starts_with('/') || prefix.ends_with('/') => wrong("has a slash at its end"),
        _ if prefix.starts_with('$') => wrong("begins with $, which is the broker's own"),
        _ => Ok(()),
    }
}

fn check(what: &'static str, text: &str) -> Result<(), BrokerError> {
    let wrong = |wrong| Err(BrokerError::Name { what, wrong });
    match text {
        "" => wrong("is empty"),
        _ if text.len() > MAX_TEXT => wrong("is too long"),
        _ if text.chars().any(char::is_control) => wrong("has a control character in it"),
        _ => Ok(()),
    }
}

/// Whether it is dialled by TLS, the host and the port; or what is wrong.
fn parse(url: &str) -> Result<(bool, String, u16), &'static str> {
    if url.len() > MAX_TEXT {
        return Err("is too long");
    }
    let (scheme, rest) = url.split_once("://").ok_or("does not begin with mqtt:// or mqtts://")?;
    let encrypted = match scheme {
        "mqtt" => false,
        "mqtts" => true,
        _ => return Err("does not begin with mqtt:// or mqtts://"),
    };
    let place = rest.strip_suffix('/').unwrap_or(rest);
    if place.contains('@') {
        return Err(
            "holds a user name or a password, which every process here could read: give the \
                    name as an option, the password in a file or the environment",
        );
    }
    if place.contains(['/', '?', '#']) {
        return Err("has a path; topics have their own option");
    }
    let (host, port) = match place.rsplit_once(':') {
        // The last colon of an address in brackets is none of a port's.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match bare {
        Some(_) if encrypted => {
            return Err("names a host by a number in brackets, for which no \
                                            certificate is checked: use its name");
        }
        Some(bare) if bare.parse::<std::net::Ipv6Addr>().is_ok() => {}
        None if !host.is_empty() && host.chars().all(known) => {}
        _ => return Err("names no host"),
    }
    let port = match port {
        None if encrypted => TLS_PORT,
        None => PORT,
        Some(port) => {
            port.parse().ok().filter(|&port| port > 0).ok_or("has a port that is none")?
        }
    };
    Ok((encrypted, host.to_owned(), port))
}

/// TLS with the cryptography that the rest of the program uses.
fn tls(reach: &Reach) -> Result<ClientConfig, BrokerError> {
    let roots = RootCertStore { roots: authorities(reach.authorities)? };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some([certificate, key]) = reach.certificate else {
        return Ok(config.with_no_client_auth());
    };
    let what = "certificate";
    let pem = read("the certificate", certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| BrokerError::NotPem { what, path: certificate.to_owned() })?;
    let pem = read("the key", key)?;
    let not_key = |_| BrokerError::NotPem { what: "private key", path: key.to_owned() };
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(not_key)?;
    Ok(config.with_client_auth_cert(chain, key)?)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, BrokerError> {
    let failed = |source| BrokerError::Read { what, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_has_a_scheme_a_host_and_perhaps_a_port() {
        for (url, encrypted, host, port) in [
            ("mqtt://127.0.0.1", false, "127.0.0.1", 1883),
            ("mqtt://broker.example.org:99/", false, "broker.example.org", 99),
            ("mqtts://broker", true, "broker", 8883),
            ("mqtt://[::1]", false, "[::1]", 1883),
            ("mqtt://[::1]:7", false, "[::1]", 7),
        ] {
            assert_eq!(parse(url), Ok((encrypted, host.to_owned(), port)), "{url}");
        }
        for (url, words) in [
            ("", "mqtt://"),
            ("broker:1883", "mqtt://"),
            ("http://broker", "mqtt://"),
            ("mqtt://", "no host"),
            ("mqtt://:1883", "no host"),
            ("mqtt://a b", "no host"),
            ("mqtt://[::1", "no host"),
            ("mqtt://[x]", "no host"),
            ("mqtts://[::1]", "use its name"),
            ("mqtt://broker:", "port"),
            ("mqtt://broker:0", "port"),
            ("mqtt://broker:65536", "port"),
            ("mqtt://broker/topic", "path"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(words), "{url}: {error}");
        }
        assert!(parse(&format!("mqtt://{}", "x".repeat(2000))).is_err());
    }

    #[test]
    fn a_password_is_refused_in_the_url_and_never_repeated() {
        let reach = Reach { url: "mqtt://ada:secret@broker", ..Reach::default() };
        let error = Broker::new(&reach).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        let user = Some(("ada".to_owned(), Some(Password::new("secret".to_owned()))));
        let reach =
            Reach { url: "mqtt://broker", client_id: "x".to_owned(), user, ..Reach::default() };
        let told = format!("{reach:?} {:?}", Broker::new(&reach).unwrap());
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn certificates_are_for_an_encrypted_connection_and_have_to_be_some() {
        let folder = tempfile::tempdir().unwrap();
        let authority = crate::pki::Authority::generate().unwrap();
        authority.write(folder.path()).unwrap();
        let credentials = authority.issue("pi", crate::pki::Role::Client, &[]).unwrap();
        credentials.write(folder.path()).unwrap();
        let at = |name: &str| folder.path().join(name);
        let (ca, own, key) = (at("ca.pem"), at("identity.pem"), at("identity.key"));
        let reach = |url, certificate| Reach {
            url,
            client_id: "x".to_owned(),
            authorities: Some(&ca),
            certificate,
            ..Reach::default()
        };
        assert!(Broker::new(&reach("mqtts://broker", Some([&own, &key]))).is_ok());
        let plain = Broker::new(&reach("mqtt://broker", None)).unwrap_err();
        assert!(matches!(plain, BrokerError::Plaintext), "{plain}");
        let swapped = Broker::new(&reach("mqtts://broker", Some([&key, &own]))).unwrap_err();
        assert!(matches!(swapped, BrokerError::NotPem { .. }), "{swapped}");
    }

    #[test]
    fn a_prefix_is_a_topic_without_wildcards() {
        assert!(check_prefix("cutline/pi").is_ok());
        for bad in ["", "/a", "a/", "a/+/b", "#", "$SYS/a", "a\nb", &"x".repeat(2000)] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
