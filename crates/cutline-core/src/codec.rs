//! How the values of a cut travel: as they are, as half floats, or as bytes with a scale.
//!
//! A codec is part of the sub-models: the part that sends ends with the operator that encodes, the
//! part that reads begins with the one that decodes, so that any server of ONNX files can run both.
//! Only fp32 values are encoded; all others, and the network's input and answers, travel as they
//! are.
//!
//! ```text
//! fp16    x ─ Cast(FLOAT16) ─ x.fp16 ──► x.fp16 ─ Cast(FLOAT) ─ x
//! uint8   x ─ QuantizeLinear ─ x.uint8 ──► x.uint8 ─ DequantizeLinear ─ x
//! ```

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{tensor::DType, units::Bytes};

/// How the fp32 values that a stage sends on travel.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum CutEncoding {
    /// As they are.
    #[default]
    Fp32,
    /// As half floats, two bytes each. Beyond 65504 they become infinite.
    Fp16,
    /// As bytes, one each, between a least and a largest value that pictures showed.
    Uint8,
}

/// No cut encoding of that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown cut encoding `{0}`; there are fp32 (as they are), fp16 and uint8")]
pub struct UnknownCutEncoding(String);

impl CutEncoding {
    /// Every encoding, the one that changes nothing first.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Fp16, Self::Uint8];

    /// Those that change what is sent.
    pub const LOSSY: [Self; 2] = [Self::Fp16, Self::Uint8];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Uint8 => "uint8",
        }
    }

    /// Whether the receiver's values may differ from the sender's.
    pub fn is_lossy(self) -> bool {
        self != Self::Fp32
    }

    /// Type of an encoded element.
    pub fn dtype(self) -> DType {
        match self {
            Self::Fp32 => DType::F32,
            Self::Fp16 => DType::F16,
            Self::Uint8 => DType::U8,
        }
    }

    /// An encoded value is one part in this many of the declared one.
    pub fn ratio(self) -> u64 {
        match self {
            Self::Fp32 => 1,
            Self::Fp16 => 2,
            Self::Uint8 => 4,
        }
    }

    /// Size of an encoded value of this type and declared size.
    pub fn encoded(self, dtype: DType, declared: Bytes) -> Bytes {
        match is_encodable(dtype) {
            true => Bytes(declared.0 / self.ratio()),
            false => declared,
        }
    }
}

/// Whether values of a type are encoded at all.
pub fn is_encodable(dtype: DType) -> bool {
    dtype == DType::F32
}

impl fmt::Display for CutEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CutEncoding {
    type Err = UnknownCutEncoding;

    fn from_str(text: &str) -> Result<Self, UnknownCutEncoding> {
        let found = Self::ALL.into_iter().find(|encoding| encoding.name() == text);
        found.ok_or_else(|| UnknownCutEncoding(text.to_owned()))
    }
}

/// What a byte of a value stands for: `(byte - zero_point) x scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawQuantization")]
pub struct Quantization {
    scale: f32,
    zero_point: u8,
}

/// The scale is a number, so equality is total.
impl Eq for Quantization {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuantization {
    scale: f32,
    zero_point: u8,
}

/// A scale that is none.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("the scale of a quantised value is {0}; it must be a positive number")]
pub struct BadScale(f32);

impl TryFrom<RawQuantization> for Quantization {
    type Error = BadScale;

    fn try_from(raw: RawQuantization) -> Result<Self, BadScale> {
        let RawQuantization { scale, zero_point } = raw;
        match scale.is_normal() && scale > 0.0 {
            true => Ok(Self { scale, zero_point }),
            false => Err(BadScale(scale)),
        }
    }
}

impl Quantization {
    /// Bytes spread evenly over a range; zero is always one of the values that they stand for
    /// exactly, so the range is widened to hold it.
    pub fn of(range: Range) -> Self {
        let (least, largest) = (f64::from(range.least.min(0.0)), f64::from(range.largest.max(0.0)));
        let scale = ((largest - least) / 255.0) as f32;
        if !scale.is_normal() {
            return Self { scale: 1.0, zero_point: 0 };
        }
        let zero_point = (-least / f64::from(scale)).round().clamp(0.0, 255.0) as u8;
        Self { scale, zero_point }
    }

    /// What one step of the byte stands for; positive and finite.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// The byte that stands for zero.
    pub fn zero_point(self) -> u8 {
        self.zero_point
    }
}

/// Least and largest element that was seen of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Least.
    pub least: f32,
    /// Largest.
    pub largest: f32,
}

impl Range {
    /// Of these elements; those that are no finite numbers do not count. `None` if none is left.
    pub fn of(elements: &[f32]) -> Option<Self> {
        let finite = elements.iter().copied().filter(|element| element.is_finite());
        finite.fold(None, |range: Option<Self>, element| {
            Some(range.map_or(Self { least: element, largest: element }, |range| Self {
                least: range.least.min(element),
                largest: range.largest.max(element),
            }))
        })
    }

    /// The range that holds both.
    pub fn union(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), largest: self.largest.max(other.largest) }
    }
}

/// What the bytes of each value stand for, by the value's name.
pub type Quantizations = BTreeMap<String, Quantization>;

/// How the values between the parts travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutCodecs {
    /// By part, for what it sends on; as they are where the list ends early.
    pub stages: Vec<CutEncoding>,
    /// What the bytes of each value stand for that travels as `uint8`, by its name.
    pub quantizations: Quantizations,
}

impl CutCodecs {
    /// How what a part sends on travels.
    pub fn of(&self, stage: usize) -> CutEncoding {
        self.stages.get(stage).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_spread_over_the_range_and_hold_zero() {
        // Least, largest; the byte of zero, what the bytes at both ends stand for.
        let cases = [
            (0.0, 255.0, 0, 0.0, 255.0),
            (-1.0, 1.0, 127, -0.99607843, 1.0039216),
            (2.0, 5.1, 0, 0.0, 5.1),
            (-4.0, -2.0, 255, -4.0, 0.0),
        ];
        for (least, largest, zero, low, high) in cases {
            let found = Quantization::of(Range { least, largest });
            assert_eq!(found.zero_point(), zero, "{least} to {largest}");
            let value = |byte: u8| (f32::from(byte) - f32::from(zero)) * found.scale();
            assert!((value(0) - low).abs() < 1e-6, "{least} to {largest}: {}", value(0));
            assert!((value(255) - high).abs() < 1e-6, "{least} to {largest}: {}", value(255));
        }
        let nothing = Quantization::of(Range { least: 0.0, largest: 0.0 });
        assert_eq!((nothing.scale(), nothing.zero_point()), (1.0, 0));
        let all = Quantization::of(Range { least: f32::MIN, largest: f32::MAX });
        assert!(all.scale().is_finite());
    }

    #[test]
    fn ranges_leave_out_what_is_no_number() {
        assert_eq!(Range::of(&[]), None);
        assert_eq!(Range::of(&[f32::NAN, f32::INFINITY]), None);
        let range = Range::of(&[3.0, f32::NAN, -1.0]).unwrap();
        assert_eq!(range, Range { least: -1.0, largest: 3.0 });
        let wider = range.union(Range { least: 0.0, largest: 7.0 });
        assert_eq!(wider, Range { least: -1.0, largest: 7.0 });
    }

    #[test]
    fn a_scale_from_a_file_is_a_positive_number() {
        for bad in ["0.0", "-1.0", "1e-44"] {
            let text = format!(r#"{{ "scale": {bad}, "zero_point": 0 }}"#);
            assert!(serde_json::from_str::<Quantization>(&text).is_err(), "{bad}");
        }
        let quantization = Quantization::of(Range { least: -0.3, largest: 1.1 });
        let text = serde_json::to_string(&quantization).unwrap();
        assert_eq!(serde_json::from_str::<Quantization>(&text).unwrap(), quantization);
    }

    #[test]
    fn names_round_trip() {
        for encoding in CutEncoding::ALL {
            assert_eq!(encoding.name().parse(), Ok(encoding));
            let declared = Bytes(24);
            let bytes = encoding.encoded(DType::F32, declared).0;
            assert_eq!(bytes / 6, encoding.dtype().size().unwrap());
            assert_eq!(encoding.encoded(DType::I64, declared), declared);
        }
        assert!("int4".parse::<CutEncoding>().unwrap_err().to_string().contains("int4"));
    }
}
