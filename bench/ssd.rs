//! `ssd/append`, `ssd/read` and `ssd/recover`: see `lib.rs` for the goals.
//!
//! Criterion measures one thing after the other; for the ratios take `ratios.rs`, which measures in turns.

use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use terrace_bench::scenes::append::{Appender, Demotions, source};
use terrace_bench::scenes::read::SsdReads;
use terrace_bench::scenes::recover::{CacheFile, DIRTY_PERCENT, Left};
use terrace_bench::scenes::{BLOCK_BYTES, append_file_bytes, recover_blocks, temporary_folder};

/// Blocks in one append of the tier alone.
const APPENDS: [usize; 3] = [1, 16, 64];
/// Reads that are timed together, so that starting threads is not measured.
const READS: usize = 256;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(10);
    group
}

fn append(criterion: &mut Criterion) {
    let mut group = group(criterion, "ssd/append");
    let (folder, source, bytes) = (temporary_folder(), source(), append_file_bytes());
    let mut cache = Demotions::new(&folder.path().join("cache"), bytes);
    group.throughput(Throughput::Bytes((64 * BLOCK_BYTES) as u64));
    group.bench_function("cache", |bencher| {
        bencher.iter_custom(|rounds| {
            let began = Instant::now();
            cache.append(64 * rounds);
            began.elapsed()
        });
    });
    drop(cache);
    let mut tier = Appender::new(&folder.path().join("tier"), bytes, &source);
    for count in APPENDS {
        let kib = (count * BLOCK_BYTES) >> 10;
        group.throughput(Throughput::Bytes((count * BLOCK_BYTES) as u64));
        group.bench_function(format!("tier_alone_{kib}_kib"), |bencher| bencher.iter(|| tier.append(count)));
        let mut plain = tier.plain();
        group.bench_function(format!("plain_pwritev_{kib}_kib"), |bencher| {
            bencher.iter(|| plain.append(count));
        });
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let mut group = group(criterion, "ssd/read");
    let folder = temporary_folder();
    let reads = SsdReads::new(folder.path());
    group.throughput(Throughput::Bytes((READS * BLOCK_BYTES) as u64));
    for callers in [1, 4, 16] {
        group.bench_function(format!("cache_{callers}_callers"), |bencher| {
            bencher.iter_custom(|rounds| reads.time_cached(callers, READS * rounds as usize));
        });
        group.bench_function(format!("plain_preadv_{callers}_callers"), |bencher| {
            bencher.iter_custom(|rounds| reads.time_plain(callers, READS * rounds as usize));
        });
    }
    group.finish();
}

fn recover(criterion: &mut Criterion) {
    let mut group = group(criterion, "ssd/recover");
    let folder = temporary_folder();
    let file = CacheFile::new(folder.path(), recover_blocks(), DIRTY_PERCENT);
    group.throughput(Throughput::Elements(file.entries));
    group.bench_function(format!("{}_entries", file.entries), |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| file.open(Left::Open).warm).sum());
    });
    group.finish();
}

criterion_group!(benches, append, read, recover);
criterion_main!(benches);
