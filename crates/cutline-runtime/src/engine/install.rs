//! `cutline engine install`: obtains an engine's library with the machine's own package client.
//!
//! 1. Python's client downloads the wheel of a pinned version; where there is none, Node's client
//!    the package of another, if the engine has one. Either comes from the package index that the
//!    client is set up for.
//! 2. Its SHA-256 is compared with the one pinned here, or, for a platform that has none pinned,
//!    the library's with the one recorded in the wheel.
//! 3. The library is unpacked, opened and asked for its version.
//! 4. Its folder appears under its final name in one step.
//!
//! Nothing is compiled, no code of the package runs, and nothing outside the folder is changed.

use std::{
    env::consts::{ARCH, OS},
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cutline_core::hex::hex;
use thiserror::Error;

use super::{library, litert};
use crate::files;

/// A wheel that brings an engine's library.
struct Wheel {
    /// Its name in the package index.
    package: &'static str,
    version: &'static str,
    /// About so large.
    megabytes: u32,
    /// Those whose hash is known: architecture, platform tag, SHA-256.
    known: [(&'static str, &'static str, &'static str); 2],
    /// How the package is spelt inside the wheel.
    inside: &'static str,
    /// The folder of the library inside the wheel.
    folder: &'static str,
    /// Whether a file is the library, by its name.
    is_library: fn(&OsStr) -> bool,
}

const ONNX_RUNTIME: Wheel = Wheel {
    package: "onnxruntime",
    version: "1.31.1",
    megabytes: 25,
    known: [
        (
            "x86_64",
            "manylinux_2_28_x86_64",
            "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
        ),
        (
            "aarch64",
            "manylinux_2_28_aarch64",
            "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
        ),
    ],
    inside: "onnxruntime",
    folder: "onnxruntime/capi",
    is_library: library::is_library_name,
};

const LITERT: Wheel = Wheel {
    package: "ai-edge-litert",
    version: "2.3.0",
    megabytes: 22,
    known: [
        (
            "x86_64",
            "manylinux_2_27_x86_64",
            "1f15078a6725d2357d9de9221664c29afa0545d807559c5f7199ce5e40b96b23",
        ),
        (
            "aarch64",
            "manylinux_2_27_aarch64",
            "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
        ),
    ],
    inside: litert::library::PACKAGE,
    folder: litert::library::PACKAGE,
    is_library: |name| name == litert::library::FILE,
};

/// Version of ONNX Runtime's Node package, for machines without Python.
const NODE_VERSION: &str = "1.30.0";

/// SHA-256 of the Node package, which holds the libraries of all platforms.
const NODE_SHA256: &str = "6e3390d6b783e7be946fad629292799da28d0b42f84856e50d2c1b0383291e75";

/// Why an engine was not installed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// Nothing of that name is installed by this program.
    #[error(
        "`{0}` is not an engine that is installed; `onnxruntime` and `litert` are, and `rten` is built in"
    )]
    Unknown(String),
    /// There is nowhere to put it.
    #[error("there is no folder for engines: set HOME or XDG_DATA_HOME")]
    NoFolder,
    /// No package client at all.
    #[error(
        "no package client was found ({wanted}); install one, or copy the library by hand and set {variable} to its file"
    )]
    NoClient {
        /// What was looked for.
        wanted: &'static str,
        /// Names the library's file.
        variable: &'static str,
    },
    /// The package client failed.
    #[error("`{command}` failed: {output}; is the machine online?")]
    Client {
        /// What was run.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// What came is not what was expected.
    #[error("`{file}` has SHA-256 {actual}, not {expected}; it was not installed")]
    Hash {
        /// The file.
        file: String,
        /// The hash that it should have.
        expected: String,
        /// The hash that it has.
        actual: String,
    },
    /// The package has no library for this machine.
    #[error("the package holds no library for {OS} on {ARCH}")]
    NoLibrary,
    /// The library came whole and is of no use here.
    #[error("the library came, but {0}")]
    Unfit(String),
    /// A file could not be written or read.
    #[error("cannot install into `{path}`")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Installs an engine and returns the path of its library. Says what it does, a line at a time.
pub fn install(name: &str, say: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
    match name {
        super::onnxruntime::NAME => install_in("onnxruntime-", say, |work, say| {
            let (source, version) = match python() {
                Some(python) => {
                    (from_wheel(&python, &ONNX_RUNTIME, work, say)?, ONNX_RUNTIME.version)
                }
                None if runs("npm") => (from_node(work, say)?, NODE_VERSION),
                None => {
                    let wanted = "Python with pip, npm";
                    return Err(InstallError::NoClient { wanted, variable: "ORT_DYLIB_PATH" });
                }
            };
            let found = library::probe(&source).map_err(InstallError::Unfit)?;
            say(&format!("opened it: ONNX Runtime {}", found.version));
            Ok((source, version))
        }),
        litert::NAME => install_in(litert::library::FOLDER, say, |work, say| {
            let (wanted, variable) = ("Python with pip", "LITERT_DYLIB_PATH");
            let python = python().ok_or(InstallError::NoClient { wanted, variable })?;
            let source = from_wheel(&python, &LITERT, work, say)?;
            litert::library::probe(&source).map_err(InstallError::Unfit)?;
            say(&format!("opened it: LiteRT {}", LITERT.version));
            Ok((source, LITERT.version))
        }),
        _ => Err(InstallError::Unknown(name.to_owned())),
    }
}

/// What gets a library into a folder: it answers where it lies there, and its version.
type Obtain = fn(&Path, &mut dyn FnMut(&str)) -> Result<(PathBuf, &'static str), InstallError>;

/// Obtains a library and puts it into the folder of its version.
fn install_in(
    prefix: &str,
    say: &mut dyn FnMut(&str),
    obtain: Obtain,
) -> Result<PathBuf, InstallError> {
    let folder = library::engines_folder().ok_or(InstallError::NoFolder)?;
    let failed = |source| InstallError::Io { path: folder.clone(), source };
    fs::create_dir_all(&folder).map_err(failed)?;
    let work = tempfile::Builder::new().prefix(".install-").tempdir_in(&folder).map_err(failed)?;
    let (source, version) = obtain(work.path(), say)?;
    let target = folder.join(format!("{prefix}{version}"));
    let path = put(&source, work.path(), &target).map_err(failed)?;
    say(&format!("installed {}", path.display()));
    Ok(path)
}

/// Moves the library's folder to its final name, in place of an older one.
fn put(library: &Path, work: &Path, target: &Path) -> io::Result<PathBuf> {
    let name = library.file_name().unwrap_or_default();
    let new = work.join("new");
    fs::create_dir(&new)?;
    fs::rename(library, new.join(name))?;
    if target.exists() {
        fs::rename(target, work.join("old"))?;
    }
    fs::rename(&new, target)?;
    Ok(target.join(name))
}

/// A Python that has pip.
fn python() -> Option<String> {
    let has_pip = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-m", "pip", "--version"]).stdin(Stdio::null());
        command.output().is_ok_and(|output| output.status.success())
    };
    ["python3", "python"].iter().find(|python| has_pip(python)).map(|python| (*python).to_owned())
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

fn from_wheel(
    python: &str,
    wanted: &Wheel,
    work: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<PathBuf, InstallError> {
    let Wheel { package, version, megabytes, .. } = wanted;
    let known = wanted.known.iter().find(|(machine, ..)| (OS, ARCH) == ("linux", *machine));
    say(&format!("downloading {package} {version} with {python}'s pip (about {megabytes} MB)"));
    let requirement = format!("{package}=={version}");
    let mut command = Command::new(python);
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"]);
    command.arg(work);
    if let Some((_, platform, _)) = known {
        // The same file for every version of Python, since only its library is wanted.
        command.args(["--python-version", "3.11", "--platform", platform]);
    }
    run(command.arg(requirement))?;
    let wheel = only_file(work, "whl").ok_or(InstallError::NoLibrary)?;
    if let Some((.., expected)) = known {
        check(&wheel, expected)?;
        say(&format!("its SHA-256 is the pinned one, {expected}"));
    }
    let unpacked = work.join("unpacked");
    run(Command::new(python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let library = find_library(&unpacked.join(wanted.folder), wanted.is_library)
        .ok_or(InstallError::NoLibrary)?;
    if known.is_none() {
        check_record(&unpacked, wanted, &library)?;
        say("no hash is pinned for this platform; the library has the one recorded in its wheel");
    }
    Ok(library)
}

fn from_node(work: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
    let (system, architecture) = match (OS, ARCH) {
        ("linux", "x86_64") => ("linux", "x64"),
        ("linux", "aarch64") => ("linux", "arm64"),
        ("macos", "aarch64") => ("darwin", "arm64"),
        _ => return Err(InstallError::NoLibrary),
    };
    say(&format!("downloading onnxruntime-node {NODE_VERSION} with npm (about 115 MB)"));
    let package = format!("onnxruntime-node@{NODE_VERSION}");
    run(Command::new("npm")
        .args(["pack", "--ignore-scripts", "--pack-destination"])
        .arg(work)
        .arg(package))?;
    let archive = only_file(work, "tgz").ok_or(InstallError::NoLibrary)?;
    check(&archive, NODE_SHA256)?;
    say(&format!("its SHA-256 is the pinned one, {NODE_SHA256}"));
    let folder = format!("package/bin/napi-v6/{system}/{architecture}");
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(work).arg(&folder))?;
    find_library(&work.join(folder), library::is_library_name).ok_or(InstallError::NoLibrary)
}

/// Runs a program to its end; what it said last is the reason if it fails.
fn run(command: &mut Command) -> Result<(), InstallError> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let failed = |output: String| InstallError::Client { command: words.join(" "), output };
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(failed(lines[lines.len().saturating_sub(3)..].join(" ")))
}

fn only_file(folder: &Path, extension: &str) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    files.into_iter().find(|path| path.extension().is_some_and(|e| e == extension))
}

fn find_library(folder: &Path, is_library: fn(&OsStr) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| is_library(&entry.file_name())).map(|entry| entry.path()).collect();
    found.sort_unstable();
    found.into_iter().next_back()
}

fn sha256(path: &Path) -> Result<[u8; 32], InstallError> {
    files::sha256(path).map_err(|source| InstallError::Io { path: path.to_owned(), source })
}

fn check(path: &Path, expected: &str) -> Result<(), InstallError> {
    compare(path, expected, hex(&sha256(path)?))
}

fn compare(path: &Path, expected: &str, actual: String) -> Result<(), InstallError> {
    if actual == expected {
        return Ok(());
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(InstallError::Hash { file, expected: expected.to_owned(), actual })
}

/// Compares a library with the line of the wheel's own table:
/// `onnxruntime/capi/libonnxruntime.so.1.31.1,sha256=_EQR...wdM,29352200`.
fn check_record(unpacked: &Path, wheel: &Wheel, library: &Path) -> Result<(), InstallError> {
    let Wheel { inside, version, folder, .. } = wheel;
    let record = unpacked.join(format!("{inside}-{version}.dist-info")).join("RECORD");
    let table =
        fs::read_to_string(&record).map_err(|source| InstallError::Io { path: record, source })?;
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    let line = table.lines().find(|line| line.starts_with(&format!("{folder}/{name},")));
    let expected = line
        .and_then(|line| line.split_once(",sha256=")?.1.split(',').next())
        .ok_or(InstallError::NoLibrary)?;
    compare(library, expected, base64_url(&sha256(library)?))
}

/// Base 64 for URLs, without padding (RFC 4648).
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits_of = |group: &[u8]| {
        let bits = (0..3).fold(0u32, |bits, index| {
            bits << 8 | u32::from(group.get(index).copied().unwrap_or(0))
        });
        let digit =
            move |index: usize| char::from(DIGITS[(bits >> (18 - 6 * index)) as usize & 63]);
        (0..=group.len()).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(digits_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_follows_the_standard() {
        let cases = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")];
        for (plain, coded) in cases {
            assert_eq!(base64_url(plain.as_bytes()), coded);
        }
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_file_of_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wheel.whl");
        fs::write(&path, b"abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check(&path, right).is_ok());
        let error = check(&path, NODE_SHA256).unwrap_err().to_string();
        assert!(error.contains("wheel.whl") && error.contains(right), "{error}");
    }

    #[test]
    fn a_recorded_hash_is_compared() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so.1");
        fs::write(&library, b"abc").unwrap();
        let version = ONNX_RUNTIME.version;
        let info = folder.path().join(format!("onnxruntime-{version}.dist-info"));
        fs::create_dir(&info).unwrap();
        let right = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
        for (hash, expected) in [(right, true), ("AAAA", false)] {
            let table = format!("onnxruntime/capi/libonnxruntime.so.1,sha256={hash},3\n");
            fs::write(info.join("RECORD"), table).unwrap();
            assert_eq!(
                check_record(folder.path(), &ONNX_RUNTIME, &library).is_ok(),
                expected,
                "{hash}"
            );
        }
    }

    #[test]
    fn a_new_folder_replaces_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("onnxruntime-1");
        for content in ["old", "new"] {
            let work = tempfile::tempdir_in(folder.path()).unwrap();
            let library = work.path().join("libonnxruntime.so.1");
            fs::write(&library, content).unwrap();
            let path = put(&library, work.path(), &target).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), content);
        }
    }

    #[test]
    fn only_engines_that_are_libraries_are_installed() {
        assert!(matches!(install("rten", &mut |_| ()), Err(InstallError::Unknown(_))));
    }
}
