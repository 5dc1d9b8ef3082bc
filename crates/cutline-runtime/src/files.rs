//! Files written whole or not at all.
//!
//! A file is assembled in a temporary one beside its place and renamed; a folder of packages
//! likewise. On any error, a full disk above all, nothing of it is left behind and what stood there
//! before still stands. What stands there and is no file, such as a folder or a device, is never
//! replaced; a symbolic link is, while what it leads to stays as it is. Renaming replaces a file at once for every reader, but nothing is forced to
//! the medium: after a power cut a file may be missing or empty, as with `cp`.
//!
//! Weights are not read into memory: pieces of a mapped model and ranges of external files are
//! copied from file to file.

mod pieces;
mod tree;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use cutline_core::{package::Package, split::Piece, units::Bytes};
use sha2::{Digest, Sha256};
use tempfile::Builder;
use thiserror::Error;

pub use pieces::Source;
use pieces::write_pieces;
pub use tree::write_tree;

/// Why something could not be written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The medium is full.
    #[error(
        "no space left to write `{path}`, which needs {needed}; free some space, or write to another disk"
    )]
    Full {
        /// File or folder that was to be written.
        path: PathBuf,
        /// Its whole size.
        needed: Bytes,
    },
    /// Writing failed otherwise.
    #[error("cannot write `{path}`")]
    Write {
        /// File or folder that was to be written.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file that the new one draws on could not be read.
    #[error("cannot read `{path}`, which `{target}` is to contain a part of")]
    Read {
        /// File with external data.
        path: PathBuf,
        /// File that was to be written.
        target: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The folder holds something that Cutline did not write.
    #[error(
        "folder `{folder}` holds `{entry}`, which is not what this command writes; choose another folder, or empty this one"
    )]
    Foreign {
        /// Folder that was to be written.
        folder: PathBuf,
        /// An entry of it.
        entry: String,
    },
}

/// Name of the plan's file in a folder of packages.
pub const PLAN_FILE: &str = "plan.json";
/// Beginning of the names of files and folders that are not in their place yet.
pub const TEMPORARY: &str = ".cutline-";

/// SHA-256 of a file, read piece by piece.
pub fn sha256(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Writes bytes to a file, whole or not at all.
pub fn write_bytes(path: &Path, bytes: impl Into<bytes::Bytes>) -> Result<(), FileError> {
    write_atomic(path, &[Piece::Inline(bytes.into())], Path::new("."))
}

/// Writes pieces to a file, whole or not at all.
pub fn write_atomic<'a>(
    path: &Path,
    pieces: &[Piece],
    source: impl Into<Source<'a>>,
) -> Result<(), FileError> {
    let needed = Bytes(pieces.iter().map(Piece::bytes).sum());
    let failed = |source| write_error(path, needed, source);
    let mut file = beside(path).map_err(failed)?;
    write_pieces(file.as_file_mut(), path, pieces, source.into())?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// A file in the folder of `path`, gone unless it is put in its place there. Refused where `path` is,
/// or leads to, anything else than a regular file: renaming would replace `/dev/null`, too. A link to
/// a file, or to nothing, is replaced by the new one.
pub fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            let reason = format!("it is {}, not a regular file", kind(there.file_type()));
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY).suffix(".part");
    with_usual_mode(&mut builder, 0o666);
    builder.tempfile_in(folder)
}

/// What a file is that is no regular one.
fn kind(file: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kinds = [
            (file.is_char_device() || file.is_block_device(), "a device"),
            (file.is_fifo(), "a pipe"),
            (file.is_socket(), "a socket"),
        ];
        if let Some((_, name)) = kinds.into_iter().find(|(is, _)| *is) {
            return name;
        }
    }
    if file.is_dir() { "a folder" } else { "something special" }
}

/// Writes a model as a temporary file in the folder of another, whose external data it shares; it goes
/// with what is returned.
pub fn write_model_beside<'a>(
    path: &Path,
    pieces: &[Piece],
    source: impl Into<Source<'a>>,
) -> Result<tempfile::TempPath, FileError> {
    let needed = Bytes(pieces.iter().map(Piece::bytes).sum());
    let folder = path.parent().unwrap_or(Path::new("."));
    let failed = |source| write_error(path, needed, source);
    let mut file =
        Builder::new().prefix(TEMPORARY).suffix(".onnx").tempfile_in(folder).map_err(failed)?;
    write_pieces(file.as_file_mut(), path, pieces, source.into())?;
    Ok(file.into_temp_path())
}

/// Writes a folder of packages, whole or not at all: the plan, and one package per part.
///
/// An empty folder and an earlier output of this function are replaced; a folder with anything else
/// in it is left alone.
pub fn write_package<'a>(
    folder: &Path,
    plan: &[u8],
    packages: &[Package],
    source: impl Into<Source<'a>>,
) -> Result<(), FileError> {
    assemble(folder, packages, source)?.finish(plan)
}

/// A folder of packages that lacks its plan and is not yet in its place. Dropped, it leaves nothing
/// behind.
#[derive(Debug)]
pub struct Assembly {
    assembled: tempfile::TempDir,
    folder: PathBuf,
    needed: Bytes,
}

/// The first step of [`write_package`], for those who do not have the plan yet: writes the packages
/// beside `folder`.
pub fn assemble<'a>(
    folder: &Path,
    packages: &[Package],
    source: impl Into<Source<'a>>,
) -> Result<Assembly, FileError> {
    check_replaceable(folder)?;
    let sizes = packages.iter().map(|package| package.files.bytes() + package.config.len() as u64);
    let needed = Bytes(sizes.sum());
    let failed = |source| write_error(folder, needed, source);
    let folder = absolute(folder).map_err(failed)?;
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(failed)?;
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY).suffix(".part");
    with_usual_mode(&mut builder, 0o777);
    let assembled = builder.tempdir_in(parent).map_err(failed)?;
    let assembly = Assembly { assembled, folder, needed };
    let source = source.into();
    for package in packages {
        let path = assembly.assembled.path().join(&package.name);
        write_one(&path, package, source).map_err(|error| assembly.about_all(error))?;
    }
    Ok(assembly)
}

impl Assembly {
    /// The second step: adds the plan and puts the folder in its place.
    pub fn finish(self, plan: &[u8]) -> Result<(), FileError> {
        let path = self.assembled.path().join(PLAN_FILE);
        write_bytes(&path, plan.to_vec()).map_err(|error| self.about_all(error))?;
        let Self { assembled, folder, needed } = self;
        replace_folder(assembled, &folder).map_err(|source| write_error(&folder, needed, source))
    }

    /// A full disk concerns the whole folder, not the file at which it showed.
    fn about_all(&self, error: FileError) -> FileError {
        match error {
            FileError::Full { .. } => {
                FileError::Full { path: self.folder.clone(), needed: self.needed }
            }
            other => other,
        }
    }
}

/// Writes one package into a new folder.
fn write_one(folder: &Path, package: &Package, source: Source<'_>) -> Result<(), FileError> {
    let version = folder.join("1");
    fs::create_dir_all(&version)
        .map_err(|source| write_error(&version, Bytes(package.files.bytes()), source))?;
    write_bytes(&folder.join("config.pbtxt"), package.config.clone())?;
    let file = version.join(package.files.format.file_name());
    write_new(&file, &package.files.model, source)?;
    if let Some(data) = &package.files.data {
        write_new(&version.join(cutline_core::split::DATA_FILE), data, source)?;
    }
    Ok(())
}

/// Writes a file in a folder that is itself temporary.
fn write_new(path: &Path, pieces: &[Piece], source: Source<'_>) -> Result<(), FileError> {
    let needed = Bytes(pieces.iter().map(Piece::bytes).sum());
    let mut file = File::create_new(path).map_err(|source| write_error(path, needed, source))?;
    write_pieces(&mut file, path, pieces, source)
}

/// Refuses a folder in which there is something else than an earlier output.
fn check_replaceable(folder: &Path) -> Result<(), FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(FileError::Write { path: folder.into(), source }),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| FileError::Write { path: folder.into(), source })?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    let complete = names.iter().any(|name| name == PLAN_FILE);
    let ours = |name: &String| {
        let package = folder.join(name).join("config.pbtxt").is_file() && is_package_name(name);
        complete && (name == PLAN_FILE || package)
    };
    match names.iter().find(|name| !ours(name)) {
        None => Ok(()),
        Some(entry) => Err(FileError::Foreign { folder: folder.into(), entry: entry.clone() }),
    }
}

fn is_package_name(name: &str) -> bool {
    name.split_once('-').is_some_and(|(index, _)| index.parse::<u32>().is_ok())
}

/// Puts a finished folder in its place; what stood there goes away last.
fn replace_folder(assembled: tempfile::TempDir, folder: &Path) -> io::Result<()> {
    match fs::rename(assembled.path(), folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            let parent = folder.parent().unwrap_or(Path::new("/"));
            let aside = Builder::new().prefix(TEMPORARY).suffix(".old").tempdir_in(parent)?;
            let old = aside.path().join("old");
            fs::rename(folder, &old)?;
            if let Err(error) = fs::rename(assembled.path(), folder) {
                fs::rename(&old, folder)?;
                return Err(error);
            }
        }
        result => result?,
    }
    // The folder now lives elsewhere; there is nothing left to delete.
    let _ = assembled.keep();
    Ok(())
}

fn absolute(path: &Path) -> io::Result<PathBuf> {
    // `.` and `a/..` name a folder that cannot be renamed over; this resolves the first.
    let path = std::path::absolute(path)?;
    Ok(fs::canonicalize(&path).unwrap_or(path))
}

fn write_error(path: &Path, needed: Bytes, source: io::Error) -> FileError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FileError::Full { path, needed }
        }
        _ => FileError::Write { path, source },
    }
}

/// Temporary files are private by default; these become ordinary ones.
fn with_usual_mode(builder: &mut Builder<'_, '_>, mode: u32) {
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = (builder, mode);
}

#[cfg(test)]
mod tests {
    use cutline_core::split::{Format, SubModelFiles};

    use super::*;

    fn inline(text: &'static str) -> Piece {
        Piece::Inline(bytes::Bytes::from_static(text.as_bytes()))
    }

    fn package(name: &str, model: Vec<Piece>) -> Package {
        Package {
            name: name.to_owned(),
            config: "name: \"it\"\n".to_owned(),
            files: SubModelFiles { format: Format::Onnx, model, data: Some(vec![inline("data")]) },
        }
    }

    /// Every file beneath a folder, sorted, relative to it.
    fn listing(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => open.push(path),
                    false => found.push(path.strip_prefix(folder).unwrap().display().to_string()),
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn pieces_come_together_from_memory_and_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("w.bin"), "0123456789").unwrap();
        let range =
            |offset, length| Piece::External { location: "w.bin".to_owned(), offset, length };
        let pieces = [inline("<"), range(2, 3), range(9, 1), inline(">")];
        let path = dir.path().join("out");
        write_atomic(&path, &pieces, dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "<2349>");
    }

    #[test]
    fn slices_of_a_mapped_file_are_copied_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        // The memory differs from the file here, so that the copy tells where it came from.
        let mapped = bytes::Bytes::from(vec![b'm'; 200_000]);
        let elsewhere = bytes::Bytes::from(vec![b'e'; 100_000]);
        fs::write(dir.path().join("w.bin"), vec![b'f'; 200_000]).unwrap();
        let file = File::open(dir.path().join("w.bin")).unwrap();
        let source = Source { folder: dir.path(), mapped: Some((&mapped, &file)) };
        let slices =
            [mapped.slice(..100_000), mapped.slice(5..9), elsewhere, mapped.slice(100_000..)];
        let path = dir.path().join("out");
        write_atomic(&path, &slices.map(Piece::Inline), source).unwrap();
        let expected =
            [vec![b'f'; 100_000], vec![b'm'; 4], vec![b'e'; 100_000], vec![b'f'; 100_000]];
        assert_eq!(fs::read(path).unwrap(), expected.concat());
    }

    #[test]
    fn a_failed_file_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("w.bin"), "0123456789").unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "old").unwrap();
        for (location, length) in [("w.bin", 11), ("absent.bin", 1)] {
            let piece = Piece::External { location: location.to_owned(), offset: 0, length };
            let error = write_atomic(&path, &[inline("new"), piece], dir.path()).unwrap_err();
            assert!(error.to_string().contains(location), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "old");
            assert_eq!(listing(dir.path()), ["out", "w.bin"]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_with_the_bytes_needed() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let pieces = [Piece::Inline(vec![0; 2_500_000].into())];
        let target = Path::new("parts/model.onnx");
        let error = write_pieces(&mut full, target, &pieces, Path::new(".").into()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FileError::Full { .. }), "{text}");
        assert!(text.contains("parts/model.onnx") && text.contains("2.50 MB"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_not_replaced() {
        use std::os::unix::{fs::symlink, net::UnixListener};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (link, to) in [
            ("to folder", at("folder")),
            ("to device", "/dev/null".into()),
            ("to file", at("file")),
            ("to nothing", at("nothing")),
            ("to itself", at("to itself")),
        ] {
            symlink(to, at(link)).unwrap();
        }
        fs::write(at("file"), "old").unwrap();
        fs::write(at("plain"), "old").unwrap();
        let refused = [
            (at("folder"), "a folder"),
            (at("fifo"), "a pipe"),
            (at("socket"), "a socket"),
            ("/dev/null".into(), "a device"),
            (at("to folder"), "a folder"),
            (at("to device"), "a device"),
            (at("to itself"), "symbolic links"),
            (at("plain").join("file"), "Not a directory"),
        ];
        let before = fs::read_dir(dir.path()).unwrap().count();
        for (path, words) in refused {
            let kind = fs::symlink_metadata(&path).map(|there| there.file_type()).ok();
            let error = write_bytes(&path, "new").unwrap_err();
            let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(text.contains(words) && text.contains("cannot write"), "{text}");
            assert_eq!(fs::symlink_metadata(&path).map(|there| there.file_type()).ok(), kind);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "nothing is left behind");
        for name in ["to file", "to nothing", "plain", "fresh"] {
            write_bytes(&at(name), "new").unwrap();
            assert!(fs::symlink_metadata(at(name)).unwrap().is_file(), "{name}");
            assert_eq!(fs::read_to_string(at(name)).unwrap(), "new");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "old", "what a link led to stays");
        assert!(!at("nothing").exists());
    }

    #[test]
    fn a_package_folder_is_whole_and_replaces_only_its_like() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep").join("out");
        let write = |packages: &[Package]| write_package(&folder, b"{}", packages, dir.path());
        write(&[package("0-edge", vec![inline("a")]), package("1-cloud", vec![inline("b")])])
            .unwrap();
        let expected = [
            "0-edge/1/model.onnx",
            "0-edge/1/model.onnx.data",
            "0-edge/config.pbtxt",
            "1-cloud/1/model.onnx",
            "1-cloud/1/model.onnx.data",
            "1-cloud/config.pbtxt",
            "plan.json",
        ];
        assert_eq!(listing(&folder), expected);

        write(&[package("0-all", vec![inline("c")])]).unwrap();
        assert_eq!(fs::read_to_string(folder.join("0-all/1/model.onnx")).unwrap(), "c");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);

        let missing = Piece::External { location: "gone".to_owned(), offset: 0, length: 1 };
        write(&[package("0-edge", vec![missing])]).unwrap_err();
        assert!(folder.join("0-all").exists());
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1);

        fs::write(folder.join("thesis.tex"), "").unwrap();
        let error = write(&[package("0-edge", vec![])]).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert!(folder.join("thesis.tex").exists());
    }

    #[test]
    fn an_empty_folder_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        write_package(dir.path(), b"{}", &[package("0-all", vec![])], Path::new(".")).unwrap();
        assert!(dir.path().join(PLAN_FILE).exists());
    }

    #[cfg(unix)]
    #[test]
    fn written_files_have_usual_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (usual, ours) = (dir.path().join("usual"), dir.path().join("ours"));
        fs::write(&usual, "").unwrap();
        write_bytes(&ours, "x").unwrap();
        assert_eq!(mode(&ours), mode(&usual));
        let (usual, ours) = (dir.path().join("usual.d"), dir.path().join("ours.d"));
        fs::create_dir(&usual).unwrap();
        write_package(&ours, b"{}", &[], Path::new(".")).unwrap();
        assert_eq!(mode(&ours), mode(&usual));
    }
}
