//! Routing under a virtual clock: the router that agents run, in a simulated world of devices and links
//! that fail in every way, at random.
//!
//! [`play`] holds the router to what the head of its module promises, action by action; here are the
//! schedules, and what has to be true at their ends. A schedule that fails is shrunk to the fewest and
//! shortest troubles, and printed as such.
#![allow(clippy::unwrap_used)]

use cutline_core::{
    routing::{
        Action, Event, Fallback, Fault as Blame, FrameId, Loss, Request, Router, Settings, Table,
        Why,
    },
    units::{Bytes, BytesPerSec, Nanos},
};
use proptest::prelude::*;

mod faults;
mod place;
mod play;
mod world;

use faults::{Fault, What, any, deadly, schedule};
use place::{CLOUD, LAN, WAN, mbit, ms, table};
use play::{Play, settings};
use world::Small;

/// After the last trouble a route may be avoided for eight dwells; then it is loaded, measured, taken.
const HEALED: Nanos = ms(8 * 500 + 2_500);

/// When an answer is late on the slowest route, `edge`, before its first one: 128 ms and four
/// deviations of half of what three frames need.
const LATE: Nanos = ms(7 * 128);

/// A camera that is slower than the fallback, so that the source can keep up by itself.
const INTERVAL: Nanos = ms(170);

fn small() -> impl Strategy<Value = Small> {
    prop_oneof![Just(Small::Beside), Just(Small::Behind)]
}

fn play(troubles: &[Fault], small: Small, with_fallback: bool) -> Play {
    let mut play = Play::new(table(with_fallback), settings(), small);
    let over = troubles.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or_default();
    play.run(over + HEALED, INTERVAL, troubles);
    play
}

/// What has to be true of every run at its end, when everything has been well for a while.
fn check_healed(play: &Play) {
    let current = play.router.current().expect("a route can be used");
    let best = place::best(play.router.table(), mbit(50));
    assert_eq!(play.name(current), play.name(best), "the best route is used again");
    let rate = play.router.rate().expect("the link is measured");
    assert!(mbit(40) < rate && rate < mbit(60), "estimated at {rate}");
    let last = play.world.now - ms(1_000);
    let slowest = play.latencies(last).max().expect("frames are answered");
    assert!(slowest < ms(100), "frames take {slowest} still");
    let unfinished = play.arrived.keys().filter(|&id| !play.ended.contains_key(id)).count();
    assert!(unfinished <= 1, "{unfinished} frames are still held");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default()
    })]

    #[test]
    fn with_a_fallback_no_frame_is_lost_whatever_happens_to_others(
        troubles in schedule(any(), 8, 8_000), small in small()
    ) {
        let play = play(&troubles, small, true);
        prop_assert_eq!(play.lost(), []);
        prop_assert!(play.most_switches_in_a_dwell() <= 3, "{:?}", play.switches);
        check_healed(&play);
    }

    #[test]
    fn what_stops_dead_is_noticed_by_silence_or_by_lateness(
        troubles in schedule(deadly(), 6, 8_000), small in small()
    ) {
        let play = play(&troubles, small, true);
        prop_assert_eq!(play.lost(), []);
        check_healed(&play);
        // What a cut shorter than the detection swallowed is only noticed by being late; and the
        // next best route may be dying too, before the fallback is taken.
        let promised = settings().detection() + LATE + ALONE + BEFORE;
        prop_assert!(play.quiet <= promised, "{} without an answer", play.quiet);
    }

    #[test]
    fn without_a_fallback_frames_are_lost_by_their_deadlines_only(
        troubles in schedule(any(), 8, 8_000), small in small()
    ) {
        let play = play(&troubles, small, false);
        let reasons = [Loss::Unanswered, Loss::Overrun, Loss::NoRoute];
        prop_assert!(play.lost().iter().all(|(_, loss)| reasons.contains(loss)));
        check_healed(&play);
    }
}

/// What a frame may have to wait for on the source: the first stages of frames before it.
const BEFORE: Nanos = ms(30);

/// Latency of the fallback alone.
const ALONE: Nanos = ms(150);

#[test]
fn a_dead_peer_costs_the_detection_and_one_latency_at_most() {
    let deaths = [
        What::Kill(CLOUD),
        What::Stop(CLOUD),
        What::Cut(WAN),
        What::Stall(WAN),
        What::Reset(WAN),
        What::Rate(2_000),
    ];
    for what in deaths {
        let mut longest = Nanos::ZERO;
        for turn in 0..10 {
            let mut play = Play::new(table(true), settings(), Small::Behind);
            let at = ms(3_000 + 37 * turn);
            play.run(at, INTERVAL, &[]);
            play.forget_quiet();
            let fault = Fault { at, lasts: ms(2_000), what };
            play.run(at + ms(2_000) + HEALED, INTERVAL, &[fault]);
            assert_eq!(play.lost(), [], "{fault:?}");
            check_healed(&play);
            longest = longest.max(play.quiet);
        }
        let promised = settings().detection() + ALONE + BEFORE;
        println!("{what:?}: {longest} without an answer, at most {promised}");
        assert!(longest <= promised, "{what:?}: {longest}, promised {promised}");
    }
}

#[test]
fn a_link_that_drops_and_recovers_ten_times_loses_nothing() {
    for small in [Small::Beside, Small::Behind] {
        let drop = |turn: u64| Fault {
            at: ms(3_000 + turn * 9_013),
            lasts: ms(4_000),
            what: What::Rate(2_000),
        };
        let troubles: Vec<Fault> = (0..10).map(drop).collect();
        let play = play(&troubles, small, true);
        assert_eq!(play.lost(), []);
        check_healed(&play);
        let promised = settings().detection() + ALONE + BEFORE;
        assert!(play.quiet <= promised, "{} without an answer, promised {promised}", play.quiet);
        assert!(play.most_switches_in_a_dwell() <= 3, "{:?}", play.switches);
        println!("{small:?}: {} switches, {} without an answer", play.switches.len(), play.quiet);
        // Away and back, with a step between at either end.
        assert!((20..=50).contains(&play.switches.len()), "{:?}", play.switches);
    }
}

#[test]
fn a_speed_that_wavers_around_a_corner_changes_nothing() {
    let mut play = Play::new(table(true), settings(), Small::Behind);
    let corner = (1..2_000).map(|step| BytesPerSec(step * 10_000)).find(|&rate| {
        let table = play.router.table();
        table.best_at(rate) == table.best_at(mbit(50))
    });
    let corner = corner.unwrap().0;
    for turn in 0..200 {
        let rate = BytesPerSec(if turn % 2 == 0 { corner * 97 / 100 } else { corner * 103 / 100 });
        play.world.change_cable(WAN, |cable| cable.rate = rate);
        play.run(play.world.now + INTERVAL, INTERVAL, &[]);
        if turn == 30 {
            play.switches.clear();
        }
    }
    assert_eq!(play.switches, []);
}

#[test]
fn a_frame_that_cannot_be_computed_is_rejected_and_harms_no_other() {
    let mut play = Play::new(table(true), settings(), Small::Beside);
    play.run(ms(2_000), INTERVAL, &[]);
    play.switches.clear();
    play.forget_quiet();
    let rotten = FrameId(play.arrived.len() as u64 + 3);
    play.rotten.insert(rotten);
    play.run(ms(5_000), INTERVAL, &[]);
    assert_eq!(play.lost(), [(rotten, Loss::Rejected)]);
    assert_eq!(play.switches, []);
    assert!(play.quiet < ms(100));
}

#[test]
fn a_fallback_that_cannot_keep_up_answers_as_much_as_it_can() {
    let troubles = [What::Cut(WAN), What::Cut(LAN)];
    let troubles = troubles.map(|what| Fault { at: ms(2_000), lasts: ms(20_000), what });
    let mut play =
        Play::new(table(true), Settings { deadline: ms(600), ..settings() }, Small::Behind);
    play.run(ms(22_000), ms(40), &troubles);
    let alone = play.latencies(ms(2_500)).count() as u64;
    assert!(alone >= 19_000 / 150 * 9 / 10, "{alone} answers in 19 s");
    assert!(play.refused > 0 || !play.lost().is_empty());
    assert!(play.lost().iter().all(|&(_, loss)| loss != Loss::NoRoute));
}

#[test]
fn nothing_is_asked_for_more_often_than_settings_say() {
    let mut play = Play::new(table(true), settings(), Small::Beside);
    play.run(ms(10_000), ms(60_000), &[]);
    // Three links, ten heartbeats a second each, and a probe of an idle link.
    assert!((295..=303).contains(&play.heartbeats), "{} heartbeats", play.heartbeats);
    let probes = play.bytes_probed;
    assert!(probes > 0 && probes < 10_000_000 / 8 * 5, "{probes} bytes of probes in ten seconds");
}

/// A router with its fallback loaded, and one frame on it.
fn with_a_frame() -> (Router, Request) {
    let mut router = Router::new(table(true), settings(), 7, Nanos::ZERO);
    let actions: Vec<Action> = std::iter::from_fn(|| router.poll()).collect();
    for action in actions {
        if let Action::Load { route, ticket } = action {
            router.handle(ms(1), Event::Loaded { route, ticket });
        }
    }
    router.submit(ms(2)).unwrap();
    let sent = std::iter::from_fn(|| router.poll()).find_map(|action| match action {
        Action::Send { request, .. } => Some(request),
        _ => None,
    });
    (router, sent.unwrap())
}

/// A router of two routes, the second one decided on although it is slower, and where frames go at
/// the end of half a second in which everything is loaded that it asks for.
fn decided() -> (Router, impl FnMut(&mut Router, Nanos, Option<u64>) -> Option<usize>) {
    let full = table(true);
    let mut routes: Vec<_> = full.routes()[..2].to_vec();
    // Nothing is measured; the decision is the slower of the two.
    (routes[1].up, routes[1].down, routes[1].fixed) = (Bytes(0), Bytes(0), ms(900));
    let decided = Table::new(
        full.links().to_vec(),
        routes,
        vec![(BytesPerSec(0), 1)],
        None,
        Fallback::Route(0),
    );
    let router = Router::new(decided.unwrap(), settings(), 7, Nanos::ZERO);
    let wan = router.table().link_ids().nth(WAN).unwrap();
    let live = move |router: &mut Router, until: Nanos, boot: Option<u64>| {
        let mut now = until - ms(500);
        while now < until {
            now += ms(10);
            router.advance(now);
            while let Some(action) = router.poll() {
                match action {
                    Action::Load { route, ticket } => {
                        router.handle(now, Event::Loaded { route, ticket });
                    }
                    Action::Heartbeat { link, number } if link == wan => match boot {
                        Some(boot) => router.handle(now, Event::Heard { link, number, boot }),
                        None => router.handle(now, Event::Unreachable { link, number }),
                    },
                    _ => {}
                }
            }
        }
        router.current().map(|route| route.index())
    };
    (router, live)
}

#[test]
fn what_was_decided_on_is_taken_although_another_route_is_faster() {
    let (mut router, mut live) = decided();
    assert_eq!(live(&mut router, ms(500), Some(1)), Some(1));
    assert_eq!(live(&mut router, ms(1_000), None), Some(0), "the link is down");
    live(&mut router, ms(1_500), Some(2));
    assert_eq!(live(&mut router, ms(2_000), Some(2)), Some(1), "and comes back");
}

#[test]
fn a_route_that_was_asked_for_is_taken_at_once_and_kept_unless_something_speaks_against_it() {
    let (mut router, mut live) = decided();
    let ids: Vec<_> = router.table().route_ids().collect();
    assert_eq!(live(&mut router, ms(500), Some(1)), Some(1));
    router.prefer(ms(501), Some(ids[0]));
    assert_eq!(router.current(), Some(ids[0]));
    let asked = |action| action == Action::Switched { to: Some(ids[0]), why: Why::Asked };
    assert!(std::iter::from_fn(|| router.poll()).any(asked));
    // Half a second after half a second, as the router is never left alone.
    let mut now = 500;
    let mut go = |router: &mut Router, halves: u64, boot| {
        let mut at = None;
        for _ in 0..halves {
            now += 500;
            at = live(router, ms(now), boot);
        }
        (at, ms(now + 1))
    };
    let (at, now) = go(&mut router, 10, Some(1));
    assert_eq!(at, Some(0), "however much better another is");
    router.prefer(now, Some(ids[1]));
    assert_eq!(router.current(), Some(ids[1]), "the dwell is not waited for");
    assert_eq!(go(&mut router, 1, None).0, Some(0), "its link is down");
    let (at, now) = go(&mut router, 20, Some(2));
    assert_eq!(at, Some(1), "and comes back");
    router.prefer(now, Some(ids[0]));
    assert_eq!(go(&mut router, 2, Some(2)).0, Some(0));
    router.prefer(now, None);
    assert_eq!(go(&mut router, 20, Some(2)).0, Some(1), "it chooses by itself again");
}

#[test]
fn answers_of_other_sessions_epochs_and_frames_are_dropped() {
    let (mut router, request) = with_a_frame();
    let strangers = [
        Request { session: 8, ..request },
        Request { epoch: request.epoch + 1, ..request },
        Request { frame: FrameId(99), ..request },
    ];
    for stranger in strangers {
        router.handle(ms(3), Event::Answered(stranger));
        router.handle(ms(3), Event::Failed(stranger, Blame::Frame));
        assert_eq!((router.poll(), router.held()), (None, 1), "{stranger}");
    }
    router.handle(ms(4), Event::Answered(request));
    assert_eq!(router.poll(), Some(Action::Deliver(request)));
    router.handle(ms(5), Event::Answered(request));
    assert_eq!((router.poll(), router.held()), (None, 0));
}

#[test]
fn an_answer_after_the_deadline_is_none() {
    let (mut router, request) = with_a_frame();
    let deadline = ms(2) + settings().deadline;
    router.handle(deadline, Event::Answered(request));
    let actions: Vec<Action> = std::iter::from_fn(|| router.poll()).collect();
    assert!(actions.contains(&Action::Lose(request.frame, Loss::Unanswered)), "{actions:?}");
    assert!(!actions.contains(&Action::Deliver(request)));
}

#[test]
fn a_clock_that_goes_back_and_numbers_without_sense_do_no_harm() {
    let (mut router, request) = with_a_frame();
    let link = router.table().link_ids().next().unwrap();
    router.advance(ms(50));
    for (began, ended) in [(Nanos(0), Nanos(0)), (ms(9), ms(1)), (Nanos(u64::MAX), Nanos(u64::MAX))]
    {
        for bytes in [Bytes(0), Bytes(u64::MAX)] {
            for link in router.table().link_ids().collect::<Vec<_>>() {
                router.handle(ms(3), Event::Transferred { link, bytes, began, ended });
                router.handle(ms(3), Event::Probed { link, bytes, began, ended });
            }
        }
    }
    router.handle(ms(1), Event::Heard { link, number: u64::MAX, boot: 0 });
    router.handle(ms(1), Event::Unreachable { link, number: u64::MAX });
    router.handle(ms(51), Event::Answered(request));
    assert!(std::iter::from_fn(|| router.poll()).any(|action| action == Action::Deliver(request)));
    router.advance(Nanos(u64::MAX));
    assert_eq!(router.held(), 0);
}
