//! Exact time: every cost as an integer count of a common fraction of a nanosecond.
//!
//! Plans are compared before anything is rounded. With the scale `D`, a common multiple of all
//! denominators in play (rates, codec ratios, codec times per 1000 bytes), every cost times `D` is
//! an integer, and sums of them are compared exactly.

use super::{PlannerError, flow::Amount};
use crate::{
    cost::{Codec, Costs, TENSOR, link::Direction},
    dag::{Dag, Flow},
    evaluate::Setting,
    partition::{Hop, Mapping, derive_in_order},
    platform::DeviceId,
    profile::CodingTime,
    units::{Bytes, Nanos},
};

const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// Half of a finite total must stay below this.
const LIMIT: u128 = 1 << 120;

/// The common fractions: time is counted in 1/`time` nanoseconds, size in 1/`bytes` bytes.
pub(super) struct Scale {
    time: u128,
    bytes: u128,
}

/// What orders plans: exact time, then fewer stages, fewer bytes, the smaller mapping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) time: i128,
    pub(super) stages: usize,
    pub(super) bytes: i128,
    pub(super) mapping: Mapping,
}

impl Scale {
    /// The scale of a table; an error if exact sums would not fit 128 bits.
    pub(super) fn new(dag: &Dag, costs: &Costs) -> Result<Self, PlannerError> {
        let mut scale = Scale { time: 1, bytes: 1 };
        let directions = || costs.links().iter().flat_map(|link| [&link.up, &link.down]);
        for direction in directions() {
            scale.admit_time(NANOS_PER_SECOND, u128::from(direction.rate.0))?;
        }
        for codec in costs.codecs() {
            for direction in directions() {
                let den = u128::from(codec.den) * u128::from(direction.rate.0);
                scale.admit_time(NANOS_PER_SECOND * u128::from(codec.num), den)?;
            }
            let (num, den) = (u128::from(codec.num), u128::from(codec.den));
            scale.bytes = common_multiple(scale.bytes, den / gcd(num, den))?;
        }
        for half in halves(costs) {
            scale.admit_time(u128::from(half.per_kb_ns.0), 1000)?;
        }
        scale.check_total(dag, costs)?;
        Ok(scale)
    }

    fn admit_time(&mut self, num: u128, den: u128) -> Result<(), PlannerError> {
        if den > 0 {
            self.time = common_multiple(self.time, den / gcd(num, den))?;
        }
        Ok(())
    }

    /// Everything that a plan could ever add up stays below the limit.
    fn check_total(&self, dag: &Dag, costs: &Costs) -> Result<(), PlannerError> {
        let mut nanos = 0u128;
        for option in costs.devices().iter().flat_map(|device| &device.options) {
            nanos += u128::from(option.call.0);
            nanos += option.groups.iter().flatten().map(|time| u128::from(time.0)).sum::<u128>();
        }
        for input in costs.inputs() {
            nanos +=
                input.encode.iter().chain(&input.decode).map(|t| u128::from(t.0)).sum::<u128>();
        }
        let declared: u128 =
            dag.flows().iter().filter_map(|flow| flow.bytes).map(|b| u128::from(b.0)).sum();
        let inputs: u128 =
            costs.inputs().iter().filter_map(|input| input.bytes).map(|b| u128::from(b.0)).sum();
        let ratio = costs.codecs().iter().map(|codec| codec.num.div_ceil(codec.den)).max();
        let per_kb: u128 = halves(costs).map(|half| u128::from(half.per_kb_ns.0)).sum();
        nanos += halves(costs).map(|half| u128::from(half.fixed_ns.0)).sum::<u128>();
        let sent = (declared + inputs).checked_mul(u128::from(ratio.unwrap_or(1)) + 1);
        let sent = sent.ok_or(PlannerError::TooLarge)?;
        for link in costs.links() {
            for direction in [&link.up, &link.down] {
                let rate = u128::from(direction.rate.0.max(1));
                let transfer = sent.checked_mul(NANOS_PER_SECOND).ok_or(PlannerError::TooLarge)?;
                nanos += transfer / rate + 1;
                nanos += u128::from(direction.fixed.0) + u128::from(direction.delay.0);
            }
        }
        nanos += declared.checked_mul(per_kb).ok_or(PlannerError::TooLarge)? / 1000 + 1;
        let fits = |count: u128, scale: u128| count.checked_mul(scale).is_some_and(|n| n < LIMIT);
        match fits(nanos, self.time) && fits(sent, self.bytes) {
            true => Ok(()),
            false => Err(PlannerError::TooLarge),
        }
    }

    pub(super) fn nanos(&self, time: Nanos) -> Amount {
        Amount { time: i128::from(time.0) * self.time as i128, bytes: 0 }
    }

    /// F + delay of a message.
    pub(super) fn call(&self, direction: &Direction) -> Amount {
        self.nanos(direction.fixed + direction.delay)
    }

    /// Bytes that travel as they are.
    pub(super) fn raw(&self, direction: &Direction, size: Bytes) -> Amount {
        self.travel(direction, size, 1, 1)
    }

    /// Declared bytes that travel encoded: encoding, transfer and decoding, their fixed parts apart.
    pub(super) fn encoded(
        &self,
        direction: &Direction,
        codec: &Codec,
        coding: [CodingTime; 2],
        size: Bytes,
    ) -> Amount {
        let mut amount = self.travel(direction, size, codec.num, codec.den);
        for half in coding {
            // The scale makes this division exact.
            let each = u128::from(half.per_kb_ns.0) * self.time / 1000;
            amount.time += (u128::from(size.0) * each) as i128;
        }
        amount
    }

    fn travel(&self, direction: &Direction, size: Bytes, num: u64, den: u64) -> Amount {
        let (num, den, size) = (u128::from(num), u128::from(den), u128::from(size.0));
        if direction.rate.0 == 0 {
            return if size == 0 { Amount::ZERO } else { Amount::INFINITE };
        }
        let seconds = den * u128::from(direction.rate.0);
        let shared = gcd(NANOS_PER_SECOND * num, seconds);
        // The scale is a multiple of the reduced denominator.
        let each = NANOS_PER_SECOND * num / shared * (self.time / (seconds / shared));
        Amount {
            time: size.saturating_mul(each) as i128,
            bytes: (size * (num * self.bytes / den)) as i128,
        }
    }

    /// Nanoseconds of an exact time, rounded up; for printing bounds.
    pub(super) fn rounded(&self, time: i128) -> Nanos {
        let nanos = time.max(0).unsigned_abs().div_ceil(self.time);
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What orders a plan among others. The plan must be one that evaluation accepts.
    pub(super) fn key(&self, dag: &Dag, costs: &Costs, mapping: &Mapping, set: &Setting) -> Key {
        let partition = derive_in_order(dag, mapping, &set.order);
        let input = &costs.inputs()[set.input];
        let mut total = Amount::ZERO;
        let (mut used, mut crosses) = (false, false);
        for stage in &partition.stages {
            let at = stage.device.index();
            let option = &costs.device(stage.device).options[set.engines[at]];
            total += self.nanos(option.call);
            for &group in &stage.groups {
                total += self.nanos(option.groups[group.index()].unwrap_or_default());
            }
            let mut reads = stage.groups.iter().flat_map(|&group| &dag.group(group).reads);
            if reads.any(|&flow| dag.flow(flow).from.is_none()) {
                match stage.device {
                    DeviceId::SOURCE => used = true,
                    _ => total += self.nanos(input.decode[at]),
                }
            }
        }
        for hop in &partition.hops {
            crosses |= hop.message.iter().any(|&flow| dag.flow(flow).from.is_none());
            total += self.hop(dag, costs, hop, set);
        }
        let as_tensor = input.name == TENSOR;
        if used || crosses && as_tensor {
            total += self.nanos(costs.tensor_time());
        }
        if crosses && !as_tensor {
            total += self.nanos(input.encode[0]);
        }
        let stages = partition.stages.len();
        Key { time: total.time, stages, bytes: total.bytes, mapping: mapping.clone() }
    }

    fn hop(&self, dag: &Dag, costs: &Costs, hop: &Hop, set: &Setting) -> Amount {
        let (Some(there), Some(back)) =
            (costs.direction(hop.from, hop.to), costs.direction(hop.to, hop.from))
        else {
            return Amount::INFINITE;
        };
        let at = set.codecs[hop.from.index()];
        let (codec, input) = (&costs.codecs()[at], &costs.inputs()[set.input]);
        let coding = |device: DeviceId| costs.coding(device, set.engines[device.index()], at);
        let coding = [coding(hop.from).encode, coding(hop.to).decode];
        let mut total = self.call(there);
        let is_encoded = |flow: &&Flow| flow.from.is_some() && flow.encodable;
        if hop.message.iter().map(|&flow| dag.flow(flow)).any(|flow| is_encoded(&flow)) {
            coding.iter().for_each(|half| total += self.nanos(half.fixed_ns));
        }
        let mut input_sent = false;
        for flow in hop.message.iter().map(|&flow| dag.flow(flow)) {
            let size = flow.bytes.unwrap_or_default();
            total += match (flow.from, input.bytes) {
                (Some(_), _) if flow.encodable => self.encoded(there, codec, coding, size),
                (Some(_), _) => self.raw(there, size),
                (None, None) => self.raw(there, size),
                (None, Some(_)) if input_sent => Amount::ZERO,
                (None, Some(bytes)) => self.raw(there, bytes),
            };
            input_sent |= flow.from.is_none();
        }
        if !hop.returns.is_empty() {
            total += self.call(back);
        }
        for &flow in &hop.returns {
            total += self.raw(back, dag.flow(flow).bytes.unwrap_or_default());
        }
        total
    }
}

/// Every time of encoding or decoding there is.
fn halves(costs: &Costs) -> impl Iterator<Item = CodingTime> {
    let options = costs.devices().iter().flat_map(|device| &device.options);
    options.flat_map(|option| &option.coding).flat_map(|coding| [coding.encode, coding.decode])
}

fn common_multiple(a: u128, b: u128) -> Result<u128, PlannerError> {
    (a / gcd(a, b)).checked_mul(b).filter(|&n| n < LIMIT).ok_or(PlannerError::TooLarge)
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}
