//! `cutline testbed` as its users see it: real agents, links that the kernel shapes, orders from
//! elsewhere, and nothing left at the end.
//!
//! Where the system lets its users make no namespaces, each test says so and is skipped.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cutline_runtime::testbed::namespace::{self, Signal};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_cutline");
/// How long anything may take on a machine that does something else too.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tells this program to be an end of a transfer, which it is inside a test bed.
const ROLE: &str = "CUTLINE_TEST_ROLE";
/// Port of the receiving end.
const PORT: u16 = 7000;
/// Bytes of a frame on the wire for each byte of TCP.
const WIRE: f64 = 1514.0 / 1448.0;

/// Two devices; agents are slow so that any number of them may share a machine.
const PAIR: &str = r#"
version = 1
[[device]]
name = "the pi"
threads = 1
testbed = { slowdown = 50 }
[[device]]
name = "localhost"
threads = 1
testbed = { slowdown = 50 }
[[link]]
between = ["the pi", "localhost"]
up = "8mbit"
down = "40mbit"
"#;

/// Two cameras behind one uplink.
const CAMERAS: &str = r#"
version = 1
[[device]]
name = "cam1"
threads = 1
testbed = { slowdown = 50 }
[[device]]
name = "cam2"
threads = 1
testbed = { slowdown = 50 }
[[device]]
name = "cloud"
threads = 1
testbed = { slowdown = 50 }
[[link]]
between = ["cam1", "cloud"]
up = "8mbit"
cards = ["", "uplink"]
[[link]]
between = ["cloud", "cam2"]
up = "8mbit"
cards = ["uplink", ""]
"#;

/// Is no test: what this program does inside a test bed.
#[test]
fn end_of_a_transfer() {
    let Ok(role) = env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["receive", port] => receive(port.parse().unwrap()),
        ["send", address, bytes] => send(address, bytes.parse().unwrap()),
        _ => panic!("`{role}` is no role"),
    }
}

/// Answers the end of each transfer with a byte.
fn receive(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    eprintln!("receives");
    for stream in listener.incoming() {
        thread::spawn(move || {
            let mut stream = stream.unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            let _ = stream.write_all(b".");
        });
    }
}

/// Says how many seconds it takes to send so much, or that it takes too long.
fn send(address: &str, bytes: usize) {
    let limit = Duration::from_secs(10);
    let start = Instant::now();
    let connected =
        TcpStream::connect_timeout(&format!("{address}:{PORT}").parse().unwrap(), limit / 5);
    let sent = connected.and_then(|mut stream| {
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(&vec![7; bytes])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_exact(&mut [0])
    });
    match sent {
        Ok(()) => eprintln!("took {}", start.elapsed().as_secs_f64()),
        Err(error) => eprintln!("failed: {:?}", error.kind()),
    }
}

/// A test bed that runs; it is killed where a test does not end it.
struct Bed {
    child: Child,
    folder: tempfile::TempDir,
}

impl Bed {
    /// Starts one and waits until its agents listen; none where the system refuses.
    fn start(file: &str) -> Option<Self> {
        let folder = folder(file)?;
        let mut command =
            cutline(&folder, &["testbed", "bed.toml", "-o", "platform.toml", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["testbed"], "testbed", "{line}");
        Some(Self { child, folder })
    }

    fn order(&self, words: &[&str]) -> Output {
        cutline(&self.folder, &[&["testbed"], words].concat()).output().unwrap()
    }

    /// Gives an order that is carried out, and returns what it says.
    fn obeys(&self, words: &[&str]) -> Value {
        let output = self.order(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Gives an order that is refused with these words.
    fn refuses(&self, words: &[&str], expected: &str) {
        let output = self.order(words);
        assert!(!output.status.success(), "{words:?} is obeyed");
        assert!(said(&output).contains(expected), "{words:?}: {}", said(&output));
    }

    fn exec(&self, device: &str, role: &str) -> Command {
        let me = env::current_exe().unwrap();
        let words = ["testbed", "exec", device, "--", me.to_str().unwrap()];
        let words = [&words[..], &["--exact", "end_of_a_transfer", "--nocapture"]].concat();
        let mut command = cutline(&self.folder, &words);
        command.env(ROLE, role).stdout(Stdio::null());
        command
    }

    /// A device takes transfers from now on, until the returned process or the test bed ends.
    fn receives(&self, device: &str, port: u16) -> Receiver {
        let mut receiver = self.exec(device, &format!("receive {port}"));
        let mut receiver = receiver.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut words = BufReader::new(receiver.stderr.take().unwrap());
        while words.read_line(&mut line).unwrap() > 0 && !line.contains("receives") {}
        assert!(line.contains("receives"), "{line}");
        Receiver(receiver)
    }

    /// Seconds of a transfer, or why it failed.
    fn transfer(&self, device: &str, address: &str, bytes: usize) -> Result<f64, String> {
        let output = self.exec(device, &format!("send {address} {bytes}")).output().unwrap();
        let said = said(&output);
        let word = |key: &str| {
            said.lines().find_map(|line| line.rsplit_once(key).map(|(_, rest)| rest.to_owned()))
        };
        match word("took ") {
            Some(seconds) => Ok(seconds.parse().unwrap()),
            None => Err(word("failed: ").unwrap_or(said)),
        }
    }

    /// The transfer takes this many seconds. The best of some, for the machine may be slower than
    /// its network; none can be faster.
    fn takes(&self, device: &str, address: &str, bytes: usize, expected: f64) {
        let mut all = Vec::new();
        for _ in 0..5 {
            all.push(self.transfer(device, address, bytes).unwrap());
            if all.last().is_some_and(|took| *took < expected * 1.25) {
                break;
            }
        }
        let best = all.iter().copied().fold(f64::INFINITY, f64::min);
        let ratio = best / expected;
        assert!((0.75..1.25).contains(&ratio), "{all:?} s, and not {expected:.3} s");
    }

    /// What the namespace holds.
    fn processes(&self) -> Processes {
        let status = self.obeys(&["status"]);
        let process = u32::try_from(status["process"].as_u64().unwrap()).unwrap();
        Processes { inside: process, namespace: namespace::user_namespace(process).unwrap() }
    }

    /// How the agent of a device does.
    fn state(&self, device: &str) -> String {
        let status = self.obeys(&["status"]);
        let devices = status["devices"].as_array().unwrap();
        let device = devices.iter().find(|other| other["name"] == device).unwrap();
        device["state"].as_str().unwrap().to_owned()
    }

    fn ends(mut self) -> (Option<i32>, tempfile::TempDir) {
        let code = wait(&mut self.child).code();
        // Dropped whole, it would be killed again.
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        (code, folder)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // What ends in this moment is as good as ended.
            let _ = namespace::signal(self.child.id(), Signal::Terminate);
            let _ = self.child.wait();
        }
    }
}

/// What takes transfers; killed when dropped, if it still runs.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything of a test bed, told by its namespace.
struct Processes {
    inside: u32,
    namespace: std::path::PathBuf,
}

impl Processes {
    fn count(&self) -> usize {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        all.filter(|&id| namespace::user_namespace(id).is_ok_and(|n| n == self.namespace)).count()
    }

    fn are_gone(&self) {
        let start = Instant::now();
        while self.count() > 0 {
            assert!(start.elapsed() < PATIENCE, "{} processes are left", self.count());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn folder(file: &str) -> Option<tempfile::TempDir> {
    if let Err(refusal) = namespace::possible() {
        eprintln!("skipped: {refusal}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bed.toml"), file).unwrap();
    Some(folder)
}

fn cutline(folder: &tempfile::TempDir, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(words).current_dir(folder.path()).stdin(Stdio::null());
    // The socket is found here, and nobody else's.
    command.env("XDG_RUNTIME_DIR", folder.path()).env_remove("CUTLINE_TESTBED");
    command.env("TMPDIR", folder.path());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "process {} does not end", child.id());
        thread::sleep(Duration::from_millis(5));
    }
}

fn seconds(bytes: usize, megabits: f64) -> f64 {
    bytes as f64 * 8.0 * WIRE / (megabits * 1e6)
}

#[test]
fn a_transfer_takes_what_the_rate_says_and_a_cut_is_silent_until_it_is_mended() {
    let Some(bed) = Bed::start(PAIR) else { return };
    let (pi, cloud) = ("10.77.0.1", "10.77.0.2");
    let _receiver = bed.receives("the pi", PORT);
    let _receiver = bed.receives("localhost", PORT);
    bed.takes("the pi", cloud, 500_000, seconds(500_000, 8.0));
    bed.takes("localhost", pi, 1_000_000, seconds(1_000_000, 40.0));

    let link = "localhost,the pi";
    let report = bed.obeys(&["set", link, "up=4mbit", "down=16mbit"]);
    assert_eq!(report["links"][0]["up_bytes_per_sec"], 500_000, "up is as the file has it");
    bed.takes("the pi", cloud, 250_000, seconds(250_000, 4.0));
    bed.takes("localhost", pi, 500_000, seconds(500_000, 16.0));

    bed.obeys(&["cut", link]);
    assert_eq!(bed.transfer("the pi", cloud, 1), Err("TimedOut".to_owned()));
    bed.obeys(&["set", link, "up=16mbit"]);
    assert_eq!(bed.transfer("localhost", pi, 1), Err("TimedOut".to_owned()));
    assert_eq!(bed.obeys(&["status"])["links"][0]["cut"], true);
    bed.obeys(&["restore", "the pi,localhost"]);
    bed.takes("the pi", cloud, 500_000, seconds(500_000, 16.0));

    bed.refuses(&["set", link, "up=0mbit"], "use `cut`");
    bed.refuses(&["set", link, "up=fast"], "`up=fast` is not a change such as up=2mbit");
    bed.refuses(
        &["cut", "the pi,moon"],
        "no link is named `the pi,moon`; there are: the pi,localhost",
    );
    bed.refuses(&["exec", "moon", "--", "true"], "there is no device `moon`");
    bed.refuses(&["exec", "the pi", "--", "no-such-program"], "no-such-program");
    // Nothing outside can be reached.
    let outside = bed.transfer("the pi", "192.0.2.1", 1).unwrap_err();
    assert_eq!(outside, "NetworkUnreachable");
}

#[test]
fn links_of_one_card_share_its_rate() {
    let Some(bed) = Bed::start(CAMERAS) else { return };
    let _receiver = bed.receives("cloud", PORT);
    let _receiver = bed.receives("cam2", PORT);
    let (bytes, cloud) = (400_000, "10.77.0.3");
    let alone = seconds(bytes, 8.0);
    bed.takes("cam1", cloud, bytes, alone);
    bed.takes("cam2", cloud, bytes, alone);
    let together = || {
        let senders = ["cam1", "cam2"].map(|name| {
            let role = format!("send {cloud} {bytes}");
            bed.exec(name, &role).stderr(Stdio::piped()).spawn().unwrap()
        });
        senders.map(|sender| {
            let text = said(&sender.wait_with_output().unwrap());
            text.split("took ").nth(1).unwrap().lines().next().unwrap().parse::<f64>().unwrap()
        })
    };
    // How the two share is TCP's affair; but the last byte arrives when all would have, one after
    // the other, and no two links of this rate take as long.
    let mut tries = Vec::new();
    for _ in 0..5 {
        let ratio = together().into_iter().fold(0.0, f64::max) / (2.0 * alone);
        tries.push(ratio);
        if (0.75..1.25).contains(&ratio) {
            break;
        }
    }
    assert!(tries.last().is_some_and(|ratio| (0.75..1.25).contains(ratio)), "{tries:?}");

    // A cut is between two devices: the other camera goes on.
    bed.obeys(&["cut", "cam1,cloud"]);
    assert_eq!(bed.transfer("cam1", cloud, 1), Err("TimedOut".to_owned()));
    bed.takes("cam2", cloud, bytes, alone);
    bed.obeys(&["restore", "cam1,cloud"]);
    bed.takes("cam1", cloud, bytes, alone);
    // The cameras have no link: they reach each other by way of the cloud.
    bed.takes("cam1", "10.77.0.2", bytes, alone);
    // A change of one link changes the card.
    let report = bed.obeys(&["set", "cam2,cloud", "down=16mbit"]);
    assert_eq!(report["links"].as_array().unwrap().len(), 2);
    bed.takes("cam1", cloud, bytes, alone / 2.0);
}

#[test]
fn an_agent_is_killed_frozen_and_started_again() {
    let Some(bed) = Bed::start(PAIR) else { return };
    let listening = |bed: &Bed| {
        let me = cutline(
            &bed.folder,
            &["testbed", "exec", "the pi", "--", "bash", "-c", "exec 3<>/dev/tcp/10.77.0.2/9001"],
        );
        { me }.stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(listening(&bed));
    let platform = fs::read_to_string(bed.folder.path().join("platform.toml")).unwrap();
    assert!(platform.contains("http://10.77.0.2:9001"), "{platform}");
    bed.refuses(&["start", "localhost"], "the agent of `localhost` is running already");
    bed.refuses(&["cont", "localhost"], "cannot be continued: it is running");

    bed.obeys(&["stop", "localhost"]);
    assert_eq!(bed.state("localhost"), "frozen");
    bed.obeys(&["cont", "localhost"]);
    assert_eq!(bed.state("localhost"), "running");

    let killed = bed.obeys(&["kill", "localhost"]);
    assert_eq!(killed["devices"][0]["state"], "down");
    assert!(killed["devices"][0]["why"].as_str().unwrap().contains("signal: 9"), "{killed}");
    assert!(!listening(&bed));
    bed.refuses(&["kill", "localhost"], "cannot be killed: it is down");
    // Something else took its port meanwhile.
    let thief = bed.receives("localhost", 9001);
    bed.refuses(&["start", "localhost"], "cannot listen on 10.77.0.2:9001");
    assert_eq!(bed.state("localhost"), "down");
    drop(thief);
    bed.obeys(&["start", "localhost"]);
    assert_eq!(bed.state("localhost"), "running");
    assert!(listening(&bed));
}

#[test]
fn nothing_is_left_however_it_ends() {
    type End = fn(&Bed, &Processes);
    let ends: [(&str, End, Option<i32>); 4] = [
        ("Ctrl-C", |bed, _| namespace::signal(bed.child.id(), Signal::Interrupt).unwrap(), Some(0)),
        (
            "SIGTERM",
            |bed, _| namespace::signal(bed.child.id(), Signal::Terminate).unwrap(),
            Some(0),
        ),
        ("SIGKILL", |bed, _| namespace::signal(bed.child.id(), Signal::Kill).unwrap(), None),
        (
            "its inner part killed",
            |_, all| namespace::signal(all.inside, Signal::Kill).unwrap(),
            Some(137),
        ),
    ];
    for (name, end, expected) in ends {
        let Some(bed) = Bed::start(PAIR) else { return };
        let mut receiver = bed.receives("localhost", PORT);
        bed.obeys(&["stop", "the pi"]);
        let all = bed.processes();
        assert!(all.count() >= 4, "its root, two agents, and what was executed");
        end(&bed, &all);
        let (code, folder) = bed.ends();
        assert_eq!(code, expected, "{name}");
        // It ends by the test bed's doing, before this test would end it.
        wait(&mut receiver.0);
        all.are_gone();
        let kept = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let kept: Vec<_> =
            kept.filter(|name| name.display().to_string().contains("testbed-")).collect();
        assert!(kept.is_empty(), "{name}: {kept:?}");
        let ended = cutline(&folder, &["testbed", "status"]).output().unwrap();
        assert!(said(&ended).contains("no testbed `testbed` runs"), "{name}: {}", said(&ended));
    }
}

#[test]
fn a_command_runs_on_the_source_and_its_end_is_the_end() {
    let Some(folder) = folder(PAIR) else { return };
    // It finds its test bed by itself; what it leaves running is ended.
    let script = format!(
        "sleep 1000 & {BINARY} testbed cut 'the pi,localhost' && {BINARY} testbed status --json > status.json; exit 7"
    );
    let words = ["testbed", "bed.toml", "--name", "other", "--", "sh", "-c", &script];
    let output = cutline(&folder, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let status = fs::read(folder.path().join("status.json")).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["links"][0]["cut"], true);
    let process = status["process"].as_u64().unwrap();
    assert!(!Path::new(&format!("/proc/{process}")).exists());

    let output =
        cutline(&folder, &["testbed", "bed.toml", "--", "no-such-program"]).output().unwrap();
    assert!(said(&output).contains("cannot run `no-such-program`"), "{}", said(&output));
}

#[test]
fn the_example_of_the_page_can_be_built() {
    let page = include_str!("../../../docs/testbed.md");
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let Some(bed) = Bed::start(example) else { return };
    assert_eq!(bed.obeys(&["status"])["devices"].as_array().unwrap().len(), 3);
}

#[test]
fn congestion_control_is_that_of_the_file() {
    let Some(folder) = folder(&("testbed.congestion = \"reno\"\n".to_owned() + PAIR)) else {
        return;
    };
    let setting = "/proc/sys/net/ipv4/tcp_congestion_control";
    let output = cutline(&folder, &["testbed", "bed.toml", "--", "cat", setting]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "reno\n", "{}", said(&output));
}

#[test]
fn a_delay_is_there_or_refused_with_a_way_out() {
    let Some(folder) = folder(&PAIR.replace("up =", "delay = \"20ms\"\nup =")) else { return };
    let run = |options: &[&str]| {
        let script = "import socket,time;t=time.time();\
                      c=socket.create_connection(('10.77.0.2',9001));print(time.time()-t)";
        let words = [&["testbed", "bed.toml"], options, &["--", "python3", "-c", script]].concat();
        cutline(&folder, &words).output().unwrap()
    };
    let seconds = |output: &Output| -> Option<f64> {
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let without = run(&["--no-delay"]);
    let Some(without) = seconds(&without) else {
        return eprintln!("skipped: no Python: {}", said(&without));
    };
    assert!(without < 0.04, "{without} s");
    let with = run(&[]);
    match seconds(&with) {
        Some(with) => assert!(with >= 0.04, "{with} s"),
        None => {
            let words = said(&with);
            assert!(words.contains("no netem") && words.contains("--no-delay"), "{words}");
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_the_reason() {
    let Some(folder) = folder(PAIR) else { return };
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("engine.toml", PAIR.replacen("threads = 1", "threads = 1\nengine = \"steam\"", 1));
    write("twice.toml", PAIR.to_owned() + &PAIR[PAIR.find("[[link]]").unwrap()..]);
    write("slow.toml", PAIR.replace("slowdown = 50", "slowdown = 0.2"));
    write("congestion.toml", "testbed = { congestion = \"no-such\" }\n".to_owned() + PAIR);
    for (words, expected) in [
        (&["absent.toml"][..], "absent.toml"),
        (&["twice.toml"], "is declared twice"),
        (&["slow.toml"], "device `the pi`: testbed.slowdown"),
        (&["engine.toml"], "the agent of `the pi` did not start"),
        (&["engine.toml"], "steam"),
        (&["congestion.toml"], "congestion control `no-such` is refused here"),
        (&["bed.toml", "-o", "absent/platform.toml"], "absent"),
        (&["bed.toml", "--name", "a/b"], "`a/b` cannot name a testbed"),
        (&["status"], "no testbed `testbed` runs"),
        (&["set", "a,b"], "KEY=VALUE"),
    ] {
        let output = cutline(&folder, &[&["testbed"], words].concat()).output().unwrap();
        assert!(!output.status.success(), "{words:?} is taken");
        assert!(said(&output).contains(expected), "{words:?}: {}", said(&output));
    }
    let Some(bed) = Bed::start(PAIR) else { return };
    bed.refuses(&["bed.toml"], "a testbed `testbed` runs already");
}
