//! Routes from known ones: small changes, and the beginning of one with the end of another.
//!
//! Which change comes next is drawn from a generator with a fixed seed, so that the same problem
//! gives the same answer.

use super::route::{Route, Visit};
use crate::{platform::DeviceId, random::SplitMix64};

/// Draws of whole numbers.
pub(super) struct Random(SplitMix64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(SplitMix64(seed))
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.below(end)
    }

    /// 1, 2, 4 or more up to a half of `end`, and anything between: short lengths are as frequent as
    /// long ones.
    fn length(&mut self, end: usize) -> usize {
        let most = end.max(2).ilog2() as usize;
        let scale = 1 << self.below(most);
        1 + self.below(scale)
    }
}

/// What routes can be made of.
pub(super) struct Choices<'a> {
    /// The last border.
    pub(super) last: usize,
    pub(super) inputs: usize,
    pub(super) codecs: &'a [usize],
    /// Engines of each device.
    pub(super) engines: Vec<usize>,
}

impl Choices<'_> {
    fn device(&self, random: &mut Random) -> DeviceId {
        DeviceId::new(random.below(self.engines.len()))
    }

    /// Whether there is anything to choose besides who runs what.
    fn has_settings(&self) -> bool {
        self.inputs > 1 || self.codecs.len() > 1 || self.engines.iter().any(|&count| count > 1)
    }

    /// Changes a route into one nearby, or with the end of another.
    pub(super) fn vary(&self, route: &mut Route, other: &Route, random: &mut Random) {
        match random.below(8) {
            0 | 1 => splice(route, other, 1 + random.below(self.last)),
            2 | 3 => self.shift(route, random),
            4 => self.hand_over(route, random),
            5 if self.has_settings() => self.reset(route, random),
            _ => self.piece(route, random),
        }
    }

    /// Gives any piece to any device.
    fn piece(&self, route: &mut Route, random: &mut Random) {
        let from = random.below(self.last);
        let to = (from + random.length(self.last)).min(self.last);
        paint(route, [from, to], self.device(random));
    }

    /// Moves the end of a visit.
    fn shift(&self, route: &mut Route, random: &mut Random) {
        let at = random.below(route.visits.len());
        let Some(&next) = route.visits.get(at + 1) else { return self.hand_over(route, random) };
        let Visit { device, to } = route.visits[at];
        let length = random.length(self.last);
        match random.below(2) {
            0 => paint(route, [to, (to + length).min(self.last)], device),
            _ => paint(route, [to.saturating_sub(length), to], next.device),
        }
    }

    /// Gives one visit, or several that follow each other, to another device.
    fn hand_over(&self, route: &mut Route, random: &mut Random) {
        let first = random.below(route.visits.len());
        let end = match random.below(2) {
            0 => first,
            _ => first + random.below(route.visits.len() - first),
        };
        let from = first.checked_sub(1).map_or(0, |before| route.visits[before].to);
        let to = route.visits[end].to;
        paint(route, [from, to], self.device(random));
    }

    /// Changes the input encoding, or an engine, or a codec.
    fn reset(&self, route: &mut Route, random: &mut Random) {
        let device = random.below(self.engines.len());
        match random.below(3) {
            0 => route.input = random.below(self.inputs),
            1 => route.engines[device] = random.below(self.engines[device]),
            _ => route.codecs[device] = self.codecs[random.below(self.codecs.len())],
        }
    }
}

/// Gives all between two borders to a device.
fn paint(route: &mut Route, [from, to]: [usize; 2], device: DeviceId) {
    let old = std::mem::take(&mut route.visits);
    let mut begin = 0;
    let mut painted = false;
    for visit in old {
        if begin < from {
            route.push(Visit { device: visit.device, to: visit.to.min(from) });
        }
        if visit.to >= to && !painted {
            route.push(Visit { device, to });
            painted = true;
        }
        if visit.to > to {
            route.push(visit);
        }
        begin = visit.to;
    }
}

/// Follows another route from a border on.
fn splice(route: &mut Route, other: &Route, border: usize) {
    let old = std::mem::take(&mut route.visits);
    let mut begin = 0;
    for visit in old {
        if begin < border {
            route.push(Visit { device: visit.device, to: visit.to.min(border) });
        }
        begin = visit.to;
    }
    other.visits.iter().filter(|visit| visit.to > border).for_each(|&visit| route.push(visit));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices of the groups, one letter each.
    fn route(devices: &str) -> Route {
        let mut route =
            Route { visits: Vec::new(), input: 0, engines: Vec::new(), codecs: Vec::new() };
        for (at, letter) in devices.bytes().enumerate() {
            let device = DeviceId::new(usize::from(letter - b'a'));
            route.push(Visit { device, to: at + 1 });
        }
        route
    }

    fn letters(route: &Route) -> String {
        let each = route.stages().flat_map(|(from, visit)| {
            let letter = char::from(b'a' + visit.device.index() as u8);
            std::iter::repeat_n(letter, visit.to - from)
        });
        each.collect()
    }

    #[test]
    fn painting_gives_groups_to_a_device() {
        let cases = [
            ("aabb", [1, 3], 'c', "accb"),
            ("aabb", [0, 4], 'c', "cccc"),
            ("aabb", [0, 1], 'b', "babb"),
            ("aabb", [2, 4], 'a', "aaaa"),
            ("abab", [1, 2], 'a', "aaab"),
            ("abcd", [3, 4], 'a', "abca"),
        ];
        for (before, borders, device, after) in cases {
            let mut painted = route(before);
            paint(&mut painted, borders, DeviceId::new((device as u8 - b'a').into()));
            assert_eq!(letters(&painted), after, "{before} {borders:?} {device}");
            assert_eq!(painted, route(after), "visits of one device are joined");
        }
    }

    #[test]
    fn splicing_follows_another_route() {
        for (one, other, border, after) in
            [("aabb", "cccd", 1, "accd"), ("aabb", "bbaa", 2, "aaaa"), ("abab", "cccc", 4, "abab")]
        {
            let mut spliced = route(one);
            splice(&mut spliced, &route(other), border);
            assert_eq!(spliced, route(after), "{one} {other} {border}");
        }
    }

    #[test]
    fn variations_end_at_the_last_border() {
        let mut random = Random::new(1);
        let choices = Choices { last: 12, inputs: 2, codecs: &[0, 3], engines: vec![1, 2, 1] };
        let other = route("aabbccaabbcc");
        let mut varied = route("abcabcabcabc");
        varied.engines = vec![0; 3];
        varied.codecs = vec![0; 3];
        for _ in 0..10_000 {
            choices.vary(&mut varied, &other, &mut random);
            assert_eq!(varied.visits.last().map(|visit| visit.to), Some(12), "{varied:?}");
            assert!(varied.stages().all(|(from, visit)| from < visit.to), "{varied:?}");
            let mut pairs = varied.visits.windows(2);
            assert!(pairs.all(|pair| pair[0].device != pair[1].device), "{varied:?}");
            assert!(varied.engines[1] < 2 && varied.codecs.iter().all(|c| [0, 3].contains(c)));
        }
    }
}
