//! EfficientNet-B0 (Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural
//! networks", 2019).

use super::{
    builder::Builder,
    layer::{Conv, Feature},
};

/// One stage of the paper's table 1.
struct Stage {
    expansion: u64,
    kernel: u64,
    stride: u64,
    channels: u64,
    layers: u64,
}

pub(super) fn efficientnet_b0(net: &mut Builder, x: &Feature) -> Feature {
    let mut x = net.conv_swish("stem", x, Conv::new(32, 3, 2, 1));
    let stages = [
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ];
    for (index, (expansion, kernel, stride, channels, layers)) in (1..).zip(stages) {
        let stage = Stage { expansion, kernel, stride, channels, layers };
        for layer in 0..stage.layers {
            let stride = if layer == 0 { stage.stride } else { 1 };
            x = mobile_bottleneck(net, &format!("stage{index}.{layer}"), &x, &stage, stride);
        }
    }
    let x = net.conv_swish("head", &x, Conv::new(1280, 1, 1, 0));
    net.classify("fc", &x, 1000)
}

fn mobile_bottleneck(
    net: &mut Builder,
    name: &str,
    x: &Feature,
    stage: &Stage,
    stride: u64,
) -> Feature {
    let inner = x.channels * stage.expansion;
    let mut y = x.clone();
    if stage.expansion > 1 {
        y = net.conv_swish(&format!("{name}.expand"), &y, Conv::new(inner, 1, 1, 0));
    }
    let depthwise = Conv::depthwise(inner, stage.kernel, stride, stage.kernel / 2);
    y = net.conv_swish(&format!("{name}.depthwise"), &y, depthwise);
    y = squeeze_excite(net, name, &y, x.channels / 4);
    let project = Conv::new(stage.channels, 1, 1, 0);
    if stride == 1 && x.channels == stage.channels {
        // Nine of the blocks have a shortcut.
        let y = net.conv(&format!("{name}.project"), &y, project.power(x.branch_power(9)));
        net.add(&format!("{name}.add"), x, &y)
    } else {
        net.conv(&format!("{name}.project"), &y, project)
    }
}

fn squeeze_excite(net: &mut Builder, name: &str, x: &Feature, squeezed: u64) -> Feature {
    let pooled = net.global_pool(&format!("{name}.se.avgpool"), x);
    let squeeze = Conv::new(squeezed, 1, 1, 0).plain();
    let y = net.conv(&format!("{name}.se.squeeze"), &pooled, squeeze);
    let y = net.swish(&format!("{name}.se.swish"), &y);
    let y = net.conv(&format!("{name}.se.excite"), &y, Conv::new(x.channels, 1, 1, 0).plain());
    let gate = net.sigmoid(&format!("{name}.se.gate"), &y);
    net.scale(&format!("{name}.se.scale"), x, &gate)
}
