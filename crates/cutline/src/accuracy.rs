//! How right networks are on a folder of pictures, by size, precision, upload and cut; and the front
//! of that against latency and money.
//!
//! ```text
//! GRID.toml ─► jobs ─► answers to every picture ─► shares ─┐
//! platform ─► costs of every cell ─────────────────────────┴─► cells, front
//! ```
//!
//! [`jobs`] finds out what is possible before anything runs; [`measure`] takes one network at one
//! size after the other, so that no more than one is loaded; [`costs`] asks the planner; [`front`]
//! compares.

use std::{fs, path::Path};

use anyhow::Context;
use cutline_core::{
    agreement::Share,
    units::{Bytes, Money},
};
use cutline_runtime::{engine, engine::LoadOptions, model::Model};

use crate::{characterize::networks::Opened, output::Output, process};

mod costs;
mod front;
mod grid;
mod jobs;
mod measure;
mod pictures;
mod progress;
mod report;

pub(crate) use report::{Report, Row, csv};

use self::{
    costs::{CostRow, Priced, Pricing, Way},
    front::{Marks, Point},
    grid::{At, Grid},
    jobs::{Cutting, Family, Feed, Job, possible},
    measure::{Answers, Bench, Found},
    pictures::{Names, Pictures},
    progress::Progress,
    report::{Cell, Front, Gallery, Reference, VERSION},
};

/// Measures every cell of the grid in a file, and asks the planner what it costs on a platform.
pub(crate) fn accuracy(
    file: &Path,
    platform: Option<&Path>,
    output: &Output,
) -> anyhow::Result<Report> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read grid `{}`", file.display()))?;
    let context = || format!("cannot use grid `{}`", file.display());
    let folder = file.parent().unwrap_or(Path::new(""));
    let grid = Grid::parse(&text, folder).with_context(context)?;
    let pricing = platform.map(Pricing::open).transpose()?;
    Count::open(&grid, pricing.as_ref(), output).and_then(|count| count.run()).with_context(context)
}

/// A count under way.
struct Count<'a> {
    grid: &'a Grid,
    pricing: Option<&'a Pricing>,
    output: &'a Output,
    names: Names,
    pictures: Pictures,
    calibration: Option<Pictures>,
    skipped: Vec<String>,
    references: Vec<Reference>,
    rows: Vec<Row>,
    /// By row: the pictures that it is right about, or agrees on.
    marks: Vec<Marks>,
}

impl<'a> Count<'a> {
    fn open(
        grid: &'a Grid,
        pricing: Option<&'a Pricing>,
        output: &'a Output,
    ) -> anyhow::Result<Self> {
        // Half of it is for what the first parts of cuts make.
        let memory = grid.memory.0 / 2;
        let shared = if grid.calibrate.is_some() { memory / 2 } else { memory };
        let pictures = Pictures::open(&grid.pictures, grid.truth.as_deref(), shared)?;
        let calibrate = grid.calibrate.as_deref();
        let calibration =
            calibrate.map(|folder| Pictures::open(folder, None, shared)).transpose()?;
        Ok(Self {
            names: Names::read(grid.labels.as_deref())?,
            grid,
            pricing,
            output,
            pictures,
            calibration,
            skipped: Vec::new(),
            references: Vec::new(),
            rows: Vec::new(),
            marks: Vec::new(),
        })
    }

    fn run(mut self) -> anyhow::Result<Report> {
        let grid = self.grid;
        let calibration = self.calibration.as_mut();
        let families = jobs::families(grid, &mut self.pictures, calibration, &mut self.skipped)?;
        for reason in &self.skipped {
            self.output.note(format!("left out: {reason}"));
        }
        let jobs = families.iter().flat_map(|family| &family.jobs);
        let total = jobs.map(|job| self.runs(job) * weight(job)).sum();
        let engine = engine::open(&grid.engine)?;
        let workspace = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut progress = Progress::new(total, self.output);
        for family in &families {
            let mut reference: Option<Answers> = None;
            for job in &family.jobs {
                let words = describe(family, job);
                progress.begin(words.clone(), self.runs(job), weight(job));
                let found = Bench {
                    grid,
                    engine: engine.as_ref(),
                    options: LoadOptions { threads: grid.threads.unwrap_or_else(process::cores) },
                    pictures: &mut self.pictures,
                    calibration: self.calibration.as_mut(),
                    memory: grid.memory.0 / 2,
                    progress: &mut progress,
                    output: self.output,
                }
                .job(job, workspace.path());
                let Some(found) = possible(grid, &words, found, &mut self.skipped)? else {
                    continue;
                };
                if reference.is_none() {
                    reference = self.refer(family, job, &found)?;
                }
                let Some(reference) = &reference else { break };
                let opened = job.variant.open(1, workspace.path())?;
                self.add(family, (job, &opened), &found, reference)?;
                progress.note(&format!("{words}: done; {}", progress.words()), self.output);
            }
        }
        progress.finish();
        self.report(engine.version())
    }

    /// About how many runs of a network a job takes; a part of it counts as if it were the whole.
    fn runs(&self, job: &Job) -> u128 {
        let grid = self.grid;
        let pictures = self.pictures.len() as u128;
        let lossy = grid.uploads.iter().filter(|upload| upload.encoding.is_lossy()).count() as u128;
        let calibration = self.calibration.as_ref().map_or(pictures, |known| known.len() as u128);
        let quantises = grid.codecs.iter().any(|codec| codec.is_quantised());
        let calibrated = if quantises { calibration } else { 0 };
        let of_cut = |cut: &At| match cut {
            At::Whole => pictures * (1 + lossy),
            _ => pictures * (1 + grid.codecs.len() as u128) + calibrated,
        };
        let of_feed = |feed: &Feed| match feed.in_grid {
            true => job.cuts.iter().map(of_cut).sum(),
            false => pictures,
        };
        job.feeds.iter().map(of_feed).sum()
    }

    /// The answers that those of the family are compared with.
    ///
    /// `None` where they did not run: they come first.
    fn refer(
        &mut self,
        family: &Family,
        job: &Job,
        found: &[Found],
    ) -> anyhow::Result<Option<Answers>> {
        let is_reference = |found: &&Found| {
            job.feeds[found.feed].is_reference && found.cut.is_none() && found.upload.is_none()
        };
        let Some(found) = found.iter().find(is_reference) else {
            self.skipped.push(format!(
                "{}: the unsplit network that it is compared with did not run",
                family.entry.network.name
            ));
            return Ok(None);
        };
        let accuracy = self.right(&found.answers)?.map(|(share, _)| share.into());
        self.references.push(Reference {
            network: family.entry.network.name.clone(),
            precision: job.variant.precision.name().to_owned(),
            input: job.variant.input(1),
            accuracy,
        });
        Ok(Some(found.answers.clone()))
    }

    /// How many of the pictures whose class is known got it, and which; `None` where none is known.
    fn right(&self, answers: &Answers) -> anyhow::Result<Option<(Share, Marks)>> {
        if !self.pictures.have_truth() {
            return Ok(None);
        }
        let truth = self.pictures.truth(&self.names, answers.classes)?;
        let known = truth.iter().enumerate().filter(|(at, _)| !self.pictures.is_skipped(*at));
        let known = known.filter_map(|(at, class)| Some((at, (*class)?)));
        Ok(Some(count(known.map(|(at, class)| (at, answers.of(at) == Some(class))))))
    }

    /// Adds the cells of a job.
    fn add(
        &mut self,
        family: &Family,
        (job, opened): (&Job, &Opened),
        found: &[Found],
        reference: &Answers,
    ) -> anyhow::Result<()> {
        let model = &opened.model;
        let priced = self.pricing.map(|pricing| pricing.of(model));
        for found in found.iter().filter(|found| job.feeds[found.feed].in_grid) {
            // Of a reference beside a grid of cuts only.
            if found.cut.is_none() && !job.cuts.contains(&At::Whole) {
                continue;
            }
            let seen = (0..self.pictures.len()).filter(|&at| !self.pictures.is_skipped(at));
            let same = |at| {
                let class = found.answers.of(at);
                class.is_some()
                    && class == reference.of(at)
                    && found.answers.classes == reference.classes
            };
            let (agreement, agreed) = count(seen.map(|at| (at, same(at))));
            let right = self.right(&found.answers)?;
            let marks = right.as_ref().map_or(&agreed, |(_, marks)| marks).clone();
            let (cell, cutting) = cell(family, job, found, model)?;
            for costs in self.costs(priced.as_ref(), found, cutting.as_ref(), model) {
                let (costs, no_costs) = match costs {
                    Some(Ok(costs)) => (Some(costs), None),
                    Some(Err(why)) => (None, Some(why)),
                    None => (None, None),
                };
                self.rows.push(Row {
                    cell: cell.clone(),
                    accuracy: right.as_ref().map(|(share, _)| (*share).into()),
                    agreement: agreement.into(),
                    bytes_sent: Bytes(found.sent.mean(found.sent.total())),
                    costs,
                    no_costs,
                    on_front: false,
                });
                self.marks.push(marks.clone());
            }
        }
        Ok(())
    }

    /// What a cell costs with each device behind its cut, or why that is not known; nothing without
    /// a platform.
    fn costs(
        &self,
        priced: Option<&anyhow::Result<Priced>>,
        found: &Found,
        cutting: Option<&Cutting>,
        model: &Model,
    ) -> Vec<Option<Result<CostRow, String>>> {
        let priced = match priced {
            None => return vec![None],
            Some(Err(error)) => return vec![Some(Err(format!("{error:#}")))],
            Some(Ok(priced)) => priced,
        };
        let sent = found.sent;
        let mean = |total| Bytes(sent.mean(total));
        let before = match cutting {
            Some(cutting) => match &cutting.before {
                Some(before) => before.clone(),
                None => {
                    let why = "the cut goes through what engines run as one; `cutline inspect` lists others";
                    return vec![Some(Err(why.to_owned()))];
                }
            },
            None => vec![found.upload.is_none(); model.grouping.dag.groups().len()],
        };
        let way = Way {
            before,
            input: found.upload.map(|upload| (upload.encoding, mean(sent.input))),
            codec: found.codec.map(|codec| (codec, [mean(sent.declared), mean(sent.encoded)])),
        };
        priced.rows(&way).into_iter().map(Some).collect()
    }

    fn report(mut self, engine_version: &str) -> anyhow::Result<Report> {
        let front = self.front();
        for &at in &front.cells {
            self.rows[at].on_front = true;
        }
        let labelled = self.rows.first().and_then(|row| row.accuracy);
        let skipped = self.pictures.skipped();
        Ok(Report {
            version: VERSION,
            engine: self.grid.engine.clone(),
            engine_version: engine_version.to_owned(),
            pictures: Gallery {
                folder: self.grid.pictures.clone(),
                count: self.pictures.len() - skipped.len(),
                labelled: labelled.map_or(0, |row| row.share().of as usize),
                sha256: self.pictures.sha256()?,
                skipped,
                calibration: self.grid.calibrate.clone(),
            },
            references: self.references,
            cells: self.rows,
            front,
            skipped: self.skipped,
        })
    }

    fn front(&self) -> Front {
        let is_accuracy = self.pictures.have_truth();
        let costs = |row: &Row| row.costs.clone();
        let has_money = {
            let mut priced = self.rows.iter().filter_map(costs).peekable();
            priced.peek().is_some() && priced.all(|costs| costs.money_per_month.is_some())
        };
        let point = |row: &Row| {
            let costs = match (self.pricing, costs(row)) {
                // What is sent says nothing of what a cell that sends nothing costs.
                (None, _) if row.cell.plan == "edge" => return None,
                (None, _) => [row.bytes_sent.0, 0],
                (Some(_), None) => return None,
                (Some(_), Some(costs)) => {
                    let money = costs.money_per_month.filter(|_| has_money);
                    [costs.latency_ns.0, money.unwrap_or(Money::ZERO).0]
                }
            };
            Some(Point { right: row.quality().share().count, costs })
        };
        // That two networks agree with themselves equally often says nothing of which is better.
        let group = |row: &Row| if is_accuracy { "" } else { row.cell.network.as_str() }.to_owned();
        let mut groups: Vec<String> = self.rows.iter().map(group).collect();
        groups.dedup();
        let (mut cells, mut alike) = (Vec::new(), Vec::new());
        for name in groups {
            let points: Vec<Option<Point>> =
                self.rows.iter().map(|row| point(row).filter(|_| group(row) == name)).collect();
            let mut members = front::front(&points);
            let key = |at: &usize| {
                points[*at].map(|Point { right, costs }| (std::cmp::Reverse(right), costs))
            };
            members.sort_by_key(key);
            alike.extend(front::alike(&members, &self.marks));
            cells.extend(members);
        }
        let mut by = vec![if is_accuracy { "accuracy" } else { "agreement" }];
        match self.pricing {
            None => by.push("bytes"),
            Some(_) => by.push("latency"),
        }
        if has_money {
            by.push("money");
        }
        Front { by, cells, alike }
    }
}

/// How many are right, and which.
fn count(pictures: impl Iterator<Item = (usize, bool)>) -> (Share, Marks) {
    let (mut share, mut marks) = (Share::default(), Marks::default());
    for (at, is_right) in pictures {
        share.add(is_right);
        if is_right {
            marks.set(at);
        }
    }
    (share, marks)
}

fn describe(family: &Family, job: &Job) -> String {
    let (name, precision) = (&family.entry.network.name, job.variant.precision.name());
    format!("{name}, {}, {precision}", job.variant.input(1))
}

/// What a cell is called, and its cut.
fn cell(
    family: &Family,
    job: &Job,
    found: &Found,
    model: &Model,
) -> anyhow::Result<(Cell, Option<Cutting>)> {
    let cutting = found.cut.map(|at| Cutting::find(&job.cuts[at], &model.graph, &model.grouping));
    let cutting = cutting.transpose()?;
    let cell = Cell {
        network: family.entry.network.name.clone(),
        network_sha256: job.variant.sha256.clone(),
        precision: job.variant.precision.name().to_owned(),
        input: job.variant.input(1),
        own_size: job.own_size,
        filter: format!("{:?}", job.feeds[found.feed].spec.filter).to_lowercase(),
        plan: match (found.cut, found.upload) {
            (Some(_), _) => "split",
            (None, Some(_)) => "cloud",
            (None, None) => "edge",
        },
        upload: found.upload.map(|upload| upload.encoding.name().to_owned()),
        jpeg_quality: found.upload.and_then(|upload| upload.quality),
        crosses: found.crosses.clone(),
        macs_before_ppm: cutting.as_ref().map(|cutting| cutting.macs_before_ppm),
        codec: found.codec.map(|codec| codec.name().to_owned()),
    };
    Ok((cell, cutting))
}

/// Multiply-accumulates of a run.
fn weight(job: &Job) -> u128 {
    let macs = job.variant.graph.layers().iter().map(|layer| u128::from(layer.macs.0));
    macs.sum::<u128>().max(1)
}
