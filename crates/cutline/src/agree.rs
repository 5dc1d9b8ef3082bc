//! How often the parts answer as the whole network does, over a folder of pictures; and, where the
//! true classes are known, how often either is right.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use cutline_core::{
    agreement::{Interval, Share},
    picture::InputEncoding,
};
use cutline_runtime::{
    engine::{Engine, LoadOptions, ModelSource},
    labels::Labels,
    model::Model,
    parts::{Best, best_class},
    verify::{self, Part},
};
use serde::Serialize;

use crate::{
    gallery::Gallery,
    inputs::{file_name, is_tensor_file},
    output::Output,
};

/// A share of the pictures as reports print it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ShareRow {
    #[serde(flatten)]
    share: Share,
    value: f64,
    /// Wilson's interval of 95 %.
    #[serde(flatten)]
    interval: Interval,
}

impl From<Share> for ShareRow {
    fn from(share: Share) -> Self {
        Self { share, value: share.value(), interval: share.interval() }
    }
}

impl ShareRow {
    pub(crate) fn share(self) -> Share {
        self.share
    }
}

/// The best class of every picture, in the gallery's order; `None` where a picture has none.
pub(crate) type Classes = Vec<Option<Best>>;

/// What the whole network says of every picture, none of which may be without a class.
pub(crate) fn of_whole(
    model: &Model,
    gallery: &Gallery,
    (engine, options): (&dyn Engine, LoadOptions),
    output: &Output,
) -> anyhow::Result<Classes> {
    let mut session = engine.load(&ModelSource::File(model.path.clone()), options)?;
    let bar = output.progress("the whole network", gallery.len() as u64);
    let class = |file: &std::path::PathBuf| {
        let inputs = gallery.inputs(file, &model.graph, InputEncoding::Fp32)?;
        let answer = verify::run_whole(session.as_mut(), &model.graph, &inputs)?;
        bar.inc(1);
        let best = best_class(&answer);
        Ok(Some(best.with_context(|| {
            format!(
                "the network's answer to `{}` is no list of scores, so there is no best class to agree on",
                file.display()
            )
        })?))
    };
    let classes = gallery.files().iter().map(class).collect();
    bar.finish_and_clear();
    classes
}

/// What the parts say of every picture, sent in an encoding.
pub(crate) fn of_parts(
    parts: &mut [Part],
    model: &Model,
    (gallery, encoding): (&Gallery, InputEncoding),
    output: &Output,
) -> anyhow::Result<Classes> {
    if encoding.is_lossy()
        && let Some(tensor) = gallery.files().iter().find(|file| is_tensor_file(file))
    {
        bail!(
            "`{}` is a tensor, so it cannot be sent as {encoding}; give a folder of pictures only",
            tensor.display()
        );
    }
    let bar = output.progress("the parts", gallery.len() as u64);
    let class = |file: &std::path::PathBuf| {
        let inputs = gallery.inputs(file, &model.graph, encoding)?;
        let answer = verify::run_parts(parts, &model.graph, &inputs)?;
        bar.inc(1);
        Ok(best_class(&answer))
    };
    let classes = gallery.files().iter().map(class).collect();
    bar.finish_and_clear();
    classes
}

/// How many of the pictures get the same class.
pub(crate) fn agreement(whole: &Classes, parts: &Classes) -> Share {
    let mut share = Share::default();
    for (whole, parts) in whole.iter().zip(parts) {
        share.add(whole.is_some() && whole == parts);
    }
    share
}

/// The true classes of pictures, by file name.
pub(crate) struct Truth(BTreeMap<String, String>);

impl Truth {
    /// Reads a file of one picture a line: its name, a tab, its class as a number or a label.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot use truth `{}`", path.display());
        let text = fs::read_to_string(path).with_context(context)?;
        let mut classes = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let Some((name, class)) = line.rsplit_once('\t') else {
                bail!(
                    "cannot use truth `{}`: line {number} is `{line}`; expected a file name, a tab and a class",
                    path.display()
                );
            };
            classes.insert(name.trim().to_owned(), class.trim().to_owned());
        }
        Ok(Self(classes))
    }

    /// How many of the pictures whose class is known got it.
    pub(crate) fn accuracy(
        &self,
        gallery: &Gallery,
        found: &Classes,
        labels: &Labels,
    ) -> anyhow::Result<Share> {
        let mut share = Share::default();
        for (file, found) in gallery.files().iter().zip(found) {
            let Some(class) = self.of(&file_name(file)) else { continue };
            let classes = found.map_or(0, |best| best.classes);
            if labels.is_empty() && class.parse::<usize>().is_err() {
                bail!("the true class `{class}` is a name; say with --labels which class it is");
            }
            let class = class_number(class, labels, classes);
            share.add(found.is_some_and(|best| Some(best.class) == class));
        }
        if share.of == 0 {
            bail!("the truth names none of the pictures; it lists file names without a folder");
        }
        Ok(share)
    }

    /// The true class of the picture of this file name, as it is written.
    pub(crate) fn of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The position of a class, given as a number or by its label, in an answer of so many classes.
pub(crate) fn class_number(class: &str, labels: &Labels, classes: usize) -> Option<usize> {
    class.parse().ok().or_else(|| labels.class(class, classes))
}
