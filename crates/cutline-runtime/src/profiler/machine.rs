//! What is asked of the machine itself, and what a profile says of it.

use std::fs;

use cutline_core::{
    graph::{Graph, Origin},
    profile::ProfileKey,
    tensor::DType,
    units::Nanos,
};

/// The processor as it names itself: the model name of an x86 processor, the board of an ARM one.
pub fn hardware() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let board = || fs::read_to_string("/proc/device-tree/model").ok();
    field(&info, "model name")
        .or_else(|| field(&info, "Model"))
        .or_else(|| board().map(|name| name.trim_end_matches('\0').to_owned()))
        .or_else(|| field(&info, "Hardware"))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The first `name : value` of a table of the kernel.
pub(super) fn field(table: &str, name: &str) -> Option<String> {
    let value = table.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })?;
    let words: Vec<&str> = value.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Numeric type in which most of the network computes: `int8` if it quantises, else that of most of
/// its weights.
pub fn precision(graph: &Graph) -> String {
    let is_quantised = |dtype| matches!(dtype, Some(DType::I8 | DType::U8));
    let weights = || graph.values().iter().filter(|value| value.origin == Origin::Weight);
    let bytes_of = |wanted: &dyn Fn(Option<DType>) -> bool| -> u64 {
        let values = weights().filter(|value| wanted(value.dtype));
        values.filter_map(|value| value.shape.as_ref()?.elements()).sum()
    };
    let eight = bytes_of(&is_quantised);
    let half = bytes_of(&|dtype| matches!(dtype, Some(DType::F16 | DType::BF16)));
    let single = bytes_of(&|dtype| matches!(dtype, Some(DType::F32 | DType::F64)));
    let name = match eight.max(half).max(single) {
        most if most == single => "fp32",
        most if most == half => "fp16",
        _ => "int8",
    };
    name.to_owned()
}

/// A time on a device that is `permille` thousandths as slow as this machine, rounded up.
pub(super) fn slowed(time: Nanos, permille: u64) -> Nanos {
    let product = u128::from(time.0) * u128::from(permille);
    Nanos(u64::try_from(product.div_ceil(1000)).unwrap_or(u64::MAX))
}

/// A key to be filled in.
pub(super) fn empty_key() -> ProfileKey {
    ProfileKey {
        model_sha256: String::new(),
        hardware: String::new(),
        engine: String::new(),
        engine_version: String::new(),
        threads: 1,
        precision: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let table =
            "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some  CPU @ 2GHz\n\nmodel name : B";
        assert_eq!(field(table, "model name").as_deref(), Some("Some CPU @ 2GHz"));
        assert_eq!(field(table, "name"), None);
        assert_eq!(field("Hardware :\n", "Hardware"), None);
        assert!(!hardware().is_empty());
    }

    #[test]
    fn a_slower_device_takes_longer() {
        assert_eq!(slowed(Nanos(1_000_001), 4000), Nanos(4_000_004));
        assert_eq!(slowed(Nanos(3), 1500), Nanos(5));
        assert_eq!(slowed(Nanos(u64::MAX), 2000), Nanos(u64::MAX));
    }
}
