//! How far off the curves of a thinned trace may be: its samples have curves too, and those differ.
//!
//! Each sample has a quarter of what was kept, as those of the surface have (its head says why), so that their mean varies
//! more than the curve that is shown. A trace that was kept whole has exact curves and no error.

use serde::Serialize;

use super::curves::{CurvePoint, Curves};
use super::load::Recording;
use super::surface::{SALTS, error};
use super::work::Work;

/// Half the width of a 95 % interval for each point of both curves.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct CurveErrors {
    pub(crate) lru: Vec<f64>,
    pub(crate) arc: Vec<f64>,
}

impl CurveErrors {
    /// Of `curves`, which are those of `recording`; none when they are exact.
    pub(super) fn of(curves: &Curves, recording: &Recording, work: &Work) -> Option<Self> {
        if recording.rate == 1.0 {
            return None;
        }
        let sample = |salt| {
            let sample = recording.sampled(1.0 / SALTS as f64, salt);
            let has_blocks = !sample.touches.is_empty();
            has_blocks.then(|| Curves::of(sample.dense(), &sample, work))
        };
        let samples = (1..=SALTS).map(sample).collect::<Option<Vec<Curves>>>()?;
        let errors = |points: &[CurvePoint], of: fn(&Curves) -> &[CurvePoint]| {
            let ratios =
                |at: &CurvePoint| samples.iter().map(|one| ratio(of(one), at.bytes)).collect::<Vec<_>>();
            points.iter().map(|at| error(&ratios(at))).collect()
        };
        let (lru, arc) = (errors(&curves.lru, |one| &one.lru), errors(&curves.arc, |one| &one.arc));
        Some(Self { lru, arc })
    }
}

/// What misses with a cache of `bytes`, between the nearest points of a curve, of which there is one at least.
fn ratio(curve: &[CurvePoint], bytes: u64) -> f64 {
    let next = curve.partition_point(|point| point.bytes < bytes);
    let (before, after) = (&curve[next.saturating_sub(1)], &curve[next.min(curve.len() - 1)]);
    let log = |bytes: u64| (bytes.max(1) as f64).log2();
    let width = log(after.bytes) - log(before.bytes);
    let along = if width > 0.0 { ((log(bytes) - log(before.bytes)) / width).clamp(0.0, 1.0) } else { 0.0 };
    before.miss_ratio + along * (after.miss_ratio - before.miss_ratio)
}

#[cfg(test)]
mod tests {
    use terrace::{BlockId, BlockSize};

    use super::super::load::{Logged, Touch};
    use super::*;

    /// Popular blocks, and scans in between.
    fn recording(seed: u64) -> Recording {
        let mut random = fastrand::Rng::with_seed(seed);
        let touch = |step: u64| {
            let id = if (step / 4000).is_multiple_of(4) {
                100_000 + step
            } else {
                (random.f64().powi(3) * 40_000.0) as u64
            };
            Touch {
                first: BlockId::from_u64(id),
                count: 1,
                is_write: false,
                skipped_pages: [0, 0],
                time_us: step,
            }
        };
        let block_size = BlockSize::new(4096).expect("a good size");
        Recording {
            touches: (0..200_000).map(touch).collect(),
            rate: 1.0,
            block_size,
            logged: Logged::default(),
        }
    }

    #[test]
    fn the_curves_of_a_thinned_trace_are_as_near_to_those_of_the_whole_as_they_say() {
        let (seed, work) = (fastrand::u64(..), Work { is_shown: false });
        let whole = recording(seed);
        let thinned = whole.sampled(0.25, 0);
        let curves = |recording: &Recording| Curves::of(recording.dense(), recording, &work);
        let (exact, near) = (curves(&whole), curves(&thinned));
        assert_eq!(CurveErrors::of(&exact, &whole, &work), None, "there is no error");
        let errors = CurveErrors::of(&near, &thinned, &work).expect("there is one");
        for (points, errors, exact) in
            [(&near.lru, &errors.lru, &exact.lru), (&near.arc, &errors.arc, &exact.arc)]
        {
            assert_eq!(points.len(), errors.len());
            let is_outside = |(point, error): &(&CurvePoint, &f64)| {
                (ratio(exact, point.bytes) - point.miss_ratio).abs() > **error
            };
            let outside = points.iter().zip(errors).filter(is_outside).count();
            assert!(outside <= points.len() / 5, "seed {seed}: {outside} of {} points", points.len());
            assert!(errors.iter().all(|&error| error < 0.1), "seed {seed}: {errors:?}");
        }
    }

    #[test]
    fn between_two_points_a_curve_is_a_line_over_the_logarithm_of_the_size() {
        let point = |bytes: u64, miss_ratio| CurvePoint { blocks: bytes, bytes, miss_ratio };
        let curve = [point(4, 0.8), point(16, 0.4), point(64, 0.3)];
        let found = [1, 4, 8, 16, 32, 64, 1000].map(|bytes| ratio(&curve, bytes));
        for (found, wanted) in found.into_iter().zip([0.8, 0.8, 0.6, 0.4, 0.35, 0.3, 0.3]) {
            assert!((found - wanted).abs() < 1e-12, "{found}, not {wanted}");
        }
        assert_eq!(ratio(&curve[..1], 100), 0.8);
    }
}
