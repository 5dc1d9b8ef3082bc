//! What is asked over a link beside frames: signs of life, and how long a message takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use cutline_core::units::{Bytes, Nanos};
use futures_util::future::join_all;
use tokio::sync::Mutex;

use crate::client::{AgentClient, ClientError, ClientOptions, clock::Offset};

/// How long a comparison of clocks holds.
const FRESH: Duration = Duration::from_secs(60);

/// Bytes of a probe's answer.
const TOKEN: u64 = 16;

/// The way to the agent behind a link, or to the agents that share its stages.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// At least one.
    ways: Arc<[Way]>,
    offset: Arc<Mutex<Option<(Offset, Instant)>>>,
    patience: Duration,
}

/// One of its agents.
#[derive(Debug)]
struct Way {
    client: AgentClient,
    behind: Vec<String>,
    /// Which start of its process answered last; 0 before any did.
    boot: AtomicU64,
}

impl Path {
    /// A path over these addresses, one list to each of its agents, of which there is at least one. A
    /// sign of life that stays away for `patience` is not waited for; a connection on which nothing is
    /// heard for twice as long is made anew, because it may have outlived its link.
    pub(super) fn new(
        device: &str,
        ways: &[Vec<String>],
        patience: Duration,
        options: &ClientOptions,
    ) -> Result<Self, ClientError> {
        let options = ClientOptions {
            connect_timeout: patience,
            ping_after: patience,
            ping_timeout: patience,
            ..options.clone()
        };
        let way = |addresses: &Vec<String>| {
            let address = addresses.first().map_or("", String::as_str);
            let client = AgentClient::lazy(device, address, options.clone())?;
            let behind = addresses.iter().skip(1).cloned().collect();
            Ok(Way { client, behind, boot: AtomicU64::new(0) })
        };
        let ways = ways.iter().map(way).collect::<Result<Vec<_>, ClientError>>()?;
        Ok(Self { ways: ways.into(), offset: Arc::default(), patience })
    }

    /// Which start of the agent's process answers. Of several agents one is enough, and the number
    /// changes when one of them answers for the first time after a start, so that it gets its stages.
    pub(super) async fn beat(self) -> Result<u64, ClientError> {
        if let [only] = &*self.ways {
            return only.client.beat(&only.behind, self.patience).await;
        }
        // One that is stalled must not make the others look so.
        let patience = self.patience / 2;
        let beats = self.ways.iter().map(|way| async move {
            let boot = way.client.beat(&way.behind, patience).await?;
            way.boot.store(boot, Relaxed);
            Ok(())
        });
        let heard: Vec<Result<(), ClientError>> = join_all(beats).await;
        if heard.iter().all(Result::is_err) {
            heard.into_iter().collect::<Result<(), _>>()?;
        }
        let boots = self.ways.iter().map(|way| way.boot.load(Relaxed));
        Ok(boots.fold(0, |all: u64, boot| all.rotate_left(1) ^ boot))
    }

    fn client(&self) -> &AgentClient {
        &self.ways[0].client
    }

    /// Sends so many bytes over the link; when that began, and how long they took.
    pub(super) async fn probe(self, bytes: Bytes) -> Result<(Instant, Nanos), ClientError> {
        let offset = self.offset().await?;
        let began = Instant::now();
        let (up, _) = self.client().exchange(offset, bytes.0, TOKEN, FRESH).await?;
        Ok((began, up))
    }

    async fn offset(&self) -> Result<Offset, ClientError> {
        let mut known = self.offset.lock().await;
        if let Some((offset, at)) = *known
            && at.elapsed() < FRESH
        {
            return Ok(offset);
        }
        let offset = self.client().clock_offset().await?;
        *known = Some((offset, Instant::now()));
        Ok(offset)
    }
}
