//! The hypervolume of points of three objectives to minimise: how much of a box they dominate.
//!
//! Exact, by sweeping the third objective and keeping the staircase that the first two have made so
//! far (Fonseca, Paquete and López-Ibáñez, "An improved dimension-sweep algorithm for the
//! hypervolume indicator", CEC 2006, in three dimensions). O(points^2) at worst.

/// Three objectives, each smaller is better.
pub type Point = [u64; 3];

/// Whether the first is at least as good in everything.
pub fn covers(a: &Point, b: &Point) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b)
}

/// The points that no other covers, in ascending order; of equals one.
pub fn front(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_unstable();
    points.dedup();
    let mut kept: Vec<Point> = Vec::new();
    for point in points {
        // Whatever covers a point precedes it.
        if !kept.iter().any(|k| covers(k, &point)) {
            kept.push(point);
        }
    }
    kept
}

/// The box that all of these points span: its best and its worst corner.
pub fn corners<'a>(points: impl IntoIterator<Item = &'a Point>) -> Option<(Point, Point)> {
    let mut points = points.into_iter();
    let first = *points.next()?;
    Some(points.fold((first, first), |(best, worst), point| {
        let each = [0, 1, 2];
        (each.map(|i| best[i].min(point[i])), each.map(|i| worst[i].max(point[i])))
    }))
}

/// The share of the box between two corners that the points dominate. Where the corners agree in an
/// objective, it does not count.
pub fn share(points: &[Point], best: &Point, worst: &Point) -> f64 {
    let scaled = |point: &Point| {
        [0, 1, 2].map(|i| match worst[i].saturating_sub(best[i]) {
            0 => 0.0,
            range => point[i].saturating_sub(best[i]) as f64 / range as f64,
        })
    };
    let inside = |point: &&Point| covers(point, worst);
    let mut points: Vec<[f64; 3]> = points.iter().filter(inside).map(scaled).collect();
    points.sort_by(|a, b| a[2].total_cmp(&b[2]).then(a[0].total_cmp(&b[0])));
    // Ascending in the first, descending in the second objective.
    let mut stairs: Vec<(f64, f64)> = Vec::new();
    let (mut volume, mut area, mut height) = (0.0, 0.0, 0.0);
    for [x, y, z] in points {
        volume += area * (z - height);
        height = z;
        let at = stairs.partition_point(|stair| stair.0 < x);
        let covered = stairs[..at].last().is_some_and(|stair| stair.1 <= y)
            || stairs.get(at).is_some_and(|stair| stair.0 == x && stair.1 <= y);
        if covered {
            continue;
        }
        let until = at + stairs[at..].iter().take_while(|stair| stair.1 >= y).count();
        // What the new step adds: a strip for each step that it passes, down from the old stairs.
        let mut ceiling = stairs[..at].last().map_or(1.0, |stair| stair.1);
        let mut left = x;
        for stair in &stairs[at..until] {
            area += (stair.0 - left) * (ceiling - y);
            (left, ceiling) = (stair.0, stair.1);
        }
        let right = stairs.get(until).map_or(1.0, |stair| stair.0);
        area += (right - left) * (ceiling - y);
        stairs.splice(at..until, [(x, y)]);
    }
    volume + area * (1.0 - height)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by counting cells.
    fn counted(points: &[Point], side: u64) -> f64 {
        let mut cells = 0;
        for x in 0..side {
            for y in 0..side {
                for z in 0..side {
                    cells += u64::from(points.iter().any(|p| covers(p, &[x, y, z])));
                }
            }
        }
        cells as f64 / (side * side * side) as f64
    }

    #[test]
    fn the_sweep_counts_the_cells_that_points_dominate() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for count in [0, 1, 2, 3, 10, 40] {
            for _ in 0..30 {
                let points: Vec<Point> =
                    (0..count).map(|_| [random(9), random(9), random(9)]).collect();
                let (all, kept) = (counted(&points, 8), front(points.clone()));
                let found = [&points, &kept].map(|points| share(points, &[0; 3], &[8; 3]));
                assert!((found[0] - all).abs() < 1e-9, "{points:?}: {} for {all}", found[0]);
                assert!((found[1] - all).abs() < 1e-9, "{kept:?}: {} for {all}", found[1]);
            }
        }
    }

    #[test]
    fn a_front_holds_what_nothing_covers() {
        let points = vec![[3, 1, 1], [1, 3, 1], [3, 3, 1], [1, 3, 1], [1, 3, 0]];
        assert_eq!(front(points), [[1, 3, 0], [3, 1, 1]]);
    }
}
