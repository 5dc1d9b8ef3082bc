//! Where LiteRT's shared library is, and whether it is one that can be used.
//!
//! Looked for in this order, the first that exists decides:
//!
//! 1. the file that `LITERT_DYLIB_PATH` names;
//! 2. the newest folder `litert-VERSION` of the engines' folder, where `cutline engine install`
//!    puts it;
//! 3. the Python package `ai-edge-litert` of the active environment, of the user, of the system.
//!
//! The library does not say its version: its folder does, or the package's beside it.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::binding::Api;
use crate::engine::library::{Found, Missing, check_complete, installed_in};

/// The library's file.
pub(in crate::engine) const FILE: &str = "libLiteRt.so";

/// How an installed version's folder begins.
pub(in crate::engine) const FOLDER: &str = "litert-";

/// Folder of the Python package.
pub(in crate::engine) const PACKAGE: &str = "ai_edge_litert";

const REMEDY: &str =
    "run `cutline engine install litert`, or set LITERT_DYLIB_PATH to the library's file";

/// Finds the library and opens it.
pub(super) fn find() -> Result<(Found, Api), Missing> {
    if cfg!(all(target_os = "linux", not(target_env = "gnu"))) {
        let reason = "a build without glibc cannot load its library; use one for Debian, Ubuntu or \
                      another system with glibc";
        return Err(Missing { path: None, reason: reason.to_owned() });
    }
    let explicit = env::var_os("LITERT_DYLIB_PATH").filter(|path| !path.is_empty());
    if let Some(path) = explicit.map(PathBuf::from) {
        return open(&path).map_err(|reason| {
            let reason = format!("LITERT_DYLIB_PATH names `{}`, but {reason}", path.display());
            Missing { path: Some(path), reason }
        });
    }
    if let Some(path) = installed_in(FOLDER, |name: &OsStr| name == FILE) {
        return open(&path).map_err(|reason| {
            let again = "run `cutline engine install litert` again";
            let reason = format!("`{}` is installed, but {reason}; {again}", path.display());
            Missing { path: Some(path), reason }
        });
    }
    let of_python = python_folders().into_iter().flat_map(packages);
    let Some(path) = of_python.map(|folder| folder.join(PACKAGE).join(FILE)).find(|p| p.exists())
    else {
        let reason = format!("no LiteRT library was found; {REMEDY}");
        return Err(Missing { path: None, reason });
    };
    open(&path).map_err(|reason| {
        let reason = format!("`{}` was found, but {reason}; {REMEDY}", path.display());
        Missing { path: Some(path), reason }
    })
}

/// Opens a library, or says in words why it cannot be used.
pub(in crate::engine) fn probe(path: &Path) -> Result<Found, String> {
    open(path).map(|(found, _)| found)
}

fn open(path: &Path) -> Result<(Found, Api), String> {
    check_complete(path)?;
    let api = Api::open(path)?;
    let version = stated_version(path).unwrap_or_else(|| "2.2 or newer".to_owned());
    Ok((Found { path: path.to_owned(), version }, api))
}

/// The version that the library's surroundings state: `litert-2.3.0/libLiteRt.so`, or
/// `ai_edge_litert/libLiteRt.so` beside `ai_edge_litert-2.3.0.dist-info`.
fn stated_version(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    if let Some(version) = folder.file_name()?.to_str()?.strip_prefix(FOLDER) {
        return Some(version.to_owned());
    }
    let entries = fs::read_dir(folder.parent()?).ok()?.filter_map(Result::ok);
    let version = |name: &OsStr| {
        let rest = name.to_str()?.strip_prefix(PACKAGE)?.strip_prefix('-')?;
        Some(rest.strip_suffix(".dist-info")?.to_owned())
    };
    entries.into_iter().find_map(|entry| version(&entry.file_name()))
}

/// Folders that hold one folder per version of Python, the nearest first.
fn python_folders() -> Vec<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let environment = set("VIRTUAL_ENV").or_else(|| set("CONDA_PREFIX"));
    let of_user = set("HOME").map(|home| home.join(".local"));
    let of_system = ["/usr/local", "/usr"].map(PathBuf::from);
    let all = environment.into_iter().chain(of_user).chain(of_system);
    all.map(|folder| folder.join("lib")).collect()
}

/// The folders of packages below one of [`python_folders`], in order of their names.
fn packages(lib: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(&lib).into_iter().flatten().filter_map(Result::ok);
    let is_python = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("python3"));
    let mut versions: Vec<PathBuf> =
        entries.filter(|entry| is_python(&entry.file_name())).map(|entry| entry.path()).collect();
    versions.sort_unstable();
    let inside = |folder: PathBuf| ["site-packages", "dist-packages"].map(|name| folder.join(name));
    versions.into_iter().flat_map(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_lies_around_the_library() {
        let folder = tempfile::tempdir().unwrap();
        let installed = folder.path().join("litert-2.3.0").join(FILE);
        assert_eq!(stated_version(&installed).as_deref(), Some("2.3.0"));
        let packaged = folder.path().join(PACKAGE).join(FILE);
        assert_eq!(stated_version(&packaged), None);
        fs::create_dir(folder.path().join("ai_edge_litert_sdk-1.0.dist-info")).unwrap();
        fs::create_dir(folder.path().join("ai_edge_litert-2.4.1.dist-info")).unwrap();
        assert_eq!(stated_version(&packaged).as_deref(), Some("2.4.1"));
    }

    #[test]
    fn an_unfit_file_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, b"this is no library, it is a sentence").unwrap();
        assert!(open(&path).err().unwrap().contains("not a shared library"));
        let other = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
        if other.exists() {
            assert!(open(other).err().unwrap().contains("not LiteRT"));
        }
    }

    #[test]
    fn packages_are_looked_for_in_every_python() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("lib");
        for name in ["python3.11", "python3.9", "perl5"] {
            fs::create_dir_all(lib.join(name)).unwrap();
        }
        let found = packages(lib.clone());
        assert_eq!(found.len(), 4);
        assert!(found.contains(&lib.join("python3.11").join("site-packages")), "{found:?}");
    }
}
