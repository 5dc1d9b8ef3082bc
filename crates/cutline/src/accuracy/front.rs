//! Which cells no other is better than in everything, and which of those the pictures do not tell
//! apart.

use cutline_core::agreement::Paired;
use serde::Serialize;

/// What cells are compared by. Less is better of everything but `right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// Pictures that it is right about, of the same number for all.
    pub(super) right: u64,
    /// Costs: latency and money, or bytes.
    pub(super) costs: [u64; 2],
}

impl Point {
    /// Whether it is at least as good in everything, and better in something.
    fn dominates(self, other: Self) -> bool {
        let [a, b] = [self.costs, other.costs];
        self != other && self.right >= other.right && a[0] <= b[0] && a[1] <= b[1]
    }
}

/// Positions of the points that no other dominates; of equal ones, all. O(n^2).
pub(super) fn front(points: &[Option<Point>]) -> Vec<usize> {
    let known = || points.iter().flatten();
    let is_on = |point: &Point| !known().any(|other| other.dominates(*point));
    let places = points.iter().enumerate();
    places.filter(|(_, point)| point.as_ref().is_some_and(is_on)).map(|(at, _)| at).collect()
}

/// A yes or no for each picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(Vec<u64>);

impl Marks {
    pub(super) fn set(&mut self, at: usize) {
        let word = at / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (at % 64);
    }

    /// How often exactly one of both has a yes.
    pub(super) fn paired(&self, other: &Self) -> Paired {
        let words = self.0.len().max(other.0.len());
        let word = |marks: &Self, at: usize| marks.0.get(at).copied().unwrap_or(0);
        let count = |first: &Self, second: &Self| -> u64 {
            (0..words).map(|at| u64::from((word(first, at) & !word(second, at)).count_ones())).sum()
        };
        Paired { only_first: count(self, other), only_second: count(other, self) }
    }
}

/// Two members of the front whose difference may be chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Alike {
    /// Positions of their cells.
    pub(crate) cells: [usize; 2],
    #[serde(flatten)]
    pub(crate) pictures: Paired,
    /// McNemar's exact test, two-sided.
    pub(crate) chance: f64,
}

/// The pairs of members that the pictures do not tell apart. O(members^2 x pictures / 64).
pub(super) fn alike(members: &[usize], marks: &[Marks]) -> Vec<Alike> {
    let mut found = Vec::new();
    for (position, &first) in members.iter().enumerate() {
        for &second in &members[position + 1..] {
            let pictures = marks[first].paired(&marks[second]);
            if !pictures.differ() {
                found.push(Alike { cells: [first, second], pictures, chance: pictures.chance() });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(right: u64, latency: u64, money: u64) -> Option<Point> {
        Some(Point { right, costs: [latency, money] })
    }

    #[test]
    fn the_front_holds_what_nothing_else_dominates() {
        let points = [
            point(90, 10, 5),
            point(90, 11, 5), // slower than the first
            point(80, 5, 5),
            point(80, 9, 4),
            None,
            point(90, 10, 5), // equal to the first
            point(79, 5, 5),  // less right than the third
            point(95, 90, 90),
        ];
        assert_eq!(front(&points), [0, 2, 3, 5, 7]);
        assert!(front(&[]).is_empty());
    }

    #[test]
    fn cells_are_alike_unless_enough_pictures_tell_them_apart() {
        let marks = |ones: &[usize]| {
            let mut marks = Marks::default();
            ones.iter().for_each(|&at| marks.set(at));
            marks
        };
        let first = marks(&[0, 1, 2, 70, 71, 130]);
        let second = marks(&[0, 1, 2, 70, 71, 130, 140]);
        let third = marks(&[0]);
        let far: Vec<usize> = (0..200).collect();
        let all = [first, second, third, marks(&far)];
        assert_eq!(all[0].paired(&all[1]), Paired { only_first: 0, only_second: 1 });
        let pairs: Vec<_> = alike(&[0, 1, 2, 3], &all).iter().map(|pair| pair.cells).collect();
        // Five pictures all on one side happen by chance once in sixteen times, six once in 32.
        assert_eq!(pairs, [[0, 1], [0, 2]]);
    }
}
