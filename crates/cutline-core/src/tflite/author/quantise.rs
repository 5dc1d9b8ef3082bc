//! Floats as integers, by the specification of 8-bit quantisation: what is made has one scale and zero
//! point, weights one scale per filter or output channel, biases the products of the scales that they
//! are added to.
//!
//! Operators that only move elements, or pick some, give them out as they came: what they read and make
//! shares a scale, that of the range of all of it.

use std::collections::BTreeMap;

use super::{
    super::schema::tflite::BuiltinOperator as Code, Data, Network, Scales, Tensor, WriteError,
};

/// What the specification gives the results of logistic functions and softmax.
const SHARES: (f32, i64) = (1.0 / 256.0, -128);

/// Range of the numbers that stand for weights: symmetric.
const LARGEST_WEIGHT: f32 = 127.0;

impl Network {
    /// The same network in integers, inputs and outputs included. `ranges` holds the least and largest
    /// element of each of [`values`](Self::values). O(tensors + weights).
    pub fn quantise(mut self, ranges: &BTreeMap<String, [f32; 2]>) -> Result<Self, WriteError> {
        let classes = self.classes();
        let mut of_class: BTreeMap<usize, (f32, i64)> = BTreeMap::new();
        let mut spans: BTreeMap<usize, [f32; 2]> = BTreeMap::new();
        for (at, tensor) in self.tensors.iter().enumerate() {
            if tensor.data != Data::Made {
                continue;
            }
            let Some(range) = tensor.known.or_else(|| ranges.get(&tensor.name).copied()) else {
                continue;
            };
            // Zero is always among them: padding is made of it.
            let span = spans.entry(classes[at]).or_insert([0.0; 2]);
            *span = [span[0].min(range[0]), span[1].max(range[1])];
        }
        for (&class, &span) in &spans {
            of_class.insert(class, asymmetric(span));
        }
        self.shares(&classes, &mut of_class)?;
        for (at, tensor) in self.tensors.iter_mut().enumerate() {
            if tensor.data == Data::Made {
                let scales = of_class.get(&classes[at]).copied();
                let (scale, zero_point) = scales.ok_or_else(|| WriteError::Range {
                    value: tensor.name.clone(),
                    why: "nobody says its range".to_owned(),
                })?;
                tensor.scales = Some(Scales::whole(scale, zero_point));
            }
        }
        for at in 0..self.operators.len() {
            self.constants(at);
        }
        Ok(self)
    }

    /// For each tensor the first of those that have its scale.
    fn classes(&self) -> Vec<usize> {
        let mut parent: Vec<usize> = (0..self.tensors.len()).collect();
        fn root(parent: &[usize], mut at: usize) -> usize {
            while parent[at] != at {
                at = parent[at];
            }
            at
        }
        for operator in &self.operators {
            let moves = matches!(
                operator.code,
                Code::MaxPool2d
                    | Code::AveragePool2d
                    | Code::Reshape
                    | Code::Pad
                    | Code::Transpose
                    | Code::Concatenation
                    | Code::Split
            );
            if !moves {
                continue;
            }
            let moved = operator.inputs.iter().chain(&operator.outputs);
            let moved = moved.filter(|&&at| self.tensors[at].data == Data::Made);
            let roots: Vec<usize> = moved.map(|&at| root(&parent, at)).collect();
            let Some(&first) = roots.iter().min() else { continue };
            roots.into_iter().for_each(|at| parent[at] = first);
        }
        (0..parent.len()).map(|at| root(&parent, at)).collect()
    }

    /// Gives shares of one their own scale.
    fn shares(
        &self,
        classes: &[usize],
        of_class: &mut BTreeMap<usize, (f32, i64)>,
    ) -> Result<(), WriteError> {
        for operator in &self.operators {
            if !matches!(operator.code, Code::Logistic | Code::Softmax) {
                continue;
            }
            for &made in &operator.outputs {
                if classes.iter().filter(|&&class| class == classes[made]).count() > 1 {
                    return Err(WriteError::Range {
                        value: self.tensors[made].name.clone(),
                        why: "what reads it would need its scale, which the format prescribes"
                            .to_owned(),
                    });
                }
                of_class.insert(classes[made], SHARES);
            }
        }
        Ok(())
    }

    /// Makes integers of the constants that an operator reads.
    fn constants(&mut self, at: usize) {
        let (code, inputs) = (self.operators[at].code, self.operators[at].inputs.clone());
        match (code, inputs.as_slice()) {
            (Code::Conv2d | Code::FullyConnected, &[x, weight, bias]) => {
                self.weights((x, weight, bias), 0);
            }
            (Code::DepthwiseConv2d, &[x, weight, bias]) => self.weights((x, weight, bias), 3),
            _ => {
                for operand in inputs {
                    self.tensors[operand].quantise();
                }
            }
        }
    }

    fn weights(&mut self, (x, weight, bias): (usize, usize, usize), axis: usize) {
        let input = self.tensors[x].scales.as_ref().map_or(1.0, |scales| scales.scale[0]);
        let scales = self.tensors[weight].symmetric(axis);
        let bias = &mut self.tensors[bias];
        let Data::Floats(terms) = &bias.data else { return };
        let scale: Vec<f32> = scales.iter().map(|weight| input * weight).collect();
        // A cast from a float saturates.
        let integers = terms.iter().zip(&scale);
        let integers = integers
            .map(|(term, scale)| (f64::from(*term) / f64::from(*scale)).round() as i32)
            .collect();
        let zero_point = vec![0; scale.len()];
        bias.data = Data::Integers(integers);
        bias.scales = Some(Scales { scale, zero_point, axis: 0 });
    }
}

impl Tensor {
    /// Symmetric bytes with a scale for each index along an axis; returns the scales.
    fn symmetric(&mut self, axis: usize) -> Vec<f32> {
        let Data::Floats(floats) = &self.data else {
            return self.scales.as_ref().map_or(vec![1.0], |scales| scales.scale.clone());
        };
        let count = self.shape[axis] as usize;
        // Elements that share an index stand `inner` at a time.
        let inner: usize = self.shape[axis + 1..].iter().map(|&size| size as usize).product();
        let index = |at: usize| at / inner.max(1) % count.max(1);
        let mut largest = vec![0f32; count];
        for (at, float) in floats.iter().enumerate() {
            largest[index(at)] = largest[index(at)].max(float.abs());
        }
        let scale = largest.iter().map(|&most| match most > 0.0 {
            true => most / LARGEST_WEIGHT,
            false => 1.0,
        });
        let scale: Vec<f32> = scale.collect();
        let bytes = floats.iter().enumerate().map(|(at, float)| {
            (float / scale[index(at)]).round().clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT) as i8
        });
        self.data = Data::Bytes(bytes.collect());
        let zero_point = vec![0; count];
        self.scales = Some(Scales { scale: scale.clone(), zero_point, axis: axis as i32 });
        scale
    }

    /// A constant operand as bytes.
    fn quantise(&mut self) {
        let Data::Floats(floats) = &self.data else { return };
        let fold = |start: f32, pick: fn(f32, f32) -> f32| floats.iter().copied().fold(start, pick);
        let (scale, zero) = asymmetric([fold(0.0, f32::min), fold(0.0, f32::max)]);
        let bytes = floats
            .iter()
            .map(|float| ((float / scale).round() as i64 + zero).clamp(-128, 127) as i8);
        self.data = Data::Bytes(bytes.collect());
        self.scales = Some(Scales::whole(scale, zero));
    }
}

impl Scales {
    fn whole(scale: f32, zero_point: i64) -> Self {
        Self { scale: vec![scale], zero_point: vec![zero_point], axis: 0 }
    }
}

/// The finest scale whose bytes reach from the least to the largest, which zero is between, and the
/// byte that stands for zero exactly.
fn asymmetric([least, largest]: [f32; 2]) -> (f32, i64) {
    let scale = (largest - least) / 255.0;
    if !(scale.is_normal() && scale > 0.0) {
        return (1.0, 0);
    }
    let zero = (-128.0 - f64::from(least) / f64::from(scale)).round() as i64;
    (scale, zero.clamp(-128, 127))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn the_byte_of_zero_stands_for_zero() {
        for (range, scale, zero) in [
            ([0.0, 255.0], 1.0, -128),
            ([-255.0, 0.0], 1.0, 127),
            ([-128.0, 127.0], 1.0, 0),
            ([0.0, 6.0], 6.0 / 255.0, -128),
            ([0.0, 0.0], 1.0, 0),
            ([0.0, f32::INFINITY], 1.0, 0),
        ] {
            assert_eq!(asymmetric(range), (scale, zero), "{range:?}");
        }
    }

    #[test]
    fn filters_have_scales_of_their_own() {
        let mut weights = Tensor {
            name: "w".to_owned(),
            shape: vec![1, 1, 2, 2],
            data: Data::Floats(vec![1.0, 50.0, -2.0, 25.0]),
            known: None,
            scales: None,
        };
        assert_eq!(weights.symmetric(3), [2.0 / 127.0, 50.0 / 127.0]);
        assert_eq!(weights.data, Data::Bytes(vec![64, 127, -127, 64]));
        // They are shared by operators at times, and stay as they are then.
        assert_eq!(weights.symmetric(3), [2.0 / 127.0, 50.0 / 127.0]);
    }
}
