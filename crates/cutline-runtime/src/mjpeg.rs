//! JPEG pictures one after another, as cameras and `ffmpeg -f mjpeg -` write them, taken apart.
//!
//! ```text
//! ··· FFD8 │ FF marker length data │ ... │ FFDA length data, coded bytes ... │ FFD9 ··· FFD8 ...
//!  ▲  start│ segments, skipped whole     │ scan: FF00 and FFD0-D7 belong to it│ end  ▲
//!  └ anything between pictures is skipped, e.g. headers of a multipart stream ────────┘
//! ```
//!
//! Segments are skipped by their length, because an embedded thumbnail is a JPEG of its own
//! (ITU-T T.81, annex B). A picture that is damaged or too large costs that picture, and where it
//! breaks off within a segment the one into which the segment's 64 kB at most reach: reading goes on
//! at the next start. Memory is bounded by the largest picture allowed.

use std::io::{self, BufRead};

use bytes::Bytes;
use thiserror::Error;

/// Largest picture unless told otherwise: far above what cameras write as video.
pub const MAX_PICTURE: usize = 32 << 20;

/// Second bytes of markers.
const START: u8 = 0xd8;
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const TEMPORARY: u8 = 0x01;

/// Why a picture of a stream is none.
#[derive(Debug, Error)]
pub enum MjpegError {
    /// The stream could not be read; nothing comes after this.
    #[error("the stream of pictures cannot be read")]
    Read(#[source] io::Error),
    /// The picture breaks off where another begins, or is no JPEG inside.
    #[error("a picture of the stream is damaged after {bytes} bytes: {reason}")]
    Damaged {
        /// How much of it was read.
        bytes: usize,
        /// What came in place of what.
        reason: &'static str,
    },
    /// The picture exceeds the limit.
    #[error("a picture of the stream is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The stream ends without a picture in it.
    #[error("{bytes} bytes and no JPEG among them; let ffmpeg write pictures: -f mjpeg -")]
    NoPicture {
        /// How long the stream was.
        bytes: u64,
    },
}

/// The pictures of a stream, each from its first to its last byte.
#[derive(Debug)]
pub struct Pictures<R> {
    input: R,
    limit: usize,
    read: u64,
    found: bool,
    ended: bool,
    /// A start marker was read that ended the picture before.
    started: bool,
    /// The picture is over the limit: it is read to its end, but not kept.
    over: bool,
}

/// What a marker asks for.
enum Step {
    Segment,
    Scan,
    Alone,
    End,
    NextPicture,
}

/// Why a picture is not complete: it is wrong, or the stream is.
enum Stop {
    Wrong(&'static str),
    Ended,
    Read(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Read(error)
    }
}

impl<R: BufRead> Pictures<R> {
    /// Pictures of at most `limit` bytes each.
    pub fn new(input: R, limit: usize) -> Self {
        Self { input, limit, read: 0, found: false, ended: false, started: false, over: false }
    }

    /// Skips to the next start marker; false at the end of the stream.
    fn find_start(&mut self) -> io::Result<bool> {
        if std::mem::take(&mut self.started) {
            return Ok(true);
        }
        let mut after_ff = false;
        while let Some(byte) = self.byte()? {
            if after_ff && byte == START {
                return Ok(true);
            }
            after_ff = byte == 0xff;
        }
        Ok(false)
    }

    /// Reads a picture whose start marker was read.
    fn picture(&mut self, picture: &mut Vec<u8>) -> Result<(), Stop> {
        self.over = self.limit < 2;
        picture.extend([0xff, START]);
        let mut marker = self.marker(picture)?;
        loop {
            match step(marker) {
                Step::End => return Ok(()),
                Step::Alone => marker = self.marker(picture)?,
                Step::Segment => {
                    self.segment(picture)?;
                    marker = self.marker(picture)?;
                }
                Step::Scan => {
                    self.segment(picture)?;
                    marker = self.scan(picture)?;
                }
                Step::NextPicture => {
                    self.started = true;
                    return Err(Stop::Wrong("the next picture begins before its end"));
                }
            }
        }
    }

    /// Reads a marker, which must come here; any number of FF may stand before it.
    fn marker(&mut self, picture: &mut Vec<u8>) -> Result<u8, Stop> {
        if self.keep(picture)? != 0xff {
            return Err(Stop::Wrong("data where a marker must be"));
        }
        loop {
            match self.keep(picture)? {
                0xff => {}
                0x00 => return Err(Stop::Wrong("data where a marker must be")),
                marker => return Ok(marker),
            }
        }
    }

    /// Reads a length and as many bytes, the length's own two among them.
    fn segment(&mut self, picture: &mut Vec<u8>) -> Result<(), Stop> {
        let length = u16::from_be_bytes([self.keep(picture)?, self.keep(picture)?]);
        let mut left = usize::from(length)
            .checked_sub(2)
            .ok_or(Stop::Wrong("a segment of negative length"))?;
        while left > 0 {
            let taken = self.chunk(picture, |chunk| chunk.len().min(left))?;
            left -= taken;
        }
        Ok(())
    }

    /// Reads coded bytes up to the marker behind them.
    fn scan(&mut self, picture: &mut Vec<u8>) -> Result<u8, Stop> {
        loop {
            let to_marker =
                |chunk: &[u8]| chunk.iter().position(|&byte| byte == 0xff).unwrap_or(chunk.len());
            if self.chunk(picture, to_marker)? > 0 {
                continue;
            }
            match self.marker_in_scan(picture)? {
                // A coded FF, or the begin of the next restart interval.
                0x00 | 0xd0..=0xd7 => {}
                marker => return Ok(marker),
            }
        }
    }

    fn marker_in_scan(&mut self, picture: &mut Vec<u8>) -> Result<u8, Stop> {
        loop {
            match self.keep(picture)? {
                0xff => {}
                marker => return Ok(marker),
            }
        }
    }

    /// Keeps as many of the bytes at hand as `wanted` says.
    fn chunk(
        &mut self,
        picture: &mut Vec<u8>,
        wanted: impl FnOnce(&[u8]) -> usize,
    ) -> Result<usize, Stop> {
        let chunk = fill(&mut self.input)?;
        if chunk.is_empty() {
            return Err(Stop::Ended);
        }
        let chunk = &chunk[..wanted(chunk)];
        let taken = chunk.len();
        self.over |= picture.len() + taken > self.limit;
        if !self.over {
            picture.extend_from_slice(chunk);
        }
        self.consume(taken);
        Ok(taken)
    }

    fn keep(&mut self, picture: &mut Vec<u8>) -> Result<u8, Stop> {
        let byte = self.byte()?.ok_or(Stop::Ended)?;
        self.over |= picture.len() >= self.limit;
        if !self.over {
            picture.push(byte);
        }
        Ok(byte)
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = fill(&mut self.input)?.first().copied();
        if byte.is_some() {
            self.consume(1);
        }
        Ok(byte)
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.read += count as u64;
    }

    fn end(&mut self, error: MjpegError) -> Option<Result<Bytes, MjpegError>> {
        self.ended = true;
        Some(Err(error))
    }
}

/// What can be read at once; nothing at the end. A signal that interrupts the reading does not end
/// it.
fn fill(input: &mut impl BufRead) -> io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Asked again, because the borrow of the answer would outlive the loop.
            Ok(_) => return input.fill_buf(),
            Err(error) => return Err(error),
        }
    }
}

fn step(marker: u8) -> Step {
    match marker {
        START => Step::NextPicture,
        END => Step::End,
        SCAN => Step::Scan,
        TEMPORARY | 0xd0..=0xd7 => Step::Alone,
        _ => Step::Segment,
    }
}

impl<R: BufRead> Iterator for Pictures<R> {
    type Item = Result<Bytes, MjpegError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.find_start() {
            Ok(true) => self.found = true,
            Ok(false) if self.found => {
                self.ended = true;
                return None;
            }
            Ok(false) => return self.end(MjpegError::NoPicture { bytes: self.read }),
            Err(error) => return self.end(MjpegError::Read(error)),
        }
        let mut picture = Vec::new();
        let read = self.picture(&mut picture);
        let damaged = |reason| MjpegError::Damaged { bytes: picture.len(), reason };
        match read {
            Err(Stop::Read(error)) => self.end(MjpegError::Read(error)),
            Err(Stop::Ended) => self.end(damaged("the stream ends in the middle of it")),
            _ if self.over => Some(Err(MjpegError::TooLarge { limit: self.limit })),
            Err(Stop::Wrong(reason)) => Some(Err(damaged(reason))),
            Ok(()) => Some(Ok(picture.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use image::{DynamicImage, ImageFormat, RgbImage};
    use proptest::prelude::*;

    use super::*;

    fn jpeg(seed: u8) -> Vec<u8> {
        let pixel = |x: u32, y: u32| image::Rgb([seed, (x * 7) as u8, (y * x) as u8]);
        let picture = DynamicImage::from(RgbImage::from_fn(24 + u32::from(seed % 8), 16, pixel));
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Jpeg).unwrap();
        file.into_inner()
    }

    /// A picture with another one inside, as cameras store a thumbnail.
    fn with_thumbnail(mut picture: Vec<u8>) -> Vec<u8> {
        let thumbnail = jpeg(9);
        let length = u16::try_from(thumbnail.len() + 2).unwrap().to_be_bytes();
        let segment = [&[0xff, 0xe1], &length[..], &thumbnail].concat();
        picture.splice(2..2, segment);
        picture
    }

    fn pictures(stream: &[u8]) -> Vec<Result<Bytes, String>> {
        // A small buffer, so that markers fall on its borders.
        let input = BufReader::with_capacity(5, stream);
        Pictures::new(input, MAX_PICTURE).map(|p| p.map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn pictures_come_out_as_they_went_in() {
        let files = [jpeg(1), with_thumbnail(jpeg(2)), jpeg(3)];
        let stream = [
            b"--boundary\r\nContent-Type: image/jpeg\r\n\r\n".to_vec(),
            files[0].clone(),
            b"\r\n--boundary\r\n\xff\r\n".to_vec(),
            files[1].clone(),
            files[2].clone(),
            vec![0; 3],
        ];
        let expected: Vec<_> = files.into_iter().map(|file| Ok(Bytes::from(file))).collect();
        assert_eq!(pictures(&stream.concat()), expected);
    }

    #[test]
    fn a_damaged_picture_costs_itself_only() {
        let (good, cut) = (jpeg(1), jpeg(2));
        let broken = [&cut[..cut.len() - 9], &good, &cut[..2], &[7, 7, 7], &good].concat();
        let found = pictures(&broken);
        let good = Ok(Bytes::from(good));
        assert_eq!((&found[1], &found[3]), (&good, &good), "{found:?}");
        assert!(found[0].as_ref().unwrap_err().contains("the next picture begins"), "{found:?}");
        assert!(found[2].as_ref().unwrap_err().contains("where a marker must be"), "{found:?}");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn the_end_in_the_middle_of_a_picture_and_of_none_is_said() {
        let file = jpeg(1);
        let found = pictures(&file[..file.len() - 1]);
        assert!(found[0].as_ref().unwrap_err().contains("ends in the middle"), "{found:?}");
        assert_eq!(found.len(), 1);
        let found = pictures(b"\0\0\0\x18ftypmp42");
        assert!(found[0].as_ref().unwrap_err().contains("12 bytes and no JPEG"), "{found:?}");
    }

    #[test]
    fn a_picture_over_the_limit_is_passed_over() {
        let (small, large) = (jpeg(1), with_thumbnail(jpeg(2)));
        let stream = [large.clone(), small.clone()].concat();
        let limit = large.len() - 1;
        let found: Vec<_> = Pictures::new(&stream[..], limit).collect();
        assert!(matches!(found[0], Err(MjpegError::TooLarge { .. })), "{found:?}");
        assert_eq!(found[1].as_ref().unwrap(), &small, "the thumbnail is no picture of the stream");
        assert_eq!(found.len(), 2);
    }

    proptest! {
        /// Whatever comes, the pictures found are parts of it, in order and within the limit.
        #[test]
        fn what_is_found_was_there(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just(vec![0xff]), Just(vec![0xff, 0xd8]), Just(vec![0xff, 0xd9]),
                    Just(vec![0xff, 0xda, 0, 2]), Just(vec![0xff, 0xe0, 0, 4]),
                    prop::collection::vec(any::<u8>(), 0..6),
                ],
                0..40,
            ),
            limit in 2usize..64,
        ) {
            let stream = pieces.concat();
            let mut from = 0;
            for picture in Pictures::new(&stream[..], limit).flatten() {
                prop_assert!(picture.len() <= limit);
                let mut places = stream[from..].windows(picture.len());
                let at = places.position(|window| window == picture);
                prop_assert!(at.is_some());
                from += at.unwrap() + picture.len();
            }
        }
    }
}
