//! Seeded weights: the same bits on every machine.
//!
//! A tensor's stream starts from the seed and the tensor's name, so a weight depends on nothing
//! else: not on the input size, not on the layers before it. Floats are made from 24 bits of an
//! integer generator by one conversion and one multiplication, both of which IEEE 754 defines to the
//! last bit.

use bytes::Bytes;

use crate::random::SplitMix64;

/// Half of the range of the integers that weights are made from.
const HALF: i32 = 1 << 23;

/// A stream of random bits.
#[derive(Clone, Debug)]
pub(super) struct Stream(SplitMix64);

impl Stream {
    /// The stream of one tensor of one network.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let mut stream = SplitMix64(seed);
        for byte in name.bytes() {
            stream.0 = stream.word() ^ u64::from(byte);
        }
        Self(stream)
    }

    /// Uniform in 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Two integers, uniform in `-HALF..HALF`.
    fn pair(&mut self) -> [i32; 2] {
        let bits = self.0.word();
        [((bits >> 40) as i32) - HALF, ((bits >> 8) & 0xff_ffff) as i32 - HALF]
    }

    /// `count` little-endian floats, uniform in `middle - bound .. middle + bound`.
    pub(super) fn uniform(&mut self, count: usize, middle: f32, bound: f32) -> Bytes {
        let scale = bound / HALF as f32;
        let mut data = vec![0; count * 4];
        for two in data.chunks_mut(8) {
            let numbers = self.pair();
            for (place, number) in two.chunks_exact_mut(4).zip(numbers) {
                place.copy_from_slice(&(middle + number as f32 * scale).to_le_bytes());
            }
        }
        data.into()
    }

    /// `filters` rows of `fan_in` little-endian floats, uniform within about `bound` of 0, each
    /// row summing to 0 but for rounding.
    ///
    /// A row without a mean does not see what all its operands have in common. After a rectifier
    /// that is most of the signal, and a deep random network that lets it through answers nearly
    /// the same to every input.
    pub(super) fn balanced(&mut self, filters: usize, fan_in: usize, bound: f32) -> Bytes {
        let scale = bound / HALF as f32;
        let mut data = vec![0; filters * fan_in * 4];
        for filter in data.chunks_exact_mut(fan_in * 4) {
            let mean = self.clone().sum(fan_in) / fan_in as i64;
            // A mean of numbers below 2^23 is below 2^23.
            let mean = mean as i32;
            for two in filter.chunks_mut(8) {
                let numbers = self.pair();
                for (place, number) in two.chunks_exact_mut(4).zip(numbers) {
                    place.copy_from_slice(&((number - mean) as f32 * scale).to_le_bytes());
                }
            }
        }
        data.into()
    }

    fn sum(mut self, count: usize) -> i64 {
        let mut sum = 0;
        for _ in 0..count / 2 {
            let [first, second] = self.pair();
            sum += i64::from(first) + i64::from(second);
        }
        if count % 2 == 1 {
            sum += i64::from(self.pair()[0]);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(data: &[u8]) -> Vec<f32> {
        data.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    #[test]
    fn uniform_floats_fill_their_range() {
        let data = floats(&Stream::new(1, "a").uniform(9_999, 2.0, 0.5));
        assert_eq!(data.len(), 9_999);
        assert!(data.iter().all(|x| (1.5..=2.5).contains(x)));
        assert!(data.iter().any(|&x| x < 1.51) && data.iter().any(|&x| x > 2.49));
    }

    #[test]
    fn balanced_rows_have_no_mean_and_the_variance_of_their_bound() {
        for (filters, fan_in) in [(3, 27), (5, 1152), (1, 4608)] {
            let data = floats(&Stream::new(7, "w").balanced(filters, fan_in, 1.0));
            for row in data.chunks(fan_in) {
                let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
                assert!(sum.abs() < 1e-3, "{sum}");
            }
            let square: f64 = data.iter().map(|&x| f64::from(x * x)).sum();
            let variance = square / data.len() as f64;
            assert!((0.25..0.42).contains(&variance), "{variance}");
        }
    }

    #[test]
    fn streams_differ_by_seed_and_by_name() {
        let data = |seed, name| Stream::new(seed, name).uniform(16, 0.0, 1.0);
        assert_eq!(data(1, "conv1.weight"), data(1, "conv1.weight"));
        assert_ne!(data(1, "conv1.weight"), data(2, "conv1.weight"));
        assert_ne!(data(1, "conv1.weight"), data(1, "conv2.weight"));
        assert_ne!(data(1, "ab"), data(1, "ba"));
    }
}
