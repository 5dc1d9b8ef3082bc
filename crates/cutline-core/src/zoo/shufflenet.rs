//! ShuffleNetV2 at width 1.0 (Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN
//! architecture design", 2018).

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

pub(super) fn shufflenet_v2(net: &mut Builder, x: &Feature) -> Feature {
    let x = net.conv_relu("conv1", x, Conv::new(24, 3, 2, 1));
    let mut x = net.max_pool("maxpool", &x, Window::new(3, 2, 1));
    for (stage, (channels, units)) in (2..).zip([(116, 4), (232, 8), (464, 4)]) {
        x = reducing_unit(net, &format!("stage{stage}.0"), &x, channels);
        for unit in 1..units {
            x = basic_unit(net, &format!("stage{stage}.{unit}"), &x);
        }
    }
    let x = net.conv_relu("conv5", &x, Conv::new(1024, 1, 1, 0));
    net.classify("fc", &x, 1000)
}

/// Half of the channels pass, the other half is computed on; then the halves are mixed.
fn basic_unit(net: &mut Builder, name: &str, x: &Feature) -> Feature {
    let [kept, worked] = net.halves(&format!("{name}.split"), x);
    let worked = branch(net, &format!("{name}.branch2"), &worked, kept.channels, 1);
    mix(net, name, kept, worked)
}

/// Two branches of the whole input, both halving the map.
fn reducing_unit(net: &mut Builder, name: &str, x: &Feature, channels: u64) -> Feature {
    let half = channels / 2;
    let depthwise = Conv::depthwise(x.channels, 3, 2, 1);
    let y = net.conv(&format!("{name}.branch1.depthwise"), x, depthwise);
    let short = net.conv_relu(&format!("{name}.branch1.conv"), &y, Conv::new(half, 1, 1, 0));
    let long = branch(net, &format!("{name}.branch2"), x, half, 2);
    mix(net, name, short, long)
}

fn branch(net: &mut Builder, name: &str, x: &Feature, channels: u64, stride: u64) -> Feature {
    let y = net.conv_relu(&format!("{name}.conv1"), x, Conv::new(channels, 1, 1, 0));
    let depthwise = Conv::depthwise(channels, 3, stride, 1);
    let y = net.conv(&format!("{name}.depthwise"), &y, depthwise);
    net.conv_relu(&format!("{name}.conv2"), &y, Conv::new(channels, 1, 1, 0))
}

fn mix(net: &mut Builder, name: &str, first: Feature, second: Feature) -> Feature {
    let joined = net.concat(&format!("{name}.concat"), &[first, second]);
    net.shuffle(&format!("{name}.shuffle"), &joined)
}
