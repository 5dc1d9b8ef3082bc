//! AlexNet in its one-tower form without local response normalisation (Krizhevsky, "One weird
//! trick for parallelizing convolutional neural networks", 2014).

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

/// Rows of the map that the fully connected layers read.
pub(super) const MAP: u64 = 6;

/// Rows of the map that the convolutions make of `size` rows; 0 where there are too few.
pub(super) fn map_size(size: u64) -> u64 {
    let halve = |rows: u64| if rows < 3 { 0 } else { (rows - 3) / 2 + 1 };
    let rows = if size < 7 { 0 } else { (size + 4 - 11) / 4 + 1 };
    halve(halve(halve(rows)))
}

pub(super) fn alexnet(net: &mut Builder, x: &Feature) -> Feature {
    let halve = Window::new(3, 2, 0);
    let x = net.conv_relu("conv1", x, Conv::new(64, 11, 4, 2).plain());
    let x = net.max_pool("pool1", &x, halve);
    let x = net.conv_relu("conv2", &x, Conv::new(192, 5, 1, 2).plain());
    let x = net.max_pool("pool2", &x, halve);
    let x = net.conv_relu("conv3", &x, Conv::new(384, 3, 1, 1).plain());
    let x = net.conv_relu("conv4", &x, Conv::new(256, 3, 1, 1).plain());
    let x = net.conv_relu("conv5", &x, Conv::new(256, 3, 1, 1).plain());
    let x = net.max_pool("pool5", &x, halve);
    let x = net.shrink("avgpool", &x, MAP);
    let x = net.flatten("flatten", &x);
    let x = net.linear("fc6", &x, 4096);
    let x = net.relu("fc6.relu", &x);
    let x = net.linear("fc7", &x, 4096);
    let x = net.relu("fc7.relu", &x);
    net.linear("fc8", &x, 1000)
}
