//! A network split in two, a video of pictures for it, and runs of it that publish.

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use cutline_core::zoo::{self, ZooOptions};
use image::{GrayImage, ImageFormat, Luma};
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;

use super::broker::Message;

/// The topics of its runs.
pub(crate) const PREFIX: &str = "test/run";

/// LeNet-5 as `net.onnx`, a plan as `parts/plan.json`, and `video.mjpeg`.
pub(crate) struct Scene {
    folder: TempDir,
}

/// A run under way, gone with this value.
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run printed.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) fine: bool,
    pub(crate) lines: Vec<Value>,
    pub(crate) stderr: String,
}

/// What the messages of a run's results say.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// How often each identifier came.
    pub(crate) times: BTreeMap<String, u64>,
    /// Frames in the order of their first arrival.
    pub(crate) frames: Vec<u64>,
}

impl Scene {
    /// A video of so many frames, for devices at these addresses, or none.
    pub(crate) fn new(binary: &Path, frames: u32, addresses: Option<[String; 2]>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let lenet = zoo::build("lenet5", &ZooOptions::default()).expect("a network");
        fs::write(at("net.onnx"), lenet.encode_to_vec()).expect("a file");
        let pictures: Vec<Vec<u8>> = (0..8).map(jpeg).collect();
        let video: Vec<u8> = pictures.into_iter().cycle().take(frames as usize).flatten().collect();
        fs::write(at("video.mjpeg"), video).expect("a file");
        let [edge, cloud] = match &addresses {
            Some(addresses) => addresses.each_ref().map(|at| format!("address = \"{at}\"\n")),
            None => [String::new(), String::new()],
        };
        let platform = format!(
            "version = 1\n[[device]]\nname = \"pi\"\n{edge}[[device]]\nname = \"cloud\"\n{cloud}\
             [[link]]\nbetween = [\"pi\", \"cloud\"]\nup = \"20mbit\"\n"
        );
        fs::write(at("platform.toml"), platform).expect("a file");
        let split = ["split", "net.onnx", "--at", "pool1", "--platform", "platform.toml"];
        let done = Command::new(binary)
            .args(split)
            .args(["-o", "parts"])
            .current_dir(folder.path())
            .output()
            .expect("the binary");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { folder }
    }

    /// Starts a run of the video that publishes under [`PREFIX`]. It prints into files: nobody reads a
    /// pipe meanwhile, and a full one would stop it.
    pub(crate) fn run(&self, binary: &Path, url: &str, more: &[&str]) -> Running {
        let file = |name: &str| fs::File::create(self.folder.path().join(name)).expect("a file");
        let mut command = Command::new(binary);
        command.args(["run", "net.onnx", "--plan", "parts/plan.json", "--input", "video.mjpeg"]);
        command.args(["--json", "--mqtt", url, "--mqtt-topic", PREFIX]).args(more);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("CUTLINE_MQTT_PASSWORD");
        command.stdout(file("stdout")).stderr(file("stderr"));
        Running {
            child: command.spawn().expect("the binary"),
            folder: self.folder.path().to_owned(),
        }
    }
}

impl Said {
    /// All that a run says, after its end.
    pub(crate) fn of(mut run: Running) -> Self {
        let fine = run.child.wait().expect("its end").success();
        let read = |name: &str| fs::read_to_string(run.folder.join(name)).expect("a file");
        let lines = read("stdout");
        let lines = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { fine, lines, stderr: read("stderr") }
    }

    /// What became of the results.
    pub(crate) fn delivery(&self) -> &Value {
        let summary = self.lines.iter().find(|line| line["summary"].is_object());
        summary.map_or(&Value::Null, |line| &line["mqtt"])
    }

    /// How many frames were printed.
    pub(crate) fn frames(&self) -> usize {
        self.lines.iter().filter(|line| line["frame"].is_u64()).count()
    }
}

impl Results {
    /// Of what a listener heard.
    pub(crate) fn of(messages: &[Message]) -> Self {
        let mut results = Self::default();
        for message in messages.iter().filter(|m| m.topic == format!("{PREFIX}/results")) {
            let line = message.json();
            let id = line["id"].as_str().unwrap_or("none").to_owned();
            let times = results.times.entry(id).or_default();
            *times += 1;
            if *times == 1 {
                results.frames.push(line["frame"].as_u64().unwrap_or(u64::MAX));
            }
        }
        results
    }

    /// Messages that came again under an identifier that was there.
    #[allow(dead_code)] // Of use to the figures.
    pub(crate) fn duplicates(&self) -> u64 {
        self.times.values().map(|times| times - 1).sum()
    }
}

fn jpeg(seed: u32) -> Vec<u8> {
    let noise = |x: u32, y: u32| Luma([(x * seed + y * 31 + x * y * (seed + 5)) as u8]);
    let mut file = Cursor::new(Vec::new());
    let picture = GrayImage::from_fn(28, 28, noise);
    picture.write_to(&mut file, ImageFormat::Jpeg).expect("a picture");
    file.into_inner()
}
