//! Pieces into an open file: from memory, or by the operating system from file to file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use cutline_core::{split::Piece, units};

use super::{FileError, write_error};

/// Slices of a mapped file from this size on are copied from file to file.
const COPIED_BY_SYSTEM: usize = 1 << 16;

/// Where the bytes of pieces are, besides memory.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Folder of the files that external pieces are ranges of.
    pub folder: &'a Path,
    /// A whole file as mapped memory, and its handle: pieces that are slices of the memory are
    /// copied from the file, which saves touching every page and making it resident.
    pub mapped: Option<(&'a bytes::Bytes, &'a File)>,
}

impl<'a> From<&'a Path> for Source<'a> {
    fn from(folder: &'a Path) -> Self {
        Self { folder, mapped: None }
    }
}

impl<'a> Source<'a> {
    /// The file that a slice of memory was mapped from, and where in it the slice starts.
    fn behind(&self, slice: &[u8]) -> Option<(&'a File, u64)> {
        let (mapped, file) = self.mapped?;
        let start = (slice.as_ptr() as usize).checked_sub(mapped.as_ptr() as usize)?;
        (start.checked_add(slice.len())? <= mapped.len()).then_some((file, start as u64))
    }
}

/// Writes pieces in order into an open file that will be called `target`.
pub(super) fn write_pieces(
    file: &mut File,
    target: &Path,
    pieces: &[Piece],
    source: Source<'_>,
) -> Result<(), FileError> {
    let needed = units::Bytes(pieces.iter().map(Piece::bytes).sum());
    let failed = |source| write_error(target, needed, source);
    // Consecutive tensors mostly come from the same file.
    let mut opened: Option<(&str, File)> = None;
    for piece in pieces {
        let (location, offset, length) = match piece {
            Piece::Inline(bytes) => {
                match source.behind(bytes).filter(|_| bytes.len() >= COPIED_BY_SYSTEM) {
                    Some((mapped, offset)) => {
                        copy_range(mapped, offset, bytes.len() as u64, file).map_err(failed)?;
                    }
                    None => file.write_all(bytes).map_err(failed)?,
                }
                continue;
            }
            Piece::External { location, offset, length } => (location, *offset, *length),
        };
        let path = source.folder.join(location);
        let unread = |source| FileError::Read { path: path.clone(), target: target.into(), source };
        if opened.as_ref().is_none_or(|(name, _)| name != location) {
            opened = Some((location, File::open(&path).map_err(unread)?));
        }
        let (_, from) = opened.as_ref().expect("opened just above");
        copy_range(from, offset, length, file).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => unread(error),
            _ => failed(error),
        })?;
    }
    Ok(())
}

/// Appends a range of one file to another; the standard library lets Linux do it inside the kernel.
fn copy_range(mut from: &File, offset: u64, length: u64, to: &mut File) -> io::Result<()> {
    from.seek(SeekFrom::Start(offset))?;
    match io::copy(&mut from.take(length), to)? {
        copied if copied == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
