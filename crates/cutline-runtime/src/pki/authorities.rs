//! The authorities that vouch for servers which are no agents: those of a file, or the system's.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use thiserror::Error;
use webpki::anchor_from_trusted_cert;

/// Largest file of certificates: those of whole systems have a quarter of a megabyte.
const MAX_FILE: u64 = 4 << 20;

/// Where systems keep the authorities that they trust, in one file.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there are no authorities.
#[derive(Debug, Error)]
pub enum AuthoritiesError {
    /// A file cannot be read.
    #[error("cannot read the authorities in `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file holds none.
    #[error(
        "`{}` holds no certificate of an authority; expected a PEM file with BEGIN CERTIFICATE in it",
        .0.display()
    )]
    Empty(PathBuf),
    /// The system has none in a place that is known.
    #[error(
        "this system's list of authorities was not found, so that no server can be known by its \
         certificate; name a PEM file with those that you trust"
    )]
    NoSystem,
}

/// The authorities of the PEM file, or else those that the system trusts.
pub(crate) fn authorities(
    path: Option<&Path>,
) -> Result<Vec<TrustAnchor<'static>>, AuthoritiesError> {
    match path {
        Some(path) => read(path),
        None => system(),
    }
}

/// The authorities of a PEM file.
fn read(path: &Path) -> Result<Vec<TrustAnchor<'static>>, AuthoritiesError> {
    let failed = |source| AuthoritiesError::Read { path: path.to_owned(), source };
    let mut pem = Vec::new();
    fs::File::open(path).map_err(failed)?.take(MAX_FILE).read_to_end(&mut pem).map_err(failed)?;
    // One that cannot be used vouches for nobody; the others do.
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let anchor =
        |der: CertificateDer<'_>| anchor_from_trusted_cert(&der).ok().map(|a| a.to_owned());
    let anchors: Vec<_> = certificates.filter_map(anchor).collect();
    match anchors.is_empty() {
        true => Err(AuthoritiesError::Empty(path.to_owned())),
        false => Ok(anchors),
    }
}

/// Those of the file that the user's environment names, or else of the system's.
fn system() -> Result<Vec<TrustAnchor<'static>>, AuthoritiesError> {
    if let Some(named) = std::env::var_os("SSL_CERT_FILE") {
        return read(Path::new(&named));
    }
    let there = SYSTEM.iter().map(Path::new).find(|path| path.is_file());
    there.ok_or(AuthoritiesError::NoSystem).and_then(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_the_certificates_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        crate::pki::Authority::generate().unwrap().write(folder.path()).unwrap();
        let own = folder.path().join("ca.pem");
        let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for path in [file("empty", ""), file("text", "hello"), file("rubbish", rubbish)] {
            let error = authorities(Some(&path)).unwrap_err();
            assert!(matches!(error, AuthoritiesError::Empty(_)), "{error}");
        }
        let absent = authorities(Some(&folder.path().join("absent"))).unwrap_err();
        assert!(matches!(absent, AuthoritiesError::Read { .. }), "{absent}");
        let mixed = format!("{rubbish}{}", fs::read_to_string(&own).unwrap());
        assert_eq!(authorities(Some(&file("mixed", &mixed))).unwrap().len(), 1);
    }
}
