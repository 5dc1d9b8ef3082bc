//! A folder of files, whole or not at all.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use cutline_core::{split::Piece, units::Bytes};
use tempfile::Builder;

use super::{
    FileError, Source, TEMPORARY, absolute, replace_folder, with_usual_mode, write_error, write_new,
};

/// Writes files, each at its path in the folder, which is there only when all are. A folder in which
/// there is something else than such files is left alone.
pub fn write_tree<'a>(
    folder: &Path,
    files: &[(PathBuf, Vec<Piece>)],
    source: impl Into<Source<'a>>,
) -> Result<(), FileError> {
    let needed = Bytes(files.iter().flat_map(|(_, pieces)| pieces).map(Piece::bytes).sum());
    let failed = |source| write_error(folder, needed, source);
    check_replaceable(folder, files)?;
    let place = absolute(folder).map_err(failed)?;
    let parent = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(failed)?;
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY).suffix(".part");
    with_usual_mode(&mut builder, 0o777);
    let assembled = builder.tempdir_in(parent).map_err(failed)?;
    let source = source.into();
    for (path, pieces) in files {
        let path = assembled.path().join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        write_new(&path, pieces, source).map_err(|error| match error {
            // A full disk concerns the whole folder, not the file at which it showed.
            FileError::Full { .. } => FileError::Full { path: place.clone(), needed },
            other => other,
        })?;
    }
    replace_folder(assembled, &place).map_err(failed)
}

fn check_replaceable(folder: &Path, files: &[(PathBuf, Vec<Piece>)]) -> Result<(), FileError> {
    let ours: BTreeSet<OsString> = files
        .iter()
        .filter_map(|(path, _)| path.components().next())
        .map(|first| first.as_os_str().to_owned())
        .collect();
    let failed = |source| FileError::Write { path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if !ours.contains(&name) {
            let entry = name.to_string_lossy().into_owned();
            return Err(FileError::Foreign { folder: folder.into(), entry });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<(PathBuf, Vec<Piece>)> {
        let piece = |name: &str| Piece::Inline(bytes::Bytes::from(name.to_owned()));
        names.iter().map(|name| (name.into(), vec![piece(name)])).collect()
    }

    #[test]
    fn a_tree_is_written_whole_replaces_its_like_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("out");
        let write = |names: &[&str]| write_tree(&place, &files(names), Path::new("."));
        write(&["a.yaml", "b/c.txt"]).unwrap();
        assert_eq!(fs::read_to_string(place.join("b/c.txt")).unwrap(), "b/c.txt");
        write(&["a.yaml", "b/d.txt"]).unwrap();
        assert!(!place.join("b/c.txt").exists() && place.join("b/d.txt").exists());
        let error = write(&["a.yaml"]).unwrap_err();
        assert!(matches!(&error, FileError::Foreign { entry, .. } if entry == "b"), "{error}");
        // What was there is untouched, and nothing is left beside it.
        assert!(place.join("b/d.txt").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
