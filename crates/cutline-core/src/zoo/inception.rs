//! Inception-v3 (Szegedy et al., "Rethinking the Inception architecture for computer vision",
//! 2016), without the auxiliary classifier, which only training uses.

use super::{
    builder::Builder,
    layer::{Conv, Feature, Window},
};

const HALVE: Window = Window::new(3, 2, 0);

pub(super) fn inception_v3(net: &mut Builder, x: &Feature) -> Feature {
    let x = net.conv_relu("Conv2d_1a_3x3", x, Conv::new(32, 3, 2, 0));
    let x = net.conv_relu("Conv2d_2a_3x3", &x, Conv::new(32, 3, 1, 0));
    let x = net.conv_relu("Conv2d_2b_3x3", &x, Conv::new(64, 3, 1, 1));
    let x = net.max_pool("maxpool1", &x, HALVE);
    let x = net.conv_relu("Conv2d_3b_1x1", &x, Conv::new(80, 1, 1, 0));
    let x = net.conv_relu("Conv2d_4a_3x3", &x, Conv::new(192, 3, 1, 0));
    let mut x = net.max_pool("maxpool2", &x, HALVE);
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = wide_module(&mut Module { net, name }, &x, pooled);
    }
    x = first_reduction(&mut Module { net, name: "Mixed_6a" }, &x);
    for (name, inner) in
        [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)]
    {
        x = factorised_module(&mut Module { net, name }, &x, inner);
    }
    x = second_reduction(&mut Module { net, name: "Mixed_7a" }, &x);
    for name in ["Mixed_7b", "Mixed_7c"] {
        x = expanded_module(&mut Module { net, name }, &x);
    }
    net.classify("fc", &x, 1000)
}

/// One module of parallel branches under construction.
struct Module<'a> {
    net: &'a mut Builder,
    name: &'a str,
}

impl Module<'_> {
    /// Convolutions in a row, `<branch>_1`, `<branch>_2` and so on; a single one without a number.
    fn branch(&mut self, branch: &str, x: &Feature, convs: &[Conv]) -> Feature {
        let mut x = x.clone();
        for (index, &conv) in (1..).zip(convs) {
            let name = match convs.len() {
                1 => format!("{}.{branch}", self.name),
                _ => format!("{}.{branch}_{index}", self.name),
            };
            x = self.net.conv_relu(&name, &x, conv);
        }
        x
    }

    /// An average over 3 by 3, then a 1 by 1 convolution.
    fn pooled(&mut self, x: &Feature, out: u64) -> Feature {
        let name = format!("{}.avgpool", self.name);
        let x = self.net.average_pool(&name, x, Window::new(3, 1, 1));
        self.branch("branch_pool", &x, &[point(out)])
    }

    fn max_pooled(&mut self, x: &Feature) -> Feature {
        self.net.max_pool(&format!("{}.maxpool", self.name), x, HALVE)
    }

    fn join(&mut self, parts: &[Feature]) -> Feature {
        self.net.concat(&format!("{}.concat", self.name), parts)
    }
}

fn point(out: u64) -> Conv {
    Conv::new(out, 1, 1, 0)
}

fn square(out: u64) -> Conv {
    Conv::new(out, 3, 1, 1)
}

/// A 3 by 3 convolution that halves the map.
fn halving(out: u64) -> Conv {
    Conv::new(out, 3, 2, 0)
}

/// A convolution along a row.
fn row(out: u64, length: u64) -> Conv {
    Conv::same(out, [1, length])
}

/// A convolution along a column.
fn column(out: u64, length: u64) -> Conv {
    Conv::same(out, [length, 1])
}

/// Figure 5 of the paper, with one 5 by 5 branch kept.
fn wide_module(module: &mut Module<'_>, x: &Feature, pooled: u64) -> Feature {
    let parts = [
        module.branch("branch1x1", x, &[point(64)]),
        module.branch("branch5x5", x, &[point(48), Conv::new(64, 5, 1, 2)]),
        module.branch("branch3x3dbl", x, &[point(64), square(96), square(96)]),
        module.pooled(x, pooled),
    ];
    module.join(&parts)
}

fn first_reduction(module: &mut Module<'_>, x: &Feature) -> Feature {
    let parts = [
        module.branch("branch3x3", x, &[halving(384)]),
        module.branch("branch3x3dbl", x, &[point(64), square(96), halving(96)]),
        module.max_pooled(x),
    ];
    module.join(&parts)
}

/// Figure 6: 7 by 7 convolutions as a row after a column.
fn factorised_module(module: &mut Module<'_>, x: &Feature, inner: u64) -> Feature {
    let double = [point(inner), column(inner, 7), row(inner, 7), column(inner, 7), row(192, 7)];
    let parts = [
        module.branch("branch1x1", x, &[point(192)]),
        module.branch("branch7x7", x, &[point(inner), row(inner, 7), column(192, 7)]),
        module.branch("branch7x7dbl", x, &double),
        module.pooled(x, 192),
    ];
    module.join(&parts)
}

fn second_reduction(module: &mut Module<'_>, x: &Feature) -> Feature {
    let parts = [
        module.branch("branch3x3", x, &[point(192), halving(320)]),
        module.branch("branch7x7x3", x, &[point(192), row(192, 7), column(192, 7), halving(192)]),
        module.max_pooled(x),
    ];
    module.join(&parts)
}

/// Figure 7: branches that widen into a row and a column.
fn expanded_module(module: &mut Module<'_>, x: &Feature) -> Feature {
    let single = module.branch("branch1x1", x, &[point(320)]);
    let stem = module.branch("branch3x3_1", x, &[point(384)]);
    let first = module.branch("branch3x3_2a", &stem, &[row(384, 3)]);
    let second = module.branch("branch3x3_2b", &stem, &[column(384, 3)]);
    let stem = module.branch("branch3x3dbl", x, &[point(448), square(384)]);
    let third = module.branch("branch3x3dbl_3a", &stem, &[row(384, 3)]);
    let fourth = module.branch("branch3x3dbl_3b", &stem, &[column(384, 3)]);
    let pooled = module.pooled(x, 192);
    module.join(&[single, first, second, third, fourth, pooled])
}
