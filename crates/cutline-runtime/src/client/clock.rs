//! The clock of another agent against one's own.
//!
//! Cristian's algorithm (1989): a call that asks for the time takes at least the way there and
//! back, so the quickest of several calls bounds the offset best, to half its round trip. Where
//! both agents read the very same clock, as on one machine, the offset is exactly zero.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cutline_core::hex::hex;
use sha2::{Digest, Sha256};

use super::{AgentClient, ClientError};
use crate::wire::control::ClockRequest;

/// Most calls of one comparison, and how long it may take once it has a few.
const CALLS: usize = 16;
const ENOUGH: usize = 5;
const BUDGET: Duration = Duration::from_millis(300);

/// How far another clock is ahead of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Nanoseconds to subtract from the other's time to get one's own.
    pub nanos: i64,
    /// Round trip of the quickest call.
    pub round_trip: Duration,
}

impl Offset {
    /// The other's time on one's own clock.
    pub fn to_own(self, theirs: u64) -> u64 {
        theirs.saturating_add_signed(self.nanos.saturating_neg())
    }
}

impl AgentClient {
    /// Compares the agent's clock with one's own, in at most 16 calls.
    pub async fn clock_offset(&self) -> Result<Offset, ClientError> {
        let started = Instant::now();
        let mut best: Option<Offset> = None;
        for call in 0..CALLS {
            if call >= ENOUGH && started.elapsed() > BUDGET {
                break;
            }
            let offset = self.compare_clocks().await?;
            if best.is_none_or(|best| offset.round_trip < best.round_trip) {
                best = Some(offset);
            }
        }
        Ok(best.expect("at least one call was made"))
    }

    async fn compare_clocks(&self) -> Result<Offset, ClientError> {
        let before = unix_nanos();
        let started = Instant::now();
        let answer = self.control.clone().clock(self.timed(ClockRequest {})).await;
        let round_trip = started.elapsed();
        let answer = answer.map_err(|status| self.failed("Clock", &status))?.into_inner();
        let half = u64::try_from(round_trip.as_nanos() / 2).unwrap_or(u64::MAX);
        let middle = before.saturating_add(half);
        let ahead = i128::from(answer.unix_nanos) - i128::from(middle);
        let nanos = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
        // One machine, one clock; unless somebody shifted it for one of the two.
        let shared = !answer.clock_id.is_empty() && answer.clock_id == clock_id();
        let plausible = nanos.unsigned_abs() <= half.saturating_add(5_000_000);
        Ok(Offset { nanos: if shared && plausible { 0 } else { nanos }, round_trip })
    }
}

/// Nanoseconds since 1970 on this machine's clock.
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Names this machine's clock until its next start; empty where the system has no such name.
/// Hashed, because the original is nobody else's business.
pub fn clock_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let Ok(boot) = std::fs::read("/proc/sys/kernel/random/boot_id") else {
            return String::new();
        };
        hex(&Sha256::digest(boot)[..16])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_moves_times_to_ones_own_clock() {
        let ahead = Offset { nanos: 500, round_trip: Duration::ZERO };
        assert_eq!(ahead.to_own(1500), 1000);
        let behind = Offset { nanos: -500, round_trip: Duration::ZERO };
        assert_eq!(behind.to_own(1500), 2000);
    }
}
