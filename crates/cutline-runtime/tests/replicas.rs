//! Several agents share a stage: frames are spread over them, and one that is gone costs none.
#![allow(clippy::unwrap_used)]

mod fleet;

use cutline_runtime::{
    runner::{Deployment, Runner},
    stage::trace::Trace,
    wire::inference::{
        ModelStatisticsRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
    },
};
use fleet::{Device, expected, frame, options, part, plan, wait};
use tempfile::TempDir;
use tonic::transport::Endpoint;

const X: [f32; 4] = [0.5, -1.0, 2.0, 3.25];

/// `early = x + x` on the pi, the rest of the tiny network on the cloud, which is several agents.
fn deployment(folder: &TempDir, pi: &Device, clouds: &[Device]) -> Deployment {
    let first: [(&str, &[&str], &str); 2] =
        [("Add", &["x", "x"], "early"), ("Neg", &["x"], "skip")];
    let last: [(&str, &[&str], &str); 2] =
        [("Mul", &["early", "early"], "square"), ("Add", &["square", "skip"], "late")];
    let addresses: Vec<String> = clouds.iter().map(Device::address).collect();
    let [address, replicas @ ..] = &addresses[..] else { panic!("at least one") };
    let mut cloud =
        part(folder, "cloud", Some(address.clone()), &last, &["early", "skip"], &["late"]);
    cloud.replicas = replicas.to_vec();
    let pi = part(folder, "pi", Some(pi.address()), &first, &["x"], &["early", "skip"]);
    Deployment::new(plan(vec![pi, cloud], &["late", "early"])).unwrap()
}

/// How many requests an agent answered.
async fn answered(device: &Device, model: &str) -> u64 {
    let channel = Endpoint::from_shared(format!("http://{}", device.address())).unwrap();
    let channel = channel.connect().await.unwrap();
    let request = ModelStatisticsRequest { name: model.to_owned(), ..Default::default() };
    let statistics = GrpcInferenceServiceClient::new(channel).model_statistics(request).await;
    statistics.unwrap().into_inner().model_stats[0].inference_count
}

#[test]
fn frames_are_spread_over_replicas_and_a_dead_one_costs_none() {
    let folder = tempfile::tempdir().unwrap();
    let (pi, mut clouds) =
        (Device::start(), vec![Device::start(), Device::start(), Device::start()]);
    let deployment = deployment(&folder, &pi, &clouds);
    let model = deployment.stages[1].model_name.clone();
    wait(async {
        let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
        let run = async |frames: usize| {
            for _ in 0..frames {
                let answer = runner.infer(frame(X)).await.unwrap();
                assert_eq!(answer.outputs, expected(X));
                let Trace { stages, hops } = answer.trace;
                assert_eq!((stages.len(), hops.len()), (2, 1));
            }
        };
        run(30).await;
        for cloud in &clouds {
            let count = answered(cloud, &model).await;
            assert_eq!(count, 10, "equal ones get as many");
        }
        tokio::task::block_in_place(|| clouds[0].kill());
        run(20).await;
        let mut left = Vec::new();
        for cloud in &clouds[1..] {
            left.push(answered(cloud, &model).await);
        }
        assert_eq!(left.iter().sum::<u64>(), 40);
        assert!(left.iter().all(|count| *count >= 18), "{left:?}");
        runner.remove().await;
    });
}

#[test]
fn one_of_several_agents_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (pi, mut clouds) = (Device::start(), vec![Device::start(), Device::start()]);
    let deployment = deployment(&folder, &pi, &clouds);
    clouds[0].kill();
    wait(async {
        let runner = Runner::deploy(deployment.clone(), options(), |_| {}).await.unwrap();
        let [reason] = runner.absent() else { panic!("{:?}", runner.absent()) };
        assert!(reason.contains("`cloud`") && reason.contains(&clouds[0].address()), "{reason}");
        for _ in 0..3 {
            assert_eq!(runner.infer(frame(X)).await.unwrap().outputs, expected(X));
        }
        runner.remove().await;
    });
    clouds[1].kill();
    let error = wait(Runner::deploy(deployment, options(), |_| {})).unwrap_err().to_string();
    assert!(error.contains("could not be deployed on device `cloud`"), "{error}");
}
