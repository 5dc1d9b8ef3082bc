//! How many requests an agent lets in, from everybody and from each caller.
//!
//! A caller who sends without waiting fills its own share only: another is admitted, and
//! [`turns`](super::turns) sees that it is served.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tonic::Status;

/// Requests that may wait or run at a time.
pub(super) const MAX_REQUESTS: usize = 512;

/// Those of one caller among them; as many frames as a run may have under way.
pub(super) const MAX_OF_CALLER: usize = 64;

/// A connection to the agent; unknown where the transport does not say.
pub(super) type Caller = Option<SocketAddr>;

/// Requests under way by caller.
#[derive(Debug, Default)]
pub(super) struct Admission {
    callers: Mutex<Callers>,
}

#[derive(Debug, Default)]
struct Callers {
    all: usize,
    by_caller: BTreeMap<Caller, usize>,
}

/// A request that was let in, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    admission: &'a Admission,
    caller: Caller,
}

impl Admission {
    /// Lets a request in, or says why not.
    pub(super) fn admit(&self, caller: Caller) -> Result<Admitted<'_>, Status> {
        let mut callers = self.lock();
        let of_caller = callers.by_caller.get(&caller).copied().unwrap_or(0);
        for (count, most, whose) in
            [(of_caller, MAX_OF_CALLER, " of this caller"), (callers.all, MAX_REQUESTS, "")]
        {
            if count >= most {
                let reason = format!("{most} requests{whose} are under way; try again later");
                return Err(Status::resource_exhausted(reason));
            }
        }
        callers.all += 1;
        callers.by_caller.insert(caller, of_caller + 1);
        Ok(Admitted { admission: self, caller })
    }

    /// Requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut callers = self.admission.lock();
        callers.all -= 1;
        match callers.by_caller.get_mut(&self.caller) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(callers.by_caller.remove(&self.caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_fills_its_own_share_only() {
        let admission = Admission::default();
        let caller = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let mut held: Vec<_> =
            (0..MAX_OF_CALLER).map(|_| admission.admit(caller(1)).unwrap()).collect();
        let refused = admission.admit(caller(1)).unwrap_err();
        assert!(refused.message().contains("64 requests of this caller are under way"));
        let full = (MAX_REQUESTS / MAX_OF_CALLER) as u16;
        for port in 2..=full {
            held.extend((0..MAX_OF_CALLER).map(|_| admission.admit(caller(port)).unwrap()));
        }
        let refused = admission.admit(caller(full + 1)).unwrap_err();
        assert!(refused.message().contains("512 requests are under way"), "{refused}");
        held.truncate(1);
        assert_eq!(admission.under_way(), 1);
        drop(held);
        assert!(admission.lock().by_caller.is_empty());
        assert_eq!(admission.under_way(), 0);
    }
}
