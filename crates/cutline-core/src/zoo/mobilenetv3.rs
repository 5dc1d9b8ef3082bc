//! MobileNetV3-small at width 1.0 (Howard et al., "Searching for MobileNetV3", 2019).

use super::{
    builder::Builder,
    layer::{Conv, Feature},
};

/// The activation of a block.
#[derive(Clone, Copy)]
enum Activation {
    Relu,
    HardSwish,
}

/// One row of the paper's table 2.
struct Block {
    kernel: u64,
    inner: u64,
    out: u64,
    excite: bool,
    activation: Activation,
    stride: u64,
}

pub(super) fn mobilenet_v3_small(net: &mut Builder, x: &Feature) -> Feature {
    use Activation::{HardSwish, Relu};
    let mut x = conv(net, "conv0", x, Conv::new(16, 3, 2, 1), HardSwish);
    let blocks = [
        (3, 16, 16, true, Relu, 2),
        (3, 72, 24, false, Relu, 2),
        (3, 88, 24, false, Relu, 1),
        (5, 96, 40, true, HardSwish, 2),
        (5, 240, 40, true, HardSwish, 1),
        (5, 240, 40, true, HardSwish, 1),
        (5, 120, 48, true, HardSwish, 1),
        (5, 144, 48, true, HardSwish, 1),
        (5, 288, 96, true, HardSwish, 2),
        (5, 576, 96, true, HardSwish, 1),
        (5, 576, 96, true, HardSwish, 1),
    ];
    for (index, (kernel, inner, out, excite, activation, stride)) in (1..).zip(blocks) {
        let block = Block { kernel, inner, out, excite, activation, stride };
        x = bottleneck(net, &format!("block{index}"), &x, &block);
    }
    let x = conv(net, "conv_last", &x, Conv::new(576, 1, 1, 0), HardSwish);
    let x = net.global_pool("avgpool", &x);
    let x = net.flatten("flatten", &x);
    let x = net.linear("fc1", &x, 1024);
    let x = net.hard_swish("fc1.hardswish", &x);
    net.linear("fc2", &x, 1000)
}

fn bottleneck(net: &mut Builder, name: &str, x: &Feature, block: &Block) -> Feature {
    let mut y = x.clone();
    if block.inner != x.channels {
        let expand = Conv::new(block.inner, 1, 1, 0);
        y = conv(net, &format!("{name}.expand"), &y, expand, block.activation);
    }
    let depthwise = Conv::depthwise(block.inner, block.kernel, block.stride, block.kernel / 2);
    y = conv(net, &format!("{name}.depthwise"), &y, depthwise, block.activation);
    if block.excite {
        y = squeeze_excite(net, name, &y);
    }
    let project = Conv::new(block.out, 1, 1, 0);
    if block.stride == 1 && x.channels == block.out {
        // Six of the blocks have a shortcut.
        let y = net.conv(&format!("{name}.project"), &y, project.power(x.branch_power(6)));
        net.add(&format!("{name}.add"), x, &y)
    } else {
        net.conv(&format!("{name}.project"), &y, project)
    }
}

fn squeeze_excite(net: &mut Builder, name: &str, x: &Feature) -> Feature {
    let pooled = net.global_pool(&format!("{name}.se.avgpool"), x);
    let squeeze = Conv::new(round_to_8(x.channels / 4), 1, 1, 0).plain();
    let y = net.conv_relu(&format!("{name}.se.squeeze"), &pooled, squeeze);
    let y = net.conv(&format!("{name}.se.excite"), &y, Conv::new(x.channels, 1, 1, 0).plain());
    let gate = net.hard_sigmoid(&format!("{name}.se.gate"), &y);
    net.scale(&format!("{name}.se.scale"), x, &gate)
}

/// The nearest multiple of 8 that loses at most a tenth, as the authors round channel counts.
fn round_to_8(channels: u64) -> u64 {
    let rounded = ((channels + 4) / 8 * 8).max(8);
    if rounded * 10 < channels * 9 { rounded + 8 } else { rounded }
}

fn conv(net: &mut Builder, name: &str, x: &Feature, conv: Conv, activation: Activation) -> Feature {
    match activation {
        Activation::Relu => net.conv_relu(name, x, conv),
        Activation::HardSwish => net.conv_hard_swish(name, x, conv),
    }
}
