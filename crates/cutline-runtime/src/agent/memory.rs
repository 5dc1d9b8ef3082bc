//! The memory that a device declares, and who has how much of it.
//!
//! Stages reserve what their plan estimates when they are deployed, requests what their tensors
//! occupy while they are under way; both are refused, with the numbers, once the sum would exceed
//! the limit. Where an agent is a process of its own, what the process really occupies counts too.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cutline_core::units::Bytes;
use thiserror::Error;

use crate::profiler::give_back;

/// A limit and what is taken of it.
#[derive(Debug)]
pub struct Budget {
    limit: Option<Bytes>,
    whole_process: bool,
    taken: AtomicU64,
}

/// Part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

/// A request for more than there is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// Estimates exceed the limit.
    #[error("{what} needs {needed}, and of this device's {limit} already {taken} are taken")]
    Exceeded {
        /// Who asks.
        what: String,
        /// How much it asks for.
        needed: Bytes,
        /// What the device has.
        limit: Bytes,
        /// What others hold.
        taken: Bytes,
    },
    /// The process itself exceeds the limit.
    #[error("with {what} the process occupies {occupied}, and this device has {limit}")]
    Occupied {
        /// What was loaded last.
        what: String,
        /// Resident memory of the process.
        occupied: Bytes,
        /// What the device has.
        limit: Bytes,
    },
}

impl Budget {
    /// Nothing taken yet.
    pub fn new(limit: Option<Bytes>, whole_process: bool) -> Self {
        Self { limit, whole_process, taken: AtomicU64::new(0) }
    }

    /// The limit, if there is one.
    pub fn limit(&self) -> Option<Bytes> {
        self.limit
    }

    /// What is taken now.
    pub fn taken(&self) -> Bytes {
        Bytes(self.taken.load(Ordering::Relaxed))
    }

    /// Takes `bytes` for `what`, or says why not.
    pub fn reserve(self: &Arc<Self>, bytes: u64, what: &str) -> Result<Reservation, MemoryError> {
        let limit = self.limit.map_or(u64::MAX, |limit| limit.0);
        let add = |taken: u64| taken.checked_add(bytes).filter(|&sum| sum <= limit);
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(Reservation { budget: Arc::clone(self), bytes }),
            Err(taken) => Err(MemoryError::Exceeded {
                what: what.to_owned(),
                needed: Bytes(bytes),
                limit: Bytes(limit),
                taken: Bytes(taken),
            }),
        }
    }

    /// Whether the process fits, where that counts; what loading took is given back first.
    pub fn check_process(&self, what: &str) -> Result<(), MemoryError> {
        let Some(limit) = self.limit.filter(|_| self.whole_process) else { return Ok(()) };
        give_back();
        match resident_bytes() {
            Some(occupied) if occupied > limit => {
                Err(MemoryError::Occupied { what: what.to_owned(), occupied, limit })
            }
            _ => Ok(()),
        }
    }
}

impl Reservation {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but so many bytes.
    pub fn shrink(&mut self, bytes: u64) {
        let kept = self.bytes.min(bytes);
        self.budget.taken.fetch_sub(self.bytes - kept, Ordering::Relaxed);
        self.bytes = kept;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Has all threads share one heap, before the first of them is started.
///
/// The C library gives threads heaps of their own, up to eight for each processor, and keeps what is
/// freed in each. Stages are loaded, run and dropped by threads that come and go, so every heap grows
/// to what its busiest moment took, and a device that loads stages again after each fault of a peer
/// grows without a leak. Tensors are large enough to be mapped one by one, so hardly a thread waits
/// for another's lock. Does nothing where the C library is not GNU's.
pub fn one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: mallopt takes two integers and locks what it changes; a refusal leaves the default.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Memory that this process occupies; `None` where the system does not tell.
pub fn resident_bytes() -> Option<Bytes> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Bytes(kibibytes.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has_and_takes_it_back() {
        let budget = Arc::new(Budget::new(Some(Bytes(1000)), false));
        let first = budget.reserve(700, "stage `a`").unwrap();
        let error = budget.reserve(400, "stage `b`").unwrap_err().to_string();
        assert_eq!(
            error,
            "stage `b` needs 400 B, and of this device's 1.0 kB already 700 B are taken"
        );
        drop(first);
        let mut second = budget.reserve(1000, "stage `b`").unwrap();
        for (kept, expected) in [(2000, 1000), (300, 300), (400, 300)] {
            second.shrink(kept);
            assert_eq!((second.bytes(), budget.taken()), (expected, Bytes(expected)));
        }
        drop(second);
        assert_eq!(budget.taken(), Bytes(0));
        assert!(budget.reserve(u64::MAX, "a lie").is_err());
    }

    #[test]
    fn a_process_may_be_held_to_its_limit() {
        let tiny = Budget::new(Some(Bytes(1)), true);
        if resident_bytes().is_some() {
            assert!(tiny.check_process("stage `a`").is_err());
        }
        assert!(Budget::new(Some(Bytes(1)), false).check_process("stage `a`").is_ok());
    }
}
