//! What a message costs between two agents, measured over the protocol that carries tensors.
//!
//! Every agent has a model `cutline.echo`, which answers any tensor with as many zero bytes as it
//! is asked for, and with the times at which it had the request and the answer. Times of one way
//! come from there, corrected by the offset of the two clocks.

use std::time::{Duration, Instant};

use cutline_core::{
    profile::{LinkPoint, LinkTable, Timing},
    units::{self, Nanos},
};
use tonic::Status;

use super::{inference::respond, peers::Peer};
use crate::{
    client::{
        ClientError,
        clock::unix_nanos,
        echo::{ANSWER_BYTES, ECHO, zeros},
    },
    stage::trace::{StageTrace, Trace},
    wire::inference::{ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice},
};

/// Bytes of the side that is not measured.
const TOKEN: u64 = 16;

/// Sizes that are measured unless others are asked for.
const DEFAULT_SIZES: [u64; 7] = [1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000];

/// Most sizes and repeats of one measurement, and the repeats unless others are asked for.
const MAX_SIZES: usize = 64;
const MAX_REPEATS: u32 = 1000;
const DEFAULT_REPEATS: u32 = 15;

/// Fewest samples of one point, however slow the link is.
const FEWEST: u32 = 3;

/// Time after which a point has enough samples, once it has the fewest; and a message so slow that
/// larger ones are left to the fit.
const PER_POINT: Duration = Duration::from_millis(1500);
const TOO_SLOW: Duration = Duration::from_secs(2);

/// Longest time of one message.
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers a request to the echo model.
pub(super) fn echo(
    mut message: ModelInferRequest,
    received_unix_ns: u64,
    limit: usize,
) -> Result<ModelInferResponse, Status> {
    let wanted = message.parameters.get(ANSWER_BYTES).and_then(|p| p.parameter_choice.as_ref());
    let wanted = match wanted {
        Some(ParameterChoice::Int64Param(bytes)) => u64::try_from(*bytes).unwrap_or(u64::MAX),
        _ => 0,
    };
    if wanted > limit as u64 / 2 {
        let reason = format!("an answer of {wanted} bytes; at most {} are possible", limit / 2);
        return Err(Status::invalid_argument(reason));
    }
    let bytes_in = message.raw_input_contents.iter().map(|raw| raw.len() as u64).sum();
    message.inputs.clear();
    let sent_unix_ns = unix_nanos();
    let stage = StageTrace {
        name: ECHO.to_owned(),
        received_unix_ns,
        sent_unix_ns,
        bytes_in,
        bytes_out: wanted,
        ..StageTrace::default()
    };
    let trace = Trace { stages: vec![stage], hops: Vec::new() };
    respond(message, vec![zeros(wanted)], Some(trace))
}

/// Measures a link by size, in both directions; `progress` is told before each point. Sizes behind
/// one that takes two seconds are left out.
pub(super) async fn measure(
    peer: &Peer,
    sizes: &[u64],
    repeats: u32,
    limit: usize,
    progress: impl Fn(u64, u64, String),
) -> Result<LinkTable, ClientError> {
    let mut sizes: Vec<u64> =
        if sizes.is_empty() { DEFAULT_SIZES.to_vec() } else { sizes.to_vec() };
    sizes.retain(|&size| size <= limit as u64 / 2);
    sizes.sort_unstable();
    sizes.dedup();
    sizes.truncate(MAX_SIZES);
    let repeats = if repeats == 0 { DEFAULT_REPEATS } else { repeats.min(MAX_REPEATS) };
    let mut table = LinkTable { version: 1, up: Vec::new(), down: Vec::new() };
    let offset = peer.client.clock_offset().await?;
    // The connection and the memory of both sides are warm before the first point.
    peer.client.exchange(offset, TOKEN, TOKEN, PATIENCE).await?;
    let (mut go_up, mut go_down) = (true, true);
    for (index, &size) in sizes.iter().enumerate() {
        let what = format!("messages of {}", units::Bytes(size));
        progress(index as u64, sizes.len() as u64, what);
        if go_up {
            let point = point(peer, size, repeats, Way::Up).await?;
            go_up = point.timing.median_ns.0 < TOO_SLOW.as_nanos() as u64;
            table.up.push(point);
        }
        if go_down {
            let point = point(peer, size, repeats, Way::Down).await?;
            go_down = point.timing.median_ns.0 < TOO_SLOW.as_nanos() as u64;
            table.down.push(point);
        }
    }
    Ok(table)
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

async fn point(peer: &Peer, size: u64, repeats: u32, way: Way) -> Result<LinkPoint, ClientError> {
    // Clocks drift apart; a fresh comparison costs little beside the messages.
    let offset = peer.client.clock_offset().await?;
    let started = Instant::now();
    let mut samples = Vec::new();
    for sample in 0..repeats {
        if sample >= FEWEST && started.elapsed() > PER_POINT {
            break;
        }
        let (up, down) = match way {
            Way::Up => peer.client.exchange(offset, size, TOKEN, PATIENCE).await?,
            Way::Down => peer.client.exchange(offset, TOKEN, size, PATIENCE).await?,
        };
        samples.push(match way {
            Way::Up => up,
            Way::Down => down,
        });
    }
    Ok(LinkPoint { bytes: units::Bytes(size), timing: timing(samples) })
}

/// Median and spread; the lower of two middle samples, so that every figure is one that occurred.
fn timing(mut samples: Vec<Nanos>) -> Timing {
    samples.sort_unstable();
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    Timing {
        median_ns: at(50),
        p10_ns: at(10),
        p90_ns: at(90),
        count: u32::try_from(samples.len()).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_the_median_with_its_spread() {
        let samples = (1..=11).rev().map(|n| Nanos(n * 10)).collect();
        let expected =
            Timing { median_ns: Nanos(60), p10_ns: Nanos(20), p90_ns: Nanos(100), count: 11 };
        assert_eq!(timing(samples), expected);
        assert_eq!(timing(vec![Nanos(7)]).p90_ns, Nanos(7));
    }
}
