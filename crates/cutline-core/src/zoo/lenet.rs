//! LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998), with
//! rectifiers and maximum pooling, as it is usually written today.

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

/// Takes digits of 32 by 32, or of 28 by 28, which the first layer pads.
pub(super) fn lenet5(net: &mut Builder, x: &Feature) -> Feature {
    let pad = if x.height == 28 { 2 } else { 0 };
    let x = net.conv_relu("conv1", x, Conv::new(6, 5, 1, pad).plain());
    let x = net.max_pool("pool1", &x, Window::new(2, 2, 0));
    let x = net.conv_relu("conv2", &x, Conv::new(16, 5, 1, 0).plain());
    let x = net.max_pool("pool2", &x, Window::new(2, 2, 0));
    let x = net.flatten("flatten", &x);
    let x = net.linear("fc1", &x, 120);
    let x = net.relu("fc1.relu", &x);
    let x = net.linear("fc2", &x, 84);
    let x = net.relu("fc2.relu", &x);
    net.linear("fc3", &x, 10)
}
