//! Files by content: each lies under the SHA-256 of its bytes, and is there only when complete.
//!
//! ```text
//! store/
//!   3f5a…c2            a file, complete and checked
//!   incoming-8231-0    one that is being received; removed if it fails
//!   stages/7b…e1/      the files of one model under their own names, as links
//!     model.onnx
//!     model.onnx.data
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use cutline_core::{hex::hex, units::Bytes};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    files::FileError,
    stage::{FileSpec, clip, is_file_name, is_sha256},
};

/// A folder of files by content.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    max_file: u64,
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
        Ok(Self { root, max_file })
    }

    /// Whether a file of this digest is here.
    pub fn has(&self, sha256: &str) -> bool {
        is_sha256(sha256) && self.root.join(sha256).is_file()
    }

    /// Begins to receive a file of `declared` bytes.
    pub fn receive(&self, sha256: &str, declared: u64) -> Result<Incoming, StoreError> {
        if !is_sha256(sha256) {
            return Err(StoreError::Name);
        }
        if declared > self.max_file {
            let (declared, limit) = (Bytes(declared), Bytes(self.max_file));
            return Err(StoreError::TooLarge { declared, limit });
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(format!("incoming-{}-{number}", std::process::id()));
        let file = File::create(&path).map_err(|source| disk(&path, source))?;
        Ok(Incoming {
            target: self.root.join(sha256),
            announced: sha256.to_owned(),
            declared,
            received: 0,
            hasher: Sha256::new(),
            file,
            path,
        })
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

/// A file under way into the store; removed unless it is finished.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    target: PathBuf,
    announced: String,
    declared: u64,
    received: u64,
    hasher: Sha256,
    file: File,
}

impl Incoming {
    /// Takes the next bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StoreError> {
        self.received = self.received.saturating_add(data.len() as u64);
        if self.received > self.declared {
            return Err(self.wrong_length());
        }
        self.hasher.update(data);
        self.file.write_all(data).map_err(|source| disk(&self.path, source))
    }

    /// Keeps the file if it is the one that was announced.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if self.received != self.declared {
            return Err(self.wrong_length());
        }
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
        let _ = fs::remove_file(&self.path);
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
        let mut incoming = store.receive(sha256, declared)?;
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
