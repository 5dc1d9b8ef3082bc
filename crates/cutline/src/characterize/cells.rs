//! The cells of a grid: every combination that can be, each named by its content.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use cutline_core::{hex::hex, picture::PictureSpec};
use cutline_runtime::{engine, files, profiler};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    grid::{Agent, Grid, Impossible, Link, Upload},
    networks::{Variant, precisions, variant},
};
use crate::inputs::{PictureArgs, file_name};

/// What is measured in one cell. Two cells that are equal in all of this are one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    /// Name in the zoo, or the file as the grid names it.
    pub(crate) network: String,
    pub(crate) network_sha256: String,
    pub(crate) precision: String,
    /// Shapes of the inputs, the batch included.
    pub(crate) input: String,
    /// Rows of the input, where it is a picture.
    pub(crate) height: Option<u64>,
    pub(crate) width: Option<u64>,
    pub(crate) batch: u64,
    pub(crate) threads: u32,
    pub(crate) engine: String,
    pub(crate) engine_version: String,
    /// Name of the picture's file.
    pub(crate) picture: Option<String>,
    pub(crate) picture_sha256: Option<String>,
    pub(crate) preprocess: Option<String>,
    pub(crate) filter: Option<String>,
    pub(crate) upload: Option<String>,
    pub(crate) jpeg_quality: Option<u8>,
    pub(crate) link: Option<String>,
    /// `local`, or an address.
    pub(crate) agent: String,
    pub(crate) hardware: String,
}

impl Cell {
    /// Its name: the beginning of the SHA-256 of its content.
    pub(crate) fn id(&self) -> anyhow::Result<String> {
        Ok(hex(&Sha256::digest(serde_json::to_vec(self)?))[..16].to_owned())
    }

    /// For people, in a line.
    pub(crate) fn describe(&self) -> String {
        let mut words = vec![self.network.clone(), self.input.clone()];
        words.push(format!("{} {}", self.engine, self.precision));
        words.push(format!("{} thread{}", self.threads, if self.threads == 1 { "" } else { "s" }));
        words.extend(self.filter.clone());
        words.extend(self.upload.clone());
        words.extend(self.link.clone());
        if self.agent != "local" {
            words.push(format!("at {}", self.agent));
        }
        words.join(", ")
    }
}

/// A cell with what it takes to measure it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) cell: Cell,
    pub(super) variant: Arc<Variant>,
    pub(super) picture: Option<(PathBuf, PictureSpec)>,
    pub(super) upload: Option<Upload>,
    pub(super) link: Link,
}

/// Where cells can compute, and with which engines.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) agent: Agent,
    pub(crate) hardware: String,
    /// Versions by name.
    pub(crate) engines: BTreeMap<String, String>,
}

impl Place {
    /// This process.
    pub(crate) fn here() -> Self {
        let engines = engine::available().into_iter().filter(|status| status.available);
        let version = |status: engine::EngineStatus| {
            (status.name.to_owned(), status.version.unwrap_or_default())
        };
        Self {
            agent: Agent::Local,
            hardware: profiler::hardware(),
            engines: engines.map(version).collect(),
        }
    }

    fn name(&self) -> &str {
        match &self.agent {
            Agent::Local => "local",
            Agent::Remote(address) => address,
        }
    }
}

/// A picture of the grid.
struct Picture {
    path: PathBuf,
    sha256: String,
}

/// The cells of a grid in the order of its lists, and what was left out because it cannot be, each
/// with its reason.
pub(crate) fn cells(grid: &Grid, places: &[Place]) -> anyhow::Result<(Vec<Job>, Vec<String>)> {
    let mut collector = Collector { grid, jobs: Vec::new(), skipped: Vec::new() };
    let pictures = grid.pictures.iter().map(|path| {
        let sha256 = files::sha256(path)
            .with_context(|| format!("`pictures`: cannot read `{}`", path.display()))?;
        Ok(Picture { path: path.clone(), sha256: hex(&sha256) })
    });
    let pictures: Vec<Picture> = pictures.collect::<anyhow::Result<_>>()?;
    for network in &grid.networks {
        for &size in &network.sizes {
            for precision in precisions(network, &grid.precisions) {
                let found = variant(network, precision, size);
                let words = format!("{} at size {size} in {}", network.name, precision.name());
                let Some(variant) = collector.possible(&words, found)? else { continue };
                collector.of_variant(&Arc::new(variant), &pictures, places)?;
            }
        }
    }
    if collector.jobs.is_empty() {
        bail!("no cell of the grid can be measured: {}", collector.skipped.join("; "));
    }
    let mut seen = std::collections::BTreeSet::new();
    // Two names of one file at one size are one cell, e.g. the own size and the same in numbers.
    collector.jobs.retain(|job| seen.insert(job.id.clone()));
    Ok((collector.jobs, collector.skipped))
}

struct Collector<'a> {
    grid: &'a Grid,
    jobs: Vec<Job>,
    skipped: Vec<String>,
}

impl Collector<'_> {
    /// What was found; `None` where it cannot be and may be left out.
    fn possible<T>(&mut self, what: &str, found: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match (found, self.grid.impossible) {
            (Ok(found), _) => Ok(Some(found)),
            (Err(error), Impossible::Skip) => {
                let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
                self.skipped.push(format!("{what}: {}", causes.join(": ")));
                Ok(None)
            }
            (Err(error), Impossible::Refuse) => Err(error.context(format!(
                "the grid asks for {what}; `impossible = \"skip\"` leaves such cells out"
            ))),
        }
    }

    fn of_variant(
        &mut self,
        variant: &Arc<Variant>,
        pictures: &[Picture],
        places: &[Place],
    ) -> anyhow::Result<()> {
        let grid = self.grid;
        for &batch in &grid.batches {
            let what = format!("{} with a batch of {batch}", variant.name);
            if self.possible(&what, variant.check_batch(batch))?.is_none() {
                continue;
            }
            for place in places {
                for engine in &grid.engines {
                    let version = place.engines.get(engine).cloned().with_context(|| {
                        format!("engine `{engine}` is not there; `cutline doctor` says why")
                    });
                    let what = format!("{engine} at `{}`", place.name());
                    let Some(version) = self.possible(&what, version)? else { continue };
                    for &threads in &grid.threads {
                        let base = Cell {
                            threads,
                            engine: engine.clone(),
                            engine_version: version.clone(),
                            ..cell(variant, batch, place)
                        };
                        self.of_pictures(&base, variant, pictures, place)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn of_pictures(
        &mut self,
        base: &Cell,
        variant: &Arc<Variant>,
        pictures: &[Picture],
        place: &Place,
    ) -> anyhow::Result<()> {
        if pictures.is_empty() {
            return self.of_links(base, variant, None, place);
        }
        let args = PictureArgs { preprocess: self.grid.preprocess.clone() };
        let what = format!("a picture for `{}`", variant.name);
        let Some(spec) = self.possible(&what, args.spec(&variant.graph))? else { return Ok(()) };
        let grid = self.grid;
        for picture in pictures {
            for &filter in &grid.filters {
                let cell = Cell {
                    picture: Some(file_name(&picture.path)),
                    picture_sha256: Some(picture.sha256.clone()),
                    preprocess: grid.preprocess.clone(),
                    filter: Some(format!("{filter:?}").to_lowercase()),
                    ..base.clone()
                };
                let spec = PictureSpec { filter, ..spec.clone() };
                self.of_links(&cell, variant, Some((picture.path.clone(), spec)), place)?;
            }
        }
        Ok(())
    }

    fn of_links(
        &mut self,
        base: &Cell,
        variant: &Arc<Variant>,
        picture: Option<(PathBuf, PictureSpec)>,
        place: &Place,
    ) -> anyhow::Result<()> {
        if place.agent == Agent::Local {
            return self.add(base.clone(), variant, picture, None, Link::Real);
        }
        let uploads: Vec<Option<Upload>> = match picture {
            None => vec![None],
            Some(_) => self.grid.uploads.iter().copied().map(Some).collect(),
        };
        let grid = self.grid;
        for link in &grid.links {
            for upload in &uploads {
                let mut picture = picture.clone();
                let quality = upload.and_then(|upload| upload.quality);
                if let (Some((_, spec)), Some(quality)) = (&mut picture, quality) {
                    spec.jpeg_quality = quality;
                }
                let cell = Cell {
                    upload: upload.map(|upload| upload.encoding.name().to_owned()),
                    jpeg_quality: quality,
                    link: Some(match link {
                        Link::Real => "real".to_owned(),
                        Link::Simulated { name, .. } => name.clone(),
                    }),
                    ..base.clone()
                };
                self.add(cell, variant, picture, *upload, link.clone())?;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        cell: Cell,
        variant: &Arc<Variant>,
        picture: Option<(PathBuf, PictureSpec)>,
        upload: Option<Upload>,
        link: Link,
    ) -> anyhow::Result<()> {
        let (id, variant) = (cell.id()?, Arc::clone(variant));
        self.jobs.push(Job { id, cell, variant, picture, upload, link });
        Ok(())
    }
}

/// A cell without what pictures and links add.
fn cell(variant: &Variant, batch: u64, place: &Place) -> Cell {
    let sides = variant.sides();
    Cell {
        network: variant.name.clone(),
        network_sha256: variant.sha256.clone(),
        precision: variant.precision.name().to_owned(),
        input: variant.input(batch),
        height: sides.map(|[height, _]| height),
        width: sides.map(|[_, width]| width),
        batch,
        threads: 1,
        engine: String::new(),
        engine_version: String::new(),
        picture: None,
        picture_sha256: None,
        preprocess: None,
        filter: None,
        upload: None,
        jpeg_quality: None,
        link: None,
        agent: place.name().to_owned(),
        hardware: place.hardware.clone(),
    }
}
