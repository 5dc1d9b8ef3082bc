//! Mappings of AutoDiCE over networks of the zoo: imported, refused, exported.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use cutline_core::{
    autodice::{self, AutodiceError, Imported, MappingFile, check_hosts, node_name, parse_hosts},
    graph::{Graph, Role},
    group::{self, Grouping},
    onnx::{self, ImportOptions},
    partition::derive,
    platform::DeviceId,
    zoo,
};
use serde_json::{Map, Value, json};

struct Net {
    graph: Graph,
    grouping: Grouping,
}

impl Net {
    fn zoo(name: &str) -> Self {
        let model = zoo::outline(name, None).unwrap();
        Self::of(onnx::import(&model, &ImportOptions::default()).unwrap())
    }

    fn of(graph: Graph) -> Self {
        let grouping = group::group(&graph);
        Net { graph, grouping }
    }

    /// The nodes of consecutive groups, as many lists of them as there are resources.
    fn in_order(&self, resources: &[&str]) -> Map<String, Value> {
        let groups = self.grouping.dag.groups().len();
        let mut lists: Vec<Vec<String>> = vec![Vec::new(); resources.len()];
        for (layer, group) in self.graph.layers().iter().zip(&self.grouping.group_of) {
            if let Some(group) = group {
                let list = group.index() * resources.len() / groups;
                lists[list].push(node_name(&self.graph, layer));
            }
        }
        resources
            .iter()
            .map(|name| (*name).to_owned())
            .zip(lists.into_iter().map(Value::from))
            .collect()
    }

    fn import(&self, mapping: &Map<String, Value>) -> Result<Imported, AutodiceError> {
        self.import_text(&serde_json::to_string(mapping).unwrap())
    }

    fn import_text(&self, text: &str) -> Result<Imported, AutodiceError> {
        autodice::import(&self.graph, &self.grouping, &MappingFile::parse(text)?)
    }
}

#[test]
fn alexnet_over_two_cores_of_a_host() {
    let net = Net::zoo("alexnet");
    let mapping = net.in_order(&["lenovo_cpu0", "lenovo_cpu1"]);
    let imported = net.import(&mapping).unwrap();
    let platform = imported.platform().unwrap();
    let hosts: Vec<_> =
        platform.devices().iter().map(|d| (&*d.name, &*d.host, d.threads)).collect();
    assert_eq!(hosts, [("lenovo_cpu0", "lenovo", Some(1)), ("lenovo_cpu1", "lenovo", Some(1))]);
    let found = imported.onto(&platform).unwrap();
    let partition = derive(&net.grouping.dag, &found);
    assert_eq!(partition.stages.len(), 2);
    assert_eq!(partition.stages[0].device, DeviceId::SOURCE);
    let layers: usize = net.grouping.dag.groups().iter().map(|group| group.layers.len()).sum();
    let listed: usize = mapping.values().map(|list| list.as_array().unwrap().len()).sum();
    assert_eq!(listed, layers);
}

#[test]
fn densenet_over_eight_cores_of_two_hosts() {
    let net = Net::zoo("densenet121");
    let resources: Vec<String> =
        (0..8).map(|at| format!("nx0{}_arm{}", 1 + at / 4, at % 4)).collect();
    let names: Vec<&str> = resources.iter().map(String::as_str).collect();
    let mapping = net.in_order(&names);
    let file = MappingFile::parse(&serde_json::to_string(&mapping).unwrap()).unwrap();
    let hosts =
        "# two boards\nnx01, arm, slots=0-5, gpu=NVIDIAVolta (CUDA)\n\nnx02, arm, slots=0-5\n";
    check_hosts(&file, &parse_hosts(hosts).unwrap()).unwrap();

    let imported = net.import(&mapping).unwrap();
    let platform = imported.platform().unwrap();
    let found: Vec<&str> = platform.devices().iter().map(|device| &*device.name).collect();
    assert_eq!(found, names);
    assert_eq!(platform.links().len(), 8 * 7 / 2, "all are joined");
    for link in platform.links() {
        let [a, b] = link.between.map(|id| platform.device(id));
        let card = link.cards.clone().map(|card| card.is_some());
        assert_eq!(card, [a.host != b.host; 2], "one card between the hosts, none within one");
        assert!(link.up.is_some() && link.delay.is_some());
    }
    let partition = derive(&net.grouping.dag, &imported.onto(&platform).unwrap());
    let order: Vec<&str> =
        partition.stages.iter().map(|stage| &*platform.device(stage.device).name).collect();
    assert_eq!(order, names, "one stage for each core, in order");
}

#[test]
fn what_is_exported_is_imported_again() {
    for (name, resources) in [
        ("alexnet", ["a_cpu0", "a_cpu1", "b_gpu"]),
        ("densenet121", ["nx01_arm0123", "nx01_arm45", "nx02_gpu"]),
        ("shufflenetv2", ["x_y_cpu0", "x_y_gpu", "z_cpu9"]),
    ] {
        let net = Net::zoo(name);
        let imported = net.import(&net.in_order(&resources)).unwrap();
        let platform = imported.platform().unwrap();
        let mapping = imported.onto(&platform).unwrap();
        let text = autodice::export(&net.graph, &net.grouping, &platform, &mapping).unwrap();
        let again = net.import_text(&text).unwrap();
        assert_eq!(again, imported, "{name}");
        let nodes: usize = serde_json::from_str::<Map<String, Value>>(&text)
            .unwrap()
            .values()
            .map(|l| l.as_array().unwrap().len())
            .sum();
        assert_eq!(nodes, net.graph.layers().len(), "{name}: every node is listed");
    }
}

#[test]
fn devices_of_other_names_become_resources() {
    let net = Net::zoo("alexnet");
    let platform = json!({ "version": 1,
        "device": [ { "name": "pi", "threads": 4 }, { "name": "gpu", "host": "nano", "preset": "jetson-nano-gpu" },
                    { "name": "cpu", "host": "nano", "preset": "jetson-nano-cpu" }, { "name": "big", "threads": 64 } ],
        "link": [] });
    let mut platform: cutline_core::platform::Platform =
        serde_json::from_value(platform.clone()).unwrap();
    let imported = net.import(&net.in_order(&["a_cpu0", "b_cpu0", "c_cpu0"])).unwrap();
    let mapping = imported.onto(&imported.platform().unwrap()).unwrap();
    let error = autodice::export(&net.graph, &net.grouping, &platform, &mapping).unwrap_err();
    assert!(error.to_string().contains("`big`"), "{error}");
    let mut file = serde_json::to_value(&platform).unwrap();
    file["device"].as_array_mut().unwrap().pop();
    platform = serde_json::from_value(file).unwrap();
    let text = autodice::export(&net.graph, &net.grouping, &platform, &mapping).unwrap();
    let again = net.import_text(&text).unwrap();
    let names: Vec<&str> = again.resources.iter().map(|resource| &*resource.name).collect();
    assert_eq!(names, ["pi_cpu0123", "nano_gpu", "nano_cpu0"]);
    assert_eq!(again.of_group, imported.of_group);
    let error = again.onto(&platform).unwrap_err().to_string();
    assert!(error.contains("`nano_gpu` is not a device") && error.contains("`gpu`"), "{error}");
}

#[test]
fn replicated_nodes_may_be_listed_or_not() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/models/onnx/version-RFB-320.onnx");
    let Ok(bytes) = std::fs::read(&file) else {
        eprintln!("skipped: {} is not here", file.display());
        return;
    };
    let model = onnx::decode(bytes.into()).unwrap();
    let net = Net::of(onnx::import(&model, &ImportOptions::default()).unwrap());
    let replicated = net.graph.layers().iter().filter(|layer| layer.role == Role::Replicated);
    let replicated: Vec<String> = replicated.map(|layer| node_name(&net.graph, layer)).collect();
    assert!(!replicated.is_empty());
    let mut mapping = net.in_order(&["a_cpu0", "b_cpu0"]);
    let without = net.import(&mapping).unwrap();
    mapping["b_cpu0"].as_array_mut().unwrap().extend(replicated.into_iter().map(Value::from));
    assert_eq!(net.import(&mapping).unwrap(), without);
}

#[test]
fn what_is_wrong_with_a_mapping_is_named() {
    let net = Net::zoo("alexnet");
    let good = net.in_order(&["lenovo_cpu0", "lenovo_cpu1"]);
    let list = |mapping: &mut Map<String, Value>, key: &str| -> Vec<Value> {
        std::mem::take(mapping[key].as_array_mut().unwrap())
    };
    let first = good["lenovo_cpu0"][0].as_str().unwrap().to_owned();
    let second = good["lenovo_cpu0"][1].as_str().unwrap().to_owned();
    let with = |change: &dyn Fn(&mut Vec<Value>, &mut Vec<Value>)| {
        let mut mapping = good.clone();
        let (mut a, mut b) = (list(&mut mapping, "lenovo_cpu0"), list(&mut mapping, "lenovo_cpu1"));
        change(&mut a, &mut b);
        json!({ "lenovo_cpu0": a, "lenovo_cpu1": b }).to_string()
    };
    let misspelt = format!("{first}x");
    let cases = [
        (
            with(&|a, _| a[0] = misspelt.clone().into()),
            format!("`{misspelt}`, which this model does not have; did you mean `{first}`?"),
        ),
        (
            with(&|a, b| b.push(a[0].clone())),
            format!("node `{first}` is listed twice, for `lenovo_cpu0` and for `lenovo_cpu1`"),
        ),
        (with(&|a, _| a.push(a[0].clone())), format!("node `{first}` is listed twice")),
        (
            with(&|a, b| b.push(a.remove(1))),
            format!("node `{second}` to `lenovo_cpu1`, but the engines run both as one"),
        ),
        (
            with(&|a, _| drop(a.remove(1))),
            format!(
                "is in no list; give it to a resource; the engines run it with `{first}`, which `lenovo_cpu0` has"
            ),
        ),
        (r#"{ "lenovo": ["a"] }"#.into(), "resource `lenovo`: expected a host".into()),
        (r#"{ "lenovo_cpu": [] }"#.into(), "resource `lenovo_cpu`".into()),
        (r#"{ "lenovo_cpu11": [] }"#.into(), "resource `lenovo_cpu11`".into()),
        (r#"{ "a_cpu0": [], "a_cpu0": [] }"#.into(), "`a_cpu0` is listed twice".into()),
        (r#"{ "a_cpu01": [], "a_cpu12": [] }"#.into(), "both use core 1 of `a`".into()),
        (r#"{ "a_cpu0": [1] }"#.into(), "line 1, column 14".into()),
        (r#"["a_cpu0"]"#.into(), "an object from resources to lists of nodes".into()),
        ("{}".into(), "it lists no resource".into()),
    ];
    for (text, expected) in cases {
        let error = net.import_text(&text).unwrap_err().to_string();
        assert!(error.contains(&expected), "{error}\nshould say: {expected}");
    }
}

#[test]
fn what_is_wrong_with_hosts_is_named() {
    let file = MappingFile::parse(r#"{ "nx01_arm56": [], "nx01_gpu": [] }"#).unwrap();
    let cases = [
        (
            "nx02\nnx10\n",
            "on host `nx01`, which the platform file does not list; did you mean `nx02`?",
        ),
        ("nx01, arm, slots=0-5", "`nx01_arm56` uses core 6, but `nx01` has cores 0 to 5"),
        ("nx01, arm, slots=0-7", "`nx01_gpu`: the platform file names no GPU"),
        ("nx01\nnx01", "`nx01` is listed twice"),
        ("ok\n, arm", "platform line 2, `, arm`: expected the name"),
        ("nx01 arm", "expected the name"),
        ("nx01, slots=5-0", "the first core comes after"),
        ("nx01, slots=many", "expected cores such as"),
    ];
    for (hosts, expected) in cases {
        let error = parse_hosts(hosts).and_then(|hosts| check_hosts(&file, &hosts)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}\nshould say: {expected}");
    }
    for fine in ["nx01", "nx01, arm, slots=0-7, gpu=NVIDIAVolta (CUDA)"] {
        check_hosts(&file, &parse_hosts(fine).unwrap()).unwrap();
    }
}
