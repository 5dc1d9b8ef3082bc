//! When a request's last byte was here, which its handler, called once its message is read, cannot
//! see: from then until the handler begins is what reading the message took.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tonic::{
    Request,
    body::Body,
    codegen::{Body as HttpBody, Bytes, Service, http},
    server::NamedService,
};

use crate::client::clock::unix_nanos;

/// A service whose requests carry [`Arrival`].
#[derive(Clone)]
pub(super) struct Timed<S>(pub(super) S);

/// When the bytes of a request came that came last, by this machine's clock; 0 before any did.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrival(Arc<AtomicU64>);

impl Arrival {
    /// Of a request that came over gRPC; `None` where nothing took it.
    pub(super) fn of<T>(request: &Request<T>) -> Option<u64> {
        let arrival = request.extensions().get::<Self>()?;
        Some(arrival.0.load(Relaxed)).filter(|&at| at > 0)
    }
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Timed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let arrival = Arrival::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(arrival.clone());
        self.0.call(http::Request::from_parts(parts, Body::new(Arriving { body, arrival })))
    }
}

impl<S: NamedService> NamedService for Timed<S> {
    const NAME: &'static str = S::NAME;
}

/// A body that notes when its data comes.
struct Arriving {
    body: Body,
    arrival: Arrival,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(data))) = &frame
            && data.is_data()
        {
            self.arrival.0.store(unix_nanos(), Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
