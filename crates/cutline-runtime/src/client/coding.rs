//! What it takes to write a request's message and to read the answer's, measured call by call.
//!
//! gRPC writes a message when the connection takes it and reads one when its last byte is here, both
//! out of sight of whoever calls; so the call's own codec takes the times.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use cutline_core::units::Nanos;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Times of a call's two messages at its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    /// Writing the request.
    pub encode_ns: Nanos,
    /// Reading the answer.
    pub decode_ns: Nanos,
}

/// Collects them while the call is under way. Clones share what they collect.
#[derive(Clone, Debug, Default)]
pub(super) struct Collected(Arc<[AtomicU64; 2]>);

impl Collected {
    /// What was taken so far.
    pub(super) fn coding(&self) -> Coding {
        let [encode, decode] = [0, 1].map(|at| Nanos(self.0[at].load(Relaxed)));
        Coding { encode_ns: encode, decode_ns: decode }
    }

    /// Does something that belongs to writing the request.
    pub(super) fn encoding<T>(&self, work: impl FnOnce() -> T) -> T {
        self.taking(0, work)
    }

    /// Does something that belongs to reading the answer.
    pub(super) fn decoding<T>(&self, work: impl FnOnce() -> T) -> T {
        self.taking(1, work)
    }

    fn taking<T>(&self, at: usize, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0[at].fetch_add(took, Relaxed);
        result
    }
}

/// The usual codec, with its times taken.
pub(super) struct Timed<T, U> {
    inner: ProstCodec<T, U>,
    collected: Collected,
}

impl<T, U> Timed<T, U> {
    pub(super) fn new(collected: Collected) -> Self {
        Self { inner: ProstCodec::new(), collected }
    }
}

impl<T, U> Codec for Timed<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = TimedCoder<ProstEncoder<T>>;
    type Decoder = TimedCoder<ProstDecoder<U>>;

    fn encoder(&mut self) -> Self::Encoder {
        TimedCoder { inner: self.inner.encoder(), collected: self.collected.clone() }
    }

    fn decoder(&mut self) -> Self::Decoder {
        TimedCoder { inner: self.inner.decoder(), collected: self.collected.clone() }
    }
}

/// One half of it.
pub(super) struct TimedCoder<C> {
    inner: C,
    collected: Collected,
}

impl<C: Encoder<Error = Status>> Encoder for TimedCoder<C> {
    type Item = C::Item;
    type Error = Status;

    fn encode(&mut self, item: C::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.collected.encoding(|| self.inner.encode(item, buffer))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

impl<C: Decoder<Error = Status>> Decoder for TimedCoder<C> {
    type Item = C::Item;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<C::Item>, Status> {
        self.collected.decoding(|| self.inner.decode(buffer))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}
