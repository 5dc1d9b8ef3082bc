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
        None => over_limit(status.message()).unwrap_or_else(|| status.message().to_owned()),
    }
}

/// The transport's complaint of a large message, with what to do about it.
fn over_limit(text: &str) -> Option<String> {
    let sizes = text.split_once("message length too large: found ")?.1;
    let (found, limit) = sizes.split_once(", the limit is: ")?;
    Some(format!(
        "a message of {found} is over the limit of {limit}; cut where less crosses, or start the \
         agent with a larger --max-message"
    ))
}

fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_size_says_what_to_do() {
        // The words of tonic, for both directions.
        for verb in ["decoded", "encoded"] {
            let text = format!(
                "Error, {verb} message length too large: found 12 bytes, the limit is: 8 bytes"
            );
            let said = explain(&Status::out_of_range(text));
            assert!(
                said.starts_with("a message of 12 bytes is over the limit of 8 bytes;"),
                "{said}"
            );
        }
        assert_eq!(explain(&Status::out_of_range("beyond the end")), "beyond the end");
    }
}
