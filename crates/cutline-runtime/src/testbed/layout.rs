//! What a platform becomes in a test bed: addresses, the media that carry its links, and routes.
//!
//! Every device has one address, whatever number of links it has. A link is a medium of its own,
//! unless it shares a network card (`cards` of the platform file) with others: then all links of
//! that card are one medium, so that their messages wait for each other. Devices without a link of
//! their own reach each other through devices in between, over the fewest links; those earlier in the
//! file win ties.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
};

use cutline_core::{
    platform::{DeviceId, Link, Platform},
    units::{Bytes, BytesPerSec, Nanos},
};
use thiserror::Error;

/// Devices that one test bed may have: the last byte of their address.
pub const MOST_DEVICES: usize = 250;

/// What a queue holds unless told otherwise: many round trips of a fast link.
pub const QUEUE: Bytes = Bytes(4_000_000);

/// How a medium treats what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rate from the first side to the second, and back.
    pub rates: [BytesPerSec; 2],
    /// One-way delay.
    pub delay: Nanos,
    /// Most by which the delay varies, either way.
    pub jitter: Nanos,
    /// Lost packets of a million, each way.
    pub loss: u32,
    /// What waits at each end, at most; more is dropped.
    pub queue: Bytes,
}

impl Shape {
    /// Whether a queue with a rate is not enough.
    pub fn needs_netem(&self) -> bool {
        self.delay > Nanos::ZERO || self.jitter > Nanos::ZERO || self.loss > 0
    }
}

/// What a platform file does not say of a link, and a test bed wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkExtras {
    /// Most by which the delay varies.
    pub jitter: Nanos,
    /// Lost packets of a million, each way.
    pub loss: u32,
    /// What waits at each end; absent: [`QUEUE`].
    pub queue: Option<Bytes>,
}

/// A device of the platform, under the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where it sends what is for others, in order of their number.
    pub routes: Vec<Route>,
    /// Whether others reach each other through it.
    pub forwards: bool,
}

/// The way from one device to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: usize,
    /// The next device on the way; the target itself where a link joins them.
    pub next: usize,
    /// The medium that leads to `next`.
    pub medium: usize,
}

/// What carries one link, or the links of one card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Positions of its links in the platform.
    pub links: Vec<usize>,
    /// The devices on either side; everything crosses from one side to the other.
    pub sides: [Vec<usize>; 2],
    /// The card that its links share.
    pub card: Option<String>,
    /// As the file has it.
    pub shape: Shape,
}

/// A link as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Numbers of its devices, in the order of the file: `up` is from the first to the second.
    pub between: [usize; 2],
    /// The medium that carries it.
    pub medium: usize,
    /// Whether `up` is from the medium's second side to its first.
    pub reversed: bool,
}

/// Everything that there is to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The devices; the first is the source.
    pub nodes: Vec<Node>,
    /// What carries their links.
    pub media: Vec<Medium>,
    /// The links, in the order of the platform.
    pub links: Vec<Ends>,
}

/// Why a platform cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum LayoutError {
    #[error("{0} devices are more than a testbed can have, which is {MOST_DEVICES}")]
    TooMany(usize),
    #[error("device `{0}` has replicas, which a testbed does not start; leave them out")]
    Replicas(String),
    #[error("link between `{0}` and `{1}` has no rate to shape it to: give `up`")]
    NoRate(String, String),
    #[error(
        "link between `{a}` and `{b}` shares a card at both ends, `{first}` and `{second}`; a \
         testbed can share one"
    )]
    TwoCards { a: String, b: String, first: String, second: String },
    #[error(
        "the links of card `{card}` differ: {a} is {one}, {b} is {other}; a testbed shares one \
         medium among them, so give them the same rates, delay and `testbed` values"
    )]
    Differ { card: String, a: String, b: String, one: String, other: String },
    #[error(
        "both ends of the link between `{a}` and `{b}` are at card `{card}`; leave the card out"
    )]
    Inside { card: String, a: String, b: String },
    #[error("there is no device `{name}`; there are: {all}")]
    UnknownDevice { name: String, all: String },
    #[error("no link is named `{name}`; there are: {all}")]
    UnknownLink { name: String, all: String },
}

impl Layout {
    /// The layout of a platform whose links have these extras, one for each. O(devices x links).
    pub fn new(platform: &Platform, extras: &[LinkExtras]) -> Result<Self, LayoutError> {
        let devices = platform.devices();
        if devices.len() > MOST_DEVICES {
            return Err(LayoutError::TooMany(devices.len()));
        }
        if let Some(device) = devices.iter().find(|device| !device.replicas.is_empty()) {
            return Err(LayoutError::Replicas(device.name.clone()));
        }
        let shapes = platform.links().iter().enumerate().map(|(index, link)| {
            shape(platform, link, extras.get(index).copied().unwrap_or_default())
        });
        let shapes: Vec<Shape> = shapes.collect::<Result<_, _>>()?;
        let (media, links) = media(platform, &shapes)?;
        let mut nodes: Vec<Node> = (0u8..).zip(devices).map(node).collect();
        for index in 0..nodes.len() {
            nodes[index].routes = routes(index, nodes.len(), &links);
        }
        let through: Vec<usize> = nodes
            .iter()
            .flat_map(|node| node.routes.iter().filter(|route| route.next != route.target))
            .map(|route| route.next)
            .collect();
        for next in through {
            nodes[next].forwards = true;
        }
        Ok(Self { nodes, media, links })
    }

    /// The device of a name.
    pub fn device(&self, name: &str) -> Result<usize, LayoutError> {
        self.nodes.iter().position(|node| node.name == name).ok_or_else(|| {
            let all: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            LayoutError::UnknownDevice { name: name.to_owned(), all: all.join(", ") }
        })
    }

    /// The link of a name: those of its devices with a comma between, either way round.
    pub fn link(&self, name: &str) -> Result<usize, LayoutError> {
        let joins = |link: &Ends| {
            let [a, b] = link.between.map(|end| self.nodes[end].name.as_str());
            let is = |first: &str, second: &str| {
                let rest = name.strip_prefix(first).and_then(|rest| rest.strip_prefix(','));
                rest.is_some_and(|rest| rest.trim_start() == second)
            };
            is(a, b) || is(b, a)
        };
        self.links.iter().position(joins).ok_or_else(|| {
            let all: Vec<String> = self.links.iter().map(|link| self.name_of(link)).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join("; ") };
            LayoutError::UnknownLink { name: name.to_owned(), all }
        })
    }

    /// What people call a link: `pi,cloud`.
    pub fn name_of(&self, link: &Ends) -> String {
        link.between.map(|end| self.nodes[end].name.as_str()).join(",")
    }
}

fn node((number, device): (u8, &cutline_core::platform::Device)) -> Node {
    Node {
        name: device.name.clone(),
        address: Ipv4Addr::new(10, 77, 0, number + 1),
        routes: Vec::new(),
        forwards: false,
    }
}

fn shape(platform: &Platform, link: &Link, extras: LinkExtras) -> Result<Shape, LayoutError> {
    let [a, b] = names(platform, link);
    let (Some(up), Some(down)) = (link.up, link.down.or(link.up)) else {
        return Err(LayoutError::NoRate(a, b));
    };
    Ok(Shape {
        rates: [up, down],
        delay: link.delay.unwrap_or_default(),
        jitter: extras.jitter,
        loss: extras.loss,
        queue: extras.queue.unwrap_or(QUEUE),
    })
}

fn names(platform: &Platform, link: &Link) -> [String; 2] {
    link.between.map(|id| platform.device(id).name.clone())
}

/// A card of a host that several links share.
type Card = (String, String);

fn media(platform: &Platform, shapes: &[Shape]) -> Result<(Vec<Medium>, Vec<Ends>), LayoutError> {
    let mut users: BTreeMap<Card, usize> = BTreeMap::new();
    for link in platform.links() {
        for end in 0..2 {
            if let Some(card) = card(platform, link, end) {
                *users.entry(card).or_default() += 1;
            }
        }
    }
    let (mut media, mut links): (Vec<Medium>, Vec<Ends>) = (Vec::new(), Vec::new());
    let mut of_card: BTreeMap<Card, usize> = BTreeMap::new();
    for (index, (link, &shape)) in platform.links().iter().zip(shapes).enumerate() {
        let between = link.between.map(DeviceId::index);
        let shared = shared_end(platform, link, &users)?;
        // Towards the card, which is on the second side, is the medium's first direction.
        let reversed = shared.as_ref().is_some_and(|(end, _)| *end == 0);
        let (sides, shape) = if reversed { flipped(between, shape) } else { (between, shape) };
        let known = shared.as_ref().and_then(|(_, card)| of_card.get(card).copied());
        let medium = known.unwrap_or(media.len());
        links.push(Ends { between, medium, reversed });
        let Some(medium) = known.map(|known| &mut media[known]) else {
            let card = shared.map(|(_, card)| {
                of_card.insert(card.clone(), medium);
                card.1
            });
            let sides = sides.map(|device| vec![device]);
            media.push(Medium { links: vec![index], sides, card, shape });
            continue;
        };
        if medium.shape != shape {
            let first = &platform.links()[medium.links[0]];
            let words = |link: &Link| format!("`{}`", names(platform, link).join(","));
            return Err(LayoutError::Differ {
                card: medium.card.clone().unwrap_or_default(),
                a: words(first),
                b: words(link),
                one: describe(&medium.shape),
                other: describe(&shape),
            });
        }
        medium.links.push(index);
        for (side, device) in medium.sides.iter_mut().zip(sides) {
            if !side.contains(&device) {
                side.push(device);
            }
        }
    }
    Ok((media, links))
}

/// The card at one end of a link.
fn card(platform: &Platform, link: &Link, end: usize) -> Option<Card> {
    let host = &platform.device(link.between[end]).host;
    link.cards[end].as_ref().map(|card| (host.clone(), card.clone()))
}

/// The end at which a link shares its card with others, if there is one.
fn shared_end(
    platform: &Platform,
    link: &Link,
    users: &BTreeMap<Card, usize>,
) -> Result<Option<(usize, Card)>, LayoutError> {
    let of = |end: usize| card(platform, link, end).map(|card| (end, card));
    let cards: Vec<(usize, Card)> = (0..2).filter_map(of).collect();
    let [a, b] = names(platform, link);
    if let [(_, first), (_, second)] = &cards[..]
        && first == second
    {
        return Err(LayoutError::Inside { card: first.1.clone(), a, b });
    }
    let mut shared = cards.into_iter().filter(|(_, card)| users.get(card).is_some_and(|&n| n > 1));
    let found = shared.next();
    if let (Some((_, first)), Some((_, second))) = (&found, shared.next()) {
        let [first, second] = [first.1.clone(), second.1];
        return Err(LayoutError::TwoCards { a, b, first, second });
    }
    Ok(found)
}

/// A link and its shape seen from its other end.
fn flipped([a, b]: [usize; 2], shape: Shape) -> ([usize; 2], Shape) {
    let [up, down] = shape.rates;
    ([b, a], Shape { rates: [down, up], ..shape })
}

/// A shape in words.
pub fn describe(shape: &Shape) -> String {
    let [up, down] = shape.rates;
    let mut text = format!("{up} and {down} back");
    if shape.delay > Nanos::ZERO {
        text += &format!(", delay {}", shape.delay);
    }
    if shape.jitter > Nanos::ZERO {
        text += &format!(", jitter {}", shape.jitter);
    }
    if shape.loss > 0 {
        text += &format!(", loss {} %", f64::from(shape.loss) / 1e4);
    }
    if shape.queue != QUEUE {
        text += &format!(", queue {}", shape.queue);
    }
    text
}

/// Ways of the fewest links from one device to all that it can reach: breadth first.
fn routes(from: usize, devices: usize, links: &[Ends]) -> Vec<Route> {
    let mut found: Vec<Option<Route>> = vec![None; devices];
    let mut waiting = VecDeque::from([from]);
    while let Some(here) = waiting.pop_front() {
        for link in links {
            let there = match link.between {
                [a, b] if a == here => b,
                [a, b] if b == here => a,
                _ => continue,
            };
            if there == from || found[there].is_some() {
                continue;
            }
            let first =
                found[here].unwrap_or(Route { target: there, next: there, medium: link.medium });
            found[there] = Some(Route { target: there, ..first });
            waiting.push_back(there);
        }
    }
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn platform(devices: Value, links: Value) -> Platform {
        serde_json::from_value(json!({ "version": 1, "device": devices, "link": links })).unwrap()
    }

    fn named(names: &[&str]) -> Value {
        names.iter().map(|name| json!({ "name": name })).collect()
    }

    fn layout(names: &[&str], links: Value) -> Result<Layout, LayoutError> {
        Layout::new(&platform(named(names), links), &[])
    }

    #[test]
    fn a_link_is_found_by_its_devices_either_way_round() {
        let names = ["a cam, left", "localhost", "localhost,x"];
        let link = |a, b| json!({ "between": [a, b], "up": "1mbit" });
        let links = json!([link(names[0], names[1]), link(names[1], names[2])]);
        let layout = layout(&names, links).unwrap();
        for (name, expected) in [
            ("a cam, left,localhost", Some(0)),
            ("localhost,a cam, left", Some(0)),
            ("localhost, a cam, left", Some(0)),
            ("localhost,localhost,x", Some(1)),
            ("localhost,x,localhost", Some(1)),
            ("a cam, left,localhost,x", None),
            ("localhost", None),
            ("", None),
            (",", None),
        ] {
            let found = layout.link(name);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{name}");
            if let Err(error) = found {
                let all = "there are: a cam, left,localhost; localhost,localhost,x";
                assert!(error.to_string().ends_with(all), "{error}");
            }
        }
        let error = layout.device("moon").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no device `moon`; there are: a cam, left, localhost, localhost,x"
        );
    }

    #[test]
    fn each_link_is_a_medium_of_its_own_and_devices_between_forward() {
        let links = json!([{ "between": ["pi", "edge"], "up": "8mbit", "down": "16mbit" },
                           { "between": ["cloud", "edge"], "up": "80mbit" }]);
        let layout = layout(&["pi", "edge", "cloud", "alone"], links).unwrap();
        let sides: Vec<_> = layout.media.iter().map(|medium| medium.sides.clone()).collect();
        assert_eq!(sides, [[vec![0], vec![1]], [vec![2], vec![1]]]);
        assert_eq!(layout.media[0].shape.rates, [1, 2].map(|n| BytesPerSec(n * 1_000_000)));
        let route = |target, next, medium| Route { target, next, medium };
        assert_eq!(layout.nodes[0].routes, [route(1, 1, 0), route(2, 1, 0)]);
        assert_eq!(layout.nodes[1].routes, [route(0, 0, 0), route(2, 2, 1)]);
        assert_eq!(layout.nodes[2].routes, [route(0, 1, 1), route(1, 1, 1)]);
        assert_eq!(layout.nodes[3].routes, []);
        let forward: Vec<bool> = layout.nodes.iter().map(|node| node.forwards).collect();
        assert_eq!(forward, [false, true, false, false]);
        assert_eq!(layout.nodes[2].address.to_string(), "10.77.0.3");
    }

    #[test]
    fn links_that_share_a_card_share_a_medium_whichever_way_they_are_written() {
        let links = json!([
            { "between": ["cam1", "cloud"], "up": "8mbit", "down": "16mbit", "cards": ["", "wan"] },
            { "between": ["cloud", "cam2"], "up": "16mbit", "down": "8mbit", "cards": ["wan", ""] },
            { "between": ["cam1", "cam2"], "up": "1mbit", "cards": ["wan", ""] } ]);
        let layout = layout(&["cam1", "cam2", "cloud"], links).unwrap();
        assert_eq!(layout.media.len(), 2, "a card of the same name elsewhere is another");
        let medium = &layout.media[0];
        assert_eq!((&medium.links[..], medium.card.as_deref()), (&[0, 1][..], Some("wan")));
        assert_eq!(medium.sides, [vec![0, 1], vec![2]]);
        assert_eq!(medium.shape.rates, [1, 2].map(|n| BytesPerSec(n * 1_000_000)));
        let reversed: Vec<bool> = layout.links.iter().map(|link| link.reversed).collect();
        assert_eq!(reversed, [false, true, false]);
    }

    #[test]
    fn devices_of_one_host_share_its_card() {
        let devices = json!([{ "name": "pi" }, { "name": "cpu", "host": "nx" },
                             { "name": "gpu", "host": "nx" }]);
        let links = json!([{ "between": ["nx", "pi"], "up": "8mbit", "down": "16mbit" }]);
        let layout = Layout::new(&platform(devices, links), &[]).unwrap();
        assert_eq!(layout.media.len(), 1);
        assert_eq!(layout.media[0].sides, [vec![0], vec![1, 2]]);
        assert_eq!(layout.media[0].shape.rates, [2, 1].map(|n| BytesPerSec(n * 1_000_000)));
    }

    #[test]
    fn what_cannot_be_built_is_named() {
        let link = |a, b, up: &str, cards| json!({ "between": [a, b], "up": up, "cards": cards });
        let many: Vec<String> = (0..=MOST_DEVICES).map(|n| format!("d{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let abc = named(&["a", "b", "c"]);
        let cases = [
            (named(&many), json!([]), "251 devices are more than a testbed can have, which is 250"),
            (
                json!([{ "name": "a" }, { "name": "b", "address": "x:1", "replicas": ["y:1"] }]),
                json!([]),
                "device `b` has replicas, which a testbed does not start; leave them out",
            ),
            (
                abc.clone(),
                json!([{ "between": ["a", "b"], "table": "link.json" }]),
                "link between `a` and `b` has no rate to shape it to: give `up`",
            ),
            (
                abc.clone(),
                json!([link("a", "c", "1mbit", ["", "x"]), link("b", "c", "2mbit", ["", "x"])]),
                "the links of card `x` differ: `a,c` is 1 Mbit/s and 1 Mbit/s back, `b,c` is 2 \
                 Mbit/s and 2 Mbit/s back; a testbed shares one medium among them, so give them the \
                 same rates, delay and `testbed` values",
            ),
            (
                abc.clone(),
                json!([
                    link("a", "b", "1mbit", ["x", ""]),
                    link("a", "c", "1mbit", ["x", "y"]),
                    link("b", "c", "1mbit", ["", "y"])
                ]),
                "link between `a` and `c` shares a card at both ends, `x` and `y`; a testbed can \
                 share one",
            ),
            (
                json!([{ "name": "a" }, { "name": "b", "host": "h" }, { "name": "c", "host": "h" }]),
                json!([link("b", "c", "1mbit", ["x", "x"])]),
                "both ends of the link between `b` and `c` are at card `x`; leave the card out",
            ),
        ];
        for (devices, links, expected) in cases {
            let error = Layout::new(&platform(devices, links), &[]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
