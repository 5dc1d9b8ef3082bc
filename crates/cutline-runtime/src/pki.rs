//! Who may talk to whom: an authority, the certificates that it signs, and the roles in them.
//!
//! Off the loopback address agents and their clients speak mutual TLS only. One [`Authority`], a
//! private key that stays in its controller's folder, signs a certificate for every party; what a
//! party may do is its [`Role`], and the role is a name in its certificate, so that whoever accepts
//! a connection needs no list of parties. [`Credentials`] are what one party needs: the authority's
//! certificate, its own, and its private key. [`pairing`] brings an agent its credentials over the
//! network, under a code that a person carries across.
//!
//! The names end in `.internal`, the domain that is reserved for private use, and stand for a role,
//! not a place: a device may change its address without a new certificate. Certificates are P-256,
//! which every TLS library knows; the authority of a pairing is Ed25519, whose key any 32 bytes are.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use webpki::{
    EndEntityCert, KeyUsage, anchor_from_trusted_cert,
    ring::{ECDSA_P256_SHA256, ED25519},
};

pub mod authorities;
pub mod pairing;

/// File of the authority's certificate, in every folder of credentials.
const AUTHORITY_CERTIFICATE: &str = "ca.pem";

/// File of the authority's private key, in the controller's folder only.
const AUTHORITY_KEY: &str = "ca.key";

/// File of a party's certificate.
const CERTIFICATE: &str = "identity.pem";

/// File of a party's private key.
const KEY: &str = "identity.key";

/// Largest file of these, in bytes; what is larger is none.
const MAX_FILE: u64 = 64 << 10;

/// How far clocks may be apart when a certificate is new.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// How long an authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long a party's certificate is valid.
const LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a party may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything: deploy, remove, profile, measure links, infer.
    Controller,
    /// Be a device: serve, and hand frames on to other agents.
    Agent,
    /// Infer, on what others have deployed.
    Client,
}

impl Role {
    /// The name in a certificate that stands for the role.
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Controller => "controller.cutline.internal",
            Self::Agent => "agent.cutline.internal",
            Self::Client => "client.cutline.internal",
        }
    }

    /// Whether a certificate, already verified, has the role.
    pub(crate) fn is_in(self, certificate: &CertificateDer<'_>) -> bool {
        let name = ServerName::try_from(self.dns_name());
        let certificate = EndEntityCert::try_from(certificate);
        let (Ok(name), Ok(certificate)) = (name, certificate) else { return false };
        certificate.verify_is_valid_for_subject_name(&name).is_ok()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Client => "client",
        })
    }
}

/// Why keys and certificates could not be made, read or used.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file cannot be read.
    #[error("cannot read `{}`; make credentials with `cutline pki`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file is there that must not be replaced.
    #[error(
        "`{}` exists; remove it to make a new one, after which the old one's parties are strangers",
        .0.display()
    )]
    Exists(PathBuf),
    /// A file is not what its name says.
    #[error("{what} is not valid: {cause}")]
    Invalid {
        /// The file or message.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The credentials are for another purpose.
    #[error("the credentials are not those of {}; ask the controller: cutline pki issue", article(*.wanted))]
    Role {
        /// The role that is needed.
        wanted: Role,
    },
    /// The library could not make a key or a certificate.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// The pairing did not come about.
    #[error("{0}")]
    Pairing(String),
}

fn article(role: Role) -> &'static str {
    match role {
        Role::Controller => "a controller",
        Role::Agent => "an agent",
        Role::Client => "a client",
    }
}

/// The key that signs the certificates of a fleet.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with a random key.
    pub fn generate() -> Result<Self, PkiError> {
        Self::of(KeyPair::generate()?)
    }

    /// The authority whose key is this seed: whoever knows the seed has it.
    fn of_seed(seed: &[u8; 32]) -> Result<Self, PkiError> {
        // PKCS#8 of an Ed25519 key is this head and the seed (RFC 8410).
        let mut pkcs8 =
            b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        pkcs8.extend_from_slice(seed);
        Self::of(KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ED25519)?)
    }

    /// The authority of a key. Its name is made from the key, so that the key alone is enough to
    /// sign in the same name again.
    fn of(key: KeyPair) -> Result<Self, PkiError> {
        let mut params = params("Cutline authority", AUTHORITY_LIFE);
        let digest = Sha256::digest(key.public_key_raw());
        let id: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::OrganizationName, id);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Reads the authority of a controller's folder.
    pub fn read(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join(AUTHORITY_KEY);
        let invalid = |cause: String| invalid(&path, cause);
        let key = KeyPair::from_pem(&read(&path)?).map_err(|error| invalid(error.to_string()))?;
        let certificate = read(&folder.join(AUTHORITY_CERTIFICATE))?;
        let other = || invalid(format!("it is not the key of {AUTHORITY_CERTIFICATE}"));
        let known = parse("the authority's certificate", &certificate)?;
        // The same name and key, whatever the dates.
        let own = Self::of(key)?;
        let ours = parse("the authority's certificate", &own.certificate)?;
        let anchor = |der: &CertificateDer<'_>| anchor_from_trusted_cert(der).map(|a| a.to_owned());
        match (anchor(&known), anchor(&ours)) {
            (Ok(known), Ok(ours)) if known == ours => Ok(Self { certificate, ..own }),
            _ => Err(other()),
        }
    }

    /// Writes key and certificate into a folder of the user's own; replaces nothing.
    pub fn write(&self, folder: &Path) -> Result<(), PkiError> {
        write_new(folder, AUTHORITY_KEY, &self.issuer.key().serialize_pem(), true)?;
        write_new(folder, AUTHORITY_CERTIFICATE, &self.certificate, false)
    }

    /// Credentials of a party. `hosts` are further names and addresses at which clients that check
    /// such names will find it; our own clients do not need them.
    pub fn issue(&self, name: &str, role: Role, hosts: &[String]) -> Result<Credentials, PkiError> {
        let mut params = params(name, LIFE);
        let names = std::iter::once(role.dns_name().to_owned()).chain(hosts.iter().cloned());
        params.subject_alt_names =
            CertificateParams::new(names.collect::<Vec<_>>())?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match role {
            Role::Controller | Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            // It hands frames on: it is the next agent's client.
            Role::Agent => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        };
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Credentials {
            authority: self.certificate.clone(),
            certificate,
            key: key.serialize_pem(),
        })
    }
}

/// What one party shows to others, and how it knows them; the fields are PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    authority: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is for no log.
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Where a user's credentials are unless told otherwise.
    pub fn default_folder() -> PathBuf {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        config.unwrap_or_default().join("cutline").join("pki")
    }

    /// Whether a folder has credentials, whole or not.
    pub fn are_in(folder: &Path) -> bool {
        folder.join(CERTIFICATE).exists() || folder.join(KEY).exists()
    }

    /// Reads a folder, and checks that the certificate is valid now, is the authority's, and fits
    /// the key.
    pub fn read(folder: &Path) -> Result<Self, PkiError> {
        let file = |name| read(&folder.join(name));
        let credentials = Self {
            authority: file(AUTHORITY_CERTIFICATE)?,
            certificate: file(CERTIFICATE)?,
            key: file(KEY)?,
        };
        let place = format!("the identity in `{}`", folder.display());
        credentials.check(&place).map(|()| credentials)
    }

    /// Writes a folder that only its owner can read the key of; replaces nothing.
    pub fn write(&self, folder: &Path) -> Result<(), PkiError> {
        if !folder.join(AUTHORITY_KEY).exists() {
            write_new(folder, AUTHORITY_CERTIFICATE, &self.authority, false)?;
        }
        write_new(folder, KEY, &self.key, true)?;
        write_new(folder, CERTIFICATE, &self.certificate, false)
    }

    /// Whether they have a role.
    pub fn has(&self, role: Role) -> bool {
        parse("the certificate", &self.certificate).is_ok_and(|der| role.is_in(&der))
    }

    /// SHA-256 of the certificate, for comparing by eye.
    pub fn fingerprint(&self) -> Result<String, PkiError> {
        let der = parse("the certificate", &self.certificate)?;
        let digest = Sha256::digest(&der);
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
    }

    fn check(&self, place: &str) -> Result<(), PkiError> {
        let wrong = |cause: String| PkiError::Invalid { what: place.to_owned(), cause };
        let authority = parse("the authority's certificate", &self.authority)?;
        let certificate = parse("the certificate", &self.certificate)?;
        let anchor = anchor_from_trusted_cert(&authority).map_err(|e| wrong(e.to_string()))?;
        let leaf = EndEntityCert::try_from(&certificate).map_err(|e| wrong(e.to_string()))?;
        let usage = match Role::Agent.is_in(&certificate) {
            true => KeyUsage::server_auth(),
            false => KeyUsage::client_auth(),
        };
        let (algorithms, anchors) = ([ECDSA_P256_SHA256, ED25519], [anchor]);
        leaf.verify_for_usage(&algorithms, &anchors, &[], UnixTime::now(), usage, None, None)
            .map_err(|error| wrong(explain(&error)))?;
        let key = KeyPair::from_pem(&self.key).map_err(|error| wrong(error.to_string()))?;
        let public = leaf.subject_public_key_info();
        // The key's own bytes end the structure that says which kind of key it is.
        match public.ends_with(key.public_key_raw()) {
            true => Ok(()),
            false => Err(wrong("key and certificate do not belong together".to_owned())),
        }
    }

    /// How to call agents.
    pub(crate) fn client_tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .domain_name(Role::Agent.dns_name())
            .timeout(HANDSHAKE)
    }

    /// How to be one.
    pub(crate) fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .client_ca_root(Certificate::from_pem(&self.authority))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .timeout(HANDSHAKE)
    }
}

fn params(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + (now + life);
    params
}

/// What is wrong with a certificate, and what to do.
fn explain(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { .. } => {
            "it has expired (or this machine's clock is wrong); issue a new one".to_owned()
        }
        webpki::Error::CertNotValidYet { .. } => {
            "it is not valid yet: this machine's clock is behind".to_owned()
        }
        webpki::Error::UnknownIssuer => {
            format!("it was not signed by the authority in {AUTHORITY_CERTIFICATE}")
        }
        other => other.to_string(),
    }
}

fn invalid(path: &Path, cause: String) -> PkiError {
    PkiError::Invalid { what: format!("`{}`", path.display()), cause }
}

fn parse(what: &str, pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| PkiError::Invalid { what: what.to_owned(), cause: error.to_string() })
}

fn read(path: &Path) -> Result<String, PkiError> {
    let failed = |source| PkiError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a file that was not there, beside its place first; a secret one for its owner only.
fn write_new(folder: &Path, name: &str, text: &str, secret: bool) -> Result<(), PkiError> {
    let path = folder.join(name);
    let failed = |source| PkiError::Write { path: path.clone(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    // A temporary file is its owner's alone from the first byte.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    #[cfg(unix)]
    if !secret {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    match file.persist_noclobber(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(PkiError::Exists(path))
        }
        Err(error) => Err(failed(error.error)),
    }
}
