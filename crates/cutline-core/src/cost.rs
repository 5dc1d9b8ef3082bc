//! What everything costs: one dense table of integers, whatever it was made from.
//!
//! [`Costs`] is made from measured profiles, or where there are none from presets
//! ([`Costs::from_profiles`]), or from a table of published costs ([`table::read`]), and is all that evaluation and planning see besides the
//! [`Dag`](crate::dag::Dag). Tables have one entry per device, engine option and group; nothing is
//! looked up by name.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    dag::FlowId,
    platform::{Device, DeviceId, Platform, Price, Tier, Workload},
    profile::{CodecTime, CodingTime},
    units::{Bytes, BytesPerSec, Microwatts, Nanojoules, Nanos, PicojoulesPerByte},
};

pub mod complexity;
mod correct;
mod idle;
pub mod link;
mod profiles;
pub mod table;

pub use idle::IdleError;

/// Name of the input encoding that is the tensor itself, and of the codec that changes nothing.
pub const TENSOR: &str = "fp32";

/// Name of the input encoding that is a resized picture of 8 bits a channel.
pub const PIXELS: &str = "uint8";

/// Where a number comes from; reports print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Origin {
    Measured,
    Fitted,
    Predicted,
    Preset,
    Assumed,
}

/// Where the energy of a device's computing comes from; reports print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnergyOrigin {
    /// From its profiles, by a meter.
    Measured,
    /// From a power that the platform file, a preset or a table of costs gives.
    Modelled,
}

/// Integer costs of one network on one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    pub(crate) devices: Vec<DeviceCosts>,
    pub(crate) links: Vec<LinkCosts>,
    pub(crate) inputs: Vec<InputEncoding>,
    pub(crate) codecs: Vec<Codec>,
    pub(crate) workload: Option<Workload>,
    /// Codecs that must not be used where exactly these values cross, the network's inputs apart.
    pub(crate) forbidden: Vec<(Vec<FlowId>, usize)>,
    /// Where idle power counts: from one frame of a source to its next.
    pub(crate) frame_interval: Option<Nanos>,
}

/// One device: its memory, and every engine that it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCosts {
    /// Name in the platform.
    pub name: String,
    /// Number of its host; devices of one host share its memory.
    pub host: usize,
    /// Where it stands, if that is said.
    pub tier: Option<Tier>,
    /// Power while it computes; `None`: not known, and then energy is not.
    pub power: Option<Microwatts>,
    /// Power while it waits; counts only after [`Costs::count_idle`].
    pub idle_power: Option<Microwatts>,
    /// Where both powers come from.
    pub energy_origin: EnergyOrigin,
    /// Energy of each group where it is known, in place of power times the group's time; empty: of
    /// none.
    pub group_energy: Vec<Option<Nanojoules>>,
    /// What it costs.
    pub price: Price,
    /// What the stages of its host may occupy; `None`: unlimited.
    pub memory: Option<Bytes>,
    /// Engine options; a plan uses one of them per device. At least one.
    pub options: Vec<EngineOption>,
}

/// One device with one engine at one number of threads: the resource that runs a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOption {
    /// Engine name; empty in a table of published costs.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// Threads; 0 in a table of published costs.
    pub threads: u32,
    /// Origin of the times.
    pub origin: Origin,
    /// Of predicted times: the median of their relative error, in thousandths.
    pub error_permille: Option<u64>,
    /// The same of a predicted memory.
    pub memory_error_permille: Option<u64>,
    /// e: fixed time of one engine call.
    pub call: Nanos,
    /// Memory of the engine without any model.
    pub engine_bytes: Bytes,
    /// Time of each group; `None` where it cannot run here.
    pub groups: Vec<Option<Nanos>>,
    /// Time of coding by codec of [`Costs::codecs`]; where the list ends early, none.
    pub coding: Vec<CodecTime>,
}

impl CodingTime {
    /// Of a message whose encoded values have this declared size, rounded up once; nothing where
    /// none crosses.
    pub fn of(self, declared: Bytes) -> Nanos {
        match declared {
            Bytes::ZERO => Nanos::ZERO,
            _ => self.fixed_ns + Nanos(scale(declared.0, self.per_kb_ns.0, 1000)),
        }
    }
}

/// A link between two devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCosts {
    /// The two ends; `up` is from the first to the second.
    pub between: [DeviceId; 2],
    /// First to second.
    pub up: link::Direction,
    /// Second to first.
    pub down: link::Direction,
    /// Energy of each end for a byte that it sends or receives.
    pub energy: [PicojoulesPerByte; 2],
    /// Number of the network card at each end; `None`: the link has one of its own there.
    pub cards: [Option<usize>; 2],
}

/// How the network's input travels when it crosses a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputEncoding {
    /// `fp32` (the tensors as declared), `uint8` (resized pixels), `jpeg` (the picture).
    pub name: String,
    /// Bytes that travel; `None`: the declared sizes of the tensors.
    pub bytes: Option<Bytes>,
    /// Whether the answer may change.
    pub lossy: bool,
    /// Time on each device to make these bytes from a picture; `fp32`: to make the input tensor.
    pub encode: Vec<Nanos>,
    /// Time on each device to make the input tensor from these bytes.
    pub decode: Vec<Nanos>,
}

/// How the values of a cut travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codec {
    /// `fp32` is the identity: values travel as declared.
    pub name: String,
    /// Encoded size is `num / den` of the declared one.
    pub num: u64,
    /// Denominator of the size; at least 1.
    pub den: u64,
    /// Whether the answer may change.
    pub lossy: bool,
}

/// Why a cost table cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum CostError {
    #[error(
        "device `{device}` has no profile and no preset; measure a profile with `cutline profile`, or name a preset (`cutline presets` lists them)"
    )]
    NoProfile { device: String },
    #[error("device `{device}`: there is no preset `{preset}`; `cutline presets` lists them")]
    NoSuchPreset { device: String, preset: String },
    #[error(
        "device `{device}`: preset `{preset}` knows its speed with {known} threads, not with {threads}; leave `threads` out"
    )]
    NoSuchSpeed { device: String, preset: String, threads: u32, known: String },
    #[error("device `{device}`: no profile is for engine `{engine}`; profiled are {profiled}")]
    NoSuchEngine { device: String, engine: String, profiled: String },
    #[error(
        "a profile of device `{device}` was measured on another model: it has sha256 {profile}, \
         this model has {model}; profile this model on that device"
    )]
    OtherModel { device: String, profile: String, model: String },
    #[error(
        "a profile of device `{device}` times a group `{group}` that this network does not have; \
         profile it again with this version"
    )]
    UnknownGroup { device: String, group: String },
    #[error("{what} are given for {given} {kind}, the platform declares {declared}")]
    Count { what: &'static str, kind: &'static str, given: usize, declared: usize },
    #[error("the link between `{a}` and `{b}` names the table `{file}`, which was not loaded")]
    TableNotLoaded { a: String, b: String, file: String },
    #[error("the measured table of the link between `{a}` and `{b}` has no point {direction}")]
    EmptyTable { a: String, b: String, direction: &'static str },
    #[error(
        "a profile of device `{device}` has version {version}; this program reads versions 1 and 2"
    )]
    ProfileVersion { device: String, version: u32 },
    #[error("costs version {0} is not known; this program reads version 1")]
    Version(u32),
    #[error("the costs have no layers")]
    NoLayers,
    #[error("layer `{0}` is listed twice")]
    DuplicateLayer(String),
    #[error("layer `{layer}` reads `{input}`, which no layer makes")]
    UnknownInput { layer: String, input: String },
    #[error("output `{0}` is not a layer")]
    UnknownOutput(String),
    #[error("the costs name no outputs; the plan must know what to answer")]
    NoOutputs,
    #[error("layer `{0}` depends on its own result")]
    Cycle(String),
    #[error("codec `{name}`: size ratio {num}/{den}; both must be between 1 and 1000000")]
    Codec { name: String, num: u64, den: u64 },
    #[error("codec `{0}` is listed twice, or takes the name of the identity `fp32`")]
    DuplicateCodec(String),
}

impl Costs {
    /// Devices in the platform's order.
    pub fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    /// Ids of the devices.
    pub fn device_ids(&self) -> impl Iterator<Item = DeviceId> + use<> {
        (0..self.devices.len()).map(DeviceId::new)
    }

    /// The device behind an id.
    pub fn device(&self, id: DeviceId) -> &DeviceCosts {
        &self.devices[id.index()]
    }

    /// The device of this name.
    pub fn find_device(&self, name: &str) -> Option<DeviceId> {
        self.devices.iter().position(|device| device.name == name).map(DeviceId::new)
    }

    /// Links in the platform's order.
    pub fn links(&self) -> &[LinkCosts] {
        &self.links
    }

    /// Who is served, where that is known.
    pub fn workload(&self) -> Option<&Workload> {
        self.workload.as_ref()
    }

    /// Input encodings on offer; the tensor itself is always among them.
    pub fn inputs(&self) -> &[InputEncoding] {
        &self.inputs
    }

    /// Codecs on offer; the first is the identity `fp32`.
    pub fn codecs(&self) -> &[Codec] {
        &self.codecs
    }

    /// Whether a codec must not be used where exactly these values cross.
    pub(crate) fn forbids(
        &self,
        codec: usize,
        crossing: impl Iterator<Item = FlowId> + Clone,
    ) -> bool {
        let mut there = self.forbidden.iter().filter(|(_, banned)| *banned == codec);
        there.any(|(values, _)| values.iter().copied().eq(crossing.clone()))
    }

    /// What coding takes on a device with one of its engines.
    pub fn coding(&self, device: DeviceId, option: usize, codec: usize) -> CodecTime {
        self.device(device).options[option].coding.get(codec).copied().unwrap_or_default()
    }

    /// Offers the input as 8-bit pixels where no profile times how it is prepared. Nothing is known
    /// of that time then, so it counts nothing, as it does for the tensor.
    pub fn offer_pixels(&mut self, pixels: Bytes) {
        let devices = self.devices.len();
        if let [InputEncoding { name, .. }] = self.inputs.as_slice()
            && name == TENSOR
            && self.tensor_time() == Nanos::ZERO
        {
            self.inputs.push(InputEncoding {
                name: PIXELS.to_owned(),
                bytes: Some(pixels),
                lossy: false,
                encode: vec![Nanos::ZERO; devices],
                decode: vec![Nanos::ZERO; devices],
            });
            InputEncoding::sort(&mut self.inputs);
        }
    }

    /// Makes the input travel in an encoding with so many bytes, as were measured of it. Offers the
    /// encoding, as [`offer_pixels`](Self::offer_pixels) does, where no profile times how the input is
    /// prepared. Whether it is on offer now.
    pub fn send_input_as(&mut self, name: &str, bytes: Bytes, lossy: bool) -> bool {
        if let Some(input) = self.inputs.iter_mut().find(|input| input.name == name) {
            input.bytes = Some(bytes);
            return true;
        }
        let times = vec![Nanos::ZERO; self.devices.len()];
        let untimed = self.tensor_time() == Nanos::ZERO;
        if untimed {
            let (encode, decode) = (times.clone(), times);
            let name = name.to_owned();
            self.inputs.push(InputEncoding { name, bytes: Some(bytes), lossy, encode, decode });
            InputEncoding::sort(&mut self.inputs);
        }
        untimed
    }

    /// Makes a codec turn values of a declared size into so many bytes, as were measured of it.
    /// Whether the codec is on offer.
    pub fn send_values_as(&mut self, name: &str, declared: Bytes, sent: Bytes) -> bool {
        let codec = self.codecs.iter_mut().find(|codec| codec.name == name);
        let Some(codec) = codec.filter(|_| declared.0 > 0) else { return false };
        (codec.num, codec.den) = (sent.0, declared.0);
        true
    }

    /// Time on the source to make the input tensor from a picture.
    pub fn tensor_time(&self) -> Nanos {
        let tensor = self.inputs.iter().find(|input| input.name == TENSOR);
        tensor.map_or(Nanos::ZERO, |tensor| tensor.encode[DeviceId::SOURCE.index()])
    }

    /// What a message from one device to another meets; `None` without a declared link.
    pub fn direction(&self, from: DeviceId, to: DeviceId) -> Option<&link::Direction> {
        self.link(from, to).map(|(link, back)| if back { &link.down } else { &link.up })
    }

    /// The link that joins two devices, and whether `from` is its second end.
    pub fn link(&self, from: DeviceId, to: DeviceId) -> Option<(&LinkCosts, bool)> {
        self.links.iter().find_map(|link| match link.between {
            [a, b] if (a, b) == (from, to) => Some((link, false)),
            [a, b] if (b, a) == (from, to) => Some((link, true)),
            _ => None,
        })
    }

    /// The same costs with other rates on one link.
    pub fn with_rates(&self, link: usize, up: BytesPerSec, down: BytesPerSec) -> Self {
        let mut costs = self.clone();
        if let Some(link) = costs.links.get_mut(link) {
            for (direction, rate) in [(&mut link.up, up), (&mut link.down, down)] {
                direction.rate = rate;
                direction.table = Vec::new();
            }
        }
        costs
    }
}

impl InputEncoding {
    /// The order in which equally good plans prefer encodings: lossless first, of those the tensor.
    fn sort(encodings: &mut [Self]) {
        encodings.sort_by(|a, b| {
            let rank = |encoding: &Self| (encoding.lossy, encoding.name != TENSOR);
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
        });
    }
}

impl Codec {
    /// Values travel as they are declared.
    pub fn identity() -> Self {
        Codec { name: TENSOR.to_owned(), num: 1, den: 1, lossy: false }
    }

    /// Encoded size of a message's values, rounded up once.
    pub fn encoded(&self, declared: Bytes) -> Bytes {
        Bytes(scale(declared.0, self.num, self.den))
    }
}

fn scale(value: u64, num: u64, den: u64) -> u64 {
    let exact = (u128::from(value) * u128::from(num)).div_ceil(u128::from(den));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// What a platform file says of a device, with the engines that it may use.
fn device_costs(platform: &Platform, device: &Device, options: Vec<EngineOption>) -> DeviceCosts {
    let host = platform.devices().iter().position(|other| other.host == device.host);
    let host_memory =
        platform.devices().iter().filter(|other| other.host == device.host).find_map(|d| d.memory);
    DeviceCosts {
        name: device.name.clone(),
        host: host.unwrap_or_default(),
        tier: device.tier,
        power: device.power,
        idle_power: device.idle_power,
        energy_origin: EnergyOrigin::Modelled,
        group_energy: Vec::new(),
        price: device.price,
        memory: host_memory,
        options,
    }
}

/// Links of a platform, each from its measured table or from its declared figures.
fn link_costs(
    platform: &Platform,
    tables: &[Option<crate::profile::LinkTable>],
) -> Result<Vec<LinkCosts>, CostError> {
    let declared = platform.links().len();
    if tables.len() != declared {
        let (what, kind, given) = ("tables", "links", tables.len());
        return Err(CostError::Count { what, kind, given, declared });
    }
    let mut cards = link::Cards::default();
    let costs =
        |(link, table): (&_, &Option<_>)| link::costs(platform, link, table.as_ref(), &mut cards);
    platform.links().iter().zip(tables).map(costs).collect()
}
