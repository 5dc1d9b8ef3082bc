//! Files by content: each lies under the SHA-256 of its bytes, and is there only when complete.
//!
//! ```text
//! store/
//!   3f5a…c2            a file, complete and checked
//!   incoming-3f5a…c2   what came of it so far; its sender may go on after a break
//!   incoming-8231-0    the same file from another sender at the same time; removed if it fails
//!   stages/7b…e1/      the files of one model under their own names, as links
//!     model.onnx
//!     model.onnx.data
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use cutline_core::{hex::hex, units::Bytes};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    files::{FileError, TEMPORARY},
    stage::{FileSpec, clip, is_file_name, is_sha256},
};

/// Beginning of the names of files that have not come whole.
const INCOMING: &str = "incoming-";

/// How long what came of a file waits for the rest.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A folder of files by content.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    max_file: u64,
    /// Digests of the files that are being received.
    receiving: Arc<Mutex<BTreeSet<String>>>,
}

/// Why a file could not be kept or found.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The name is no digest.
    #[error("a file must be named by its SHA-256 in lower-case hex")]
    Name,
    /// The name of a model's file leads elsewhere.
    #[error("`{0}` is not a plain file name")]
    FileName(String),
    /// It is larger than this agent accepts.
    #[error("the file has {declared}, and this agent accepts up to {limit}")]
    TooLarge {
        /// What the sender announced.
        declared: Bytes,
        /// The limit.
        limit: Bytes,
    },
    /// The sender would leave a gap.
    #[error("the file would go on at {offset}, and {held} of it are here; send it again")]
    Gap {
        /// Where the sender goes on.
        offset: Bytes,
        /// What came before.
        held: Bytes,
    },
    /// More or fewer bytes came than were announced.
    #[error("{declared} were announced, and {received} came")]
    Length {
        /// What the sender announced.
        declared: Bytes,
        /// What it sent; when that is more, the rest was not read.
        received: Bytes,
    },
    /// The bytes are not those that were announced.
    #[error("the content has the SHA-256 {actual}, announced was {announced}; it was not kept")]
    Digest {
        /// What the sender announced.
        announced: String,
        /// What the content has.
        actual: String,
    },
    /// A stage names a file that is not here.
    #[error("file `{name}` ({sha256}) is not on this device; send it before deploying")]
    Absent {
        /// File name.
        name: String,
        /// Its digest.
        sha256: String,
    },
    /// A description could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The disk failed.
    #[error("cannot write to {path}: {source}; is the disk full")]
    Disk {
        /// File or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Store {
    /// Uses a folder, which is made if absent.
    pub fn open(root: PathBuf, max_file: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(root.join("stages")).map_err(|source| disk(&root, source))?;
        let store = Self { root, max_file, receiving: Arc::default() };
        store.forget_broken(SystemTime::now());
        store.forget_temporary();
        Ok(store)
    }

    /// Removes what an agent that was killed had not put in its place beside a model.
    fn forget_temporary(&self) {
        let folders = fs::read_dir(self.root.join("stages")).into_iter().flatten().flatten();
        for file in folders.flat_map(|folder| fs::read_dir(folder.path())).flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(TEMPORARY) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Removes what has waited too long for the rest of its file. What cannot be removed does no
    /// harm but for its room.
    fn forget_broken(&self, now: SystemTime) {
        for file in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
            let age = modified.and_then(|modified| now.duration_since(modified).ok());
            let is_incoming = file.file_name().to_string_lossy().starts_with(INCOMING);
            if is_incoming && age.is_some_and(|age| age > PATIENCE) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Whether a file of this digest is here.
    pub fn has(&self, sha256: &str) -> bool {
        is_sha256(sha256) && self.root.join(sha256).is_file()
    }

    /// How many bytes of a file came before its sender broke off.
    pub fn held(&self, sha256: &str) -> u64 {
        if !is_sha256(sha256) || self.is_receiving().contains(sha256) {
            return 0;
        }
        fs::metadata(self.broken(sha256)).map_or(0, |metadata| metadata.len())
    }

    /// Begins to receive a file of `declared` bytes, of which the sender leaves out the first
    /// `offset`, since they are [held](Self::held). Reads those again, for their digest.
    pub fn receive(
        &self,
        sha256: &str,
        declared: u64,
        offset: u64,
    ) -> Result<Incoming, StoreError> {
        if !is_sha256(sha256) {
            return Err(StoreError::Name);
        }
        if declared > self.max_file {
            let (declared, limit) = (Bytes(declared), Bytes(self.max_file));
            return Err(StoreError::TooLarge { declared, limit });
        }
        let held = self.held(sha256);
        if offset > held.min(declared) {
            return Err(StoreError::Gap { offset: Bytes(offset), held: Bytes(held) });
        }
        let claim = self.is_receiving().insert(sha256.to_owned());
        let claim = claim.then(|| Claim(Arc::clone(&self.receiving), sha256.to_owned()));
        let path = match &claim {
            Some(_) => self.broken(sha256),
            // Two senders of one file: the second has no part in what the first one sent.
            None => {
                static NEXT: AtomicU64 = AtomicU64::new(0);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                self.root.join(format!("{INCOMING}{}-{number}", std::process::id()))
            }
        };
        let mut hasher = Sha256::new();
        let opened = open_at(&path, offset, &mut hasher);
        let file = opened.map_err(|source| disk(&path, source))?;
        Ok(Incoming {
            target: self.root.join(sha256),
            announced: sha256.to_owned(),
            declared,
            received: offset,
            hasher,
            file,
            path,
            is_wrong: false,
            claim,
        })
    }

    /// Where what came of a file waits for the rest.
    fn broken(&self, sha256: &str) -> PathBuf {
        self.root.join(format!("{INCOMING}{sha256}"))
    }

    fn is_receiving(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the files of a model side by side under their own names, and returns the first.
    pub fn lay_out(&self, files: &[FileSpec]) -> Result<PathBuf, StoreError> {
        // Names come from the network: one with a folder in it would be written elsewhere.
        if let Some(bad) = files.iter().find(|file| !is_file_name(&file.name)) {
            return Err(StoreError::FileName(clip(&bad.name)));
        }
        let mut hasher = Sha256::new();
        for file in files {
            hasher.update(file.name.as_bytes());
            hasher.update([0]);
            hasher.update(file.sha256.as_bytes());
        }
        let folder = self.root.join("stages").join(hex(&hasher.finalize()));
        fs::create_dir_all(&folder).map_err(|source| disk(&folder, source))?;
        for file in files {
            let content = self.root.join(&file.sha256);
            let length = fs::metadata(&content).map(|metadata| metadata.len()).ok();
            if !is_sha256(&file.sha256) || length.is_none() {
                let (name, sha256) = (file.name.clone(), file.sha256.clone());
                return Err(StoreError::Absent { name, sha256 });
            }
            let link = folder.join(&file.name);
            if fs::metadata(&link).map(|metadata| metadata.len()).ok() != length {
                place(&content, &link).map_err(|source| disk(&link, source))?;
            }
        }
        let first = files.first().map(|file| folder.join(&file.name));
        first.ok_or(StoreError::Name)
    }

    /// Bytes of these files as they lie here; files that are absent count nothing.
    pub fn bytes_of(&self, files: &[FileSpec]) -> u64 {
        let paths = files.iter().map(|file| self.root.join(&file.sha256));
        paths.filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
    }

    /// Path of a file by its digest.
    pub fn path(&self, sha256: &str) -> Option<PathBuf> {
        self.has(sha256).then(|| self.root.join(sha256))
    }
}

/// A file under way into the store. What came of it stays when its sender breaks off, and goes when
/// it proves wrong.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    target: PathBuf,
    announced: String,
    declared: u64,
    received: u64,
    hasher: Sha256,
    file: File,
    is_wrong: bool,
    claim: Option<Claim>,
}

/// The right to go on with a broken file, given back when dropped.
#[derive(Debug)]
struct Claim(Arc<Mutex<BTreeSet<String>>>, String);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Incoming {
    /// Takes the next bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StoreError> {
        self.received = self.received.saturating_add(data.len() as u64);
        if self.received > self.declared {
            self.is_wrong = true;
            return Err(self.wrong_length());
        }
        self.hasher.update(data);
        self.file.write_all(data).map_err(|source| {
            // Half a chunk may have been written; and a full disk wants its room back.
            self.is_wrong = true;
            disk(&self.path, source)
        })
    }

    /// Keeps the file if it is the one that was announced.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if self.received != self.declared {
            return Err(self.wrong_length());
        }
        self.is_wrong = true;
        let actual = hex(&std::mem::take(&mut self.hasher).finalize());
        if actual != self.announced {
            return Err(StoreError::Digest { announced: self.announced.clone(), actual });
        }
        self.file.sync_data().map_err(|source| disk(&self.path, source))?;
        fs::rename(&self.path, &self.target).map_err(|source| disk(&self.target, source))
    }

    fn wrong_length(&self) -> StoreError {
        StoreError::Length { declared: Bytes(self.declared), received: Bytes(self.received) }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Only whoever has the claim on a digest is found again under it.
        if self.is_wrong || self.claim.is_none() || self.received == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a file to be written on from `offset`, and feeds what is before it to the hasher.
fn open_at(path: &Path, offset: u64, hasher: &mut Sha256) -> io::Result<File> {
    let mut options = File::options();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(offset)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(file),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Links a file where the file system can, else copies it.
fn place(content: &Path, link: &Path) -> io::Result<()> {
    let _ = fs::remove_file(link);
    fs::hard_link(content, link).or_else(|_| fs::copy(content, link).map(drop))
}

fn disk(path: &Path, source: io::Error) -> StoreError {
    StoreError::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(data: &[u8]) -> String {
        hex(&Sha256::digest(data))
    }

    fn put(store: &Store, sha256: &str, declared: u64, chunks: &[&[u8]]) -> Result<(), StoreError> {
        let mut incoming = store.receive(sha256, declared, 0)?;
        for chunk in chunks {
            incoming.write(chunk)?;
        }
        incoming.finish()
    }

    #[test]
    fn only_complete_and_right_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), 100).unwrap();
        let name = digest(b"weights");
        for (result, words) in [
            (put(&store, "../../etc/passwd", 7, &[b"weights"]), "must be named by its SHA-256"),
            (put(&store, &name, 101, &[]), "accepts up to 100 B"),
            (put(&store, &name, 7, &[b"wei"]), "7 B were announced, and 3 B came"),
            (put(&store, &name, 7, &[b"weights", b"!"]), "7 B were announced, and 8 B came"),
            (put(&store, &name, 7, &[b"weighty"]), "it was not kept"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(!store.has(&name));
        put(&store, &name, 7, &[b"wei", b"ghts"]).unwrap();
        assert!(store.has(&name));
        assert_eq!(fs::read(store.path(&name).unwrap()).unwrap(), b"weights");
        let left = fs::read_dir(folder.path()).unwrap().flatten();
        assert!(left.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with("incoming")));
    }

    #[test]
    fn a_sender_goes_on_after_a_break() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), 100).unwrap();
        let name = digest(b"weights");
        let mut incoming = store.receive(&name, 7, 0).unwrap();
        incoming.write(b"wei").unwrap();
        assert_eq!(store.held(&name), 0, "somebody is sending it");
        let mut other = store.receive(&name, 7, 0).unwrap();
        other.write(b"we").unwrap();
        drop(other);
        drop(incoming);
        assert_eq!(store.held(&name), 3);
        let store = Store::open(folder.path().to_owned(), 100).unwrap();
        assert_eq!(store.held(&name), 3, "also after the agent was started again");
        let error = store.receive(&name, 7, 4).unwrap_err().to_string();
        assert!(error.contains("would go on at 4 B, and 3 B of it are here"), "{error}");
        for (offset, rest) in [(2, "ights"), (3, "ghts")] {
            let mut incoming = store.receive(&name, 7, offset).unwrap();
            assert_eq!(
                fs::read(folder.path().join(format!("incoming-{name}"))).unwrap().len() as u64,
                offset
            );
            if offset == 2 {
                incoming.write(&rest.as_bytes()[..1]).unwrap();
                continue;
            }
            incoming.write(rest.as_bytes()).unwrap();
            incoming.finish().unwrap();
        }
        assert_eq!(fs::read(store.path(&name).unwrap()).unwrap(), b"weights");
        assert_eq!(store.held(&name), 0);
    }

    #[test]
    fn a_beginning_that_proves_wrong_or_waits_too_long_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), 100).unwrap();
        let name = digest(b"weights");
        let mut incoming = store.receive(&name, 7, 0).unwrap();
        incoming.write(b"wax").unwrap();
        drop(incoming);
        let mut incoming = store.receive(&name, 7, 3).unwrap();
        incoming.write(b"ghts").unwrap();
        assert!(incoming.finish().unwrap_err().to_string().contains("it was not kept"));
        assert_eq!(store.held(&name), 0);
        let mut incoming = store.receive(&name, 7, 0).unwrap();
        incoming.write(b"wei").unwrap();
        drop(incoming);
        let now = SystemTime::now();
        for (later, held) in [(0, 3), (23, 3), (25, 0)] {
            store.forget_broken(now + Duration::from_secs(later * 3600));
            assert_eq!(store.held(&name), held, "{later} h later");
        }
    }

    #[test]
    fn the_files_of_a_model_lie_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_owned(), 100).unwrap();
        let file = |name: &str, data: &[u8]| {
            let bytes = data.len() as u64;
            FileSpec { name: name.to_owned(), sha256: digest(data), bytes }
        };
        let files = [file("model.onnx", b"graph"), file("model.onnx.data", b"weights")];
        put(&store, &files[0].sha256, 5, &[b"graph"]).unwrap();
        let error = store.lay_out(&files).unwrap_err().to_string();
        assert!(error.contains("`model.onnx.data`"), "{error}");
        let outside = [file("../model.onnx", b"graph")];
        let error = store.lay_out(&outside).unwrap_err().to_string();
        assert!(error.contains("is not a plain file name"), "{error}");
        put(&store, &files[1].sha256, 7, &[b"weights"]).unwrap();
        for _ in 0..2 {
            let model = store.lay_out(&files).unwrap();
            assert_eq!(fs::read(&model).unwrap(), b"graph");
            assert_eq!(fs::read(model.with_file_name("model.onnx.data")).unwrap(), b"weights");
        }
        assert_eq!(store.bytes_of(&files), 12);
    }
}
