//! `cutline run --journal`: what a run held when it was killed is told by the next one, frame by frame.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Cursor, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::zoo::{self, ZooOptions};
use image::{GrayImage, ImageFormat, Luma};
use prost::Message;
use serde_json::{Value, json};

/// How long anything may take to happen, on a machine that does something else too.
const PATIENCE: Duration = Duration::from_secs(60);

/// LeNet-5 split over two agents, which stay while runs come and go.
struct Scene {
    folder: tempfile::TempDir,
    agents: [AgentProcess; 2],
}

/// A run on a camera.
struct Run {
    child: Child,
    camera: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

fn jpeg(seed: u32) -> Vec<u8> {
    let noise = |x: u32, y: u32| Luma([(x * seed + y * 31 + x * y * (seed + 5)) as u8]);
    let mut file = Cursor::new(Vec::new());
    GrayImage::from_fn(28, 28, noise).write_to(&mut file, ImageFormat::Jpeg).unwrap();
    file.into_inner()
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
        fs::write(folder.path().join("net.onnx"), lenet.encode_to_vec()).unwrap();
        let agents = ["edge", "cloud"].map(|name| {
            let options = AgentOptions {
                engine: Some("rten".to_owned()),
                threads: Some(1),
                store: folder.path().join(name),
                ..AgentOptions::default()
            };
            AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_cutline")), &options).unwrap()
        });
        let platform = format!(
            "version = 1\n[[device]]\nname = \"pi\"\naddress = \"{}\"\n[[device]]\n\
             name = \"cloud\"\naddress = \"{}\"\n[[link]]\nbetween = [\"pi\", \"cloud\"]\n\
             up = \"20mbit\"\n",
            agents[0].address, agents[1].address
        );
        fs::write(folder.path().join("platform.toml"), platform).unwrap();
        let scene = Self { folder, agents };
        let split = ["split", "net.onnx", "--at", "pool1", "--platform", "platform.toml"];
        let done = scene.command(&split).args(["-o", "parts"]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutline"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, more: &[&str]) -> Run {
        let fixed = ["run", "net.onnx", "--plan", "parts/plan.json", "--input", "-"];
        let journal = ["--journal", "j", "--in-flight", "4", "--json"];
        let mut child =
            self.command(&[&fixed[..], &journal, more].concat()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Run { camera: child.stdin.take(), child, lines }
    }

    /// Sends a signal to the cloud's agent.
    fn signal(&self, name: &str) {
        let id = self.agents[1].id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Waits for a record of the journal.
    fn until(&self, record: &str) {
        let began = Instant::now();
        while !fs::read_to_string(self.path("j")).is_ok_and(|text| text.contains(record)) {
            assert!(began.elapsed() < PATIENCE, "{record} is not in the journal");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Run {
    fn show(&mut self, pictures: u32) {
        let film: Vec<u8> = (0..pictures).flat_map(jpeg).collect();
        self.camera.as_mut().unwrap().write_all(&film).unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Kills it, and reads the whole lines that it had written by then.
    fn kill(&mut self) -> Vec<Value> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends its camera, and reads the rest.
    fn end(mut self) -> (Vec<Value>, Output) {
        drop(self.camera.take());
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        let output = self.child.wait_with_output().unwrap();
        (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output)
    }
}

/// Numbers of the frames of some lines.
fn frames<'a>(lines: impl IntoIterator<Item = &'a Value>) -> Vec<u64> {
    lines.into_iter().filter_map(|line| line["frame"].as_u64()).collect()
}

#[test]
fn the_run_after_a_kill_tells_exactly_the_frames_without_an_answer() {
    let scene = Scene::new();
    let mut killed = scene.run(&["--no-fallback"]);
    assert_eq!(killed.next(), json!({ "lost": [], "next": 0 }));
    killed.show(5);
    let answered: Vec<Value> = (0..5).map(|_| killed.next()).collect();
    assert_eq!(frames(&answered), [0, 1, 2, 3, 4]);
    scene.until("- 4\n");
    // From here on frames get no further than to the cloud.
    scene.signal("-STOP");
    killed.show(7);
    scene.until("+ 8 \"-\"\n");

    let other = scene.run(&[]).end().1;
    let text = String::from_utf8(other.stderr).unwrap();
    assert!(
        !other.status.success() && text.contains("another run writes the journal `j`"),
        "{text}"
    );

    assert_eq!(killed.kill(), Vec::<Value>::new());
    scene.signal("-CONT");
    let mut next = scene.run(&["--quiet"]);
    let lost = [5, 6, 7, 8].map(|frame| json!({ "frame": frame, "input": "-" }));
    assert_eq!(next.next(), json!({ "lost": lost, "next": 9 }));
    next.show(3);
    let (lines, output) = next.end();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert_eq!(frames(&lines), [0, 1, 2]);
    for words in
        ["4 frames are lost", "frame 5 (`-`)", "frame 8 (`-`)", "frames from 9 on were not"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }

    let mut last = scene.run(&[]);
    assert_eq!(last.next(), json!({ "lost": [], "next": 0 }), "one that ended leaves nothing");
    last.show(1);
    let (_, output) = last.end();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !text.contains("killed"), "{text}");
}

#[test]
fn a_run_killed_at_any_moment_leaves_no_frame_untold() {
    let scene = Scene::new();
    let mut run = scene.run(&[]);
    assert_eq!(run.next()["next"], 0);
    for round in 0..6 {
        run.show(40);
        let mut seen: Vec<Value> = (0..3 + 5 * round).map(|_| run.next()).collect();
        thread::sleep(Duration::from_micros(700 * round));
        seen.extend(run.kill());
        let answered = frames(&seen);
        assert!(answered.is_sorted_by(|a, b| a < b), "each once, in order: {answered:?}");
        run = scene.run(&[]);
        let told = run.next();
        let lost = frames(told["lost"].as_array().unwrap());
        let both: Vec<&u64> = lost.iter().filter(|frame| answered.contains(frame)).collect();
        let last = answered.last().unwrap();
        assert!(both.is_empty() || both == [last], "{both:?} are answered and told lost");
        let all: BTreeSet<u64> = answered.iter().chain(&lost).copied().collect();
        let taken: BTreeSet<u64> = (0..told["next"].as_u64().unwrap()).collect();
        assert_eq!(all, taken, "a frame that was taken is answered or told lost");
    }
    run.show(1);
    assert!(run.end().1.status.success());
}

#[test]
fn a_run_whose_reader_has_left_ends_and_leaves_its_frames_to_the_next() {
    let scene = Scene::new();
    let mut unread = scene.run(&[]);
    assert_eq!(unread.next()["next"], 0);
    drop(unread.lines);
    let began = Instant::now();
    // Its camera goes on: it ends by itself.
    while unread.child.try_wait().unwrap().is_none() {
        let _ = unread.camera.as_mut().unwrap().write_all(&jpeg(1));
        thread::sleep(Duration::from_millis(5));
        assert!(began.elapsed() < PATIENCE);
    }
    let mut next = scene.run(&[]);
    let told = next.next();
    assert_eq!(told["lost"][0], json!({ "frame": 0, "input": "-" }), "{told}");
    next.show(1);
    assert!(next.end().1.status.success());
}
