//! A plan survives being written, edited and misused.

use serde_json::{Value, json};

use super::*;
use crate::codec::CutEncoding;
use crate::{
    cost::table,
    planner::{self, solve},
    units::BytesPerSec,
};

/// Two layers; the second is much faster in the cloud.
fn network() -> (Dag, Costs, Platform) {
    let platform: Platform = serde_json::from_value(json!({
        "version": 1, "device": [{ "name": "pi" }, { "name": "cloud" }],
        "link": [{ "between": ["pi", "cloud"], "up": "800mbit" }] }))
    .unwrap();
    let file = serde_json::from_value(json!({ "version": 1, "input": { "fp32": 10000 },
        "layers": [
            { "name": "z", "output_bytes": 100, "time_ns": { "pi": 50, "cloud": 10 } },
            { "name": "a", "inputs": ["z"], "output_bytes": 10, "time_ns": { "pi": 90000, "cloud": 9 } } ],
        "outputs": ["a"] }))
    .unwrap();
    let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
    (dag, costs, platform)
}

fn plan() -> (Dag, Plan) {
    let (dag, costs, platform) = network();
    let request = Request::default();
    let answer = solve(&dag, &costs, &request).unwrap();
    let model = ModelRef { name: "net.onnx".into(), sha256: "aa".into() };
    let plan = Plan::new(model, &dag, &costs, &platform, &request, &answer, None);
    (dag, plan)
}

fn edited(edit: impl Fn(&mut Value)) -> Result<Plan, String> {
    let (dag, plan) = plan();
    let mut value = serde_json::to_value(&plan).unwrap();
    edit(&mut value);
    Plan::open(&value.to_string(), &dag, "aa").map_err(|error| error.to_string())
}

#[test]
fn a_plan_is_written_with_the_promised_keys_and_read_back() {
    let (dag, plan) = plan();
    let text = serde_json::to_string(&plan).unwrap();
    assert!(text.contains(r#""mapping":{"z":"pi","a":"cloud"}"#), "in topological order: {text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    // 50 ns on the pi, 100 bytes at 100 bytes per us, 9 ns in the cloud, 10 bytes back.
    let best = &value["best_split"];
    let four = ["edge_compute_ns", "upload_ns", "cloud_compute_ns", "rest_ns"];
    assert_eq!(four.map(|key| best[key].as_u64().unwrap()), [50, 1000, 9, 100]);
    assert_eq!((&best["latency_ns"], &best["proof"]), (&json!(1159), &json!("optimal")));
    assert_eq!(best["cut"], json!([{ "name": "z", "bytes": 100 }]));
    assert_eq!(best["stages"][1]["inputs"], json!(["z"]));
    let names: Vec<&str> = value["baselines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["edge-only", "cloud-jpeg", "cloud-uint8", "cloud-fp32"]);
    assert_eq!(value["baselines"][0]["latency_ns"], json!(90_050));
    assert!(value["baselines"][1]["infeasible"].as_str().unwrap().contains("jpeg"));
    assert_eq!(Plan::open(&text, &dag, "aa").unwrap(), plan);
}

/// The plan with the best one at every speed of its link.
fn swept() -> (Dag, Plan, Table) {
    let (dag, costs, platform) = network();
    let (_, mut plan) = plan();
    let request = Request::default();
    let ends = [BytesPerSec(1_000), BytesPerSec(1_000_000_000)];
    let regimes = planner::sweep(&dag, &costs, &request, 0, ends, &mut || false).unwrap();
    let answer = solve(&dag, &costs, &request).unwrap();
    let fallback = answer.baselines[0].outcome.as_ref().map_err(ToString::to_string);
    let (table, choices) = Table::of_sweep(&costs, 0, &regimes, fallback, &[]).unwrap();
    plan.add_routes(&dag, &costs, &table, &choices);
    assert_eq!(plan.platform, platform);
    (dag, plan, table)
}

#[test]
fn routes_are_written_read_back_and_checked() {
    let (dag, plan, table) = swept();
    let text = serde_json::to_string(&plan).unwrap();
    let open = |text: &str| Plan::open(text, &dag, "aa");
    let routes = open(&text).unwrap().routes.unwrap();
    let read = routes.table(&plan.platform).unwrap();
    // Slow links leave all on the source, which is the fallback too; fast ones part the two layers.
    assert_eq!(read.routes().len(), 2);
    assert_eq!((read.routes()[0].name.as_str(), read.routes()[0].capacity), (HERE, 1));
    assert_eq!(read.routes()[1].name, plan.best.as_ref().unwrap().id);
    assert_eq!((read.links(), read.fallback()), (table.links(), table.fallback()));
    for rate in [1, 10_000, 1_000_000, 100_000_000].map(BytesPerSec) {
        assert_eq!(read.best_at(rate), table.best_at(rate));
        for route in table.route_ids() {
            assert_eq!(read.latency(route, rate), table.latency(route, rate));
        }
    }

    let (before, routes) = text.split_once(r#""routes":"#).unwrap();
    let edited = |from: &str, to: &str| {
        assert!(routes.contains(from), "{from}: {routes}");
        let text = format!(r#"{before}"routes":{}"#, routes.replace(from, to));
        let table = |plan: Plan| plan.routes.unwrap().table(&plan.platform).map(drop);
        open(&text).and_then(table).unwrap_err().to_string()
    };
    let moved = edited(r#"{"z":"pi","a":"cloud"}"#, r#"{"z":"cloud","a":"cloud"}"#);
    assert!(moved.contains("plan again with --sweep"), "{moved}");
    let moon = edited(r#""from":"pi","to":"cloud""#, r#""from":"pi","to":"moon""#);
    assert!(moon.contains("`moon`"), "{moon}");
    let beyond = edited(r#""route":1}"#, r#""route":7}"#);
    assert!(beyond.contains("routes cannot be used"), "{beyond}");
}

#[test]
fn what_an_edit_contradicts_is_derived_anew() {
    let plan = edited(|value| value["best"]["mapping"]["z"] = json!("cloud")).unwrap();
    let best = plan.best.unwrap();
    assert_eq!(best.stages.len(), 1);
    assert_eq!(best.cut, [CutValue { name: "input".into(), bytes: Some(Bytes(10_000)) }]);
    assert_eq!((best.predicted, best.proof), (None, None), "they were another decision's");
    let forged = edited(|value| value["best"]["stages"][0]["layers"] = json!(["a"])).unwrap();
    assert_eq!(forged.best.unwrap().stages[0].layers, ["z"], "only the mapping is believed");
}

#[test]
fn a_plan_that_does_not_fit_is_refused() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 7] = [
        (|plan| plan["model"]["sha256"] = json!("bb"), "sha256 bb, this model has aa"),
        (|plan| plan["version"] = json!(9), "version 9"),
        (|plan| plan["best"]["mapping"] = json!({ "z": "pi" }), "no device for layer `a`"),
        (|plan| plan["best"]["mapping"]["q"] = json!("pi"), "maps layer `q`"),
        (|plan| plan["best"]["mapping"]["a"] = json!("moon"), "device `moon`"),
        (|plan| plan["platform"]["link"] = json!([]), "no link between"),
        (|plan| plan["reason"] = json!(1), "not a plan"),
    ];
    for (edit, expected) in cases {
        let error = edited(edit).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_id_is_the_decision_and_nothing_else() {
    let (_, plan) = plan();
    let best = plan.best.clone().unwrap();
    let id = |choice: &PlannedChoice| choice.content_id(&plan.model, None);
    assert_eq!(best.id, id(&best));
    let measured = PlannedChoice { measured: best.predicted, ..best.clone() };
    assert_eq!(id(&measured), best.id);
    let mut other = best.clone();
    other.stages[0].cut_encoding = "fp16".into();
    assert_ne!(id(&other), best.id);
    let range = crate::codec::Range { least: 0.0, largest: 1.0 };
    let of_z = [("z".to_owned(), crate::codec::Quantization::of(range))];
    let mut quantised = best.clone();
    quantised.quantise(of_z.into(), &plan.model, None);
    assert_ne!(quantised.id, best.id, "another scale gives other answers");
}

#[test]
fn a_plan_by_hand_is_read_back_as_any_other() {
    let (dag, _, platform) = network();
    let model = ModelRef { name: "net.onnx".into(), sha256: "aa".into() };
    let by_hand = |devices: [&str; 2]| {
        let map = ["z", "a"].iter().zip(devices).map(|(l, d)| (l.to_string(), d.to_string()));
        let map = LayerMap(map.collect());
        Plan::by_hand(
            model.clone(),
            &dag,
            &platform,
            (map, CutEncoding::Fp16),
            None,
            "because".into(),
        )
    };
    let split = by_hand(["pi", "cloud"]).unwrap();
    let read = Plan::open(&serde_json::to_string(&split).unwrap(), &dag, "aa").unwrap();
    assert_eq!(read, split);
    let choice = read.best_split.unwrap();
    assert_eq!((choice.stages.len(), choice.predicted, choice.proof), (2, None, None));
    let stages = choice.codecs().unwrap().stages;
    assert_eq!(stages, [CutEncoding::Fp16, CutEncoding::Fp32], "the last sends nothing on");
    let mut named = split.clone();
    named.use_engines(&[("cloud".to_owned(), ("litert".to_owned(), 2))].into());
    let best = named.best.clone().unwrap();
    let engines = best.stages.iter().map(|stage| (stage.engine.as_str(), stage.threads));
    assert_eq!(engines.collect::<Vec<_>>(), [("", 0), ("litert", 2)]);
    assert_ne!(best.id, split.best.unwrap().id, "engines are part of the decision");
    let read = Plan::open(&serde_json::to_string(&named).unwrap(), &dag, "aa").unwrap();
    assert_eq!(read, named);
    assert_eq!(by_hand(["cloud", "cloud"]).unwrap().best_split, None, "one device is no split");
    assert!(by_hand(["pi", "moon"]).unwrap_err().to_string().contains("device `moon`"));
}

#[test]
fn a_list_of_parts_is_known_for_what_it_is() {
    let (dag, _) = plan();
    let list = json!({ "version": 1, "model": {}, "cuts": [["x", "y"], ["z"]], "parts": [{}] });
    let error = Plan::open(&list.to_string(), &dag, "aa").unwrap_err().to_string();
    assert!(
        error.contains("--at x,y --at z --platform") && error.contains("no devices"),
        "{error}"
    );
}

/// Two branches behind a layer, worth giving one of them to the cloud.
fn two_branches() -> (Dag, Costs, Platform) {
    let platform: Platform = serde_json::from_value(json!({
        "version": 1, "device": [{ "name": "pi" }, { "name": "cloud" }],
        "link": [{ "between": ["pi", "cloud"], "up": "8gbit" }] }))
    .unwrap();
    let layer = |name: &str, reads: &[&str], nanos: u64| {
        json!({ "name": name, "inputs": reads, "output_bytes": 100,
            "time_ns": { "pi": nanos, "cloud": nanos } })
    };
    let file = serde_json::from_value(json!({ "version": 1, "input": { "fp32": 90000 },
        "layers": [layer("a", &[], 50), layer("b", &["a"], 5000), layer("c", &["a"], 6000),
            layer("d", &["b", "c"], 10)],
        "outputs": ["d"] }))
    .unwrap();
    let (dag, costs) = table::read(&file, &platform, &[None]).unwrap();
    (dag, costs, platform)
}

fn scattered() -> (Dag, Plan) {
    let (dag, costs, platform) = two_branches();
    let request = Request { scatter: true, ..Request::default() };
    let answer = solve(&dag, &costs, &request).unwrap();
    let model = ModelRef { name: "net.onnx".into(), sha256: "aa".into() };
    let plan = Plan::new(model, &dag, &costs, &platform, &request, &answer, None);
    (dag, plan)
}

#[test]
fn a_scatter_group_is_written_and_read_back() {
    let (dag, plan) = scattered();
    let best = plan.best.as_ref().unwrap();
    let stages = best.stages.iter().map(|stage| {
        let joiner = stage.joined_by.as_deref().unwrap_or("-");
        (stage.device.as_str(), joiner, stage.layers.join(" "))
    });
    let stages: Vec<_> = stages.collect();
    let expected = [("pi", "-", "a"), ("pi", "-", "c"), ("cloud", "pi", "b"), ("pi", "-", "d")];
    let expected = expected.map(|(device, joiner, layers)| (device, joiner, layers.to_owned()));
    assert_eq!(stages, expected);
    // The pi's own 6000 is slower than 5000 and 100 each way: what goes to the cloud is beside it.
    let latency = best.predicted.unwrap().latency_ns;
    assert_eq!(latency, Nanos(50 + 6000 + 10));
    let waited = best.parts.iter().filter(|part| !part.beside).map(|part| part.time_ns);
    assert_eq!((waited.sum::<Nanos>(), best.parts.len()), (latency, 6));
    assert_eq!(Plan::open(&serde_json::to_string(&plan).unwrap(), &dag, "aa").unwrap(), plan);
    let mut again = best.clone();
    again.stages[2].joined_by = None;
    assert_ne!(
        again.content_id(&plan.model, None),
        best.id,
        "to visit the pi again is another plan"
    );
}

#[test]
fn an_edited_scatter_group_is_derived_anew_or_refused() {
    let (dag, plan) = scattered();
    type Edit = fn(&mut Value);
    let cases: [(Edit, Result<usize, &str>); 5] = [
        (|best| best["mapping"]["b"] = json!("pi"), Ok(1)),
        (|best| best["stages"][2]["joined_by"] = Value::Null, Ok(3)),
        (|best| best["mapping"]["d"] = json!("cloud"), Err("`d` is in no branch")),
        (|best| best["stages"][2]["joined_by"] = json!("cloud"), Err("helps nobody itself")),
        (|best| best["stages"][2]["joined_by"] = json!("moon"), Err("joined by `moon`")),
    ];
    for (edit, expected) in cases {
        let mut value = serde_json::to_value(&plan).unwrap();
        edit(&mut value["best"]);
        let found = Plan::open(&value.to_string(), &dag, "aa").map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(plan), Ok(stages)) => {
                let best = plan.best.unwrap();
                assert_eq!((best.stages.len(), best.predicted), (stages, None));
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_plan_keeps_its_busiest_resource_at_work() {
    let (_, plan) = plan();
    let split = plan.best_split.unwrap();
    let in_flight = |edit: &dyn Fn(&mut PlannedChoice)| {
        let mut choice = split.clone();
        edit(&mut choice);
        choice.frames_in_flight().get()
    };
    // Two stages, the hop between them and the way in, and one that waits.
    assert_eq!(in_flight(&|_| {}), 5);
    assert_eq!(in_flight(&|choice| choice.predicted = None), 5, "as many after an edit");
    // A link of long delay holds many frames: latency / period of them, and one that waits.
    let figures = |latency, period| {
        let (latency_ns, period_ns) = (Nanos(latency), Nanos(period));
        Some(Figures { latency_ns, period_ns, ..split.predicted.unwrap() })
    };
    assert_eq!(in_flight(&|choice| choice.predicted = figures(19_500, 1_000)), 21);
    assert_eq!(in_flight(&|choice| choice.predicted = figures(u64::MAX, 0)), 48);
    // What a person decided holds, up to what agents admit.
    assert_eq!(in_flight(&|choice| choice.in_flight = NonZeroU32::new(2)), 2);
    assert_eq!(in_flight(&|choice| choice.in_flight = NonZeroU32::new(1_000_000)), 48);
    let decided = |frames: u32| edited(|plan| plan["best_split"]["in_flight"] = json!(frames));
    assert_eq!(decided(3).unwrap().best_split.unwrap().frames_in_flight().get(), 3);
    assert!(decided(0).is_err());
}
