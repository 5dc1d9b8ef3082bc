//! Padding: ONNX says how much there is at each edge, TFLite that a map keeps its size ("same") or that
//! there is none ("valid"). What is neither gets an operator of its own.

use super::super::schema::tflite::Padding;

/// A kernel's way over a map: rows, then columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) kernel: [i64; 2],
    pub(super) strides: [i64; 2],
    pub(super) dilations: [i64; 2],
    /// Before rows, before columns, behind rows, behind columns.
    pub(super) pads: [i64; 4],
}

impl Window {
    pub(super) fn is_padded(&self) -> bool {
        self.pads != [0; 4]
    }

    /// How the format calls this padding over a map of so many rows and columns, where it does.
    pub(super) fn padding(&self, map: [i64; 2]) -> Option<Padding> {
        if !self.is_padded() {
            return Some(Padding::Valid);
        }
        let same = (0..2).all(|axis| {
            let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            let steps = map[axis].div_euclid(self.strides[axis])
                + i64::from(map[axis].rem_euclid(self.strides[axis]) > 0);
            let all = ((steps - 1) * self.strides[axis] + reach - map[axis]).max(0);
            [self.pads[axis], self.pads[axis + 2]] == [all / 2, all - all / 2]
        });
        same.then_some(Padding::Same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_that_keeps_the_size_is_same_and_none_is_valid() {
        let window = |kernel, stride, pads| Window {
            kernel: [kernel; 2],
            strides: [stride; 2],
            dilations: [1; 2],
            pads,
        };
        for (window, map, expected) in [
            (window(3, 1, [0; 4]), 10, Some(Padding::Valid)),
            (window(3, 1, [1; 4]), 10, Some(Padding::Same)),
            (window(5, 1, [2; 4]), 7, Some(Padding::Same)),
            (window(3, 1, [2; 4]), 10, None),
            // Over an even map a stride of two leaves one row, behind.
            (window(3, 2, [1; 4]), 224, None),
            (window(3, 2, [0, 0, 1, 1]), 224, Some(Padding::Same)),
            (window(3, 2, [1; 4]), 225, Some(Padding::Same)),
            (window(1, 2, [0; 4]), 8, Some(Padding::Valid)),
        ] {
            assert_eq!(window.padding([map, map]), expected, "{window:?} over {map}");
        }
        let dilated = Window { dilations: [2; 2], ..window(3, 1, [2; 4]) };
        assert_eq!(dilated.padding([10, 10]), Some(Padding::Same));
    }
}
