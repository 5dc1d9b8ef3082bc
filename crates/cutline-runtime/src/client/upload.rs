//! Sending a file to an agent in chunks, without holding it in memory.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use bytes::Bytes;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;

use super::{AgentClient, ClientError};
use crate::wire::control::FileChunk;

/// Bytes of one chunk.
const CHUNK: usize = 1 << 20;

/// Chunks that may wait to be sent.
const WAITING: usize = 4;

impl AgentClient {
    /// Sends a file from `offset` on, since the agent has what is before it; the agent keeps it under
    /// its SHA-256 once that proves right.
    pub async fn put(&self, path: &Path, sha256: &str, offset: u64) -> Result<(), ClientError> {
        let unreadable = |error: std::io::Error| ClientError::File {
            path: path.to_owned(),
            cause: error.to_string(),
        };
        let mut file = File::open(path).map_err(unreadable)?;
        let total_bytes = file.metadata().map_err(unreadable)?.len();
        // A beginning longer than the file is of another one, which the agent will notice.
        let offset = if offset > total_bytes { 0 } else { offset };
        file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let sha256 = sha256.to_owned();
        let first = FileChunk { sha256, total_bytes, offset, data: Bytes::new() };
        let reader = tokio::task::spawn_blocking(move || read(file, first, &sender));
        let answer = self.control.clone().put(ReceiverStream::new(receiver)).await;
        if let Ok(Err(error)) = reader.await {
            return Err(unreadable(error));
        }
        let call = format!("file {}", path.display());
        answer.map(drop).map_err(|status| self.failed(&call, &status))
    }
}

/// Reads the file chunk by chunk; ends early when the receiver has gone.
fn read(mut file: File, first: FileChunk, sender: &Sender<FileChunk>) -> std::io::Result<()> {
    if sender.blocking_send(first).is_err() {
        return Ok(());
    }
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        if file.by_ref().take(CHUNK as u64).read_to_end(&mut data)? == 0 {
            return Ok(());
        }
        let chunk = FileChunk { data: data.into(), ..FileChunk::default() };
        if sender.blocking_send(chunk).is_err() {
            return Ok(());
        }
    }
}
