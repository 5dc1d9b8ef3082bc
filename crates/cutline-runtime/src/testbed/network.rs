//! Building a layout in the kernel, and changing it while it is used.
//!
//! `ip` and `tc` are called with a list of commands for each namespace. Neighbours are written down
//! rather than asked for (ARP), so that a link that is cut is silent, as it should be, rather than
//! refused after some seconds.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::Stdio,
};

use cutline_core::units::{BytesPerSec, Nanos};
use thiserror::Error;

use super::{
    layout::{Layout, Medium, Shape},
    namespace::{Namespace, tool},
};

/// Smallest burst of a rate: one frame of Ethernet. More would let small messages through for
/// nothing.
const FRAME: u64 = 1600;

/// Packets that wait out their delay, at most: more than any queue in bytes holds.
const DELAYED: u32 = 100_000;

/// The hardware address of nobody.
const NOBODY: &str = "02:63:75:74:ff:ff";

/// Why a network could not be built or changed.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum NetworkError {
    #[error("cannot start `{tool}`")]
    Start {
        tool: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("`{tool}` refused for {place}: {text}")]
    Refused { tool: &'static str, place: String, text: String },
    #[error("cannot make a network namespace")]
    Namespace(#[source] io::Error),
    #[error("device `{device}`: cannot set {setting} to {value}")]
    Setting {
        device: String,
        setting: &'static str,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "congestion control `{name}` is refused here; this kernel grants a namespace: {granted}"
    )]
    Congestion { name: String, granted: String },
    #[error(
        "link `{0}` has a delay, jitter or loss, and this kernel has no netem: load it \
         (`modprobe sch_netem`), or leave them out with --no-delay"
    )]
    NoNetem(String),
    #[error("a rate of 0 delivers nothing; use `cut`")]
    ZeroRate,
}

/// What to change of a link; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Rate from the link's first device to its second.
    pub up: Option<BytesPerSec>,
    /// Rate back.
    pub down: Option<BytesPerSec>,
    /// One-way delay.
    pub delay: Option<Nanos>,
    /// Most by which the delay varies.
    pub jitter: Option<Nanos>,
    /// Lost packets of a million.
    pub loss: Option<u32>,
}

/// A running network; it is gone when this value is and no process is left in it.
#[derive(Debug)]
pub struct Network {
    layout: Layout,
    spaces: Vec<Namespace>,
    /// Where bridges are.
    middle: Namespace,
    shapes: Vec<Shape>,
    cut: BTreeSet<usize>,
    netem: bool,
}

impl Network {
    /// Builds a layout; must be called as root of a user namespace (see
    /// [`isolate`](super::namespace::isolate)). Every device may use this algorithm of TCP's
    /// congestion control, by default the system's.
    pub fn build(layout: Layout, congestion: Option<&str>) -> Result<Self, NetworkError> {
        let space = || Namespace::new().map_err(NetworkError::Namespace);
        let spaces = layout.nodes.iter().map(|_| space()).collect::<Result<Vec<_>, _>>()?;
        let shapes = layout.media.iter().map(|medium| medium.shape).collect();
        let mut network =
            Self { middle: space()?, spaces, shapes, cut: BTreeSet::new(), netem: false, layout };
        network.netem = has_netem()?;
        for medium in 0..network.layout.media.len() {
            network.check(medium, &network.shapes[medium])?;
        }
        for device in 0..network.spaces.len() {
            network.settle(device, congestion)?;
        }
        for medium in 0..network.layout.media.len() {
            network.join(medium)?;
        }
        for device in 0..network.spaces.len() {
            network.address(device)?;
        }
        for medium in 0..network.layout.media.len() {
            network.apply(medium)?;
        }
        Ok(network)
    }

    /// What was built.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where a device is.
    pub fn space(&self, device: usize) -> &Namespace {
        &self.spaces[device]
    }

    /// How a link is shaped now, seen from its first device; as if it were not cut.
    pub fn shape(&self, link: usize) -> Shape {
        let ends = &self.layout.links[link];
        let shape = self.shapes[ends.medium];
        let [up, down] = shape.rates;
        if ends.reversed { Shape { rates: [down, up], ..shape } } else { shape }
    }

    /// Whether a link is cut.
    pub fn is_cut(&self, link: usize) -> bool {
        self.cut.contains(&link)
    }

    /// Changes a link, and with it those that share its card. What waits in its queues stays there.
    pub fn set(&mut self, link: usize, change: Change) -> Result<(), NetworkError> {
        let ends = &self.layout.links[link];
        let (medium, mut shape) = (ends.medium, self.shapes[ends.medium]);
        let rates = if ends.reversed { [change.down, change.up] } else { [change.up, change.down] };
        for (rate, new) in shape.rates.iter_mut().zip(rates) {
            *rate = new.unwrap_or(*rate);
        }
        if shape.rates.contains(&BytesPerSec::ZERO) {
            return Err(NetworkError::ZeroRate);
        }
        shape.delay = change.delay.unwrap_or(shape.delay);
        shape.jitter = change.jitter.unwrap_or(shape.jitter);
        shape.loss = change.loss.unwrap_or(shape.loss);
        self.check(medium, &shape)?;
        self.shapes[medium] = shape;
        self.apply(medium)
    }

    /// Drops everything between the two devices of a link from now on, both ways and without a word;
    /// others that share its card go on. What waits in the link's own queues is lost.
    pub fn cut(&mut self, link: usize) -> Result<(), NetworkError> {
        self.cut.insert(link);
        self.apply_cut(link)
    }

    /// Ends a cut.
    pub fn restore(&mut self, link: usize) -> Result<(), NetworkError> {
        self.cut.remove(&link);
        self.apply_cut(link)
    }

    /// The interface of a device that leads to a medium.
    pub fn interface(medium: usize) -> String {
        format!("l{medium}")
    }

    fn check(&self, medium: usize, shape: &Shape) -> Result<(), NetworkError> {
        if self.netem || !shape.needs_netem() {
            return Ok(());
        }
        let link = &self.layout.links[self.layout.media[medium].links[0]];
        Err(NetworkError::NoNetem(self.layout.name_of(link)))
    }

    /// The settings of a device's namespace, before it has interfaces.
    fn settle(&self, device: usize, congestion: Option<&str>) -> Result<(), NetworkError> {
        let (space, node) = (&self.spaces[device], &self.layout.nodes[device]);
        for (setting, value) in [
            // The kernel's own chatter, and its doubts about ways back that differ from ways there.
            ("net/ipv6/conf/default/disable_ipv6", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
        ] {
            // Not every kernel has each, and none decides whether links carry anything.
            let _ = space.set(setting, value);
        }
        if node.forwards {
            let setting = "net/ipv4/ip_forward";
            let failed = |source| NetworkError::Setting {
                device: node.name.clone(),
                setting: "net.ipv4.ip_forward",
                value: "1".to_owned(),
                source,
            };
            space.set(setting, "1").map_err(failed)?;
        }
        let Some(name) = congestion else { return Ok(()) };
        space.set("net/ipv4/tcp_congestion_control", name).map_err(|_| {
            let granted =
                std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
            let granted = granted.unwrap_or_default().trim().to_owned();
            NetworkError::Congestion { name: name.to_owned(), granted }
        })
    }

    /// Makes the interfaces of a medium.
    fn join(&self, medium: usize) -> Result<(), NetworkError> {
        let Medium { sides, card, .. } = &self.layout.media[medium];
        let port = Self::interface(medium);
        let end = |device: usize| {
            let path = self.spaces[device].path();
            format!("{port} netns {} address {}", path.display(), hardware(device))
        };
        if card.is_none() {
            let (a, b) = (sides[0][0], sides[1][0]);
            let line = format!("link add {} type veth peer name {}", end(a), end(b));
            return run("ip", &self.middle, "the links", &[line]);
        }
        let mut lines = vec![format!("link add m{medium}a type veth peer name m{medium}b")];
        for (side, devices) in ["a", "b"].into_iter().zip(sides) {
            let bridge = format!("b{medium}{side}");
            lines.push(format!("link add {bridge} type bridge"));
            lines.push(format!("link set {bridge} up"));
            lines.push(format!("link set m{medium}{side} master {bridge} up"));
            for &device in devices {
                let name = format!("p{medium}d{device}");
                lines.push(format!("link add {name} type veth peer name {}", end(device)));
                lines.push(format!("link set {name} master {bridge} up"));
            }
        }
        run("ip", &self.middle, "the links", &lines)
    }

    /// Gives a device its address, neighbours and routes.
    fn address(&self, device: usize) -> Result<(), NetworkError> {
        let node = &self.layout.nodes[device];
        let mut lines =
            vec!["link set lo up".to_owned(), format!("addr add {}/32 dev lo", node.address)];
        for (medium, Medium { sides, .. }) in self.layout.media.iter().enumerate() {
            if sides.iter().any(|side| side.contains(&device)) {
                lines.push(format!("link set {} up", Self::interface(medium)));
            }
        }
        for link in 0..self.layout.links.len() {
            lines.extend(self.neighbour(link, device));
        }
        for route in &node.routes {
            let [target, next] =
                [route.target, route.next].map(|other| self.layout.nodes[other].address);
            let via = if target == next { String::new() } else { format!("via {next} onlink ") };
            let port = Self::interface(route.medium);
            lines.push(format!("route add {target}/32 {via}dev {port} src {}", node.address));
        }
        run("ip", &self.spaces[device], &node.name, &lines)
    }

    /// How a device reaches the other one of a link.
    fn neighbour(&self, link: usize, device: usize) -> Option<String> {
        let ends = &self.layout.links[link];
        let other = match ends.between {
            [a, b] if a == device => b,
            [a, b] if b == device => a,
            _ => return None,
        };
        let address = self.layout.nodes[other].address;
        let shared = self.layout.media[ends.medium].card.is_some();
        let lost = shared && self.cut.contains(&link);
        let hardware = if lost { NOBODY.to_owned() } else { hardware(other) };
        let port = Self::interface(ends.medium);
        Some(format!("neigh replace {address} lladdr {hardware} dev {port} nud permanent"))
    }

    /// Where the two directions of a medium are shaped: by what sends into it.
    fn points(&self, medium: usize) -> [(&Namespace, String); 2] {
        let Medium { sides, card, .. } = &self.layout.media[medium];
        match card {
            Some(_) => ["a", "b"].map(|side| (&self.middle, format!("m{medium}{side}"))),
            None => [0, 1].map(|side| (&self.spaces[sides[side][0]], Self::interface(medium))),
        }
    }

    fn apply(&self, medium: usize) -> Result<(), NetworkError> {
        let Medium { links, card, .. } = &self.layout.media[medium];
        let shape = self.shapes[medium];
        let silent = card.is_none() && self.cut.contains(&links[0]);
        for ((space, port), rate) in self.points(medium).into_iter().zip(shape.rates) {
            let lines = match silent {
                true => vec![format!("qdisc replace dev {port} root blackhole")],
                false => queues(&port, &shape, rate),
            };
            let place = self.layout.name_of(&self.layout.links[links[0]]);
            run("tc", space, &place, &lines)?;
        }
        Ok(())
    }

    fn apply_cut(&self, link: usize) -> Result<(), NetworkError> {
        let ends = &self.layout.links[link];
        if self.layout.media[ends.medium].card.is_none() {
            return self.apply(ends.medium);
        }
        for device in ends.between {
            let lines: Vec<String> = self.neighbour(link, device).into_iter().collect();
            run("ip", &self.spaces[device], &self.layout.nodes[device].name, &lines)?;
        }
        Ok(())
    }
}

/// The hardware address of a device, on whatever interface.
fn hardware(device: usize) -> String {
    format!("02:63:75:74:{:02x}:{:02x}", device / 256, device % 256)
}

/// The queues of one end: a rate, behind a delay where there is one.
fn queues(port: &str, shape: &Shape, rate: BytesPerSec) -> Vec<String> {
    let bits = u128::from(rate.0) * 8;
    // As long as a frame at 100 Mbit/s: a timer cannot keep up with single frames beyond that.
    let burst = (rate.0 / 7_800).max(FRAME);
    let rate = format!("tbf rate {bits}bit burst {burst} limit {}", shape.queue.0.max(2 * FRAME));
    if !shape.needs_netem() {
        return vec![format!("qdisc replace dev {port} root handle 1: {rate}")];
    }
    let (delay, jitter) = (shape.delay.0.div_ceil(1000), shape.jitter.0.div_ceil(1000));
    let loss = f64::from(shape.loss) / 1e4;
    vec![
        format!(
            "qdisc replace dev {port} root handle 2: netem limit {DELAYED} delay {delay}us \
             {jitter}us loss {loss}%"
        ),
        format!("qdisc replace dev {port} parent 2:1 handle 3: {rate}"),
    ]
}

/// Whether this kernel can delay: tries it where nobody is.
fn has_netem() -> Result<bool, NetworkError> {
    let space = Namespace::new().map_err(NetworkError::Namespace)?;
    let lines = ["qdisc add dev lo root netem delay 1ms".to_owned()];
    match run("tc", &space, "a trial", &lines) {
        Err(NetworkError::Refused { .. }) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Has `ip` or `tc` carry out commands in a namespace.
fn run(
    tool_name: &'static str,
    space: &Namespace,
    place: &str,
    lines: &[String],
) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Start { tool: tool_name, source };
    let mut command = tool(tool_name);
    space.contain(&mut command);
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where it ends early, it says why.
        let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(NetworkError::Refused { tool: tool_name, place: place.to_owned(), text })
}

#[cfg(test)]
mod tests {
    use cutline_core::units::Bytes;

    use super::*;

    #[test]
    fn a_rate_is_a_token_bucket_of_one_frame_and_a_delay_stands_before_it() {
        let rate = BytesPerSec(2_500_000);
        let mut shape = Shape {
            rates: [rate; 2],
            delay: Nanos::ZERO,
            jitter: Nanos::ZERO,
            loss: 0,
            queue: Bytes(4_000_000),
        };
        let alone =
            "qdisc replace dev l0 root handle 1: tbf rate 20000000bit burst 1600 limit 4000000";
        assert_eq!(queues("l0", &shape, rate), [alone]);
        let gigabit = &queues("l0", &shape, BytesPerSec(125_000_000))[0];
        assert!(gigabit.contains("rate 1000000000bit burst 16025 "), "{gigabit}");
        (shape.delay, shape.jitter, shape.loss) = (Nanos(10_000_000), Nanos(1_500), 12_500);
        assert_eq!(
            queues("l0", &shape, rate),
            [
                "qdisc replace dev l0 root handle 2: netem limit 100000 delay 10000us 2us loss 1.25%",
                "qdisc replace dev l0 parent 2:1 handle 3: tbf rate 20000000bit burst 1600 limit 4000000"
            ]
        );
    }
}
