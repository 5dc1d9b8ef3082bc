//! What a frame's answer says: labels, boxes or tensors, as a line of output.

use std::collections::BTreeMap;

use cutline_core::{
    graph::{Graph, Scale},
    picture::Fit,
};
use cutline_runtime::{
    boxes::{self, Detection, Thresholds},
    labels::{self, Labels, Scored},
    runner::{Answer, Measured},
    stage::trace::Trace,
    tensor::Tensor,
};
use serde::Serialize;

use super::Args;
use crate::output::Output;

/// Reads answers as the user asked for.
pub(super) struct Reader {
    labels: Option<Labels>,
    top: usize,
    thresholds: Thresholds,
    fit: Option<Fit>,
    /// What the integers of quantised outputs stand for, by name.
    scales: BTreeMap<String, Scale>,
    noted: bool,
}

/// One line of output.
#[derive(Clone, Serialize)]
pub(super) struct Line<'a> {
    pub(super) frame: u64,
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<Scored>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes: Option<Vec<Detection>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<OutputLine>>,
    #[serde(flatten)]
    measured: Measured,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
    /// Some labels or boxes are missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl Line<'_> {
    /// The same as it is published: small, without the values of tensors and the parts of its time.
    pub(super) fn to_publish(&self) -> Self {
        let head = |output: &OutputLine| OutputLine {
            name: output.name.clone(),
            dtype: output.dtype,
            shape: output.shape.clone(),
            values: None,
        };
        Line {
            labels: self.labels.clone(),
            boxes: self.boxes.clone(),
            outputs: self.outputs.as_ref().map(|outputs| outputs.iter().map(head).collect()),
            route: self.route.clone(),
            trace: None,
            ..*self
        }
    }

    /// Keeps so many labels, boxes and outputs at most.
    pub(super) fn clip(&mut self, most: usize) {
        self.truncated = true;
        self.labels.iter_mut().for_each(|labels| labels.truncate(most));
        self.boxes.iter_mut().for_each(|boxes| boxes.truncate(most));
        self.outputs.iter_mut().for_each(|outputs| outputs.truncate(most));
    }
}

/// A line in place of an answer.
#[derive(Serialize)]
pub(super) struct FailedLine<'a> {
    frame: u64,
    input: &'a str,
    error: String,
}

/// An output of the network as data.
#[derive(Clone, Serialize)]
struct OutputLine {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f64>>,
}

/// What a frame's answer says.
enum Reading {
    Labels(Vec<Scored>),
    Boxes(Vec<Detection>),
    Tensors,
}

impl Reader {
    pub(super) fn new(
        args: &Args,
        labels: Option<Labels>,
        fit: Option<Fit>,
        graph: &Graph,
    ) -> Self {
        let scale = |&id| Some((graph.value(id).name.clone(), graph.scale(id)?));
        let scales = graph.outputs().iter().filter_map(scale).collect();
        let thresholds = Thresholds { min_score: args.min_score, max_iou: args.max_iou };
        Self { labels, top: args.top, thresholds, fit, scales, noted: false }
    }

    /// The line of a frame's answer; with `--json` where its time went, stage by stage, too.
    pub(super) fn answered<'a>(
        &mut self,
        index: u64,
        input: &'a str,
        answer: Answer,
        output: &Output,
    ) -> Line<'a> {
        let reading = self.read(&answer);
        if self.labels.is_some() && !self.noted {
            self.note(&reading, output);
            self.noted = true;
        }
        let Answer { outputs, trace, measured, route } = answer;
        let (mut labels, mut boxes, mut tensors) = (None, None, None);
        match reading {
            Reading::Labels(scored) => labels = Some(scored),
            Reading::Boxes(found) => boxes = Some(found),
            Reading::Tensors => tensors = Some(outputs.into_iter().map(output_line).collect()),
        }
        let trace = output.is_json().then_some(trace);
        let route = route.filter(|_| output.is_json()).map(|route| route.to_string());
        let (outputs, truncated) = (tensors, false);
        Line { frame: index, input, labels, boxes, outputs, measured, route, trace, truncated }
    }

    /// The objects of a detector, else the best classes of the first output that is a list of
    /// scores.
    fn read(&self, answer: &Answer) -> Reading {
        let Some(labels) = &self.labels else { return Reading::Tensors };
        let real = |(name, tensor): &(String, Tensor)| {
            let real = self.scales.get(name).and_then(|&it| labels::dequantised(tensor, it));
            (name.clone(), real.unwrap_or_else(|| tensor.clone()))
        };
        let outputs: Vec<(String, Tensor)> = answer.outputs.iter().map(real).collect();
        if let Some(found) = boxes::detections(&outputs, labels, self.thresholds) {
            return Reading::Boxes(found);
        }
        let best = |(name, tensor): &(String, Tensor)| match self.scales.get(name) {
            Some(&scale) => labels::top_quantised(tensor, scale, labels, self.top),
            None => labels::top(tensor, labels, self.top),
        };
        match answer.outputs.iter().find_map(best) {
            Some(scored) => Reading::Labels(scored),
            None => Reading::Tensors,
        }
    }

    /// What a person should know about how the answers are read.
    fn note(&self, reading: &Reading, output: &Output) {
        match reading {
            Reading::Tensors => output.note(
                "the labels are not used: no output is a list of scores (such as 1x1000), and none are scores 1xNxC with boxes 1xNx4; printing tensors",
            ),
            Reading::Boxes(_) if self.fit == Some(Fit::Crop) => output.note(
                "the plan crops pictures to their middle: boxes are fractions of what is left",
            ),
            _ => {}
        }
    }
}

/// The line of a frame that has no answer, and why.
pub(super) fn failed<'a>(index: u64, input: &'a str, error: &anyhow::Error) -> FailedLine<'a> {
    FailedLine { frame: index, input, error: format!("{error:#}") }
}

fn output_line((name, tensor): (String, Tensor)) -> OutputLine {
    let (dtype, shape) = (tensor.dtype().oip(), tensor.shape().0.clone());
    OutputLine { name, dtype, shape, values: Some(tensor.to_f64()) }
}
