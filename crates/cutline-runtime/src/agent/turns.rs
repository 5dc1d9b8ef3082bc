//! A queue in which every caller waits in a line of its own, and lines take turns.
//!
//! However many requests one caller has waiting, another's next one waits for at most one of each
//! line (Nagle, "On packet switches with infinite storage", 1985).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Lines by caller; `T` waits in them.
#[derive(Debug)]
pub(super) struct Turns<C, T> {
    lines: Mutex<Lines<C, T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Lines<C, T> {
    waiting: BTreeMap<C, VecDeque<T>>,
    /// Callers with something waiting, each once; the first is next.
    order: VecDeque<C>,
    closed: bool,
}

impl<C: Ord + Clone, T> Turns<C, T> {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        let (waiting, order) = (BTreeMap::new(), VecDeque::new());
        let lines = Mutex::new(Lines { waiting, order, closed: false });
        Self { lines, changed: Condvar::new() }
    }

    /// Puts something at the end of its caller's line; gives it back once the queue is closed.
    pub(super) fn push(&self, caller: C, item: T) -> Result<(), T> {
        let mut lines = self.lock();
        if lines.closed {
            return Err(item);
        }
        let line = lines.waiting.entry(caller.clone()).or_default();
        line.push_back(item);
        if line.len() == 1 {
            lines.order.push_back(caller);
        }
        drop(lines);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for the next in turn; `None` once the queue is closed and empty. O(log callers).
    pub(super) fn pop(&self) -> Option<T> {
        let mut lines = self.lock();
        loop {
            if let Some(item) = lines.next() {
                return Some(item);
            }
            if lines.closed {
                return None;
            }
            lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next in turn, if anybody waits. O(log callers).
    pub(super) fn next(&self) -> Option<T> {
        self.lock().next()
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.values().map(VecDeque::len).sum()
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines<C, T>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Ord + Clone, T> Lines<C, T> {
    fn next(&mut self) -> Option<T> {
        let caller = self.order.pop_front()?;
        let line = self.waiting.get_mut(&caller)?;
        let item = line.pop_front();
        match line.is_empty() {
            true => drop(self.waiting.remove(&caller)),
            false => self.order.push_back(caller),
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_take_turns() {
        let turns = Turns::new();
        for (caller, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            turns.push(caller, item).unwrap();
        }
        turns.close();
        assert_eq!(turns.push("a", 7), Err(7));
        let order: Vec<i32> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn whoever_waits_is_woken() {
        let turns = std::sync::Arc::new(Turns::new());
        let waiting = std::thread::spawn({
            let turns = std::sync::Arc::clone(&turns);
            move || (turns.pop(), turns.pop())
        });
        turns.push(0, "item").unwrap();
        turns.close();
        assert_eq!(waiting.join().unwrap(), (Some("item"), None));
    }

    proptest! {
        /// Every item comes out once, each caller's in its order, and between two turns of a caller
        /// who waits all along every other who waits has at most one.
        #[test]
        fn nobody_is_passed_twice(steps in prop::collection::vec(prop::option::of(0..5u8), 1..80)) {
            let turns = Turns::new();
            let (mut pushed, mut popped) = (Vec::new(), Vec::new());
            let mut last: BTreeMap<u8, usize> = BTreeMap::new();
            let mut since: BTreeMap<u8, BTreeMap<u8, u32>> = BTreeMap::new();
            let closing = std::iter::repeat_n(None, steps.len());
            for (number, step) in steps.iter().copied().chain(closing).enumerate() {
                if let Some(caller) = step {
                    pushed.push((caller, number));
                    turns.push(caller, (caller, number)).unwrap();
                    since.entry(caller).or_default();
                    continue;
                }
                let Some((caller, number)) = turns.lock().next() else { continue };
                popped.push((caller, number));
                prop_assert!(last.insert(caller, number).is_none_or(|before| before < number));
                for (&other, passed) in &mut since {
                    if other != caller {
                        let count = passed.entry(caller).or_default();
                        *count += 1;
                        prop_assert!(*count <= 1, "{caller} passed {other} twice");
                    }
                }
                since.remove(&caller);
                if turns.lock().waiting.contains_key(&caller) {
                    since.insert(caller, BTreeMap::new());
                }
            }
            popped.sort_by_key(|&(_, number)| number);
            prop_assert_eq!(popped, pushed);
        }
    }
}
