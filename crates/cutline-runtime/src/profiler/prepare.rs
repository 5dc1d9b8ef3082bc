//! How long a picture takes to become the network's input, by what travels.

use std::{collections::BTreeMap, time::Instant};

use cutline_core::{
    picture::InputEncoding,
    profile::PrepareTime,
    units::{Bytes, Nanos},
};

use super::{PictureSample, machine::slowed};
use crate::{
    picture::{self, PictureError},
    stats,
};

/// Runs of each half; one more warms up.
const RUNS: u32 = 7;

/// Times of both halves for every encoding, by its name.
pub(super) fn times(
    sample: &PictureSample,
    slowdown_permille: u64,
) -> Result<BTreeMap<String, PrepareTime>, PictureError> {
    let mut times = BTreeMap::new();
    for encoding in InputEncoding::ALL {
        let (encode, payload) = median(|| picture::prepare(&sample.file, &sample.spec, encoding))?;
        let (decode, _) = median(|| picture::finish(&payload, &sample.spec))?;
        let time = PrepareTime {
            encode_ns: slowed(encode, slowdown_permille),
            decode_ns: slowed(decode, slowdown_permille),
            bytes: Bytes(payload.tensor.data().len() as u64),
        };
        times.insert(encoding.name().to_owned(), time);
    }
    Ok(times)
}

fn median<T>(mut run: impl FnMut() -> Result<T, PictureError>) -> Result<(Nanos, T), PictureError> {
    let mut last = run()?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        last = run()?;
        times.push(stats::nanos(start.elapsed()));
    }
    Ok((stats::median(&mut times).unwrap_or_default(), last))
}
