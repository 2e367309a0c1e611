//! Misses of RAM alone, by size: LRU's whole curve, and points of the cache's own policy, both exact.

use serde::Serialize;
use terrace::BlockSize;
use terrace::simulate::{ArcCurve, DenseTrace, LruCurve};

use super::work::Work;

/// Points of each curve.
pub(super) const LRU_POINTS: u32 = 96;
pub(super) const ARC_POINTS: u32 = 24;

/// A size, in blocks and bytes, and the share of all references that miss with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CurvePoint {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    pub(crate) miss_ratio: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Curves {
    pub(crate) lru: Vec<CurvePoint>,
    pub(crate) arc: Vec<CurvePoint>,
    /// Where ARC's curve bends most: a size beyond which more RAM gives less than on the way to it.
    pub(crate) knee: CurvePoint,
    /// First references over all: what no cache answers.
    pub(crate) compulsory_ratio: f64,
    pub(crate) unique_blocks: u64,
}

impl Curves {
    /// Of `trace`, exactly, in blocks of this size. One pass gives its memory back before the other begins.
    pub(super) fn of(trace: DenseTrace, block_size: BlockSize, work: &Work) -> Self {
        let (references, unique) = (trace.references().len() as f64, trace.unique());
        let point = |blocks: u64, misses: u64| {
            let bytes = blocks << block_size.shift();
            CurvePoint { blocks, bytes, miss_ratio: misses as f64 / references }
        };
        let lru = lru_points(&trace, point);
        let curve = ArcCurve::of(trace.into_references(), unique);
        let arc_sizes: Vec<u32> = sizes(unique, ARC_POINTS).rev().collect();
        let run = |&blocks: &u32, done: &dyn Fn(u64)| {
            let misses = curve.misses(blocks);
            done(1);
            point(blocks.into(), misses)
        };
        let mut arc = work.share("curves", &arc_sizes, |_| 1, run);
        arc.reverse();
        Self {
            lru,
            knee: knee(&arc),
            arc,
            compulsory_ratio: f64::from(unique) / references,
            unique_blocks: unique.into(),
        }
    }
}

fn lru_points(trace: &DenseTrace, point: impl Fn(u64, u64) -> CurvePoint) -> Vec<CurvePoint> {
    let curve = LruCurve::of(trace.references(), trace.unique());
    let at = |blocks: u32| point(blocks.into(), curve.misses(blocks.into()));
    sizes(trace.unique(), LRU_POINTS).map(at).collect()
}

/// Evenly spaced on a logarithmic scale from 1/4096 of `unique` to all of it, each once.
pub(super) fn sizes(unique: u32, count: u32) -> impl DoubleEndedIterator<Item = u32> {
    let size = move |step: u32| {
        let exponent = -12.0 * (1.0 - f64::from(step) / f64::from(count - 1));
        ((f64::from(unique) * exponent.exp2()).round() as u32).max(1)
    };
    let mut sizes: Vec<u32> = (0..count).map(size).collect();
    sizes.dedup();
    sizes.into_iter()
}

/// The point farthest below the straight line from the first to the last (Satopaa, Albrecht, Irwin and Raghavan, "Finding
/// a 'kneedle' in a haystack", ICDCS workshops 2011), on linear axes: what a byte more brings.
pub(super) fn knee(points: &[CurvePoint]) -> CurvePoint {
    let (first, last) = (points[0], points[points.len() - 1]);
    let width = (last.blocks as f64 - first.blocks as f64).max(1.0);
    let below = |point: &CurvePoint| {
        let along = (point.blocks as f64 - first.blocks as f64) / width;
        first.miss_ratio + along * (last.miss_ratio - first.miss_ratio) - point.miss_ratio
    };
    *points.iter().max_by(|one, other| below(one).total_cmp(&below(other))).unwrap_or(&first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::oracle_tests::{CLOUD, CLOUD_IDS, LIRS, MSR, OLTP, P3, P12, dense, points, traces};

    #[test]
    fn arcs_curve_misses_as_often_as_published_to_the_miss() {
        let Some(directory) = traces() else { return };
        for case in [OLTP, P3, P12, CLOUD, CLOUD_IDS].into_iter().chain(LIRS).chain(MSR) {
            let trace = dense(&directory, case);
            let unique = trace.unique();
            let curve = ArcCurve::of(trace.into_references(), unique);
            for point in points(&directory, case.name, "ARC") {
                let found = curve.misses(point.blocks as u32);
                assert_eq!(found, point.misses, "misses of {} with {} blocks", case.name, point.blocks);
            }
        }
    }

    fn curve(ratios: &[f64]) -> Vec<CurvePoint> {
        let point = |(at, &miss_ratio): (usize, &f64)| {
            let blocks = 10 * (at as u64 + 1);
            CurvePoint { blocks, bytes: blocks * 4096, miss_ratio }
        };
        ratios.iter().enumerate().map(point).collect()
    }

    #[test]
    fn the_knee_is_where_the_curve_turns() {
        assert_eq!(knee(&curve(&[0.9, 0.5, 0.2, 0.18, 0.17, 0.16])).blocks, 30);
        assert_eq!(knee(&curve(&[1.0, 1.0, 1.0, 0.2, 0.15])).blocks, 40, "a cliff is one too");
        assert_eq!(knee(&curve(&[0.5])).blocks, 10);
    }

    #[test]
    fn sizes_rise_from_one_block_to_all_of_them() {
        for unique in [1, 2, 100, 1 << 20] {
            let sizes: Vec<u32> = sizes(unique, 24).collect();
            assert!(sizes.is_sorted() && sizes[0] >= 1 && sizes[sizes.len() - 1] == unique, "{sizes:?}");
        }
    }
}
