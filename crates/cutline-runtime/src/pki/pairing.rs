//! Bringing an agent its credentials under a code that a person carries across.
//!
//! ```text
//! agent:  code = random, shown once        controller:  code typed in
//!         authority of the code                         authority of the code
//!         serve Adopt under it       ◀── mutual TLS ──  call Adopt with the agent's credentials
//!         keep them, end                                signed by the fleet's own authority
//! ```
//!
//! Both sides make the same temporary [`Authority`] out of the code, and each shows a certificate
//! that it signed: ordinary mutual TLS then proves to each that the other knows the code, and
//! nobody between them can take part. The code has 100 bits, so that trying codes against a
//! recorded or an own connection is hopeless and no slow derivation is needed; it serves once, for
//! [`OPEN`] at most.

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    str::FromStr,
    sync::Mutex,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, server::Server},
};

use super::{Authority, Credentials, PkiError, Role};
use crate::{
    connections::{self, Connections, HANDSHAKE, MOST_WHILE_PAIRING},
    wire::control::{
        AdoptRequest, AdoptResponse,
        pairing_client::PairingClient,
        pairing_server::{Pairing, PairingServer},
    },
};

/// How long an agent waits to be paired.
pub const OPEN: Duration = Duration::from_secs(15 * 60);

/// Time for the controller's one call.
const CALL: Duration = Duration::from_secs(15);

/// Largest message: two certificates and a key.
const MAX_MESSAGE: usize = 64 << 10;

/// Digits of a code: those of Crockford's base 32, which no two people read differently.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Digits in a code, of five bits each.
const LENGTH: usize = 20;

/// A secret that both sides of a pairing know; written in four groups of five digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingCode([u8; LENGTH]);

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode")
    }
}

impl fmt::Display for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, digit) in self.0.iter().enumerate() {
            if index > 0 && index % 5 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", char::from(*digit))?;
        }
        Ok(())
    }
}

impl FromStr for PairingCode {
    type Err = String;

    /// Reads a code as a person types it: in any case, with or without the dashes, O for 0 and I or
    /// L for 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("a pairing code has {LENGTH} digits, such as 7K2QD-M9T4X-...");
        let mut digits = [0; LENGTH];
        let mut typed = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
        for digit in &mut digits {
            let upper = match typed.next().ok_or_else(wrong)?.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let known = DIGITS.iter().find(|known| char::from(**known) == upper);
            *digit = *known.ok_or_else(|| format!("`{upper}` is in no pairing code"))?;
        }
        match typed.next() {
            None => Ok(Self(digits)),
            Some(_) => Err(wrong()),
        }
    }
}

impl PairingCode {
    /// A new code from the system's random numbers.
    pub fn generate() -> Result<Self, PkiError> {
        let mut digits = [0; LENGTH];
        getrandom::fill(&mut digits).map_err(|error| PkiError::Random(error.to_string()))?;
        for digit in &mut digits {
            *digit = DIGITS[usize::from(*digit % 32)];
        }
        Ok(Self(digits))
    }

    fn authority(&self) -> Result<Authority, PkiError> {
        let mut hash = Sha256::new();
        hash.update(b"cutline pairing 1\0");
        hash.update(self.0);
        Authority::of_seed(&hash.finalize().into())
    }
}

/// A port at which an agent waits for its credentials.
pub struct Waiting {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    code: PairingCode,
}

impl Waiting {
    /// Takes the port. Must run within a tokio runtime.
    pub fn bind(listen: SocketAddr) -> Result<Self, PkiError> {
        let failed = |error| PkiError::Pairing(format!("cannot listen on {listen}: {error}"));
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, code: PairingCode::generate()? })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What to type in at the controller.
    pub fn code(&self) -> &PairingCode {
        &self.code
    }

    /// Waits for the controller; the credentials are those of an agent. The controller's call has
    /// been answered and the port is free again when this returns.
    pub async fn paired(self, open: Duration) -> Result<Credentials, PkiError> {
        let authority = self.code.authority()?;
        let tls = authority.issue("pairing agent", Role::Agent, &[])?.server_tls();
        let tls = tls.timeout(HANDSHAKE);
        let incoming = connections::incoming(self.listener, Connections::new(MOST_WHILE_PAIRING));
        let (adopted, adoption) = oneshot::channel();
        let service = PairingServer::new(Once { adopted: Mutex::new(Some(adopted)) })
            .max_decoding_message_size(MAX_MESSAGE);
        let failed = |error: tonic::transport::Error| PkiError::Pairing(error.to_string());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::builder()
            .tls_config(tls)
            .map_err(failed)?
            .add_service(service)
            .serve_with_incoming_shutdown(Box::pin(incoming), async {
                let _ = stopped.await;
            });
        let server = tokio::spawn(server);
        let outcome = tokio::time::timeout(open, adoption).await;
        let _ = stop.send(());
        // Open connections end with the grace; a stranger's half-made one does not hold us up.
        let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
        match outcome {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(_)) => Err(PkiError::Pairing("the pairing server failed".to_owned())),
            Err(_) => Err(PkiError::Pairing(format!(
                "nobody paired this agent within {} minutes; start it again for a new code",
                open.as_secs() / 60
            ))),
        }
    }
}

/// Answers one adoption.
struct Once {
    adopted: Mutex<Option<oneshot::Sender<Credentials>>>,
}

#[tonic::async_trait]
impl Pairing for Once {
    async fn adopt(
        &self,
        request: Request<AdoptRequest>,
    ) -> Result<Response<AdoptResponse>, Status> {
        let AdoptRequest { authority, certificate, key } = request.into_inner();
        let credentials = Credentials { authority, certificate, key };
        credentials
            .check("what the controller sent")
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !credentials.has(Role::Agent) {
            return Err(Status::invalid_argument("these are not the credentials of an agent"));
        }
        let waiting = self.adopted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let waiting = waiting.ok_or_else(|| Status::failed_precondition("it is paired already"))?;
        let gone = |_| Status::unavailable("the agent has stopped waiting");
        waiting.send(credentials).map_err(gone)?;
        Ok(Response::new(AdoptResponse {}))
    }
}

/// Gives the agent at `address` (`host:port`) its credentials.
pub async fn adopt(
    address: &str,
    code: &PairingCode,
    credentials: &Credentials,
) -> Result<(), PkiError> {
    let failed = |cause: String| {
        PkiError::Pairing(format!(
            "the agent at {address} was not paired: {cause}; see that it waits (cutline agent \
             --pair) and that the code is the one it shows"
        ))
    };
    let tls = code.authority()?.issue("pairing controller", Role::Controller, &[])?.client_tls();
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.connect_timeout(CALL).timeout(CALL).tls_config(tls))
        .map_err(|error| failed(crate::stage::chain(&error)))?;
    let channel = endpoint.connect().await.map_err(|e| failed(crate::stage::chain(&e)))?;
    let request = AdoptRequest {
        authority: credentials.authority.clone(),
        certificate: credentials.certificate.clone(),
        key: credentials.key.clone(),
    };
    let answer = PairingClient::new(channel).adopt(request).await;
    answer.map(drop).map_err(|status| failed(status.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code: PairingCode = "01ABC-DEFGH-JKMNP-QRSTV".parse().unwrap();
        assert_eq!(code.to_string(), "01ABC-DEFGH-JKMNP-QRSTV");
        for same in ["01abcdefghjkmnpqrstv", "oLabc defgh jkmnp qrstv", "OI-ABCDEFGHJKMNPQRSTV"] {
            assert_eq!(same.parse(), Ok(code.clone()), "{same}");
        }
        for bad in [
            "",
            "01ABC",
            "01ABC-DEFGH-JKMNP-QRST!",
            "01ABC-DEFGH-JKMNP-QRSTU",
            "01ABC-DEFGH-JKMNP-QRSTVW",
        ] {
            assert!(bad.parse::<PairingCode>().is_err(), "{bad}");
        }
        let (one, other) = (PairingCode::generate().unwrap(), PairingCode::generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one));
    }
}
