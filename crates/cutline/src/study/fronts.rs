//! Latency against money: the plans that no other beats in both.

use cutline_core::units::Nanos;

use super::data::{Front, Plan};

/// The front of the plans of one network at each rate, over all boards, instances and cuts.
pub(super) fn fronts(network: usize, plans: &[Plan], rates: usize, interval: Nanos) -> Vec<Front> {
    (0..rates).map(|rate| Front { network, rate, plans: front(plans, rate, interval) }).collect()
}

/// Positions of the plans on the front at a rate, the fastest first; of equal ones the first.
fn front(plans: &[Plan], rate: usize, interval: Nanos) -> Vec<usize> {
    let keeps_up = |at: &usize| plans[*at].keeps_up(rate, interval);
    let mut order: Vec<usize> = (0..plans.len()).filter(keeps_up).collect();
    order.sort_by_key(|&at| (plans[at].latency_ns[rate], plans[at].money, at));
    let mut cheapest = None;
    order.retain(|&at| {
        let money = plans[at].money;
        let is_cheaper = cheapest.is_none_or(|known| money < known);
        if is_cheaper {
            cheapest = Some(money);
        }
        is_cheaper
    });
    order
}
