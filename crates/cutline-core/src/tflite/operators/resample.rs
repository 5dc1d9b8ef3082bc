//! Operators that move elements between rows, columns, channels and the batch, or resample rows and
//! columns.

use super::{NO_OPTIONS, Options, field, four};
use crate::tflite::{
    convert::{Activation, Converter, Problem, int, perm, word},
    layout::Layout,
    operators::Kind,
    reader::Operator,
};

pub(super) fn resize(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (aligned, centred, mode) = match op.options {
        Some(Options::ResizeBilinearOptions(o)) => {
            (field(o.align_corners())?, field(o.half_pixel_centers())?, "linear")
        }
        Some(Options::ResizeNearestNeighborOptions(o)) => {
            (field(o.align_corners())?, field(o.half_pixel_centers())?, "nearest")
        }
        _ => return Err(NO_OPTIONS.to_owned()),
    };
    let (x, output) = (op.input(0)?, op.output()?);
    four(c.shape(x))?;
    let sizes = Layout::Nchw.arrange(&four(c.shape(output))?);
    let coordinates = match (aligned, centred) {
        (true, _) => "align_corners",
        (false, true) => "half_pixel",
        (false, false) => "asymmetric",
    };
    let rounding = if aligned || centred { "round_prefer_ceil" } else { "floor" };
    let attributes = vec![
        word("mode", mode),
        word("coordinate_transformation_mode", coordinates),
        word("nearest_mode", rounding),
    ];
    let real = c.real(x, Layout::Nchw)?;
    let inputs = vec![real, String::new(), String::new(), c.int64s(output, &sizes)];
    c.make((output, Layout::Nchw), Activation::None, "Resize", inputs, attributes)
}

/// Blocks of pixels to channels, or back.
pub(super) fn depth(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (Some(Options::SpaceToDepthOptions(o)) | Some(Options::DepthToSpaceOptions(o))) =
        op.options
    else {
        return Err(NO_OPTIONS.to_owned());
    };
    let (x, output, block) = (op.input(0)?, op.output()?, i64::from(field(o.block_size())?));
    let [batch, height, width, channels] = four(c.shape(x))?;
    if block < 1 {
        return Err(format!("its block is {block}"));
    }
    let real = c.real(x, Layout::Nchw)?;
    let target = (output, Layout::Nchw);
    if op.kind == Kind::DepthToSpace {
        let attributes = vec![int("blocksize", block), word("mode", "DCR")];
        return c.make(target, Activation::None, "DepthToSpace", vec![real], attributes);
    }
    if height % block != 0 || width % block != 0 {
        return Err(format!("{height} x {width} are no blocks of {block}"));
    }
    let blocks = [batch, channels, height / block, block, width / block, block];
    let real = c.reshaped(output, real, &blocks);
    let real = c.step(output, "Transpose", vec![real], vec![perm(&[0, 3, 5, 1, 2, 4])]);
    let shape = c.int64s(output, &Layout::Nchw.arrange(c.shape(output)));
    c.make(target, Activation::None, "Reshape", vec![real, shape], vec![])
}

/// Blocks of pixels to the batch, or back: how dilated convolutions are written.
pub(super) fn batch(c: &mut Converter<'_>, op: &Operator<'_>) -> Result<(), Problem> {
    let (x, output) = (op.input(0)?, op.output()?);
    let (blocks, borders) = (c.integers(op.input(1)?)?, c.integers(op.input(2)?)?);
    let (&[rows, columns], &[top, bottom, left, right]) = (&blocks[..], &borders[..]) else {
        return Err("its blocks are not of rows and columns".to_owned());
    };
    let sizes = [rows, columns];
    if sizes.iter().any(|&size| !(1..1 << 20).contains(&size))
        || borders.iter().any(|&border| !(0..1 << 30).contains(&border))
    {
        return Err(format!("its blocks {blocks:?} with borders {borders:?} are out of range"));
    }
    let [count, height, width, channels] = four(c.shape(x))?;
    let real = c.real(x, Layout::Nchw)?;
    let target = (output, Layout::Nchw);
    if op.kind == Kind::SpaceToBatchNd {
        let pads = c.int64s(output, &[0, 0, top, left, 0, 0, bottom, right]);
        let real = c.step(output, "Pad", vec![real, pads], vec![word("mode", "constant")]);
        let (height, width) = (height + top + bottom, width + left + right);
        if height % rows != 0 || width % columns != 0 {
            return Err(format!("{height} x {width} are no blocks of {rows} x {columns}"));
        }
        let split = [count, channels, height / rows, rows, width / columns, columns];
        let real = c.reshaped(output, real, &split);
        let real = c.step(output, "Transpose", vec![real], vec![perm(&[3, 5, 0, 1, 2, 4])]);
        let shape = c.int64s(output, &Layout::Nchw.arrange(c.shape(output)));
        return c.make(target, Activation::None, "Reshape", vec![real, shape], vec![]);
    }
    if count % (rows * columns) != 0 {
        return Err(format!("{count} frames are no blocks of {rows} x {columns}"));
    }
    let count = count / (rows * columns);
    let real = c.reshaped(output, real, &[rows, columns, count, channels, height, width]);
    let real = c.step(output, "Transpose", vec![real], vec![perm(&[2, 3, 4, 0, 5, 1])]);
    let (height, width) = (height * rows, width * columns);
    let real = c.reshaped(output, real, &[count, channels, height, width]);
    let bounds = [[top, left], [height - bottom, width - right], [2, 3]];
    let bounds = bounds.map(|list| c.int64s(output, &list));
    let inputs = [real].into_iter().chain(bounds).collect();
    c.make(target, Activation::None, "Slice", inputs, vec![])
}
