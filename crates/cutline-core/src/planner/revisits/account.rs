//! What the visits of a plan cost, device by device and link by link.
//!
//! A device that is visited again adds to what it did before, so nothing of it is known for good
//! before the plan is whole: an [`Account`] carries what every device and link has done. It only
//! grows, so that what it comes to is a lower bound of every plan that begins with its visits.

use super::route::{Route, Visit};
use crate::{
    cost::{Costs, LinkCosts, TENSOR},
    evaluate::{Work, device_energy, device_money, electricity},
    planner::{
        Objective,
        steps::{HopCost, Steps},
    },
    platform::DeviceId,
    units::{Bytes, Nanojoules, Nanos},
};

/// More messages than this are not tabulated.
const MOST_MESSAGES: usize = 1 << 18;

/// What visits and hops cost under one input encoding.
pub(super) struct Prices<'a> {
    pub(super) steps: Steps<'a>,
    /// By sender and receiver.
    links: Vec<Option<(&'a LinkCosts, bool)>>,
    /// By pair of devices, border and codec; empty where they are too many.
    messages: Vec<Option<HopCost>>,
    /// Of all groups before each border.
    answers: Vec<Answers>,
    /// Whether money is asked for.
    with_money: bool,
}

/// Answers of the network that some groups make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answers {
    count: u32,
    bytes: Bytes,
    of_unknown_size: u32,
}

/// What one device has done and holds.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    runs: bool,
    busy: Nanos,
    /// The part of that whose energy is given, and that energy.
    given_time: Nanos,
    given: Nanojoules,
    /// Energy of its ends of messages.
    messages: Nanojoules,
    parameters: Bytes,
    engine: Bytes,
    /// Largest live sum of a visit.
    live: Bytes,
}

/// What a plan, or the beginning of one, has cost so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    devices: Vec<Spent>,
    /// Busy time by sender and receiver.
    directions: Vec<Nanos>,
    /// Busy time out and in of each shared card.
    cards: Vec<[Nanos; 2]>,
    /// Time on links.
    travel: Nanos,
    /// Electricity of messages.
    money: u64,
    /// Whether the source has read the network's input, and whether it has been sent.
    input_read: bool,
    input_sent: bool,
}

impl<'a> Prices<'a> {
    pub(super) fn new(steps: Steps<'a>, codecs: &[usize], with_money: bool) -> Self {
        let costs = steps.costs;
        let pairs =
            costs.device_ids().flat_map(|from| costs.device_ids().map(move |to| (from, to)));
        let links = pairs.map(|(from, to)| costs.link(from, to).filter(|_| from != to)).collect();
        let answers = steps.ideals.borders.iter().map(|border| {
            let made = steps.dag.flows().iter().filter(|flow| {
                flow.is_output && flow.from.is_some_and(|group| border.holds(group))
            });
            made.fold(Answers::default(), |sum, flow| Answers {
                count: sum.count + 1,
                bytes: sum.bytes + flow.bytes.unwrap_or_default(),
                of_unknown_size: sum.of_unknown_size + u32::from(flow.bytes.is_none()),
            })
        });
        let answers = answers.collect();
        let mut prices = Prices { steps, links, messages: Vec::new(), answers, with_money };
        prices.tabulate(codecs);
        prices
    }

    /// Notes all messages, where they are not too many.
    fn tabulate(&mut self, codecs: &[usize]) {
        let (devices, borders) =
            (self.steps.costs.devices().len(), self.steps.ideals.borders.len());
        let codecs = codecs.iter().max().map_or(0, |most| most + 1);
        if (devices * devices * codecs).saturating_mul(borders) > MOST_MESSAGES {
            return;
        }
        let mut messages = Vec::new();
        for link in &self.links {
            for border in 0..borders {
                let message = |codec| self.steps.message((*link)?, border, codec);
                messages.extend((0..codecs).map(message));
            }
        }
        self.messages = messages;
    }

    fn message(&self, [from, to]: [DeviceId; 2], border: usize, codec: usize) -> Option<HopCost> {
        if self.messages.is_empty() {
            return self.steps.message(self.link(from, to)?, border, codec);
        }
        let pair = from.index() * self.steps.costs.devices().len() + to.index();
        let borders = self.steps.ideals.borders.len();
        let codecs = self.messages.len() / (self.links.len() * borders);
        self.messages[(pair * borders + border) * codecs + codec]
    }

    fn link(&self, from: DeviceId, to: DeviceId) -> Option<(&'a LinkCosts, bool)> {
        self.links[from.index() * self.steps.costs.devices().len() + to.index()]
    }

    /// What a whole route costs, into an account that is overwritten; `None` where it cannot be run.
    pub(super) fn charge(&self, route: &Route, account: &mut Account) -> Option<()> {
        account.clear();
        let mut at = DeviceId::SOURCE;
        for (from, visit) in route.stages() {
            if visit.device != at {
                let engines = [at, visit.device].map(|device| route.engines[device.index()]);
                let codec = route.codecs[at.index()];
                account.hop(self, [at, visit.device], engines, from, codec)?;
            }
            account.visit(self, visit, from, route.engines[visit.device.index()])?;
            at = visit.device;
        }
        account.answers(self, &route.visits)
    }
}

impl Account {
    pub(super) fn new(costs: &Costs) -> Self {
        let devices = costs.devices().len();
        let cards = costs.links().iter().flat_map(|link| link.cards).flatten().max();
        Account {
            devices: vec![Spent::default(); devices],
            directions: vec![Nanos::ZERO; devices * devices],
            cards: vec![[Nanos::ZERO; 2]; cards.map_or(0, |card| card + 1)],
            ..Account::default()
        }
    }

    fn clear(&mut self) {
        self.devices.fill(Spent::default());
        self.directions.fill(Nanos::ZERO);
        self.cards.fill([Nanos::ZERO; 2]);
        (self.travel, self.money) = (Nanos::ZERO, 0);
        (self.input_read, self.input_sent) = (false, false);
    }

    /// Takes over what another has.
    pub(super) fn copy(&mut self, other: &Account) {
        self.devices.copy_from_slice(&other.devices);
        self.directions.copy_from_slice(&other.directions);
        self.cards.copy_from_slice(&other.cards);
        (self.travel, self.money) = (other.travel, other.money);
        (self.input_read, self.input_sent) = (other.input_read, other.input_sent);
    }

    /// A visit that begins at a border; `None` where the device cannot run all of it.
    pub(super) fn visit(
        &mut self,
        prices: &Prices,
        Visit { device, to }: Visit,
        from: usize,
        engine: usize,
    ) -> Option<()> {
        let steps = &prices.steps;
        let work = steps.work(device, engine, [from, to])?;
        let option = &steps.costs.device(device).options[engine];
        let reads = steps.reads_input(from, to);
        if device == DeviceId::SOURCE {
            self.prepare(prices, reads, false);
        }
        let spent = &mut self.devices[device.index()];
        spent.runs = true;
        spent.engine = option.engine_bytes;
        spent.busy += option.call + work.busy;
        if reads && device != DeviceId::SOURCE {
            spent.busy += steps.encoding().decode[device.index()];
        }
        spent.given_time += work.given_time;
        spent.given += work.given;
        spent.parameters += steps.parameters(from, to);
        spent.live = spent.live.max(steps.peak(from, to));
        Some(())
    }

    /// The message over a border from one device to another; `None` where it cannot be sent.
    pub(super) fn hop(
        &mut self,
        prices: &Prices,
        [from, to]: [DeviceId; 2],
        engines: [usize; 2],
        border: usize,
        codec: usize,
    ) -> Option<()> {
        let steps = &prices.steps;
        let message = prices.message([from, to], border, codec)?;
        self.devices[from.index()].busy += steps.coding((from, engines[0]), border, codec)[0];
        self.devices[to.index()].busy += steps.coding((to, engines[1]), border, codec)[1];
        if steps.ideals.borders[border].input_crosses {
            self.prepare(prices, false, true);
        }
        self.send(prices, [from, to], &message);
        Some(())
    }

    /// What returns over the hops of whole visits; `None` where an answer of unknown size would.
    pub(super) fn answers(&mut self, prices: &Prices, visits: &[Visit]) -> Option<()> {
        let mut later = Answers::default();
        for (at, visit) in visits.iter().enumerate().rev() {
            let before = at.checked_sub(1).map(|before| visits[before]);
            let (from, sender) = before.map_or((0, DeviceId::SOURCE), |b| (b.to, b.device));
            if visit.device != DeviceId::SOURCE {
                let (first, second) = (prices.answers[from], prices.answers[visit.to]);
                later.count += second.count - first.count;
                later.bytes += second.bytes - first.bytes;
                later.of_unknown_size += second.of_unknown_size - first.of_unknown_size;
            }
            if later.count > 0 && sender != visit.device {
                let link = prices.link(sender, visit.device)?;
                if later.of_unknown_size > 0 {
                    return None;
                }
                let answer = prices.steps.answer(link, later.bytes);
                self.send(prices, [sender, visit.device], &answer);
            }
        }
        Some(())
    }

    /// The source makes the tensor once if it reads it or sends it as such, and the encoded input
    /// once if it sends that.
    fn prepare(&mut self, prices: &Prices, reads: bool, sends: bool) {
        let encoding = prices.steps.encoding();
        let as_tensor = encoding.name == TENSOR;
        let time = |read: bool, sent: bool| {
            let mut time = Nanos::ZERO;
            if read || sent && as_tensor {
                time += prices.steps.costs.tensor_time();
            }
            if sent && !as_tensor {
                time += encoding.encode[DeviceId::SOURCE.index()];
            }
            time
        };
        let before = time(self.input_read, self.input_sent);
        self.input_read |= reads;
        self.input_sent |= sends;
        let more = time(self.input_read, self.input_sent) - before;
        self.devices[DeviceId::SOURCE.index()].busy += more;
    }

    fn send(&mut self, prices: &Prices, [from, to]: [DeviceId; 2], hop: &HopCost) {
        let devices = self.devices.len();
        self.travel += hop.latency;
        self.directions[from.index() * devices + to.index()] += hop.out;
        self.directions[to.index() * devices + from.index()] += hop.back;
        if prices.with_money {
            let paid = prices.steps.electricity_of([from, to], hop.energy);
            self.money = self.money.saturating_add(paid);
        }
        if !self.cards.is_empty() {
            // What goes out at one end comes in at the other.
            let ends = [[hop.out, hop.back], [hop.back, hop.out]];
            for (card, [out, into]) in hop.cards.into_iter().zip(ends) {
                let Some(card) = card else { continue };
                self.cards[card][0] += out;
                self.cards[card][1] += into;
            }
        }
        for (device, energy) in [from, to].into_iter().zip(hop.energy) {
            self.devices[device.index()].messages += energy;
        }
    }

    /// By how much memories are exceeded, in millionths of what there is.
    pub(super) fn memory_excess(&self, costs: &Costs) -> u64 {
        let excess = |device: &crate::cost::DeviceCosts| {
            device.memory.map_or(0, |limit| excess(self.memory_of(costs, device.host).0, limit.0))
        };
        costs.devices().iter().map(excess).fold(0, u64::saturating_add)
    }

    /// Whether every host has the memory for what its devices hold.
    pub(super) fn fits(&self, costs: &Costs) -> bool {
        let device = |at: usize| &costs.devices()[at];
        (0..self.devices.len()).filter(|&at| self.devices[at].runs).all(|at| {
            device(at).memory.is_none_or(|limit| self.memory_of(costs, device(at).host) <= limit)
        })
    }

    fn memory_of(&self, costs: &Costs, host: usize) -> Bytes {
        let spent = self.devices.iter().zip(costs.devices());
        spent
            .filter(|(spent, device)| spent.runs && device.host == host)
            .map(|(s, _)| s.memory())
            .sum()
    }

    /// What a device is busy for.
    pub(super) fn busy(&self, device: usize) -> u64 {
        self.devices[device].busy.0
    }

    /// Energy of a device, its ends of messages included.
    pub(super) fn energy(&self, costs: &Costs, device: usize) -> u64 {
        (self.computing(costs, device) + self.devices[device].messages).0
    }

    /// What it does and, where that counts, its waiting; nothing of a device that is not used.
    fn computing(&self, costs: &Costs, device: usize) -> Nanojoules {
        let Spent { runs, busy, given_time, given, .. } = self.devices[device];
        let id = DeviceId::new(device);
        let interval = costs.frame_interval().filter(|_| runs || id == DeviceId::SOURCE);
        device_energy(costs, id, interval, Work { busy, given_time, given })
    }

    /// Memory of all devices.
    pub(super) fn memory(&self) -> Bytes {
        self.devices.iter().filter(|spent| spent.runs).map(Spent::memory).sum()
    }

    /// What an objective has come to.
    pub(super) fn value(&self, costs: &Costs, objective: Objective) -> u64 {
        let devices = 0..self.devices.len();
        match objective {
            Objective::Latency => {
                (self.travel + self.devices.iter().map(|spent| spent.busy).sum::<Nanos>()).0
            }
            Objective::Period => {
                let busy = self.devices.iter().map(|spent| spent.busy);
                let links = self.directions.iter().chain(self.cards.iter().flatten()).copied();
                busy.chain(links).max().unwrap_or_default().0
            }
            Objective::Energy => {
                devices.fold(0, |sum: u64, at| sum.saturating_add(self.energy(costs, at)))
            }
            Objective::DeviceEnergy => devices.map(|at| self.energy(costs, at)).max().unwrap_or(0),
            Objective::Memory => {
                let hosts = costs.devices().iter().map(|device| device.host);
                hosts.map(|host| self.memory_of(costs, host)).max().unwrap_or_default().0
            }
            Objective::Money => self.rent_and_electricity(costs),
        }
    }

    fn rent_and_electricity(&self, costs: &Costs) -> u64 {
        let mut total = self.money;
        for (at, spent) in self.devices.iter().enumerate() {
            let id = DeviceId::new(at);
            if spent.runs || id == DeviceId::SOURCE {
                let fixed = device_money(costs, id, spent.busy).unwrap_or_default();
                let power = electricity(costs, id, self.computing(costs, at));
                total = total.saturating_add((fixed + power).0);
            }
        }
        total
    }
}

impl Spent {
    fn memory(&self) -> Bytes {
        self.engine + self.parameters + self.live
    }
}

/// By how much a limit is exceeded, in millionths of it.
pub(super) fn excess(value: u64, limit: u64) -> u64 {
    let over = u128::from(value.saturating_sub(limit)) * 1_000_000;
    u64::try_from(over.div_ceil(u128::from(limit.max(1)))).unwrap_or(u64::MAX)
}
