//! MobileNetV1 (Howard et al., "MobileNets: efficient convolutional neural networks for mobile
//! vision applications", 2017) and MobileNetV2 (Sandler et al., "MobileNetV2: inverted residuals
//! and linear bottlenecks", 2018), both at width 1.0.

use super::{
    builder::Builder,
    layer::{Conv, Feature},
};

pub(super) fn mobilenet_v1(net: &mut Builder, x: &Feature) -> Feature {
    let mut x = net.conv_relu6("conv0", x, Conv::new(32, 3, 2, 1));
    let blocks = [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (1024, 2),
        (1024, 1),
    ];
    for (block, (channels, stride)) in (1..).zip(blocks) {
        let depthwise = Conv::depthwise(x.channels, 3, stride, 1);
        x = net.conv_relu6(&format!("conv{block}.depthwise"), &x, depthwise);
        x = net.conv_relu6(&format!("conv{block}.pointwise"), &x, Conv::new(channels, 1, 1, 0));
    }
    net.classify("fc", &x, 1000)
}

pub(super) fn mobilenet_v2(net: &mut Builder, x: &Feature) -> Feature {
    let mut x = net.conv_relu6("conv0", x, Conv::new(32, 3, 2, 1));
    // Expansion, channels, repetitions, stride of the first.
    let stages: [(u64, u64, u64, u64); 7] = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    let mut block = 0;
    for (expansion, channels, repeats, stride) in stages {
        for repeat in 0..repeats {
            block += 1;
            let stride = if repeat == 0 { stride } else { 1 };
            x = inverted_residual(net, &format!("block{block}"), &x, (expansion, channels, stride));
        }
    }
    let x = net.conv_relu6("conv_last", &x, Conv::new(1280, 1, 1, 0));
    net.classify("fc", &x, 1000)
}

/// Expand, filter each channel, project; `shape` is expansion, channels, stride.
fn inverted_residual(
    net: &mut Builder,
    name: &str,
    x: &Feature,
    (expansion, channels, stride): (u64, u64, u64),
) -> Feature {
    let inner = x.channels * expansion;
    let mut y = x.clone();
    if expansion > 1 {
        y = net.conv_relu6(&format!("{name}.expand"), &y, Conv::new(inner, 1, 1, 0));
    }
    y = net.conv_relu6(&format!("{name}.depthwise"), &y, Conv::depthwise(inner, 3, stride, 1));
    let project = Conv::new(channels, 1, 1, 0);
    if stride == 1 && x.channels == channels {
        // Ten of the blocks have a shortcut.
        let project = project.power(x.branch_power(10));
        let y = net.conv(&format!("{name}.project"), &y, project);
        net.add(&format!("{name}.add"), x, &y)
    } else {
        net.conv(&format!("{name}.project"), &y, project)
    }
}
