//! The entropy code: bytes of a quantised value in as few bits as their frequencies allow.
//!
//! Activations are mostly zero, zeros stand together, and large values stand beside large ones. So
//! each byte is coded under one of a few frequency tables, chosen by how large its neighbours are:
//! the one before it and the one a row above. The coder is a range variant of asymmetric numeral
//! systems (J. Duda, arXiv:1311.2540) with a table per context and four independent states, which
//! keep a processor busy while each waits for its own last step. Nothing is lost: what comes out is
//! what went in, whatever it was.
//!
//! ```text
//! plain   │ 0 │ bytes as they are
//! coded   │ 1 │ centre │ shape │ tables, as bits │ 4 states, u32 │ last bytes │ words, u16 …
//!                        └ bit 0: centred by sign; from bit 1: contexts less one
//! ```
//!
//! A byte is first taken relative to the centre, the most frequent byte: as distance upwards, or
//! where there are bytes on both sides of it, alternately above and below. The first four quarters
//! of the bytes are one lane each, with a state of its own; the at most three bytes that are left
//! over stand as they are. All integers are little-endian.

use thiserror::Error;

mod bits;
mod tables;

use bits::{BitReader, BitWriter};
use tables::{CONTEXTS, Counts, Decoding, Encoding, Frequencies};

/// Bits of a frequency: those of a table sum to two to the power of this.
const SCALE: u32 = 11;

/// Sum of the frequencies of a table.
const TOTAL: u32 = 1 << SCALE;

/// States are at least this and below 2^31; every coder starts with it, and must end with it.
const LEAST: u32 = 1 << 15;

/// Independent states.
const LANES: usize = 4;

/// Fewer bytes than this stay as they are: the tables would be longer.
const FEWEST: usize = 64;

/// What a code begins with.
const PLAIN: u8 = 0;
const CODED: u8 = 1;

/// A code that was made by no encoder, or for another length.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EntropyError {
    /// It ends early.
    #[error("the entropy code ends after {bytes} bytes, before {what}")]
    Short {
        /// Bytes that there are.
        bytes: usize,
        /// What is missing.
        what: &'static str,
    },
    /// It contradicts itself.
    #[error("the entropy code is damaged: {0}")]
    Damaged(&'static str),
    /// It stands for another number of bytes.
    #[error("the entropy code holds {found} bytes where {wanted} were expected")]
    Length {
        /// Bytes in it.
        found: usize,
        /// Bytes that were asked for.
        wanted: usize,
    },
}

/// The code of these bytes; `row` is the size of the last axis, across which neighbours above each
/// other lie. Never longer than the bytes by more than one. O(bytes).
pub fn encode(bytes: &[u8], row: usize) -> Vec<u8> {
    let plain = || [&[PLAIN], bytes].concat();
    if bytes.len() < FEWEST {
        return plain();
    }
    let coded = code(bytes, row);
    if coded.len() < bytes.len() { coded } else { plain() }
}

/// The `len` bytes of a code that was made with the same `row`. Reserves memory for `len` bytes and
/// for the code's own length, never for what the code says. O(len).
pub fn decode(code: &[u8], len: usize, row: usize) -> Result<Vec<u8>, EntropyError> {
    match code.split_first() {
        None => Err(EntropyError::Short { bytes: 0, what: "its kind" }),
        Some((&PLAIN, bytes)) if bytes.len() == len => Ok(bytes.to_vec()),
        Some((&PLAIN, bytes)) => Err(EntropyError::Length { found: bytes.len(), wanted: len }),
        Some((&CODED, rest)) => decode_coded(rest, len, row),
        Some(_) => Err(EntropyError::Damaged("its kind is not known")),
    }
}

/// How bytes become distances from the most frequent one; always reversible.
#[derive(Clone, Copy, Debug)]
struct Centre {
    byte: u8,
    by_sign: bool,
}

impl Centre {
    /// From every eighth byte: an unlucky choice costs length, not truth.
    fn of(bytes: &[u8]) -> Self {
        let mut counts = [0u32; 256];
        for &byte in bytes.iter().step_by(8) {
            counts[usize::from(byte)] += 1;
        }
        let most = (0..=255u8).max_by_key(|&byte| (counts[usize::from(byte)], !byte));
        let byte = most.unwrap_or_default();
        let below = counts[..usize::from(byte)].iter().any(|&count| count > 0);
        Self { byte, by_sign: below }
    }

    fn fold(self, byte: u8) -> u8 {
        let distance = byte.wrapping_sub(self.byte);
        match self.by_sign {
            true => (distance << 1) ^ ((distance as i8) >> 7) as u8,
            false => distance,
        }
    }

    fn unfold(self, folded: u8) -> u8 {
        let distance = match self.by_sign {
            true => (folded >> 1) ^ (folded & 1).wrapping_neg(),
            false => folded,
        };
        distance.wrapping_add(self.byte)
    }
}

/// Four lanes of equal length, each behind a row of zeros so that every byte has neighbours.
struct Lanes {
    bytes: Vec<u8>,
    row: usize,
    len: usize,
}

impl Lanes {
    fn new(total: usize, row: usize) -> Self {
        let len = total / LANES;
        let row = if (1..=len).contains(&row) { row } else { 1 };
        Self { bytes: vec![0; LANES * (row + len)], row, len }
    }

    /// Each lane with the row in front of it.
    fn each(&self) -> [&[u8]; LANES] {
        let (first, second) = self.bytes.split_at(2 * (self.row + self.len));
        let (a, b) = first.split_at(self.row + self.len);
        let (c, d) = second.split_at(self.row + self.len);
        [a, b, c, d]
    }

    fn each_mut(&mut self) -> [&mut [u8]; LANES] {
        let (first, second) = self.bytes.split_at_mut(2 * (self.row + self.len));
        let (a, b) = first.split_at_mut(self.row + self.len);
        let (c, d) = second.split_at_mut(self.row + self.len);
        [a, b, c, d]
    }
}

/// How large two neighbours are, in powers of two.
fn context(before: u8, above: u8) -> usize {
    let sum = u32::from(before) + u32::from(above);
    ((u32::BITS - sum.leading_zeros()) as usize).min(CONTEXTS - 1)
}

fn code(bytes: &[u8], row: usize) -> Vec<u8> {
    let centre = Centre::of(bytes);
    let mut lanes = Lanes::new(bytes.len(), row);
    let (row, len) = (lanes.row, lanes.len);
    let (body, tail) = bytes.split_at(LANES * len);
    for (lane, source) in lanes.each_mut().into_iter().zip(body.chunks_exact(len)) {
        for (to, &from) in lane[row..].iter_mut().zip(source) {
            *to = centre.fold(from);
        }
    }
    let counts = Counts::of(lanes.each().map(|lane| Neighbours::of(lane, row)));
    let frequencies: Vec<Frequencies> = counts.tables();
    let encoding = Encoding::new(&frequencies);
    let (states, words) = push_all(&lanes, &encoding);

    let shape = u8::from(centre.by_sign) | (frequencies.len() as u8 - 1) << 1;
    let mut header = BitWriter::default();
    frequencies.iter().for_each(|table| table.write(&mut header));
    let mut code = vec![CODED, centre.byte, shape];
    code.extend(header.finish());
    code.extend(states.iter().flat_map(|state| state.to_le_bytes()));
    code.extend(tail);
    let at = code.len();
    code.resize(at + 2 * words.len(), 0);
    for (to, word) in code[at..].chunks_exact_mut(2).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    code
}

/// The bytes of a lane, each with the one before and the one above.
#[derive(Clone, Copy)]
struct Neighbours<'a> {
    own: &'a [u8],
    before: &'a [u8],
    above: &'a [u8],
}

impl<'a> Neighbours<'a> {
    fn of(lane: &'a [u8], row: usize) -> Self {
        let len = lane.len() - row;
        Self { own: &lane[row..][..len], before: &lane[row - 1..][..len], above: &lane[..len] }
    }
}

/// The four states after all bytes, and the words in the order in which they are read.
fn push_all(lanes: &Lanes, encoding: &Encoding) -> ([u32; LANES], Vec<u16>) {
    let each = lanes.each().map(|lane| Neighbours::of(lane, lanes.row));
    // At most one word a byte, and one place that is written to while nothing is due.
    let mut words = vec![0u16; LANES * lanes.len + 1];
    let mut at = words.len();
    let mut states = [LEAST; LANES];
    for i in (0..lanes.len).rev() {
        for (state, lane) in states.iter_mut().zip(&each).rev() {
            let symbol = encoding.symbol(context(lane.before[i], lane.above[i]), lane.own[i]);
            let due = *state >= symbol.limit;
            words[at - 1] = *state as u16;
            at -= usize::from(due);
            let state_now = if due { *state >> 16 } else { *state };
            *state = symbol.push(state_now);
        }
    }
    (states, words.split_off(at))
}

fn decode_coded(code: &[u8], len: usize, row: usize) -> Result<Vec<u8>, EntropyError> {
    let short = |what| EntropyError::Short { bytes: code.len() + 1, what };
    let (&[centre, shape], rest) = code.split_first_chunk().ok_or(short("its shape"))?;
    let centre = Centre { byte: centre, by_sign: shape & 1 == 1 };
    let contexts = usize::from(shape >> 1) + 1;
    if contexts > CONTEXTS {
        return Err(EntropyError::Damaged("it has too many tables"));
    }
    let mut bits = BitReader::new(rest);
    let tables: Option<Vec<Frequencies>> =
        (0..contexts).map(|_| Frequencies::read(&mut bits)).collect();
    let tables = tables.ok_or(EntropyError::Damaged("a table of frequencies is none"))?;
    let mut rest = bits.rest();
    let mut states = [0u32; LANES];
    for state in &mut states {
        let (bytes, after) = rest.split_first_chunk().ok_or(short("its states"))?;
        *state = u32::from_le_bytes(*bytes);
        if !(LEAST..1 << 31).contains(state) {
            return Err(EntropyError::Damaged("a state is out of range"));
        }
        rest = after;
    }
    let (tail, words) = rest.split_at_checked(len % LANES).ok_or(short("its last bytes"))?;
    let (words, odd) = words.as_chunks::<2>();
    if !odd.is_empty() || words.len() > len {
        return Err(EntropyError::Damaged("its words do not fit its length"));
    }
    let words: Vec<u16> = words.iter().map(|&word| u16::from_le_bytes(word)).collect();
    let mut lanes = Lanes::new(len, row);
    let is_whole = pull_all(&mut lanes, states, &words, &Decoding::new(&tables));
    if !is_whole {
        return Err(EntropyError::Damaged("its words do not end where its bytes do"));
    }
    let mut bytes = Vec::with_capacity(len);
    for lane in lanes.each() {
        bytes.extend(lane[lanes.row..].iter().map(|&folded| centre.unfold(folded)));
    }
    bytes.extend_from_slice(tail);
    Ok(bytes)
}

/// Decodes every lane; whether states and words came out as an encoder leaves them.
fn pull_all(
    lanes: &mut Lanes,
    mut states: [u32; LANES],
    words: &[u16],
    decoding: &Decoding,
) -> bool {
    let (row, len) = (lanes.row, lanes.len);
    let mut at = 0;
    let mut each = lanes.each_mut();
    for i in 0..len {
        for (state, lane) in states.iter_mut().zip(&mut each) {
            let here = context(lane[row + i - 1], lane[i]);
            let (byte, next) = decoding.pull(here, *state);
            lane[row + i] = byte;
            let word = words.get(at).copied().unwrap_or_default();
            let due = next < LEAST;
            *state = if due { next << 16 | u32::from(word) } else { next };
            at += usize::from(due);
        }
    }
    at == words.len() && states == [LEAST; LANES]
}

#[cfg(test)]
mod tests;
