//! Branches of a network run on several agents at the same time, and their results are joined.
#![allow(clippy::unwrap_used)]

mod fleet;

use cutline_runtime::{
    engine,
    runner::{Answer, Deployment, LocalRunner, Part, Runner},
    tensor::Tensor,
};
use fleet::{
    Device, frame,
    gate::{Gate, gated},
    options, part, plan, vector, wait,
};
use tempfile::TempDir;

const X: [f32; 4] = [0.5, -1.0, 2.0, 3.25];

/// `twice = x + x` on pi, then at the same time `square = twice * twice` there and `minus = -twice`
/// on hub; pi joins them, `sum = square + minus`, and cloud answers `late = sum + x`. The second
/// branch group begins at the network's input: `own = -x` on pi and `far = x * x` on hub, which pi
/// joins to `y = own + far`.
#[derive(Clone, Copy, Debug)]
enum Net {
    Inside,
    AtTheInput,
}

impl Net {
    fn deployment(self, folder: &TempDir, [pi, hub, cloud]: [Option<String>; 3]) -> Deployment {
        let mut parts = 0;
        let mut part = |device: &str,
                        address: &Option<String>,
                        nodes: &[_],
                        reads: &[&str],
                        makes: &[&str]| {
            parts += 1;
            // One file each: two parts of a device are two models.
            let mut part =
                part(folder, &format!("{device}{parts}"), address.clone(), nodes, reads, makes);
            part.device = device.to_owned();
            part.model.as_mut().unwrap().engine = None;
            part
        };
        let branch = |part: Part| Part { branch: true, ..part };
        match self {
            Net::Inside => {
                let parts = vec![
                    part("pi", &pi, &[("Add", &["x", "x"], "twice")], &["x"], &["twice"]),
                    branch(part(
                        "pi",
                        &pi,
                        &[("Mul", &["twice", "twice"], "square")],
                        &["twice"],
                        &["square"],
                    )),
                    branch(part(
                        "hub",
                        &hub,
                        &[("Neg", &["twice"], "minus")],
                        &["twice"],
                        &["minus"],
                    )),
                    part(
                        "pi",
                        &pi,
                        &[("Add", &["square", "minus"], "sum")],
                        &["square", "minus"],
                        &["sum"],
                    ),
                    part(
                        "cloud",
                        &cloud,
                        &[("Add", &["sum", "x"], "late")],
                        &["sum", "x"],
                        &["late"],
                    ),
                ];
                Deployment::new(plan(parts, &["late", "square"])).unwrap()
            }
            Net::AtTheInput => {
                let source = Part {
                    device: "pi".into(),
                    address: pi.clone(),
                    replicas: Vec::new(),
                    via: None,
                    model: None,
                    branch: false,
                    foreign: None,
                };
                let parts = vec![
                    source,
                    branch(part("pi", &pi, &[("Neg", &["x"], "own")], &["x"], &["own"])),
                    branch(part("hub", &hub, &[("Mul", &["x", "x"], "far")], &["x"], &["far"])),
                    part("pi", &pi, &[("Add", &["own", "far"], "y")], &["own", "far"], &["y"]),
                ];
                Deployment::new(plan(parts, &["y"])).unwrap()
            }
        }
    }

    fn expected(self) -> Vec<(String, Tensor)> {
        match self {
            Net::Inside => {
                let square = X.map(|x| 4.0 * x * x);
                let late = X.map(|x| 4.0 * x * x - 2.0 * x + x);
                vec![("late".to_owned(), vector(late)), ("square".to_owned(), vector(square))]
            }
            Net::AtTheInput => vec![("y".to_owned(), vector(X.map(|x| x * x - x)))],
        }
    }
}

/// Devices of a frame's way, and its calls as from and to.
fn way(answer: &Answer) -> (Vec<&str>, Vec<(usize, usize)>) {
    let stages = answer.trace.stages.iter().map(|stage| stage.device.as_str());
    (stages.collect(), answer.trace.hops.iter().map(|hop| (hop.from, hop.into)).collect())
}

#[test]
fn branches_answer_what_the_whole_network_answers() {
    let folder = tempfile::tempdir().unwrap();
    let devices: [Device; 3] = std::array::from_fn(|_| Device::start());
    let cases = [
        (Net::Inside, vec!["pi", "pi", "hub", "pi", "cloud"], vec![(0, 1), (0, 2), (0, 3), (3, 4)]),
        (Net::AtTheInput, vec!["pi", "pi", "hub", "pi"], vec![(0, 1), (0, 2), (0, 3)]),
    ];
    for (net, stages, calls) in cases {
        let addresses = devices.each_ref().map(|device| Some(device.address()));
        let deployment = net.deployment(&folder, addresses);
        let mut local = LocalRunner::load(&deployment, |_| engine::open("rten"), 1).unwrap();
        assert_eq!(local.infer(frame(X)).unwrap().outputs, net.expected(), "{net:?}, local");
        wait(async {
            let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
            let answer = runner.infer(frame(X)).await.unwrap();
            assert_eq!(answer.outputs, net.expected(), "{net:?}");
            assert_eq!(way(&answer), (stages, calls), "{net:?}");
            let hops = &answer.trace.hops;
            // What stays on an agent takes no time on the way.
            assert_eq!((hops[0].bytes_up, hops[0].upload_ns.0), (0, 0), "{net:?}");
            assert_eq!((hops[1].bytes_up, hops[1].bytes_down), (16, 16), "{net:?}");
            let m = answer.measured;
            let sum = m.edge_compute_ns + m.upload_ns + m.cloud_compute_ns + m.rest_ns;
            assert_eq!(sum, m.latency_ns, "{net:?}");
            runner.remove().await;
        });
    }
}

#[test]
fn branches_run_at_the_same_time_and_the_slowest_counts() {
    let folder = tempfile::tempdir().unwrap();
    let ((pi, own), (hub, far), cloud) = (gated(), gated(), Device::start());
    let addresses = [&pi, &hub, &cloud].map(|device| Some(device.address()));
    let deployment = Net::Inside.deployment(&folder, addresses);
    let until_begun = Gate::wait_until_begun;
    let answer = wait(async {
        let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
        let task = tokio::spawn(async move { runner.infer(frame(X)).await });
        let gates = tokio::task::spawn_blocking(move || {
            own.pass();
            // Neither branch has ended when the other begins.
            until_begun(&own);
            until_begun(&far);
            own.open.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            far.open.send(()).unwrap();
            own.pass();
        });
        gates.await.unwrap();
        task.await.unwrap().unwrap()
    });
    assert_eq!(answer.trace.beside().into_iter().collect::<Vec<_>>(), [1]);
    let computed = |at: usize| answer.trace.stages[at].compute_ns;
    assert_eq!(answer.measured.edge_compute_ns, computed(0) + computed(3));
    assert_eq!(answer.measured.cloud_compute_ns, computed(2) + computed(4));
}

#[test]
fn a_branch_that_fails_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let [pi, mut hub, cloud]: [Device; 3] = std::array::from_fn(|_| Device::start());
    let addresses = [&pi, &hub, &cloud].map(|device| Some(device.address()));
    let deployment = Net::Inside.deployment(&folder, addresses);
    let error = wait(async {
        let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
        runner.infer(frame(X)).await.unwrap();
        tokio::task::block_in_place(|| hub.kill());
        runner.infer(frame(X)).await.unwrap_err()
    });
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    let said: Vec<String> = causes.map(ToString::to_string).collect();
    assert!(said.iter().any(|cause| cause.contains("stage `2-hub`")), "{said:?}");
}

#[test]
fn stages_of_an_agent_that_call_each_other_for_ever_are_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let pi = Device::start();
    let double = |file: &str, reads: &str, makes: &str| {
        let address = Some(pi.address());
        let nodes: [(&str, &[&str], &str); 1] = [("Add", &[reads, reads], makes)];
        let part = part(&folder, file, address, &nodes, &[reads], &[makes]);
        Part { device: "pi".to_owned(), ..part }
    };
    let parts = vec![double("first", "x", "a"), double("second", "a", "x2")];
    let mut deployment = Deployment::new(plan(parts, &["x2"])).unwrap();
    let model = deployment.stages[0].model_name.clone();
    let next = deployment.stages[0].spec.next.as_mut().unwrap();
    assert!(next.here);
    (next.model_name, next.sends) = (model, vec!["x".to_owned()]);
    let error = wait(async {
        let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
        runner.infer(frame(X)).await.unwrap_err()
    });
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("or by itself"), "{said}");
}
