//! Connections to the agents that go on with this one's frames, kept warm.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    client::{AgentClient, ClientError, ClientOptions, clock::Offset},
    wire::contents::ENTROPY_CODE,
};

/// How long a comparison of clocks holds, and what a peer says of itself.
const FRESH: Duration = Duration::from_secs(60);

/// Connections by address.
#[derive(Debug)]
pub(super) struct Peers {
    options: ClientOptions,
    known: tokio::sync::Mutex<BTreeMap<String, Arc<Peer>>>,
}

/// One connection, and how the clock at its far end compares.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) client: AgentClient,
    offset: Mutex<Option<(Offset, Instant)>>,
    reads_entropy_code: Mutex<Option<(bool, Instant)>>,
}

impl Peers {
    pub(super) fn new(options: ClientOptions) -> Self {
        Self { options, known: tokio::sync::Mutex::default() }
    }

    /// The connection to an address, made on the first use. A connection that breaks later mends
    /// itself.
    pub(super) async fn get(&self, device: &str, address: &str) -> Result<Arc<Peer>, ClientError> {
        let key = format!("{device} {address}");
        let known = self.known.lock().await.get(&key).cloned();
        if let Some(peer) = known {
            return Ok(peer);
        }
        // The lock is not held while dialling: a dead peer must not hold up the others.
        let client = AgentClient::connect(device, address, self.options.clone()).await?;
        let peer = Arc::new(Peer {
            client,
            offset: Mutex::default(),
            reads_entropy_code: Mutex::default(),
        });
        Ok(Arc::clone(self.known.lock().await.entry(key).or_insert(peer)))
    }

    /// The connection that frames take to an address; one for this once where none does.
    pub(super) async fn to(&self, address: &str) -> Result<AgentClient, ClientError> {
        let known = self.known.lock().await;
        let found = known.values().find(|peer| peer.client.address() == address);
        if let Some(peer) = found {
            return Ok(peer.client.clone());
        }
        drop(known);
        AgentClient::connect(address, address, self.options.clone()).await
    }

    /// Forgets the connections to a stage that is deployed no more.
    pub(super) async fn forget(&self, device: &str, address: &str) {
        self.known.lock().await.remove(&format!("{device} {address}"));
    }
}

impl Peer {
    /// How far the other's clock is ahead; `None` where it does not tell, as foreign servers do.
    /// An old comparison is used once more while a new one is made, so that no frame waits for it.
    pub(super) async fn offset(self: &Arc<Self>) -> Option<Offset> {
        let known = *self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((offset, at)) = known else { return self.compare().await };
        if at.elapsed() > FRESH {
            self.keep(offset);
            let peer = Arc::clone(self);
            tokio::spawn(async move { peer.compare().await });
        }
        Some(offset)
    }

    /// Whether the other lists the entropy code among its extensions; no answer is a no. An old answer
    /// is used once more while it is asked again, since another program may listen there by then.
    pub(super) async fn reads_entropy_code(self: &Arc<Self>) -> bool {
        let known = *self.reads_entropy_code.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((reads, at)) = known else { return self.ask_for_entropy_code().await };
        if at.elapsed() > FRESH {
            self.keep_entropy_code(reads);
            let peer = Arc::clone(self);
            tokio::spawn(async move { peer.ask_for_entropy_code().await });
        }
        reads
    }

    async fn ask_for_entropy_code(&self) -> bool {
        let Ok(extensions) = self.client.extensions().await else { return false };
        let reads = extensions.iter().any(|extension| extension == ENTROPY_CODE);
        self.keep_entropy_code(reads);
        reads
    }

    fn keep_entropy_code(&self, reads: bool) {
        let kept = Some((reads, Instant::now()));
        *self.reads_entropy_code.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    async fn compare(&self) -> Option<Offset> {
        let offset = self.client.clock_offset().await.ok()?;
        self.keep(offset);
        Some(offset)
    }

    fn keep(&self, offset: Offset) {
        let kept = Some((offset, Instant::now()));
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }
}
