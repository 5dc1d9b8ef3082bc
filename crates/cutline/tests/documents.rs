//! The documents at the root and in `docs`, held to what is there.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn documents_link_to_what_exists() {
    for file in documents() {
        for target in links(&read(&file)) {
            let path = file.parent().expect("a file has a folder").join(&target);
            assert!(path.exists(), "{} links to {target}, which is absent", file.display());
        }
    }
}

#[test]
fn documents_have_one_sentence_per_line() {
    for file in documents() {
        for (number, line) in prose(&read(&file)) {
            let two = line.match_indices(". ").any(|(at, _)| {
                let numbered = line[..at].trim_start().chars().all(|c| c.is_ascii_digit());
                line[at + 2..].starts_with(char::is_uppercase) && !numbered
            });
            assert!(!two, "{}:{number} holds two sentences: {line}", file.display());
        }
    }
}

#[test]
fn the_readme_needs_two_commands() {
    let readme = read(&root().join("README.md"));
    let set_up = readme.split("```").nth(1).expect("README.md has a first block");
    let commands: Vec<_> = set_up.lines().skip(1).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test --workspace"]);
}

#[test]
fn the_readme_lists_every_command_and_no_option_that_is_none() {
    let help = help(&[]);
    let commands = help.split("Commands:").nth(1).expect("the help lists commands");
    let commands = commands.split("Options:").next().unwrap_or_default().lines();
    // Continuation lines of a description are indented further.
    let names = commands.filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' '));
    let mut names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    names.retain(|&name| name != "help");
    let readme = read(&root().join("README.md"));
    let rows: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("| `cutline ")).collect();
    let listed: Vec<&str> = rows.iter().filter_map(|row| row.split([' ', '`']).next()).collect();
    assert_eq!(listed, names, "README.md's table (left) is not `cutline --help` (right)");

    for (row, name) in rows.iter().zip(&names) {
        let help = self::help(&[name]);
        let known = |option: &str| help.split(|c: char| !is_option(c)).any(|word| word == option);
        let usage = row.split('`').next().unwrap_or_default();
        let words = usage.split(|c: char| !is_option(c));
        for option in words.filter(|word| word.starts_with('-') && word.len() > 1) {
            assert!(known(option), "README.md gives {name} the option {option}, which it has not");
        }
    }
}

fn is_option(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

/// What a command says of itself.
fn help(command: &[&str]) -> String {
    let mut cutline = Command::new(env!("CARGO_BIN_EXE_cutline"));
    let output = cutline.args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?} has no help");
    String::from_utf8(output.stdout).unwrap()
}

/// Lines of prose with their numbers: no code blocks, no tables.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if !in_code && !line.starts_with('|') {
            lines.push((index + 1, line));
        }
    }
    lines
}

/// Relative targets of the links of a document, without their fragments.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let paths = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    let local = paths.filter(|path| !path.is_empty() && !path.contains("://"));
    local.map(str::to_owned).collect()
}

/// Markdown at the root and in `docs`.
fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        top.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    found.extend(files_under(&root().join("docs"), "md"));
    assert!(found.len() >= 4, "found only {found:?}: does this test look in the right place?");
    found
}

fn files_under(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files_under(&path, extension));
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
