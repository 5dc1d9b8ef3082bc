//! Networks of one kernel, to measure what single operators cost.
//!
//! A kernel is measured as the difference between a network with many copies of it and one with a
//! single copy, so that what a session costs, and what an engine does at its borders, cancels.
//! Copies with weights stand side by side and read the same input, each followed by global pooling,
//! so that its result is used and costs little; copies without weights would be merged into one by
//! an engine, and stand in a row.
//!
//! ```text
//!          ┌ conv ─ pool ┐
//! input ───┼ conv ─ pool ┼ concat ─ logits        input ─ shuffle ─ shuffle ─ shuffle ─ pool ─ logits
//!          └ conv ─ pool ┘
//! ```

use serde::{Deserialize, Serialize};

use super::{
    builder::{Builder, Weights},
    layer::{Conv, Feature, Window},
    random::Stream,
};
use crate::onnx::proto::ModelProto;

/// Most copies of a kernel in one network.
pub const MOST_COPIES: u64 = 32;

/// One operator, with what engines fuse into it, at one shape. Sizes are rows and columns of its
/// input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Kernel {
    /// A convolution, padded by half its kernel.
    Conv {
        /// Channels that it reads.
        channels: u64,
        /// Channels that it makes.
        filters: u64,
        /// Rows and columns of the kernel.
        kernel: [u64; 2],
        /// Step in both directions.
        stride: u64,
        /// Independent groups of channels.
        groups: u64,
        /// Rows and columns of the input.
        size: u64,
        /// What follows.
        then: Then,
    },
    /// A fully connected layer.
    Dense {
        /// Elements that it reads.
        inputs: u64,
        /// Elements that it makes.
        outputs: u64,
    },
    /// Pooling over windows; with a stride, after a depthwise convolution.
    Pool {
        /// The largest element instead of the mean.
        max: bool,
        /// Channels.
        channels: u64,
        /// Rows and columns of the window.
        kernel: u64,
        /// Step in both directions.
        stride: u64,
        /// Rows and columns of the input.
        size: u64,
    },
    /// An elementwise function by itself.
    Elementwise {
        /// Which.
        then: Then,
        /// Channels.
        channels: u64,
        /// Rows and columns.
        size: u64,
    },
    /// Global pooling, sigmoid, and the product with the map: a gate per channel.
    Gate {
        /// Channels.
        channels: u64,
        /// Rows and columns.
        size: u64,
    },
    /// Batch normalisation that nothing absorbs, rectified.
    Normalize {
        /// Channels.
        channels: u64,
        /// Rows and columns.
        size: u64,
    },
    /// The channels in halves, and joined again the other way round.
    Concat {
        /// Channels.
        channels: u64,
        /// Rows and columns.
        size: u64,
    },
    /// The channels of two groups in turn.
    Shuffle {
        /// Channels.
        channels: u64,
        /// Rows and columns.
        size: u64,
    },
}

/// What follows a convolution, or stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Nothing.
    Nothing,
    /// A rectifier.
    Relu,
    /// A rectifier that ends at 6.
    Relu6,
    /// `x * sigmoid(x)`.
    Swish,
    /// Its piecewise linear likeness.
    HardSwish,
    /// The sum with the input.
    Add,
}

impl Kernel {
    /// Whether it can be built: positive, bounded, and its parts fit together.
    pub fn is_sound(&self) -> bool {
        let small = |number: u64, most: u64| (1..=most).contains(&number);
        let map = |channels: u64, size: u64| small(channels, 1 << 14) && small(size, 1 << 10);
        let even = |channels: u64| channels.is_multiple_of(2);
        match *self {
            Self::Conv {
                channels,
                filters,
                kernel: [rows, columns],
                stride,
                groups,
                size,
                then,
            } => {
                map(channels, size)
                    && map(filters, size)
                    && [rows, columns].iter().all(|&side| small(side, 15) && side % 2 == 1)
                    && small(stride, 8)
                    && small(groups, 1 << 14)
                    && channels.is_multiple_of(groups)
                    && filters.is_multiple_of(groups)
                    && (stride == 1 || rows == columns)
                    && (then != Then::Add || channels == filters && stride == 1)
            }
            Self::Dense { inputs, outputs } => small(inputs, 1 << 17) && small(outputs, 1 << 14),
            Self::Pool { channels, kernel, stride, size, .. } => {
                map(channels, size) && small(kernel, 15) && kernel % 2 == 1 && small(stride, 8)
            }
            Self::Elementwise { then, channels, size } => {
                map(channels, size) && then != Then::Nothing
            }
            Self::Gate { channels, size } | Self::Normalize { channels, size } => {
                map(channels, size)
            }
            Self::Concat { channels, size } | Self::Shuffle { channels, size } => {
                map(channels, size) && even(channels)
            }
        }
    }

    /// The network with random weights; of a sound kernel, and 1 to [`MOST_COPIES`] copies.
    pub fn build(&self, copies: u64, seed: u64) -> ModelProto {
        self.assemble(copies, Weights::Random(seed))
    }

    /// The same without the data of its weights: to be analysed.
    pub fn outline(&self, copies: u64) -> ModelProto {
        self.assemble(copies, Weights::Absent)
    }

    /// Bytes of the weights of one copy, and multiply-accumulates and bytes moved as one number:
    /// about the nanoseconds on one core of a fast processor.
    fn weight(&self) -> (u64, u64) {
        match *self {
            Self::Conv {
                channels, filters, kernel: [rows, columns], stride, groups, size, ..
            } => {
                let weights = channels / groups * filters * rows * columns;
                let out = size.div_ceil(stride).pow(2);
                let moved = channels * size * size + filters * out;
                (weights * 4, weights * out / 40 + moved / 2)
            }
            Self::Dense { inputs, outputs } => (inputs * outputs * 4, inputs * outputs / 3),
            Self::Pool { channels, size, .. } => (0, channels * size * size),
            Self::Elementwise { channels, size, .. }
            | Self::Gate { channels, size }
            | Self::Normalize { channels, size }
            | Self::Concat { channels, size }
            | Self::Shuffle { channels, size } => (0, channels * size * size),
        }
    }

    /// How many copies take about two milliseconds more than one on a fast core, with at most 32 MB
    /// of weights.
    pub fn copies(&self) -> u64 {
        const WORK: u64 = 2_000_000;
        const WEIGHTS: u64 = 32_000_000;
        let (weights, work) = self.weight();
        let most = (WEIGHTS / weights.max(1)).clamp(3, 17);
        (1 + WORK.div_ceil(work.max(1))).clamp(3, most)
    }

    fn assemble(&self, copies: u64, weights: Weights) -> ModelProto {
        let copies = copies.clamp(1, MOST_COPIES);
        let (channels, size) = match *self {
            Self::Dense { inputs, .. } => (inputs, 1),
            Self::Conv { channels, size, .. }
            | Self::Pool { channels, size, .. }
            | Self::Elementwise { channels, size, .. }
            | Self::Gate { channels, size }
            | Self::Normalize { channels, size }
            | Self::Concat { channels, size }
            | Self::Shuffle { channels, size } => (channels, size),
        };
        let (mut net, input) = Builder::new("kernel", weights, channels, size);
        let answer = match *self {
            Self::Dense { outputs, .. } => {
                let vector = net.flatten("vector", &input);
                let linear = |net: &mut Builder, name: &str| net.linear(name, &vector, outputs);
                let parts = side_by_side(&mut net, copies, linear);
                net.concat("joined", &parts)
            }
            Self::Conv { .. } | Self::Pool { stride: 2.., .. } => {
                let pooled = |net: &mut Builder, name: &str| {
                    let y = self.append(net, name, &input, &input);
                    net.global_pool(&format!("{name}.pooled"), &y)
                };
                let parts = side_by_side(&mut net, copies, pooled);
                let joined = net.concat("joined", &parts);
                net.flatten("flat", &joined)
            }
            _ => {
                let mut x = input.clone();
                for copy in 0..copies {
                    x = self.append(&mut net, &format!("k{copy}"), &x, &input);
                }
                let pooled = net.global_pool("pooled", &x);
                net.flatten("flat", &pooled)
            }
        };
        net.finish("One kernel", &answer).0
    }

    /// One copy that reads `x`, in a network that reads `input`.
    fn append(&self, net: &mut Builder, name: &str, x: &Feature, input: &Feature) -> Feature {
        match *self {
            Self::Conv { filters, kernel, stride, groups, then, .. } => {
                let conv = match kernel {
                    [rows, columns] if rows == columns => {
                        Conv::new(filters, rows, stride, rows / 2)
                    }
                    _ => Conv::same(filters, kernel),
                };
                let y = net.conv(name, x, Conv { groups, ..conv });
                append_then(net, name, &y, input, then)
            }
            Self::Pool { max, channels, kernel, stride, .. } => {
                let depthwise = Conv::depthwise(channels, 3, 1, 1);
                let x = match stride {
                    1 => x.clone(),
                    _ => net.conv(&format!("{name}.depthwise"), x, depthwise),
                };
                let window = Window::new(kernel, stride, kernel / 2);
                match max {
                    true => net.max_pool(name, &x, window),
                    false => net.average_pool(name, &x, window),
                }
            }
            Self::Elementwise { then, .. } => append_then(net, name, x, input, then),
            Self::Gate { .. } => {
                let pooled = net.global_pool(&format!("{name}.pooled"), x);
                let gate = net.sigmoid(&format!("{name}.gate"), &pooled);
                net.scale(name, x, &gate)
            }
            Self::Normalize { .. } => {
                let y = net.batch_norm(name, x);
                net.relu(&format!("{name}.relu"), &y)
            }
            Self::Concat { .. } => {
                let [first, second] = net.halves(&format!("{name}.split"), x);
                net.concat(name, &[second, first])
            }
            Self::Shuffle { .. } => net.shuffle(name, x),
            Self::Dense { outputs, .. } => net.linear(name, x, outputs),
        }
    }
}

fn append_then(net: &mut Builder, name: &str, y: &Feature, input: &Feature, then: Then) -> Feature {
    let name = format!("{name}.then");
    match then {
        Then::Nothing => y.clone(),
        Then::Relu => net.relu(&name, y),
        Then::Relu6 => net.relu6(&name, y),
        Then::Swish => net.swish(&name, y),
        Then::HardSwish => net.hard_swish(&name, y),
        Then::Add => net.add(&name, y, input),
    }
}

fn side_by_side(
    net: &mut Builder,
    copies: u64,
    append: impl Fn(&mut Builder, &str) -> Feature,
) -> Vec<Feature> {
    (0..copies).map(|copy| append(net, &format!("k{copy}"))).collect()
}

/// Kernels drawn from the shapes that published networks use: channels and sizes log-uniform, most
/// channel counts multiples of 16. Same number and seed, same kernels.
pub fn sweep(count: usize, seed: u64) -> Vec<Kernel> {
    /// Shares of the kinds, in sixteenths.
    const KINDS: [Kind; 16] = [
        Kind::Full,
        Kind::Pointwise,
        Kind::Depthwise,
        Kind::Light,
        Kind::Full,
        Kind::Pointwise,
        Kind::Elementwise,
        Kind::Pool,
        Kind::Pointwise,
        Kind::Full,
        Kind::Depthwise,
        Kind::Dense,
        Kind::Pointwise,
        Kind::Light,
        Kind::Elementwise,
        Kind::Full,
    ];
    let mut draw = Draw(Stream::new(seed, "kernels"));
    let kinds = KINDS.iter().cycle().take(count);
    kinds.map(|&kind| draw.kernel(kind)).collect()
}

#[derive(Clone, Copy)]
enum Kind {
    Full,
    Pointwise,
    Depthwise,
    Dense,
    Pool,
    Elementwise,
    Light,
}

struct Draw(Stream);

impl Draw {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        self.0.unit()
    }

    /// Log-uniform in `low..=high`.
    fn log(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low as f64, high as f64);
        ((low * (high / low).powf(self.unit())).round() as u64).max(1)
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[((self.unit() * items.len() as f64) as usize).min(items.len() - 1)]
    }

    /// A number of channels: mostly a multiple of 16, sometimes of 8, seldom just even.
    fn channels(&mut self, low: u64, high: u64) -> u64 {
        let unit = self.one_of(&[16, 16, 16, 16, 16, 8, 8, 2]);
        (self.log(low, high).div_ceil(unit) * unit).max(unit)
    }

    fn kernel(&mut self, kind: Kind) -> Kernel {
        /// Weights of one copy, and its work in the units of [`Kernel::weight`].
        const LIMITS: ([u64; 2], [u64; 2]) = ([0, 8_000_000], [20_000, 5_000_000]);
        for _ in 0..1000 {
            let kernel = self.any(kind);
            let (weights, work) = kernel.weight();
            let inside = |[low, high]: [u64; 2], number| (low..=high).contains(&number);
            if kernel.is_sound() && inside(LIMITS.0, weights) && inside(LIMITS.1, work) {
                return kernel;
            }
        }
        Kernel::Elementwise { then: Then::Relu, channels: 64, size: 28 }
    }

    fn any(&mut self, kind: Kind) -> Kernel {
        use Then::{HardSwish, Nothing, Relu, Relu6, Swish};
        let then = self.one_of(&[Relu, Relu, Relu, Nothing, Nothing, Relu6, Swish, HardSwish]);
        let size = self.log(4, 112);
        match kind {
            Kind::Full if self.unit() < 0.15 => {
                // The first layer of a network.
                let (side, stride) = self.one_of(&[(3, 1), (3, 2), (3, 2), (7, 2), (11, 4)]);
                let (filters, size) = (self.channels(16, 64), self.log(96, 300));
                let kernel = [side; 2];
                Kernel::Conv { channels: 3, filters, kernel, stride, groups: 1, size, then }
            }
            Kind::Full => {
                let square = [[3, 3]; 7];
                let kernel =
                    self.one_of(&[&square[..], &[[5, 5], [1, 7], [7, 1], [1, 3]]].concat());
                let (channels, filters) = (self.channels(16, 512), self.channels(16, 512));
                let stride = match kernel {
                    [3, 3] => self.one_of(&[1, 1, 1, 2]),
                    _ => 1,
                };
                Kernel::Conv { channels, filters, kernel, stride, groups: 1, size, then }
            }
            Kind::Pointwise => {
                let (channels, filters) = (self.channels(16, 1024), self.channels(16, 1024));
                let stride = self.one_of(&[1, 1, 1, 1, 1, 1, 2]);
                let add = self.unit() < 0.15 && stride == 1;
                let (filters, then) = if add { (channels, Then::Add) } else { (filters, then) };
                Kernel::Conv { channels, filters, kernel: [1; 2], stride, groups: 1, size, then }
            }
            Kind::Depthwise => {
                let channels = self.channels(16, 960);
                let (side, stride) = (self.one_of(&[3, 3, 5]), self.one_of(&[1, 1, 2]));
                let (groups, kernel) = (channels, [side; 2]);
                Kernel::Conv { channels, filters: channels, kernel, stride, groups, size, then }
            }
            Kind::Dense => {
                Kernel::Dense { inputs: self.log(64, 4096), outputs: self.log(64, 2048) }
            }
            Kind::Pool => {
                let (kernel, stride) = (3, self.one_of(&[1, 2]));
                let (max, channels) = (self.unit() < 0.5, self.channels(16, 768));
                Kernel::Pool { max, channels, kernel, stride, size }
            }
            Kind::Elementwise => {
                let then = self.one_of(&[Relu, Relu6, Swish, HardSwish, Then::Add, Then::Add]);
                Kernel::Elementwise { then, channels: self.channels(16, 1024), size }
            }
            Kind::Light => {
                let channels = self.channels(16, 1024);
                match self.one_of(&[0, 1, 2, 3]) {
                    0 => Kernel::Gate { channels, size },
                    1 => Kernel::Normalize { channels, size },
                    2 => Kernel::Concat { channels, size },
                    _ => Kernel::Shuffle { channels, size },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group::group,
        onnx::{ImportOptions, import},
        units::Macs,
    };

    fn macs(model: &ModelProto) -> Macs {
        let graph = import(model, &ImportOptions::default()).unwrap();
        group(&graph).dag.groups().iter().map(|group| group.macs).sum()
    }

    #[test]
    fn the_same_seed_gives_the_same_kernels_and_all_are_sound() {
        let kernels = sweep(200, 1);
        assert_eq!(kernels, sweep(200, 1));
        assert_ne!(kernels, sweep(200, 2));
        assert!(kernels.iter().all(Kernel::is_sound));
        let different: std::collections::BTreeSet<String> =
            kernels.iter().map(|kernel| format!("{kernel:?}")).collect();
        assert!(different.len() > 190, "{}", different.len());
    }

    #[test]
    fn each_copy_adds_the_work_of_the_kernel() {
        for kernel in sweep(64, 3) {
            let [one, two, five] = [1, 2, 5].map(|copies| macs(&kernel.outline(copies)).0);
            assert_eq!(five - one, 4 * (two - one), "{kernel:?}");
            if let Kernel::Conv {
                channels,
                filters,
                kernel: [rows, columns],
                stride,
                groups,
                size,
                ..
            } = kernel
            {
                let side = (size - 1) / stride + 1;
                let work = channels / groups * filters * rows * columns * side * side;
                assert_eq!(two - one, work, "{kernel:?}");
            }
        }
    }

    #[test]
    fn kernels_that_cannot_be_are_told() {
        let conv = |channels, groups, stride, then| Kernel::Conv {
            channels,
            filters: 16,
            kernel: [3, 3],
            stride,
            groups,
            size: 8,
            then,
        };
        assert!(conv(16, 1, 1, Then::Add).is_sound());
        let cases = [
            conv(0, 1, 1, Then::Nothing),
            conv(8, 3, 1, Then::Nothing),
            conv(8, 1, 0, Then::Nothing),
            conv(8, 1, 1, Then::Add),
            conv(u64::MAX, 1, 1, Then::Nothing),
            Kernel::Shuffle { channels: 3, size: 4 },
            Kernel::Pool { max: true, channels: 8, kernel: 2, stride: 2, size: 8 },
        ];
        assert!(cases.iter().all(|kernel| !kernel.is_sound()));
    }
}
