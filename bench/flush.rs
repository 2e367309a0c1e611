//! `flush/back_ssd`: see `lib.rs` for the goals.
//!
//! Criterion measures one thing after the other; for the ratios take `ratios.rs`, which measures in turns.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use terrace_bench::scenes::flush::{Destage, Flushes, Places, WRITE_BYTES};
use terrace_bench::scenes::temporary_folder;

/// Threads that flush together, each its own writes.
const CALLERS: usize = 8;
/// Flushes that are timed together, so that starting threads is not measured.
const FLUSHES: usize = 256;

fn back_ssd(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flush/back_ssd");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(20);
    for (name, block_bytes) in
        [("4_kib", 4 << 10), ("16_kib", 16 << 10), ("64_kib", 64 << 10), ("1_mib", 1 << 20)]
    {
        let folder = temporary_folder();
        let flushes = Flushes::new(folder.path(), block_bytes, Places::Apart, Destage::Beside);
        group.throughput(Throughput::Bytes(WRITE_BYTES as u64));
        group.bench_function(format!("blocks_of_{name}"), |bencher| bencher.iter(|| flushes.flush()));
        group.bench_function(format!("plain_beside_{name}"), |bencher| bencher.iter(|| flushes.plain()));
        group.throughput(Throughput::Bytes((FLUSHES * WRITE_BYTES) as u64));
        group.bench_function(format!("blocks_of_{name}_{CALLERS}_callers"), |bencher| {
            bencher.iter_custom(|rounds| flushes.time_flushes(CALLERS, FLUSHES * rounds as usize));
        });
    }
    group.finish();
}

criterion_group!(benches, back_ssd);
criterion_main!(benches);
