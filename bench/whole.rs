//! `whole/zipf`: reads and writes of four callers through RAM, SSD and a backing file; and the same while it is recorded,
//! and while its own simulation watches.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use terrace_bench::is_trial;
use terrace_bench::scenes::whole::{CALLERS, Whole};
use terrace_bench::scenes::{BLOCK_BYTES, temporary_folder};

/// Requests that are timed together, so that starting threads is not measured.
const REQUESTS: usize = 4096;

fn zipf(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole/zipf");
    group.throughput(Throughput::Bytes((REQUESTS * BLOCK_BYTES) as u64));
    group.warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(5)).sample_size(10);
    let folder = temporary_folder();
    let mut whole = Whole::new(folder.path());
    group.bench_function(format!("{CALLERS}_callers"), |bencher| {
        bencher.iter_custom(|rounds| whole.time(REQUESTS * rounds as usize));
    });
    group.bench_function("recorded", |bencher| {
        let path = folder.path().join("record");
        bencher.iter_custom(|rounds| whole.time_recorded(REQUESTS * rounds as usize, &path).0);
    });
    group.bench_function("watched", |bencher| {
        bencher.iter_custom(|rounds| whole.time_watched(REQUESTS * rounds as usize));
    });
    group.finish();
    if !is_trial() {
        print_answers(&whole);
    }
}

#[expect(clippy::print_stdout, reason = "where the answers came from")]
fn print_answers(whole: &Whole) {
    let stats = whole.stats();
    let percent = |part: u64, all: u64| 100.0 * part as f64 / all.max(1) as f64;
    println!(
        "whole/zipf: reads from RAM {:.1} %, SSD {:.1} %, disk {:.1} %; demotions dropped: {}",
        percent(stats.read_ram_hits, stats.reads),
        percent(stats.read_ssd_hits, stats.reads),
        percent(stats.disk_reads, stats.reads),
        stats.demotions_dropped
    );
}

criterion_group!(benches, zipf);
criterion_main!(benches);
