//! Agents, links, a camera and a run, all as processes, and everything that can be done to them.

use std::{
    fs,
    io::{BufRead, BufReader, Cursor, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cutline::fleet::{AgentOptions, AgentProcess};
use cutline_core::{
    onnx::ImportOptions,
    zoo::{self, ZooOptions},
};
use cutline_runtime::model::Model;
use image::{GrayImage, ImageFormat, Luma};
use prost::Message;
use serde_json::{Value, json};

/// Time between two signs of life.
const HEARTBEAT: &str = "100ms";

/// Time between two pictures of the camera.
const INTERVAL: Duration = Duration::from_millis(40);

/// How long anything may take to happen, on a machine that does something else too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pictures that differ; the camera shows one after another, again and again.
const PICTURES: u32 = 7;

/// How much slower than this machine the agents are, so that frames are under way when something
/// happens.
const SLOWDOWN: f64 = 20.0;

/// An agent that can be killed and started again where it was.
pub(crate) struct Agent {
    process: Option<AgentProcess>,
    options: AgentOptions,
}

impl Agent {
    fn start(store: &Path) -> Self {
        let mut options = AgentOptions {
            engine: Some("rten".to_owned()),
            threads: Some(1),
            slowdown: Some(SLOWDOWN),
            store: store.to_owned(),
            ..AgentOptions::default()
        };
        let process = AgentProcess::start(binary(), &options).unwrap();
        options.listen = Some(process.address.to_string());
        Self { process: Some(process), options }
    }

    pub(crate) fn address(&self) -> &str {
        self.options.listen.as_deref().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Some(AgentProcess::start(binary(), &self.options).unwrap());
    }

    /// Stages that it serves, by its own count.
    pub(crate) fn stages(&self) -> u64 {
        let mut agent = TcpStream::connect(self.address()).unwrap();
        write!(agent, "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
        let count = BufReader::new(agent).lines().find_map(|line| {
            line.unwrap().strip_prefix("cutline_stages ").map(|count| count.trim().to_owned())
        });
        count.unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

/// `cutline link` with its control port.
pub(crate) struct Link {
    process: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl Link {
    pub(crate) fn start(listen: &str, to: &str) -> Self {
        let mut process = Command::new(binary())
            .args(["link", "--json", "--quiet", "--listen", listen, "--to", to])
            .args(["--control", "127.0.0.1:0", "--up", "50mbit", "--delay", "2ms"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = |key: &str| said[key].as_str().unwrap().parse().unwrap();
        Self { process, address: address("listening"), control: address("control") }
    }

    pub(crate) fn order(&self, command: &str) {
        let mut control = TcpStream::connect(self.control).unwrap();
        writeln!(control, "{command}").unwrap();
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer).unwrap();
        assert!(!answer.contains("error"), "{answer}");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How the plan of a run is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planned {
    /// By a person: LeNet-5 parted behind its first pooling.
    ByHand,
    /// The best one at every speed of the link.
    Swept,
}

/// What a third agent is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hub {
    /// There is none.
    Absent,
    /// Another device.
    Device,
    /// The cloud, too.
    Replica,
}

/// LeNet-5 on two or three agents with a link to the cloud, and a run of it on a camera's pictures.
pub(crate) struct Scene {
    pub(crate) edge: Agent,
    pub(crate) cloud: Agent,
    pub(crate) hub: Option<Agent>,
    pub(crate) link: Option<Link>,
    pub(crate) listen: String,
    run: Child,
    lines: mpsc::Receiver<Value>,
    camera: Option<thread::JoinHandle<u64>>,
    stop: mpsc::Sender<()>,
    /// What each picture's answer is.
    expected: Vec<Value>,
    /// Routes of the frames that were answered, in order.
    pub(crate) routes: Vec<String>,
    folder: tempfile::TempDir,
}

/// A run, its camera, and what it prints.
struct Film {
    run: Child,
    lines: mpsc::Receiver<Value>,
    camera: thread::JoinHandle<u64>,
    stop: mpsc::Sender<()>,
}

impl Film {
    fn start(path: &Path) -> Self {
        let fixed = ["run", "net.onnx", "--plan", "parts/plan.json", "--input", "-", "--json"];
        let mut run =
            cutline(path, &[&fixed[..], &["--heartbeat", HEARTBEAT]].concat()).spawn().unwrap();
        let camera = run.stdin.take().unwrap();
        let (stop, stopped) = mpsc::channel();
        let camera = thread::spawn(move || show(camera, &stopped));
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(run.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines() {
                let _ = sender.send(serde_json::from_str(&line.unwrap()).unwrap());
            }
        });
        Self { run, lines, camera, stop }
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Writes an invented profile: every group takes so long.
fn profile(folder: &Path, device: &str, group_ns: u64) {
    let model = Model::open(&folder.join("net.onnx"), &ImportOptions::default()).unwrap();
    let groups = model.grouping.dag.groups().iter();
    let groups = groups.map(|group| json!({ "name": group.name, "time_ns": group_ns }));
    let profile = json!({
        "version": 1,
        "key": {
            "model_sha256": model.sha256().unwrap(), "hardware": "invented", "engine": "rten",
            "engine_version": "0", "threads": 1, "precision": "fp32"
        },
        "model": "net.onnx", "slowdown_permille": 1000, "call_ns": 0,
        "groups": groups.collect::<Vec<_>>(), "unsupported": [], "segments": [],
        "residual_permille": 0, "prepare": {}, "engine_bytes": 0
    });
    fs::write(folder.join(format!("{device}.json")), profile.to_string()).unwrap();
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cutline"))
}

fn jpeg(seed: u32) -> Vec<u8> {
    let noise = |x: u32, y: u32| Luma([(x * seed + y * 31 + x * y * (seed + 5)) as u8]);
    let mut file = Cursor::new(Vec::new());
    GrayImage::from_fn(28, 28, noise).write_to(&mut file, ImageFormat::Jpeg).unwrap();
    file.into_inner()
}

fn cutline(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn show(mut camera: ChildStdin, stop: &mpsc::Receiver<()>) -> u64 {
    let pictures: Vec<Vec<u8>> = (0..PICTURES).map(jpeg).collect();
    let mut shown = 0;
    for picture in pictures.iter().cycle() {
        if stop.recv_timeout(INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout) {
            break;
        }
        // A run that ends before its camera is found out by what it lacks.
        if camera.write_all(picture).is_err() {
            break;
        }
        shown += 1;
    }
    shown
}

impl Scene {
    pub(crate) fn start(planned: Planned, third: Hub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let lenet = zoo::build("lenet5", &ZooOptions::default()).unwrap();
        fs::write(path.join("net.onnx"), lenet.encode_to_vec()).unwrap();
        let [edge, cloud] = ["edge", "cloud"].map(|name| Agent::start(&path.join(name)));
        let hub = (third != Hub::Absent).then(|| Agent::start(&path.join("hub")));
        let link = Link::start("127.0.0.1:0", cloud.address());
        let device = |name: &str, agent: &Agent| {
            let profiles = match planned {
                Planned::ByHand => String::new(),
                Planned::Swept => format!("profiles = [\"{name}.json\"]\n"),
            };
            let address = agent.address();
            format!("[[device]]\nname = \"{name}\"\naddress = \"{address}\"\n{profiles}")
        };
        let mut platform = "version = 1\n".to_owned() + &device("pi", &edge);
        platform += &device("cloud", &cloud);
        if let Some(replica) = hub.as_ref().filter(|_| third == Hub::Replica) {
            platform += &format!("replicas = [\"{}\"]\n", replica.address());
        }
        platform += &format!(
            "[[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"50mbit\"\ndelay = \"2ms\"\nvia = \"{}\"\n",
            link.address
        );
        if let Some(hub) = hub.as_ref().filter(|_| third == Hub::Device) {
            platform += &device("hub", hub);
            platform +=
                "[[link]]\nbetween = [\"pi\", \"hub\"]\nup = \"100mbit\"\ndelay = \"2ms\"\n";
        }
        fs::write(path.join("platform.toml"), platform).unwrap();
        match planned {
            Planned::ByHand => {
                let at = ["split", "net.onnx", "--at", "pool1", "--platform", "platform.toml"];
                succeed(&mut cutline(path, &[&at[..], &["-o", "parts"]].concat()));
            }
            Planned::Swept => {
                for (name, group_ns) in [("pi", 1_500_000), ("hub", 500_000), ("cloud", 100_000)] {
                    profile(path, name, group_ns);
                }
                fs::create_dir(path.join("parts")).unwrap();
                let sweep = ["plan", "net.onnx", "--platform", "platform.toml", "--sweep"];
                let write = ["-o", "parts/plan.json"];
                succeed(&mut cutline(path, &[&sweep[..], &write].concat()));
            }
        }
        let expected = Self::answers(path);
        let Film { run, lines, camera, stop } = Film::start(path);
        let (listen, routes) = (link.address.to_string(), Vec::new());
        let (link, camera) = (Some(link), Some(camera));
        Self { edge, cloud, hub, link, listen, run, lines, camera, stop, expected, routes, folder }
    }

    /// What the whole network answers to each picture, without agents.
    fn answers(folder: &Path) -> Vec<Value> {
        let fixed = ["run", "net.onnx", "--plan", "parts/plan.json", "--input", "-", "--local"];
        let mut run = cutline(folder, &fixed).spawn().unwrap();
        let stream: Vec<u8> = (0..PICTURES).flat_map(jpeg).collect();
        run.stdin.take().unwrap().write_all(&stream).unwrap();
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let outputs = |line| serde_json::from_str::<Value>(line).unwrap()["outputs"].take();
        text.lines().map(outputs).collect()
    }

    /// The next frame's line, checked.
    pub(crate) fn next(&mut self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("a frame is answered");
        self.check(&line)
    }

    fn check(&mut self, line: &Value) -> String {
        let frame = self.routes.len();
        assert_eq!(line["frame"], frame, "in order, none left out, none twice: {line}");
        let expected = &self.expected[frame % PICTURES as usize];
        assert_eq!(&line["outputs"], expected, "frame {frame} is answered rightly");
        let route = line["route"].as_str().unwrap().to_owned();
        self.routes.push(route.clone());
        route
    }

    /// Waits until frames go that way.
    pub(crate) fn until(&mut self, here: bool) -> String {
        self.until_it_is(|route| (route == "here") == here)
    }

    /// Waits until a frame's route is one of these.
    pub(crate) fn until_it_is(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let route = self.next();
            if wanted(&route) {
                return route;
            }
            let last = self.routes.len().saturating_sub(9);
            assert!(Instant::now() < until, "{:?}", &self.routes[last..]);
        }
    }

    /// Name of the route on which a device computes.
    pub(crate) fn route_by(&self, device: &str) -> String {
        let text = fs::read(self.folder.path().join("parts/plan.json")).unwrap();
        let plan: Value = serde_json::from_slice(&text).unwrap();
        let computes = |route: &&Value| {
            let stages = route["plan"]["stages"].as_array().unwrap();
            stages.iter().any(|stage| stage["device"] == device)
        };
        let route = plan["routes"]["routes"].as_array().unwrap().iter().find(computes);
        route.unwrap()["plan"]["id"].as_str().unwrap().to_owned()
    }

    /// Ends the camera, reads the rest, and the summary.
    pub(crate) fn end(&mut self) -> Value {
        let _ = self.stop.send(());
        let shown = self.camera.take().unwrap().join().unwrap();
        let summary = loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("the run ends");
            match line.get("summary") {
                Some(_) => break line,
                None => self.check(&line),
            };
        };
        assert_eq!(self.routes.len() as u64, shown, "no frame is lost");
        let status = self.run.wait().unwrap();
        assert!(status.success(), "{}", self.routes.len());
        let counts =
            ["answered", "failed", "dropped"].map(|key| summary["summary"][key].as_u64().unwrap());
        assert_eq!(counts, [shown, 0, 0], "{summary}");
        assert_eq!(summary["routing"]["lost"], 0, "{summary}");
        summary
    }

    /// Kills the run, with whatever it holds, and starts another one with a camera of its own.
    pub(crate) fn run_again(&mut self) {
        self.run.kill().unwrap();
        self.run.wait().unwrap();
        let Film { run, lines, camera, stop } = Film::start(self.folder.path());
        let _ = std::mem::replace(&mut self.stop, stop).send(());
        let _ = self.camera.replace(camera).unwrap().join().unwrap();
        (self.run, self.lines, self.routes) = (run, lines, Vec::new());
    }

    /// A few frames over the plan; then the fault, until frames are finished here; then its end, until
    /// the plan is used again, in the same run.
    pub(crate) fn survive(
        mut self,
        fault: impl FnOnce(&mut Self),
        end: impl FnOnce(&mut Self),
    ) -> Value {
        self.until(false);
        (0..5).for_each(|_| assert_ne!(self.next(), "here"));
        fault(&mut self);
        self.until(true);
        (0..3).for_each(|_| drop(self.next()));
        end(&mut self);
        self.until(false);
        self.end()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}
