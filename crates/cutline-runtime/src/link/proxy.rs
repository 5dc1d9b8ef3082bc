//! The threads of a link: per connection a reader and a writer for each direction.
//!
//! A reader takes what the sender's socket holds, books it on the wire and queues it; the writer
//! waits for each chunk's time and hands it to the receiver's socket. The queue is bounded, so a
//! reader stops reading when the wire is behind, and TCP tells the sender.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cutline_core::units::Nanos;

use super::{
    Change, LinkConfig, LinkError, LinkStatus,
    wire::{CHUNK, Shape, Ticket, Wire},
};
use crate::pace::timer::precise_sleeps;

/// Most that one read takes from a socket.
const READ: usize = 64 * 1024;

/// Most connections at a time; each costs four threads.
const MAX_CONNECTIONS: usize = 256;

/// How long the far end may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What all threads of a link share.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    target: SocketAddr,
    up: Direction,
    down: Direction,
    connections: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
    stopped: AtomicBool,
}

/// One direction: its wire, and the bell that rings when the wire changes or a queue moves.
#[derive(Debug)]
struct Direction {
    wire: Mutex<Wire>,
    bell: Condvar,
    carried: AtomicU64,
}

/// Chunks of one connection in one direction, in order; an empty chunk is the end of the stream.
#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<(Ticket, Vec<u8>)>,
    bytes: u64,
    /// The writer failed: nobody takes chunks any more.
    broken: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread of a link holds a lock only for plain arithmetic; were one to panic, the state would
    // still be consistent enough to close connections.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Direction {
    fn new(shape: Shape, seed: u64) -> Self {
        let wire = Mutex::new(Wire::new(shape, seed));
        Self { wire, bell: Condvar::new(), carried: AtomicU64::new(0) }
    }

    fn change(&self, change: impl FnOnce(&mut Wire)) {
        change(&mut lock(&self.wire));
        self.bell.notify_all();
    }
}

impl Shared {
    pub(super) fn new(target: SocketAddr, config: &LinkConfig) -> Self {
        let shape = |rate| Shape { rate, delay: config.delay, jitter: config.jitter };
        Self {
            start: Instant::now(),
            target,
            up: Direction::new(shape(config.up), config.seed),
            down: Direction::new(shape(config.down), !config.seed),
            connections: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Sleeps until a time since the start; false when the link stopped meanwhile.
    pub(super) fn sleep_until(&self, at: Nanos) -> bool {
        let mut wire = lock(&self.up.wire);
        while !self.is_stopped() {
            let left = at - self.now();
            if left == Nanos::ZERO {
                return true;
            }
            let woken = self.up.bell.wait_timeout(wire, Duration::from_nanos(left.0));
            wire = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    pub(super) fn set(&self, change: Change) {
        let now = self.now();
        for (direction, rate) in [(&self.up, change.up), (&self.down, change.down)] {
            direction.change(|wire| {
                let old = wire.shape();
                wire.set(
                    now,
                    Shape {
                        rate: rate.unwrap_or(old.rate),
                        delay: change.delay.unwrap_or(old.delay),
                        jitter: change.jitter.unwrap_or(old.jitter),
                    },
                );
            });
        }
    }

    pub(super) fn cut(&self) {
        let now = self.now();
        self.up.change(|wire| wire.cut(now));
        self.down.change(|wire| wire.cut(now));
    }

    pub(super) fn resume(&self) {
        let now = self.now();
        self.up.change(|wire| wire.resume(now));
        self.down.change(|wire| wire.resume(now));
    }

    pub(super) fn status(&self) -> LinkStatus {
        let (up, cut) = {
            let wire = lock(&self.up.wire);
            (wire.shape(), wire.is_cut())
        };
        LinkStatus {
            up_bytes_per_s: up.rate,
            down_bytes_per_s: lock(&self.down.wire).shape().rate,
            delay_ns: up.delay,
            jitter_ns: up.jitter,
            cut,
            connections: lock(&self.connections).len(),
            bytes_up: self.up.carried.load(Ordering::Relaxed),
            bytes_down: self.down.carried.load(Ordering::Relaxed),
        }
    }

    /// Closes every connection at both ends; what it was carrying is gone.
    pub(super) fn reset(&self) {
        for sockets in lock(&self.connections).values() {
            for socket in sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    pub(super) fn stop(&self, listen: SocketAddr, control: Option<SocketAddr>) {
        self.stopped.store(true, Ordering::Release);
        self.reset();
        self.up.change(|_| {});
        self.down.change(|_| {});
        // A blocked accept ends only with a connection.
        for address in std::iter::once(listen).chain(control) {
            let _ = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        }
    }
}

/// Accepts connections until the link stops.
pub(super) fn spawn_acceptor(listener: TcpListener, shared: &Arc<Shared>) -> Result<(), LinkError> {
    let shared = Arc::clone(shared);
    spawn("link-accept", move || {
        for (id, client) in (0u64..).zip(listener.incoming()) {
            if shared.is_stopped() {
                return;
            }
            let full = lock(&shared.connections).len() >= MAX_CONNECTIONS;
            match client {
                Ok(client) if !full => {
                    let shared = Arc::clone(&shared);
                    // Dialling must not hold up other connections; a failure closes this one.
                    let _ = spawn("link-connect", move || carry(&shared, id, client));
                }
                Ok(_) => {}
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    })
}

/// Carries one connection until both its directions have ended.
fn carry(shared: &Arc<Shared>, id: u64, client: TcpStream) {
    let Ok(server) = TcpStream::connect_timeout(&shared.target, CONNECT_TIMEOUT) else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { return };
    lock(&shared.connections).insert(id, [client2, server2]);
    if !shared.is_stopped() {
        let back = {
            let shared = Arc::clone(shared);
            let ends = (server.try_clone(), client.try_clone());
            thread::Builder::new().name("link-down".into()).spawn(move || {
                if let (Ok(from), Ok(to)) = ends {
                    relay(&shared, &shared.down, from, to);
                }
            })
        };
        relay(shared, &shared.up, client, server);
        if let Ok(back) = back {
            let _ = back.join();
        }
    }
    lock(&shared.connections).remove(&id);
}

/// Carries one direction of one connection: this thread reads, another one writes.
fn relay(shared: &Arc<Shared>, direction: &Direction, mut from: TcpStream, to: TcpStream) {
    let queue = Mutex::new(Queue::default());
    thread::scope(|scope| {
        let writer = thread::Builder::new().name("link-write".into()).spawn_scoped(scope, || {
            precise_sleeps();
            write_loop(shared, direction, &queue, to);
        });
        if writer.is_ok() {
            read_loop(shared, direction, &queue, &mut from);
        }
    });
    let _ = from.shutdown(Shutdown::Read);
}

fn read_loop(shared: &Shared, direction: &Direction, queue: &Mutex<Queue>, from: &mut TcpStream) {
    let mut buffer = vec![0; READ];
    loop {
        let got = match from.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let mut wire = lock(&direction.wire);
        let now = shared.now();
        let chunk = if wire.shape().rate.is_some() { CHUNK } else { READ };
        {
            let mut queue = lock(queue);
            for data in buffer[..got].chunks(chunk) {
                let ticket = wire.book(now, data.len());
                queue.chunks.push_back((ticket, data.to_vec()));
            }
            queue.bytes += got as u64;
            if got == 0 {
                queue.chunks.push_back((wire.book(now, 0), Vec::new()));
            }
        }
        direction.bell.notify_all();
        if got == 0 {
            return;
        }
        loop {
            let (bytes, broken) = {
                let queue = lock(queue);
                (queue.bytes, queue.broken)
            };
            if broken || shared.is_stopped() {
                return;
            }
            if bytes <= wire.capacity() {
                break;
            }
            wire = direction.bell.wait(wire).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write_loop(shared: &Shared, direction: &Direction, queue: &Mutex<Queue>, mut to: TcpStream) {
    while let Some(data) = next_due(shared, direction, queue) {
        if data.is_empty() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        if to.write_all(&data).is_err() {
            break;
        }
        direction.carried.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
    lock(queue).broken = true;
    direction.bell.notify_all();
    // The sender must learn that nobody receives.
    let _ = to.shutdown(Shutdown::Both);
}

/// Waits until the next chunk has arrived and takes it; `None` when the link stopped.
fn next_due(shared: &Shared, direction: &Direction, queue: &Mutex<Queue>) -> Option<Vec<u8>> {
    let mut wire = lock(&direction.wire);
    while !shared.is_stopped() {
        let next = lock(queue).chunks.front().map(|&(ticket, _)| ticket);
        let due = next.and_then(|ticket| wire.due(ticket));
        let now = shared.now();
        match (next, due) {
            (Some(ticket), Some(due)) if due <= now => {
                wire.take(ticket);
                drop(wire);
                let (_, data) = {
                    let mut queue = lock(queue);
                    let chunk = queue.chunks.pop_front()?;
                    queue.bytes -= chunk.1.len() as u64;
                    chunk
                };
                direction.bell.notify_all();
                return Some(data);
            }
            (_, Some(due)) => {
                let left = Duration::from_nanos((due - now).0);
                let woken = direction.bell.wait_timeout(wire, left);
                wire = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            (_, None) => {
                wire = direction.bell.wait(wire).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
    None
}

/// Starts a detached thread.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), LinkError> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop).map_err(LinkError::Thread)
}
