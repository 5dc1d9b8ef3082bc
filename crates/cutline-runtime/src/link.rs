//! A network link in user space: a TCP proxy with a rate, a delay and jitter in each direction.
//!
//! Every chunk of up to 1448 bytes departs when those before it have left the wire at the link's
//! rate, packet headers counted, and arrives a delay later. All connections of one direction share
//! its rate; buffers are bounded, so that a sender feels the link's back-pressure. The link can be
//! changed, cut and mended while it runs, by hand, over a control port or from a schedule.
//!
//! ```text
//! client ──▶ reader ──▶ [ wire: departure clock ] ──▶ delay ──▶ writer ──▶ server      up
//!        ◀── writer ◀── delay ◀── [ wire: departure clock ] ◀── reader ◀──             down
//! ```
//!
//! A proxy hides what TCP itself does on a real path: slow start, loss, connection set-up. It is
//! exact where a test must be exact; a testbed with kernel queues shows the rest.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use cutline_core::units::{BytesPerSec, Nanos};
use serde::Serialize;
use thiserror::Error;

mod control;
mod proxy;
pub mod schedule;
pub mod wire;

pub use schedule::{Step, parse_schedule};
pub use wire::Shape;

/// What link to be.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Address to accept connections on, e.g. `127.0.0.1:9102`; port 0 takes a free one.
    pub listen: String,
    /// Address that every connection leads to.
    pub to: String,
    /// Rate from the accepting side to `to`; `None` is unlimited.
    pub up: Option<BytesPerSec>,
    /// Rate of the way back.
    pub down: Option<BytesPerSec>,
    /// One-way delay of each direction.
    pub delay: Nanos,
    /// Each chunk's delay varies by up to this, both ways; their order is kept.
    pub jitter: Nanos,
    /// Changes that happen by themselves, by time since the start.
    pub schedule: Vec<Step>,
    /// Address of the control port, if one is wanted.
    pub control: Option<String>,
    /// Seed of the jitter.
    pub seed: u64,
}

impl LinkConfig {
    /// An unshaped link.
    pub fn new(listen: impl Into<String>, to: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            to: to.into(),
            up: None,
            down: None,
            delay: Nanos::ZERO,
            jitter: Nanos::ZERO,
            schedule: Vec::new(),
            control: None,
            seed: 0,
        }
    }
}

/// A change of a running link; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New rate up; `Some(None)` is unlimited.
    pub up: Option<Option<BytesPerSec>>,
    /// New rate down.
    pub down: Option<Option<BytesPerSec>>,
    /// New one-way delay.
    pub delay: Option<Nanos>,
    /// New jitter.
    pub jitter: Option<Nanos>,
}

/// A link as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// Rate up in bytes per second; absent: unlimited.
    pub up_bytes_per_s: Option<BytesPerSec>,
    /// Rate down in bytes per second; absent: unlimited.
    pub down_bytes_per_s: Option<BytesPerSec>,
    /// One-way delay.
    pub delay_ns: Nanos,
    /// Jitter.
    pub jitter_ns: Nanos,
    /// Whether the link is cut.
    pub cut: bool,
    /// Open connections.
    pub connections: usize,
    /// Bytes carried up so far.
    pub bytes_up: u64,
    /// Bytes carried down so far.
    pub bytes_down: u64,
}

/// Why a link could not start, or what is wrong with a command to it.
#[derive(Debug, Error)]
pub enum LinkError {
    /// An address could not be listened on.
    #[error("cannot listen on {address}; is another program using it")]
    Listen {
        /// The address.
        address: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The far end has no usable address.
    #[error("`{address}` is not an address to lead to, such as 127.0.0.1:9002")]
    Target {
        /// The address.
        address: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A command or a line of a schedule does not parse.
    #[error("`{text}` is not understood: {reason}")]
    Command {
        /// The text.
        text: String,
        /// What was expected.
        reason: String,
    },
    /// A thread could not be started.
    #[error("the link could not start a thread")]
    Thread(#[source] std::io::Error),
}

/// A running link; it stops when dropped.
#[derive(Debug)]
pub struct LinkHandle {
    shared: Arc<proxy::Shared>,
    local: SocketAddr,
    control: Option<SocketAddr>,
}

/// Namespace of [`Link::start`].
#[derive(Debug)]
pub struct Link;

impl Link {
    /// Starts a link in threads of its own. Nothing is dialled until a connection comes in.
    pub fn start(config: LinkConfig) -> Result<LinkHandle, LinkError> {
        let target = resolve(&config.to)?;
        let listener = listen(&config.listen)?;
        let local = listener.local_addr().map_err(LinkError::Thread)?;
        let shared = Arc::new(proxy::Shared::new(target, &config));
        proxy::spawn_acceptor(listener, &shared)?;
        let mut handle = LinkHandle { shared, local, control: None };
        if let Some(address) = &config.control {
            let listener = listen(address)?;
            handle.control = listener.local_addr().ok();
            control::spawn(listener, &handle.shared)?;
        }
        schedule::spawn(config.schedule, &handle.shared)?;
        Ok(handle)
    }
}

impl LinkHandle {
    /// Where the link accepts connections.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where the control port is, if there is one.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Changes the link; what waits to depart follows the new rate at once.
    pub fn set(&self, change: Change) {
        self.shared.set(change);
    }

    /// Lets nothing pass until [`resume`](Self::resume); connections stay open.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Ends a cut.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Closes every connection, in the middle of what it carries; new ones are accepted.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// The link as it is now.
    pub fn status(&self) -> LinkStatus {
        self.shared.status()
    }

    /// Closes every connection and the port.
    pub fn stop(self) {}
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        self.shared.stop(self.local, self.control);
    }
}

fn listen(address: &str) -> Result<TcpListener, LinkError> {
    TcpListener::bind(address)
        .map_err(|source| LinkError::Listen { address: address.to_owned(), source })
}

fn resolve(address: &str) -> Result<SocketAddr, LinkError> {
    use std::{io, net::ToSocketAddrs};
    let error = |source| LinkError::Target { address: address.to_owned(), source };
    let mut found = address.to_socket_addrs().map_err(error)?;
    found.next().ok_or_else(|| error(io::Error::from(io::ErrorKind::NotFound)))
}
