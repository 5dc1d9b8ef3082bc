//! Meters on machines made of files.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use super::*;

/// A tree of files, and a program that is not there unless it is made.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        put(dir.path(), path, text);
    }
    let places = Places { sys: dir.path().to_owned(), vcgencmd: dir.path().join("vcgencmd") };
    (dir, places)
}

/// Replaces a file at once, as a kernel's files change between two reads and not in one.
fn put(root: &Path, path: &str, text: &str) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let beside = root.join(format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::write(&beside, format!("{text}\n")).unwrap();
    fs::rename(beside, path).unwrap();
}

const PACKAGE: &str = "class/powercap/intel-rapl:0/energy_uj";

/// One package with its cores, its memory, the whole platform, and the second door to the package.
fn processor() -> Vec<(&'static str, &'static str)> {
    vec![
        ("class/powercap/intel-rapl/enabled", "1"),
        ("class/powercap/intel-rapl:0/name", "package-0"),
        (PACKAGE, "999000"),
        ("class/powercap/intel-rapl:0/max_energy_range_uj", "1000000"),
        ("class/powercap/intel-rapl:0:0/name", "core"),
        ("class/powercap/intel-rapl:0:0/energy_uj", "5"),
        ("class/powercap/intel-rapl:0:1/name", "dram"),
        ("class/powercap/intel-rapl:0:1/energy_uj", "70"),
        ("class/powercap/intel-rapl:0:1/max_energy_range_uj", "65000"),
        ("class/powercap/intel-rapl:1/name", "psys"),
        ("class/powercap/intel-rapl:1/energy_uj", "1"),
        ("class/powercap/intel-rapl:1/max_energy_range_uj", "65000"),
        ("class/powercap/intel-rapl-mmio:0/name", "package-0"),
        ("class/powercap/intel-rapl-mmio:0/energy_uj", "1"),
    ]
}

#[test]
fn counters_of_packages_and_memory_are_added_up_over_their_ends() {
    let (dir, places) = machine(&processor());
    let mut meter = open(&Choice::Auto, &places).unwrap();
    assert_eq!((meter.name(), meter.covers().as_str()), ("rapl", "package-0 + dram"));
    put(dir.path(), PACKAGE, "999400");
    put(dir.path(), "class/powercap/intel-rapl:0:1/energy_uj", "75");
    put(dir.path(), "class/powercap/intel-rapl:0:0/energy_uj", "4000");
    assert_eq!(meter.read().unwrap().energy_uj, 405);
    meter.mark().unwrap();
    put(dir.path(), PACKAGE, "200");
    assert_eq!(meter.read().unwrap().energy_uj, 800);
    put(dir.path(), PACKAGE, "300");
    assert_eq!(meter.read().unwrap().energy_uj, 900);
}

#[test]
fn the_platform_counts_where_there_is_no_package() {
    let files = processor();
    let platform: Vec<_> = files.into_iter().filter(|(path, _)| !path.contains(":0")).collect();
    let (_dir, places) = machine(&platform);
    assert_eq!(open(&Choice::Rapl, &places).unwrap().covers(), "psys");
}

#[test]
fn a_counter_that_is_not_a_number_is_told_with_its_file() {
    let (dir, places) = machine(&processor());
    put(dir.path(), PACKAGE, "-1");
    let error = open(&Choice::Rapl, &places).err().unwrap().to_string();
    assert!(error.contains("energy_uj") && error.contains("\"-1\""), "{error}");
    fs::remove_file(dir.path().join(PACKAGE)).unwrap();
    let error = open(&Choice::Rapl, &places).err().unwrap().to_string();
    assert!(error.contains("cannot read"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_counter_for_root_alone_is_explained() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, places) = machine(&processor());
    let counter = dir.path().join(PACKAGE);
    fs::set_permissions(&counter, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&counter).is_ok() {
        println!("skipped: this user may read every file");
        return;
    }
    let error = open(&Choice::Rapl, &places).err().unwrap().to_string();
    assert!(error.contains("chmod a+r /sys/class/powercap"), "{error}");
    let error = open(&Choice::Auto, &places).err().unwrap().to_string();
    assert!(error.contains("chmod a+r") && error.contains("INA3221"), "{error}");
}

#[test]
fn what_only_root_may_read_says_what_root_should_do() {
    let (path, remedy) = (PACKAGE.into(), "do this");
    let error = MeterError::Forbidden { path, remedy }.to_string();
    assert!(error.contains("may not read it; as root: do this"), "{error}");
}

/// Two chips: the module's input with a rail behind it, and rails by themselves.
fn jetson(label: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("class/hwmon/hwmon0/name", "cpu_thermal"),
        ("class/hwmon/hwmon0/power1_input", "99"),
        ("class/hwmon/hwmon3/name", "ina3221"),
        ("class/hwmon/hwmon3/in1_label", label),
        ("class/hwmon/hwmon3/in1_input", "5000"),
        ("class/hwmon/hwmon3/curr1_input", "1200"),
        ("class/hwmon/hwmon3/in2_label", "VDD_SOC"),
        ("class/hwmon/hwmon3/in2_input", "5000"),
        ("class/hwmon/hwmon3/curr2_input", "-4"),
        ("class/hwmon/hwmon3/in3_label", "NC"),
        ("class/hwmon/hwmon3/in3_input", "5000"),
        ("class/hwmon/hwmon3/curr3_input", "800"),
        ("class/hwmon/hwmon4/name", "ina3221"),
        ("class/hwmon/hwmon4/power1_input", "2500000"),
        ("class/hwmon/hwmon4/in2_enable", "0"),
        ("class/hwmon/hwmon4/in2_input", "1"),
        ("class/hwmon/hwmon4/curr2_input", "1"),
    ]
}

#[test]
fn the_rail_of_a_whole_module_stands_alone_and_others_add_up() {
    let power = |label| {
        let (_dir, places) = machine(&jetson(label));
        let mut meter = open(&Choice::Auto, &places).unwrap();
        meter.mark().unwrap();
        thread::sleep(Duration::from_millis(30));
        (meter.name(), meter.covers(), meter.read().unwrap().power().0)
    };
    let (name, covers, whole) = power("VDD_IN");
    assert_eq!((name, covers.as_str()), ("ina3221", "VDD_IN"));
    let (_, covers, sum) = power("VDD_CPU");
    assert_eq!(covers, "VDD_CPU + VDD_SOC + in1");
    for (found, expected) in [(whole, 6_000_000_u64), (sum, 8_500_000)] {
        assert!(found.abs_diff(expected) < 1000, "{found} in place of {expected}");
    }
}

#[test]
fn the_driver_of_older_systems_is_read_in_milliwatts() {
    let chip = "bus/i2c/drivers/ina3221x/6-0040/iio:device0";
    let file = |name: &str| format!("{chip}/{name}");
    let names = [file("rail_name_0"), file("in_power0_input"), file("in_power1_input")];
    let (_dir, places) =
        machine(&[(&names[0], "POM_5V_IN"), (&names[1], "2145"), (&names[2], "7")]);
    let mut meter = open(&Choice::Ina3221, &places).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(meter.covers(), "POM_5V_IN");
    assert!(meter.read().unwrap().power().0.abs_diff(2_145_000) < 1000);
}

#[test]
fn a_sensor_that_fails_in_between_spoils_the_reading_and_the_next_mark_forgets_it() {
    let (dir, places) = machine(&jetson("VDD_IN"));
    let current = "class/hwmon/hwmon3/curr1_input";
    let mut meter = open(&Choice::Ina3221, &places).unwrap();
    put(dir.path(), current, "?");
    assert!(meter.read().unwrap_err().to_string().contains("\"?\""));
    put(dir.path(), current, "1200");
    meter.mark().unwrap();
    assert!(meter.read().is_ok());
}

/// As a Raspberry Pi 5 prints it.
const RAILS: &str = "     3V7_WL_SW_A current(0)=0.10000000A\n       3V3_SYS_A current(1)=0.50000000A\n    VDD_CORE_A current(7)=2.00000000A\n     3V7_WL_SW_V volt(8)=3.70000000V\n       3V3_SYS_V volt(9)=3.30000000V\n    VDD_CORE_V volt(15)=0.80000000V\n        EXT5V_V volt(24)=5.10000000V\n        BATT_V volt(25)=0.00000000V\n";

#[test]
fn rails_of_a_power_chip_are_current_times_voltage() {
    assert_eq!(pmic::power(RAILS), Ok(370_000 + 1_650_000 + 1_600_000));
    let noise = RAILS.replace("0.10000000A", "-0.00100000A");
    assert_eq!(pmic::power(&noise), Ok(1_650_000 + 1_600_000));
    let cases = [
        ("", ""),
        ("error=1 error_msg=\"Command not registered\"", "error=1"),
        ("X_A current(0)=manyA", "X_A current"),
        ("X_A current(0)=1e9A", "X_A current"),
        ("X_A current(0)=nanA", "X_A current"),
        ("EXT5V_V volt(24)=5.1V", "EXT5V_V"),
    ];
    for (text, expected) in cases {
        let line = pmic::power(text).unwrap_err();
        assert!(line.starts_with(expected), "{text:?}: {line}");
    }
    let many: String = (0..100).map(|n| format!("R{n}_A current({n})=1.0A\n")).collect();
    assert!(pmic::power(&many).is_err());
}

#[cfg(unix)]
#[test]
fn the_power_chip_is_asked_through_its_program() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, places) = machine(&[("rails", RAILS)]);
    let error = open(&Choice::Pmic, &places).err().unwrap();
    assert!(matches!(error, MeterError::Absent { .. }), "{error}");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = pmic_read_adc ] && cat {}\n",
        dir.path().join("rails").display()
    );
    fs::write(&places.vcgencmd, script).unwrap();
    fs::set_permissions(&places.vcgencmd, fs::Permissions::from_mode(0o755)).unwrap();
    let mut meter = open(&Choice::Auto, &places).unwrap();
    assert_eq!(meter.name(), "pmic");
    thread::sleep(Duration::from_millis(20));
    assert!(meter.read().unwrap().power().0.abs_diff(3_620_000) < 2000);
}

#[test]
fn a_recording_plays_at_the_speed_of_the_clock() {
    let (dir, places) = machine(&[("power.csv", "time_s,power_w\n0,4\n1,4\n2,4\n3,4\n600,4")]);
    let choice: Choice = format!("csv:{}", dir.path().join("power.csv").display()).parse().unwrap();
    let mut meter = open(&choice, &places).unwrap();
    thread::sleep(Duration::from_millis(10));
    meter.mark().unwrap();
    thread::sleep(Duration::from_millis(50));
    let reading = meter.read().unwrap();
    assert!(reading.time >= Duration::from_millis(50) && reading.time < Duration::from_secs(2));
    assert!(reading.power().0.abs_diff(4_000_000) < 100, "{reading:?}");
}

#[test]
fn a_machine_without_sensors_says_what_was_looked_for() {
    let (_dir, places) = machine(&[]);
    let found = found(&places);
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["rapl", "ina3221", "pmic"]);
    assert!(found.iter().all(|found| matches!(found.outcome, Err(MeterError::Absent { .. }))));
    let error = open(&Choice::Auto, &places).err().unwrap().to_string();
    for expected in ["RAPL", "INA3221", "Raspberry Pi 5", "energy is modelled"] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn names_of_meters_are_read_as_they_are_written() {
    for name in ["auto", "rapl", "ina3221", "pmic", "csv:power.csv"] {
        assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
    }
    for name in ["", "csv:", "CSV:x", "wattmeter"] {
        let error = name.parse::<Choice>().unwrap_err().to_string();
        assert!(error.contains("csv:FILE"), "{error}");
    }
}
