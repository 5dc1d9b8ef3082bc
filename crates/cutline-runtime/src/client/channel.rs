//! Connections with every limit set on purpose.

use std::{error::Error, net::IpAddr};

use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{ClientError, ClientOptions};

/// HTTP/2 window of a stream and of a connection: a tensor must not wait for window updates.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

/// Largest HTTP/2 frame: the default of 16 kB costs a header and a wake-up each.
pub(crate) const MAX_FRAME: u32 = 256 << 10;

/// A connection to the agent of `device`, made now, so that a wrong address is noticed at once.
pub async fn connect(
    device: &str,
    address: &str,
    options: &ClientOptions,
) -> Result<Channel, ClientError> {
    let endpoint = endpoint(device, address, options)?;
    endpoint.connect().await.map_err(|error| ClientError::Unreachable {
        device: device.to_owned(),
        address: address.to_owned(),
        cause: innermost(&error),
    })
}

/// Connects when it is first used.
pub(super) fn lazy(
    device: &str,
    address: &str,
    options: &ClientOptions,
) -> Result<Channel, ClientError> {
    Ok(endpoint(device, address, options)?.connect_lazy())
}

fn endpoint(device: &str, address: &str, options: &ClientOptions) -> Result<Endpoint, ClientError> {
    let bad = || ClientError::Address { device: device.to_owned(), address: address.to_owned() };
    let (encrypted, place) = scheme(address);
    let port = place.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let scheme = if encrypted { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{place}")).map_err(|_| bad())?;
    if port.is_none() {
        return Err(bad());
    }
    let endpoint = match (encrypted, &options.credentials) {
        (false, _) => endpoint,
        (true, Some(credentials)) => {
            endpoint.tls_config(credentials.client_tls()).map_err(|_| bad())?
        }
        (true, None) => {
            let (device, address) = (device.to_owned(), place.to_owned());
            return Err(ClientError::Plaintext { device, address });
        }
    };
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(CONNECTION_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keep_alive_interval(options.ping_after)
        .keep_alive_timeout(options.ping_timeout))
}

/// Whether an address is dialled by TLS, and the address without what says so.
fn scheme(address: &str) -> (bool, &str) {
    if let Some(place) = address.strip_prefix("https://") {
        return (true, place);
    }
    if let Some(place) = address.strip_prefix("http://") {
        return (false, place);
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let local = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    (!local, address)
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
    let cause = innermost.to_string();
    match trouble(&cause) {
        Some(trouble) => format!("{trouble} ({cause})"),
        None => cause,
    }
}

/// What lies behind the words of the TLS library, where one side's credentials are the cause.
fn trouble(cause: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if says(&["UnknownIssuer", "UnknownCA", "BadSignature", "DecryptError"]) {
        Some("the other side's certificates are of another authority")
    } else if says(&["CertificateRequired", "frame with invalid size"]) {
        // An alert of TLS, read as a frame of HTTP/2, has an impossible size.
        Some("the agent speaks TLS and wants a certificate; dial it as https://")
    } else if says(&["InvalidContentType", "corrupt message"]) {
        Some("the agent answers without encryption; dial it as http:// if that is meant")
    } else if says(&["Expired", "NotValidYet"]) {
        Some("a certificate is out of date, or a clock is wrong")
    } else if says(&["NotValidForName"]) {
        Some("what answers there is not an agent")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_address_is_dialled_in_plain_text_unasked() {
        for (address, encrypted, place) in [
            ("127.0.0.1:9001", false, "127.0.0.1:9001"),
            ("127.8.0.1:9001", false, "127.8.0.1:9001"),
            ("[::1]:9001", false, "[::1]:9001"),
            ("localhost:9001", false, "localhost:9001"),
            ("10.0.0.5:9001", true, "10.0.0.5:9001"),
            ("localhost.example.org:9001", true, "localhost.example.org:9001"),
            ("[fe80::1]:9001", true, "[fe80::1]:9001"),
            ("http://10.0.0.5:9001", false, "10.0.0.5:9001"),
            ("https://127.0.0.1:9102", true, "127.0.0.1:9102"),
        ] {
            assert_eq!(scheme(address), (encrypted, place), "{address}");
        }
    }

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
