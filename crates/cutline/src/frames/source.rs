//! Where frames come from: files, folders, patterns, and pictures one after another in a stream.
//!
//! A thread of its own reads them, so that reading overlaps with everything else, and puts them
//! into a [`WaitingRoom`], at the pace of a camera where one is asked for.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cutline_runtime::{
    mjpeg::{self, MjpegError},
    runner::{Frame, WaitingRoom, WhenFull},
};

use super::Loader;
use crate::inputs::{expand_paths, extension};

/// Frames that wait to be sent: one is ready whenever the plan takes one, and none becomes old.
const WAITING: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");

/// What stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Bytes read at once from a stream of pictures.
const CHUNK: usize = 64 << 10;

/// Frames per second of a camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(f64);

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
        number.map(Self).ok_or_else(|| "expected frames per second, such as 30 or 0.5".to_owned())
    }
}

/// Where frames come from, in order.
#[derive(Debug)]
pub(crate) struct Source {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    File(PathBuf),
    /// JPEG pictures one after another.
    Video(PathBuf),
    StandardInput,
}

/// A frame on its way to the plan.
#[derive(Debug)]
pub(crate) struct Sourced {
    /// Its place among all frames of the source.
    pub(crate) index: u64,
    /// The file that it comes from; `-` for standard input.
    pub(crate) name: String,
    /// The frame, or why there is none.
    pub(crate) frame: Result<Frame, Unusable>,
}

/// Why a frame cannot be sent.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// A picture of a stream is damaged; others follow.
    Picture(anyhow::Error),
    /// The source itself failed; nothing follows.
    Source(anyhow::Error),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::File(path) | Part::Video(path) => write!(f, "{}", path.display()),
            Part::StandardInput => f.write_str(STANDARD_INPUT),
        }
    }
}

impl Source {
    /// `-` is standard input, `.mjpeg` and `.mjpg` are videos, folders and patterns are expanded.
    pub(crate) fn new(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        for path in paths {
            if path == Path::new(STANDARD_INPUT) {
                parts.push(Part::StandardInput);
                continue;
            }
            let files = expand_paths(std::slice::from_ref(path))?;
            parts.extend(files.into_iter().map(|file| match extension(&file).as_str() {
                "mjpeg" | "mjpg" => Part::Video(file),
                _ => Part::File(file),
            }));
        }
        if parts.iter().filter(|part| matches!(part, Part::StandardInput)).count() > 1 {
            bail!("standard input (`{STANDARD_INPUT}`) can be read once; it is given twice");
        }
        Ok(Self { parts })
    }

    /// Whether it may go on for ever.
    pub(crate) fn is_live(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::StandardInput))
    }

    /// Begins to read on a thread of its own, which ends with the source, or when the room closes.
    pub(crate) fn start(
        self,
        loader: Loader,
        rate: Option<Rate>,
        when_full: WhenFull,
    ) -> anyhow::Result<Arc<WaitingRoom<Sourced>>> {
        let room = Arc::new(WaitingRoom::new(WAITING, when_full));
        let mut reader =
            Reader { loader, next: 0, due: rate.map(Due::new), room: Arc::clone(&room) };
        let read = move || {
            // A closed room needs nothing more; what ended a source was put into the room.
            let _ = self.parts.iter().try_for_each(|part| reader.read(part));
            reader.room.close();
        };
        thread::Builder::new()
            .name("frames".to_owned())
            .spawn(read)
            .context("cannot start the thread that reads frames")?;
        Ok(room)
    }
}

/// Reads the parts of a source one after another.
struct Reader {
    loader: Loader,
    next: u64,
    due: Option<Due>,
    room: Arc<WaitingRoom<Sourced>>,
}

/// There is nothing more to read, or nobody to read for.
struct Ended;

impl Reader {
    fn read(&mut self, part: &Part) -> Result<(), Ended> {
        match part {
            Part::File(path) => {
                let frame = self.loader.load(path).map_err(Unusable::Source);
                self.put(part, frame)
            }
            Part::Video(path) => match File::open(path) {
                Ok(file) => self.video(part, BufReader::with_capacity(CHUNK, file)),
                Err(error) => {
                    let context = format!("cannot use input `{}`", path.display());
                    self.put(
                        part,
                        Err(Unusable::Source(anyhow::Error::new(error).context(context))),
                    )
                }
            },
            Part::StandardInput => {
                self.video(part, BufReader::with_capacity(CHUNK, io::stdin().lock()))
            }
        }
    }

    fn video(&mut self, part: &Part, input: impl BufRead) -> Result<(), Ended> {
        for picture in mjpeg::Pictures::new(input, mjpeg::MAX_PICTURE) {
            let frame = match picture {
                Ok(picture) => Ok(Frame::Picture(picture)),
                Err(error @ (MjpegError::Damaged { .. } | MjpegError::TooLarge { .. })) => {
                    Err(Unusable::Picture(error.into()))
                }
                Err(error) => {
                    let context = format!("cannot use input `{part}`");
                    Err(Unusable::Source(anyhow::Error::new(error).context(context)))
                }
            };
            self.put(part, frame)?;
        }
        Ok(())
    }

    fn put(&mut self, part: &Part, frame: Result<Frame, Unusable>) -> Result<(), Ended> {
        if let Some(due) = &mut self.due {
            due.wait();
        }
        let (index, name) = (self.next, part.to_string());
        let failed = matches!(frame, Err(Unusable::Source(_)));
        self.next += 1;
        match self.room.put(Sourced { index, name, frame }) {
            Ok(()) if !failed => Ok(()),
            _ => Err(Ended),
        }
    }
}

/// When the next frame of a camera comes.
struct Due {
    interval: Duration,
    next: Instant,
}

impl Due {
    fn new(rate: Rate) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / rate.0), next: Instant::now() }
    }

    /// Waits for the next frame's time. A frame that is late delays those behind it: a camera does
    /// not make up for what it missed.
    fn wait(&mut self) {
        let now = Instant::now();
        thread::sleep(self.next.saturating_duration_since(now));
        self.next = self.next.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_frames_per_second() {
        assert_eq!("30".parse(), Ok(Rate(30.0)));
        assert_eq!("0.5".parse(), Ok(Rate(0.5)));
        for bad in ["0", "-1", "nan", "inf", "fast", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn standard_input_is_read_once() {
        let twice = [PathBuf::from("-"), PathBuf::from("-")];
        assert!(Source::new(&twice).unwrap_err().to_string().contains("given twice"));
        let once = Source::new(&twice[..1]).unwrap();
        assert!(once.is_live());
        let files = Source::new(&[PathBuf::from("a.MJPG"), PathBuf::from("b.png")]).unwrap();
        assert!(matches!(files.parts[..], [Part::Video(_), Part::File(_)]), "{files:?}");
    }
}
