//! Commands to a link, and files of them with times.
//!
//! ```text
//! # seconds since the start, then what changes
//! 0    up=20mbit down=50mbit delay=10ms
//! 12.5 up=5mbit
//! 30   cut
//! 32   resume
//! ```

use std::sync::Arc;

use cutline_core::units::Nanos;

use super::{Change, LinkError, proxy, proxy::Shared};
use crate::pace::timer::precise_sleeps;

/// Something that happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Its shape changes.
    Set(Change),
    /// Nothing passes any more.
    Cut,
    /// It passes again.
    Resume,
    /// Every connection is closed, in the middle of what it carries.
    Reset,
}

/// A command with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Time since the link started.
    pub at: Nanos,
    /// What happens.
    pub command: Command,
}

/// Reads a schedule: one step per line, empty lines and `#` comments ignored; sorted by time.
pub fn parse_schedule(text: &str) -> Result<Vec<Step>, LinkError> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let steps = lines.filter(|line| !line.is_empty()).map(|line| {
        let (seconds, command) =
            line.split_once(char::is_whitespace).ok_or_else(|| error(line, "a time, then what"))?;
        let at = format!("{seconds}s").parse().map_err(|_| error(line, "a time in seconds"))?;
        Ok(Step { at, command: parse_command(command)? })
    });
    let mut steps = steps.collect::<Result<Vec<_>, LinkError>>()?;
    steps.sort_by_key(|step| step.at);
    Ok(steps)
}

/// Reads `cut`, `resume`, `reset`, or changes such as `up=5mbit delay=10ms` (rates also `unlimited`).
pub fn parse_command(text: &str) -> Result<Command, LinkError> {
    match text.trim() {
        "cut" => return Ok(Command::Cut),
        "resume" => return Ok(Command::Resume),
        "reset" => return Ok(Command::Reset),
        "" => {
            let expected = "expected `up=5mbit`, `delay=10ms`, `cut`, `resume` or `reset`";
            return Err(error(text, expected));
        }
        _ => {}
    }
    let mut change = Change::default();
    for word in text.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let rate = || match value {
            "unlimited" => Ok(None),
            _ => value.parse().map(Some).map_err(|e| error(word, &format!("{e}"))),
        };
        let time = || value.parse().map_err(|e| error(word, &format!("{e}")));
        match key {
            "up" => change.up = Some(rate()?),
            "down" => change.down = Some(rate()?),
            "delay" => change.delay = Some(time()?),
            "jitter" => change.jitter = Some(time()?),
            _ => {
                let expected = "expected up=, down=, delay=, jitter=, cut, resume or reset";
                return Err(error(word, expected));
            }
        }
    }
    Ok(Command::Set(change))
}

impl Command {
    /// Makes it happen.
    pub(super) fn apply(self, link: &Shared) {
        match self {
            Command::Set(change) => link.set(change),
            Command::Cut => link.cut(),
            Command::Resume => link.resume(),
            Command::Reset => link.reset(),
        }
    }
}

/// Carries out the steps at their times.
pub(super) fn spawn(steps: Vec<Step>, shared: &Arc<Shared>) -> Result<(), LinkError> {
    if steps.is_empty() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    proxy::spawn("link-schedule", move || {
        precise_sleeps();
        for step in steps {
            if !shared.sleep_until(step.at) {
                return;
            }
            step.command.apply(&shared);
        }
    })
}

fn error(text: &str, reason: &str) -> LinkError {
    LinkError::Command { text: text.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use cutline_core::units::BytesPerSec;

    use super::*;

    #[test]
    fn schedules_parse_and_sort() {
        let text = "# a day\n30 cut\n\n 0 up=20mbit delay=10ms # morning\n30.5 resume\n";
        let steps = parse_schedule(text).unwrap();
        let morning = Change {
            up: Some(Some(BytesPerSec(2_500_000))),
            delay: Some(Nanos(10_000_000)),
            ..Change::default()
        };
        assert_eq!(
            steps,
            [
                Step { at: Nanos(0), command: Command::Set(morning) },
                Step { at: Nanos(30_000_000_000), command: Command::Cut },
                Step { at: Nanos(30_500_000_000), command: Command::Resume },
            ]
        );
    }

    #[test]
    fn bad_lines_are_named() {
        for bad in ["5", "x cut", "5 jump", "5 up=", "5 up=20", "5 delay=fast", "-1 cut"] {
            let error = parse_schedule(bad).unwrap_err().to_string();
            assert!(error.contains("is not understood"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_rate_may_be_lifted() {
        let lifted = Change { down: Some(None), ..Change::default() };
        assert_eq!(parse_command("down=unlimited").unwrap(), Command::Set(lifted));
    }
}
