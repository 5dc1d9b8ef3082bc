//! Well-known networks with seeded random weights, written as ONNX.
//!
//! Their layers, parameters and multiply-accumulates are those published, so they cost what the
//! trained networks cost; only the answers mean nothing. Batch normalisations are folded into the
//! convolutions before them, as in deployed models: each costs the file one bias per channel
//! where the published count has a scale and a shift. Only DenseNet keeps those that nothing can
//! absorb, each with two stored statistics per channel beside its two parameters.
//!
//! ```
//! use cutline_core::zoo::{self, ZooOptions};
//!
//! let model = zoo::build("SqueezeNet", &ZooOptions { input_size: Some(64), seed: 7 })?;
//! assert_eq!(model.graph.unwrap().output[0].name(), "logits");
//! # Ok::<(), zoo::ZooError>(())
//! ```
//!
//! Every network reads `input`, one picture of 1 x channels x size x size floats of mean 0 and
//! deviation 1, and answers `logits`. A node and its result bear the same name. The same name,
//! size and seed give the same bytes on every machine.

mod alexnet;
mod builder;
mod densenet;
mod efficientnet;
mod inception;
pub mod kernel;
mod layer;
mod lenet;
mod mobilenet;
mod mobilenetv3;
mod random;
mod resnet;
mod shufflenet;
mod squeezenet;
mod vgg;
mod wire;

use serde::Serialize;
use thiserror::Error;

use self::{
    builder::{Builder, Totals, Weights},
    layer::Feature,
};
use crate::{
    onnx::proto::ModelProto,
    tensor::Shape,
    units::{Bytes, Macs},
};

/// Largest input size: sixty times what the networks were made for, and far from any overflow.
const LARGEST: u64 = 16_384;

/// How to build a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZooOptions {
    /// Rows and columns of the input; the network's usual ones where absent.
    pub input_size: Option<u32>,
    /// Where the random weights start from.
    pub seed: u64,
}

/// A line of the zoo's catalogue, at the network's usual input size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name to ask for.
    pub name: &'static str,
    /// Name in the literature.
    pub title: &'static str,
    /// Shape of the input.
    pub input: Shape,
    /// Parameters of the published network, before batch normalisations were folded.
    pub parameters: u64,
    /// Size of the weights in the file.
    pub weights: Bytes,
    /// Multiply-accumulates of convolutions and fully connected layers in one run.
    pub macs: Macs,
}

/// Why a network cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ZooError {
    /// The zoo does not have it.
    #[error("the zoo has no `{name}`; did you mean `{closest}`? It has {}", names().join(", "))]
    UnknownName {
        /// What was asked for.
        name: String,
        /// The most similar name.
        closest: &'static str,
    },
    /// The network cannot take pictures of this size.
    #[error("`{network}` cannot take an input of {size}x{size}; it takes {allowed}")]
    InputSize {
        /// The network.
        network: &'static str,
        /// What was asked for.
        size: u32,
        /// Sizes that it takes, in words.
        allowed: String,
    },
}

/// Input sizes that a network takes.
#[derive(Clone, Copy)]
enum Sizes {
    AtLeast(u64),
    OneOf(&'static [u64]),
    /// Sizes whose last map, as this function counts its rows, is a multiple of what the fully
    /// connected layers read.
    Pooled {
        map: fn(u64) -> u64,
        target: u64,
    },
}

struct Network {
    name: &'static str,
    title: &'static str,
    channels: u64,
    usual: u64,
    sizes: Sizes,
    layers: fn(&mut Builder, &Feature) -> Feature,
}

const fn imagenet(
    name: &'static str,
    title: &'static str,
    layers: fn(&mut Builder, &Feature) -> Feature,
) -> Network {
    Network { name, title, channels: 3, usual: 224, sizes: Sizes::AtLeast(32), layers }
}

const ALEXNET_SIZES: Sizes = Sizes::Pooled { map: alexnet::map_size, target: alexnet::MAP };
const VGG_SIZES: Sizes = Sizes::Pooled { map: vgg::map_size, target: vgg::MAP };

/// The zoo, from the oldest network to the newest.
static NETWORKS: [Network; 15] = [
    Network {
        name: "lenet5",
        title: "LeNet-5",
        channels: 1,
        usual: 28,
        sizes: Sizes::OneOf(&[28, 32]),
        layers: lenet::lenet5,
    },
    Network { sizes: ALEXNET_SIZES, ..imagenet("alexnet", "AlexNet", alexnet::alexnet) },
    Network { sizes: VGG_SIZES, ..imagenet("vgg16", "VGG-16", vgg::vgg16) },
    Network { sizes: VGG_SIZES, ..imagenet("vgg19", "VGG-19", vgg::vgg19) },
    imagenet("squeezenet", "SqueezeNet 1.1", squeezenet::squeezenet),
    imagenet("resnet18", "ResNet-18", resnet::resnet18),
    imagenet("resnet50", "ResNet-50", resnet::resnet50),
    imagenet("resnet101", "ResNet-101", resnet::resnet101),
    imagenet("densenet121", "DenseNet-121", densenet::densenet121),
    Network {
        usual: 299,
        sizes: Sizes::AtLeast(75),
        ..imagenet("inceptionv3", "Inception-v3", inception::inception_v3)
    },
    imagenet("mobilenetv1", "MobileNetV1", mobilenet::mobilenet_v1),
    imagenet("mobilenetv2", "MobileNetV2", mobilenet::mobilenet_v2),
    imagenet("mobilenetv3-small", "MobileNetV3-small", mobilenetv3::mobilenet_v3_small),
    imagenet("shufflenetv2", "ShuffleNetV2 1.0x", shufflenet::shufflenet_v2),
    imagenet("efficientnet-b0", "EfficientNet-B0", efficientnet::efficientnet_b0),
];

/// Names of the networks, from the oldest to the newest.
pub fn names() -> Vec<&'static str> {
    NETWORKS.iter().map(|network| network.name).collect()
}

/// The network as a complete model. Case and punctuation of the name do not matter.
///
/// Takes time and memory for the weights, from 0.25 MB (LeNet-5) to 575 MB (VGG-19).
pub fn build(name: &str, options: &ZooOptions) -> Result<ModelProto, ZooError> {
    let network = find(name)?;
    let size = network.check(options.input_size)?;
    Ok(network.assemble(size, Weights::Random(options.seed)).0)
}

/// The network with all its layers but without the data of its weights, which it says lie in an
/// external file that nobody wrote: quick to make and to analyse, of no use to an engine.
pub fn outline(name: &str, input_size: Option<u32>) -> Result<ModelProto, ZooError> {
    let network = find(name)?;
    let size = network.check(input_size)?;
    Ok(network.assemble(size, Weights::Absent).0)
}

/// The catalogue, in the order of [`names`].
pub fn summary() -> Vec<Summary> {
    NETWORKS.iter().map(Network::summarise).collect()
}

impl Network {
    fn assemble(&self, size: u64, weights: Weights) -> (ModelProto, Totals) {
        let (mut net, input) = Builder::new(self.name, weights, self.channels, size);
        let answer = (self.layers)(&mut net, &input);
        net.finish(self.title, &answer)
    }

    fn summarise(&self) -> Summary {
        let (_, totals) = self.assemble(self.usual, Weights::Absent);
        Summary {
            name: self.name,
            title: self.title,
            input: Shape(vec![1, self.channels, self.usual, self.usual]),
            parameters: totals.parameters,
            weights: Bytes(totals.stored * 4),
            macs: Macs(totals.macs),
        }
    }

    fn check(&self, asked: Option<u32>) -> Result<u64, ZooError> {
        let Some(size) = asked else { return Ok(self.usual) };
        if self.sizes.takes(size.into()) {
            return Ok(size.into());
        }
        let allowed = self.sizes.describe(size.into());
        Err(ZooError::InputSize { network: self.name, size, allowed })
    }
}

impl Sizes {
    fn takes(self, size: u64) -> bool {
        size <= LARGEST
            && match self {
                Sizes::AtLeast(least) => size >= least,
                Sizes::OneOf(sizes) => sizes.contains(&size),
                Sizes::Pooled { map, target } => map(size) > 0 && map(size) % target == 0,
            }
    }

    /// What is allowed, with the valid sizes around `asked` where they are scattered.
    fn describe(self, asked: u64) -> String {
        match self {
            Sizes::AtLeast(least) => format!("{least} to {LARGEST}"),
            Sizes::OneOf(sizes) => {
                sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(" or ")
            }
            Sizes::Pooled { .. } => {
                let asked = asked.min(LARGEST);
                let below = (1..asked).rev().find(|&size| self.takes(size));
                let above = (asked + 1..=LARGEST).find(|&size| self.takes(size));
                let nearest: Vec<_> =
                    [below, above].into_iter().flatten().map(|size| size.to_string()).collect();
                format!(
                    "sizes whose last map its fully connected layers can read, nearest {}",
                    nearest.join(" and ")
                )
            }
        }
    }
}

fn find(name: &str) -> Result<&'static Network, ZooError> {
    let asked = letters(name);
    let exact = NETWORKS.iter().find(|network| letters(network.name) == asked);
    exact.ok_or_else(|| {
        let closest =
            NETWORKS.iter().min_by_key(|network| distance(&letters(network.name), &asked));
        let closest = closest.expect("the zoo is not empty").name;
        ZooError::UnknownName { name: name.to_owned(), closest }
    })
}

/// Letters and digits alone, in lower case.
fn letters(name: &str) -> Vec<char> {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Fewest insertions, deletions and substitutions between two words (Levenshtein).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests;
