//! A machine that behaves like a slower device: pacing by sleeping.
//!
//! After every piece of work a [`Pacer`] sleeps K - 1 times as long as the work took. What a sleep
//! missed or overdid is carried into the next one, so that the total is exact although no single
//! sleep is. Time in which the work was ready and another process had the processor is no work: the
//! slow device would not have waited, and what it waits here comes off the sleep. Quotas of the kernel cannot do this: they let short bursts through at full speed.
//!
//! ```text
//! work ██░░░░░░██░░░░░░   K = 4: two units of work, six of sleep
//! ```
//!
//! A machine can imitate only as many devices as it has cores for: [`claim`] keeps a register of
//! what the agents of one machine ask for together.

use std::{
    fmt,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod claim;
pub mod timer;

/// How many times slower than the machine a device is, in thousandths; at least 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Slowdown(u64);

/// A slowdown that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a slowdown: a number from 1 to 1000000, such as `4` or `2.5`")]
pub struct SlowdownError(String);

impl Slowdown {
    /// The machine's own speed.
    pub const NONE: Self = Self(1000);

    /// Largest slowdown in thousandths.
    const MAX: u64 = 1_000_000_000;

    /// A slowdown in thousandths: 2500 is two and a half times slower.
    pub fn from_permille(permille: u64) -> Result<Self, SlowdownError> {
        match permille {
            1000..=Self::MAX => Ok(Self(permille)),
            other => Err(SlowdownError(format!("{other}/1000"))),
        }
    }

    /// In thousandths.
    pub fn permille(self) -> u64 {
        self.0
    }

    /// The duration on the slow device of work that takes `own` on this machine.
    pub fn stretch(self, own: Duration) -> Duration {
        nanos(own.as_nanos().saturating_mul(u128::from(self.0)) / 1000)
    }
}

impl FromStr for Slowdown {
    type Err = SlowdownError;
    fn from_str(text: &str) -> Result<Self, SlowdownError> {
        let error = || SlowdownError(text.to_owned());
        let factor: f64 = text.trim().parse().map_err(|_| error())?;
        if !(1.0..=1e6).contains(&factor) {
            return Err(error());
        }
        Self::from_permille((factor * 1000.0).round() as u64).map_err(|_| error())
    }
}

impl fmt::Display for Slowdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / 1000.0)
    }
}

impl TryFrom<u64> for Slowdown {
    type Error = SlowdownError;
    fn try_from(permille: u64) -> Result<Self, SlowdownError> {
        Self::from_permille(permille)
    }
}

impl From<Slowdown> for u64 {
    fn from(slowdown: Slowdown) -> u64 {
        slowdown.0
    }
}

/// Time as a pacer sees it; the machine's in earnest, a virtual one in tests.
pub trait Clock {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Returns after about this long.
    fn sleep(&self, duration: Duration);
    /// How long this thread has waited for a processor since it began.
    fn waited(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }

    fn waited(&self) -> Duration {
        timer::waited().unwrap_or_default()
    }
}

/// Stretches pieces of work, one at a time.
#[derive(Clone, Debug)]
pub struct Pacer<C = SystemClock> {
    slowdown: Slowdown,
    /// Sleep that is owed, in nanoseconds; negative where earlier sleeps took too long.
    debt: i128,
    clock: C,
}

impl Pacer {
    /// A pacer on the machine's clock.
    pub fn new(slowdown: Slowdown) -> Self {
        Self::with_clock(slowdown, SystemClock::default())
    }
}

impl<C: Clock> Pacer<C> {
    /// A pacer on a clock of the caller's.
    pub fn with_clock(slowdown: Slowdown, clock: C) -> Self {
        Self { slowdown, debt: 0, clock }
    }

    /// The slowdown.
    pub fn slowdown(&self) -> Slowdown {
        self.slowdown
    }

    /// Does the work, then sleeps until the slow device would have done it. Returns the work's
    /// result and how long both took.
    pub fn pace<T>(&mut self, work: impl FnOnce() -> T) -> (T, Duration) {
        let start = self.clock.now();
        if self.slowdown == Slowdown::NONE {
            let result = work();
            return (result, self.clock.now().saturating_sub(start));
        }
        let waited = self.clock.waited();
        let result = work();
        let done = self.clock.now();
        let taken = done.saturating_sub(start);
        let own = taken.saturating_sub(self.clock.waited().saturating_sub(waited));
        self.sleep_off(self.slowdown.stretch(own), taken, done);
        (result, self.clock.now().saturating_sub(start))
    }

    /// Does the work, then sleeps until a device would have done it that always takes `fixed`,
    /// however fast this machine is at the moment; work that takes longer here shortens the sleeps
    /// after it. Returns the work's result and how long both took.
    pub fn pace_fixed<T>(&mut self, fixed: Duration, work: impl FnOnce() -> T) -> (T, Duration) {
        let start = self.clock.now();
        let result = work();
        let done = self.clock.now();
        self.sleep_off(fixed, done.saturating_sub(start), done);
        (result, self.clock.now().saturating_sub(start))
    }

    /// Sleeps for what is owed after work that was done just now, and should have taken `due`.
    fn sleep_off(&mut self, due: Duration, taken: Duration, done: Duration) {
        self.debt += signed(due) - signed(taken);
        if self.debt > 0 {
            self.clock.sleep(nanos(self.debt.unsigned_abs()));
            self.debt -= signed(self.clock.now().saturating_sub(done));
        }
    }
}

fn signed(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A clock whose sleeps overrun by a fixed time.
    struct Virtual {
        now: Cell<Duration>,
        overrun: Duration,
        slept: Cell<u32>,
        waited: Cell<Duration>,
    }

    impl Virtual {
        fn new(overrun: Duration) -> Self {
            Self {
                now: Cell::new(Duration::ZERO),
                overrun,
                slept: Cell::new(0),
                waited: Cell::new(Duration::ZERO),
            }
        }
    }

    impl Clock for &Virtual {
        fn now(&self) -> Duration {
            self.now.get()
        }
        fn sleep(&self, duration: Duration) {
            self.now.set(self.now.get() + duration + self.overrun);
            self.slept.set(self.slept.get() + 1);
        }
        fn waited(&self) -> Duration {
            self.waited.get()
        }
    }

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    #[test]
    fn work_takes_k_times_as_long() {
        for (permille, expected) in [(1000, 10 * MS), (1500, 15 * MS), (4000, 40 * MS)] {
            let clock = Virtual::new(Duration::ZERO);
            let mut pacer = Pacer::with_clock(Slowdown(permille), &clock);
            let ((), took) = pacer.pace(|| clock.now.set(clock.now.get() + 10 * MS));
            assert_eq!(took, expected, "{permille}");
        }
    }

    #[test]
    fn waiting_for_a_processor_is_no_work() {
        // Of the work's 10 ms so many were spent waiting; the slow device takes K times the others.
        for (waited, expected) in [(0, 40), (4, 24), (8, 10), (10, 10)] {
            let clock = Virtual::new(Duration::ZERO);
            let mut pacer = Pacer::with_clock(Slowdown(4000), &clock);
            let work = || {
                clock.now.set(clock.now.get() + 10 * MS);
                clock.waited.set(waited * MS);
            };
            assert_eq!(pacer.pace(work).1, expected * MS, "{waited}");
        }
    }

    #[test]
    fn what_a_sleep_overdoes_the_next_ones_make_up() {
        for overrun in [Duration::ZERO, 60 * US, 700 * US, 9 * MS] {
            let clock = Virtual::new(overrun);
            let mut pacer = Pacer::with_clock(Slowdown(3000), &clock);
            for _ in 0..1000 {
                pacer.pace(|| clock.now.set(clock.now.get() + MS));
            }
            let error = clock.now.get() - 3000 * MS;
            assert!(error <= overrun, "{overrun:?}: total off by {error:?}");
        }
    }

    #[test]
    fn work_of_a_fixed_time_takes_it_however_fast_the_machine_is() {
        for overrun in [Duration::ZERO, 60 * US] {
            let clock = Virtual::new(overrun);
            let mut pacer = Pacer::with_clock(Slowdown(4000), &clock);
            for work in [MS, 2 * MS, 4 * MS, 7 * MS] {
                let (_, took) = pacer.pace_fixed(5 * MS, || clock.now.set(clock.now.get() + work));
                assert!(took >= work && took <= work.max(5 * MS) + overrun, "{work:?}: {took:?}");
            }
            // What took longer is made up for by the next.
            let (_, took) = pacer.pace_fixed(5 * MS, || clock.now.set(clock.now.get() + MS));
            assert!(took <= 3 * MS + overrun, "{took:?}");
            let total = clock.now.get();
            assert!(total >= 25 * MS && total <= 25 * MS + overrun, "{total:?}");
        }
    }

    #[test]
    fn a_device_at_full_speed_never_sleeps() {
        let clock = Virtual::new(MS);
        let mut pacer = Pacer::with_clock(Slowdown::NONE, &clock);
        for _ in 0..10 {
            pacer.pace(|| clock.now.set(clock.now.get() + MS));
        }
        assert_eq!((clock.slept.get(), clock.now.get()), (0, 10 * MS));
    }

    #[test]
    fn slowdowns_parse_from_one_up() {
        for (text, permille) in [("1", 1000), ("2.5", 2500), (" 8 ", 8000), ("1.0004", 1000)] {
            assert_eq!(text.parse(), Ok(Slowdown(permille)), "{text}");
        }
        for bad in ["", "0.9", "-3", "nan", "inf", "1e9", "four"] {
            assert!(bad.parse::<Slowdown>().is_err(), "{bad}");
        }
    }
}
