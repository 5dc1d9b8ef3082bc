//! Integer quantities: time, bytes, multiply-accumulates, rates.
//!
//! Every cost that decides a plan is one of these newtypes over `u64`, so that plans are totally
//! ordered and reproducible on any machine. Floats appear only when a quantity is printed.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Sub},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Defines a newtype over an unsigned integer: a quantity that adds up, or an id that indexes.
macro_rules! newtype {
    ($(#[$doc:meta])* quantity $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Mul<u64> for $name {
            type Output = Self;
            fn mul(self, factor: u64) -> Self {
                Self(self.0.saturating_mul(factor))
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self(0), Add::add)
            }
        }
    };
    ($(#[$doc:meta])* id $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Position in the container that made this id.
            pub fn index(self) -> usize {
                self.0 as usize
            }

            /// The id of position `index`; only the owning container may hand these out.
            pub(crate) fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("a container holds fewer than 2^32 elements"))
            }
        }
    };
}
pub(crate) use newtype;

newtype! {
    /// A duration in nanoseconds. Sums saturate, so an absurd cost stays absurd instead of wrapping.
    quantity Nanos
}
newtype! {
    /// A size in bytes.
    quantity Bytes
}
newtype! {
    /// Multiply-accumulate operations.
    quantity Macs
}
newtype! {
    /// A rate in bytes per second.
    quantity BytesPerSec
}
newtype! {
    /// A rate in multiply-accumulates per second.
    quantity MacsPerSec
}
newtype! {
    /// An energy in nanojoule.
    quantity Nanojoules
}
newtype! {
    /// A power in microwatt.
    quantity Microwatts
}
newtype! {
    /// Energy of moving one byte, in picojoule.
    quantity PicojoulesPerByte
}
newtype! {
    /// Money in millionths of a currency unit; per month where it is a plan's cost.
    quantity Money
}

impl Nanos {
    /// Milliseconds, for printing only.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl BytesPerSec {
    /// Time that `size` occupies this rate, rounded up; a rate of zero never delivers.
    pub fn transfer_time(self, size: Bytes) -> Nanos {
        if self.0 == 0 {
            return Nanos(u64::MAX);
        }
        let nanos = (u128::from(size.0) * 1_000_000_000).div_ceil(u128::from(self.0));
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl MacsPerSec {
    /// Time that this much work takes, rounded up; a rate of zero never finishes.
    pub fn time(self, work: Macs) -> Nanos {
        BytesPerSec(self.0).transfer_time(Bytes(work.0))
    }
}

impl Microwatts {
    /// Energy of this power over a time, rounded up.
    pub fn energy(self, time: Nanos) -> Nanojoules {
        let energy = (u128::from(self.0) * u128::from(time.0)).div_ceil(1_000_000);
        Nanojoules(u64::try_from(energy).unwrap_or(u64::MAX))
    }
}

impl PicojoulesPerByte {
    /// Energy of moving `size`, rounded up.
    pub fn energy(self, size: Bytes) -> Nanojoules {
        let energy = (u128::from(self.0) * u128::from(size.0)).div_ceil(1000);
        Nanojoules(u64::try_from(energy).unwrap_or(u64::MAX))
    }
}

/// Text that is not a quantity with its unit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not {expected}")]
pub struct UnitError {
    text: String,
    expected: &'static str,
}

fn parse_with_units(
    text: &str,
    units: &[(&str, u64, u64)],
    expected: &'static str,
) -> Result<u64, UnitError> {
    let error = || UnitError { text: text.to_owned(), expected };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim();
    let &(_, num, den) =
        units.iter().find(|(name, ..)| name.eq_ignore_ascii_case(unit)).ok_or_else(error)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(error());
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let mantissa: u128 = format!("{whole}{fraction}").parse().map_err(|_| error())?;
    let value =
        mantissa.checked_mul(u128::from(num)).ok_or_else(error)? / (scale * u128::from(den));
    u64::try_from(value).map_err(|_| error())
}

/// A decimal number in millionths: `0.2` is 200000.
pub(crate) fn decimal(text: &str, expected: &'static str) -> Result<u64, UnitError> {
    parse_with_units(text, &[("", 1_000_000, 1)], expected)
}

impl FromStr for Nanos {
    type Err = UnitError;
    /// Parses `10ms`, `1.5s`, `20us`, `300ns`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [
            ("ns", 1, 1),
            ("us", 1_000, 1),
            ("µs", 1_000, 1),
            ("ms", 1_000_000, 1),
            ("s", 1_000_000_000, 1),
        ];
        parse_with_units(text, &units, "a duration such as `10ms`, `1.5s` or `20us`").map(Self)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    /// Parses `1GiB`, `500MB`, `64k`, `4096`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [
            ("", 1, 1),
            ("b", 1, 1),
            ("k", 1_000, 1),
            ("kb", 1_000, 1),
            ("kib", 1 << 10, 1),
            ("m", 1_000_000, 1),
            ("mb", 1_000_000, 1),
            ("mib", 1 << 20, 1),
            ("g", 1_000_000_000, 1),
            ("gb", 1_000_000_000, 1),
            ("gib", 1 << 30, 1),
        ];
        parse_with_units(text, &units, "a size such as `1GiB`, `500MB` or `4096`").map(Self)
    }
}

impl FromStr for BytesPerSec {
    type Err = UnitError;
    /// Parses network rates, in bits: `20mbit`, `1gbit`, `250kbit`, `5000bit`; and rates of
    /// memory, in bytes: `9.2 GB/s`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [
            ("bit", 1, 8),
            ("kbit", 1_000, 8),
            ("mbit", 1_000_000, 8),
            ("gbit", 1_000_000_000, 8),
            ("mb/s", 1_000_000, 1),
            ("gb/s", 1_000_000_000, 1),
        ];
        parse_with_units(text, &units, "a rate such as `20mbit` or `1gbit`").map(Self)
    }
}

impl FromStr for MacsPerSec {
    type Err = UnitError;
    /// Parses `12.5 GMAC/s`, `800 MMAC/s`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [("mmac/s", 1_000_000, 1), ("gmac/s", 1_000_000_000, 1)];
        parse_with_units(text, &units, "a rate of work such as `12.5 GMAC/s`").map(Self)
    }
}

impl FromStr for Nanojoules {
    type Err = UnitError;
    /// Parses `3.1J`, `450mJ`, `20uJ`, `7nJ`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [("nj", 1, 1), ("uj", 1_000, 1), ("mj", 1_000_000, 1), ("j", 1_000_000_000, 1)];
        parse_with_units(text, &units, "an energy such as `450mJ` or `3.1J`").map(Self)
    }
}

impl FromStr for Microwatts {
    type Err = UnitError;
    /// Parses `6.4W`, `700mW`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [("uw", 1, 1), ("mw", 1_000, 1), ("w", 1_000_000, 1)];
        parse_with_units(text, &units, "a power such as `6.4W` or `700mW`").map(Self)
    }
}

impl FromStr for PicojoulesPerByte {
    type Err = UnitError;
    /// Parses `77nJ/bit`, `100nJ/byte`, `500pJ/byte`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let units = [
            ("pj/byte", 1, 1),
            ("nj/byte", 1_000, 1),
            ("uj/byte", 1_000_000, 1),
            ("pj/bit", 8, 1),
            ("nj/bit", 8_000, 1),
            ("uj/bit", 8_000_000, 1),
        ];
        parse_with_units(text, &units, "an energy per size such as `77nJ/bit` or `100nJ/byte`")
            .map(Self)
    }
}

impl FromStr for Money {
    type Err = UnitError;
    /// Parses an amount without its currency: `7.527`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_with_units(text, &[("", 1_000_000, 1)], "an amount such as `7.527`").map(Self)
    }
}

impl fmt::Display for Nanojoules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} nJ", self.0),
            1_000..1_000_000 => write!(f, "{:.1} uJ", self.0 as f64 / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} mJ", self.0 as f64 / 1e6),
            _ => write!(f, "{:.2} J", self.0 as f64 / 1e9),
        }
    }
}

impl fmt::Display for Microwatts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} uW", self.0),
            1_000..1_000_000 => write!(f, "{:.1} mW", self.0 as f64 / 1e3),
            _ => write!(f, "{:.2} W", self.0 as f64 / 1e6),
        }
    }
}

impl fmt::Display for Money {
    /// Without the currency: `165.594`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, millionths) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let text = format!("{millionths:06}");
        let fraction = text.trim_end_matches('0');
        write!(f, "{whole}.{fraction:0<2}")
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} ns", self.0),
            1_000..1_000_000 => write!(f, "{:.1} us", self.0 as f64 / 1e3),
            1_000_000..10_000_000_000 => write!(f, "{:.2} ms", self.0 as f64 / 1e6),
            _ => write!(f, "{:.2} s", self.0 as f64 / 1e9),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", self.0 as f64 / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} MB", self.0 as f64 / 1e6),
            _ => write!(f, "{:.2} GB", self.0 as f64 / 1e9),
        }
    }
}

impl fmt::Display for Macs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000_000 => write!(f, "{:.1} kMAC", self.0 as f64 / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} MMAC", self.0 as f64 / 1e6),
            _ => write!(f, "{:.2} GMAC", self.0 as f64 / 1e9),
        }
    }
}

impl fmt::Display for BytesPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Mbit/s", self.0 as f64 * 8.0 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_with_their_units() {
        assert_eq!("10ms".parse(), Ok(Nanos(10_000_000)));
        assert_eq!("1.5s".parse(), Ok(Nanos(1_500_000_000)));
        assert_eq!("1GiB".parse(), Ok(Bytes(1 << 30)));
        assert_eq!("0.5 MB".parse(), Ok(Bytes(500_000)));
        assert_eq!("20mbit".parse(), Ok(BytesPerSec(2_500_000)));
        assert_eq!("6.4W".parse(), Ok(Microwatts(6_400_000)));
        assert_eq!("77nJ/bit".parse(), Ok(PicojoulesPerByte(616_000)));
        assert_eq!("2.5 GB/s".parse(), Ok(BytesPerSec(2_500_000_000)));
        assert_eq!("12.5 GMAC/s".parse(), Ok(MacsPerSec(12_500_000_000)));
        assert_eq!("3.1J".parse(), Ok(Nanojoules(3_100_000_000)));
        assert_eq!("7.527".parse(), Ok(Money(7_527_000)));
        for (money, text) in [(165_594_000, "165.594"), (35_000_000, "35.00"), (500_000, "0.50")] {
            assert_eq!(Money(money).to_string(), text);
        }
        for bad in ["", "ms", "-1ms", "10", "1..5s", "10 parsecs", "99999999999999999999s"] {
            assert!(bad.parse::<Nanos>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_transfer_rounds_up_once() {
        assert_eq!(BytesPerSec(3).transfer_time(Bytes(1)), Nanos(333_333_334));
        assert_eq!(MacsPerSec(3).time(Macs(1)), Nanos(333_333_334));
        assert_eq!(BytesPerSec(0).transfer_time(Bytes(1)), Nanos(u64::MAX));
    }
}
