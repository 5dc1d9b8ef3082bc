//! How the values of a cut travel: as they are, as half floats, or as bytes with a scale, which
//! agents may send in the [entropy code](crate::entropy).
//!
//! A codec is part of the sub-models: the part that sends ends with the operator that encodes, the
//! part that reads begins with the one that decodes, so that any server of ONNX files can run both.
//! Only fp32 values are encoded; all others, and the network's input and answers, travel as they
//! are.
//!
//! ```text
//! fp16    x ─ Cast(FLOAT16) ─ x.fp16 ──► x.fp16 ─ Cast(FLOAT) ─ x
//! uint8   x ─ QuantizeLinear ─ x.uint8 ──► x.uint8 ─ DequantizeLinear ─ x
//! bits2   x ─ QuantizeLinear ─ x.bits2 ─ entropy code ──► x.bits2 ─ DequantizeLinear ─ x
//! ```
//!
//! The entropy code is no part of the sub-models: between agents it replaces the bytes of a tensor,
//! anywhere else the bytes travel themselves. What is chosen for `bits4` is how coarse the bytes
//! are: the step is the finest at which the code takes 4 bits a value, over all pictures.

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
    /// The same bytes in the entropy code, which loses nothing.
    Bits8,
    /// As bytes so coarse that the entropy code takes 4 bits each on pictures.
    Bits4,
    /// As bytes so coarse that the entropy code takes 2 bits each on pictures.
    Bits2,
}

/// No cut encoding of that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "unknown cut encoding `{0}`; there are fp32 (as they are), fp16, uint8, bits8, bits4 and bits2"
)]
pub struct UnknownCutEncoding(String);

impl CutEncoding {
    /// Every encoding, the one that changes nothing first.
    pub const ALL: [Self; 6] =
        [Self::Fp32, Self::Fp16, Self::Uint8, Self::Bits8, Self::Bits4, Self::Bits2];

    /// Those that change what is sent.
    pub const LOSSY: [Self; 5] = [Self::Fp16, Self::Uint8, Self::Bits8, Self::Bits4, Self::Bits2];

    /// Those whose bytes agents send in the entropy code.
    pub const ENTROPY_CODED: [Self; 3] = [Self::Bits8, Self::Bits4, Self::Bits2];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Uint8 => "uint8",
            Self::Bits8 => "bits8",
            Self::Bits4 => "bits4",
            Self::Bits2 => "bits2",
        }
    }

    /// Whether the receiver's values may differ from the sender's.
    pub fn is_lossy(self) -> bool {
        self != Self::Fp32
    }

    /// Whether a scale says what its bytes stand for.
    pub fn is_quantised(self) -> bool {
        self.dtype() == DType::U8
    }

    /// Whether agents send its bytes in the entropy code.
    pub fn is_entropy_coded(self) -> bool {
        Self::ENTROPY_CODED.contains(&self)
    }

    /// Type of an encoded element, in the sub-models.
    pub fn dtype(self) -> DType {
        match self {
            Self::Fp32 => DType::F32,
            Self::Fp16 => DType::F16,
            Self::Uint8 | Self::Bits8 | Self::Bits4 | Self::Bits2 => DType::U8,
        }
    }

    /// An encoded value is one part in this many of the declared one; where the entropy code decides,
    /// at most that on pictures like those that it was calibrated on.
    pub fn ratio(self) -> u64 {
        match self {
            Self::Fp32 => 1,
            Self::Fp16 => 2,
            Self::Uint8 | Self::Bits8 => 4,
            Self::Bits4 => 8,
            Self::Bits2 => 16,
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

    /// The same range in coarser steps: larger by 2^(1/4) for each of `quarters`.
    pub fn coarser(self, quarters: u32) -> Self {
        let factor = (f64::from(quarters) / 4.0).exp2();
        let scale = (f64::from(self.scale) * factor) as f32;
        if !scale.is_finite() {
            return self;
        }
        let zero_point = (f64::from(self.zero_point) / factor).round() as u8;
        Self { scale, zero_point }
    }

    /// The bytes of these values, by the arithmetic of the sub-models; of what is no number, that of
    /// zero.
    pub fn bytes_of(self, values: &[f32]) -> Vec<u8> {
        // Added to a number below 2^22, this leaves it in the low bits, rounded half to even.
        const ROUND: f32 = 12_582_912.0;
        let zero = f32::from(self.zero_point);
        let byte = |&value: &f32| {
            let value = if value.is_nan() { 0.0 } else { value };
            let steps = (value / self.scale).max(-zero).min(255.0 - zero);
            ((steps + ROUND).to_bits() as u8).wrapping_add(self.zero_point)
        };
        values.iter().map(byte).collect()
    }

    /// What bytes stand for, by the arithmetic of the sub-models: exact up to one rounding each.
    pub fn values_of(self, bytes: &[u8]) -> Vec<f32> {
        let zero = f32::from(self.zero_point);
        bytes.iter().map(|&byte| (f32::from(byte) - zero) * self.scale).collect()
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

/// A value that travels as bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantised {
    /// Its name.
    pub value: String,
    /// How it travels.
    pub encoding: CutEncoding,
}

impl Quantised {
    /// Under which name its scale stands: its own as `uint8`, else with its encoding behind it,
    /// because a value may travel one hop in fine bytes and the next in coarse ones.
    pub fn key(&self) -> String {
        match self.encoding.is_entropy_coded() {
            true => format!("{}.{}", self.value, self.encoding),
            false => self.value.clone(),
        }
    }
}

/// What the bytes of each value stand for, by [`Quantised::key`].
pub type Quantizations = BTreeMap<String, Quantization>;

/// How the values between the parts travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutCodecs {
    /// By part, for what it sends on; as they are where the list ends early.
    pub stages: Vec<CutEncoding>,
    /// What the bytes of each value stand for that travels as bytes.
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
        let found = Quantization::of(Range { least: -1.0, largest: 1.0 });
        let back = found.values_of(&found.bytes_of(&[-1.0, 0.0, 1.0, 9.0]));
        assert!((back[0] + 1.0).abs() < 0.01 && (back[2] - 1.0).abs() < 0.01, "{back:?}");
        assert_eq!(back[1], 0.0);
        assert!(
            (back[3] - 1.0039216).abs() < 1e-6,
            "what is beyond the range is clipped: {back:?}"
        );
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
    fn coarser_steps_cover_the_same_range() {
        let fine = Quantization::of(Range { least: -1.0, largest: 3.0 });
        assert_eq!(fine.coarser(0), fine);
        let coarse = fine.coarser(8);
        assert_eq!(coarse.scale(), 4.0 * fine.scale());
        assert_eq!(coarse.zero_point(), 16);
        let values = [-1.0, 0.0, 3.0, -9.0, 99.0, f32::NAN, f32::INFINITY, 0.5 * coarse.scale()];
        assert_eq!(coarse.bytes_of(&values), [0, 16, 64, 0, 255, 16, 255, 16], "half to even");
        assert_eq!(fine.bytes_of(&values[..5]), [0, 64, 255, 0, 255]);
        let largest = Quantization::of(Range { least: 0.0, largest: f32::MAX });
        assert!(largest.coarser(40).scale().is_finite());
    }

    #[test]
    fn names_round_trip() {
        for encoding in CutEncoding::ALL {
            assert_eq!(encoding.name().parse(), Ok(encoding));
            let declared = Bytes(24);
            if !encoding.is_entropy_coded() {
                let bytes = encoding.encoded(DType::F32, declared).0;
                assert_eq!(bytes / 6, encoding.dtype().size().unwrap());
            }
            assert_eq!(encoding.encoded(DType::I64, declared), declared);
        }
        assert!("int4".parse::<CutEncoding>().unwrap_err().to_string().contains("int4"));
    }
}
