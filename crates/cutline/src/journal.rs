//! Which frames a run holds, in a file that outlives it: after a kill the next run tells what was lost.
//!
//! A run appends a record when it takes a frame, and another once the frame's line is written, each by
//! one system call and without forcing the medium: what a killed process has written stays, what was
//! written just before a power cut may not.
//!
//! ```text
//! cutline journal 1 next 0     every frame before this one was taken
//! + 0 "pictures/0.jpg"         taken
//! + 1 "pictures/1.jpg"
//! - 0                          its line was written
//! ```
//!
//! The line comes first and its record second, so a frame without an answer is never passed over; of
//! those that are told lost, the one whose line came last before the kill may have been answered.
//!
//! The file is locked while a run lives. It is replaced, never changed: when a run begins, after what
//! the one before lost was told; and whenever [`COMPACT_AFTER`] bytes were appended, by one that says
//! the same in a line for each frame under way. So it stays small however long a run goes on.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use cutline_runtime::files;
use serde::Serialize;

/// What a journal begins with; the number of the next frame follows.
const HEADER: &str = "cutline journal 1 next ";

/// Bytes of records after which the file is written anew: about a thousand frames.
const COMPACT_AFTER: u64 = 64 << 10;

/// Larger than any journal: some dozens of frames under way beside [`COMPACT_AFTER`].
const MAX_BYTES: u64 = 1 << 20;

/// Bytes of a frame's name that are kept.
const MAX_NAME: usize = 1024;

/// How often a journal that was replaced while it was opened is opened again.
const ATTEMPTS: usize = 8;

/// What a killed run left: empty where there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Frames that it held, ascending.
    pub lost: Vec<LostFrame>,
    /// The first frame that it had not taken, counted like those; 0 where no run was killed.
    pub next: u64,
}

/// A frame that was held by a run that was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostFrame {
    /// Its number in that run.
    pub frame: u64,
    /// The file that it came from; `-` for standard input.
    pub input: String,
}

/// A journal that is ours, and still says what the run before left.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: File,
    left: Left,
}

/// The journal of this run.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    ledger: Ledger,
    appended: u64,
}

impl Left {
    /// The same for people; `None` where no run was killed.
    pub fn describe(&self, journal: &Path) -> Option<String> {
        if self.next == 0 {
            return None;
        }
        let journal = journal.display();
        let mut text = format!("the run before was killed, says its journal `{journal}`: ");
        match self.lost.len() {
            0 => text.push_str("it held no frame"),
            1 => text.push_str("1 frame is lost, unless its line was written just before"),
            frames => {
                let _ = write!(
                    text,
                    "{frames} frames are lost, except one at most whose line was written just before"
                );
            }
        }
        for LostFrame { frame, input } in &self.lost {
            let _ = write!(text, "\n  lost: frame {frame} (`{input}`)");
        }
        let _ = write!(text, "\n  frames from {} on were not taken", self.next);
        Some(text)
    }
}

impl Opened {
    /// Locks a journal, which is made where there is none, and reads it. Refuses one that another run
    /// has, and any file that is no journal. Reads 1 MiB at most.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        // A link stays one: what it leads to is the journal.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        for _ in 0..ATTEMPTS {
            let file = open(&path).with_context(|| format!("cannot open the journal `{name}`"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(
                    "another run writes the journal `{name}`; wait for its end, or name another file"
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock the journal `{name}`"));
                }
            }
            // Its owner may have replaced the file and ended between the two steps.
            if is_at(&file, &path).with_context(|| format!("cannot open the journal `{name}`"))? {
                let ledger = read(&file).with_context(|| {
                    format!("`{name}` is not a journal of a run; name another file, or remove it")
                })?;
                return Ok(Self { path, file, left: ledger.left() });
            }
        }
        bail!("the journal `{name}` is replaced again and again; do other runs write it?")
    }

    /// What the run before left.
    pub fn left(&self) -> &Left {
        &self.left
    }

    /// Begins the journal of this run, which forgets what the one before left: that must have been
    /// told.
    pub fn begin(self) -> anyhow::Result<Journal> {
        let Self { path, file, .. } = self;
        let mut journal = Journal { path, file, ledger: Ledger::default(), appended: 0 };
        journal.write_anew()?;
        Ok(journal)
    }
}

impl Journal {
    /// Notes that a frame was taken. Frames come in order, each once.
    pub fn taken(&mut self, frame: u64, input: &str) -> anyhow::Result<()> {
        let input = clip(input);
        self.keep_small()?;
        self.ledger.take(frame, input.to_owned())?;
        self.append(&taken(frame, input))
    }

    /// Notes that the line of a frame that was taken is written.
    pub fn answered(&mut self, frame: u64) -> anyhow::Result<()> {
        self.keep_small()?;
        self.ledger.answer(frame)?;
        self.append(&format!("- {frame}\n"))
    }

    /// Ends it: the next run finds nothing, unless frames are left whose lines could not be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        if self.ledger.held.is_empty() {
            self.ledger = Ledger::default();
            self.write_anew()?;
        }
        Ok(())
    }

    fn keep_small(&mut self) -> anyhow::Result<()> {
        if self.appended >= COMPACT_AFTER {
            self.write_anew()?;
        }
        Ok(())
    }

    fn append(&mut self, record: &str) -> anyhow::Result<()> {
        let written = self.file.write_all(record.as_bytes());
        self.appended += record.len() as u64;
        written.with_context(|| self.failed())
    }

    /// Puts a file that says the same in as few lines as can be in the place of this one.
    fn write_anew(&mut self) -> anyhow::Result<()> {
        let replaced = || -> anyhow::Result<File> {
            let mut file = files::beside(&self.path)?;
            file.write_all(self.ledger.text().as_bytes())?;
            // Nobody else knows the file yet.
            file.as_file().try_lock()?;
            Ok(file.persist(&self.path)?)
        };
        // The lock of the file before goes with it, and only now.
        self.file = replaced().with_context(|| self.failed())?;
        self.appended = 0;
        Ok(())
    }

    fn failed(&self) -> String {
        format!("cannot write the journal `{}`; is the disk full", self.path.display())
    }
}

/// What the records of a journal come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ledger {
    held: BTreeMap<u64, String>,
    next: u64,
}

impl Ledger {
    fn left(&self) -> Left {
        let lost = self.held.iter();
        let lost = lost.map(|(&frame, input)| LostFrame { frame, input: input.clone() });
        Left { lost: lost.collect(), next: self.next }
    }

    fn take(&mut self, frame: u64, input: String) -> anyhow::Result<()> {
        ensure!(frame >= self.next, "frame {frame} is taken after frame {}", self.next - 1);
        self.next = frame.checked_add(1).context("there is no frame of that number")?;
        self.held.insert(frame, input);
        Ok(())
    }

    fn answer(&mut self, frame: u64) -> anyhow::Result<()> {
        let held = self.held.remove(&frame);
        held.map(drop).with_context(|| format!("frame {frame} is answered, but was not held"))
    }

    /// Its shortest journal.
    fn text(&self) -> String {
        let mut text = format!("{HEADER}{}\n", self.next);
        text.extend(self.held.iter().map(|(&frame, input)| taken(frame, input)));
        text
    }

    /// Reads a journal. A last record that is not whole counts as not written: the process was killed
    /// while it wrote.
    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let (whole, torn) = bytes.split_at(whole);
        if whole.is_empty() {
            let shorter = torn.len().min(HEADER.len());
            let begun = torn[..shorter] == HEADER.as_bytes()[..shorter];
            ensure!(
                begun && torn[shorter..].iter().all(u8::is_ascii_digit),
                "line 1 is none of it"
            );
            return Ok(Self::default());
        }
        let text = std::str::from_utf8(whole).context("it is not text")?;
        let mut lines = text.lines().zip(1..);
        let next = lines.next().and_then(|(line, _)| number(line.strip_prefix(HEADER)?));
        let next = next.context("line 1 is none of it")?;
        let mut ledger = Self::default();
        let mut begun = false;
        for (line, at) in lines {
            // Frames under way when the file was written come first, and are before its next one.
            let record = Record::parse(line).with_context(|| format!("line {at} is none of it"))?;
            if !begun && !matches!(record, Record::Taken(frame, _) if frame < next) {
                (begun, ledger.next) = (true, ledger.next.max(next));
            }
            let entered = match record {
                Record::Taken(frame, input) => ledger.take(frame, input),
                Record::Answered(frame) => ledger.answer(frame),
            };
            entered.with_context(|| format!("line {at} contradicts those before"))?;
        }
        ledger.next = ledger.next.max(next);
        Ok(ledger)
    }
}

enum Record {
    Taken(u64, String),
    Answered(u64),
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        if let Some(frame) = line.strip_prefix("- ") {
            return number(frame).map(Record::Answered);
        }
        let (frame, input) = line.strip_prefix("+ ")?.split_once(' ')?;
        Some(Record::Taken(number(frame)?, serde_json::from_str(input).ok()?))
    }
}

/// A number as it is written here, and in no other way.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The record of a frame that was taken. A name may hold line breaks: it is written as JSON.
fn taken(frame: u64, input: &str) -> String {
    format!("+ {frame} {}\n", serde_json::Value::from(input))
}

/// The beginning of a name, at most [`MAX_NAME`] bytes.
fn clip(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

/// Opens a regular file, or makes one; what else may have that name is left alone.
fn open(path: &Path) -> anyhow::Result<File> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => bail!("it is not a regular file"),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(File::options().read(true).append(true).create(true).open(path)?)
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let ours = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        Ok(true)
    }
}

fn read(file: &File) -> anyhow::Result<Ledger> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(anyhow!("it is larger than {MAX_BYTES} bytes")),
        false => Ledger::parse(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left(lost: &[(u64, &str)], next: u64) -> Left {
        let lost = lost.iter();
        let lost = lost.map(|&(frame, input)| LostFrame { frame, input: input.to_owned() });
        Left { lost: lost.collect(), next }
    }

    fn begin(path: &Path) -> Journal {
        Opened::open(path).unwrap().begin().unwrap()
    }

    #[test]
    fn a_journal_says_which_frames_were_taken_and_not_answered() {
        let table = [
            ("", left(&[], 0)),
            ("cutline jour", left(&[], 0)),
            ("cutline journal 1 next 12", left(&[], 0)),
            ("cutline journal 1 next 0\n", left(&[], 0)),
            ("cutline journal 1 next 12\n", left(&[], 12)),
            ("cutline journal 1 next 0\n+ 0 \"a\"\n+ 1 \"b\"\n- 0\n", left(&[(1, "b")], 2)),
            ("cutline journal 1 next 0\n+ 3 \"a\"\n+ 7 \"b\"\n- 7\n", left(&[(3, "a")], 8)),
            (
                "cutline journal 1 next 9\n+ 5 \"a\"\n+ 9 \"\\n\"\n",
                left(&[(5, "a"), (9, "\n")], 10),
            ),
            ("cutline journal 1 next 9\n+ 5 \"a\"\n- 5\n+ 9 \"b\"\n- 9\n", left(&[], 10)),
            ("cutline journal 1 next 0\n+ 0 \"a\"\n- 0", left(&[(0, "a")], 1)),
            ("cutline journal 1 next 0\n+ 0 \"a\"\n+ 1 \"", left(&[(0, "a")], 1)),
        ];
        for (text, expected) in table {
            assert_eq!(Ledger::parse(text.as_bytes()).unwrap().left(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_journal_is_refused_and_left_as_it_is() {
        let after_header = |records: &str| format!("cutline journal 1 next 3\n{records}\n");
        let table: [(Vec<u8>, &str); 12] = [
            (b"dear diary".to_vec(), "line 1"),
            (b"cutline journal 1 next 1x".to_vec(), "line 1"),
            (b"cutline journal 2 next 0\n".to_vec(), "line 1"),
            (b"cutline journal 1 next +1\n".to_vec(), "line 1"),
            (b"cutline journal 1 next 99999999999999999999\n".to_vec(), "line 1"),
            (b"\xff\xfe\n".to_vec(), "not text"),
            (after_header("- 3").into(), "line 2 contradicts"),
            (after_header("+ 4 \"a\"\n+ 4 \"a\"").into(), "line 3 contradicts"),
            (after_header("+ 4 \"a\"\n+ 1 \"a\"").into(), "line 3 contradicts"),
            (after_header("+ 18446744073709551615 \"a\"").into(), "no frame of that number"),
            (after_header("+ 4 a").into(), "line 2"),
            (vec![b'0'; MAX_BYTES as usize + 1], "larger than"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        for (bytes, words) in table {
            fs::write(&path, &bytes).unwrap();
            let error = format!("{:#}", Opened::open(&path).unwrap_err());
            assert!(error.contains("is not a journal of a run"), "{error}");
            assert!(error.contains(words), "{words}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        let error = format!("{:#}", Opened::open(folder.path()).unwrap_err());
        assert!(error.contains("cannot open the journal") && error.contains("regular"), "{error}");
    }

    #[test]
    fn a_run_that_was_killed_leaves_its_frames_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut killed = begin(&path);
        for frame in 0..4 {
            killed.taken(frame, &format!("{frame}.jpg")).unwrap();
        }
        killed.answered(0).unwrap();
        killed.answered(2).unwrap();
        drop(killed);
        let expected = left(&[(1, "1.jpg"), (3, "3.jpg")], 4);
        // Told again until another run begins.
        assert_eq!(Opened::open(&path).unwrap().left(), &expected);
        let opened = Opened::open(&path).unwrap();
        assert_eq!(opened.left(), &expected);
        let text = opened.left().describe(&path).unwrap();
        assert!(text.contains("frame 1 (`1.jpg`)") && text.contains("from 4 on"), "{text}");
        drop(opened.begin().unwrap());
        assert_eq!(Opened::open(&path).unwrap().left(), &Left::default());
        assert_eq!(Left::default().describe(&path), None);
    }

    #[test]
    fn a_run_that_ended_leaves_nothing_unless_lines_could_not_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut ended = begin(&path);
        ended.taken(0, "a").unwrap();
        ended.answered(0).unwrap();
        ended.finish().unwrap();
        assert_eq!(Opened::open(&path).unwrap().left(), &Left::default());
        let mut unread = begin(&path);
        unread.taken(0, "a").unwrap();
        unread.finish().unwrap();
        assert_eq!(Opened::open(&path).unwrap().left(), &left(&[(0, "a")], 1));
    }

    #[test]
    fn a_journal_has_one_run_at_a_time_also_once_it_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let refused = || {
            let error = Opened::open(&path).unwrap_err().to_string();
            assert!(error.contains("another run writes the journal"), "{error}");
        };
        let opened = Opened::open(&path).unwrap();
        refused();
        let mut journal = opened.begin().unwrap();
        refused();
        for frame in 0..4000 {
            journal.taken(frame, "a").unwrap();
            journal.answered(frame).unwrap();
        }
        refused();
        drop(journal);
        assert!(Opened::open(&path).is_ok());
    }

    #[test]
    fn a_journal_stays_small_and_knows_its_oldest_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let long = "\u{1}".repeat(5000);
        let mut journal = begin(&path);
        for frame in 0..64 {
            journal.taken(frame, &long).unwrap();
        }
        for frame in 64..9000 {
            journal.taken(frame, "x").unwrap();
            journal.answered(frame).unwrap();
            assert!(fs::metadata(&path).unwrap().len() < MAX_BYTES);
        }
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
        drop(journal);
        let left = Opened::open(&path).unwrap().left;
        assert_eq!((left.lost.len(), left.next), (64, 9000));
        assert_eq!(left.lost[0].input.len(), MAX_NAME);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_journal_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("j"), folder.path().join("link"));
        drop(begin(&path));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut journal = begin(&link);
        journal.taken(0, "a").unwrap();
        assert!(Opened::open(&path).is_err(), "it is the same one");
        drop(journal);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(Opened::open(&path).unwrap().left(), &left(&[(0, "a")], 1));
    }

    proptest! {
        /// Whatever a run did and wherever its file ends, what the file says is true of some moment:
        /// the frames that were taken up to it and not answered.
        #[test]
        fn every_beginning_of_a_journal_says_what_was_held_then(
            before in 0u64..9,
            answers in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut ledger = Ledger::default();
            for frame in 0..before {
                ledger.take(frame, format!("{frame}\n")).unwrap();
            }
            let mut text = ledger.text();
            let mut moments = vec![(text.len(), ledger.clone())];
            for answer in answers {
                let held: Vec<u64> = ledger.held.keys().copied().collect();
                let at = answer.index(held.len() + 1);
                match held.get(at) {
                    Some(&frame) => {
                        ledger.answer(frame).unwrap();
                        text += &format!("- {frame}\n");
                    }
                    None => {
                        let frame = ledger.next + at as u64 % 3;
                        ledger.take(frame, "é".to_owned()).unwrap();
                        text += &taken(frame, "é");
                    }
                }
                moments.push((text.len(), ledger.clone()));
            }
            let from = moments[0].0;
            let cut = from + cut.index(text.len() - from + 1);
            let then = moments.iter().rfind(|(length, _)| *length <= cut).unwrap();
            let parsed = Ledger::parse(&text.as_bytes()[..cut]).unwrap();
            prop_assert_eq!(&parsed, &then.1);
            // As it is written anew it says the same.
            prop_assert_eq!(Ledger::parse(parsed.text().as_bytes()).unwrap(), parsed);
            // The first file comes whole into its place; cut all the same, it is no more than it said.
            for cut in 0..from {
                let early = Ledger::parse(&text.as_bytes()[..cut]).unwrap();
                prop_assert!(early.held.iter().all(|pair| moments[0].1.held.iter().any(|it| it == pair)));
            }
        }

        /// Bytes of any kind are read or refused.
        #[test]
        fn reading_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            lines in "cutline journal 1 next [0-9]{0,21}\n([+-] [0-9]{0,21} ?\"?[a-c]?\"?\n){0,6}",
        ) {
            let _ = Ledger::parse(&bytes);
            let _ = Ledger::parse(lines.as_bytes());
        }
    }
}
