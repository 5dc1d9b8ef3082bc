//! What is measured together: each network at a size in a precision, how it is fed, where it is cut.

use anyhow::{Context, bail};
use cutline_core::{
    cut::{self, candidate_cuts},
    graph::Graph,
    group::{Grouping, group},
    picture::{Filter, PictureSpec},
};

use super::{
    grid::{At, Entry, Grid},
    pictures::Pictures,
};
use crate::characterize::{
    grid::{Impossible, Precision, Size},
    networks::{Variant, precisions, variant},
};

/// A network with all that is measured of it; what the others are compared with comes first.
pub(super) struct Family<'a> {
    pub(super) entry: &'a Entry,
    pub(super) jobs: Vec<Job>,
}

/// A network at one size in one precision.
pub(super) struct Job {
    pub(super) variant: Variant,
    /// Whether the size is the one that the file has by itself.
    pub(super) own_size: bool,
    pub(super) feeds: Vec<Feed>,
    pub(super) cuts: Vec<At>,
}

/// How pictures become the input of a job.
pub(super) struct Feed {
    pub(super) spec: PictureSpec,
    /// Number of its pixels among the pictures, and among those of the calibration.
    pub(super) kinds: [usize; 2],
    /// Whether it is a cell of the grid.
    pub(super) in_grid: bool,
    /// Whether the others of the family are compared with its answers.
    pub(super) is_reference: bool,
}

/// Finds out what is possible, and asks for the pixels that it takes. Reads no weights.
pub(super) fn families<'a>(
    grid: &'a Grid,
    pictures: &mut Pictures,
    mut calibration: Option<&mut Pictures>,
    skipped: &mut Vec<String>,
) -> anyhow::Result<Vec<Family<'a>>> {
    let mut families = Vec::new();
    for entry in &grid.networks {
        let mut jobs = wanted(grid, entry, skipped)?;
        if jobs.is_empty() {
            continue;
        }
        refer(grid, entry, &mut jobs)?;
        for feed in jobs.iter_mut().flat_map(|job| &mut job.feeds) {
            feed.kinds[0] = pictures.ask(&feed.spec);
            if let Some(calibration) = &mut calibration {
                feed.kinds[1] = calibration.ask(&feed.spec);
            }
        }
        families.push(Family { entry, jobs });
    }
    match families.is_empty() {
        true => bail!("no cell of the grid can be measured: {}", skipped.join("; ")),
        false => Ok(families),
    }
}

/// The jobs of the grid for one network.
fn wanted(grid: &Grid, entry: &Entry, skipped: &mut Vec<String>) -> anyhow::Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    for &size in &entry.network.sizes {
        for precision in precisions(&entry.network, &grid.precisions) {
            let words = format!("{} at size {size} in {}", entry.network.name, precision.name());
            let found = job(grid, entry, precision, size);
            let Some(mut job) = possible(grid, &words, found, skipped)? else { continue };
            // The own size, and the same in numbers.
            let is_known = |known: &Job| {
                known.variant.precision == precision
                    && known.variant.input(1) == job.variant.input(1)
            };
            if jobs.iter().any(is_known) {
                continue;
            }
            let (graph, cuts) = (&job.variant.graph, std::mem::take(&mut job.cuts));
            let grouping = group(graph);
            let mut kept = Vec::new();
            for at in cuts {
                let found = Cutting::find(&at, graph, &grouping);
                if possible(grid, &words, found, skipped)?.is_some() {
                    kept.push(at);
                }
            }
            job.cuts = kept;
            if !job.cuts.is_empty() {
                jobs.push(job);
            }
        }
    }
    Ok(jobs)
}

fn job(grid: &Grid, entry: &Entry, precision: Precision, size: Size) -> anyhow::Result<Job> {
    let variant = variant(&entry.network, precision, size)?;
    let spec = entry.preprocess.spec(&variant.graph)?;
    let feed = |filter: &Option<Filter>| Feed {
        spec: PictureSpec { filter: filter.unwrap_or(spec.filter), ..spec.clone() },
        kinds: [0, 0],
        in_grid: true,
        is_reference: false,
    };
    Ok(Job {
        own_size: size == Size::Own || is_own(entry, precision, &variant),
        feeds: grid.filters.iter().map(feed).collect(),
        cuts: entry.cuts.clone(),
        variant,
    })
}

/// Whether a size is the one that the file has by itself.
fn is_own(entry: &Entry, precision: Precision, found: &Variant) -> bool {
    let own = variant(&entry.network, precision, Size::Own);
    own.is_ok_and(|own| own.input(1) == found.input(1))
}

/// What was found; `None` where it cannot be and may be left out.
pub(super) fn possible<T>(
    grid: &Grid,
    what: &str,
    found: anyhow::Result<T>,
    skipped: &mut Vec<String>,
) -> anyhow::Result<Option<T>> {
    match (found, grid.impossible) {
        (Ok(found), _) => Ok(Some(found)),
        (Err(error), Impossible::Skip) => {
            skipped.push(format!("{what}: {error:#}"));
            Ok(None)
        }
        (Err(error), Impossible::Refuse) => Err(error.context(format!(
            "the grid asks for {what}; `impossible = \"skip\"` leaves such cells out"
        ))),
    }
}

/// Puts first what the others are compared with: the unsplit network in the first precision that it
/// has of fp32, fp16 and int8, at its own size, or the largest of its sizes where it has none.
fn refer(grid: &Grid, entry: &Entry, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let precisions = [Precision::Fp32, Precision::Fp16, Precision::Int8];
    let side = |size: &Size| match size {
        Size::Own => 0,
        Size::Side(side) => *side,
    };
    let largest = entry.network.sizes.iter().copied().max_by_key(side);
    let sizes = [Some(Size::Own), largest];
    let mut tried = precisions.iter().flat_map(|&p| sizes.iter().flatten().map(move |&s| (p, s)));
    let first = tried.find_map(|(precision, size)| job(grid, entry, precision, size).ok());
    let mut reference = first
        .with_context(|| format!("network `{}` can be had in no precision", entry.network.name))?;
    let spec = entry.preprocess.spec(&reference.variant.graph)?;
    let same = |job: &Job| {
        job.variant.precision == reference.variant.precision
            && job.variant.input(1) == reference.variant.input(1)
    };
    let at = match jobs.iter().position(same) {
        Some(at) => at,
        None => {
            (reference.feeds, reference.cuts) = (Vec::new(), Vec::new());
            jobs.push(reference);
            jobs.len() - 1
        }
    };
    jobs[..=at].rotate_right(1);
    let feeds = &mut jobs[0].feeds;
    match feeds.iter().position(|feed| feed.spec == spec) {
        Some(at) => feeds[..=at].rotate_right(1),
        None => {
            let (kinds, in_grid) = ([0, 0], false);
            feeds.insert(0, Feed { spec, kinds, in_grid, is_reference: true });
        }
    }
    feeds[0].is_reference = true;
    Ok(())
}

/// A cut of a network in two.
#[derive(Clone, Debug)]
pub(super) struct Cutting {
    /// By layer; `None`: wherever it is needed.
    pub(super) stage_of: Vec<Option<u32>>,
    /// By group, whether it runs before the cut; `None` where the cut goes through a group.
    pub(super) before: Option<Vec<bool>>,
    /// Share of the multiply-accumulates before it, in millionths.
    pub(super) macs_before_ppm: u32,
}

impl Cutting {
    /// The cut at a place of a network.
    pub(super) fn find(at: &At, graph: &Graph, grouping: &Grouping) -> anyhow::Result<Self> {
        let stage_of = match at {
            At::Whole => vec![Some(0); graph.layers().len()],
            At::Values(values) => cut::stages_at(graph, std::slice::from_ref(values))?,
            At::Share(ppm) => nearest(*ppm, graph, grouping)?,
        };
        let mut sides: Vec<[bool; 2]> = vec![[false; 2]; grouping.dag.groups().len()];
        let mut macs = [0u128; 2];
        let layers = graph.layers().iter().zip(&stage_of).zip(&grouping.group_of);
        for ((layer, stage), group) in layers {
            let Some(stage) = stage else { continue };
            macs[*stage as usize] += u128::from(layer.macs.0);
            if let Some(group) = group {
                sides[group.index()][*stage as usize] = true;
            }
        }
        let is_torn = sides.contains(&[true, true]);
        Ok(Self {
            before: (!is_torn).then(|| sides.iter().map(|[before, _]| *before).collect()),
            macs_before_ppm: (macs[0] * 1_000_000 / (macs[0] + macs[1]).max(1)) as u32,
            stage_of,
        })
    }
}

/// How far from the share that was asked for a cut may lie, in millionths.
const NEAR: u128 = 50_000;

/// Of the candidate cuts before which the share of the multiply-accumulates is near this one, that
/// over which the fewest bytes go; where none is near, the nearest.
fn nearest(ppm: u32, graph: &Graph, grouping: &Grouping) -> anyhow::Result<Vec<Option<u32>>> {
    let groups = grouping.dag.groups();
    let total: u128 = groups.iter().map(|group| u128::from(group.macs.0)).sum();
    let target = total * u128::from(ppm) / 1_000_000;
    let cuts = candidate_cuts(&grouping.dag);
    let rank = |cut: &&cut::Cut| {
        let before = groups.iter().zip(&cut.before).filter(|(_, before)| **before);
        let macs: u128 = before.map(|(group, _)| u128::from(group.macs.0)).sum();
        let off = macs.abs_diff(target);
        match off <= total * NEAR / 1_000_000 {
            true => (0, cut.bytes, off),
            false => (off, cut.bytes, off),
        }
    };
    let cut = cuts.iter().min_by_key(rank).context("the network has no candidate cut")?;
    Ok(cut::stages_of_cut(graph, grouping, cut))
}
