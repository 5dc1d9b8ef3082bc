//! What the agents of one machine ask of it together.
//!
//! A device K times slower that computes with T threads keeps T / K cores busy. Each agent writes
//! its share into a file of a common folder and holds it while it lives; files of dead processes
//! are ignored and removed. Best effort: it guards people against meaningless timings, not the
//! machine against attackers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Slowdown;

/// A share of the machine, given back when dropped.
#[derive(Debug)]
pub struct Claim {
    file: PathBuf,
}

/// What one agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How slow the device is.
    pub slowdown: Slowdown,
    /// Threads it computes with.
    pub threads: u64,
}

impl Share {
    /// Thousandths of a core, rounded up.
    fn permille(self) -> u64 {
        self.threads.saturating_mul(1_000_000).div_ceil(self.slowdown.permille())
    }
}

/// More was asked for than the machine has.
#[derive(Debug, Error)]
#[error(
    "the agents of this machine would need {:.2} cores at their paces, and it has {cores}: their \
     times would mean nothing; use a larger --slowdown, fewer --threads, or fewer agents",
    *.needed as f64 / 1000.0
)]
pub struct ClaimError {
    /// Thousandths of cores asked for, this agent included.
    needed: u64,
    cores: u64,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    pid: u32,
    started: u64,
    share: Share,
}

impl Claim {
    /// Takes a share of `cores` cores, registered in `folder`. Fails where the agents registered
    /// there would together need more, unless none of them pretends to be another device. A folder
    /// that cannot be used is no error: then only the agent's own share is checked.
    pub fn take(folder: &Path, cores: u64, share: Share) -> Result<Self, ClaimError> {
        let others = live(folder);
        let paced = |share: &Share| share.slowdown != Slowdown::NONE;
        let all = || others.iter().chain([&share]);
        let needed = all().fold(0u64, |sum, share| sum.saturating_add(share.permille()));
        if needed > cores.saturating_mul(1000) && all().any(paced) {
            return Err(ClaimError { needed, cores });
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = process::id();
        let name = format!("{pid}-{}.json", NEXT.fetch_add(1, Ordering::Relaxed));
        let entry = Entry { pid, started: started(pid).unwrap_or_default(), share };
        let file = folder.join(name);
        let _ = register(&file, &entry);
        Ok(Self { file })
    }

    /// The folder that the agents of one user share.
    pub fn folder() -> PathBuf {
        let user = std::env::var("USER").unwrap_or_default();
        let user: String = user.chars().filter(char::is_ascii_alphanumeric).collect();
        std::env::temp_dir().join(format!("cutline-agents-{user}"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn register(file: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_vec(entry)?)
}

/// Shares of processes that still run; files of the others are removed.
fn live(folder: &Path) -> Vec<Share> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut shares = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        let Ok(text) = fs::read(&path) else { continue };
        match serde_json::from_slice::<Entry>(&text) {
            Ok(entry) if started(entry.pid) == Some(entry.started) => shares.push(entry.share),
            _ => drop(fs::remove_file(&path)),
        }
    }
    shares
}

/// When a process started, in the kernel's ticks: with its number, its identity. `None` where it
/// does not run, or where the system does not tell.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(slowdown: &str, threads: u64) -> Share {
        Share { slowdown: slowdown.parse().unwrap(), threads }
    }

    #[test]
    fn agents_may_ask_for_as_much_as_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let first = Claim::take(folder.path(), 2, share("4", 2)).unwrap();
        let second = Claim::take(folder.path(), 2, share("1", 1)).unwrap();
        let error = Claim::take(folder.path(), 2, share("1.5", 1)).unwrap_err();
        assert!(error.to_string().contains("2.17 cores"), "{error}");
        drop(second);
        let _third = Claim::take(folder.path(), 2, share("1.5", 1)).unwrap();
        drop(first);
        assert_eq!(live(folder.path()), [share("1.5", 1)]);
    }

    #[test]
    fn agents_at_full_speed_pretend_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let claims: Vec<_> =
            (0..5).map(|_| Claim::take(folder.path(), 2, share("1", 1)).unwrap()).collect();
        assert!(Claim::take(folder.path(), 2, share("10", 1)).is_err());
        drop(claims);
    }

    #[test]
    fn claims_of_the_dead_and_rubbish_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let dead = Entry { pid: process::id(), started: u64::MAX, share: share("1", 64) };
        register(&folder.path().join("dead.json"), &dead).unwrap();
        fs::write(folder.path().join("rubbish.json"), "{").unwrap();
        let _claim = Claim::take(folder.path(), 1, share("2", 2)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
