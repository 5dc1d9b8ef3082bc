//! Random numbers from a seed: the same ones on every machine.
//!
//! [`SplitMix64`] (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA
//! 2014) makes seeds and short sequences, [`Random`] is xoshiro256++ (Blackman & Vigna, "Scrambled
//! linear pseudorandom number generators", TOMS 2021) for long ones. Exponential draws take von
//! Neumann's comparison method ("Various techniques used in connection with random digits", 1951),
//! which needs no logarithm: logarithms differ in their last bits between machines.

/// A sequence of 64-bit words; its state is the seed.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number in `0..end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.word()) * end as u128) >> 64) as usize
    }
}

/// A long sequence of 64-bit words, of period 2^256 - 1.
#[derive(Clone, Debug)]
pub struct Random([u64; 4]);

impl Random {
    /// The sequence of a seed; neighbouring seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        let mut words = SplitMix64(seed);
        Self([words.word(), words.word(), words.word(), words.word()])
    }

    /// The next word.
    #[inline]
    pub fn word(&mut self) -> u64 {
        let state = &mut self.0;
        let word = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        word
    }

    /// A number in `0..end`; 0 where `end` is 0. Uniform but for `end` in 2^64.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(end)) >> 64) as u64
    }

    /// A number in `[0, 1)`, of 53 random bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An exponentially distributed number of mean 1.
    ///
    /// Of a uniform number and those that follow it in falling order an odd count is kept: the first
    /// is then the fraction, and each attempt thrown away before adds one. 4.3 words on average.
    #[inline]
    pub fn exponential(&mut self) -> f64 {
        let mut whole = 0.0;
        loop {
            let first = self.word();
            let (mut last, mut count) = (first, 1_u32);
            loop {
                let next = self.word();
                if next >= last {
                    break;
                }
                (last, count) = (next, count + 1);
            }
            if count % 2 == 1 {
                return whole + (first >> 11) as f64 / (1_u64 << 53) as f64;
            }
            whole += 1.0;
        }
    }

    /// A Poisson distributed number: arrivals in `mean` mean gaps. O(mean) time.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        let (mut count, mut left) = (0, mean - self.exponential());
        while left >= 0.0 {
            count += 1;
            left -= self.exponential();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_are_those_published() {
        // For seed 1234567, as published with the reference implementation.
        let mut words = SplitMix64(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| words.word()).collect();
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
        // For state 1, 2, 3, 4, as published with the Rust crate `rand_xoshiro`.
        let mut random = Random([1, 2, 3, 4]);
        let first: Vec<u64> = (0..4).map(|_| random.word()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn exponential_numbers_have_the_distribution_function_of_the_law() {
        let mut random = Random::new(7);
        let count = 200_000;
        let mut numbers: Vec<f64> = (0..count).map(|_| random.exponential()).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        // Kolmogorov's distance; 1.95 / sqrt(n) is exceeded once in a thousand times.
        let far = numbers.iter().enumerate().map(|(at, x)| {
            let law = 1.0 - (-x).exp();
            (law - at as f64 / count as f64).abs().max((law - (at + 1) as f64 / count as f64).abs())
        });
        let distance = far.fold(0.0, f64::max);
        assert!(distance < 1.95 / f64::from(count).sqrt(), "{distance}");
    }

    #[test]
    fn poisson_numbers_have_mean_and_variance_of_the_law() {
        let mut random = Random::new(1);
        for mean in [0.0, 0.3, 7.5] {
            let count = 100_000;
            let numbers: Vec<f64> = (0..count).map(|_| random.poisson(mean) as f64).collect();
            let average = numbers.iter().sum::<f64>() / f64::from(count);
            let square = numbers.iter().map(|x| (x - average).powi(2)).sum::<f64>();
            let slack = 0.02 * mean + 1e-9;
            assert!((average - mean).abs() <= slack, "{average} for {mean}");
            assert!((square / f64::from(count) - mean).abs() <= 2.0 * slack, "{mean}");
        }
    }

    #[test]
    fn numbers_below_an_end_reach_all_and_no_other() {
        let mut random = Random::new(3);
        let mut seen = [0; 5];
        (0..5000).for_each(|_| seen[random.below(5) as usize] += 1);
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        assert_eq!((random.below(0), SplitMix64(1).below(0)), (0, 0));
    }
}
