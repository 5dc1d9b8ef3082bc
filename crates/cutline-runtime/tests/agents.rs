//! Agents serve stages: chains answer what the whole network would, and whatever else comes in is
//! refused with words that help.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::{os::unix::fs::FileExt, sync::Arc, time::Duration};

use cutline_core::units::Bytes as Size;
use cutline_runtime::{
    agent::{Agent, AgentConfig},
    client::{AgentClient, ClientError},
    engine,
    runner::{Deployment, LocalRunner, RunError, Runner},
    stage::{Content, Named},
    tensor::Tensor,
    wire::{
        control::{FileChunk, control_client::ControlClient},
        inference::{
            InferTensorContents, ModelInferRequest,
            model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
        },
    },
};
use fleet::{
    Device, chain, deploy_double, expected, frame,
    gate::{chain_of, gated},
    options, vector, wait,
};
use tonic::{Code, transport::Endpoint};

const X: [f32; 4] = [0.5, -1.0, 2.0, 3.25];
const TIMEOUT: Duration = Duration::from_secs(20);

fn addresses(devices: &[Device]) -> Vec<String> {
    devices.iter().map(Device::address).collect()
}

async fn deploy(deployment: Deployment) -> Runner {
    Runner::deploy(deployment, options(), |_| {}).await.unwrap()
}

fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn chains_answer_what_the_whole_network_answers() {
    let folder = tempfile::tempdir().unwrap();
    for length in [2, 3] {
        let devices: Vec<Device> = (0..length).map(|_| Device::start()).collect();
        let deployment = chain(&folder, &addresses(&devices));
        let mut local = LocalRunner::load(&deployment, |_| engine::open("rten"), 1).unwrap();
        assert_eq!(local.infer(frame(X)).unwrap().outputs, expected(X), "{length} stages, local");
        wait(async {
            let runner = deploy(deployment).await;
            let answer = runner.infer(frame(X)).await.unwrap();
            assert_eq!(answer.outputs, expected(X), "{length} stages");
            let names: Vec<_> = answer.trace.stages.iter().map(|s| s.device.as_str()).collect();
            assert_eq!(names.len(), length);
            assert_eq!((names[0], names[length - 1]), ("pi", "cloud"));
            assert_eq!(answer.trace.hops.len(), length - 1);
            assert_eq!(answer.trace.hops[0].bytes_up, 32);
            let m = answer.measured;
            let sum = m.edge_compute_ns + m.upload_ns + m.cloud_compute_ns + m.rest_ns;
            assert_eq!(sum, m.latency_ns);
            assert!(answer.trace.hops.iter().all(|hop| hop.upload_ns.0 > 0));
        });
    }
}

#[test]
fn frames_under_way_together_get_their_own_answers() {
    let folder = tempfile::tempdir().unwrap();
    let devices = [Device::start(), Device::start()];
    wait(async {
        let runner = deploy(chain(&folder, &addresses(&devices))).await;
        let runner = Arc::new(runner);
        let tasks = (0..32u8).map(|n| {
            let runner = Arc::clone(&runner);
            let x = [f32::from(n), 1.0, -f32::from(n), 0.25];
            tokio::spawn(async move { (x, runner.infer(frame(x)).await.unwrap().outputs) })
        });
        for task in tasks.collect::<Vec<_>>() {
            let (x, outputs) = task.await.unwrap();
            assert_eq!(outputs, expected(x));
        }
    });
}

#[test]
fn a_device_is_free_as_soon_as_its_own_computing_ends() {
    let folder = tempfile::tempdir().unwrap();
    let ((near, near_gate), (far, far_gate)) = (gated(), gated());
    let deployment = chain_of(&folder, &[&near, &far]);
    wait(async {
        let runner = Arc::new(deploy(deployment).await);
        let send = || {
            let runner = Arc::clone(&runner);
            tokio::spawn(async move { runner.infer(frame(X)).await })
        };
        let frames = [send(), send()];
        tokio::task::spawn_blocking(move || {
            near_gate.wait_until_begun();
            near_gate.open.send(()).unwrap();
            // The first frame is at the far device and stays there, yet the second is begun here.
            far_gate.wait_until_begun();
            near_gate.wait_until_begun();
            near_gate.open.send(()).unwrap();
            far_gate.open.send(()).unwrap();
            far_gate.wait_until_begun();
            far_gate.open.send(()).unwrap();
        })
        .await
        .unwrap();
        for frame in frames {
            frame.await.unwrap().unwrap();
        }
    });
}

#[test]
fn requests_that_do_not_fit_are_refused_with_reasons() {
    let device = Device::start();
    wait(async {
        let client = device.client().await;
        deploy_double(&client).await;
        let tensor = |name: &str, tensor| -> Named { (name.to_owned(), Content::Tensor(tensor)) };
        let other = |dtype, shape: &[u64], bytes: usize| {
            Tensor::new(dtype, cutline_core::tensor::Shape(shape.to_vec()), vec![0; bytes]).unwrap()
        };
        use cutline_core::tensor::DType;
        for (values, expected) in [
            (vec![], "`x` is missing: expected `x` (FP32 4)"),
            (vec![tensor("y", vector(X))], "`x` is missing"),
            (vec![tensor("x", vector(X)), tensor("z", vector(X))], "`z` is not an input"),
            (vec![tensor("x", vector(X)), tensor("x", vector(X))], "`x` comes twice"),
            (vec![tensor("x", other(DType::F32, &[5], 20))], "`x` is FP32 5, expected FP32 4"),
            (vec![tensor("x", other(DType::I32, &[4], 16))], "`x` is INT32 4, expected FP32 4"),
            (vec![("x".to_owned(), Content::Bytes("file".into()))], "`x` is BYTES"),
            (vec![tensor("picture", other(DType::U8, &[4], 4))], "`x` is missing"),
        ] {
            let error = client.infer("double", values, false, TIMEOUT).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let values = vec![tensor("x", vector(X))];
        let error = client.infer("treble", values.clone(), false, TIMEOUT).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.to_string().contains("no model `treble` is deployed"), "{error}");
        let answer = client.infer("double", values, false, TIMEOUT).await.unwrap();
        assert_eq!(answer.outputs, [("y".to_owned(), vector(X.map(|x| 2.0 * x)))]);
        assert_eq!(answer.trace, None);
    });
}

#[test]
fn typed_contents_and_chosen_outputs_work() {
    let device = Device::start();
    wait(async {
        let client = device.client().await;
        deploy_double(&client).await;
        let request = |output: &str| ModelInferRequest {
            model_name: "double".to_owned(),
            id: "frame 7".to_owned(),
            inputs: vec![InferInputTensor {
                name: "x".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![4],
                contents: Some(InferTensorContents {
                    fp32_contents: X.to_vec(),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            outputs: vec![InferRequestedOutputTensor {
                name: output.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = client.model_infer(request("y"), TIMEOUT).await.unwrap();
        assert_eq!((answer.id.as_str(), answer.outputs[0].datatype.as_str()), ("frame 7", "FP32"));
        assert_eq!(answer.raw_output_contents, [vector(X.map(|x| 2.0 * x)).data().clone()]);
        let error = client.model_infer(request("z"), TIMEOUT).await.unwrap_err();
        assert!(error.to_string().contains("output `z` is none of this model"), "{error}");
        let mut contradictory = request("y");
        contradictory.raw_input_contents = vec![vector(X).data().clone()];
        let error = client.model_infer(contradictory, TIMEOUT).await.unwrap_err();
        assert!(error.to_string().contains("raw and typed"), "{error}");
    });
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_agent_lives_on() {
    let device = Device::with(|config| config.max_message = 100_000);
    wait(async {
        let client = device.client().await;
        deploy_double(&client).await;
        let large = Tensor::from_f32(cutline_core::tensor::Shape(vec![50_000]), vec![0.0; 50_000]);
        let values = vec![("x".to_owned(), Content::Tensor(large.unwrap()))];
        let error = client.infer("double", values, false, TIMEOUT).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("limit") && text.contains("100000 bytes"), "{text}");
        let values = vec![("x".to_owned(), Content::Tensor(vector(X)))];
        assert!(client.infer("double", values, false, TIMEOUT).await.is_ok());
    });
}

#[test]
fn stages_that_cannot_be_served_are_refused_with_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::with(|config| config.memory = Some(Size(100_000_000)));
    let deployment = chain(&folder, &[device.address(), device.address()]);
    let spec = &deployment.stages[1].spec;
    wait(async {
        let client = device.client().await;
        let files = &deployment.files;
        let model = |adjust: &dyn Fn(&mut cutline_runtime::stage::ModelSpec)| {
            let mut spec = spec.clone();
            adjust(spec.model.as_mut().unwrap());
            spec
        };
        let rubbish = fleet::store(&folder, "rubbish.onnx", b"this is no model");
        let with_rubbish = [(rubbish.0.sha256.clone(), rubbish.1.clone())].into_iter().collect();
        for (name, spec, files, expected) in [
            ("", spec.clone(), files, "is no name for a model"),
            ("cutline.echo", spec.clone(), files, "is no name for a model"),
            ("m", model(&|m| m.engine = Some("abacus".into())), files, "wants engine `abacus`"),
            ("m", model(&|m| m.inputs.push("ghost".into())), files, "model reads `ghost`"),
            ("m", model(&|m| m.files[0].name = "../x".into()), files, "is not a plain file name"),
            ("m", model(&|m| m.files[0] = rubbish.0.clone()), &with_rubbish, "cannot be loaded"),
            (
                "m",
                model(&|m| m.memory.activation_bytes = 99_999_999),
                files,
                "needs 100.00 MB, and of this device's 100.00 MB already 0 B are taken",
            ),
        ] {
            let error = client.deploy(name, &spec, files, "").await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let values = vec![("x".to_owned(), Content::Tensor(vector(X)))];
        let error = client.infer("m", values, false, TIMEOUT).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    });
}

#[test]
fn files_are_sent_once_and_only_as_announced() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start();
    let deployment = chain(&folder, &[device.address(), device.address()]);
    wait(async {
        let client = device.client().await;
        let (digest, path) = deployment.files.iter().next().unwrap();
        let wrong = "0".repeat(64);
        let error = client.put(path, &wrong, 0).await.unwrap_err().to_string();
        assert!(error.contains("it was not kept"), "{error}");
        assert_eq!(client.missing(vec![wrong.clone()]).await.unwrap(), [(wrong, 0)]);
        let error = client.missing(vec!["../store".to_owned()]).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let runner = deploy(deployment.clone()).await;
        assert!(client.missing(vec![digest.clone()]).await.unwrap().is_empty());
        // Everything is there: the files themselves are needed no more.
        std::fs::remove_file(path).unwrap();
        runner.remove().await;
        let runner = deploy(deployment.clone()).await;
        assert_eq!(runner.infer(frame(X)).await.unwrap().outputs, expected(X));
        assert!(client.remove(deployment.model_name()).await.unwrap());
        assert!(!client.remove(deployment.model_name()).await.unwrap());
    });
}

#[test]
fn a_stage_that_several_runs_need_goes_with_the_last_unless_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start();
    let deployment = chain(&folder, &[device.address(), device.address()]);
    wait(async {
        let client = device.client().await;
        let name = deployment.model_name();
        let deploy = || deploy(deployment.clone());
        let (first, second) = (deploy().await, deploy().await);
        first.remove().await;
        assert_eq!(second.infer(frame(X)).await.unwrap().outputs, expected(X));
        assert!(!client.release(name, "a stranger").await.unwrap());
        second.clone().remove().await;
        assert!(second.infer(frame(X)).await.is_err());
        let third = deploy().await;
        third.keep().await.unwrap();
        third.clone().remove().await;
        assert_eq!(third.infer(frame(X)).await.unwrap().outputs, expected(X));
        // By name it goes whoever needs it.
        let fourth = deploy().await;
        assert!(client.remove(name).await.unwrap());
        assert!(fourth.infer(frame(X)).await.is_err());
        let long = "h".repeat(65);
        let stage = &deployment.stages[1];
        let error = client.deploy(&stage.model_name, &stage.spec, &deployment.files, &long).await;
        assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    });
}

#[test]
fn a_deployment_that_broke_off_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start();
    let deployment = chain(&folder, &[device.address(), device.address()]);
    let (digest, path) = deployment.files.iter().next().unwrap();
    let file = std::fs::read(path).unwrap();
    let half = file.len() / 2;
    wait(async {
        let client = device.client().await;
        let endpoint = Endpoint::from_shared(format!("http://{}", device.address())).unwrap();
        let mut control = ControlClient::new(endpoint.connect().await.unwrap());
        let first = FileChunk {
            sha256: digest.clone(),
            total_bytes: file.len() as u64,
            data: file[..half].to_vec().into(),
            offset: 0,
        };
        let error = control.put(tokio_stream::iter([first.clone()])).await.unwrap_err();
        assert!(error.message().contains("were announced"), "{error}");
        let missing = client.missing(vec![digest.clone()]).await.unwrap();
        assert_eq!(missing, [(digest.clone(), half as u64)]);
        let gap = FileChunk { offset: half as u64 + 1, ..first };
        let error = control.put(tokio_stream::iter([gap])).await.unwrap_err();
        assert!(error.message().contains("send it again"), "{error}");
        // What the agent has need not be read again here: without it, half a file is enough.
        let rest = std::fs::File::options().write(true).open(path).unwrap();
        rest.write_all_at(&vec![0; half], 0).unwrap();
        let runner = deploy(deployment.clone()).await;
        assert_eq!(runner.infer(frame(X)).await.unwrap().outputs, expected(X));
    });
}

#[test]
fn an_absent_agent_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut device = Device::start();
    let address = device.address();
    device.kill();
    let deployment = chain(&folder, &[address.clone(), address.clone()]);
    let error = wait(Runner::deploy(deployment, options(), |_| {})).unwrap_err();
    let text = words(&error);
    for part in ["device `", &address, "efused", &format!("cutline agent --listen {address}")] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_deployment_that_fails_leaves_nothing_on_the_agents_that_took_it() {
    let folder = tempfile::tempdir().unwrap();
    let near = Device::start();
    // It has no memory for its stage, which it says only once that is to be loaded.
    let far = Device::with(|config| config.memory = Some(Size(1)));
    let deployment = chain(&folder, &[near.address(), far.address()]);
    wait(async {
        for _ in 0..3 {
            let failed = Runner::deploy(deployment.clone(), options(), |_| {}).await;
            let said = words(&failed.unwrap_err());
            assert!(said.contains("of this device's 1 B"), "{said}");
            let left = near.client().await.remove(deployment.model_name()).await.unwrap();
            assert!(!left, "the stage of the failed deployment is still there");
        }
    });
}

#[test]
fn an_agent_that_dies_is_named_and_nothing_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let near = Device::start();
    let (mut far, gate) = gated();
    let deployment = chain_of(&folder, &[&near, &far]);
    let check = |error: RunError| {
        let text = words(&error);
        assert!(matches!(error, RunError::Frame { .. }), "{text}");
        for part in ["stage `0-pi`", "device `pi`", "stage `1-cloud`", "device `cloud`", "lost"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    wait(async {
        let runner = deploy(deployment).await;
        let killer = tokio::task::spawn_blocking(move || {
            gate.wait_until_begun();
            far.kill();
        });
        check(runner.infer(frame(X)).await.unwrap_err());
        killer.await.unwrap();
        // And again with nobody there.
        check(runner.infer(frame(X)).await.unwrap_err());
    });
}

#[test]
fn a_silent_peer_is_late_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let device = Device::start();
    let far = silent.local_addr().unwrap().to_string();
    let deployment = chain(&folder, &[device.address(), far]);
    wait(async {
        let client = device.client().await;
        client.deploy("tiny", &deployment.stages[0].spec, &deployment.files, "").await.unwrap();
        let values = vec![("x".to_owned(), Content::Tensor(vector(X)))];
        let timeout = Duration::from_millis(400);
        let error = client.infer("tiny", values, false, timeout).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(error.to_string().contains("device `"), "{error}");
    });
}

#[test]
fn agents_stay_on_loopback_and_their_ports_are_theirs() {
    wait(async {
        let folder = tempfile::tempdir().unwrap();
        let config = |listen: &str| {
            let engine = engine::open("rten").unwrap();
            AgentConfig::new(listen, folder.path().to_owned(), vec![engine])
        };
        let refused = |listen: &str| Agent::bind(config(listen)).err().unwrap().to_string();
        assert!(refused("0.0.0.0:0").contains("--insecure"));
        assert!(refused("here").contains("is not an address to listen on"));
        let open = AgentConfig { insecure: true, ..config("0.0.0.0:0") };
        assert!(Agent::bind(open).is_ok());
        let first = Agent::bind(config("127.0.0.1:0")).unwrap();
        assert!(refused(&first.local_addr().to_string()).contains("is another agent using it"));
    });
}

#[test]
fn a_sign_of_life_names_the_start_of_the_process_at_the_end_of_a_path() {
    let (near, middle, mut far) = (Device::start(), Device::start(), Device::start());
    let patience = options().client.call_timeout;
    wait(async {
        let client = near.client().await;
        let own = client.beat(&[], patience).await.unwrap();
        assert_eq!(client.beat(&[], patience).await.unwrap(), own, "one start, one number");
        let path = [middle.address(), far.address()];
        let [second, third] = [
            client.beat(&path[..1], patience).await.unwrap(),
            client.beat(&path, patience).await.unwrap(),
        ];
        assert!(own != second && second != third && own != third);
        let again = AgentClient::lazy("far", &far.address(), options().client).unwrap();
        assert_eq!(again.beat(&[], patience).await.unwrap(), third);

        let endless = vec![near.address(); 17];
        let error = client.beat(&endless, patience).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        far = tokio::task::spawn_blocking(|| {
            far.kill();
            far
        })
        .await
        .unwrap();
        for error in [client.beat(&path, patience).await, again.beat(&[], patience).await] {
            assert_eq!(error.unwrap_err().code(), Code::Unavailable);
        }
        // Another process at the same address: the connection mends itself.
        let address = far.address();
        let _other = tokio::task::spawn_blocking(|| Device::with(|c| c.listen = address));
        let _other = _other.await.unwrap();
        let boot = again.beat(&[], patience).await.unwrap();
        assert!(boot != third, "another start, another number");
        assert_eq!(client.beat(&path, patience).await.unwrap(), boot);
    });
}

#[test]
fn an_agent_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    wait(async {
        let engine = engine::open("rten").unwrap();
        let config = AgentConfig::new("127.0.0.1:0", folder.path().to_owned(), vec![engine]);
        let agent = Agent::bind(config).unwrap();
        let address = agent.local_addr().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(agent.serve(async move { drop(stopped.await) }));
        let client = AgentClient::connect("pi", &address, options().client).await.unwrap();
        assert_eq!(client.describe().await.unwrap().engines[0].name, "rten");
        stop.send(()).unwrap();
        served.await.unwrap().unwrap();
        let error = AgentClient::connect("pi", &address, options().client).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }));
    });
}
