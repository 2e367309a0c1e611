//! Curves of a trace that is not kept: the mean of those of its samples, and how far off that may be, which is what samples
//! that share no block tell by how they differ.
//!
//! As for the surface there are two fair estimates of what misses, and of both the one whose samples agree better: the
//! sample's own share, or its misses over the references that it should have.

use serde::Serialize;
use terrace::simulate::StackDistances;
use terrace::tiers::ram::arc_policy::{Access, ArcPolicy, DenseLists};
use terrace::{BlockId, BlockSize};

use super::curves::{ARC_POINTS, CurvePoint, Curves, LRU_POINTS, knee, sizes};
use super::load::Survey;
use super::surface::{deviation, error, mean};

/// Half the width of a 95 % interval for each point of both curves.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct CurveErrors {
    pub(crate) lru: Vec<f64>,
    pub(crate) arc: Vec<f64>,
}

/// Counts what one sample misses, in every size at once.
pub(super) struct SampleCurve {
    references: u64,
    stack: StackDistances,
    /// References by the depth at which LRU's stack has their block.
    depths: Vec<u64>,
    /// Sizes, and what has missed with them.
    arcs: Vec<(ArcPolicy<DenseLists>, u64)>,
}

impl SampleCurve {
    /// Of a sample that has the share `rate` of the blocks of `survey`; they have numbers below `numbers`.
    pub(super) fn new(survey: &Survey, rate: f64, numbers: u32) -> Self {
        let arc = |size| (ArcPolicy::dense(size, numbers), 0);
        Self {
            references: 0,
            stack: StackDistances::new(numbers),
            depths: vec![0; numbers as usize + 1],
            arcs: sizes(blocks_of(survey, rate), ARC_POINTS).map(arc).collect(),
        }
    }

    pub(super) fn advance(&mut self, blocks: &[u32]) {
        self.references += blocks.len() as u64;
        for &block in blocks {
            if let Some(depth) = self.stack.reference(block) {
                self.depths[depth as usize] += 1;
            }
        }
        for (arc, misses) in &mut self.arcs {
            let is_miss = |&&block: &&u32| {
                !matches!(arc.reference(BlockId::from_u64(u64::from(block))), Access::Hit(_))
            };
            *misses += blocks.iter().filter(is_miss).count() as u64;
        }
    }

    fn lru_misses(&self, size: u32) -> u64 {
        self.references - self.depths[1..].iter().take(size as usize).sum::<u64>()
    }
}

/// How many blocks a sample should have.
fn blocks_of(survey: &Survey, rate: f64) -> u32 {
    ((survey.blocks as f64 * rate).round() as u32).max(1)
}

/// The curves that `samples` tell of, each of them of a share `rate` of the trace; and how far off they are, if there are
/// several.
pub(super) fn combine(
    samples: &[SampleCurve],
    survey: &Survey,
    rate: f64,
    block_size: BlockSize,
) -> (Curves, Option<CurveErrors>) {
    let blocks = blocks_of(survey, rate);
    let lru_sizes: Vec<u32> = sizes(blocks, LRU_POINTS).collect();
    let misses = |of: &dyn Fn(&SampleCurve) -> u64| samples.iter().map(of).collect::<Vec<u64>>();
    let lru = lru_sizes.iter().map(|&size| (size, misses(&|sample| sample.lru_misses(size))));
    let arc = sizes(blocks, ARC_POINTS).enumerate();
    let arc = arc.map(|(number, size)| (size, misses(&|sample| sample.arcs[number].1)));
    let points: Vec<(u32, Vec<u64>)> = lru.chain(arc).collect();

    let wanted = survey.references as f64 * rate;
    let estimate = |misses: &[u64], adjusted: bool| -> Vec<f64> {
        let own = |sample: &SampleCurve| sample.references.max(1) as f64;
        let shares = misses.iter().zip(samples);
        shares.map(|(&misses, sample)| misses as f64 / if adjusted { wanted } else { own(sample) }).collect()
    };
    let spread =
        |adjusted| points.iter().map(|(_, misses)| deviation(&estimate(misses, adjusted))).sum::<f64>();
    let adjusted = samples.len() > 1 && spread(true) < spread(false);

    let point = |(size, misses): &(u32, Vec<u64>)| {
        let blocks = (f64::from(*size) / rate).round() as u64;
        let ratios = estimate(misses, adjusted);
        let miss_ratio = mean(&ratios).clamp(0.0, 1.0);
        (CurvePoint { blocks, bytes: blocks << block_size.shift(), miss_ratio }, error(&ratios))
    };
    let (mut lru, mut lru_errors): (Vec<CurvePoint>, Vec<f64>) = points.iter().map(point).unzip();
    let (arc, arc_errors) = (lru.split_off(lru_sizes.len()), lru_errors.split_off(lru_sizes.len()));
    let curves = Curves {
        lru,
        knee: knee(&arc),
        arc,
        compulsory_ratio: survey.blocks as f64 / survey.references.max(1) as f64,
        unique_blocks: survey.blocks,
    };
    (curves, (samples.len() > 1).then_some(CurveErrors { lru: lru_errors, arc: arc_errors }))
}

#[cfg(test)]
mod tests {
    use terrace::simulate::DenseTrace;

    use super::super::load::Parts;
    use super::super::surface::SAMPLES;
    use super::super::work::Work;
    use super::*;

    /// What misses with a cache of `bytes`, between the nearest points of a curve, on a line over the logarithm of the size.
    fn ratio(curve: &[CurvePoint], bytes: u64) -> f64 {
        let next = curve.partition_point(|point| point.bytes < bytes);
        let (before, after) = (&curve[next.saturating_sub(1)], &curve[next.min(curve.len() - 1)]);
        let log = |bytes: u64| (bytes.max(1) as f64).log2();
        let width = log(after.bytes) - log(before.bytes);
        let along =
            if width > 0.0 { ((log(bytes) - log(before.bytes)) / width).clamp(0.0, 1.0) } else { 0.0 };
        before.miss_ratio + along * (after.miss_ratio - before.miss_ratio)
    }

    /// Popular blocks, and scans in between.
    fn trace(seed: u64) -> DenseTrace {
        let mut random = fastrand::Rng::with_seed(seed);
        let id = |step: u64| {
            if (step / 4000).is_multiple_of(4) {
                100_000 + step
            } else {
                (random.f64().powi(3) * 40_000.0) as u64
            }
        };
        (0..200_000).map(id).map(BlockId::from_u64).collect()
    }

    /// The curves of `count` samples of a share `rate` each.
    fn sampled(trace: &DenseTrace, count: u64, rate: f64) -> (Curves, Option<CurveErrors>) {
        let block_size = BlockSize::new(4096).expect("a good size");
        let (references, blocks) = (trace.references().len() as u64, trace.unique().into());
        let survey = Survey { references, blocks, ..Survey::default() };
        let parts = Parts::new(count, rate, 1);
        let mut curves: Vec<SampleCurve> =
            (0..count).map(|_| SampleCurve::new(&survey, rate, trace.unique())).collect();
        // In pieces: nothing may hang on where one ends.
        for chunk in trace.references().chunks(7919) {
            for (number, curve) in curves.iter_mut().enumerate() {
                let is_in = |&block: &u32| parts.part_of(trace.block(block)) == Some(number);
                curve.advance(&chunk.iter().copied().filter(is_in).collect::<Vec<u32>>());
            }
        }
        combine(&curves, &survey, rate, block_size)
    }

    #[test]
    fn one_sample_of_all_blocks_has_the_curves_of_the_whole_and_no_error() {
        let trace = trace(1);
        let (curves, errors) = sampled(&trace, 1, 1.0);
        let block_size = BlockSize::new(4096).expect("a good size");
        let exact = Curves::of(trace, block_size, &Work { is_shown: false });
        assert_eq!((curves.lru, curves.arc), (exact.lru, exact.arc));
        assert_eq!((curves.knee, curves.unique_blocks), (exact.knee, exact.unique_blocks));
        assert_eq!(errors, None);
    }

    #[test]
    fn the_curves_of_samples_are_as_near_to_those_of_the_whole_as_they_say() {
        let seed = fastrand::u64(..);
        let trace = trace(seed);
        let (near, errors) = sampled(&trace, SAMPLES, 0.2);
        let errors = errors.expect("there are several samples");
        let exact = Curves::of(trace, BlockSize::new(4096).expect("a good size"), &Work { is_shown: false });
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
}
