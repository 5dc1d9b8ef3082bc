//! Links shape what passes, follow their commands, and carry plans.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use cutline_core::units::{BytesPerSec, Nanos};
use cutline_runtime::{
    link::{Change, Link, LinkConfig, LinkHandle, parse_schedule},
    runner::Runner,
};
use fleet::{Device, chain, expected, frame, options, wait};

const X: [f32; 4] = [0.5, -1.0, 2.0, 3.25];

/// A server that sends back whatever comes, connection by connection.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = client.try_clone().unwrap();
                let mut to = client;
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

fn link(adjust: impl FnOnce(&mut LinkConfig)) -> LinkHandle {
    let mut config = LinkConfig::new("127.0.0.1:0", echo());
    adjust(&mut config);
    Link::start(config).unwrap()
}

/// Sends so many bytes, reads them back, and says how long both took.
fn round_trip(link: &LinkHandle, bytes: usize) -> Duration {
    let mut client = TcpStream::connect(link.local_addr()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let sent: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    let mut received = Vec::new();
    let started = Instant::now();
    let mut writer = client.try_clone().unwrap();
    let outgoing = sent.clone();
    let writer = thread::spawn(move || {
        writer.write_all(&outgoing).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    client.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} of {} bytes came back right", received.len(), sent.len());
    started.elapsed()
}

fn mbit(rate: u64) -> Option<BytesPerSec> {
    Some(BytesPerSec(rate * 125_000))
}

#[test]
fn what_passes_is_whole_and_never_early() {
    for (bytes, up, down, delay_ms, least_ms) in [
        (1, None, None, 20, 40),
        (50_000, mbit(10), None, 5, 51),
        (50_000, None, mbit(10), 5, 51),
        (3_000_000, None, None, 0, 0),
    ] {
        let link = link(|config| {
            (config.up, config.down) = (up, down);
            config.delay = Nanos(delay_ms * 1_000_000);
        });
        let took = round_trip(&link, bytes);
        assert!(took >= Duration::from_millis(least_ms), "{bytes} B came back after {took:?}");
        let status = link.status();
        assert_eq!((status.bytes_up, status.bytes_down), (bytes as u64, bytes as u64));
    }
}

#[test]
fn jitter_keeps_the_order_of_bytes() {
    let link = link(|config| {
        config.delay = Nanos(2_000_000);
        config.jitter = Nanos(2_000_000);
        config.up = mbit(200);
    });
    round_trip(&link, 200_000);
}

#[test]
fn a_cut_link_carries_nothing_until_it_is_mended() {
    let link = link(|_| {});
    let mut client = TcpStream::connect(link.local_addr()).unwrap();
    let mut byte = [0];
    client.write_all(b"a").unwrap();
    client.read_exact(&mut byte).unwrap();
    link.cut();
    assert!(link.status().cut);
    client.write_all(b"b").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.read_exact(&mut byte).is_err());
    link.resume();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
}

#[test]
fn a_stopped_link_closes_its_connections() {
    let link = link(|_| {});
    let address = link.local_addr();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"a").unwrap();
    client.read_exact(&mut [0]).unwrap();
    link.stop();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn an_unreachable_far_end_closes_the_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let link = Link::start(LinkConfig::new("127.0.0.1:0", nobody.to_string())).unwrap();
    let mut client = TcpStream::connect(link.local_addr()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn commands_change_a_running_link() {
    let link = link(|config| config.control = Some("127.0.0.1:0".to_owned()));
    let control = TcpStream::connect(link.control_addr().unwrap()).unwrap();
    let mut answers = BufReader::new(control.try_clone().unwrap());
    let mut ask = |line: &str| -> serde_json::Value {
        writeln!(&control, "{line}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    assert_eq!(ask("status")["cut"], false);
    let set = ask("set up=5mbit delay=10ms");
    assert_eq!((&set["up_bytes_per_s"], &set["delay_ns"]), (&625_000.into(), &10_000_000.into()));
    assert_eq!(ask("cut")["cut"], true);
    assert_eq!(ask("resume")["cut"], false);
    assert_eq!(ask("reset")["cut"], false);
    assert!(ask("set up=fast")["error"].as_str().unwrap().contains("such as `20mbit`"));
    assert!(ask("explode")["error"].is_string());
    assert_eq!(link.status().up_bytes_per_s, mbit(5));
}

#[test]
fn a_schedule_is_followed() {
    let link = link(|config| {
        config.schedule = parse_schedule("0 up=20mbit\n0.05 down=10mbit\n0.1 cut\n").unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while !link.status().cut {
        assert!(Instant::now() < deadline, "the schedule stopped");
        thread::yield_now();
    }
    let status = link.status();
    assert_eq!((status.up_bytes_per_s, status.down_bytes_per_s), (mbit(20), mbit(10)));
}

#[test]
fn a_plan_runs_over_a_link_and_through_its_changes() {
    let folder = tempfile::tempdir().unwrap();
    let devices = [Device::start(), Device::start()];
    let mut config = LinkConfig::new("127.0.0.1:0", devices[1].address());
    config.delay = Nanos(15_000_000);
    let link = Link::start(config).unwrap();
    let mut deployment = chain(&folder, &[devices[0].address(), devices[1].address()]);
    let next = deployment.stages[0].spec.next.as_mut().unwrap();
    next.address = link.local_addr().to_string();
    wait(async {
        let mut options = options();
        options.frame_timeout = Duration::from_secs(2);
        let runner = Runner::deploy(deployment, options, |_| {}).await.unwrap();
        let answer = runner.infer(frame(X)).await.unwrap();
        assert_eq!(answer.outputs, expected(X));
        let hop = &answer.trace.hops[0];
        assert!(hop.round_trip_ns.0 >= 30_000_000, "{hop:?}");
        for way in [hop.upload_ns, hop.download_ns] {
            assert!((14_000_000..=hop.round_trip_ns.0).contains(&way.0), "{hop:?}");
        }
        link.cut();
        let error = runner.infer(frame(X)).await.unwrap_err();
        assert!(error.to_string().contains("was not answered"), "{error}");
        link.resume();
        link.set(Change { delay: Some(Nanos(0)), ..Change::default() });
        assert_eq!(runner.infer(frame(X)).await.unwrap().outputs, expected(X));
    });
}

#[test]
fn a_link_is_measured_over_the_protocol() {
    let devices = [Device::start(), Device::start()];
    let mut config = LinkConfig::new("127.0.0.1:0", devices[1].address());
    (config.up, config.delay) = (mbit(40), Nanos(5_000_000));
    let link = Link::start(config).unwrap();
    wait(async {
        let client = devices[0].client().await;
        let mut steps = 0;
        let target = link.local_addr().to_string();
        let sizes = [100_000, 1_000];
        let table = client.measure_link(&target, &sizes, 5, |_| steps += 1).await.unwrap();
        assert!(steps >= 2);
        let (up, down) = (&table.up, &table.down);
        assert_eq!(up.iter().map(|point| point.bytes.0).collect::<Vec<_>>(), [1_000, 100_000]);
        assert_eq!((up[0].timing.count, down.len()), (5, 2));
        // 100 kB at 40 Mbit/s take 20.9 ms on the wire and 5 ms on the way; nothing slows the answer.
        assert!(up[1].timing.median_ns.0 > 25_000_000, "{up:?}");
        assert!(down[1].timing.median_ns < up[1].timing.median_ns, "{table:?}");
        let error = client.measure_link("127.0.0.1:1", &[], 1, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("is not reachable"), "{error}");
    });
}
