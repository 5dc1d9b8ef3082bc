//! A picture for the demo: a sky, a lawn and a few balls, as a camera would deliver it.

use std::io::Cursor;

use anyhow::Context;
use image::{ImageBuffer, Rgb, codecs::jpeg::JpegEncoder};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

/// Centre, radius and colour of each ball.
const BALLS: [(i64, i64, i64, [u8; 3]); 3] =
    [(170, 300, 90, [214, 63, 48]), (360, 340, 60, [240, 196, 25]), (500, 280, 110, [52, 94, 190])];

/// The scene as a JPEG file; the same bytes every time.
pub(super) fn jpeg() -> anyhow::Result<Vec<u8>> {
    let picture =
        ImageBuffer::from_fn(WIDTH, HEIGHT, |x, y| Rgb(pixel(i64::from(x), i64::from(y))));
    let mut file = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut file, 90);
    picture.write_with_encoder(encoder).context("cannot make the demo's picture")?;
    Ok(file.into_inner())
}

fn pixel(x: i64, y: i64) -> [u8; 3] {
    for (centre_x, centre_y, radius, colour) in BALLS {
        let (dx, dy) = (x - centre_x, y - centre_y);
        if dx * dx + dy * dy <= radius * radius {
            // Lit from the upper left.
            let light = 160 - (dx + dy) * 70 / radius;
            return colour.map(|channel| (i64::from(channel) * light / 160).clamp(0, 255) as u8);
        }
    }
    // A cheap texture, so that the lawn does not compress to nothing.
    let grain = (x * 7919 + y * 104_729 + (x * y) % 613) % 37;
    if y < 200 {
        [120 + y / 4, 170 + y / 5, 235].map(|channel| channel as u8)
    } else {
        [60 + grain, 130 + grain, 40 + grain / 2].map(|channel| channel as u8)
    }
}
