//! Where spans go: the address of a collector, and whose certificate it may show.

use std::{fmt, path::Path, time::Duration};

use rustls_pki_types::TrustAnchor;
use thiserror::Error;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};

use crate::pki::authorities::{self, AuthoritiesError};

/// The port of OTLP over gRPC, by convention.
const PORT: u16 = 4317;

/// Longest URL.
const MAX_URL: usize = 1024;

/// Time to connect, and for a TLS handshake.
const CONNECT: Duration = Duration::from_secs(3);

/// Time for one batch of spans.
const CALL: Duration = Duration::from_secs(10);

/// A collector of spans.
#[derive(Clone)]
pub struct Collector {
    /// `host:port`.
    place: String,
    /// The authorities that may vouch for it; `None`: in plain text.
    anchors: Option<Vec<TrustAnchor<'static>>>,
}

/// Why there is no collector at an address. The address is not part of the text: it may hold a password.
#[derive(Debug, Error)]
pub enum CollectorError {
    /// The URL is none of a collector's.
    #[error(
        "the collector's URL {0}; expected http://HOST:PORT or https://HOST:PORT of a collector that \
         speaks OTLP over gRPC, such as http://127.0.0.1:{PORT}"
    )]
    Url(&'static str),
    /// An authority for a connection that is not encrypted.
    #[error("a file of authorities is for a collector at https://; this one is dialled at http://")]
    Plaintext,
    /// Nobody can vouch for it.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    /// The library does not take it.
    #[error("the collector cannot be dialled")]
    Dial(#[source] tonic::transport::Error),
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Collector {
    /// The collector at `http://host:port` or `https://host:port`, on port 4317 where none is given.
    /// At `https` it has to show a certificate for its host, signed by an authority of the PEM file
    /// `authorities`, or else by one that the system trusts.
    pub fn new(url: &str, authorities: Option<&Path>) -> Result<Self, CollectorError> {
        let (encrypted, place) = parse(url).map_err(CollectorError::Url)?;
        let anchors = match (encrypted, authorities) {
            (false, Some(_)) => return Err(CollectorError::Plaintext),
            (false, None) => None,
            (true, path) => Some(authorities::authorities(path)?),
        };
        Ok(Self { place, anchors })
    }

    /// `host:port`, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A connection that is made when it is first used, and again when it broke.
    pub(super) fn dial(self) -> Result<Channel, CollectorError> {
        let scheme = if self.anchors.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.place));
        let mut endpoint = endpoint.map_err(CollectorError::Dial)?;
        if let Some(anchors) = self.anchors {
            let tls = ClientTlsConfig::new().trust_anchors(anchors).timeout(CONNECT);
            endpoint = endpoint.tls_config(tls).map_err(CollectorError::Dial)?;
        }
        Ok(endpoint.connect_timeout(CONNECT).timeout(CALL).connect_lazy())
    }
}

/// Whether it is dialled by TLS, and `host:port`; or what is wrong.
fn parse(url: &str) -> Result<(bool, String), &'static str> {
    if url.len() > MAX_URL {
        return Err("is too long");
    }
    let uri: Uri = url.parse().map_err(|_| "cannot be read")?;
    let encrypted = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("does not begin with http:// or https://"),
    };
    let authority = uri.authority().ok_or("names no host")?.as_str();
    if authority.contains('@') {
        return Err("holds a user name or a password, which are not sent");
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("names no host")?;
    let port = match authority.strip_prefix(host) {
        Some("") => PORT,
        Some(port) => {
            let port = port.strip_prefix(':').and_then(|port| port.parse().ok());
            port.filter(|&port| port > 0).ok_or("has a port that is none")?
        }
        None => return Err("cannot be read"),
    };
    // That of OTLP over HTTP, mostly.
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
        return Err("has a path, which OTLP over gRPC has not");
    }
    Ok((encrypted, format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_has_a_scheme_a_host_and_perhaps_a_port() {
        for (url, encrypted, place) in [
            ("http://127.0.0.1:4317", false, "127.0.0.1:4317"),
            ("http://127.0.0.1:4317/", false, "127.0.0.1:4317"),
            ("http://collector", false, "collector:4317"),
            ("https://collector.example.org", true, "collector.example.org:4317"),
            ("https://collector.example.org:443", true, "collector.example.org:443"),
            ("http://[::1]:9", false, "[::1]:9"),
            ("http://[::1]", false, "[::1]:4317"),
        ] {
            assert_eq!(parse(url), Ok((encrypted, place.to_owned())), "{url}");
        }
        let mut others = Vec::new();
        for (url, words) in [
            ("", "cannot be read"),
            ("collector:4317", "http:// or https://"),
            ("127.0.0.1:4317", "http:// or https://"),
            ("grpc://collector:4317", "http:// or https://"),
            ("/v1/traces", "http:// or https://"),
            ("http://", "cannot be read"),
            ("http://:4317", "no host"),
            ("http://collector:", "port"),
            ("http://collector:0", "port"),
            ("http://collector:65536", "port"),
            ("http://collector:4318/v1/traces", "path"),
            ("http://collector:4317/?x", "path"),
            ("http://collector:4317#x", "path"),
            ("http://a b", "cannot be read"),
        ] {
            let error = Collector::new(url, None).unwrap_err().to_string();
            let as_expected = error.contains(words) && error.contains("http://127.0.0.1:4317");
            others.extend((!as_expected).then_some((url, words, error)));
        }
        assert!(others.is_empty(), "{others:#?}");
        assert!(parse(&format!("http://{}", "x".repeat(2000))).is_err());
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for url in ["http://ada:secret@collector:4317", "https://secret@collector"] {
            let error = Collector::new(url, None).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains("password") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn authorities_are_certificates_for_an_encrypted_connection() {
        let folder = tempfile::tempdir().unwrap();
        let own = crate::pki::Authority::generate().unwrap();
        own.write(folder.path()).unwrap();
        let own = folder.path().join("ca.pem");
        let url = "https://collector";
        assert!(Collector::new(url, Some(&own)).is_ok());
        assert!(matches!(
            Collector::new("http://collector", Some(&own)),
            Err(CollectorError::Plaintext)
        ));
        let absent = Collector::new(url, Some(&folder.path().join("absent"))).unwrap_err();
        assert!(matches!(absent, CollectorError::Authorities(_)), "{absent}");
    }
}
