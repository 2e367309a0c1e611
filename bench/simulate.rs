//! `parse`, `simulate/arc_*` and `simulate/lru_curve`: text and references a second of one processor; and `sweep`, a
//! recorded trace from its file to ARC's misses at 64 sizes, on all processors. See `lib.rs` for the goals.
//!
//! `simulate/arc_*` are runs of one size each over references as `ArcCurve` has them, `arc_dense` of a made trace and the
//! others of recorded ones; `simulate/arc_curve` is what brings them there, once for all sizes.
//!
//! All times but those of `sweep`, which has both, are time on a processor and not by the clock. Recorded traces are looked
//! for where `TERRACE_TRACES` says, else beside the workspace; without them they and `sweep` are left out.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use terrace::simulate::{ArcCurve, DenseTrace, LruCurve};
use terrace::tiers::block::BlockId;
use terrace_bench::is_trial;
use terrace_bench::processor::time_on_processor;
use terrace_tools::bench::{count_requests, dense_ids};

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

/// Lines of a format as its recordings have them, by number and by where the request is.
type Line = fn(&mut String, u64, u64) -> std::fmt::Result;

const TEXTS: [(&str, &str, Line); 6] = [
    ("arc", "", |text, number, place| writeln!(text, "{} {} 0 {number}", place >> 20, 1 + place % 64)),
    ("ids", "", |text, _, place| writeln!(text, "{}", place >> 16)),
    ("msr", "", |text, number, place| {
        let (time, offset) = (128_166_386_787_582_087 + number * 5000, place >> 8 << 9);
        writeln!(text, "{time},mds,{},Read,{offset},4608,{}", place % 2, 1000 + place % 5000)
    }),
    ("alibaba", "", |text, number, place| {
        writeln!(text, "{},W,{},4096,{}", place % 100, place >> 8 << 9, 1_577_808_000_000_046 + number)
    }),
    ("spc", "", |text, number, place| {
        let (seconds, micros) = (number / 1_000_000, number % 1_000_000);
        writeln!(text, "{},{},8192,W,{seconds}.{micros:06}", place % 3, place >> 18)
    }),
    ("csv", "version,time,op,size,lbn\n", |text, number, place| {
        writeln!(text, "1,{},2a,{},{}", 5_633_898 + number / 100, 512 * (1 + place % 64), place >> 16)
    }),
];

fn parse(criterion: &mut Criterion) {
    let bytes = if is_trial() { 1 << 14 } else { 16 << 20 };
    let mut group = criterion.benchmark_group("parse");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(10);
    for (format, heading, line) in TEXTS {
        let (mut random, mut text, mut lines) = (fastrand::Rng::with_seed(1), heading.to_string(), 0);
        while text.len() < bytes {
            line(&mut text, lines, random.u64(..1 << 42)).expect("a string takes everything");
            lines += 1;
        }
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format, |bencher| {
            let read = || assert_eq!(count_requests(format, text.as_bytes()), lines);
            bencher.iter_custom(|times| time_on_processor(times, read));
        });
    }
    group.finish();
}

/// What recorded traces are called here, and their files.
const RECORDED: [(&str, &str); 2] = [("P12", "arc/P12.lis.zst"), ("P3", "arc/P3.lis.zst")];

fn simulate(criterion: &mut Criterion) {
    let trace = trace();
    let mut group = criterion.benchmark_group("simulate");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(10);
    arc(&mut group, "dense", &trace);
    for (name, file) in RECORDED {
        if let Some(path) = recorded(file) {
            arc(&mut group, name, &dense_ids(&path));
        }
    }
    group.throughput(Throughput::Elements(trace.references().len() as u64));
    group.bench_function("arc_curve", |bencher| {
        let run = || _ = black_box(ArcCurve::of(trace.references().to_vec(), trace.unique()));
        bencher.iter_custom(|times| time_on_processor(times, run));
    });
    group.bench_function("lru_curve", |bencher| {
        let run = || _ = black_box(LruCurve::of(trace.references(), trace.unique()).misses(1000));
        bencher.iter_custom(|times| time_on_processor(times, run));
    });
    group.finish();
}

fn arc(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, trace: &DenseTrace) {
    group.throughput(Throughput::Elements(trace.references().len() as u64));
    let curve = ArcCurve::of(trace.references().to_vec(), trace.unique());
    for share in [100, 10, 2] {
        let capacity = (trace.unique() / share).max(1);
        group.bench_function(format!("arc_{name}/{share}th"), |bencher| {
            let run = || _ = black_box(curve.misses(capacity));
            bencher.iter_custom(|times| time_on_processor(times, run));
        });
    }
}

/// The sizes of a sweep, from 1/4096 of all blocks to all of them, the largest first: it takes longest.
fn sweep_sizes(unique: u32) -> Vec<u32> {
    let count = if is_trial() { 2 } else { 64 };
    let size = |step: u32| f64::from(unique) * (-12.0 * f64::from(step) / f64::from(count - 1)).exp2();
    (0..count).map(|step| (size(step) as u32).max(1)).collect()
}

/// ARC's misses at all sizes: a thread for each processor takes one after another.
fn sweep(trace: DenseTrace) -> u64 {
    let (sizes, next) = (sweep_sizes(trace.unique()), AtomicUsize::new(0));
    let unique = trace.unique();
    let curve = ArcCurve::of(trace.into_references(), unique);
    let work = || {
        let mut misses = 0;
        while let Some(&size) = sizes.get(next.fetch_add(1, Ordering::Relaxed)) {
            misses += curve.misses(size);
        }
        misses
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |sum, other| sum + other.join().expect("it does not panic"))
    })
}

/// Seconds of processors that this process has used, in user mode.
fn user_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(12)?.parse::<f64>().ok());
    ticks.map_or(f64::NAN, |ticks| ticks / 100.0)
}

fn recorded(file: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let path = std::env::var_os("TERRACE_TRACES").map_or(beside, PathBuf::from).join(file);
    path.is_file().then_some(path)
}

#[expect(clippy::print_stdout, reason = "figures are what it is for")]
fn sweep_recorded(_: &mut Criterion) {
    // As with criterion's: a word leaves out what does not have it.
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if word.is_some_and(|word| !"sweep".contains(&word)) {
        return;
    }
    let Some(path) = recorded(RECORDED[0].1) else {
        println!("sweep: left out, no recorded trace");
        return;
    };
    let (begun, user) = (Instant::now(), user_seconds());
    let trace = dense_ids(&path);
    let (read, read_user) = (begun.elapsed(), user_seconds() - user);
    let (references, sizes) = (trace.references().len(), sweep_sizes(trace.unique()).len());
    println!(
        "sweep: P12 read and numbered off, {references} references: {read:.2?}, {read_user:.2} s in user mode"
    );
    let (begun, user) = (Instant::now(), user_seconds());
    let misses = sweep(trace);
    let (took, took_user) = (begun.elapsed(), user_seconds() - user);
    let rate = (references * sizes) as f64 / took_user / 1e6;
    println!(
        "sweep: ARC at {sizes} sizes, {misses} misses in all: {took:.2?}, {took_user:.2} s in user mode"
    );
    println!("sweep: {rate:.0} million references a second of a processor");
}

criterion_group!(benches, parse, simulate, sweep_recorded);
criterion_main!(benches);
