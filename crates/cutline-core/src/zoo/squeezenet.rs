//! SqueezeNet 1.1 (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters",
//! 2016; 1.1 is the authors' revision with 2.4 times less computation).

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

pub(super) fn squeezenet(net: &mut Builder, x: &Feature) -> Feature {
    let halve = Window::new(3, 2, 0);
    let mut x = net.conv_relu("conv1", x, Conv::new(64, 3, 2, 0).plain());
    x = net.max_pool_ceil("pool1", &x, halve);
    let fires =
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)];
    for (fire, (squeeze, expand)) in (2..).zip(fires) {
        x = fire_module(net, &format!("fire{fire}"), &x, squeeze, expand);
        if fire == 3 || fire == 5 {
            x = net.max_pool_ceil(&format!("pool{fire}"), &x, halve);
        }
    }
    let x = net.conv_relu("conv10", &x, Conv::new(1000, 1, 1, 0).plain());
    let x = net.global_pool("avgpool", &x);
    net.flatten("flatten", &x)
}

fn fire_module(net: &mut Builder, name: &str, x: &Feature, squeeze: u64, expand: u64) -> Feature {
    let x = net.conv_relu(&format!("{name}.squeeze"), x, Conv::new(squeeze, 1, 1, 0).plain());
    let narrow =
        net.conv_relu(&format!("{name}.expand1x1"), &x, Conv::new(expand, 1, 1, 0).plain());
    let wide = net.conv_relu(&format!("{name}.expand3x3"), &x, Conv::new(expand, 3, 1, 1).plain());
    net.concat(&format!("{name}.concat"), &[narrow, wide])
}
