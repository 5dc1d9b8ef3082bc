//! The public table of measured networks: one line per device, setting and network.

use std::collections::{BTreeMap, BTreeSet};

use super::{Processor, Row, UnseenError};
use crate::units::Nanos;

/// Columns that are read.
const COLUMNS: [&str; 6] = ["device", "num_threads", "powersave", "gpu_device", "model", "min_ms"];

/// Chips under several names, on boards that differ in little else: a word that all their names hold,
/// and no other's.
const CHIPS: [&str; 6] = ["rk3588", "rk3399", "rk3566", "rk3568", "kunpeng 920", "raspberry pi 5"];

/// Rows of the table in the format of ncnn's benchmark as comma separated values: the float networks
/// of each device and setting (threads, power mode, GPU), aliases of networks and devices merged.
///
/// The least of a network's repetitions counts, and the median where a setting was measured twice.
pub fn parse(text: &str) -> Result<Vec<Row>, UnseenError> {
    let mut lines = text.lines();
    let head = fields(lines.next().unwrap_or_default());
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        *place = head.iter().position(|name| name == column).ok_or(UnseenError::Column(column))?;
    }
    let mut times: BTreeMap<[String; 4], BTreeMap<String, Vec<u64>>> = BTreeMap::new();
    for (number, line) in (2..).zip(lines) {
        let fields = fields(line);
        let field = |at: usize| fields.get(places[at]).cloned().unwrap_or_default();
        let network = field(4).to_lowercase().replace('-', "_");
        if network.ends_with("_int8") {
            continue;
        }
        let time: f64 = field(5).parse().map_err(|_| UnseenError::Line(number))?;
        let nanos = (time * 1e6).round();
        if !(1.0..1e18).contains(&nanos) {
            return Err(UnseenError::Line(number));
        }
        let setting = [field(0), field(1), field(2), field(3)];
        times.entry(setting).or_default().entry(network).or_default().push(nanos as u64);
    }
    Ok(times.into_iter().map(|(setting, networks)| row(setting, networks)).collect())
}

fn row([device, _, _, gpu]: [String; 4], networks: BTreeMap<String, Vec<u64>>) -> Row {
    let median = |mut times: Vec<u64>| {
        times.sort_unstable();
        let (low, high) = (times[(times.len() - 1) / 2], times[times.len() / 2]);
        Nanos(low.midpoint(high))
    };
    let lower = device.to_lowercase();
    let chip = CHIPS.iter().find(|chip| lower.contains(**chip));
    Row {
        device: chip.map_or(device, |chip| (*chip).to_owned()),
        // The number of the GPU; -1 or nothing: none.
        processor: if gpu.parse::<u32>().is_ok() { Processor::Gpu } else { Processor::Cpu },
        times: networks.into_iter().map(|(name, times)| (name, median(times))).collect(),
    }
}

/// The fields of a line; a field in quotes may hold commas.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().expect("never empty").push(character),
        }
    }
    fields
}

/// Networks that enough rows hold to say something of them.
pub(super) fn networks(rows: &[&Row], least: usize) -> Vec<String> {
    let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.times.keys()).collect();
    let count = |name: &&&String| rows.iter().filter(|row| row.times.contains_key(**name)).count();
    names.iter().filter(|name| count(name) >= least).map(|name| (*name).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept_apart_and_aliases_merged() {
        let text = "device,loop_count,num_threads,powersave,gpu_device,model,min_ms,max_ms\n\
                    \"Board, Rockchip RK3588 (x4)\",4,1,0,-1,yolo-tiny,1.5,2\n\
                    \"Board, Rockchip RK3588 (x4)\",4,1,0,-1,yolo_tiny,2.5,2\n\
                    \"Board, Rockchip RK3588 (x4)\",4,1,0,0,net_int8,2.5,2\n\
                    \"Board, Rockchip RK3588 (x4)\",4,1,0,0,net,2.5,2\n\
                    Other RK3588s,4,1,0,,net,4,5\n";
        let rows = parse(text).unwrap();
        assert!(rows.iter().all(|row| row.device == "rk3588"), "{rows:?}");
        let times: Vec<_> = rows.iter().map(|row| (row.processor, &row.times)).collect();
        let of = |name: &str, nanos| BTreeMap::from([(name.to_owned(), Nanos(nanos))]);
        assert_eq!(times[0], (Processor::Cpu, &of("yolo_tiny", 2_000_000)));
        assert_eq!(times[1], (Processor::Gpu, &of("net", 2_500_000)));
        assert_eq!(times[2], (Processor::Cpu, &of("net", 4_000_000)));
    }

    #[test]
    fn broken_tables_are_refused_with_the_place() {
        let head = COLUMNS.join(",");
        assert_eq!(parse("device,model\n"), Err(UnseenError::Column("num_threads")));
        for time in ["", "0", "-1", "nan", "1e300", "x"] {
            let text = format!("{head}\nd,1,0,-1,net,{time}\n");
            assert_eq!(parse(&text), Err(UnseenError::Line(2)), "{time}");
        }
    }
}
