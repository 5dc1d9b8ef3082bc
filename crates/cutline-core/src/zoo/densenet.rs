//! DenseNet-121 (Huang et al., "Densely connected convolutional networks", 2017).
//!
//! A layer normalises all that came before it, so the normalisation in front cannot be folded into
//! the convolutions that made its parts: those are `BatchNormalization` nodes. The one between the
//! two convolutions of a layer is folded.

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

/// Channels that each layer adds.
const GROWTH: u64 = 32;

pub(super) fn densenet121(net: &mut Builder, x: &Feature) -> Feature {
    let x = net.conv_relu("conv0", x, Conv::new(64, 7, 2, 3));
    let mut x = net.max_pool("pool0", &x, Window::new(3, 2, 1));
    let depths = [6, 12, 24, 16];
    for (block, depth) in (1..).zip(depths) {
        for layer in 1..=depth {
            x = dense_layer(net, &format!("denseblock{block}.denselayer{layer}"), &x);
        }
        if block < depths.len() {
            x = transition(net, &format!("transition{block}"), &x);
        }
    }
    let x = norm_relu(net, "norm5", &x);
    net.classify("classifier", &x, 1000)
}

fn dense_layer(net: &mut Builder, name: &str, x: &Feature) -> Feature {
    let y = norm_relu(net, &format!("{name}.norm1"), x);
    let y = net.conv_relu(&format!("{name}.conv1"), &y, Conv::new(4 * GROWTH, 1, 1, 0));
    let y = net.conv(&format!("{name}.conv2"), &y, Conv::new(GROWTH, 3, 1, 1).bare());
    net.concat(&format!("{name}.concat"), &[x.clone(), y])
}

fn transition(net: &mut Builder, name: &str, x: &Feature) -> Feature {
    let y = norm_relu(net, &format!("{name}.norm"), x);
    let y = net.conv(&format!("{name}.conv"), &y, Conv::new(x.channels / 2, 1, 1, 0).bare());
    net.average_pool(&format!("{name}.pool"), &y, Window::new(2, 2, 0))
}

fn norm_relu(net: &mut Builder, name: &str, x: &Feature) -> Feature {
    let y = net.batch_norm(name, x);
    net.relu(&format!("{name}.relu"), &y)
}
