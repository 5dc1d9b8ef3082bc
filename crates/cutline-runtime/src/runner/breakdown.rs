//! Where a frame's latency went, in the parts that Wang, Shibamura, Ng and Inoue (2022) take apart for
//! networks that run partly on a device and partly in the cloud over an IoT platform.
//!
//! ```text
//! source   ├ queue ┤ prepare ┤ compute ┤ encode ┤                            ├ decode ┤
//! wire                                          ├ upload ┤          ├ download ┤
//! cloud                                         ┤ decode ├ queue ┤ compute ┤
//! ```
//!
//! What lies between these is the platform's: waking threads, bookkeeping, and whatever stands between
//! two agents and tells of itself nothing but its time.
//!
//! What a message takes on the wire is its call's round trip less what the called agent says that it
//! took itself and less both ends' coding, so that no clock is compared with another. The offset of
//! the clocks says only how that time divides into the two ways.

use cutline_core::units::Nanos;
use serde::{Deserialize, Serialize};

use crate::stage::trace::{HopTrace, StageTrace, Trace};

/// A frame's latency by what it went into; the parts add up to it. Of branches that run at the same
/// time the slowest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breakdown {
    /// From the whole frame at the source to the whole answer there.
    pub latency_ns: Nanos,
    /// Decoding and resizing pictures, wherever that happens.
    pub prepare_ns: Nanos,
    /// Stages on the source.
    pub device_compute_ns: Nanos,
    /// Writing and reading the messages between devices.
    pub serialise_ns: Nanos,
    /// Requests on the wire.
    pub upload_ns: Nanos,
    /// Waiting for a device to be free.
    pub queue_ns: Nanos,
    /// Stages on other devices.
    pub cloud_compute_ns: Nanos,
    /// Answers on the wire, and their writing, which ends after their sender has told its times.
    pub download_ns: Nanos,
    /// What is left of the latency.
    pub platform_ns: Nanos,
}

impl Breakdown {
    /// Of a frame that was answered. `between` is how long messages were held by what stands between
    /// agents, such as a broker: time that they spent neither at an agent nor on an agent's wire.
    /// O(stages x hops).
    pub fn of(trace: &Trace, between: Nanos) -> Self {
        let Some(source) = trace.stages.first() else { return Self::default() };
        let beside = trace.beside();
        let waited = trace.stages.iter().enumerate().filter(|(at, _)| !beside.contains(at));
        let mut parts = Self { latency_ns: source.total_ns(), ..Self::default() };
        for (_, stage) in waited {
            parts.queue_ns += stage.queue_ns;
            parts.prepare_ns += stage.prepare_ns;
            match stage.device == source.device {
                true => parts.device_compute_ns += stage.compute_ns,
                false => parts.cloud_compute_ns += stage.compute_ns,
            }
        }
        for hop in trace.hops.iter().filter(|hop| !beside.contains(&hop.into)) {
            let Some((caller, called)) = trace.ends(hop) else { continue };
            if caller.device == called.device {
                continue;
            }
            parts.serialise_ns += hop.encode_ns + called.decode_ns + hop.decode_ns;
            let (up, down) = wire(hop, called);
            parts.upload_ns += up;
            parts.download_ns += down;
        }
        parts.hold(between);
        parts.platform_ns = Nanos(parts.latency_ns.0.saturating_sub(parts.named().0));
        parts
    }

    /// Takes from both ways what was spent between them, in their proportion.
    fn hold(&mut self, between: Nanos) {
        let both = self.upload_ns.0 + self.download_ns.0;
        let between = between.0.min(both);
        if both > 0 {
            let up = u128::from(between) * u128::from(self.upload_ns.0) / u128::from(both);
            let up = u64::try_from(up).unwrap_or(between);
            self.upload_ns = Nanos(self.upload_ns.0 - up);
            self.download_ns = Nanos(self.download_ns.0.saturating_sub(between - up));
        }
    }

    /// Sum of all parts but the platform's.
    pub fn named(&self) -> Nanos {
        Part::ALL.into_iter().filter(|part| *part != Part::Platform).map(|part| part.of(self)).sum()
    }

    /// The part that takes most; the earlier of equal ones.
    pub fn bottleneck(&self) -> Part {
        let most = |a: Part, b: Part| if b.of(self) > a.of(self) { b } else { a };
        Part::ALL.into_iter().reduce(most).unwrap_or(Part::Platform)
    }

    /// The median of each named part and of the latency; the platform has what is left of the latter,
    /// so that the parts add up. Nothing where there are no frames.
    pub fn medians(frames: &[Self]) -> Self {
        let median = |pick: &dyn Fn(&Self) -> Nanos| {
            let mut values: Vec<Nanos> = frames.iter().map(pick).collect();
            crate::stats::median(&mut values).unwrap_or_default()
        };
        let mut parts = Self { latency_ns: median(&|frame| frame.latency_ns), ..Self::default() };
        for part in Part::ALL {
            *part.of_mut(&mut parts) = median(&|frame| part.of(frame));
        }
        parts.platform_ns = Nanos(parts.latency_ns.0.saturating_sub(parts.named().0));
        parts
    }
}

/// Time on the wire, there and back.
fn wire(hop: &HopTrace, called: &StageTrace) -> (Nanos, Nanos) {
    let coding = hop.encode_ns + called.decode_ns + hop.decode_ns;
    let both = hop.round_trip_ns.0.saturating_sub(called.total_ns().0 + coding.0);
    let up = hop.upload_ns.0.saturating_sub(hop.encode_ns.0 + called.decode_ns.0);
    let up = match hop.upload_ns.0 + hop.download_ns.0 {
        // Nobody knows the other's clock: by the bytes, each message with a little beside.
        0 => {
            let (sent, came) = (u128::from(hop.bytes_up) + 64, u128::from(hop.bytes_down) + 64);
            u64::try_from(u128::from(both) * sent / (sent + came)).unwrap_or(both)
        }
        _ => up.min(both),
    };
    (Nanos(up), Nanos(both - up))
}

/// A part of a frame's latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Pictures.
    Prepare,
    /// Stages on the source.
    DeviceCompute,
    /// Messages written and read.
    Serialise,
    /// Requests on the wire.
    Upload,
    /// Waiting for a device.
    Queue,
    /// Stages elsewhere.
    CloudCompute,
    /// Answers on the wire.
    Download,
    /// What is left.
    Platform,
}

impl Part {
    /// All of them, in a frame's order.
    pub const ALL: [Part; 8] = [
        Part::Prepare,
        Part::DeviceCompute,
        Part::Serialise,
        Part::Upload,
        Part::Queue,
        Part::CloudCompute,
        Part::Download,
        Part::Platform,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Part::Prepare => "prepare",
            Part::DeviceCompute => "device compute",
            Part::Serialise => "serialise",
            Part::Upload => "upload",
            Part::Queue => "queue",
            Part::CloudCompute => "cloud compute",
            Part::Download => "download",
            Part::Platform => "platform",
        }
    }

    /// Its time.
    pub fn of(self, parts: &Breakdown) -> Nanos {
        *self.of_mut(&mut parts.clone())
    }

    fn of_mut(self, parts: &mut Breakdown) -> &mut Nanos {
        match self {
            Part::Prepare => &mut parts.prepare_ns,
            Part::DeviceCompute => &mut parts.device_compute_ns,
            Part::Serialise => &mut parts.serialise_ns,
            Part::Upload => &mut parts.upload_ns,
            Part::Queue => &mut parts.queue_ns,
            Part::CloudCompute => &mut parts.cloud_compute_ns,
            Part::Download => &mut parts.download_ns,
            Part::Platform => &mut parts.platform_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame through two agents whose clocks are an hour apart: on the pi 1 us of waiting, 2 of
    /// preparing, 30 of computing; 3 to write the request, 40 up, 2 to read it; in the cloud 4 of
    /// waiting, 50 of computing and 5 that it does not name; 6 down, 1 to read the answer.
    fn trace() -> Trace {
        let hour = 3_600_000_000_000;
        let stage = |device: &str, received, total, queue, prepare, compute| StageTrace {
            device: device.to_owned(),
            received_unix_ns: received,
            queue_ns: Nanos(queue),
            prepare_ns: Nanos(prepare),
            compute_ns: Nanos(compute),
            sent_unix_ns: received + total,
            ..StageTrace::default()
        };
        let pi = stage("pi", 1_000, 150, 1, 2, 30);
        let cloud = StageTrace { decode_ns: Nanos(2), ..stage("cloud", hour, 59, 4, 0, 50) };
        let hop = HopTrace {
            from: 0,
            into: 1,
            round_trip_ns: Nanos(111),
            encode_ns: Nanos(3),
            upload_ns: Nanos(45),
            download_ns: Nanos(7),
            decode_ns: Nanos(1),
            ..HopTrace::default()
        };
        Trace { stages: vec![pi, cloud], hops: vec![hop] }
    }

    fn sum(parts: &Breakdown) -> Nanos {
        parts.named() + parts.platform_ns
    }

    #[test]
    fn the_parts_of_a_frame_add_up_to_its_latency() {
        let parts = Breakdown::of(&trace(), Nanos::ZERO);
        let expected = Breakdown {
            latency_ns: Nanos(150),
            prepare_ns: Nanos(2),
            device_compute_ns: Nanos(30),
            serialise_ns: Nanos(6),
            upload_ns: Nanos(40),
            queue_ns: Nanos(5),
            cloud_compute_ns: Nanos(50),
            download_ns: Nanos(6),
            platform_ns: Nanos(11),
        };
        assert_eq!(parts, expected);
        assert_eq!(sum(&parts), parts.latency_ns);
        assert_eq!(parts.bottleneck(), Part::CloudCompute);
    }

    #[test]
    fn a_wrong_offset_of_the_clocks_moves_time_between_the_two_ways_only() {
        let mut trace = trace();
        (trace.hops[0].upload_ns, trace.hops[0].download_ns) = (Nanos(25), Nanos(27));
        let parts = Breakdown::of(&trace, Nanos::ZERO);
        assert_eq!((parts.upload_ns, parts.download_ns), (Nanos(20), Nanos(26)));
        assert_eq!(sum(&parts), parts.latency_ns);
        // Without any offset, too.
        (trace.hops[0].upload_ns, trace.hops[0].download_ns) = (Nanos(0), Nanos(0));
        let parts = Breakdown::of(&trace, Nanos::ZERO);
        assert_eq!((parts.upload_ns, parts.download_ns), (Nanos(23), Nanos(23)));
    }

    #[test]
    fn what_stands_between_two_agents_counts_as_the_platform() {
        let direct = Breakdown::of(&trace(), Nanos::ZERO);
        let through = Breakdown::of(&trace(), Nanos(23));
        assert_eq!(through.platform_ns, direct.platform_ns + Nanos(23));
        assert_eq!((through.upload_ns, through.download_ns), (Nanos(20), Nanos(3)));
        assert_eq!(sum(&through), direct.latency_ns);
        // More than there was on the wire cannot have been between.
        let all = Breakdown::of(&trace(), Nanos(1_000));
        assert_eq!((all.upload_ns, all.download_ns), (Nanos::ZERO, Nanos::ZERO));
        assert_eq!(sum(&all), direct.latency_ns);
    }

    #[test]
    fn what_stays_on_a_device_crosses_no_wire() {
        let mut trace = trace();
        trace.stages[1].device = "pi".to_owned();
        let parts = Breakdown::of(&trace, Nanos::ZERO);
        assert_eq!((parts.upload_ns, parts.serialise_ns), (Nanos::ZERO, Nanos::ZERO));
        assert_eq!(parts.device_compute_ns, Nanos(80));
        assert_eq!(sum(&parts), parts.latency_ns);
    }

    #[test]
    fn branches_that_nobody_waits_for_do_not_count() {
        let mut trace = trace();
        trace.hops[0].branch = true;
        let slower = HopTrace { into: 2, round_trip_ns: Nanos(112), ..trace.hops[0].clone() };
        let tpu = StageTrace {
            device: "tpu".to_owned(),
            compute_ns: Nanos(55),
            ..trace.stages[1].clone()
        };
        trace.stages.push(tpu);
        trace.hops.push(slower);
        let parts = Breakdown::of(&trace, Nanos::ZERO);
        assert_eq!(parts.cloud_compute_ns, Nanos(55));
        assert_eq!(sum(&parts), parts.latency_ns);
    }

    #[test]
    fn medians_add_up_too() {
        let frame = |latency, upload, queue| Breakdown {
            latency_ns: Nanos(latency),
            upload_ns: Nanos(upload),
            queue_ns: Nanos(queue),
            platform_ns: Nanos(latency - upload - queue),
            ..Breakdown::default()
        };
        let medians = Breakdown::medians(&[frame(10, 5, 1), frame(30, 6, 9), frame(20, 4, 2)]);
        assert_eq!(medians, frame(20, 5, 2));
        assert_eq!(Breakdown::medians(&[]), Breakdown::default());
    }
}
