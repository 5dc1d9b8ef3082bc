//! Inputs of the size that a network is used to: pixels for networks that take pixels.

use std::collections::BTreeMap;

use cutline_core::tensor::DType;
use cutline_runtime::{model::Model, tensor::Tensor, verify::random_inputs};

/// Seeded random numbers; for networks that take raw pixels less their mean (their files are called
/// SqueezeNet) in the range of those.
pub(crate) fn typical(model: &Model) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let inputs = random_inputs(&model.graph, 1)?;
    let name = model.path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if !name.contains("squeezenet") {
        return Ok(inputs);
    }
    let scaled = inputs.into_iter().map(|(name, tensor)| {
        let values: Vec<f32> = tensor.to_f64().iter().map(|value| (value * 127.0) as f32).collect();
        let tensor = match tensor.dtype() {
            DType::F32 => Tensor::from_f32(tensor.shape().clone(), values)?,
            DType::F16 => {
                let halves: Vec<half::f16> = values.into_iter().map(half::f16::from_f32).collect();
                Tensor::from_vec(DType::F16, tensor.shape().clone(), halves)?
            }
            _ => tensor,
        };
        Ok((name, tensor))
    });
    scaled.collect()
}
