//! What stands between two agents so that their calls go over an MQTT broker: an endpoint that takes
//! the calling agent's place at the called one, byte by byte.
//!
//! ```text
//! agent ─▶ endpoint ─▶ near half ─▶ broker ─▶ far half ─▶ agent
//!          every call but inference goes straight on ───▶
//! ```

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Instant,
};

use anyhow::{Context as _, bail};
use bytes::{Buf, BufMut, Bytes};
use cutline_core::units::Nanos;
use cutline_runtime::{
    client::{self, ClientOptions, clock::unix_nanos},
    runner::Deployment,
};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc as Caller,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, http, http::uri::PathAndQuery},
    server::{Grpc, NamedService},
    service::Routes,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::mqtt::{Broker, Serve, Way};

/// The call that goes over the broker.
const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// HTTP/2 window, so that a tensor does not wait for updates of it; the agents' own.
const WINDOW: u32 = 16 << 20;

/// Endpoints by what they stand for.
pub(super) struct Relays {
    broker: Broker,
    client: ClientOptions,
    run: String,
    endpoints: BTreeMap<String, Endpoint>,
    held: Arc<AtomicU64>,
}

struct Endpoint {
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Relays {
    pub(super) fn new(broker: Broker, client: ClientOptions) -> Self {
        let run = format!("cutline-bench/{}-{:x}", process::id(), unix_nanos());
        Self { broker, client, run, endpoints: BTreeMap::new(), held: Arc::default() }
    }

    /// The same deployment with every call between agents through the broker; `None` where there is
    /// none. Its stages have names of their own, so that both can be deployed at the same time.
    pub(super) async fn through(
        &mut self,
        deployment: &Deployment,
    ) -> anyhow::Result<Option<Deployment>> {
        let mut through = deployment.clone();
        let mut relayed = false;
        for placement in &mut through.stages {
            let address = placement.address.clone().unwrap_or_default();
            let caller = placement.spec.device.clone();
            if !placement.foreign {
                rename(&mut placement.model_name);
            }
            rename(&mut placement.spec.plan);
            for call in placement.spec.calls_mut() {
                if !call.foreign {
                    rename(&mut call.model_name);
                }
                if call.here {
                    continue;
                }
                if !is_here(&address) {
                    bail!(
                        "`{caller}` at {address} would have to call a relay on this machine, and is on another; with --through-mqtt run this command on the machine of the agents that call others"
                    );
                }
                let endpoint = self.endpoint(&call.device, &call.address).await?;
                call.address = endpoint.to_string();
                call.replicas.clear();
                relayed = true;
            }
        }
        Ok(relayed.then_some(through))
    }

    /// How long calls were held between the agents since it was last asked.
    pub(super) fn take_held(&self) -> Nanos {
        Nanos(self.held.swap(0, Relaxed))
    }

    async fn endpoint(&mut self, device: &str, target: &str) -> anyhow::Result<SocketAddr> {
        if let Some(endpoint) = self.endpoints.get(target) {
            return Ok(endpoint.address);
        }
        let topic = format!("{}/{}", self.run, self.endpoints.len());
        let channel = client::dial(device, target, &self.client).await?;
        let far = channel.clone();
        let serve: Serve = Arc::new(move |message| {
            let far = far.clone();
            Box::pin(async move {
                let path = PathAndQuery::from_static(MODEL_INFER);
                onward(far, path, Request::new(message)).await.map(Response::into_inner)
            })
        });
        let way = Arc::new(Way::open(&self.broker, topic, serve).await?);
        let relay = Relay { channel, way, held: Arc::clone(&self.held) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = listener.await.context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let routes = Routes::new(Inference(relay.clone())).add_service(Control(relay)).prepare();
        let server = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(256 << 10)
            .add_routes(routes)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let server = tokio::spawn(async move { drop(server.await) });
        self.endpoints.insert(target.to_owned(), Endpoint { address, server });
        Ok(address)
    }
}

fn rename(name: &mut String) {
    name.push_str("-mqtt");
}

/// Whether an address is on this machine's loopback interface.
fn is_here(address: &str) -> bool {
    let place = address.split_once("://").map_or(address, |(_, place)| place);
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[derive(Clone)]
struct Relay {
    channel: Channel,
    way: Arc<Way>,
    held: Arc<AtomicU64>,
}

impl Relay {
    async fn pass(
        self,
        path: PathAndQuery,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        if path.path() != MODEL_INFER {
            return onward(self.channel, path, request).await;
        }
        let began = Instant::now();
        let reply = self.way.call(request.get_ref()).await?;
        let held = began.elapsed().saturating_sub(reply.called);
        self.held.fetch_add(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        reply.message.map(Response::new)
    }
}

/// Calls the agent that is stood for.
async fn onward(
    channel: Channel,
    path: PathAndQuery,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Status> {
    let mut caller = Caller::new(channel).max_decoding_message_size(usize::MAX);
    caller.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    caller.unary(request, path, Raw).await
}

/// Both services of an agent, under the names by which they are routed.
#[derive(Clone)]
struct Inference(Relay);

#[derive(Clone)]
struct Control(Relay);

impl NamedService for Inference {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl NamedService for Control {
    const NAME: &'static str = cutline_runtime::wire::control::control_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for Inference {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        serve(self.0.clone(), request)
    }
}

impl Service<http::Request<Body>> for Control {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        serve(self.0.clone(), request)
    }
}

fn serve(
    relay: Relay,
    request: http::Request<Body>,
) -> BoxFuture<http::Response<Body>, Infallible> {
    let path = request.uri().path_and_query().cloned();
    let call = Passing { relay, path: path.unwrap_or_else(|| PathAndQuery::from_static("/")) };
    Box::pin(async move {
        let mut grpc = Grpc::new(Raw).max_decoding_message_size(usize::MAX);
        Ok(grpc.unary(call, request).await)
    })
}

/// One call.
struct Passing {
    relay: Relay,
    path: PathAndQuery,
}

impl Service<Request<Bytes>> for Passing {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(self.relay.clone().pass(self.path.clone(), request))
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_on_this_machine_can_call_the_relay() {
        for here in ["127.0.0.1:9001", "localhost:1", "[::1]:2", "https://127.0.0.1:3"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["10.0.0.5:9001", "http://pi:9001", ""] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
