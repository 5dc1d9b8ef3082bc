//! Frequencies of bytes by context, and the tables that coding looks them up in.

use super::{
    LANES, LEAST, Neighbours, SCALE, TOTAL,
    bits::{BitReader, BitWriter},
    context,
};

/// Most contexts.
pub(super) const CONTEXTS: usize = 6;

/// How often each byte stands in each context.
pub(super) struct Counts(Vec<[u32; 256]>);

impl Counts {
    /// Over all lanes, each counted for itself: a byte that repeats would wait for its own counter.
    pub(super) fn of(lanes: [Neighbours; LANES]) -> Self {
        let mut each = vec![[0u32; 256]; LANES * CONTEXTS];
        for (lane, counts) in lanes.iter().zip(each.chunks_exact_mut(CONTEXTS)) {
            for ((&own, &before), &above) in lane.own.iter().zip(lane.before).zip(lane.above) {
                counts[context(before, above)][usize::from(own)] += 1;
            }
        }
        let mut sums = each.split_off((LANES - 1) * CONTEXTS);
        for lane in each.chunks_exact(CONTEXTS) {
            sums.iter_mut().zip(lane).for_each(|(sum, counts)| add(sum, counts));
        }
        Self(sums)
    }

    /// A table for each context; contexts of large neighbours share the last one where tables of
    /// their own would take more than they save.
    pub(super) fn tables(self) -> Vec<Frequencies> {
        let Self(mut counts) = self;
        let mut costs: Vec<f32> = counts.iter().map(cost).collect();
        while let [.., second, last] = &counts[..] {
            let mut merged = *second;
            add(&mut merged, last);
            let joint = cost(&merged);
            let apart: f32 = costs[counts.len() - 2..].iter().sum();
            if joint > apart {
                break;
            }
            counts.pop();
            costs.pop();
            if let (Some(counts), Some(cost)) = (counts.last_mut(), costs.last_mut()) {
                (*counts, *cost) = (merged, joint);
            }
        }
        counts.iter().map(Frequencies::of).collect()
    }
}

fn add(sum: &mut [u32; 256], counts: &[u32; 256]) {
    sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

/// About as many bits as a context takes with a table of its own, the table included.
fn cost(counts: &[u32; 256]) -> f32 {
    let all: u32 = counts.iter().sum();
    let Some(last) = counts.iter().rposition(|&count| count > 0) else { return 1.0 };
    let all_log = (all as f32).log2();
    let bits = |&count: &u32| match count {
        0 => 1.0,
        _ => {
            let log = (count as f32).log2();
            let frequency = (log - all_log + SCALE as f32).max(0.0);
            count as f32 * (all_log - log) + 2.0 * frequency + 2.0
        }
    };
    9.0 + counts[..=last].iter().map(bits).sum::<f32>()
}

/// Frequencies of the bytes of a context; they sum to [`TOTAL`].
pub(super) struct Frequencies([u16; 256]);

impl Frequencies {
    /// In proportion to the counts, none of a byte that occurs below one.
    fn of(counts: &[u32; 256]) -> Self {
        let all: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let mut table = [0u16; 256];
        if all == 0 {
            table[0] = TOTAL as u16;
            return Self(table);
        }
        let mut sum = 0i32;
        for (frequency, &count) in table.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
            let share = (u64::from(count) * u64::from(TOTAL) + all / 2) / all;
            *frequency = share.max(1) as u16;
            sum += i32::from(*frequency);
        }
        // What rounding left is taken from, or given to, the most frequent, which notice it least.
        let mut left = TOTAL as i32 - sum;
        while left != 0 {
            let Some(most) = table.iter_mut().max_by_key(|frequency| **frequency) else { break };
            let step = left.max(-(i32::from(*most) / 2));
            *most = (i32::from(*most) + step) as u16;
            left -= step;
        }
        Self(table)
    }

    /// The last byte that occurs, then each frequency up to it; one bit where only zero occurs.
    pub(super) fn write(&self, writer: &mut BitWriter) {
        let last = self.0.iter().rposition(|&frequency| frequency > 0).unwrap_or_default();
        if last == 0 {
            return writer.bits(0, 1);
        }
        writer.bits(1, 1);
        writer.bits(last as u32, 8);
        self.0[..=last].iter().for_each(|&frequency| writer.gamma(u32::from(frequency) + 1));
    }

    /// `None` where what was written is no table.
    pub(super) fn read(reader: &mut BitReader) -> Option<Self> {
        let mut table = [0u16; 256];
        if reader.bits(1)? == 0 {
            table[0] = TOTAL as u16;
            return Some(Self(table));
        }
        let last = reader.bits(8)? as usize;
        let mut sum = 0;
        for frequency in &mut table[..=last] {
            let value = reader.gamma()? - 1;
            sum += value;
            *frequency = u16::try_from(value).ok()?;
        }
        (sum == TOTAL).then_some(Self(table))
    }
}

/// What encoding a byte needs, so that nothing is divided.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Symbol {
    /// From here on a state gives off a word first.
    pub(super) limit: u32,
    reciprocal: u32,
    shift: u32,
    start: u32,
    rest: u32,
}

impl Symbol {
    fn new(start: u32, frequency: u32) -> Self {
        // Exact for every state below 2^31: the reciprocal is too large by less than
        // frequency / 2^shift, and frequency is at most 2^shift.
        let shift = frequency.next_power_of_two().trailing_zeros();
        let reciprocal = (1u64 << (31 + shift)).div_ceil(u64::from(frequency));
        Self {
            limit: frequency << (16 + LEAST.trailing_zeros() - SCALE),
            reciprocal: reciprocal as u32,
            shift: 31 + shift,
            start,
            rest: TOTAL - frequency,
        }
    }

    /// The state with this byte on top.
    pub(super) fn push(&self, state: u32) -> u32 {
        let times = (u64::from(state) * u64::from(self.reciprocal)) >> self.shift;
        state.wrapping_add(self.start).wrapping_add((times as u32).wrapping_mul(self.rest))
    }
}

/// Symbols by context and byte.
pub(super) struct Encoding(Box<[[Symbol; 256]; CONTEXTS]>);

impl Encoding {
    pub(super) fn new(tables: &[Frequencies]) -> Self {
        let mut symbols = Box::new([[Symbol::default(); 256]; CONTEXTS]);
        for (at, symbols) in symbols.iter_mut().enumerate() {
            let Some(table) = tables.get(at).or(tables.last()) else { continue };
            let mut start = 0;
            for (symbol, &frequency) in symbols.iter_mut().zip(&table.0) {
                if frequency > 0 {
                    *symbol = Symbol::new(start, u32::from(frequency));
                }
                start += u32::from(frequency);
            }
        }
        Self(symbols)
    }

    pub(super) fn symbol(&self, context: usize, byte: u8) -> &Symbol {
        &self.0[context][usize::from(byte)]
    }
}

/// By context and low bits of the state: byte, frequency less one, and place within it.
pub(super) struct Decoding(Box<[[u32; TOTAL as usize]; CONTEXTS]>);

impl Decoding {
    pub(super) fn new(tables: &[Frequencies]) -> Self {
        let mut slots = Box::new([[0u32; TOTAL as usize]; CONTEXTS]);
        for at in 0..CONTEXTS {
            let Some(table) = tables.get(at) else {
                slots[at] = slots[at.saturating_sub(1)];
                continue;
            };
            let mut free = slots[at].iter_mut();
            for (byte, &frequency) in (0u32..).zip(&table.0) {
                for (place, slot) in (0..u32::from(frequency)).zip(&mut free) {
                    *slot = byte << 24 | (u32::from(frequency) - 1) << SCALE | place;
                }
            }
        }
        Self(slots)
    }

    /// The byte on top of a state, and the state below it.
    pub(super) fn pull(&self, context: usize, state: u32) -> (u8, u32) {
        let slot = self.0[context][(state % TOTAL) as usize];
        let frequency = (slot >> SCALE) % TOTAL + 1;
        ((slot >> 24) as u8, frequency * (state >> SCALE) + slot % TOTAL)
    }
}
