//! Where ONNX Runtime's shared library is, and whether it is one that can be used.
//!
//! Looked for in this order, the first that exists decides:
//!
//! 1. the file that `ORT_DYLIB_PATH` names;
//! 2. the newest folder `onnxruntime-VERSION` of [`engines_folder`], where `cutline engine install`
//!    puts it;
//! 3. the system's own search for shared libraries.
//!
//! Everything that the binding would answer with a panic is checked here first.

use std::{
    env,
    ffi::{CStr, OsStr, c_char, c_void},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use libloading::Library;

/// Oldest version of the library's interface that is used: that of release 1.17.
const OLDEST_INTERFACE: u32 = 17;

/// Names by which the system may know the library.
const SYSTEM_NAMES: [&str; 2] = ["libonnxruntime.so", "libonnxruntime.so.1"];

/// A library that was opened, asked for its version, and found fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) version: String,
}

/// Why there is none: what was found unfit, or that nothing was found, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) path: Option<PathBuf>,
    pub(super) reason: String,
}

/// Finds the library and checks it.
pub(super) fn find() -> Result<Found, Missing> {
    let explicit = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    if let Some(path) = explicit.map(PathBuf::from) {
        return probe(&path).map_err(|reason| {
            let reason = format!("ORT_DYLIB_PATH names `{}`, but {reason}", path.display());
            Missing { path: Some(path), reason }
        });
    }
    if let Some(path) = installed_in("onnxruntime-", is_library_name) {
        return probe(&path).map_err(|reason| {
            let again = "run `cutline engine install onnxruntime` again";
            let reason = format!("`{}` is installed, but {reason}; {again}", path.display());
            Missing { path: Some(path), reason }
        });
    }
    let on_system = SYSTEM_NAMES.iter().find_map(|name| probe(Path::new(name)).ok());
    on_system.ok_or_else(|| Missing {
        path: None,
        reason: "no ONNX Runtime library was found; run `cutline engine install onnxruntime`, \
                 or set ORT_DYLIB_PATH to the library's file"
            .to_owned(),
    })
}

/// The folder that holds installed engines: `$XDG_DATA_HOME/cutline/engines`, by default below
/// `~/.local/share`. `None` where neither is known.
pub(super) fn engines_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(data.join("cutline").join("engines"))
}

/// Whether a file is named as the library is: `libonnxruntime.so`, with or without a version.
pub(super) fn is_library_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name == "libonnxruntime.dylib"
            || name.strip_prefix("libonnxruntime.").is_some_and(|rest| {
                rest == "so" || rest.starts_with("so.") || rest.ends_with(".dylib")
            })
    })
}

/// The library of the newest installed version: a file that is named as one in a folder of
/// [`engines_folder`] whose name is a version after the prefix.
pub(super) fn installed_in(prefix: &str, is_library: impl Fn(&OsStr) -> bool) -> Option<PathBuf> {
    let folders = fs::read_dir(engines_folder()?).ok()?.filter_map(Result::ok);
    let versions = folders.filter_map(|entry| {
        let name = entry.file_name();
        let version = name.to_str()?.strip_prefix(prefix)?;
        Some((parse_version(version)?, entry.path()))
    });
    let mut versions: Vec<_> = versions.collect();
    versions.sort_unstable();
    let library = |folder: &Path| {
        let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
        let mut files: Vec<_> = files.filter(|file| is_library(&file.file_name())).collect();
        files.sort_unstable_by_key(|file| file.file_name());
        files.first().map(|file| file.path())
    };
    versions.iter().rev().find_map(|(_, folder)| library(folder))
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0));
    Some(version)
}

/// Opens a library, or says in words why it cannot be used. It is closed again.
pub(super) fn probe(path: &Path) -> Result<Found, String> {
    if path.components().count() > 1 {
        check_complete(path)?;
    }
    // SAFETY: opening a library runs its initialisers. The file is one that the user named,
    // installed, or made known to the system as ONNX Runtime.
    #[allow(unsafe_code)]
    let library = unsafe { Library::new(path) }.map_err(|e| format!("it cannot be opened: {e}"))?;
    let version = interface_version(&library)?;
    Ok(Found { path: path.to_owned(), version })
}

/// The version that a library states, if it offers the interface that is used here.
fn interface_version(library: &Library) -> Result<String, String> {
    /// The head of ONNX Runtime's C interface, unchanged since its first release.
    #[repr(C)]
    struct ApiBase {
        get_api: unsafe extern "C" fn(u32) -> *const c_void,
        get_version_string: unsafe extern "C" fn() -> *const c_char,
    }
    type GetApiBase = unsafe extern "C" fn() -> *const ApiBase;

    // SAFETY: a library that exports this name is ONNX Runtime, whose C interface declares it so;
    // the pointers that it returns are checked before use and live as long as the library.
    #[allow(unsafe_code)]
    unsafe {
        let base = library
            .get::<GetApiBase>(b"OrtGetApiBase\0")
            .map_err(|_| "it is not ONNX Runtime: it has no `OrtGetApiBase`".to_owned())?(
        );
        let base = base.as_ref().ok_or("its `OrtGetApiBase` answers nothing")?;
        let version = (base.get_version_string)();
        if version.is_null() {
            return Err("it states no version".to_owned());
        }
        let version = CStr::from_ptr(version).to_string_lossy().into_owned();
        // Asking for a version that the library lacks makes it print; so its number comes first.
        let numbers = parse_version(&version);
        let too_old =
            numbers.is_none_or(|(major, minor, _)| (major, minor) < (1, OLDEST_INTERFACE));
        let remedy = "`cutline engine install onnxruntime` obtains one";
        if too_old {
            return Err(format!(
                "it is version {version}; 1.{OLDEST_INTERFACE} or newer is needed ({remedy})"
            ));
        }
        if (base.get_api)(OLDEST_INTERFACE).is_null() {
            return Err(format!(
                "it says that it is version {version}, but does not offer the interface of \
                 1.{OLDEST_INTERFACE}, which is needed ({remedy})"
            ));
        }
        Ok(version)
    }
}

/// Refuses a file that is missing, no library, or cut short: opening the last kind would end the
/// process by a signal.
pub(super) fn check_complete(path: &Path) -> Result<(), String> {
    let file = fs::File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut head = Vec::new();
    file.take(64).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let bits_64 = match head.get(..6) {
        Some([0x7f, b'E', b'L', b'F', 1, 1]) => false,
        Some([0x7f, b'E', b'L', b'F', 2, 1]) => true,
        _ => return Err("it is not a shared library".to_owned()),
    };
    match end_of_sections(&head, bits_64) {
        Some(end) if end <= length => Ok(()),
        _ => Err(format!("it is cut short: {length} bytes are not all of it")),
    }
}

/// Where the table of sections, the last part of an ELF file, ends.
fn end_of_sections(head: &[u8], bits_64: bool) -> Option<u64> {
    let number = |start: usize, length: usize| {
        let bytes = head.get(start..start + length)?;
        Some(bytes.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte)))
    };
    let (offset, entry_size, entries) = match bits_64 {
        true => (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?),
        false => (number(0x20, 4)?, number(0x2e, 2)?, number(0x30, 2)?),
    };
    offset.checked_add(entry_size * entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfit_file_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let cases: [(&str, &[u8], &str); 4] = [
            ("empty", b"", "not a shared library"),
            ("text", b"this is no library, it is a sentence", "not a shared library"),
            ("cut short", &own[..own.len() / 2], "cut short"),
            ("header only", &own[..64], "cut short"),
        ];
        for (what, content, expected) in cases {
            std::fs::write(&path, content).unwrap();
            let reason = probe(&path).unwrap_err();
            assert!(reason.contains(expected), "{what}: {reason}");
        }
        assert!(probe(&folder.path().join("absent.so")).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_library_of_another_kind_is_refused() {
        let reason = probe(Path::new("libc.so.6")).unwrap_err();
        assert!(reason.contains("not ONNX Runtime"), "{reason}");
    }

    #[test]
    fn library_names() {
        for name in ["libonnxruntime.so", "libonnxruntime.so.1.20.0", "libonnxruntime.1.20.0.dylib"]
        {
            assert!(is_library_name(OsStr::new(name)), "{name}");
        }
        for name in ["libonnxruntime_providers_shared.so", "onnxruntime.py", "libonnxruntime.a"] {
            assert!(!is_library_name(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("1.9.0") < parse_version("1.17.3"));
        assert_eq!(parse_version("1.20.0-dev"), Some((1, 20, 0)));
        assert_eq!(parse_version("nightly"), None);
    }
}
