//! Boxes of a detector's answer.
//!
//! Many detectors end in two outputs over the same N candidates: scores `1xNxC`, a probability per
//! class, and corners `1xNx4`, each `left, top, right, bottom` as fractions of the input. Such a
//! pair is known by its shapes and its numbers. Candidates below a score are dropped; of those of
//! one class that overlap, the best one stays (greedy non-maximum suppression). What a network
//! leaves to be decoded by code of its own, such as offsets to anchors, is not guessed at.

use serde::Serialize;

use crate::{
    labels::{Labels, floats},
    tensor::Tensor,
};

/// Most boxes of one answer.
pub const MOST: usize = 100;

/// How far corners may lie outside of the picture: detectors place some of their candidates beyond
/// its border, but offsets and pixels go much further.
const BEYOND: f32 = 1.0;

/// Which candidates are objects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Lowest score.
    pub min_score: f32,
    /// Largest intersection over union of two boxes of one class.
    pub max_iou: f32,
}

/// An object in the picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// Position of the class in the network's scores.
    pub class: usize,
    /// Its name; the position where there is none.
    pub label: String,
    /// Probability.
    pub score: f32,
    /// Where it is.
    #[serde(flatten)]
    pub corners: Corners,
}

/// A rectangle, in fractions of the picture from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Corners {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Corners {
    /// Intersection over union; 0 where both are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let overlap = Corners {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        let shared = overlap.area();
        let union = self.area() + other.area() - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }

    fn area(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// Whether these can be corners at all: in order, and in or around the picture.
    fn is_plausible(&self) -> bool {
        let around = -BEYOND..=1.0 + BEYOND;
        self.left <= self.right
            && self.top <= self.bottom
            && [self.left, self.top, self.right, self.bottom].iter().all(|x| around.contains(x))
    }

    /// The part inside of the picture.
    fn clipped(&self) -> Self {
        let [left, top, right, bottom] =
            [self.left, self.top, self.right, self.bottom].map(|x| x.clamp(0.0, 1.0));
        Corners { left, top, right, bottom }
    }
}

/// The scores and corners of a detector's candidates.
struct Candidates {
    classes: usize,
    scores: Vec<f32>,
    corners: Vec<Corners>,
}

/// The objects of an answer, best first, at most [`MOST`]; `None` where it holds no pair of scores
/// and corners. Where the labels leave it a place, class 0 is the background, which is no object.
pub fn detections(
    outputs: &[(String, Tensor)],
    labels: &Labels,
    thresholds: Thresholds,
) -> Option<Vec<Detection>> {
    let Candidates { classes, scores, corners } = candidates(outputs)?;
    let background = labels.have_background(classes);
    let objects = |index: &usize| !(background && index.is_multiple_of(classes));
    let mut order: Vec<usize> = (0..scores.len())
        .filter(|&at| scores[at] >= thresholds.min_score)
        .filter(objects)
        .collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        let hides = |&other: &usize| {
            other % classes == at % classes
                && corners[other / classes].iou(&corners[at / classes]) > thresholds.max_iou
        };
        if !kept.iter().any(hides) {
            kept.push(at);
        }
        if kept.len() == MOST {
            break;
        }
    }
    let detection = |at: usize| Detection {
        class: at % classes,
        label: labels.name(at % classes, classes),
        score: scores[at],
        corners: corners[at / classes].clipped(),
    };
    Some(kept.into_iter().map(detection).collect())
}

/// The pair of outputs that are scores and corners of the same candidates.
fn candidates(outputs: &[(String, Tensor)]) -> Option<Candidates> {
    let pairs = outputs.iter().flat_map(|(_, boxes)| {
        outputs
            .iter()
            .filter(|(_, scores)| !std::ptr::eq(scores, boxes))
            .map(move |(_, s)| (s, boxes))
    });
    pairs.into_iter().find_map(|(scores, boxes)| {
        let ((count, classes), (boxes_count, 4)) = (table(scores)?, table(boxes)?) else {
            return None;
        };
        if count != boxes_count || count == 0 || classes == 0 {
            return None;
        }
        let scores = floats(scores).filter(|scores| scores.iter().all(is_probability))?;
        let corners: Vec<Corners> = floats(boxes)?
            .chunks_exact(4)
            .map(|c| Corners { left: c[0], top: c[1], right: c[2], bottom: c[3] })
            .collect();
        let plausible = corners.iter().all(Corners::is_plausible);
        plausible.then_some(Candidates { classes, scores, corners })
    })
}

/// Rows and columns of a tensor `1xNxM`.
fn table(tensor: &Tensor) -> Option<(usize, usize)> {
    match tensor.shape().0[..] {
        [1, rows, columns] => Some((usize::try_from(rows).ok()?, usize::try_from(columns).ok()?)),
        _ => None,
    }
}

/// Softmax and sigmoid may end a rounding error beyond their range.
fn is_probability(value: &f32) -> bool {
    (-1e-3..=1.0 + 1e-3).contains(value)
}

#[cfg(test)]
mod tests {
    use cutline_core::tensor::{DType, Shape};

    use super::*;

    const HALF: Thresholds = Thresholds { min_score: 0.5, max_iou: 0.5 };

    fn corners(c: [f32; 4]) -> Corners {
        Corners { left: c[0], top: c[1], right: c[2], bottom: c[3] }
    }

    fn tensor(shape: &[u64], values: &[f32]) -> Tensor {
        Tensor::from_f32(Shape(shape.to_vec()), values.to_vec()).unwrap()
    }

    /// An answer of candidates with a score for background and one per class.
    fn answer(candidates: &[([f32; 2], [f32; 4])]) -> Vec<(String, Tensor)> {
        let count = candidates.len() as u64;
        let scores: Vec<f32> = candidates.iter().flat_map(|(scores, _)| *scores).collect();
        let boxes: Vec<f32> = candidates.iter().flat_map(|(_, corners)| *corners).collect();
        vec![
            ("scores".to_owned(), tensor(&[1, count, 2], &scores)),
            ("boxes".to_owned(), tensor(&[1, count, 4], &boxes)),
        ]
    }

    #[test]
    fn intersection_over_union() {
        let unit = [0.0, 0.0, 1.0, 1.0];
        let cases: [([f32; 4], [f32; 4], f32); 6] = [
            (unit, unit, 1.0),
            (unit, [0.0, 0.0, 0.5, 1.0], 0.5),
            ([0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], 1.0 / 3.0),
            ([0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], 0.0),
            ([0.0, 0.0, 0.1, 0.1], [0.8, 0.8, 0.9, 0.9], 0.0),
            ([0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.3, 0.3], 0.0),
        ];
        for (a, b, expected) in cases {
            let (a, b) = (corners(a), corners(b));
            assert!((a.iou(&b) - expected).abs() < 1e-6, "{a:?} {b:?}: {}", a.iou(&b));
            assert_eq!(a.iou(&b), b.iou(&a));
        }
    }

    #[test]
    fn the_best_of_what_overlaps_stays() {
        let (here, nearby, there) =
            ([0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.52, 0.5], [0.6, 0.6, 1.2, 0.9]);
        let answer = answer(&[
            ([0.3, 0.7], here),
            ([0.1, 0.9], nearby),
            ([0.6, 0.4], there),
            ([0.2, 0.8], there),
        ]);
        let face = Labels::parse("face");
        let found = |labels: &Labels, min_score, max_iou| -> Vec<(usize, String, f32)> {
            let found = detections(&answer, labels, Thresholds { min_score, max_iou }).unwrap();
            found.into_iter().map(|d| (d.class, d.label, d.score)).collect()
        };
        let one = |score| (1, "face".to_owned(), score);
        let cases = [
            (0.5, 0.5, vec![one(0.9), one(0.8)]),
            (0.85, 0.5, vec![one(0.9)]),
            (0.5, 1.0, vec![one(0.9), one(0.8), one(0.7)]),
            (0.95, 0.5, vec![]),
        ];
        for (min_score, max_iou, expected) in cases {
            assert_eq!(found(&face, min_score, max_iou), expected, "{min_score} {max_iou}");
        }
        let both = found(&Labels::parse("cat\ndog"), 0.55, 0.5);
        let names: Vec<_> = both.iter().map(|(class, name, _)| (*class, name.as_str())).collect();
        assert_eq!(names, [(1, "dog"), (1, "dog"), (0, "cat")], "no class is background: {both:?}");
        let named = found(&Labels::parse("background\nface"), 0.55, 0.5);
        assert!(named.iter().all(|(_, name, _)| name == "face"), "{named:?}");
        let first = &detections(&answer, &face, HALF).unwrap();
        assert_eq!(first[1].corners, corners([0.6, 0.6, 1.0, 0.9]), "clipped to the picture");
    }

    #[test]
    fn other_answers_hold_no_boxes() {
        let (good, box_) = ([0.3, 0.7], [0.1, 0.1, 0.5, 0.5]);
        let known = |outputs: &[(String, Tensor)]| {
            detections(outputs, &Labels::parse("face"), HALF).is_some()
        };
        assert!(known(&answer(&[(good, box_)])));
        let mut swapped = answer(&[(good, box_)]);
        swapped.reverse();
        assert!(known(&swapped), "the order of the outputs means nothing");
        let cases = [
            ("logits", answer(&[([-3.0, 4.0], box_)])),
            ("not a number", answer(&[([f32::NAN, 0.7], box_)])),
            ("centre and size", answer(&[(good, [0.6, 0.6, 0.2, 0.2])])),
            ("pixels", answer(&[(good, [10.0, 10.0, 80.0, 90.0])])),
            ("infinite", answer(&[(good, [0.1, 0.1, f32::INFINITY, 0.5])])),
            ("scores alone", answer(&[(good, box_)])[..1].to_vec()),
            ("boxes alone", answer(&[(good, box_)])[1..].to_vec()),
            ("nothing", Vec::new()),
            ("no candidate", answer(&[])),
            ("a grid", vec![("grid".to_owned(), tensor(&[1, 6, 1, 1], &[0.5; 6]))]),
            (
                "other counts",
                vec![
                    ("scores".to_owned(), tensor(&[1, 3, 2], &[0.5; 6])),
                    ("boxes".to_owned(), tensor(&[1, 2, 4], &[0.5; 8])),
                ],
            ),
            (
                "integers",
                vec![
                    ("scores".to_owned(), tensor(&[1, 1, 2], &good)),
                    (
                        "boxes".to_owned(),
                        Tensor::new(DType::U8, Shape(vec![1, 1, 4]), vec![0, 0, 1, 1]).unwrap(),
                    ),
                ],
            ),
        ];
        for (what, outputs) in cases {
            assert!(!known(&outputs), "{what}");
        }
    }

    #[test]
    fn there_is_a_largest_number_of_boxes() {
        let many: Vec<_> = (0..4 * MOST)
            .map(|at| {
                let left = at as f32 / (4 * MOST) as f32;
                ([0.1, 0.9], [left, 0.0, left + 1e-4, 1.0])
            })
            .collect();
        let found = detections(&answer(&many), &Labels::parse("line"), HALF).unwrap();
        assert_eq!(found.len(), MOST);
    }
}
