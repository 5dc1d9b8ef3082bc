//! Inputs for a network when the user gives none: the same for the same seed, anywhere.

use std::collections::BTreeMap;

use cutline_core::{
    graph::{Graph, Value},
    tensor::DType,
};
use half::{bf16, f16};

use super::{VerifyError, input_error};
use crate::tensor::Tensor;

/// Largest input that is made up.
const LIMIT: u64 = 1 << 31;

/// A tensor for every input of the network: floats uniform in -1..1, quantised bytes over their whole
/// range, other integers in 0..8, so that they are valid as indices more often than not.
pub fn random_inputs(graph: &Graph, seed: u64) -> Result<BTreeMap<String, Tensor>, VerifyError> {
    let mut state = seed;
    let inputs = graph.inputs().iter().map(|&id| (graph.value(id), graph.scale(id).is_some()));
    let tensor = |(value, quantised): (&Value, bool)| {
        Ok((value.name.clone(), random_tensor(value, quantised, &mut state)?))
    };
    inputs.map(tensor).collect()
}

fn random_tensor(value: &Value, quantised: bool, state: &mut u64) -> Result<Tensor, VerifyError> {
    let (Some(dtype), Some(shape)) = (value.dtype, &value.shape) else {
        return Err(input_error(
            &value.name,
            "is of unknown type or shape; give the tensor with --input, or its shape with --input-shape",
        ));
    };
    let Some(bytes) = value.bytes().filter(|bytes| bytes.0 <= LIMIT) else {
        return Err(input_error(&value.name, "is too large to be made up; give it with --input"));
    };
    let mut data = Vec::with_capacity(bytes.0 as usize);
    while data.len() < bytes.0 as usize {
        match quantised {
            true => data.push((next(state) >> 56) as u8),
            false => push_element(dtype, next(state), &mut data),
        }
    }
    let tensor = Tensor::new(dtype, shape.clone(), data);
    tensor.map_err(|error| input_error(&value.name, error.to_string()))
}

fn push_element(dtype: DType, bits: u64, data: &mut Vec<u8>) {
    // The upper 24 bits give every float in steps of 2^-23.
    let float = (bits >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
    let small = (bits >> 61) as u8;
    match dtype {
        DType::F32 => data.extend(float.to_le_bytes()),
        DType::F64 => data.extend(f64::from(float).to_le_bytes()),
        DType::F16 => data.extend(f16::from_f32(float).to_le_bytes()),
        DType::BF16 => data.extend(bf16::from_f32(float).to_le_bytes()),
        DType::Bool => data.push(small & 1),
        DType::I8 | DType::U8 | DType::String => data.push(small),
        DType::I16 | DType::U16 => data.extend(u16::from(small).to_le_bytes()),
        DType::I32 | DType::U32 => data.extend(u32::from(small).to_le_bytes()),
        DType::I64 | DType::U64 => data.extend(u64::from(small).to_le_bytes()),
    }
}

/// The splitmix64 generator (Steele, Lea & Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use cutline_core::{graph::GraphBuilder, tensor::Shape};

    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First results of the reference implementation for seed 1234567.
        let mut state = 1_234_567;
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([next(&mut state), next(&mut state)], expected);
    }

    #[test]
    fn every_type_is_filled_and_the_seed_decides() {
        for dtype in [DType::F32, DType::F16, DType::I64, DType::U8, DType::Bool, DType::F64] {
            let mut builder = GraphBuilder::new("net");
            builder.input("x", Some(dtype), Some(Shape(vec![2, 3])));
            let graph = builder.build();
            let [a, b, c] = [7, 7, 8].map(|seed| random_inputs(&graph, seed).unwrap());
            assert_eq!(a, b, "{dtype}");
            assert_ne!(a, c, "{dtype}");
            assert_eq!(a["x"].shape(), &Shape(vec![2, 3]));
        }
    }

    #[test]
    fn floats_spread_over_minus_one_to_one() {
        let mut builder = GraphBuilder::new("net");
        builder.input("x", Some(DType::F32), Some(Shape(vec![10_000])));
        let inputs = random_inputs(&builder.build(), 1).unwrap();
        let floats = inputs["x"].as_f32().unwrap();
        assert!(floats.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = floats.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!(floats.iter().any(|&x| x > 0.99) && floats.iter().any(|&x| x < -0.99));
    }

    #[test]
    fn an_input_of_unknown_shape_is_not_made_up() {
        let mut builder = GraphBuilder::new("net");
        builder.input("x", Some(DType::F32), None);
        let error = random_inputs(&builder.build(), 1).unwrap_err().to_string();
        assert!(error.contains("`x`") && error.contains("--input"), "{error}");
    }
}
