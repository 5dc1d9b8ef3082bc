//! Frames in a row: every device at work at the same time, answers in order, and never more frames
//! under way than the limit.
#![allow(clippy::unwrap_used)]

mod fleet;

use std::num::NonZeroUsize;

use cutline_core::tensor::Shape;
use cutline_runtime::{
    runner::{Deployment, Frame, Meter, Pipeline, Runner},
    tensor::Tensor,
};
use fleet::{
    Device, chain, expected, frame,
    gate::{Gate, chain_of, gated},
    options, vector, wait,
};

async fn pipeline<T>(deployment: Deployment, limit: usize) -> Pipeline<T> {
    let runner = Runner::deploy(deployment, options(), |_| {}).await.unwrap();
    Pipeline::new(runner, NonZeroUsize::new(limit).unwrap())
}

fn numbered(n: u8) -> [f32; 4] {
    [f32::from(n), 1.0, -f32::from(n), 0.25]
}

#[test]
fn answers_come_in_the_order_of_their_frames() {
    let folder = tempfile::tempdir().unwrap();
    let devices = [Device::start(), Device::start(), Device::start()];
    wait(async {
        let addresses = devices.each_ref().map(Device::address);
        let mut pipeline = pipeline(chain(&folder, &addresses), 7).await;
        let mut meter = Meter::start();
        let mut frames = 0..100u8;
        let mut answered = Vec::new();
        loop {
            while !pipeline.is_full()
                && let Some(n) = frames.next()
            {
                pipeline.send(n, frame(numbered(n))).unwrap();
            }
            let Some(outcome) = pipeline.next().await else { break };
            let answer = outcome.result.unwrap();
            assert_eq!(answer.outputs, expected(numbered(outcome.tag)), "frame {}", outcome.tag);
            assert_eq!(answer.trace.stages.len(), 3, "each answer has its trace");
            meter.answered(&answer, outcome.took);
            answered.push(outcome.tag);
        }
        assert_eq!(answered, (0..100).collect::<Vec<_>>());
        let summary = meter.summary(0);
        assert_eq!((summary.answered, summary.failed), (100, 0));
        let names: Vec<&str> = summary.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["0-pi", "1-hub", "2-cloud"]);
        let names: Vec<&str> = summary.hops.iter().map(|hop| hop.name.as_str()).collect();
        assert_eq!(names, ["pi to hub", "hub to cloud"]);
        let busy: Vec<f64> = summary.hops.iter().map(|hop| hop.busy).collect();
        assert!(busy.iter().all(|busy| (0.0..=1.0).contains(busy) && *busy > 0.0), "{busy:?}");
        let latency = summary.latency.unwrap();
        assert!(latency.p50_ns <= latency.p90_ns && latency.p99_ns <= latency.max_ns);
    });
}

#[test]
fn every_device_of_a_chain_computes_a_frame_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let ((pi, near), (hub, middle), (cloud, far)) = (gated(), gated(), gated());
    wait(async {
        let mut pipeline = pipeline(chain_of(&folder, &[&pi, &hub, &cloud]), 3).await;
        for n in 0..3 {
            pipeline.send(n, frame(numbered(n))).unwrap();
        }
        let steps = move || {
            // The first frame goes through to the last device, the second follows to the middle.
            near.pass();
            middle.pass();
            near.pass();
            // Nothing was answered yet, and all three compute.
            far.wait_until_begun();
            middle.wait_until_begun();
            near.wait_until_begun();
            (near, middle, far)
        };
        let (near, middle, far) = tokio::task::spawn_blocking(steps).await.unwrap();
        let let_go = |gate: &Gate| (0..3).for_each(|_| gate.open.send(()).unwrap());
        [&near, &middle, &far].into_iter().for_each(let_go);
        for n in 0..3 {
            let outcome = pipeline.next().await.unwrap();
            assert_eq!(outcome.tag, n);
            outcome.result.unwrap();
        }
    });
}

#[test]
fn a_full_pipeline_gives_a_frame_back() {
    let folder = tempfile::tempdir().unwrap();
    let ((pi, near), cloud) = (gated(), Device::start());
    wait(async {
        let mut pipeline = pipeline(chain_of(&folder, &[&pi, &cloud]), 2).await;
        pipeline.send(0, frame(numbered(0))).unwrap();
        pipeline.send(1, frame(numbered(1))).unwrap();
        assert!(pipeline.is_full());
        let (tag, back) = pipeline.send(2, frame(numbered(2))).unwrap_err();
        assert_eq!((tag, &back), (2, &frame(numbered(2))));
        (0..3).for_each(|_| near.open.send(()).unwrap());
        assert_eq!(pipeline.next().await.unwrap().tag, 0);
        // A frame whose answer was taken makes room for another.
        pipeline.send(tag, back).unwrap();
        assert_eq!(pipeline.next().await.unwrap().tag, 1);
        assert_eq!(pipeline.next().await.unwrap().tag, 2);
        assert!(pipeline.next().await.is_none());
    });
}

#[test]
fn a_frame_that_cannot_be_run_costs_itself_only() {
    let folder = tempfile::tempdir().unwrap();
    let devices = [Device::start(), Device::start()];
    wait(async {
        let addresses = devices.each_ref().map(Device::address);
        let mut pipeline = pipeline(chain(&folder, &addresses), 3).await;
        let long = Tensor::from_f32(Shape(vec![5]), vec![0.0; 5]).unwrap();
        let wrong = Frame::Tensors(vec![("x".to_owned(), long)]);
        for (n, frame) in [frame(numbered(0)), wrong, frame(numbered(2))].into_iter().enumerate() {
            pipeline.send(n, frame).unwrap();
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = pipeline.next().await {
            outcomes.push((outcome.tag, outcome.result));
        }
        let [(0, Ok(_)), (1, Err(error)), (2, Ok(last))] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        assert!(error.is_the_frames(), "{error}");
        assert_eq!(last.outputs, expected(numbered(2)));
        assert_ne!(vector(numbered(0)), vector(numbered(2)));
    });
}

#[test]
fn waiting_for_an_answer_can_be_given_up_without_losing_it() {
    let folder = tempfile::tempdir().unwrap();
    let ((pi, near), cloud) = (gated(), Device::start());
    wait(async {
        let mut pipeline = pipeline(chain_of(&folder, &[&pi, &cloud]), 2).await;
        pipeline.send("only", frame(numbered(0))).unwrap();
        tokio::select! {
            biased;
            _ = pipeline.next() => panic!("nothing was let go yet"),
            () = std::future::ready(()) => {}
        }
        near.open.send(()).unwrap();
        let outcome = pipeline.next().await.unwrap();
        assert_eq!((outcome.tag, outcome.result.is_ok()), ("only", true));
        assert!(pipeline.is_empty());
    });
}
