//! The order of a tensor's axes inside the converted network.

/// How a value stores its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As the file says.
    Plain,
    /// Four axes, NHWC in the file, as NCHW.
    Nchw,
    /// A matrix of rows of `height * width * channels` in the file, each row in the order of
    /// channels, rows, columns: what a flattened NCHW value is.
    Flat,
}

/// Axis of the file that stands at each place of an NCHW value.
pub(super) const TO_NCHW: [usize; 4] = [0, 3, 1, 2];
/// Place in an NCHW value of each axis of the file.
pub(super) const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

impl Layout {
    /// Where an axis of the file stands in this layout.
    pub(super) fn place(self, axis: usize) -> usize {
        match self {
            Self::Nchw => TO_NHWC.get(axis).copied().unwrap_or(axis),
            Self::Plain | Self::Flat => axis,
        }
    }

    /// What belongs to the axes of the file, in the order of this layout.
    pub(super) fn arrange<T: Clone>(self, of_axes: &[T]) -> Vec<T> {
        match self {
            Self::Nchw if of_axes.len() == 4 => permuted(of_axes, &TO_NCHW),
            _ => of_axes.to_vec(),
        }
    }
}

/// The entries at the given places.
pub(super) fn permuted<T: Clone>(entries: &[T], order: &[usize]) -> Vec<T> {
    order.iter().filter_map(|&at| entries.get(at).cloned()).collect()
}

/// Whether a permutation leaves all elements where they are: the axes with several elements keep
/// their order.
pub(super) fn keeps_order(shape: &[i64], order: &[usize]) -> bool {
    let moved: Vec<usize> =
        order.iter().copied().filter(|&axis| shape.get(axis).is_some_and(|&n| n != 1)).collect();
    moved.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_rename_axes() {
        assert_eq!(Layout::Nchw.arrange(&[1, 5, 6, 3]), [1, 3, 5, 6]);
        assert_eq!((0..4).map(|axis| Layout::Nchw.place(axis)).collect::<Vec<_>>(), [0, 2, 3, 1]);
        assert_eq!(Layout::Plain.arrange(&[1, 5, 6, 3]), [1, 5, 6, 3]);
    }

    #[test]
    fn a_transpose_of_single_pixels_or_single_channels_moves_nothing() {
        assert!(keeps_order(&[1, 1, 1, 64], &TO_NCHW));
        assert!(keeps_order(&[2, 28, 28, 1], &TO_NCHW));
        assert!(keeps_order(&[1, 1, 1, 64], &TO_NHWC));
        assert!(!keeps_order(&[1, 2, 1, 64], &TO_NCHW));
    }
}
