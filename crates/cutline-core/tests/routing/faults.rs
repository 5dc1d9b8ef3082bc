//! What can go wrong, when and for how long.

use std::fmt;

use cutline_core::units::{BytesPerSec, Nanos};
use proptest::prelude::*;

use crate::{
    place::{CLOUD, EDGE, LAN, WAN, WIRE, ms},
    world::World,
};

/// One trouble of a schedule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Nanos,
    pub(crate) lasts: Nanos,
    pub(crate) what: What,
}

/// Its kind; devices and cables by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The process dies; another one is started at the end.
    Kill(usize),
    /// The process is stopped: it accepts everything and does nothing.
    Stop(usize),
    /// The agent answers heartbeats, but its engine does not come back.
    Hang(usize),
    /// The engine is so many times slower.
    Slow(usize, u64),
    /// A cable swallows everything.
    Cut(usize),
    /// A cable carries nothing, and everything later.
    Stall(usize),
    /// All connections over a cable are reset, once.
    Reset(usize),
    /// The measured cable carries so many kbit/s.
    Rate(u64),
    /// A cable takes so many milliseconds longer.
    Delay(usize, u64),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [at, lasts] = [self.at, self.lasts].map(|time| time.0 / 1_000_000);
        write!(f, "at {at} ms for {lasts} ms: {:?}", self.what)
    }
}

impl What {
    /// Begins or ends it.
    pub(crate) fn apply(self, world: &mut World, begins: bool) {
        match self {
            What::Kill(device) if begins => world.kill(device),
            // Two kills may overlap: the first end starts the process again.
            What::Kill(device) if world.devices[device].alive => {}
            What::Kill(device) => world.restart(device),
            What::Stop(device) => world.change_device(device, |d| d.stopped = begins && d.alive),
            What::Hang(device) => world.change_device(device, |d| d.hung = begins && d.alive),
            What::Slow(device, factor) => {
                let slowdown = if begins { factor } else { 1 };
                world.change_device(device, |device| device.slowdown = slowdown);
            }
            What::Cut(cable) => world.change_cable(cable, |cable| cable.cut = begins),
            What::Stall(cable) => world.change_cable(cable, |cable| cable.stalled = begins),
            What::Reset(cable) if begins => world.reset(cable),
            What::Reset(_) => {}
            What::Rate(kbit) => {
                let rate = BytesPerSec(if begins { kbit } else { 50_000 } * 125);
                world.change_cable(WAN, |cable| cable.rate = rate);
            }
            What::Delay(cable, more) => world.change_cable(cable, |cable| {
                let delay = if begins { cable.delay + ms(more) } else { cable.delay - ms(more) };
                cable.delay = delay;
            }),
        }
    }
}

/// Troubles that stop everything on their way: what heartbeats are for.
pub(crate) fn deadly() -> BoxedStrategy<What> {
    let device = prop_oneof![Just(EDGE), Just(CLOUD)];
    let cable = prop_oneof![Just(LAN), Just(WIRE), Just(WAN)];
    prop_oneof![
        device.clone().prop_map(What::Kill),
        device.prop_map(What::Stop),
        cable.clone().prop_map(What::Cut),
        cable.clone().prop_map(What::Stall),
        cable.prop_map(What::Reset),
    ]
    .boxed()
}

/// Anything that can happen to anybody but the source.
pub(crate) fn any() -> BoxedStrategy<What> {
    let device = prop_oneof![Just(EDGE), Just(CLOUD)];
    let cable = prop_oneof![Just(LAN), Just(WIRE), Just(WAN)];
    prop_oneof![
        4 => deadly(),
        1 => device.clone().prop_map(What::Hang),
        1 => (device, 2u64..40).prop_map(|(device, factor)| What::Slow(device, factor)),
        2 => (100u64..60_000).prop_map(What::Rate),
        1 => (cable, 1u64..150).prop_map(|(cable, more)| What::Delay(cable, more)),
    ]
    .boxed()
}

/// Up to so many troubles, all over by `end`, in milliseconds.
pub(crate) fn schedule(
    what: BoxedStrategy<What>,
    most: usize,
    end: u64,
) -> BoxedStrategy<Vec<Fault>> {
    let fault = (0..end, 1u64..3_000, what).prop_map(move |(at, lasts, what)| Fault {
        at: ms(at),
        lasts: ms(lasts.min(end - at)),
        what,
    });
    proptest::collection::vec(fault, 1..=most).boxed()
}
