//! Shapes of layers that slide a kernel over spatial axes: convolutions and pooling.
//!
//! Along one axis, with `span = dilation * (kernel - 1) + 1` and both pads together `p`:
//!
//! ```text
//! convolution, pooling   floor((input + p - span) / stride) + 1
//! transposed             (input - 1) * stride + span - p + output_padding
//! padding "same"         ceil(input / stride), transposed: input * stride
//! ```

use crate::{
    op::{Padding, Window},
    tensor::Shape,
};

/// Shape of a convolution of `x` (batch, channels, space...) by weights `w`.
pub(super) fn convolution(
    x: &Shape,
    w: &Shape,
    window: &Window,
    groups: u64,
) -> Result<Shape, String> {
    let (batch, channels, space) = parts(x)?;
    let (filters, depth, kernel) = parts(w)?;
    if depth.checked_mul(groups) != Some(channels) || groups == 0 || filters % groups != 0 {
        return Err(format!(
            "input {x} has {channels} channels, weights {w} in {groups} groups take {}",
            depth.saturating_mul(groups)
        ));
    }
    let placement = Placement::new(window, kernel, space.len())?;
    let sizes =
        space.iter().enumerate().map(|(at, &size)| placement.slide(at, size, Rounding::Down));
    assemble(batch, filters, sizes)
}

/// Shape of a transposed convolution of `x` by weights `w`.
pub(super) fn transposed(
    x: &Shape,
    w: &Shape,
    window: &Window,
    groups: u64,
    output_padding: &[u64],
    output_shape: &[u64],
) -> Result<Shape, String> {
    let (batch, channels, space) = parts(x)?;
    let (depth, filters, kernel) = parts(w)?;
    if depth != channels {
        return Err(format!("input {x} has {channels} channels, weights {w} take {depth}"));
    }
    let filters = filters.checked_mul(groups).ok_or_else(too_large)?;
    if !output_shape.is_empty() {
        let tail = output_shape.len().checked_sub(space.len());
        let tail = tail.ok_or_else(|| format!("output shape {output_shape:?} for input {x}"))?;
        return assemble(batch, filters, output_shape[tail..].iter().map(|&size| Ok(size)));
    }
    let placement = Placement::new(window, kernel, space.len())?;
    let sizes = space.iter().enumerate().map(|(at, &size)| {
        placement.spread(at, size, output_padding.get(at).copied().unwrap_or(0))
    });
    assemble(batch, filters, sizes)
}

/// Shape of a pooling of `x`.
pub(super) fn pool(x: &Shape, window: &Window, ceil: bool) -> Result<Shape, String> {
    let (batch, channels, space) = parts(x)?;
    let placement = Placement::new(window, &window.kernel, space.len())?;
    let rounding = if ceil { Rounding::Up } else { Rounding::Down };
    let sizes = space.iter().enumerate().map(|(at, &size)| placement.slide(at, size, rounding));
    assemble(batch, channels, sizes)
}

/// Shape of a pooling of `x` over all its space.
pub(super) fn global_pool(x: &Shape) -> Result<Shape, String> {
    let (batch, channels, space) = parts(x)?;
    assemble(batch, channels, space.iter().map(|_| Ok(1)))
}

#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    Down,
    Up,
}

struct Placement<'a> {
    window: &'a Window,
    kernel: &'a [u64],
    rank: usize,
}

impl<'a> Placement<'a> {
    fn new(window: &'a Window, kernel: &'a [u64], rank: usize) -> Result<Self, String> {
        let pads = match &window.padding {
            Padding::Explicit(pads) => pads.len(),
            Padding::Same => 0,
        };
        let fits = |len: usize, full: usize| len == 0 || len == full;
        if kernel.len() != rank
            || !(window.kernel.is_empty() || window.kernel == kernel)
            || !fits(window.strides.len(), rank)
            || !fits(window.dilations.len(), rank)
            || !fits(pads, rank * 2)
        {
            return Err(format!(
                "a kernel of {kernel:?} with {} strides, {} dilations and {pads} pads does not fit \
                 {rank} spatial axes",
                window.strides.len(),
                window.dilations.len(),
            ));
        }
        if window.strides.contains(&0) || kernel.contains(&0) {
            return Err("a kernel or stride of size 0".to_owned());
        }
        Ok(Self { window, kernel, rank })
    }

    fn stride(&self, at: usize) -> u64 {
        self.window.strides.get(at).copied().unwrap_or(1)
    }

    /// Input positions that the kernel covers along an axis.
    fn span(&self, at: usize) -> Option<i128> {
        let dilation = self.window.dilations.get(at).copied().unwrap_or(1);
        dilation.checked_mul(self.kernel[at] - 1)?.checked_add(1).map(i128::from)
    }

    fn pads(&self, at: usize) -> (i128, i128) {
        let pad = |at: usize| match &self.window.padding {
            Padding::Explicit(pads) => pads.get(at).copied().unwrap_or(0).into(),
            Padding::Same => 0,
        };
        (pad(at), pad(self.rank + at))
    }

    fn slide(&self, at: usize, size: u64, rounding: Rounding) -> Result<u64, String> {
        let stride = self.stride(at);
        if self.window.padding == Padding::Same {
            return Ok(size.div_ceil(stride));
        }
        let ((start, end), stride) = (self.pads(at), i128::from(stride));
        let span = self.span(at).ok_or_else(too_large)?;
        let room = i128::from(size) + start + end - span;
        if room < 0 {
            return Err(format!(
                "a kernel spanning {span} on an axis of {size}, padded by {}",
                start + end
            ));
        }
        let result = match rounding {
            Rounding::Down => room / stride + 1,
            // A window that would start in the end padding does not count.
            Rounding::Up => {
                let last_start = (i128::from(size) + start - 1).max(0) / stride;
                ((room + stride - 1) / stride).min(last_start) + 1
            }
        };
        u64::try_from(result).map_err(|_| too_large())
    }

    fn spread(&self, at: usize, size: u64, output_padding: u64) -> Result<u64, String> {
        let stride = self.stride(at);
        if self.window.padding == Padding::Same {
            return size.checked_mul(stride).ok_or_else(too_large);
        }
        let (start, end) = self.pads(at);
        let span = self.span(at).ok_or_else(too_large)?;
        let reach = (i128::from(size) - 1).saturating_mul(stride.into()).saturating_add(span);
        let result = reach.saturating_sub(start + end).saturating_add(output_padding.into());
        u64::try_from(result).map_err(|_| format!("an axis of {size} spreads to {result}"))
    }
}

fn parts(shape: &Shape) -> Result<(u64, u64, &[u64]), String> {
    match &shape.0[..] {
        [first, second, space @ ..] if !space.is_empty() => Ok((*first, *second, space)),
        _ => Err(format!("{shape} has no spatial axes")),
    }
}

fn assemble(
    batch: u64,
    channels: u64,
    space: impl Iterator<Item = Result<u64, String>>,
) -> Result<Shape, String> {
    [Ok(batch), Ok(channels)].into_iter().chain(space).collect::<Result<_, _>>().map(Shape)
}

fn too_large() -> String {
    "sizes beyond 64 bits".to_owned()
}
