//! `ram/hit` and `ram/insert_evict`: see `lib.rs` for the goals.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use terrace::WriteMode;
use terrace_bench::scenes::BLOCK_BYTES;
use terrace_bench::scenes::ram::{Directory, Inserts, block_at, resident, resident_policy, zipf_offsets};

/// Blocks of the tier that is inserted into: 256 MiB, beyond every cache of the processor.
const INSERT_BLOCKS: u32 = 16 << 10;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(30);
    group
}

fn hit(criterion: &mut Criterion) {
    let mut group = group(criterion, "ram/hit");
    let offsets = zipf_offsets();
    let (_cache, volume) = resident();
    let mut requests = offsets.iter().cycle();
    group.bench_function("by_reference", |bencher| {
        bencher.iter(|| volume.read_ref(*requests.next().expect("endless"), BLOCK_BYTES));
    });
    let mut buffer = vec![0; BLOCK_BYTES];
    group.bench_function("copied_out", |bencher| {
        bencher.iter(|| {
            let answer = volume.read(*requests.next().expect("endless"), &mut buffer);
            black_box(&mut buffer);
            answer
        });
    });
    drop(volume);
    let mut policy = resident_policy();
    group.bench_function("policy_alone", |bencher| {
        bencher.iter(|| policy.request(block_at(*requests.next().expect("endless")), |_| true));
    });
    group.finish();
}

fn insert_evict(criterion: &mut Criterion) {
    let mut group = group(criterion, "ram/insert_evict");
    let mut directory = Directory::new(INSERT_BLOCKS);
    group.bench_function("directory_and_frames", |bencher| bencher.iter(|| directory.insert(false)));
    group.bench_function("directory_and_frames_copied_in", |bencher| bencher.iter(|| directory.insert(true)));
    drop(directory);
    let mut inserts = Inserts::new(INSERT_BLOCKS, WriteMode::Back);
    group.bench_function("read", |bencher| bencher.iter(|| inserts.read()));
    group.bench_function("write_back", |bencher| bencher.iter(|| inserts.write()));
    group.finish();
}

criterion_group!(benches, hit, insert_evict);
criterion_main!(benches);
