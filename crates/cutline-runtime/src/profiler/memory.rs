//! Memory that a network takes in this process while it runs.
//!
//! Counted is what is the process's own: not files that it maps, which the system may drop and read
//! again. The process before the network is loaded is taken off; what others of its threads do at the
//! same time is not, so nothing else should run.

use std::fs;

use cutline_core::units::Bytes;

use super::machine::field;

/// A process before a network is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(Option<Bytes>);

impl Before {
    /// Now, once what was freed is given back to the system.
    pub(super) fn now() -> Self {
        give_back();
        Self(own())
    }

    /// What the process had; zero where the system does not say.
    pub(super) fn bytes(self) -> Bytes {
        self.0.unwrap_or(Bytes::ZERO)
    }

    /// The most that the process takes more than before while `run` goes on; `None` where the system
    /// does not say. What was freed before `run`, as loading does, is given back first.
    pub(super) fn peak<E>(self, run: impl FnOnce() -> Result<(), E>) -> Result<Option<Bytes>, E> {
        give_back();
        let is_reset = fs::write("/proc/self/clear_refs", "5").is_ok();
        run()?;
        let after = own();
        let most = match is_reset {
            true => after.max(highest()),
            false => after,
        };
        Ok(match (self.0, most) {
            (Some(before), Some(most)) => Some(most - before),
            _ => None,
        })
    }
}

/// Gives back to the system what was freed: the C library keeps it for what is taken next. Takes a
/// millisecond for some dozens of megabytes, in which no other thread is given memory. Does nothing
/// where the C library is not GNU's.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim takes an integer and locks what it changes.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Own memory now.
fn own() -> Option<Bytes> {
    kilobytes(&status(), "RssAnon")
}

/// The most since the system was told to forget what was before, without files as they are mapped now.
fn highest() -> Option<Bytes> {
    let status = status();
    let of = |name| kilobytes(&status, name);
    Some(of("VmHWM")? - of("RssFile")? - of("RssShmem")?)
}

fn status() -> String {
    fs::read_to_string("/proc/self/status").unwrap_or_default()
}

fn kilobytes(status: &str, name: &str) -> Option<Bytes> {
    let number: u64 = field(status, name)?.split(' ').next()?.parse().ok()?;
    Some(Bytes(number.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_freed_while_it_runs_counts_at_its_peak() {
        if own().is_none() {
            println!("skipped: this system does not say what a process has");
            return;
        }
        let (kept, passing) = (32 << 20, 64 << 20);
        let before = Before::now();
        let held = vec![1_u8; kept];
        let peak = before.peak(|| {
            let block = std::hint::black_box(vec![1_u8; passing]);
            drop(block);
            Ok::<(), ()>(())
        });
        let peak = peak.unwrap().unwrap();
        assert!(std::hint::black_box(&held).len() == kept);
        // Other tests of this process take and free memory at the same time.
        assert!(peak.0 >= 90 << 20 && peak.0 < 400 << 20, "{peak}");
    }

    #[test]
    fn numbers_of_the_system_are_kilobytes() {
        assert_eq!(kilobytes("RssAnon:\t    148 kB\n", "RssAnon"), Some(Bytes(148 * 1024)));
        for text in ["", "RssAnon:\n", "RssAnon: many kB\n", "VmRSS: 3 kB\n"] {
            assert_eq!(kilobytes(text, "RssAnon"), None);
        }
    }
}
