//! Which of several agents that serve the same stage is called next.
//!
//! The one with the fewest calls under way, so that a slower one gets fewer; of equal ones each in its
//! turn. One that failed is set aside for a while, which doubles until it answers again, and is called
//! only where no other is left.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long one is set aside after its first failure, and at most.
const ASIDE: Duration = Duration::from_millis(500);
const LONGEST_ASIDE: Duration = Duration::from_secs(30);

/// What is known of each agent, by address.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    agents: BTreeMap<String, Load>,
    /// Calls so far: says whose turn it is among equals.
    calls: usize,
}

#[derive(Debug, Default)]
struct Load {
    under_way: usize,
    /// Until when it is set aside, and how long that was.
    aside: Option<(Instant, Duration)>,
}

/// A call to an agent that has not ended. Dropped without an answer it counts as a failure.
#[derive(Debug)]
pub(super) struct UnderWay {
    replicas: Arc<Replicas>,
    address: String,
    answered: bool,
}

impl Replicas {
    /// Chooses one of these agents, but none of `tried`; `None` where no other is left. O(agents).
    pub(super) fn choose(
        self: &Arc<Self>,
        addresses: &[&str],
        tried: &[&str],
        now: Instant,
    ) -> Option<UnderWay> {
        let mut known = self.lock();
        let cost = |address: &&str| {
            let load = known.agents.get(*address);
            let aside = load.and_then(|load| load.aside).is_some_and(|(until, _)| until > now);
            (aside, load.map_or(0, |load| load.under_way))
        };
        let left = addresses.iter().filter(|address| !tried.contains(address));
        let least = left.clone().map(cost).min()?;
        let equals: Vec<&&str> = left.filter(|address| cost(address) == least).collect();
        let address = (*equals[known.calls % equals.len()]).to_owned();
        known.calls = known.calls.wrapping_add(1);
        known.agents.entry(address.clone()).or_default().under_way += 1;
        Some(UnderWay { replicas: Arc::clone(self), address, answered: false })
    }

    /// Forgets an agent that is not called any more.
    pub(super) fn forget(&self, address: &str) {
        self.lock().agents.remove(address);
    }

    fn ended(&self, address: &str, answered: bool, now: Instant) {
        let mut known = self.lock();
        // It may have been forgotten meanwhile.
        let Some(load) = known.agents.get_mut(address) else { return };
        load.under_way = load.under_way.saturating_sub(1);
        match (answered, load.aside) {
            (true, _) => load.aside = None,
            // What was under way when it failed says nothing new.
            (false, Some((until, _))) if until > now => {}
            (false, before) => {
                let long = before.map_or(ASIDE, |(_, before)| (before * 2).min(LONGEST_ASIDE));
                load.aside = Some((now + long, long));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Where it was sent.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The agent answered, if only to refuse.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.replicas.ended(&self.address, self.answered, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = ["a", "b", "c"];

    fn choose(replicas: &Arc<Replicas>, tried: &[&str], now: Instant) -> UnderWay {
        replicas.choose(&ALL, tried, now).unwrap()
    }

    #[test]
    fn the_one_with_the_fewest_calls_is_next() {
        let (replicas, now) = (Arc::new(Replicas::default()), Instant::now());
        let calls: Vec<UnderWay> = (0..6).map(|_| choose(&replicas, &[], now)).collect();
        for address in ALL {
            let count = calls.iter().filter(|call| call.address() == address).count();
            assert_eq!(count, 2, "{address}");
        }
        let mut calls = calls.into_iter().filter(|call| call.address() == "b");
        calls.by_ref().for_each(UnderWay::answered);
        let next = [choose(&replicas, &[], now), choose(&replicas, &[], now)];
        assert!(next.iter().all(|call| call.address() == "b"), "a slower one gets fewer");
    }

    #[test]
    fn whoever_fails_is_called_last_and_later_again() {
        let (replicas, now) = (Arc::new(Replicas::default()), Instant::now());
        let failed = choose(&replicas, &[], now);
        let bad = failed.address().to_owned();
        drop(failed);
        for _ in 0..6 {
            let call = choose(&replicas, &[], now);
            assert_ne!(call.address(), bad);
            call.answered();
        }
        let others: Vec<&str> = ALL.into_iter().filter(|address| *address != bad).collect();
        let last = choose(&replicas, &others, now);
        assert_eq!(last.address(), bad, "better than none");
        assert!(replicas.choose(&ALL, &ALL, now).is_none());
        drop(last);
        let until = |replicas: &Replicas| replicas.lock().agents[&bad].aside.unwrap();
        assert_eq!(until(&replicas).1, ASIDE, "one failure is noted once");
        let later = until(&replicas).0 + Duration::from_millis(1);
        replicas.ended(&bad, false, later);
        assert_eq!(until(&replicas).1, 2 * ASIDE);
        replicas.ended(&bad, true, later);
        assert!(replicas.lock().agents[&bad].aside.is_none());
    }
}
