//! The answers of one network at one size in one precision: whole, and cut in two.
//!
//! ```text
//! picture ─ pixels ─┬─ tensor ──────── whole ─ class         on the source
//!                   ├─ upload ─ tensor ─ whole ─ class       in the cloud, once for each upload
//!                   └─ tensor ─ prefix ─┬─ codec ─ suffix ─ class
//!                                       └─ codec ─ suffix ─ class     once for each codec
//! ```
//!
//! What cells share is computed once: the answer to a lossless upload is that of the source, and the
//! prefix of a cut runs once for all its codecs. What the prefix makes of a picture is kept between
//! the passes of a calibration and for the counting, as far as the memory goes.

use std::{collections::BTreeMap, path::Path, slice};

use anyhow::{Context, bail};
use bytes::Bytes;
use cutline_core::{
    codec::{CutCodecs, CutEncoding, Quantised, Quantization, Quantizations},
    picture::{InputEncoding, PictureSpec},
    split::{self, Port, StageLabel, SubModel},
};
use cutline_runtime::{
    engine::{Engine, LoadOptions, ModelSource, Session},
    model::Model,
    parts::{self, Ranges, Steps, best_class},
    picture,
    stage::code_of,
    tensor::Tensor,
    verify::{self, Part, run_values},
};

use super::{
    grid::{At, Grid},
    jobs::{Cutting, Feed, Job},
    pictures::Pictures,
    progress::Progress,
};
use crate::{characterize::grid::Upload, output::Output};

/// Tensors by name.
type Values = BTreeMap<String, Tensor>;

/// What networks run on.
pub(super) struct Bench<'a> {
    pub(super) grid: &'a Grid,
    pub(super) engine: &'a dyn Engine,
    pub(super) options: LoadOptions,
    pub(super) pictures: &'a mut Pictures,
    /// Absent: the pictures themselves.
    pub(super) calibration: Option<&'a mut Pictures>,
    /// Bytes of what a prefix makes that may be kept.
    pub(super) memory: u64,
    pub(super) progress: &'a mut Progress,
    pub(super) output: &'a Output,
}

/// The best class of each picture; none where it was skipped, or its scores are no numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// By picture; [`NONE`] where there is none.
    best: Vec<u32>,
    /// How many classes there are.
    pub(super) classes: usize,
}

const NONE: u32 = u32::MAX;

impl Answers {
    fn new(pictures: usize) -> Self {
        Self { best: vec![NONE; pictures], classes: 0 }
    }

    /// The class of a picture.
    pub(super) fn of(&self, at: usize) -> Option<usize> {
        Some(self.best[at]).filter(|&class| class != NONE).map(|class| class as usize)
    }

    fn note(&mut self, at: usize, outputs: &[(String, Tensor)]) {
        if let Some(best) = best_class(outputs) {
            self.best[at] = u32::try_from(best.class).unwrap_or(NONE);
            self.classes = best.classes;
        }
    }
}

/// What a cell of a job answers, and what it sends.
pub(super) struct Found {
    /// Position among the job's feeds.
    pub(super) feed: usize,
    /// Position among the job's cuts; `None`: not cut.
    pub(super) cut: Option<usize>,
    /// How the input travels, where it does.
    pub(super) upload: Option<Upload>,
    /// How the values of the cut travel, where there is one.
    pub(super) codec: Option<CutEncoding>,
    pub(super) answers: Answers,
    /// Over all pictures.
    pub(super) sent: Sent,
    /// Names of the values of the network that cross.
    pub(super) crosses: Vec<String>,
}

/// Bytes that cells send, summed over pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Of the input.
    pub(super) input: u64,
    /// Of values that the codec encodes, as declared and as they travel.
    pub(super) declared: u64,
    pub(super) encoded: u64,
    /// Of other values.
    pub(super) plain: u64,
    pub(super) pictures: u64,
}

impl Sent {
    /// Mean of a picture, rounded.
    pub(super) fn mean(self, total: u64) -> u64 {
        (total + self.pictures / 2) / self.pictures.max(1)
    }

    /// Everything that travels.
    pub(super) fn total(self) -> u64 {
        self.input + self.encoded + self.plain
    }

    fn add(&mut self, other: Self) {
        self.input += other.input;
        self.declared += other.declared;
        self.encoded += other.encoded;
        self.plain += other.plain;
        self.pictures += other.pictures;
    }
}

impl Bench<'_> {
    /// Every cell of a job. The answers of the unsplit network that are only compared with are among
    /// them, with a feed that is not of the grid.
    pub(super) fn job(&mut self, job: &Job, folder: &Path) -> anyhow::Result<Vec<Found>> {
        let opened = job.variant.open(1, folder)?;
        let model = &opened.model;
        let mut found = Vec::new();
        let is_whole = job.cuts.contains(&At::Whole);
        let feeds = job.feeds.iter().enumerate();
        let whole: Vec<(usize, &Feed)> =
            feeds.filter(|(_, feed)| is_whole || feed.is_reference).collect();
        if !whole.is_empty() {
            let source = ModelSource::File(model.path.clone());
            let mut session = self.engine.load(&source, self.options)?;
            for (at, feed) in whole {
                let in_grid = is_whole && feed.in_grid;
                found.extend(self.whole(session.as_mut(), model, (at, feed), in_grid)?);
            }
        }
        for (at, place) in job.cuts.iter().enumerate().filter(|(_, at)| **at != At::Whole) {
            let cutting = Cutting::find(place, &model.graph, &model.grouping)?;
            found.extend(self.cut(model, job, (at, &cutting))?);
        }
        model.check_unchanged()?;
        for feed in &job.feeds {
            self.pictures.done(feed.kinds[0]);
            if let Some(calibration) = &mut self.calibration {
                calibration.done(feed.kinds[1]);
            }
        }
        Ok(found)
    }

    /// The whole network on the source, and in the cloud after each upload.
    fn whole(
        &mut self,
        session: &mut dyn Session,
        model: &Model,
        (at_feed, feed): (usize, &Feed),
        in_grid: bool,
    ) -> anyhow::Result<Vec<Found>> {
        let uploads: &[Upload] = if in_grid { &self.grid.uploads } else { &[] };
        let cell = |upload| Found {
            feed: at_feed,
            cut: None,
            upload,
            codec: None,
            answers: Answers::new(self.pictures.len()),
            sent: Sent::default(),
            crosses: Vec::new(),
        };
        let mut edge = cell(None);
        let mut cloud: Vec<Found> = uploads.iter().map(|&upload| cell(Some(upload))).collect();
        for at in 0..self.pictures.len() {
            let Some(pixels) = self.pictures.pixels(at, feed.kinds[0], self.output)? else {
                continue;
            };
            let mut answer =
                |tensor: Tensor| verify::run_whole(session, &model.graph, &inputs(model, tensor));
            let outputs = answer(tensor(&pixels, &feed.spec)?)?;
            if best_class(&outputs).is_none() {
                bail!(
                    "the network's answer is no list of scores, so there is no best class to count"
                );
            }
            edge.answers.note(at, &outputs);
            edge.sent.pictures += 1;
            for (cell, upload) in cloud.iter_mut().zip(uploads) {
                let (bytes, arrived) = received(&pixels, &feed.spec, *upload)?;
                cell.sent.add(Sent { input: bytes, pictures: 1, ..Sent::default() });
                match arrived {
                    Some(tensor) => cell.answers.note(at, &answer(tensor)?),
                    None => cell.answers.note(at, &outputs),
                }
            }
            self.progress.step(1 + uploads.iter().filter(|u| u.encoding.is_lossy()).count() as u64);
        }
        self.pictures.seen()?;
        Ok([edge].into_iter().chain(cloud).collect())
    }

    /// The network cut in two, with each codec.
    fn cut(
        &mut self,
        model: &Model,
        job: &Job,
        (at_cut, cutting): (usize, &Cutting),
    ) -> anyhow::Result<Vec<Found>> {
        let labels = [StageLabel::new("prefix"), StageLabel::new("suffix")];
        let plain = split::split(&model.proto, &model.graph, &cutting.stage_of, &labels)?;
        let mut loaded =
            parts::load(self.engine, self.options, &plain, model.folder())?.into_iter();
        let (Some(prefix), Some(suffix)) = (loaded.next(), loaded.next()) else {
            bail!("a cut makes two parts");
        };
        let mut halves = Halves { model, cutting, labels, plain, prefix, suffix };
        let mut found = Vec::new();
        for (at, feed) in job.feeds.iter().enumerate().filter(|(_, feed)| feed.in_grid) {
            let mut kept = Kept { values: BTreeMap::new(), left: self.memory };
            let quantizations = self.calibrate(&mut halves, feed, &mut kept)?;
            if self.calibration.is_some() {
                kept = Kept { values: BTreeMap::new(), left: 0 };
            }
            found.extend(
                self.answers(&mut halves, (at, feed), &quantizations, kept)?
                    .into_iter()
                    .map(|cell| Found { cut: Some(at_cut), ..cell }),
            );
        }
        Ok(found)
    }

    /// What the bytes of the values of a cut stand for, for every codec of the grid that needs it.
    fn calibrate(
        &mut self,
        halves: &mut Halves,
        feed: &Feed,
        kept: &mut Kept,
    ) -> anyhow::Result<Quantizations> {
        let mut values: Vec<Quantised> = Vec::new();
        for &codec in self.grid.codecs.iter().filter(|codec| codec.is_quantised()) {
            values.extend(halves.quantised(codec)?);
        }
        if values.is_empty() {
            return Ok(Quantizations::new());
        }
        let (pictures, kind) = match &mut self.calibration {
            Some(calibration) => (&mut **calibration, feed.kinds[1]),
            None => (&mut *self.pictures, feed.kinds[0]),
        };
        let mut ranges = Ranges::default();
        for at in 0..pictures.len() {
            let Some(pixels) = pictures.pixels(at, kind, self.output)? else { continue };
            ranges.note(&halves.made((at, &pixels, feed), kept)?);
            self.progress.step(1);
        }
        pictures.seen()?;
        let mut found = ranges.quantizations(&values).map_err(|value| {
            anyhow::anyhow!(
                "`{value}` is never a finite number on these pictures, so it cannot travel as bytes; use fp16, or other pictures"
            )
        })?;
        let mut steps = Steps::new(&values, &found);
        while !steps.is_done() {
            for at in 0..pictures.len() {
                let Some(pixels) = pictures.pixels(at, kind, self.output)? else { continue };
                steps.note(&halves.made((at, &pixels, feed), kept)?);
            }
            steps.narrow();
        }
        found.extend(steps.quantizations());
        Ok(found)
    }

    /// The cells of a cut under one feed.
    fn answers(
        &mut self,
        halves: &mut Halves,
        (at_feed, feed): (usize, &Feed),
        quantizations: &Quantizations,
        mut kept: Kept,
    ) -> anyhow::Result<Vec<Found>> {
        let input = halves.crossing_input();
        let uploads: Vec<Option<Upload>> = match &input {
            Some(_) => self.grid.uploads.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let mut ways = Vec::new();
        for &codec in &self.grid.codecs {
            ways.extend(self.way(halves, codec, quantizations)?);
        }
        let mut cells: Vec<Vec<Found>> = Vec::new();
        for way in &ways {
            let cell = |&upload: &Option<Upload>| Found {
                feed: at_feed,
                cut: None,
                upload,
                codec: Some(way.codec),
                answers: Answers::new(self.pictures.len()),
                sent: Sent::default(),
                crosses: halves.crossing_values(),
            };
            cells.push(uploads.iter().map(cell).collect());
        }
        for at in 0..self.pictures.len() {
            let Some(pixels) = self.pictures.pixels(at, feed.kinds[0], self.output)? else {
                continue;
            };
            let made = halves.made((at, &pixels, feed), &mut kept)?;
            kept.values.remove(&at);
            for (way, cells) in ways.iter_mut().zip(&mut cells) {
                let (mut arrived, sent) = way.pass(&made)?;
                for (cell, upload) in cells.iter_mut().zip(&uploads) {
                    cell.sent.add(Sent { pictures: 1, ..sent });
                    if let (Some(name), Some(upload)) = (&input, upload) {
                        let (bytes, tensor) = received(&pixels, &feed.spec, *upload)?;
                        cell.sent.input += bytes;
                        let tensor = tensor.or_else(|| made.get(name).cloned());
                        arrived.extend(tensor.map(|tensor| (name.clone(), tensor)));
                    }
                    cell.answers.note(at, &halves.finish(&made, &arrived)?);
                }
            }
            self.progress.step((1 + ways.len() * uploads.len()) as u64);
        }
        self.pictures.seen()?;
        Ok(cells.into_iter().flatten().collect())
    }

    /// How the values of a cut travel in a codec; `None` where it encodes none of them, so that it
    /// is no other cell than without one.
    fn way(
        &self,
        halves: &Halves,
        codec: CutEncoding,
        quantizations: &Quantizations,
    ) -> anyhow::Result<Option<Way>> {
        let encoded = halves.encoded(codec, quantizations)?;
        let [before, after] = encoded.as_slice() else { bail!("a cut makes two parts") };
        let encoder = match split::encoder(&halves.plain[0], before) {
            Some(encoder) => {
                let folder = halves.model.folder();
                let loaded = parts::load(self.engine, self.options, &[encoder], folder)?;
                Some(loaded.into_iter().next().context("an encoder is one part")?)
            }
            None if codec.is_lossy() => return Ok(None),
            None => None,
        };
        let ports = after.inputs.iter().filter(|port| !halves.is_input(port));
        let quantization = |port: &Port| {
            let value = halves.name(port);
            quantizations.get(&Quantised { value, encoding: codec }.key()).copied()
        };
        let crossing = |port: &Port| Crossing {
            value: halves.name(port),
            wire: port.name.clone(),
            encoding: port.encoding,
            quantization: quantization(port).filter(|_| port.encoding.is_quantised()),
        };
        Ok(Some(Way { codec, encoder, crossing: ports.map(crossing).collect() }))
    }
}

/// A network cut in two, both halves loaded as they are without a codec.
struct Halves<'a> {
    model: &'a Model,
    cutting: &'a Cutting,
    labels: [StageLabel; 2],
    plain: Vec<SubModel>,
    prefix: Part,
    suffix: Part,
}

impl Halves<'_> {
    fn codecs(codec: CutEncoding, quantizations: &Quantizations) -> CutCodecs {
        CutCodecs { stages: vec![codec; 2], quantizations: quantizations.clone() }
    }

    /// The values that a codec quantises.
    fn quantised(&self, codec: CutEncoding) -> anyhow::Result<Vec<Quantised>> {
        let codecs = Self::codecs(codec, &Quantizations::new());
        let (graph, stage_of) = (&self.model.graph, &self.cutting.stage_of);
        Ok(split::quantised_values(graph, stage_of, &self.labels, &codecs)?)
    }

    /// Both halves with a codec.
    fn encoded(
        &self,
        codec: CutEncoding,
        quantizations: &Quantizations,
    ) -> anyhow::Result<Vec<SubModel>> {
        let codecs = Self::codecs(codec, quantizations);
        let (model, stage_of) = (self.model, &self.cutting.stage_of);
        Ok(split::split_encoded(&model.proto, &model.graph, stage_of, &self.labels, &codecs)?)
    }

    fn name(&self, port: &Port) -> String {
        self.model.graph.value(port.value).name.clone()
    }

    fn is_input(&self, port: &Port) -> bool {
        self.model.graph.inputs().contains(&port.value)
    }

    /// The network's input, where the second half reads it, too.
    fn crossing_input(&self) -> Option<String> {
        self.plain[1].inputs.iter().find(|port| self.is_input(port)).map(|port| self.name(port))
    }

    /// Names of the values that cross.
    fn crossing_values(&self) -> Vec<String> {
        let ports = self.plain[1].inputs.iter().filter(|port| !self.is_input(port));
        ports.map(|port| self.name(port)).collect()
    }

    /// What the first half makes of a picture, and what it was given.
    fn made(
        &mut self,
        (at, pixels, feed): (usize, &Bytes, &Feed),
        kept: &mut Kept,
    ) -> anyhow::Result<Values> {
        if let Some(values) = kept.values.get(&at) {
            return Ok(values.clone());
        }
        let given = inputs(self.model, tensor(pixels, &feed.spec)?);
        let values = run_values(slice::from_mut(&mut self.prefix), &given)?;
        let bytes: u64 = values.values().map(|tensor| tensor.data().len() as u64).sum();
        if bytes <= kept.left {
            kept.left -= bytes;
            kept.values.insert(at, values.clone());
        }
        Ok(values)
    }

    /// What the network answers, from what its first half made and what arrived of that. An answer
    /// of the first half goes back as it is.
    fn finish(&mut self, made: &Values, arrived: &Values) -> anyhow::Result<Vec<(String, Tensor)>> {
        let known = run_values(slice::from_mut(&mut self.suffix), arrived)?;
        let graph = &self.model.graph;
        let names = graph.outputs().iter().map(|&id| graph.value(id).name.clone());
        let output = |name: String| {
            let late = self.suffix.outputs.contains(&name);
            let tensor = if late { known.get(&name) } else { made.get(&name) };
            let tensor = tensor.cloned().with_context(|| format!("no half makes `{name}`"))?;
            Ok((name, tensor))
        };
        names.map(output).collect()
    }
}

/// What a first half made, by picture, as far as the memory goes.
struct Kept {
    values: BTreeMap<usize, Values>,
    left: u64,
}

/// How the values of a cut travel in one codec.
struct Way {
    codec: CutEncoding,
    /// `None`: all travel as they are.
    encoder: Option<Part>,
    crossing: Vec<Crossing>,
}

/// A value that crosses.
struct Crossing {
    value: String,
    /// Its name on the way.
    wire: String,
    encoding: CutEncoding,
    quantization: Option<Quantization>,
}

impl Way {
    /// What arrives of what the first half made, and how many bytes travelled. An engine encodes, as
    /// in the sub-models; decoding is exact.
    fn pass(&mut self, made: &Values) -> anyhow::Result<(Values, Sent)> {
        let coded = match &mut self.encoder {
            Some(encoder) => {
                let given = encoder.inputs.iter();
                let given = given.filter_map(|name| Some((name.clone(), made.get(name)?.clone())));
                let given: Values = given.collect();
                run_values(slice::from_mut(encoder), &given)?
            }
            None => Values::new(),
        };
        let mut sent = Sent::default();
        let mut arrived = made.clone();
        for crossing in &self.crossing {
            let plain = made.get(&crossing.value);
            let plain = plain.with_context(|| format!("no half makes `{}`", crossing.value))?;
            if !crossing.encoding.is_lossy() {
                sent.plain += plain.data().len() as u64;
                continue;
            }
            let wire = coded.get(&crossing.wire);
            let wire = wire.with_context(|| format!("`{}` was not encoded", crossing.value))?;
            sent.declared += plain.data().len() as u64;
            sent.encoded += match crossing.encoding.is_entropy_coded() {
                true => code_of(wire.data(), wire.shape()).len() as u64,
                false => wire.data().len() as u64,
            };
            let numbers = match crossing.quantization {
                Some(quantization) => quantization.values_of(wire.data()),
                None => wire.to_f64().into_iter().map(|value| value as f32).collect(),
            };
            let decoded = Tensor::from_f32(plain.shape().clone(), numbers)?;
            arrived.insert(crossing.value.clone(), decoded);
        }
        Ok((arrived, sent))
    }
}

/// The network's input from the pixels of a picture.
fn tensor(pixels: &Bytes, spec: &PictureSpec) -> anyhow::Result<Tensor> {
    Ok(picture::send(pixels.to_vec(), spec, InputEncoding::Fp32)?.tensor)
}

/// The bytes of an upload, and the tensor that is made of it where it is another one.
fn received(
    pixels: &Bytes,
    spec: &PictureSpec,
    upload: Upload,
) -> anyhow::Result<(u64, Option<Tensor>)> {
    let jpeg_quality = upload.quality.unwrap_or(spec.jpeg_quality);
    let spec = PictureSpec { jpeg_quality, ..spec.clone() };
    if upload.encoding == InputEncoding::Uint8 {
        return Ok((pixels.len() as u64, None));
    }
    let payload = picture::send(pixels.to_vec(), &spec, upload.encoding)?;
    let bytes = payload.tensor.data().len() as u64;
    let arrived = upload.encoding.is_lossy().then(|| picture::finish(&payload, &spec));
    Ok((bytes, arrived.transpose()?))
}

fn inputs(model: &Model, tensor: Tensor) -> Values {
    let graph = &model.graph;
    graph.inputs().iter().map(|&id| (graph.value(id).name.clone(), tensor.clone())).collect()
}
