//! Misses of RAM alone, by size: LRU's whole curve, and points of the cache's own policy, both exact.

use serde::Serialize;
use terrace::simulate::{DenseTrace, LruCurve, arc_misses};

use super::load::Recording;
use super::work::Work;

/// Points of each curve.
const LRU_POINTS: u32 = 96;
const ARC_POINTS: u32 = 24;

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
    /// Of the blocks of `trace`, which are those of `recording`.
    pub(super) fn of(trace: &DenseTrace, recording: &Recording, work: &Work) -> Self {
        let references = trace.references().len() as f64;
        let point = |blocks: u64, misses: u64| {
            let blocks = (blocks as f64 / recording.rate).round() as u64;
            let bytes = blocks << recording.block_size.shift();
            CurvePoint { blocks, bytes, miss_ratio: misses as f64 / references }
        };
        let lru = LruCurve::of(trace.references(), trace.unique());
        let lru =
            sizes(trace.unique(), LRU_POINTS).map(|blocks| point(blocks.into(), lru.misses(blocks.into())));
        // The largest caches touch the most memory and take longest.
        let arc_sizes: Vec<u32> = sizes(trace.unique(), ARC_POINTS).rev().collect();
        let run = |&blocks: &u32, done: &dyn Fn(u64)| {
            let misses = arc_misses(trace.references(), trace.unique(), blocks);
            done(1);
            point(blocks.into(), misses)
        };
        let mut arc = work.share("curves", &arc_sizes, |_| 1, run);
        arc.reverse();
        Self {
            lru: lru.collect(),
            knee: knee(&arc),
            arc,
            compulsory_ratio: f64::from(trace.unique()) / references,
            unique_blocks: (f64::from(trace.unique()) / recording.rate).round() as u64,
        }
    }
}

/// Evenly spaced on a logarithmic scale from 1/4096 of `unique` to all of it, each once.
fn sizes(unique: u32, count: u32) -> impl DoubleEndedIterator<Item = u32> {
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
fn knee(points: &[CurvePoint]) -> CurvePoint {
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
