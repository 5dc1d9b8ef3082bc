//! What a plan needs of energy for a frame, and of money for a month.
//!
//! Both are sums over devices and over the two ends of messages; each is rounded up once per device
//! and once per message and end. Idle power is part of a device's energy where it counts
//! ([`Costs::count_idle`]).

use super::{Evaluation, Part, PartKind, Setting};
use crate::{
    cost::{Costs, DeviceCosts, LinkCosts},
    dag::GroupId,
    partition::Partition,
    platform::DeviceId,
    units::{Bytes, Money, Nanojoules, Nanos},
};

/// Seconds of a month: 730 hours.
const MONTH_SECONDS: u128 = 730 * 3600;
const NANOJOULES_PER_KWH: u128 = 3_600_000_000_000_000;
const MILLION: u128 = 1_000_000;

/// Energy of one device for a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnergyUse {
    /// The device.
    pub device: DeviceId,
    /// Its computing, its share of the messages, and its waiting where that counts.
    pub energy: Nanojoules,
    /// How much of that it takes for waiting.
    pub idle: Nanojoules,
}

/// What a device does for a frame, as far as its energy depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// For how long.
    pub(crate) busy: Nanos,
    /// The part of that whose energy is given, and that energy.
    pub(crate) given_time: Nanos,
    pub(crate) given: Nanojoules,
}

/// What is rented of one device so that all users are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rented {
    /// The device.
    pub device: DeviceId,
    /// How many of it.
    pub instances: u64,
    /// Rent of all of them for a month.
    pub rent: Money,
}

/// What a device does that is busy for a time in which it runs these groups; `None` where neither its
/// power nor the energy of all of them is known. Without a power, what is not a group is free.
fn work(device: &DeviceCosts, option: usize, groups: &[GroupId], busy: Nanos) -> Option<Work> {
    let times = &device.options[option].groups;
    let mut work = Work { busy, ..Work::default() };
    let mut all_given = !device.group_energy.is_empty();
    for group in groups.iter().map(|group| group.index()) {
        match device.group_energy.get(group).copied().flatten() {
            Some(energy) => {
                work.given += energy;
                work.given_time += times[group].unwrap_or_default();
            }
            None => all_given = false,
        }
    }
    (device.power.is_some() || all_given).then_some(work)
}

/// Energy of what a device does for a frame, and of its waiting for the next where an interval is
/// given. With [`Costs::count_idle`]'s figures it is never less for a device that does more.
pub(crate) fn device_energy(
    costs: &Costs,
    id: DeviceId,
    interval: Option<Nanos>,
    Work { busy, given_time, given }: Work,
) -> Nanojoules {
    let device = costs.device(id);
    let power = device.power.unwrap_or_default();
    let (Some(interval), Some(idle)) = (interval, device.idle_power) else {
        return given + power.energy(busy - given_time);
    };
    let share = interval_share(costs, id, interval, busy);
    let active = u128::from(power.0) * u128::from((busy - given_time).0);
    let waiting = u128::from(idle.0) * u128::from((share - busy).0);
    given + nanojoules_of((active + waiting).div_ceil(MILLION))
}

/// For how long a frame has a device: from it to the next of its source, or of the instances that
/// are rented for all users the share of one.
fn interval_share(costs: &Costs, id: DeviceId, interval: Nanos, busy: Nanos) -> Nanos {
    let rented = costs.device(id).price.rent.and_then(|_| instances(costs, id, busy));
    match (rented, costs.workload()) {
        (Some(instances), Some(workload)) => {
            let all = u128::from(interval.0).saturating_mul(instances);
            let share = all.div_ceil(u128::from(workload.users.max(1)));
            Nanos(u64::try_from(share).unwrap_or(u64::MAX))
        }
        _ => interval,
    }
}

/// Energy of the sender and of the receiver of a message.
pub(crate) fn message_energy(link: &LinkCosts, back: bool, bytes: Bytes) -> [Nanojoules; 2] {
    let [first, second] = link.energy.map(|energy| energy.energy(bytes));
    if back { [second, first] } else { [first, second] }
}

/// Groups and busy time of every device that does anything; the source is one wherever it idles.
fn by_device(
    costs: &Costs,
    partition: &Partition,
    parts: &[Part],
) -> Vec<(DeviceId, Vec<GroupId>, Nanos)> {
    let mut devices: Vec<(DeviceId, Vec<GroupId>, Nanos)> = Vec::new();
    if costs.frame_interval().is_some() {
        devices.push((DeviceId::SOURCE, Vec::new(), Nanos::ZERO));
    }
    let at = |devices: &mut Vec<(DeviceId, Vec<GroupId>, Nanos)>, device| {
        let position = devices.iter().position(|(known, ..)| *known == device);
        position.unwrap_or_else(|| {
            devices.push((device, Vec::new(), Nanos::ZERO));
            devices.len() - 1
        })
    };
    for stage in &partition.stages {
        let position = at(&mut devices, stage.device);
        devices[position].1.extend(&stage.groups);
    }
    for part in parts {
        let position = at(&mut devices, part.device);
        if part.to.is_none() {
            devices[position].2 += part.nanos;
        }
    }
    devices
}

/// Energy of every device that does anything, where frames come in this interval; `None` where a
/// power is not known.
pub(super) fn energy(
    costs: &Costs,
    partition: &Partition,
    setting: &Setting,
    parts: &[Part],
    interval: Option<Nanos>,
) -> Option<Vec<EnergyUse>> {
    let mut uses = Vec::new();
    for (id, groups, busy) in by_device(costs, partition, parts) {
        let work = work(costs.device(id), setting.engines[id.index()], &groups, busy)?;
        let energy = device_energy(costs, id, interval, work);
        let idle = energy - device_energy(costs, id, None, work);
        uses.push(EnergyUse { device: id, energy, idle });
    }
    for (part, to, (link, back)) in messages(costs, parts) {
        for (device, energy) in
            [part.device, to].into_iter().zip(message_energy(link, back, part.bytes))
        {
            match uses.iter_mut().find(|used| used.device == device) {
                Some(used) => used.energy += energy,
                None => uses.push(EnergyUse { device, energy, idle: Nanojoules::ZERO }),
            }
        }
    }
    uses.sort_by_key(|used| used.device);
    Some(uses)
}

fn messages<'a>(
    costs: &'a Costs,
    parts: &'a [Part],
) -> impl Iterator<Item = (&'a Part, DeviceId, (&'a LinkCosts, bool))> {
    let sent = parts.iter().filter(|p| matches!(p.kind, PartKind::Send | PartKind::Return));
    sent.filter_map(|part| {
        let to = part.to?;
        Some((part, to, costs.link(part.device, to)?))
    })
}

/// Rent, purchase and electricity of all users for a month.
pub(super) fn money(
    costs: &Costs,
    partition: &Partition,
    setting: &Setting,
    parts: &[Part],
    interval: Option<Nanos>,
) -> Option<Money> {
    costs.workload()?;
    let devices = by_device(costs, partition, parts);
    let mut total = Money::ZERO;
    if !devices.iter().any(|(id, ..)| *id == DeviceId::SOURCE) {
        total += device_money(costs, DeviceId::SOURCE, Nanos::ZERO)?;
    }
    for (id, groups, busy) in devices {
        total += device_money(costs, id, busy)?;
        let work = work(costs.device(id), setting.engines[id.index()], &groups, busy);
        let energy = work.map(|work| device_energy(costs, id, interval, work));
        total += electricity(costs, id, energy.unwrap_or_default());
    }
    for (part, to, (link, back)) in messages(costs, parts) {
        let ends = [part.device, to].into_iter().zip(message_energy(link, back, part.bytes));
        total += ends.map(|(device, energy)| electricity(costs, device, energy)).sum();
    }
    Some(total)
}

/// Rent and purchase of a device that is busy this long for every frame: instances for all users,
/// and one bought for each user; `None` where neither the users of an instance nor the rate of
/// frames is known.
pub(crate) fn device_money(costs: &Costs, id: DeviceId, busy: Nanos) -> Option<Money> {
    let workload = costs.workload()?;
    let price = &costs.device(id).price;
    let mut total = Money::ZERO;
    if let (Some(_), true) = (price.rent, busy > Nanos::ZERO) {
        total += rented(costs, id, busy)?.rent;
    }
    if let (Some(purchase), Some(months)) = (price.purchase, price.life_months) {
        let all = u128::from(purchase.0) * u128::from(workload.users);
        total += money_of(all.div_ceil(u128::from(months.max(1))));
    }
    Some(total)
}

/// What a plan rents of each device that has a rent: instances for all users, and their rent for a
/// month. Devices that do nothing are not rented; `None` where the users of an instance can not be
/// told, or nobody is served.
pub fn rents(costs: &Costs, evaluation: &Evaluation) -> Option<Vec<Rented>> {
    let busy = |id: DeviceId| -> Nanos {
        let here = evaluation.parts.iter().filter(|part| part.to.is_none() && part.device == id);
        here.map(|part| part.nanos).sum()
    };
    let is_rented =
        |id: &DeviceId| costs.device(*id).price.rent.is_some() && busy(*id) > Nanos::ZERO;
    costs.device_ids().filter(is_rented).map(|id| rented(costs, id, busy(id))).collect()
}

/// What the money of a plan for a month is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Rent of all instances.
    pub rent: Money,
    /// Purchase of every device used, the source included, by its months of life.
    pub purchase: Money,
    /// Electricity of what is not rented.
    pub electricity: Money,
}

/// [`Evaluation::money`] in its parts; `None` where it is not known.
pub fn bill(costs: &Costs, evaluation: &Evaluation) -> Option<Bill> {
    let total = evaluation.money?;
    let rent: Money = rents(costs, evaluation)?.iter().map(|rented| rented.rent).sum();
    let is_used = |id: &DeviceId| {
        *id == DeviceId::SOURCE
            || evaluation.memory.iter().any(|used| used.device == *id)
            || evaluation.parts.iter().any(|part| part.device == *id)
    };
    // What is idle for a frame costs no rent, so that its purchase remains.
    let bought = costs.device_ids().filter(is_used);
    let purchase = bought.map(|id| device_money(costs, id, Nanos::ZERO)).sum::<Option<Money>>()?;
    Some(Bill { rent, purchase, electricity: total - rent - purchase })
}

/// What a rented device costs that is busy this long for every frame.
fn rented(costs: &Costs, device: DeviceId, busy: Nanos) -> Option<Rented> {
    let rent = costs.device(device).price.rent?;
    let instances = instances(costs, device, busy)?;
    let rent = money_of(u128::from(rent.0).saturating_mul(instances));
    Some(Rented { device, instances: u64::try_from(instances).unwrap_or(u64::MAX), rent })
}

/// Instances for all users of a device that is busy this long for every frame; `None` where that
/// can not be told.
fn instances(costs: &Costs, device: DeviceId, busy: Nanos) -> Option<u128> {
    let workload = costs.workload()?;
    match (costs.device(device).price.users_per_instance, workload.frames_per_megasecond) {
        (Some(users), _) => Some(u128::from(workload.users.div_ceil(users.max(1)))),
        (None, Some(frames)) => Some(instances_by_load(workload.users, frames, busy)),
        (None, None) => None,
    }
}

/// As many users on one as its time allows, or several for each user.
fn instances_by_load(users: u64, frames_per_megasecond: u64, busy: Nanos) -> u128 {
    let megasecond = 1_000_000 * MILLION * 1_000;
    let load = u128::from(frames_per_megasecond) * u128::from(busy.0);
    match megasecond / load.max(1) {
        0 => u128::from(users) * load.div_ceil(megasecond),
        per_instance => u128::from(users).div_ceil(per_instance),
    }
}

/// Electricity of all users for a month, where a frame takes this energy on a device that is not
/// rented.
pub(crate) fn electricity(costs: &Costs, id: DeviceId, energy: Nanojoules) -> Money {
    let Some(workload) = costs.workload() else { return Money::ZERO };
    let (Some(frames), Some(price), None) =
        (workload.frames_per_megasecond, workload.electricity, costs.device(id).price.rent)
    else {
        return Money::ZERO;
    };
    let frames = u128::from(frames) * u128::from(workload.users) * MONTH_SECONDS;
    // Frames are counted in millionths here, and so is money.
    let kwh_parts = frames.saturating_mul(u128::from(energy.0)) / MILLION;
    money_of(kwh_parts.saturating_mul(u128::from(price.0)).div_ceil(NANOJOULES_PER_KWH))
}

fn nanojoules_of(amount: u128) -> Nanojoules {
    Nanojoules(u64::try_from(amount).unwrap_or(u64::MAX))
}

fn money_of(millionths: u128) -> Money {
    Money(u64::try_from(millionths).unwrap_or(u64::MAX))
}
