//! Good and bad grids, with what is said of the bad ones.

use std::path::Path;

use super::*;

/// What is said of a grid with these lines after its version, with all its causes.
fn refused(lines: &str) -> String {
    let text = format!("version = 1\n{lines}");
    let error = anyhow::Error::from(Grid::parse(&text, Path::new("")).expect_err(lines));
    format!("{error:#}")
}

fn parsed(lines: &str) -> Grid {
    let text = format!("version = 1\n{lines}");
    Grid::parse(&text, Path::new("folder")).unwrap_or_else(|error| panic!("{lines}: {error}"))
}

#[test]
fn a_short_grid_has_usual_values() {
    let grid = parsed("networks = [\"LeNet-5\"]");
    let lenet = Network { name: "lenet5".to_owned(), source: Source::Zoo, sizes: vec![Size::Own] };
    assert_eq!(grid.networks, [lenet]);
    assert_eq!((grid.batches, grid.threads), (vec![1], vec![1]));
    assert_eq!((grid.engines, grid.precisions), (vec!["rten".to_owned()], vec![]));
    assert_eq!((grid.agents, grid.pictures), (vec![Agent::Local], vec![]));
    assert_eq!(grid.impossible, Impossible::Refuse);
    let rule = &grid.measure.rule;
    assert_eq!((rule.precision_permille, rule.confidence_permille), (20, 950));
    assert_eq!((rule.min_turns, rule.max_turns), (10, 200));
    assert_eq!((grid.measure.runs_per_turn, rule.time_limit), (5, Duration::from_secs(60)));
}

#[test]
fn every_axis_can_be_given() {
    let grid = parsed(
        "networks = [\"squeezenet\", \"nets/own.onnx\", { network = \"lenet5\", sizes = [28, 32] },\n\
             { name = \"both\", fp32 = \"a.onnx\", int8 = \"b.onnx\" }]\n\
         sizes = [128, \"own\"]\nthreads = [1, 2]\nengines = [\"onnxruntime\", \"rten\"]\n\
         precisions = [\"fp32\", \"int8\"]\npictures = [\"photo.jpg\"]\npreprocess = \"unit\"\n\
         filters = [\"nearest\", \"lanczos3\"]\nuploads = [\"jpeg:50\", \"jpeg\", \"uint8\"]\n\
         links = [\"real\", \"wifi-rpi4\", \"20mbit 10ms\"]\nagents = [\"local\", \"10.0.0.7:9001\"]\n\
         impossible = \"skip\"\n[measure]\nprecision = \"0.5%\"\nseed = 7\n",
    );
    let own = &grid.networks[1];
    assert_eq!(own.source, Source::File("folder/nets/own.onnx".into()));
    assert_eq!(own.sizes, [Size::Side(128), Size::Own]);
    assert_eq!(grid.networks[2].sizes, [Size::Side(28), Size::Side(32)]);
    let Source::Files(files) = &grid.networks[3].source else { panic!() };
    assert_eq!(files[&Precision::Int8], Path::new("folder/b.onnx"));
    let uploads: Vec<String> = grid.uploads.iter().map(ToString::to_string).collect();
    assert_eq!(uploads, ["jpeg:50", "jpeg:85", "uint8"]);
    let Link::Simulated { up, down, delay, .. } = &grid.links[2] else { panic!() };
    assert_eq!((*up, *down), (BytesPerSec(2_500_000), BytesPerSec(2_500_000)));
    assert_eq!(*delay, Nanos(10_000_000));
    assert_eq!(grid.measure.rule.precision_permille, 5);
    // 8 sizes, threads, engines, precisions, filters; here, or there over 3 links by 3 encodings.
    assert_eq!(grid.cells(), 8 * 2 * 2 * 2 * 2 * (1 + 9));
}

#[test]
fn a_bad_grid_is_told_which_key_is_wrong() {
    let net = "networks = [\"lenet5\"]\n";
    let with_picture = "networks = [\"lenet5\"]\npictures = [\"p.jpg\"]\n";
    let remote = "networks = [\"lenet5\"]\nagents = [\"h:1\"]\n";
    let pictures_there = "networks = [\"lenet5\"]\npictures = [\"p.jpg\"]\nagents = [\"h:1\"]\n";
    for (start, lines, words) in [
        ("", "", "missing field `networks`"),
        ("", "networks = []", "`networks` is empty"),
        ("", "networks = [\"lenet\"]", "did you mean `lenet5`?"),
        ("", "networks = [\"lenet5\", \"LeNet-5\"]", "`networks` has `lenet5` twice"),
        ("", "networks = [5]", "expected a name of the zoo, an ONNX file, or a table"),
        ("", "networks = [{ name = \"a\" }]", "network `a`: give either `network`"),
        ("", "networks = [{ fp32 = \"a.onnx\" }]", "give either `network`"),
        ("", "networks = [{ network = \"lenet5\", sizes = [] }]", "`sizes` is empty"),
        ("", "networks = [{ network = \"lenet5\", colour = 1 }]", "expected a name of the zoo"),
        (net, "sizes = []", "`sizes` is empty"),
        (net, "sizes = [0]", "`sizes`: 0 is not from 1 to 16384"),
        (net, "sizes = [28, 28]", "`sizes` has `28` twice"),
        (net, "sizes = [\"big\"]", "expected a number of pixels, or \"own\""),
        (net, "sice = [28]", "unknown field `sice`"),
        (net, "batches = []", "`batches` is empty"),
        (net, "batches = [0]", "`batches`: 0 is not from 1 to 1024"),
        (net, "batches = [1, 1]", "`batches` has `1` twice"),
        (net, "threads = [513]", "`threads`: 513 is not from 1 to 512"),
        (net, "threads = \"all\"", "invalid type: string \"all\""),
        (net, "engines = [\"tvm\"]", "`engines`: `tvm` is not an engine; there are rten and onnx"),
        (net, "engines = []", "`engines` is empty"),
        (net, "precisions = [\"fp8\"]", "unknown variant `fp8`"),
        (net, "precisions = []", "`precisions` is empty"),
        (net, "pictures = []", "`pictures` is empty"),
        (net, "preprocess = \"unit\"", "`preprocess` says how pictures are treated"),
        (net, "filters = [\"nearest\"]", "`filters` says how pictures are treated"),
        (net, "uploads = [\"jpeg\"]", "`uploads` says how pictures are treated"),
        (net, "links = [\"20mbit\"]", "`links` says how pictures or tensors reach another"),
        (with_picture, "uploads = [\"jpeg\"]", "`uploads` says how pictures or tensors reach"),
        (with_picture, "batches = [1, 2]", "`batches` must be 1 where pictures are prepared"),
        (with_picture, "filters = [\"box\"]", "unknown variant `box`"),
        (with_picture, "filters = []", "`filters` is empty"),
        (pictures_there, "uploads = [\"jpeg:0\"]", "`uploads`: `jpeg:0` is not `jpeg:QUALITY`"),
        (pictures_there, "uploads = [\"uint8:9\"]", "`uploads`: `uint8:9` is not"),
        (pictures_there, "uploads = [\"png\"]", "`uploads`: `png` is not"),
        (pictures_there, "uploads = [\"jpeg\", \"jpeg:85\"]", "`uploads` has `jpeg:85` twice"),
        (remote, "links = [\"carrier-pigeon\"]", "`links`: `carrier-pigeon` is not `real`, a link"),
        (remote, "links = [\"0mbit\"]", "`links`: `0mbit` is not"),
        (remote, "links = []", "`links` is empty"),
        (net, "agents = []", "`agents` is empty"),
        (net, "impossible = \"perhaps\"", "unknown variant `perhaps`"),
        (net, "[measure]\nprecision = \"2\"", "`precision`: `2` is not a share"),
        (net, "[measure]\nprecision = \"0%\"", "`precision`: `0%` is not a share"),
        (net, "[measure]\nconfidence = \"100%\"", "`confidence`: `100%` is not a share"),
        (net, "[measure]\nprecision = \"NaN%\"", "`precision`: `NaN%` is not a share"),
        (net, "[measure]\nmin_turns = 0", "`min_turns`: 0 is not from 1 to 10000"),
        (net, "[measure]\nmax_turns = 9", "`max_turns`: 9 is not from 10 to 10000"),
        (net, "[measure]\nruns_per_turn = 4", "`runs_per_turn`: 4 is not odd"),
        (net, "[measure]\ntime_limit = \"2 days\"", "`time_limit`: `2 days` is not a duration"),
        (net, "[measure]\nrest = \"100000s\"", "`rest`: `100000s` is not a duration"),
        (net, "[measure]\nmemory = \"much\"", "`memory`: `much` is not"),
        (net, "[measure]\nspeed = 1", "unknown field `speed`"),
    ] {
        let said = refused(&format!("{start}{lines}"));
        assert!(said.contains(words), "{start}{lines}\nsays: {said}\nnot: {words}");
    }
    let newer = Grid::parse("version = 2\nnetworks = [\"lenet5\"]", Path::new("")).unwrap_err();
    assert_eq!(newer.to_string(), "`version` is 2; this build reads version 1");
}

#[test]
fn too_many_cells_are_counted() {
    let many = |count: u32| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let lines =
        format!("networks = [\"lenet5\"]\nbatches = [{}]\nthreads = [{}]", many(200), many(100));
    assert!(refused(&lines).contains("the grid has 20000 cells, more than 10000"));
    let long = format!("networks = [\"lenet5\"]\nbatches = [{}]", many(1001));
    assert!(refused(&long).contains("`batches` has 1001 members, more than 1000"));
    // Their product leaves 64 bits.
    let nets: String = (0..1000).map(|n| format!("\"{n}.onnx\", ")).collect();
    let huge = format!(
        "networks = [{nets}]\nsizes = [{0}]\nbatches = [{0}]\nthreads = [{1}]",
        many(1000),
        many(512)
    );
    assert!(refused(&huge).contains("the grid has 512000000000 cells"));
}
