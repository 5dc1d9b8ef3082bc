//! `cutline run` while agents and links die, stop, break and come back, as processes: every frame is
//! answered once, rightly, in order; and what healed is used again by the same run.
#![allow(clippy::unwrap_used)]

mod scene;

use scene::{Hub, Link, Planned, Scene};
use serde_json::Value;

fn why(summary: &Value) -> &str {
    summary["routing"]["last_change"]["why"].as_str().unwrap()
}

#[test]
fn a_killed_cloud_costs_no_frame_and_is_used_again_once_it_is_back() {
    let summary = Scene::start(Planned::ByHand, Hub::Absent)
        .survive(|scene| scene.cloud.kill(), |scene| scene.cloud.restart());
    assert_eq!(why(&summary), "it can be used again", "{summary}");
    assert!(summary["routing"]["by_fallback"].as_u64().unwrap() >= 4, "{summary}");
}

#[test]
fn a_killed_agent_of_the_source_itself_costs_no_frame() {
    Scene::start(Planned::ByHand, Hub::Absent)
        .survive(|scene| scene.edge.kill(), |scene| scene.edge.restart());
}

#[test]
fn an_agent_that_is_started_again_at_once_gets_its_stages_again() {
    let again = |scene: &mut Scene| {
        scene.cloud.kill();
        scene.cloud.restart();
    };
    Scene::start(Planned::ByHand, Hub::Absent).survive(again, |_| {});
}

#[test]
fn a_run_takes_its_stages_with_it_however_often_it_deployed_them() {
    let mut scene = Scene::start(Planned::ByHand, Hub::Absent);
    for _ in 0..2 {
        scene.until(false);
        scene.cloud.kill();
        scene.until(true);
        scene.cloud.restart();
    }
    scene.until(false);
    assert_eq!([scene.edge.stages(), scene.cloud.stages()], [1, 1]);
    scene.end();
    assert_eq!([scene.edge.stages(), scene.cloud.stages()], [0, 0]);
}

#[test]
fn a_stopped_cloud_which_still_accepts_connections_costs_no_frame() {
    Scene::start(Planned::ByHand, Hub::Absent)
        .survive(|scene| scene.cloud.signal("-STOP"), |scene| scene.cloud.signal("-CONT"));
}

#[test]
fn a_stopped_agent_of_the_source_costs_no_frame() {
    Scene::start(Planned::ByHand, Hub::Absent)
        .survive(|scene| scene.edge.signal("-STOP"), |scene| scene.edge.signal("-CONT"));
}

#[test]
fn a_stalled_link_costs_no_frame() {
    let order = |command: &'static str| {
        move |scene: &mut Scene| scene.link.as_ref().unwrap().order(command)
    };
    Scene::start(Planned::ByHand, Hub::Absent).survive(order("cut"), order("resume"));
}

#[test]
fn a_link_that_is_gone_costs_no_frame() {
    let again = |scene: &mut Scene| {
        scene.link = Some(Link::start(&scene.listen, scene.cloud.address()));
    };
    Scene::start(Planned::ByHand, Hub::Absent).survive(|scene| drop(scene.link.take()), again);
}

#[test]
fn connections_that_are_reset_in_the_middle_of_a_message_cost_no_frame() {
    let mut scene = Scene::start(Planned::ByHand, Hub::Absent);
    scene.until(false);
    for _ in 0..5 {
        (0..3).for_each(|_| drop(scene.next()));
        scene.link.as_ref().unwrap().order("reset");
    }
    scene.until(false);
    scene.end();
}

#[test]
fn a_run_ends_although_an_agent_is_stopped() {
    let mut scene = Scene::start(Planned::ByHand, Hub::Absent);
    scene.until(false);
    scene.cloud.signal("-STOP");
    scene.until(true);
    scene.end();
}

#[test]
fn a_link_that_becomes_slow_and_fast_again_is_followed() {
    let mut scene = Scene::start(Planned::Swept, Hub::Absent);
    let planned = scene.until(false);
    for _ in 0..2 {
        let set = |scene: &Scene, rate| {
            scene.link.as_ref().unwrap().order(&format!("set up={rate} down={rate}"));
        };
        set(&scene, "500kbit");
        scene.until(true);
        set(&scene, "50mbit");
        assert_eq!(scene.until(false), planned);
    }
    scene.end();
}

#[test]
fn where_one_of_two_agents_is_gone_the_other_one_is_used() {
    let mut scene = Scene::start(Planned::Swept, Hub::Device);
    let [cloud, hub] = ["cloud", "hub"].map(|device| scene.route_by(device));
    scene.until_it_is(|route| route == cloud);
    scene.cloud.kill();
    scene.until_it_is(|route| route == hub);
    // The dead cloud may have answered frames that were sent after one that had to be tried again, and
    // answers come in the order of the frames.
    (0..16).for_each(|_| drop(scene.next()));
    scene.until_it_is(|route| route == hub);
    (0..5).for_each(|_| assert_eq!(scene.next(), hub));
    scene.cloud.restart();
    scene.until_it_is(|route| route == cloud);
    scene.end();
}

#[test]
fn where_one_of_two_replicas_is_gone_the_other_one_does_its_work() {
    let mut scene = Scene::start(Planned::ByHand, Hub::Replica);
    let planned = scene.until(false);
    scene.cloud.kill();
    (0..10).for_each(|_| assert_eq!(scene.until(false), planned));
    scene.cloud.restart();
    (0..10).for_each(|_| drop(scene.next()));
    scene.hub.as_mut().unwrap().kill();
    (0..10).for_each(|_| assert_eq!(scene.until(false), planned));
    scene.end();
}

#[test]
fn a_run_that_is_killed_leaves_agents_that_the_next_one_uses() {
    let mut scene = Scene::start(Planned::ByHand, Hub::Absent);
    for _ in 0..2 {
        scene.until(false);
        (0..3).for_each(|_| drop(scene.next()));
        scene.run_again();
    }
    scene.until(false);
    scene.end();
}
