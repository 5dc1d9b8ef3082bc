//! What is asked over a link beside frames: signs of life, and how long a message takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cutline_core::units::{Bytes, Nanos};
use tokio::sync::Mutex;

use crate::client::{AgentClient, ClientError, ClientOptions, clock::Offset};

/// How long a comparison of clocks holds.
const FRESH: Duration = Duration::from_secs(60);

/// Bytes of a probe's answer.
const TOKEN: u64 = 16;

/// The way to the agent behind a link.
#[derive(Clone, Debug)]
pub(super) struct Path {
    client: AgentClient,
    behind: Arc<[String]>,
    offset: Arc<Mutex<Option<(Offset, Instant)>>>,
    patience: Duration,
}

impl Path {
    /// A way over these addresses, of which there is at least one. A sign of life that stays away for
    /// `patience` is not waited for; a connection on which nothing is heard for twice as long is made
    /// anew, because it may have outlived its link.
    pub(super) fn new(
        device: &str,
        addresses: &[String],
        patience: Duration,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let address = addresses.first().map_or("", String::as_str);
        let options = ClientOptions {
            connect_timeout: patience,
            ping_after: patience,
            ping_timeout: patience,
            ..options
        };
        let client = AgentClient::lazy(device, address, options)?;
        let behind = addresses.get(1..).unwrap_or_default().into();
        Ok(Self { client, behind, offset: Arc::default(), patience })
    }

    /// Which start of the agent's process answers.
    pub(super) async fn beat(self) -> Result<u64, ClientError> {
        self.client.beat(&self.behind, self.patience).await
    }

    /// Sends so many bytes over the link; when that began, and how long they took.
    pub(super) async fn probe(self, bytes: Bytes) -> Result<(Instant, Nanos), ClientError> {
        let offset = self.offset().await?;
        let began = Instant::now();
        let (up, _) = self.client.exchange(offset, bytes.0, TOKEN, FRESH).await?;
        Ok((began, up))
    }

    async fn offset(&self) -> Result<Offset, ClientError> {
        let mut known = self.offset.lock().await;
        if let Some((offset, at)) = *known
            && at.elapsed() < FRESH
        {
            return Ok(offset);
        }
        let offset = self.client.clock_offset().await?;
        *known = Some((offset, Instant::now()));
        Ok(offset)
    }
}
