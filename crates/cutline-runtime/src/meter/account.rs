//! Adding up what a sensor tells, by a thread that asks it at a fixed rate.
//!
//! The sum is a machine without a clock ([`Account`]); [`Watched`] gives it the time. At the mark and
//! when energy is read the sensor is asked besides, so that a counter's energy is exact between the
//! two, and samples of power reach to both ends.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{LONGEST_GAP, Meter, MeterError, Reading};

/// A sensor that is asked again and again.
pub(super) trait Sensor: Send + 'static {
    /// The meter's name.
    const NAME: &'static str;

    /// From one time that it is asked to the next: often enough that no counter wraps around twice,
    /// and no change of power is overlooked that matters.
    const PERIOD: Duration;

    /// What it covers.
    fn covers(&self) -> String;

    /// What it says now.
    fn look(&mut self) -> Result<Look, MeterError>;
}

/// What a sensor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Energy since it was asked before, in microjoule.
    Energy(u64),
    /// Power now, in microwatt.
    Power(u64),
}

/// The energy since the mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    marked: Duration,
    last: Option<(Duration, Look)>,
    /// In microwatt times nanoseconds, twice: a trapezoid is a half of a sum.
    twice: u128,
    gap: Option<Duration>,
}

impl Account {
    /// Adds what the sensor said at this time; times ascend.
    pub(super) fn add(&mut self, now: Duration, look: Look) {
        let from = self.last.replace((now, look));
        match (from, look) {
            (_, Look::Energy(microjoules)) => {
                // A microjoule is a microwatt for a second.
                self.twice += 2 * u128::from(microjoules) * 1_000_000_000;
            }
            (Some((then, Look::Power(before))), Look::Power(after)) => {
                let time = now.saturating_sub(then);
                if time > LONGEST_GAP {
                    self.gap = self.gap.max(Some(time));
                }
                self.twice += (u128::from(before) + u128::from(after)) * time.as_nanos();
            }
            (_, Look::Power(_)) => {}
        }
    }

    /// Forgets what was before the last that was added.
    pub(super) fn mark(&mut self) {
        let last = self.last;
        *self =
            Self { marked: last.map_or(Duration::ZERO, |(now, _)| now), last, ..Self::default() };
    }

    /// The energy from the mark to the last that was added.
    pub(super) fn reading(&self) -> Result<Reading, MeterError> {
        if let Some(gap) = self.gap {
            return Err(MeterError::Gap(gap));
        }
        let now = self.last.map_or(self.marked, |(now, _)| now);
        let energy = self.twice / 2_000_000_000;
        Ok(Reading {
            energy_uj: u64::try_from(energy).unwrap_or(u64::MAX),
            time: now.saturating_sub(self.marked),
        })
    }
}

/// A sensor with the thread that asks it. The thread ends with it.
pub(super) struct Watched<S> {
    shared: Arc<Mutex<Shared<S>>>,
    /// Dropped to end the thread.
    _ending: mpsc::Sender<()>,
}

struct Shared<S> {
    sensor: S,
    account: Account,
    started: Instant,
    /// The first failure since the mark.
    failed: Option<MeterError>,
}

impl<S: Sensor> Shared<S> {
    fn look(&mut self) -> Result<(), MeterError> {
        let before = self.started.elapsed();
        let look = self.sensor.look()?;
        // A sensor that takes a while spoke in the middle of it.
        let now = before + (self.started.elapsed() - before) / 2;
        self.account.add(now, look);
        Ok(())
    }
}

impl<S: Sensor> Watched<S> {
    /// Asks the sensor a first time, and has a thread ask it from then on.
    pub(super) fn start(sensor: S) -> Result<Self, MeterError> {
        let (account, started) = (Account::default(), Instant::now());
        let mut shared = Shared { sensor, account, started, failed: None };
        shared.look()?;
        shared.account.mark();
        let shared = Arc::new(Mutex::new(shared));
        let (ending, ended) = mpsc::channel::<()>();
        let theirs = Arc::clone(&shared);
        let ask = move || {
            while ended.recv_timeout(S::PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                let mut shared = lock(&theirs);
                if let Err(error) = shared.look() {
                    shared.failed.get_or_insert(error);
                }
            }
        };
        let named = thread::Builder::new().name("meter".to_owned());
        named.spawn(ask).map_err(|error| MeterError::Unreadable {
            path: S::NAME.into(),
            cause: format!("no thread to watch it: {error}"),
        })?;
        Ok(Self { shared, _ending: ending })
    }
}

fn lock<S>(shared: &Mutex<Shared<S>>) -> MutexGuard<'_, Shared<S>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Sensor> Meter for Watched<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn covers(&self) -> String {
        lock(&self.shared).sensor.covers()
    }

    fn mark(&mut self) -> Result<(), MeterError> {
        let mut shared = lock(&self.shared);
        shared.look()?;
        shared.account.mark();
        shared.failed = None;
        Ok(())
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let mut shared = lock(&self.shared);
        shared.look()?;
        match &shared.failed {
            Some(error) => Err(error.clone()),
            None => shared.account.reading(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn power_between_two_samples_changes_linearly() {
        let mut account = Account::default();
        account.add(at(0), Look::Power(1_000_000));
        account.add(at(500), Look::Power(3_000_000));
        account.add(at(1500), Look::Power(3_000_000));
        // A second of 3 W and half a second of 2 W on average.
        let expected = Reading { energy_uj: 4_000_000, time: at(1500) };
        assert_eq!(account.reading(), Ok(expected));
        assert_eq!(expected.power().0, 2_666_666);
    }

    #[test]
    fn a_mark_forgets_what_was_before_and_keeps_the_sample_at_it() {
        let mut account = Account::default();
        account.add(at(0), Look::Power(9_000_000));
        account.add(at(1000), Look::Power(2_000_000));
        account.mark();
        account.add(at(2000), Look::Power(4_000_000));
        assert_eq!(account.reading(), Ok(Reading { energy_uj: 3_000_000, time: at(1000) }));
        account.mark();
        assert_eq!(account.reading(), Ok(Reading::default()));
    }

    #[test]
    fn a_gap_is_told_until_the_next_mark_unless_a_counter_spans_it() {
        let mut account = Account::default();
        account.add(at(0), Look::Power(1));
        account.add(at(2000), Look::Power(1));
        assert!(account.reading().is_ok());
        account.add(at(4001), Look::Power(1));
        account.add(at(4101), Look::Power(1));
        assert_eq!(account.reading(), Err(MeterError::Gap(at(2001))));
        account.mark();
        assert!(account.reading().is_ok());
        let mut counter = Account::default();
        counter.add(at(0), Look::Energy(0));
        counter.mark();
        counter.add(at(60_000), Look::Energy(7));
        assert_eq!(counter.reading(), Ok(Reading { energy_uj: 7, time: at(60_000) }));
    }

    #[test]
    fn energies_add_up_to_the_end_of_the_scale_without_overflow() {
        let mut account = Account::default();
        account.add(at(0), Look::Power(u64::MAX));
        account.add(at(2000), Look::Power(u64::MAX));
        account.add(at(2001), Look::Energy(u64::MAX));
        assert_eq!(account.reading().unwrap().energy_uj, u64::MAX);
    }
}
