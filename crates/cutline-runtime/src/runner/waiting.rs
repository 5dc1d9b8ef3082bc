//! Between a source of frames and the plan: a bounded queue, and what happens when it is full.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;

/// What a source does with a frame for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// It waits: every frame is run, however old it becomes.
    #[default]
    Block,
    /// It drops the frame that has waited longest: what is run is as new as it can be.
    DropOldest,
}

/// Frames that wait to be sent: a thread puts them in, a task takes them out, in order.
#[derive(Debug)]
pub struct WaitingRoom<T> {
    room: NonZeroUsize,
    when_full: WhenFull,
    state: Mutex<State<T>>,
    taken: Condvar,
    put: Notify,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    dropped: u64,
    closed: bool,
}

/// Nobody takes frames any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no more frames are taken")]
pub struct Closed;

impl<T> WaitingRoom<T> {
    /// Room for so many.
    pub fn new(room: NonZeroUsize, when_full: WhenFull) -> Self {
        let waiting = VecDeque::with_capacity(room.get());
        let state = Mutex::new(State { waiting, dropped: 0, closed: false });
        Self { room, when_full, state, taken: Condvar::new(), put: Notify::new() }
    }

    /// Puts a frame in: at once, or when there is room, as told. Blocks its thread.
    pub fn put(&self, frame: T) -> Result<(), Closed> {
        let mut state = self.lock();
        while !state.closed && state.waiting.len() >= self.room.get() {
            match self.when_full {
                WhenFull::Block => {
                    state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                WhenFull::DropOldest => {
                    state.waiting.pop_front();
                    state.dropped += 1;
                }
            }
        }
        if state.closed {
            return Err(Closed);
        }
        state.waiting.push_back(frame);
        self.put.notify_one();
        Ok(())
    }

    /// Nothing more goes in; what waits can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.taken.notify_all();
        self.put.notify_one();
    }

    /// Takes the frame that has waited longest; `None` when the room is closed and empty. One
    /// caller at a time; may be given up on and called again without losing a frame.
    pub async fn take(&self) -> Option<T> {
        loop {
            {
                let mut state = self.lock();
                if let Some(frame) = state.waiting.pop_front() {
                    self.taken.notify_one();
                    return Some(frame);
                }
                if state.closed {
                    return None;
                }
            }
            // A frame put in meanwhile has left a permit, so that this does not miss it.
            self.put.notified().await;
        }
    }

    /// How many frames were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn room(size: usize, when_full: WhenFull) -> Arc<WaitingRoom<u32>> {
        Arc::new(WaitingRoom::new(NonZeroUsize::new(size).unwrap(), when_full))
    }

    fn take_all(room: &WaitingRoom<u32>) -> Vec<u32> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut taken = Vec::new();
            while let Some(frame) = room.take().await {
                taken.push(frame);
            }
            taken
        })
    }

    #[test]
    fn a_source_that_blocks_loses_nothing() {
        let room = room(2, WhenFull::Block);
        let source = Arc::clone(&room);
        let source = thread::spawn(move || {
            (0..1000).for_each(|frame| source.put(frame).unwrap());
            source.close();
        });
        assert_eq!(take_all(&room), (0..1000).collect::<Vec<_>>());
        assert_eq!(room.dropped(), 0);
        source.join().unwrap();
    }

    #[test]
    fn a_source_that_drops_keeps_the_newest_and_counts_the_others() {
        let room = room(2, WhenFull::DropOldest);
        (0..10).for_each(|frame| room.put(frame).unwrap());
        room.close();
        assert_eq!(take_all(&room), [8, 9]);
        assert_eq!(room.dropped(), 8);
    }

    #[test]
    fn a_source_that_waits_for_room_is_told_when_nobody_takes_any_more() {
        let room = room(1, WhenFull::Block);
        room.put(0).unwrap();
        let source = Arc::clone(&room);
        let source = thread::spawn(move || source.put(1));
        room.close();
        assert_eq!(source.join().unwrap(), Err(Closed));
        assert_eq!(room.put(2), Err(Closed));
    }
}
