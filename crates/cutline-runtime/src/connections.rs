//! Connections that a server accepts: at most so many, so that strangers take neither its files nor
//! its processor.
//!
//! One more than that is closed at once, and so is one that says nothing for [`SILENCE`]. Where the
//! system gives none, as for want of descriptors, the server pauses before it asks again: a failed
//! `accept` leaves the connection waiting, and would fail again at once.
//!
//! ```text
//! soft limit of descriptors, raised to the hard one
//! ├─ connections: the rest, at most MOST
//! └─ FILES: the store, calls to other agents, the engine's libraries
//! ```

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Most connections of one agent: more than it admits requests.
pub const MOST: usize = 1024;

/// Most connections of an agent that waits to be paired, which is called once.
pub const MOST_WHILE_PAIRING: usize = 32;

/// Descriptors that are kept for everything else.
const FILES: u64 = 256;

/// How long a new connection may say nothing.
const SILENCE: Duration = Duration::from_secs(20);

/// Time for the handshake of TLS.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(20);

/// Pause after the system could give no connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The open connections of one server, and those that it did not take.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    silence: Duration,
    pause: Duration,
    open: AtomicUsize,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Connections {
    /// None open yet, and never more than `most`.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self::with(most, SILENCE, PAUSE))
    }

    fn with(most: usize, silence: Duration, pause: Duration) -> Self {
        let (open, refused, failed) = Default::default();
        Self { most, silence, pause, open, refused, failed }
    }

    /// Most that may be open.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Closed at once, as too many were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Times that the system could not give one, e.g. for want of descriptors.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let more = |open: usize| (open < self.most).then_some(open + 1);
        match self.open.fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => Some(Admitted(Arc::clone(self))),
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// The next connection that there is room for.
    async fn next(self: &Arc<Self>, listener: &TcpListener) -> Connection {
        loop {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            if let Some(connection) = self.take(accepted).await {
                return connection;
            }
        }
    }

    /// What came of one `accept`: a connection, if there is one and room for it. Returns only when it
    /// is of use to ask for another.
    async fn take(self: &Arc<Self>, accepted: io::Result<TcpStream>) -> Option<Connection> {
        match accepted {
            Ok(stream) => {
                let admitted = self.admit()?;
                // Without it small messages wait for the answers to others.
                let _ = stream.set_nodelay(true);
                let silence = Some(Box::pin(sleep(self.silence)));
                return Some(Connection { stream, silence, _admitted: admitted });
            }
            // Its other end has left: the next one is another's.
            Err(error) if is_the_others(&error) => {}
            Err(_) => {
                self.failed.fetch_add(1, Relaxed);
                sleep(self.pause).await;
            }
        }
        None
    }
}

fn is_the_others(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// The connections that come to a listener, as far as there is room for them; without end.
pub fn incoming(
    listener: TcpListener,
    connections: Arc<Connections>,
) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold((listener, connections), |(listener, connections)| async {
        let connection = connections.next(&listener).await;
        Some((Ok(connection), (listener, connections)))
    })
}

/// Asks the system for as many descriptors as it allows this process to have.
pub fn raise_descriptors() {
    #[cfg(unix)]
    if let Some(limit) = descriptors()
        && limit.rlim_cur < limit.rlim_max
    {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        #[allow(unsafe_code)]
        // SAFETY: setrlimit reads one structure of this type and keeps no pointer to it; its failure
        // leaves the limit as it was, which is harmless.
        unsafe {
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised);
        }
    }
}

/// Connections that this process can have open beside its files; at least one, at most [`MOST`].
pub fn affordable() -> usize {
    #[cfg(unix)]
    #[allow(clippy::useless_conversion)] // of 32 bits on systems of 32 bits
    let limit = descriptors().map_or(u64::MAX, |limit| limit.rlim_cur.into());
    #[cfg(not(unix))]
    let limit = u64::MAX;
    of_descriptors(limit)
}

fn of_descriptors(limit: u64) -> usize {
    let connections = limit - FILES.min(limit / 2);
    usize::try_from(connections).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(unix)]
fn descriptors() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[allow(unsafe_code)]
    // SAFETY: getrlimit writes one structure of this type, which outlives the call.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (told == 0).then_some(limit)
}

/// Room for one connection, given back when dropped.
#[derive(Debug)]
struct Admitted(Arc<Connections>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A connection that was let in. Reading fails where nothing comes for [`SILENCE`] at its beginning.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Until something came.
    silence: Option<Pin<Box<Sleep>>>,
    _admitted: Admitted,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;
    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(silence) = &mut self.silence {
            match &read {
                Poll::Ready(_) => self.silence = None,
                Poll::Pending if silence.as_mut().poll(context).is_ready() => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending => {}
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    #[test]
    fn files_keep_their_share_of_the_descriptors() {
        for (descriptors, connections) in
            [(0, 1), (1, 1), (64, 32), (512, 256), (1024, 768), (1280, MOST), (u64::MAX, MOST)]
        {
            assert_eq!(of_descriptors(descriptors), connections, "{descriptors}");
        }
    }

    #[tokio::test]
    async fn a_system_without_descriptors_is_asked_now_and_then() {
        let connections = Arc::new(Connections::with(1, SILENCE, Duration::from_millis(20)));
        for (error, pauses) in [(libc::EMFILE, 1), (libc::ENFILE, 2), (libc::ECONNABORTED, 2)] {
            let began = Instant::now();
            assert!(connections.take(Err(io::Error::from_raw_os_error(error))).await.is_none());
            let paused = began.elapsed() >= Duration::from_millis(20);
            assert!(paused || error == libc::ECONNABORTED, "{error}");
            assert_eq!(connections.failed(), pauses);
        }
    }

    #[tokio::test]
    async fn one_too_many_is_closed_and_one_that_ends_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(2);
        let first = TcpStream::connect(address).await.unwrap();
        let admitted = connections.next(&listener).await;
        let _second = TcpStream::connect(address).await.unwrap();
        let _also = connections.next(&listener).await;
        let mut third = TcpStream::connect(address).await.unwrap();
        let short = Duration::from_millis(200);
        assert!(timeout(short, connections.next(&listener)).await.is_err());
        assert_eq!(third.read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert_eq!((connections.open(), connections.refused()), (2, 1));
        drop((first, admitted));
        let _fourth = TcpStream::connect(address).await.unwrap();
        let _now = connections.next(&listener).await;
        assert_eq!((connections.open(), connections.failed()), (2, 0));
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Connections::with(2, Duration::from_millis(100), PAUSE));
        let mut talks = TcpStream::connect(address).await.unwrap();
        talks.write_all(b"x").await.unwrap();
        let mut heard = connections.next(&listener).await;
        assert_eq!(heard.read(&mut [0]).await.unwrap(), 1);
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut unheard = connections.next(&listener).await;
        let error = unheard.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let later = timeout(Duration::from_millis(300), heard.read(&mut [0])).await;
        assert!(later.is_err(), "who has spoken may be silent");
    }
}
