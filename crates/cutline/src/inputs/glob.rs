//! Patterns of file names, for shells that leave them as they are and for patterns in quotes.
//!
//! `*` stands for any characters of one name and `?` for one; names that begin with a dot are
//! matched only by patterns that do.

use std::{
    ffi::OsStr,
    io,
    path::{Component, Path, PathBuf},
};

/// Whether a path holds a pattern; a file of that very name comes first.
pub(crate) fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains(['*', '?'])) && !path.exists()
}

/// The files and folders that match, in order of their names. Folders that cannot be listed are an
/// error only where the pattern names them.
pub(crate) fn matching(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = match component {
            Component::Normal(name) if has_wildcard(name) => name.to_string_lossy(),
            fixed => {
                found.iter_mut().for_each(|path| path.push(fixed));
                found.retain(|path| path.as_os_str().is_empty() || path.exists());
                continue;
            }
        };
        let named = found.len() == 1;
        let mut next = Vec::new();
        for folder in &found {
            match list(folder, &name) {
                Ok(paths) => next.extend(paths),
                Err(error) if named => return Err(error),
                Err(_) => {}
            }
        }
        found = next;
    }
    found.sort();
    Ok(found)
}

fn has_wildcard(name: &OsStr) -> bool {
    name.to_string_lossy().contains(['*', '?'])
}

fn list(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let pattern: Vec<char> = pattern.chars().collect();
    let mut found = Vec::new();
    for entry in here.read_dir()? {
        let name = entry?.file_name();
        let text: Vec<char> = name.to_string_lossy().chars().collect();
        let hidden = text.first() == Some(&'.') && pattern.first() != Some(&'.');
        if !hidden && matches(&pattern, &text) {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

/// Whether the name fits. O(pattern x name): the last `*` takes one character more each time that
/// what follows it does not fit.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some('?') => (p, n) = (p + 1, n + 1),
            Some(&letter) if letter == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&letter| letter == '*')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn patterns_match_as_shells_have_it() {
        let fits = |pattern: &str, name: &str| {
            matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
        };
        for (pattern, name) in [
            ("*.jpg", "a.jpg"),
            ("*", ""),
            ("a*b*c", "aXbYbZc"),
            ("a*b*c", "abbc"),
            ("frame-??.png", "frame-07.png"),
            ("**.é", "x.é"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.jpg", "a.jpeg"), ("?", ""), ("a*b", "a"), ("frame-??.png", "frame-7.png")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_found_in_folders_that_match() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.jpg", "b/10.jpg", "a/1.jpg", "a/.hidden.jpg", "a/1.txt", "c/deep/1.jpg"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        let found = |pattern: &str| {
            let found = matching(&folder.path().join(pattern)).unwrap();
            let inside = |path: PathBuf| {
                path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()
            };
            found.into_iter().map(inside).collect::<Vec<_>>()
        };
        assert_eq!(found("*/*.jpg"), ["a/1.jpg", "b/10.jpg", "b/2.jpg"]);
        assert_eq!(found("*/deep/?.jpg"), ["c/deep/1.jpg"]);
        assert_eq!(found("a/.*"), ["a/.hidden.jpg"]);
        assert!(found("d*").is_empty());
    }
}
