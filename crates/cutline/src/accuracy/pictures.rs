//! The pictures that networks answer to: which there are, what they show, and their pixels.
//!
//! Each picture is decoded once and resized to everything that any network asks for; the pixels are
//! kept as far as the memory goes, and made anew where it does not.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use cutline_core::{
    hex::hex,
    picture::{Channels, PictureSpec},
};
use cutline_runtime::{files, labels::Labels, picture::Picture};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    agree::{Truth, class_number},
    inputs::{extension, file_name},
    output::Output,
};

/// Most pictures of a folder.
const MOST_PICTURES: usize = 1_000_000;

/// A picture that could not be read.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Skipped {
    pub(crate) file: String,
    pub(crate) why: String,
}

/// A folder of pictures.
pub(super) struct Pictures {
    folder: PathBuf,
    files: Vec<Labelled>,
    /// Names of the sub-folders in order, where these are the classes.
    folders: Vec<String>,
    /// What pixels are asked for, and by how many that are not done yet.
    kinds: Vec<(PictureSpec, usize)>,
    /// By picture and kind.
    kept: Vec<Vec<Option<Bytes>>>,
    /// Bytes that may still be kept.
    left: u64,
    skipped: BTreeMap<usize, String>,
    /// Whether each was looked at once.
    is_seen: bool,
}

struct Labelled {
    path: PathBuf,
    class: Option<String>,
}

impl Pictures {
    /// The pictures of a folder with their classes: from the truth file, or from the sub-folders that
    /// they lie in. At most `memory` bytes of pixels are kept.
    pub(super) fn open(folder: &Path, truth: Option<&Path>, memory: u64) -> anyhow::Result<Self> {
        if !folder.is_dir() {
            bail!("`{}` is not a folder; give a folder of pictures", folder.display());
        }
        let truth = truth.map(Truth::read).transpose()?;
        let class = |path: &Path| Some(truth.as_ref()?.of(&file_name(path))?.to_owned());
        let mut files: Vec<Labelled> = pictures_in(folder)?
            .into_iter()
            .map(|path| Labelled { class: class(&path), path })
            .collect();
        let mut folders = Vec::new();
        if files.is_empty() && truth.is_none() {
            for path in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
                let class = file_name(&path);
                let inside = pictures_in(&path)?.into_iter();
                files.extend(inside.map(|path| Labelled { path, class: Some(class.clone()) }));
                folders.push(class);
            }
        }
        if files.is_empty() {
            bail!(
                "no picture (.jpg, .png) in `{}`, nor in folders of it for each class",
                folder.display()
            );
        }
        if files.len() > MOST_PICTURES {
            let (count, folder) = (files.len(), folder.display());
            bail!("`{folder}` has {count} pictures; {MOST_PICTURES} are the most");
        }
        if truth.is_some() && files.iter().all(|file| file.class.is_none()) {
            bail!("`truth` names none of the pictures; it lists file names without a folder");
        }
        Ok(Self {
            folder: folder.to_owned(),
            kept: vec![Vec::new(); files.len()],
            files,
            folders,
            kinds: Vec::new(),
            left: memory,
            skipped: BTreeMap::new(),
            is_seen: false,
        })
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it is known what any of them shows.
    pub(super) fn have_truth(&self) -> bool {
        self.files.iter().any(|file| file.class.is_some())
    }

    /// Asks for pixels of a kind, until they are [done](Self::done) with; its number.
    pub(super) fn ask(&mut self, spec: &PictureSpec) -> usize {
        if let Some(at) =
            self.kinds.iter().position(|(known, _)| pixels_of(known) == pixels_of(spec))
        {
            self.kinds[at].1 += 1;
            return at;
        }
        self.kinds.push((spec.clone(), 1));
        self.kept.iter_mut().for_each(|kept| kept.push(None));
        self.kinds.len() - 1
    }

    /// Gives up what was asked for.
    pub(super) fn done(&mut self, kind: usize) {
        self.kinds[kind].1 = self.kinds[kind].1.saturating_sub(1);
        if self.kinds[kind].1 == 0 {
            for kept in &mut self.kept {
                self.left += kept[kind].take().map_or(0, |pixels| pixels.len() as u64);
            }
        }
    }

    /// The pixels of a picture; `None` where it cannot be read.
    pub(super) fn pixels(
        &mut self,
        at: usize,
        kind: usize,
        output: &Output,
    ) -> anyhow::Result<Option<Bytes>> {
        if self.skipped.contains_key(&at) {
            return Ok(None);
        }
        if let Some(pixels) = &self.kept[at][kind] {
            return Ok(Some(pixels.clone()));
        }
        let path = &self.files[at].path;
        let decoded = fs::read(path)
            .context("it cannot be read")
            .and_then(|file| Ok(Picture::decode(&file)?));
        let picture = match decoded {
            Ok(picture) => picture,
            Err(error) if self.is_seen => {
                let failed = || format!("`{}` could be read before", path.display());
                return Err(error).with_context(failed);
            }
            Err(error) => {
                let why = format!("{error:#}");
                output.warning(format!("skipped `{}`: {why}", path.display()));
                self.skipped.insert(at, why);
                return Ok(None);
            }
        };
        for other in 0..self.kinds.len() {
            let (spec, users) = &self.kinds[other];
            let size = spec.pixel_bytes() as u64;
            if other != kind && *users > 0 && self.kept[at][other].is_none() && size <= self.left {
                self.kept[at][other] = Some(picture.pixels(spec)?.into());
                self.left -= size;
            }
        }
        let pixels: Bytes = picture.pixels(&self.kinds[kind].0)?.into();
        if pixels.len() as u64 <= self.left {
            self.left -= pixels.len() as u64;
            self.kept[at][kind] = Some(pixels.clone());
        }
        Ok(Some(pixels))
    }

    /// Says that each was looked at; from now on none may fail that did not before.
    pub(super) fn seen(&mut self) -> anyhow::Result<()> {
        self.is_seen = true;
        match self.skipped.len() == self.files.len() {
            true => bail!("none of the pictures of `{}` can be read", self.folder.display()),
            false => Ok(()),
        }
    }

    /// Those that could not be read.
    pub(super) fn skipped(&self) -> Vec<Skipped> {
        let skipped = self.skipped.iter();
        skipped.map(|(&at, why)| Skipped { file: self.name(at), why: why.clone() }).collect()
    }

    /// Whether a picture could not be read.
    pub(super) fn is_skipped(&self, at: usize) -> bool {
        self.skipped.contains_key(&at)
    }

    /// What each shows, as a position in an answer of so many classes; `None` where nobody says.
    pub(super) fn truth(
        &self,
        names: &Names,
        classes: usize,
    ) -> anyhow::Result<Vec<Option<usize>>> {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        let mut truth = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let Some(class) = &file.class else {
                truth.push(None);
                continue;
            };
            let number = match known.get(class.as_str()) {
                Some(&number) => number,
                None => self.number(class, names, classes).with_context(|| {
                    format!("what `{}` shows is not known", file.path.display())
                })?,
            };
            known.insert(class, number);
            truth.push(Some(number));
        }
        Ok(truth)
    }

    fn number(&self, class: &str, names: &Names, classes: usize) -> anyhow::Result<usize> {
        match names.class(class, classes).or_else(|| self.by_order(class, names, classes)) {
            Some(number) if number < classes => Ok(number),
            Some(number) => bail!(
                "it is class {number}, and the network answers with classes 0 to {}",
                classes.saturating_sub(1)
            ),
            None if names.is_empty() => {
                bail!("its class `{class}` is a name; say with `labels` which class it is")
            }
            None => bail!("its class `{class}` is none of the `labels`"),
        }
    }

    /// Where there is a folder for each class and no names are given, classes follow each other as
    /// the folders do.
    fn by_order(&self, class: &str, names: &Names, classes: usize) -> Option<usize> {
        let all = names.is_empty() && self.folders.len() == classes;
        all.then(|| self.folders.iter().position(|folder| folder == class)).flatten()
    }

    /// SHA-256 over the names and contents of the files, in hex: which pictures these were.
    pub(super) fn sha256(&self) -> anyhow::Result<String> {
        let mut all = Sha256::new();
        for (at, file) in self.files.iter().enumerate().filter(|(at, _)| !self.is_skipped(*at)) {
            let content = files::sha256(&file.path)
                .with_context(|| format!("cannot read `{}`", file.path.display()))?;
            all.update(self.name(at));
            all.update([0]);
            all.update(content);
        }
        Ok(hex(&all.finalize()))
    }

    /// The path from the folder.
    fn name(&self, at: usize) -> String {
        let path = &self.files[at].path;
        path.strip_prefix(&self.folder).unwrap_or(path).display().to_string()
    }
}

/// What decides the pixels of a picture.
fn pixels_of(spec: &PictureSpec) -> impl PartialEq {
    let is_gray = spec.channels == Channels::Gray;
    (spec.width, spec.height, spec.filter, spec.fit, is_gray)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed =
        folder.read_dir().with_context(|| format!("cannot list `{}`", folder.display()))?;
    let mut paths: Vec<PathBuf> =
        listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    Ok(paths)
}

fn pictures_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_picture = |path: &PathBuf| {
        ["jpg", "jpeg", "png"].contains(&extension(path).as_str()) && path.is_file()
    };
    Ok(entries(folder)?.into_iter().filter(is_picture).collect())
}

/// Names of classes, from a label file.
pub(super) struct Names {
    labels: Labels,
    /// The WordNet ids of its lines, where they have any.
    ids: Vec<String>,
}

impl Names {
    pub(super) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let text = match path {
            Some(path) => fs::read_to_string(path)
                .with_context(|| format!("cannot read labels `{}`", path.display()))?,
            None => String::new(),
        };
        let id = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self { labels: Labels::parse(&text), ids: text.trim_end().lines().map(id).collect() })
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The position of a class, given as a number, a name, or the id in front of a name.
    fn class(&self, class: &str, classes: usize) -> Option<usize> {
        class_number(class, &self.labels, classes).or_else(|| {
            let line = self.ids.iter().position(|id| id == class)?;
            match self.ids.len() {
                lines if lines == classes + 1 => line.checked_sub(1),
                lines if lines + 1 == classes => Some(line + 1),
                _ => Some(line),
            }
        })
    }
}
