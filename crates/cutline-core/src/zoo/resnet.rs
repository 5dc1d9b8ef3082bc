//! ResNet-18, -50 and -101 (He et al., "Deep residual learning for image recognition", 2016), with
//! the stride of a bottleneck in its 3 by 3 convolution, as most trained weights have it.

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

/// What stands in a residual branch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Two 3 by 3 convolutions.
    Basic,
    /// 1 by 1, 3 by 3, and 1 by 1 to four times the channels.
    Bottleneck,
}

pub(super) fn resnet18(net: &mut Builder, x: &Feature) -> Feature {
    resnet(net, x, Block::Basic, [2, 2, 2, 2])
}

pub(super) fn resnet50(net: &mut Builder, x: &Feature) -> Feature {
    resnet(net, x, Block::Bottleneck, [3, 4, 6, 3])
}

pub(super) fn resnet101(net: &mut Builder, x: &Feature) -> Feature {
    resnet(net, x, Block::Bottleneck, [3, 4, 23, 3])
}

fn resnet(net: &mut Builder, x: &Feature, block: Block, depths: [u64; 4]) -> Feature {
    let x = net.conv_relu("conv1", x, Conv::new(64, 7, 2, 3));
    let mut x = net.max_pool("maxpool", &x, Window::new(3, 2, 1));
    let blocks = depths.iter().sum();
    for ((layer, depth), channels) in (1..).zip(depths).zip([64, 128, 256, 512]) {
        for index in 0..depth {
            let stride = if index == 0 && layer > 1 { 2 } else { 1 };
            let name = format!("layer{layer}.{index}");
            x = residual(net, &name, &x, block, Shape { channels, stride, blocks });
        }
    }
    net.classify("fc", &x, 1000)
}

/// Shape of one block: inner channels, stride, and how many blocks the network has.
struct Shape {
    channels: u64,
    stride: u64,
    blocks: u64,
}

fn residual(net: &mut Builder, name: &str, x: &Feature, block: Block, shape: Shape) -> Feature {
    let Shape { channels, stride, blocks } = shape;
    let out = if block == Block::Basic { channels } else { 4 * channels };
    let shortcut = if stride == 1 && x.channels == out {
        x.clone()
    } else {
        net.conv(&format!("{name}.downsample"), x, Conv::new(out, 1, stride, 0))
    };
    let power = shortcut.branch_power(blocks);
    let conv = |index: usize| format!("{name}.conv{index}");
    let branch = match block {
        Block::Basic => {
            let y = net.conv_relu(&conv(1), x, Conv::new(channels, 3, stride, 1));
            net.conv(&conv(2), &y, Conv::new(out, 3, 1, 1).power(power))
        }
        Block::Bottleneck => {
            let y = net.conv_relu(&conv(1), x, Conv::new(channels, 1, 1, 0));
            let y = net.conv_relu(&conv(2), &y, Conv::new(channels, 3, stride, 1));
            net.conv(&conv(3), &y, Conv::new(out, 1, 1, 0).power(power))
        }
    };
    let sum = net.add(&format!("{name}.add"), &shortcut, &branch);
    net.relu(&format!("{name}.relu"), &sum)
}
