//! What a stage description must say, and what none may make the agent do.

use cutline_core::picture::{Layout, PictureSpec, Recipe};
use proptest::prelude::*;

use super::*;

fn tensor(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), dtype: DType::F32, shape: Some(Shape(vec![1, 3, 8, 8])) }
}

fn picture() -> PictureSpec {
    Recipe::default().for_input(DType::F32, &Shape(vec![1, 3, 8, 8])).unwrap()
}

/// A stage that uses every part of a description.
fn spec() -> StageSpec {
    StageSpec {
        plan: "net-1a2b".into(),
        name: "0-pi".into(),
        device: "pi".into(),
        inputs: vec![tensor("x"), tensor("z")],
        picture: Some(PictureInput {
            input: "x".into(),
            spec: picture(),
            encoding: InputEncoding::Jpeg,
        }),
        model: Some(ModelSpec {
            files: vec![FileSpec { name: "model.onnx".into(), sha256: "a".repeat(64), bytes: 9 }],
            engine: Some("rten".into()),
            threads: Some(2),
            inputs: vec!["x".into()],
            outputs: vec![tensor("a")],
            memory: MemoryEstimate { parameter_bytes: 1, activation_bytes: 2, engine_bytes: 3 },
        }),
        answers: vec![tensor("a"), tensor("y")],
        branches: vec![Branch {
            stage: NextStage {
                stage: "1-hub".into(),
                device: "hub".into(),
                address: "127.0.0.1:9003".into(),
                replicas: Vec::new(),
                here: false,
                model_name: "net-1a2b.1".into(),
                sends: vec!["a".into()],
                entropy_coded: Vec::new(),
                foreign: false,
            },
            brings: vec![tensor("b")],
        }],
        next: Some(NextStage {
            stage: "2-cloud".into(),
            device: "cloud".into(),
            address: "127.0.0.1:9002".into(),
            replicas: Vec::new(),
            here: false,
            model_name: "net-1a2b.2".into(),
            sends: vec!["a".into(), "b".into(), "z".into()],
            entropy_coded: vec!["a".into()],
            foreign: false,
        }),
    }
}

#[test]
fn a_description_survives_its_journey() {
    let json = serde_json::to_string(&spec()).unwrap();
    assert_eq!(Stage::from_json(&json).unwrap().spec(), &spec());
}

#[test]
fn contradictions_are_refused_with_the_name_of_what_is_wrong() {
    fn model(spec: &mut StageSpec) -> &mut ModelSpec {
        spec.model.as_mut().unwrap()
    }
    fn next(spec: &mut StageSpec) -> &mut NextStage {
        spec.next.as_mut().unwrap()
    }
    type Change = fn(&mut StageSpec);
    let cases: &[(Change, &str)] = &[
        (|s| s.inputs.push(tensor("x")), "input `x` stands twice"),
        (|s| s.name.clear(), "a name has 0 bytes"),
        (|s| s.plan = "n".repeat(2000), "a name has 2000 bytes"),
        (|s| model(s).inputs.push("q".into()), "its model reads `q`"),
        (|s| model(s).files.clear(), "its model has no file"),
        (|s| model(s).files[0].name = "a/b".into(), "`a/b` is not a plain file name"),
        (|s| model(s).files[0].name = "..".into(), "`..` is not a plain file name"),
        (|s| model(s).files[0].sha256 = "A".repeat(64), "has no SHA-256"),
        (|s| s.next.as_mut().unwrap().sends.push("y".into()), "it sends `y`"),
        (|s| s.next.as_mut().unwrap().entropy_coded.push("x".into()), "it codes `x`"),
        (|s| s.next.as_mut().unwrap().entropy_coded.push("a".into()), "`a` stands twice"),
        (|s| s.next = None, "it answers `y`"),
        (|s| s.branches[0].stage.sends.push("b".into()), "it sends `b`"),
        (|s| s.branches[0].brings.push(tensor("z")), "branch `1-hub` brings `z`, which is here"),
        (|s| s.branches.push(s.branches[0].clone()), "branch `1-hub` brings `b`, which is here"),
        (|s| s.branches.clear(), "it sends `b`"),
        (
            |s| next(s).replicas = vec!["127.0.0.1:9002".into()],
            "address `127.0.0.1:9002` stands twice",
        ),
        (|s| next(s).replicas = (0..64).map(|n| format!("a:{n}")).collect(), "is on 65 agents"),
        (|s| s.branches = vec![s.branches[0].clone(); 65], "it calls 65 branches, more than 64"),
        (|s| s.picture.as_mut().unwrap().input = "w".into(), "becomes `w`, which is no input"),
        (|s| s.picture.as_mut().unwrap().spec.width = 0, "is not 1 to 16384 a side"),
        (|s| s.picture.as_mut().unwrap().spec.layout = Layout::Nhwc, "becomes FP32 1x8x8x3"),
    ];
    for (change, words) in cases {
        let mut changed = spec();
        change(&mut changed);
        let error = Stage::new(changed).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn memory_counts_the_larger_of_weights_and_files() {
    let estimate = MemoryEstimate { parameter_bytes: 10, activation_bytes: 5, engine_bytes: 1 };
    assert_eq!((estimate.total(3), estimate.total(20)), (16, 26));
    let absurd = MemoryEstimate { activation_bytes: u64::MAX, ..estimate };
    assert_eq!(absurd.total(1), u64::MAX);
}

#[test]
fn answers_join_in_declared_order_and_type() {
    let stage = Stage::new(spec()).unwrap();
    let value = |name: &str, dtype, bytes: usize| {
        let shape = Shape(vec![1, 3, 8, 8]);
        (name.to_owned(), crate::tensor::Tensor::new(dtype, shape, vec![0; bytes]).unwrap())
    };
    let (a, y) = (value("a", DType::F32, 768), value("y", DType::F32, 768));
    let joined = stage.join(vec![y.clone(), a.clone()]).unwrap();
    assert_eq!(joined, [a.clone(), y.clone()]);
    let error = stage.join(vec![a.clone()]).unwrap_err().to_string();
    assert!(error.contains("no stage answered `y`"), "{error}");
    let wrong = value("y", DType::I8, 192);
    let error = stage.join(vec![a, wrong]).unwrap_err().to_string();
    assert!(error.contains("`y` is INT8 1x3x8x8, declared is FP32 1x3x8x8"), "{error}");
    let error = stage.brought(&spec().branches[0], vec![y]).unwrap_err().to_string();
    assert!(error.contains("stage `1-hub` has not answered `b`"), "{error}");
}

proptest! {
    /// A damaged description is refused or is another valid one, never a panic.
    #[test]
    fn damaged_descriptions_never_panic(at in any::<prop::sample::Index>(), byte in 32u8..127) {
        let mut json = serde_json::to_vec(&spec()).unwrap();
        let at = at.index(json.len());
        json[at] = byte;
        let _ = Stage::from_json(&String::from_utf8_lossy(&json));
    }

    /// Neither does text that was never one.
    #[test]
    fn rubbish_never_panics(text in "[\\[\\]{}\":,a-z0-9]{0,80}") {
        prop_assert!(Stage::from_json(&text).is_err());
    }
}
