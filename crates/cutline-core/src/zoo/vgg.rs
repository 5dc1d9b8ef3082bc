//! VGG-16 and VGG-19 (Simonyan & Zisserman, "Very deep convolutional networks for large-scale
//! image recognition", 2015), configurations D and E.

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

/// Rows of the map that the fully connected layers read.
pub(super) const MAP: u64 = 7;

/// Rows of the map that the convolutions make of `size` rows.
pub(super) fn map_size(size: u64) -> u64 {
    size / 32
}

pub(super) fn vgg16(net: &mut Builder, x: &Feature) -> Feature {
    vgg(net, x, [2, 2, 3, 3, 3])
}

pub(super) fn vgg19(net: &mut Builder, x: &Feature) -> Feature {
    vgg(net, x, [2, 2, 4, 4, 4])
}

fn vgg(net: &mut Builder, x: &Feature, depths: [usize; 5]) -> Feature {
    let mut x = x.clone();
    for (block, (depth, channels)) in depths.into_iter().zip([64, 128, 256, 512, 512]).enumerate() {
        let block = block + 1;
        for layer in 1..=depth {
            let conv = Conv::new(channels, 3, 1, 1).plain();
            x = net.conv_relu(&format!("conv{block}_{layer}"), &x, conv);
        }
        x = net.max_pool(&format!("pool{block}"), &x, Window::new(2, 2, 0));
    }
    let x = net.shrink("avgpool", &x, MAP);
    let x = net.flatten("flatten", &x);
    let x = net.linear("fc6", &x, 4096);
    let x = net.relu("fc6.relu", &x);
    let x = net.linear("fc7", &x, 4096);
    let x = net.relu("fc7.relu", &x);
    net.linear("fc8", &x, 1000)
}
