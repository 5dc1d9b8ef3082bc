//! The frames of a run as a timeline: rows of slices, in the JSON format of Chrome's trace viewer,
//! which Perfetto opens.
//!
//! ```text
//! frames        ├──────── 0 ────────┤├──────── 2 ────────┤
//! frames (2)            ├──────── 1 ────────┤
//! 0-pi          ├─ 0 ─┤├─ 1 ─┤      ├─ 2 ─┤
//! pi to cloud          ├ 0 ┤  ├ 1 ┤        ├ 2 ┤
//! 1-cloud                  ├─ 0 ─┤├─ 1 ─┤      ├─ 2 ─┤
//! cloud to pi                    ├┤     ├┤           ├┤
//! ```
//!
//! Everything is put on the source agent's clock, by what each hop tells of its two ways. Slices of
//! one row never overlap: what would overlap gets a row of its own beside it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::slices::{Slice, What, slices};
use crate::stage::trace::Trace;

/// Most rows side by side for one stage or link; further slices share the last.
const MAX_LANES: usize = 64;

/// Frames so far, as far as later ones need to know: where each row is, and until when it is taken.
#[derive(Debug, Default)]
pub struct Timeline {
    /// The first moment, which is time 0.
    began: Option<u64>,
    /// Rows by place in a frame's order and name: the end of the last slice of each lane.
    rows: BTreeMap<(usize, String), Vec<Lane>>,
    next_row: u64,
}

#[derive(Debug)]
struct Lane {
    row: u64,
    until: u64,
}

impl Timeline {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events of a frame that was answered, each a JSON object: first those that name new rows.
    /// O(stages x lanes).
    pub fn frame(
        &mut self,
        index: u64,
        name: &str,
        route: Option<&str>,
        trace: &Trace,
    ) -> Vec<Value> {
        let mut events = Vec::new();
        let Some(source) = trace.stages.first() else { return events };
        let about = json!({"frame": index, "input": name, "route": route});
        let whole = (source.received_unix_ns, source.total_ns().0);
        self.place((0, "frames".to_owned()), ("frame", index), whole, about, &mut events);
        // Waiting is no work of its row.
        for slice in slices(trace).into_iter().filter(|slice| slice.what != What::Wait) {
            let (about, what) = (about_slice(&slice), slice.what.name());
            let Slice { place, row, start, length, .. } = slice;
            self.place((place, row), (what, index), (start, length.0), about, &mut events);
        }
        events
    }

    fn place(
        &mut self,
        (place, row): (usize, String),
        (what, index): (&str, u64),
        (start, length): (u64, u64),
        about: Value,
        events: &mut Vec<Value>,
    ) {
        let began = *self.began.get_or_insert(start);
        let name = row.clone();
        let lanes = self.rows.entry((place, row)).or_default();
        let free = lanes.iter().position(|lane| lane.until <= start);
        let lane = free.unwrap_or_else(|| {
            if lanes.len() < MAX_LANES {
                let row = self.next_row;
                self.next_row += 1;
                lanes.push(Lane { row, until: 0 });
                events.extend(names(row, place, &name, lanes.len()));
            }
            lanes.len() - 1
        });
        let lane = &mut lanes[lane];
        lane.until = lane.until.max(start.saturating_add(length));
        // A frame that was answered later may have begun before the first one.
        let since = start as i128 - i128::from(began);
        events.push(json!({
            "ph": "X",
            "name": format!("{what} {index}"),
            "cat": what,
            "pid": 1,
            "tid": lane.row,
            "ts": since as f64 / 1e3,
            "dur": length as f64 / 1e3,
            "args": about,
        }));
    }
}

/// What a slice tells beside its time.
fn about_slice(slice: &Slice<'_>) -> Value {
    match slice.what {
        What::Send | What::Answer => json!({ "bytes": slice.bytes }),
        What::Wait | What::Prepare | What::Compute => json!({
            "device": slice.stage.device,
            "waited_us": slice.stage.queue_ns.0 as f64 / 1e3,
        }),
    }
}

/// What names a row and puts it in its place.
fn names(row: u64, place: usize, name: &str, lane: usize) -> [Value; 2] {
    let name = match lane {
        1 => name.to_owned(),
        _ => format!("{name} ({lane})"),
    };
    let about = |event: &str, args: Value| json!({"ph": "M", "name": event, "pid": 1, "tid": row, "args": args});
    let order = place * MAX_LANES + lane;
    [
        about("thread_name", json!({ "name": name })),
        about("thread_sort_index", json!({ "sort_index": order })),
    ]
}

#[cfg(test)]
mod tests {
    use cutline_core::units::Nanos;

    use super::*;
    use crate::stage::trace::{HopTrace, StageTrace};

    /// A frame through two agents whose clocks are an hour apart: 1 us of waiting, 2 of preparing, 3
    /// of computing, 4 on the wire, 5 of computing, 6 on the way back.
    fn trace(began: u64) -> Trace {
        let stage =
            |name: &str, device: &str, received, total, queue, prepare, compute| StageTrace {
                name: name.to_owned(),
                device: device.to_owned(),
                received_unix_ns: received,
                queue_ns: Nanos(queue),
                prepare_ns: Nanos(prepare),
                compute_ns: Nanos(compute),
                sent_unix_ns: received + total,
                ..StageTrace::default()
            };
        let hour = 3_600_000_000_000;
        let hop = HopTrace {
            from: 0,
            into: 1,
            branch: false,
            began_unix_ns: began + 6_000,
            round_trip_ns: Nanos(15_000),
            upload_ns: Nanos(4_000),
            download_ns: Nanos(6_000),
            bytes_up: 40,
            bytes_down: 60,
            ..HopTrace::default()
        };
        let stages = vec![
            stage("0-pi", "pi", began, 21_000, 1_000, 2_000, 3_000),
            stage("1-cloud", "cloud", began + hour, 5_000, 0, 0, 5_000),
        ];
        Trace { stages, hops: vec![hop] }
    }

    /// Row, name, start and length of every slice, in microseconds.
    fn drawn(events: &[Value]) -> Vec<(String, String, f64, f64)> {
        let rows: BTreeMap<u64, String> = events
            .iter()
            .filter(|event| event["name"] == "thread_name")
            .map(|event| {
                (event["tid"].as_u64().unwrap(), event["args"]["name"].as_str().unwrap().to_owned())
            })
            .collect();
        let slices = events.iter().filter(|event| event["ph"] == "X");
        let text = |event: &Value| event["name"].as_str().unwrap().to_owned();
        slices
            .map(|e| {
                let row = rows[&e["tid"].as_u64().unwrap()].clone();
                (row, text(e), e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap())
            })
            .collect()
    }

    #[test]
    fn a_frame_is_drawn_on_one_clock() {
        let events = Timeline::new().frame(7, "a.jpg", Some("split"), &trace(1_000_000));
        let expected = [
            ("frames", "frame 7", 0.0, 21.0),
            ("0-pi", "prepare 7", 1.0, 2.0),
            ("0-pi", "compute 7", 3.0, 3.0),
            ("pi to cloud", "send 7", 6.0, 4.0),
            ("cloud to pi", "answer 7", 15.0, 6.0),
            ("1-cloud", "compute 7", 10.0, 5.0),
        ];
        let expected: Vec<_> = expected
            .map(|(row, what, at, long)| (row.to_owned(), what.to_owned(), at, long))
            .into();
        assert_eq!(drawn(&events), expected);
    }

    #[test]
    fn branches_are_drawn_beside_each_other() {
        let mut trace = trace(1_000_000);
        let [pi, cloud] = &trace.stages[..] else { panic!("two stages") };
        // The pi's own branch and what joins, on its clock; the cloud is one branch.
        let at = |name: &str, received: u64, compute: u64| StageTrace {
            name: name.to_owned(),
            received_unix_ns: 1_000_000 + received,
            sent_unix_ns: 1_000_000 + received + compute,
            compute_ns: Nanos(compute),
            ..pi.clone()
        };
        let (own, join) = (at("2-pi", 6_000, 9_000), at("3-pi", 21_000, 1_000));
        let quiet =
            |stage: StageTrace| StageTrace { queue_ns: Nanos(0), prepare_ns: Nanos(0), ..stage };
        let stages = vec![pi.clone(), cloud.clone(), quiet(own), quiet(join)];
        let here = |into, began: u64, took| HopTrace {
            into,
            began_unix_ns: 1_000_000 + began,
            round_trip_ns: Nanos(took),
            ..HopTrace::default()
        };
        let branch = |hop: HopTrace| HopTrace { branch: true, ..hop };
        let hops = vec![
            branch(trace.hops.remove(0)),
            branch(here(2, 6_000, 9_000)),
            here(3, 21_000, 1_000),
        ];
        let trace = Trace { stages, hops };
        assert_eq!(trace.beside().into_iter().collect::<Vec<_>>(), [2], "the cloud took 15 us");
        let events = Timeline::new().frame(7, "a.jpg", None, &trace);
        let computes: Vec<_> = drawn(&events)
            .into_iter()
            .filter(|(_, what, ..)| what.starts_with("compute"))
            .map(|(row, _, at, long)| (row, at, long))
            .collect();
        let expected =
            [("0-pi", 3.0, 3.0), ("1-cloud", 10.0, 5.0), ("2-pi", 6.0, 9.0), ("3-pi", 21.0, 1.0)];
        assert_eq!(computes, expected.map(|(row, at, long)| (row.to_owned(), at, long)));
        let messages = drawn(&events).into_iter().filter(|(row, ..)| row.contains(" to "));
        assert_eq!(messages.count(), 2, "what stays on a device crosses no link");
    }

    #[test]
    fn slices_of_a_row_never_overlap() {
        let mut timeline = Timeline::new();
        let begins = [0, 4_000, 5_000, 30_000, 29_000, 60_000];
        let events: Vec<Value> = begins
            .iter()
            .zip(0..)
            .flat_map(|(&began, index)| timeline.frame(index, "x", None, &trace(1_000_000 + began)))
            .collect();
        let mut by_row: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (row, _, at, long) in drawn(&events) {
            by_row.entry(row).or_default().push((at, at + long));
        }
        for (row, mut slices) in by_row.clone() {
            slices.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(slices.windows(2).all(|two| two[0].1 <= two[1].0), "{row}: {slices:?}");
        }
        assert!(by_row.contains_key("frames (3)") && !by_row.contains_key("frames (4)"));
        assert!(!by_row.contains_key("1-cloud (4)"));
    }

    #[test]
    fn a_frame_without_a_trace_is_not_drawn() {
        assert_eq!(Timeline::new().frame(0, "x", None, &Trace::default()), Vec::<Value>::new());
    }
}
