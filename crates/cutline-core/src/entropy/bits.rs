//! Bits of the tables in front of a code, the highest bit of a byte first.

/// Longest run of zeros in front of a number: none is above 2^12.
const LONGEST: u32 = 12;

/// Bits that become bytes.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn bit(&mut self, bit: bool) {
        if self.used == 0 {
            self.bytes.push(0);
        }
        if let (true, Some(last)) = (bit, self.bytes.last_mut()) {
            *last |= 0x80 >> self.used;
        }
        self.used = (self.used + 1) % 8;
    }

    /// The lowest `count` bits of a number.
    pub(super) fn bits(&mut self, value: u32, count: u32) {
        (0..count).rev().for_each(|at| self.bit(value >> at & 1 == 1));
    }

    /// A number from 1 in Elias' gamma code: as many zeros as it has bits after its first.
    pub(super) fn gamma(&mut self, value: u32) {
        let after = value.ilog2();
        self.bits(0, after);
        self.bits(value, after + 1);
    }

    /// All bytes, the last filled up with zeros.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The way back; every read is `None` behind the end.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = u32::from(byte) >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit)
    }

    pub(super) fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    pub(super) fn gamma(&mut self) -> Option<u32> {
        let mut after = 0;
        while self.bit()? == 0 {
            after += 1;
            if after > LONGEST {
                return None;
            }
        }
        Some(1 << after | self.bits(after)?)
    }

    /// What stands behind the byte that was read last.
    pub(super) fn rest(self) -> &'a [u8] {
        self.bytes.get(self.at.div_ceil(8)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_ends_are_noticed() {
        let mut writer = BitWriter::default();
        for value in 1..=2049 {
            writer.gamma(value);
            writer.bits(value & 7, 3);
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        for value in 1..=2049 {
            assert_eq!((reader.gamma(), reader.bits(3)), (Some(value), Some(value & 7)));
        }
        assert!(reader.rest().is_empty());
        assert_eq!(BitReader::new(&[0, 0, 0]).gamma(), None);
        assert_eq!(BitReader::new(&[]).bits(1), None);
        assert_eq!(BitReader::new(&[0]).gamma(), None);
    }
}
