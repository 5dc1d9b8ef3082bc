//! The stages that an agent has, by the names under which it serves them.
//!
//! A stage is loaded, or known but not loaded. Several runs may need the same one, as when many edge
//! devices share an agent in the cloud: it goes with the last of them. Those that are meant to stay
//! are written down in the store, one file each, so that an agent that is started again comes back
//! with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use cutline_core::hex::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{MAX_STAGES, deployed::Deployed, store::StoreError};
use crate::{
    files,
    stage::{Stage, StageSpec, clip},
};

/// Largest file that describes a stage, in bytes: as large as an order may be.
const MAX_FILE: u64 = super::MAX_ORDER as u64;

/// Most runs that may need one stage at a time.
const MAX_HOLDERS: usize = 4096;

/// Longest name of a run that needs a stage, in bytes.
const MAX_HOLDER: usize = 64;

/// Stages by name.
#[derive(Debug)]
pub(super) struct Repository {
    folder: PathBuf,
    entries: RwLock<BTreeMap<String, Held>>,
}

/// One stage and who needs it.
#[derive(Debug)]
struct Held {
    entry: Entry,
    holders: BTreeSet<String>,
    /// It stays whoever needs it.
    kept: bool,
}

/// One stage.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// It answers.
    Ready(Arc<Deployed>),
    /// It does not, for this reason.
    Unloaded(Arc<Stage>, String),
}

/// Why a stage cannot be taken or found.
#[derive(Debug, Error)]
pub(super) enum RepositoryError {
    /// There are too many.
    #[error("{MAX_STAGES} stages are deployed; remove some first")]
    Full,
    /// Too many need one of them.
    #[error("{MAX_HOLDERS} runs need this stage already")]
    Crowded,
    /// What needs it has no proper name.
    #[error("the name of who needs a stage has {0} bytes; at most {MAX_HOLDER} are possible")]
    Holder(usize),
    /// There is none of this name.
    #[error("no model `{0}` is deployed on this device")]
    Unknown(String),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stage as it is written down.
#[derive(Serialize, Deserialize)]
struct Kept {
    model_name: String,
    stage: StageSpec,
}

impl Repository {
    /// Nothing but what `folder` says was here before, none of it loaded. What cannot be read there
    /// is left alone: another version of this program may have written it.
    pub(super) fn open(folder: PathBuf) -> Result<Self, StoreError> {
        let disk = |source| StoreError::Disk { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(disk)?;
        let mut entries = BTreeMap::new();
        for file in fs::read_dir(&folder).map_err(disk)?.flatten() {
            let Some((name, stage)) = read(&file.path()) else { continue };
            if entries.len() < MAX_STAGES {
                let reason = "it is about to be loaded".to_owned();
                let entry = Entry::Unloaded(Arc::new(stage), reason);
                entries.insert(name, Held { entry, holders: BTreeSet::new(), kept: true });
            }
        }
        Ok(Self { folder, entries: RwLock::new(entries) })
    }

    /// The stage under a name, if it answers.
    pub(super) fn ready(&self, name: &str) -> Option<Arc<Deployed>> {
        match &self.read().get(name)?.entry {
            Entry::Ready(deployed) => Some(Arc::clone(deployed)),
            Entry::Unloaded(..) => None,
        }
    }

    /// All of them as they are now.
    pub(super) fn list(&self) -> Vec<(String, Entry)> {
        self.read().iter().map(|(name, held)| (name.clone(), held.entry.clone())).collect()
    }

    /// The stage under a name, loaded or not.
    pub(super) fn find(&self, name: &str) -> Result<Entry, RepositoryError> {
        let found = self.read().get(name).map(|held| held.entry.clone());
        found.ok_or_else(|| RepositoryError::Unknown(clip(name)))
    }

    /// Takes a loaded stage, in place of another of its name.
    pub(super) fn put(&self, name: &str, stage: Deployed) -> Result<(), RepositoryError> {
        let mut entries = self.write();
        if let Some(held) = entries.get_mut(name) {
            if held.entry.stage() != stage.stage() {
                // Who needed the other one has lost it.
                held.holders.clear();
            }
            held.entry = Entry::Ready(Arc::new(stage));
            return Ok(());
        }
        if entries.len() >= MAX_STAGES {
            return Err(RepositoryError::Full);
        }
        let entry = Entry::Ready(Arc::new(stage));
        entries.insert(name.to_owned(), Held { entry, holders: BTreeSet::new(), kept: false });
        Ok(())
    }

    /// Notes who needs a stage; nobody by name where the name is empty.
    pub(super) fn hold(&self, name: &str, holder: &str) -> Result<(), RepositoryError> {
        if holder.len() > MAX_HOLDER {
            return Err(RepositoryError::Holder(holder.len()));
        }
        let mut entries = self.write();
        let held = entries.get_mut(name).ok_or_else(|| RepositoryError::Unknown(clip(name)))?;
        if holder.is_empty() || held.holders.contains(holder) {
            return Ok(());
        }
        if held.holders.len() >= MAX_HOLDERS {
            return Err(RepositoryError::Crowded);
        }
        held.holders.insert(holder.to_owned());
        Ok(())
    }

    /// Keeps a stage that does not answer, and why.
    pub(super) fn unload(&self, name: &str, reason: String) -> Result<(), RepositoryError> {
        let mut entries = self.write();
        let held = entries.get_mut(name).ok_or_else(|| RepositoryError::Unknown(clip(name)))?;
        held.entry = Entry::Unloaded(Arc::new(held.entry.stage().clone()), reason);
        Ok(())
    }

    /// Forgets who needed a stage, and with the last of them the stage, unless it is kept.
    pub(super) fn release(&self, name: &str, holder: &str) -> Option<Stage> {
        let mut entries = self.write();
        let held = entries.get_mut(name)?;
        let last = held.holders.remove(holder) && held.holders.is_empty();
        if !last || held.kept {
            return None;
        }
        entries.remove(name).map(|held| held.entry.stage().clone())
    }

    /// Forgets a stage whoever needs it, also for the next start.
    pub(super) fn remove(&self, name: &str) -> Result<Option<Stage>, RepositoryError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Disk { path, source: error }.into());
            }
            _ => {}
        }
        Ok(self.write().remove(name).map(|held| held.entry.stage().clone()))
    }

    /// Has a stage stay whoever needs it, and writes it down for the next start.
    pub(super) fn keep(&self, model_name: &str) -> Result<(), RepositoryError> {
        let stage = self.find(model_name)?.stage().spec().clone();
        let path = self.path(model_name);
        let json = serde_json::to_vec(&Kept { model_name: model_name.to_owned(), stage })
            .map_err(|error| StoreError::Disk { path: path.clone(), source: error.into() })?;
        files::write_bytes(&path, json).map_err(StoreError::from)?;
        if let Some(held) = self.write().get_mut(model_name) {
            held.kept = true;
        }
        Ok(())
    }

    /// A name may hold anything; its digest is a file name.
    fn path(&self, model_name: &str) -> PathBuf {
        self.folder.join(format!("{}.json", hex(&Sha256::digest(model_name))))
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Held>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Held>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Its description.
    pub(super) fn stage(&self) -> &Stage {
        match self {
            Entry::Ready(deployed) => deployed.stage(),
            Entry::Unloaded(stage, _) => stage,
        }
    }
}

fn read(path: &Path) -> Option<(String, Stage)> {
    if fs::metadata(path).ok()?.len() > MAX_FILE {
        return None;
    }
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some((kept.model_name, Stage::new(kept.stage).ok()?))
}
