//! `simulate/arc_dense` and `simulate/lru_curve`: references a second on one thread; see `lib.rs` for the goals.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use terrace::simulate::{DenseTrace, LruCurve, arc_misses};
use terrace::tiers::block::BlockId;
use terrace_bench::is_trial;

/// Popular blocks, and scans in between: an eighth of the references are first ones.
fn trace() -> DenseTrace {
    let references = if is_trial() { 1 << 14 } else { 1 << 22 };
    let mut random = fastrand::Rng::with_seed(1);
    let id = |step: u64| {
        if (step / 4096).is_multiple_of(8) {
            (1 << 32) + step
        } else {
            (random.f64().powi(4) * 600_000.0) as u64
        }
    };
    let trace: DenseTrace = (0..references).map(id).map(BlockId::from_u64).collect();
    trace.finished()
}

fn simulate(criterion: &mut Criterion) {
    let trace = trace();
    let mut group = criterion.benchmark_group("simulate");
    group.throughput(Throughput::Elements(trace.references().len() as u64));
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(10);
    for share in [100, 10, 2] {
        let capacity = (trace.unique() / share).max(1);
        group.bench_function(format!("arc_dense/{share}th"), |bencher| {
            bencher.iter(|| arc_misses(trace.references(), trace.unique(), capacity));
        });
    }
    group.bench_function("lru_curve", |bencher| {
        bencher.iter(|| LruCurve::of(trace.references(), trace.unique()).misses(1000));
    });
    group.finish();
}

criterion_group!(benches, simulate);
criterion_main!(benches);
