//! Connections with every limit set on purpose.

use std::error::Error;

use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{ClientError, ClientOptions};

/// HTTP/2 window of a stream and of a connection: a tensor must not wait for window updates.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

/// Largest HTTP/2 frame: the default of 16 kB costs a header and a wake-up each.
pub(crate) const MAX_FRAME: u32 = 256 << 10;

/// Connects now, so that a wrong address is noticed at once.
pub(super) async fn connect(
    device: &str,
    address: &str,
    options: &ClientOptions,
) -> Result<Channel, ClientError> {
    let bad = || ClientError::Address { device: device.to_owned(), address: address.to_owned() };
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
    if port.is_none() {
        return Err(bad());
    }
    let endpoint = endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(CONNECTION_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keep_alive_interval(options.ping_after)
        .keep_alive_timeout(options.ping_timeout);
    endpoint.connect().await.map_err(|error| ClientError::Unreachable {
        device: device.to_owned(),
        address: address.to_owned(),
        cause: innermost(&error),
    })
}

/// What went wrong, in the words of whoever noticed it first.
pub(super) fn explain(status: &Status) -> String {
    match status.source() {
        Some(source) => innermost(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
