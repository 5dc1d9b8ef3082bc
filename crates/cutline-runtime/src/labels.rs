//! Names for the classes of a network's answer.
//!
//! A label file has one class per line, in the order of the network's output. Two habits of such
//! files are understood: a leading WordNet id (`n01440764 tench`), and one class too many or too few
//! because a `background` class comes first.

use cutline_core::{graph::Scale, tensor::DType};
use serde::Serialize;

use crate::tensor::Tensor;

/// Class names in the order of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<String>);

/// A class with its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// Position in the network's output.
    pub class: usize,
    /// Its name; the position where there is none.
    pub label: String,
    /// Probability; where the output holds none, its softmax.
    pub score: f32,
}

impl Labels {
    /// Reads a label file; blank lines at its end do not count.
    pub fn parse(text: &str) -> Self {
        Self(text.trim_end().lines().map(|line| strip_id(line.trim()).to_owned()).collect())
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether class 0 of an output of `classes` values is the background: it is called so, or the
    /// names leave it out.
    pub(crate) fn have_background(&self, classes: usize) -> bool {
        let first = self.0.first().map(|name| name.to_ascii_lowercase());
        let named = first.is_some_and(|name| BACKGROUND.contains(&name.as_str()));
        self.0.len() + 1 == classes || (named && self.0.len() == classes)
    }

    /// The class of this name, of an output of `classes` values.
    pub fn class(&self, name: &str, classes: usize) -> Option<usize> {
        (0..classes).find(|&class| self.name(class, classes) == name)
    }

    /// The name of a class of an output of `classes` values.
    pub(crate) fn name(&self, class: usize, classes: usize) -> String {
        let position = match self.0.len() {
            names if names == classes + 1 => Some(class + 1),
            names if names + 1 == classes => class.checked_sub(1),
            _ => Some(class),
        };
        let name = position.and_then(|position| self.0.get(position));
        name.cloned().unwrap_or_else(|| class.to_string())
    }
}

/// What the first class is often called where it means that there is nothing.
const BACKGROUND: [&str; 2] = ["background", "__background__"];

/// `n01440764 tench` without its WordNet id.
fn strip_id(line: &str) -> &str {
    match line.split_once(' ') {
        Some((id, name))
            if id.len() == 9
                && id.starts_with('n')
                && id[1..].bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => line,
    }
}

/// The `count` best classes of a network's answer, best first, equals by position; `None` where the
/// tensor is no list of scores: it has more than one axis, or other elements than floats or bytes.
/// Bytes without a scale are read as [`top_quantised`] reads those of a quantised softmax.
pub fn top(output: &Tensor, labels: &Labels, count: usize) -> Option<Vec<Scored>> {
    let scores = match floats(output) {
        Some(values) => probabilities(values),
        None => bytes(output)?,
    };
    best(output, &scores, labels, count)
}

/// The same of an answer in bytes that stand for real numbers by this scale.
///
/// Bytes that span 0 to 1 are probabilities, although their sum is not quite 1: each is rounded to a
/// 256th, and that of a thousand classes may lose much.
pub fn top_quantised(
    output: &Tensor,
    scale: Scale,
    labels: &Labels,
    count: usize,
) -> Option<Vec<Scored>> {
    let real = floats(&dequantised(output, scale)?)?;
    let least = if output.dtype() == DType::I8 { -128 } else { 0 };
    let are_probabilities = scale.zero_point == least && (scale.scale * 256.0 - 1.0).abs() < 0.01;
    let scores = if are_probabilities { real } else { probabilities(real) };
    best(output, &scores, labels, count)
}

fn best(output: &Tensor, scores: &[f32], labels: &Labels, count: usize) -> Option<Vec<Scored>> {
    if output.shape().0.iter().filter(|&&size| size != 1).count() > 1 {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let best = order.into_iter().take(count).map(|class| Scored {
        class,
        label: labels.name(class, scores.len()),
        score: scores[class],
    });
    Some(best.collect())
}

/// The values of an answer as floats; `None` for other types.
pub(crate) fn floats(output: &Tensor) -> Option<Vec<f32>> {
    match output.dtype() {
        DType::F32 => Some(output.as_f32()?.into_owned()),
        DType::F16 => {
            let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(output.data());
            Some(halves.into_iter().map(half::f16::to_f32).collect())
        }
        _ => None,
    }
}

/// Bytes as the probabilities that a quantised softmax answers with: 256ths, counted from the least
/// byte; `None` for other types.
fn bytes(output: &Tensor) -> Option<Vec<f32>> {
    let least = match output.dtype() {
        DType::U8 => 0,
        DType::I8 => 128,
        _ => return None,
    };
    let real = |&byte: &u8| f32::from(byte.wrapping_add(least)) / 256.0;
    Some(output.data().iter().map(real).collect())
}

/// A quantised answer as the real numbers that it stands for; `None` for other types.
pub fn dequantised(output: &Tensor, scale: Scale) -> Option<Tensor> {
    let zero = f64::from(scale.zero_point);
    let real = |stored: f64| ((stored - zero) * f64::from(scale.scale)) as f32;
    match output.dtype() {
        DType::U8 | DType::I8 => {
            let values = output.to_f64().into_iter().map(real).collect();
            Tensor::from_f32(output.shape().clone(), values).ok()
        }
        _ => None,
    }
}

/// The values themselves where they are probabilities already, else their softmax.
fn probabilities(values: Vec<f32>) -> Vec<f32> {
    let sum: f32 = values.iter().sum();
    if values.iter().all(|&value| value >= 0.0) && (sum - 1.0).abs() < 1e-2 {
        return values;
    }
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = values.iter().map(|value| (value - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use cutline_core::tensor::Shape;

    use super::*;

    fn answer(values: &[f32]) -> Tensor {
        Tensor::from_f32(Shape(vec![1, values.len() as u64]), values.to_vec()).unwrap()
    }

    #[test]
    fn the_best_classes_come_first_with_their_names() {
        let labels = Labels::parse("cat\ndog\nn01440764 tench, Tinca tinca\n\n");
        let best = top(&answer(&[0.0, 2.0, 1.0]), &labels, 2).unwrap();
        let names: Vec<_> = best.iter().map(|scored| scored.label.as_str()).collect();
        assert_eq!(names, ["dog", "tench, Tinca tinca"]);
        assert!((best[0].score - 0.665).abs() < 1e-3, "{best:?}");
    }

    #[test]
    fn probabilities_stay_as_they_are() {
        let best = top(&answer(&[0.25, 0.75]), &Labels::parse(""), 9).unwrap();
        assert_eq!(best.len(), 2);
        assert_eq!((best[0].class, best[0].score), (1, 0.75));
        assert_eq!(best[0].label, "1");
    }

    #[test]
    fn a_background_class_shifts_the_names() {
        let with_background = Labels::parse("background\ncat\ndog");
        assert_eq!(top(&answer(&[0.0, 1.0]), &with_background, 1).unwrap()[0].label, "dog");
        let without = Labels::parse("cat\ndog");
        assert_eq!(top(&answer(&[0.0, 1.0, 0.0]), &without, 1).unwrap()[0].label, "cat");
        assert_eq!([with_background.class("dog", 2), without.class("dog", 3)], [Some(1), Some(2)]);
        assert_eq!(without.class("fish", 2), None);
    }

    #[test]
    fn bytes_are_probabilities_and_other_integers_what_their_scale_says() {
        let labels = Labels::parse("a\nb");
        for (dtype, bytes) in [(DType::U8, vec![64, 192]), (DType::I8, vec![192, 64])] {
            let tensor = Tensor::new(dtype, Shape(vec![1, 2]), bytes).unwrap();
            let best = top(&tensor, &labels, 1).unwrap();
            assert_eq!((best[0].label.as_str(), best[0].score), ("b", 0.75), "{dtype}");
            let real = dequantised(&tensor, Scale { scale: 0.5, zero_point: 64 }).unwrap();
            let expected = if dtype == DType::U8 { [0.0, 64.0] } else { [-64.0, 0.0] };
            assert_eq!(real.as_f32().unwrap()[..], expected);
        }
    }

    #[test]
    fn a_quantised_softmax_answers_with_probabilities_and_other_bytes_with_their_softmax() {
        let labels = Labels::parse("");
        // 0.90625 and three times 1/256: what rounds to nothing is missing from the sum.
        let tensor = Tensor::new(DType::U8, Shape(vec![1, 4]), vec![232, 1, 1, 1]).unwrap();
        let softmax = Scale { scale: 1.0 / 256.0, zero_point: 0 };
        let best = top_quantised(&tensor, softmax, &labels, 1).unwrap();
        assert_eq!((best[0].class, best[0].score), (0, 0.90625));
        assert_eq!(top(&tensor, &labels, 1).unwrap(), best, "also where the scale is not known");
        let signed = Tensor::new(DType::I8, Shape(vec![1, 2]), vec![104, 129]).unwrap();
        let softmax = Scale { scale: 1.0 / 256.0, zero_point: -128 };
        assert_eq!(top_quantised(&signed, softmax, &labels, 1).unwrap()[0].score, 0.90625);
        let logits = Scale { scale: 0.01, zero_point: 0 };
        let best = top_quantised(&tensor, logits, &labels, 1).unwrap();
        let others = 3.0 * (0.01f32 - 2.32).exp();
        assert!((best[0].score - 1.0 / (1.0 + others)).abs() < 1e-5, "{best:?}");
        let grid = Tensor::new(DType::U8, Shape(vec![2, 2]), vec![0; 4]).unwrap();
        assert_eq!(top_quantised(&grid, softmax, &labels, 1), None);
    }

    #[test]
    fn an_answer_that_is_no_score_has_no_best_class() {
        let tensor = Tensor::new(DType::I64, Shape(vec![1]), vec![1; 8]).unwrap();
        assert_eq!(top(&tensor, &Labels::parse("a"), 1), None);
        let grid = Tensor::from_f32(Shape(vec![1, 2, 3]), vec![0.5; 6]).unwrap();
        assert_eq!(top(&grid, &Labels::parse("a"), 1), None, "which axis would be the classes?");
        let column = Tensor::from_f32(Shape(vec![1, 2, 1, 1]), vec![0.1, 0.9]).unwrap();
        assert_eq!(top(&column, &Labels::parse("a\nb"), 1).unwrap()[0].label, "b");
    }
}
