//! What work adds to the energy of a device that would wait otherwise.
//!
//! Where idle power counts, work takes the place of waiting: it adds what it takes above idle. Of work
//! whose energy is given a label carries just that, in femtojoule, so that carrying less never means
//! costing more: a device of which less is given may have waited for longer. Where idle power does
//! not count, what is carried is the given energy itself, in nanojoule.

use crate::{
    cost::Costs,
    evaluate::{Work, device_energy},
    platform::DeviceId,
    units::{Microwatts, Nanojoules, Nanos},
};

/// Femtojoules, which are microwatts times nanoseconds, in a nanojoule.
const MILLION: u128 = 1_000_000;

/// What is carried of the given energy of some work; it adds up over the work of a device.
pub(super) fn carried(costs: &Costs, device: DeviceId, work: Work) -> u64 {
    let Some(idle) = idle(costs, device) else { return work.given.0 };
    let waited = u128::from(idle.0) * u128::from(work.given_time.0);
    // Never below, as `Costs::count_idle` has checked of every group.
    u64::try_from((u128::from(work.given.0) * MILLION).saturating_sub(waited)).unwrap_or(u64::MAX)
}

/// The given energy that is carried of work in so much time.
pub(super) fn given(
    costs: &Costs,
    device: DeviceId,
    given_time: Nanos,
    carried: u64,
) -> Nanojoules {
    let Some(idle) = idle(costs, device) else { return Nanojoules(carried) };
    let all = u128::from(carried) + u128::from(idle.0) * u128::from(given_time.0);
    Nanojoules(u64::try_from(all / MILLION).unwrap_or(u64::MAX))
}

/// What work adds at least to a device's energy: a time that its power counts for, and what is carried
/// of the rest. Rounded down, so that sums of such are never more than their sum rounded up.
pub(super) fn least(costs: &Costs, device: DeviceId, powered: Nanos, carried: u64) -> u64 {
    let power = costs.device(device).power.unwrap_or_default();
    match idle(costs, device) {
        Some(idle) => {
            let above = u128::from((power - idle).0) * u128::from(powered.0);
            u64::try_from((u128::from(carried) + above) / MILLION).unwrap_or(u64::MAX)
        }
        None => carried.saturating_add(power.energy(powered).0.saturating_sub(1)),
    }
}

/// What a device of a plan takes at least however little it does beyond being busy for so long, with
/// what its work adds left out.
pub(super) fn standing(costs: &Costs, device: DeviceId, busy: Nanos) -> u64 {
    let Some(idle) = idle(costs, device) else { return 0 };
    let waits = Work { busy, ..Work::default() };
    let all = device_energy(costs, device, costs.frame_interval(), waits).0;
    let power = costs.device(device).power.unwrap_or_default();
    all.saturating_sub((power - idle).energy(busy).0 + 1)
}

/// Idle power of a device, where it counts.
fn idle(costs: &Costs, device: DeviceId) -> Option<Microwatts> {
    costs.frame_interval().and(costs.device(device).idle_power)
}
