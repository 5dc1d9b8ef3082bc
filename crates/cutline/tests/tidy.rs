//! Rules of the whole repository that no lint knows.
//!
//! Every source file says what it is and stays short, nothing is left for later, the core's modules
//! stand in order, and the code map of `ARCHITECTURE.md` is the code.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest source file, in lines.
const LONGEST: usize = 800;
const CRATES: [&str; 3] = ["cutline-core", "cutline-runtime", "cutline"];

/// A source file that people wrote.
struct Source {
    /// Path from the repository's root.
    path: String,
    text: String,
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    let mut problems = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//! ") {
            problems.push(format!("{} does not start with what it is: `//! ...`", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LONGEST {
            problems.push(format!("{} has {lines} lines, more than {LONGEST}", source.path));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, or this file would break its own rule.
    let words = [["to", "do!"], ["unimple", "mented!"], ["FIX", "ME"], ["XX", "X:"]];
    let words = words.map(|parts| parts.concat());
    let mut problems = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            if words.iter().any(|word| line.contains(word.as_str())) {
                problems.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn core_modules_use_only_those_before_them() {
    let modules = modules_of("cutline-core");
    let mut problems = Vec::new();
    for source in sources() {
        let Some(module) = core_module(&source.path) else { continue };
        let Some(place) = modules.iter().position(|name| name == module) else { continue };
        for used in crate_modules_used(&shipped(&source.text)) {
            let position = modules.iter().position(|name| *name == used);
            if position.is_none_or(|position| position > place) {
                problems.push(format!("{} uses `{used}`, which comes after it", source.path));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_code_map_is_the_code() {
    let Ok(text) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        eprintln!("skipped: there is no ARCHITECTURE.md yet");
        return;
    };
    for krate in CRATES {
        let (mut mapped, mut declared) = (mapped_modules(&text, krate), modules_of(krate));
        // Only the core's order has a meaning.
        if krate != "cutline-core" {
            mapped.sort();
            declared.sort();
        }
        assert_eq!(
            mapped, declared,
            "the code map's table of `{krate}` (left) is not the crate's list of modules (right)"
        );
    }
}

#[test]
fn uses_are_found_however_they_are_written() {
    let text = "use crate::{\n    graph::{Graph, LayerId},\n    op::Op,\n};\nuse crate::dag::Dag;\n\
                fn f() -> crate::cut::Cut { crate::cut::cut() }\n// crate::plan\n";
    let expected = ["cut", "dag", "graph", "op"].map(str::to_owned);
    assert_eq!(crate_modules_used(&shipped(text)), BTreeSet::from(expected));
    let tested = "use crate::op::Op;\n\n#[cfg(test)]\nmod tests {\n    use crate::plan::Plan;\n}\n";
    assert_eq!(crate_modules_used(&shipped(tested)), BTreeSet::from(["op".to_owned()]));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The Rust files under version control, generated ones excepted.
fn sources() -> Vec<Source> {
    let listed = Command::new("git").args(["ls-files", "*.rs"]).current_dir(root()).output();
    let paths = match &listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout),
        _ => {
            eprintln!("skipped: git does not list the files of this folder");
            return Vec::new();
        }
    };
    assert!(!paths.is_empty(), "git lists no Rust files");
    let read = |path: &str| {
        // A file that is deleted but not committed yet is still listed.
        let text = fs::read_to_string(root().join(path)).ok()?;
        Some(Source { path: path.to_owned(), text })
    };
    let generated = |source: &Source| source.text.starts_with("// This file is @generated");
    paths.lines().filter_map(read).filter(|source| !generated(source)).collect()
}

/// Top-level modules in the order of their declaration, those of tests excepted.
fn modules_of(krate: &str) -> Vec<String> {
    let folder = root().join("crates").join(krate).join("src");
    let library = fs::read_to_string(folder.join("lib.rs"));
    let text = library.or_else(|_| fs::read_to_string(folder.join("main.rs"))).unwrap();
    let name = |line: &str| {
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
    };
    shipped(&text).lines().filter_map(name).collect()
}

/// The first column of a crate's table in the code map: one module, or some that follow each other.
fn mapped_modules(architecture: &str, krate: &str) -> Vec<String> {
    let heading = format!("### `{krate}`");
    let section = architecture.lines().skip_while(|line| *line != heading).skip(1);
    let rows = section.take_while(|line| !line.starts_with('#'));
    let cells = rows.filter_map(|row| row.strip_prefix("| `")?.split_once(" |"));
    let names = cells.flat_map(|(cell, _)| cell.split(", "));
    names.map(|name| name.trim_matches('`').to_owned()).collect()
}

/// The top-level module of the core that a file belongs to; none for its tests.
fn core_module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("crates/cutline-core/src/")?.strip_suffix(".rs")?;
    let test = inside.split('/').any(|part| part == "tests");
    (inside != "lib" && !test).then(|| inside.split('/').next().unwrap_or(inside))
}

/// The text without comments and without the tests at its end.
fn shipped(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// First path segments after each `crate::`.
fn crate_modules_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => used.extend(heads_of_list(list)),
            None => used.extend(identifier(rest)),
        }
    }
    used
}

/// The first segments in `a::{b, c}, d::e}`.
fn heads_of_list(list: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut at_head) = (0, true);
    for (position, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            _ if at_head && !character.is_whitespace() => {
                heads.extend(identifier(&list[position..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}
