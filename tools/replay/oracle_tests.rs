//! Simulations of recorded traces against the miss counts that two other implementations agree on.
//!
//! The traces are others' and not part of the project: they are looked for in `../shared/traces` from the workspace's
//! root, or where `TERRACE_TRACES` says. Without them a test says `skipped`, except where `CI` is set: there it fails.

use std::path::{Path, PathBuf};

use terrace::simulate::DenseTrace;
use terrace::{BlockSize, Config, RamSize, Simulation, SsdConfig, SsdSize};

use super::blocks::Addressing;
use super::compare::numbered;
use super::feeder::Feeder;
use super::report::Counters;
use super::scan::Scan;
use super::simulated::simulate_pieces;
use crate::mode::Mode;
use crate::progress::Progress;
use crate::trace::{Format, Options, Source, Window};

/// A point of the reference figures: so many blocks of RAM, so many misses.
pub(crate) struct Point {
    pub(crate) blocks: u64,
    pub(crate) misses: u64,
}

#[expect(clippy::print_stdout, reason = "a test that skips says so")]
pub(crate) fn traces() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let directory = std::env::var_os("TERRACE_TRACES").map_or(beside, PathBuf::from);
    if directory.join("oracle.csv").is_file() {
        return Some(directory);
    }
    assert!(std::env::var_os("CI").is_none(), "no recorded traces in {}", directory.display());
    println!("skipped: no recorded traces in {}", directory.display());
    None
}

/// The figures for `policy` on the trace that the figures call `name`.
pub(crate) fn points(directory: &Path, name: &str, policy: &str) -> Vec<Point> {
    let csv = std::fs::read_to_string(directory.join("oracle.csv")).expect("the figures can be read");
    // A quoted column holds a comma; the ones we need stand at fixed places from the end.
    let point = |line: &str| {
        let from_end: Vec<&str> = line.rsplit(',').collect();
        let at = from_end.iter().position(|&column| column == policy)?;
        let number = |index: usize| from_end[index].parse().expect("a number");
        (line.split(',').next() == Some(name))
            .then(|| Point { blocks: number(at + 1), misses: number(at - 1) })
    };
    let points: Vec<Point> = csv.lines().filter_map(point).collect();
    assert!(!points.is_empty(), "no figures for {name}");
    points
}

/// How a trace is read so that its accesses are those of the figures.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    file: &'static str,
    format: Format,
    one_block_each: bool,
}

const fn case(name: &'static str, file: &'static str, format: Format) -> Case {
    Case { name, file, format, one_block_each: false }
}

pub(crate) const OLTP: Case = case("arc_OLTP", "arc/OLTP.lis.zst", Format::Arc);
pub(crate) const P3: Case = case("arc_P3", "arc/P3.lis.zst", Format::Arc);
pub(crate) const P12: Case = case("arc_P12", "arc/P12.lis.zst", Format::Arc);
pub(crate) const CLOUD: Case = case("cpio_4k", "cloudphysics/cloudPhysicsIO.vscsi.zst", Format::Vscsi);
pub(crate) const CLOUD_IDS: Case = Case {
    one_block_each: true,
    ..case("cpio_rawlbn", "cloudphysics/cloudPhysicsIO.oracleGeneral.bin.zst", Format::OracleGeneral)
};
const CLOUD_SECTORS: Case = Case {
    one_block_each: true,
    ..case("cpio_rawlbn", "cloudphysics/cloudPhysicsIO.vscsi.zst", Format::Vscsi)
};
pub(crate) const LIRS: [Case; 7] = [
    case("lirs_cpp", "lirs/cpp.trc.zst", Format::Ids),
    case("lirs_loop", "lirs/loop.trc.zst", Format::Ids),
    case("lirs_multi1", "lirs/multi1.trc.zst", Format::Ids),
    case("lirs_multi2", "lirs/multi2.trc.zst", Format::Ids),
    case("lirs_multi3", "lirs/multi3.trc.zst", Format::Ids),
    case("lirs_scan", "lirs/scan.trc.zst", Format::Ids),
    case("lirs_sprite", "lirs/sprite.trc.zst", Format::Ids),
];

pub(crate) const MSR: [Case; 2] = [
    case("msr_rw_20_80_105_4k", "msr/msr.cut.per_10k.rw_20_80.105.trace.zst", Format::TraceRar),
    case("msr_rw_40_60_1370_4k", "msr/msr.cut.per_10k.rw_40_60.1370.trace.zst", Format::TraceRar),
];

pub(crate) const MQSIM: Case = case("mqsim_wsrch-small_4k", "mqsim/wsrch-small.trace.zst", Format::DiskSim);

/// References and misses of `case` with so many blocks of RAM.
fn misses(directory: &Path, case: Case, blocks: u64, shards: Option<u32>) -> (u64, u64) {
    let mut config = Config::new(RamSize::Blocks(blocks));
    config.shards = shards;
    let counters = counters(directory, case, config);
    (counters.references, counters.references - counters.ram_hits)
}

/// What a simulation of `case` counts, in blocks of 4 KiB; the format is told from the content.
fn counters(directory: &Path, case: Case, mut config: Config) -> Counters {
    let (source, addressing) = open(directory, case);
    let progress = Progress::hidden();
    let scan = Scan::of(&source, &Window::default(), &addressing, &progress).expect("the trace can be read");
    let reader = source.reader().expect("it was just read");
    let feeder = Feeder::new(reader, addressing, scan.renumbers, &progress);
    config.block_size = addressing.block_size;
    let mut simulation = Simulation::new(&config).expect("sizes that work");
    simulate_pieces(&mut simulation, &feeder, Mode::Through).expect("the trace can be read").pass.counters
}

/// The references of `case`, ids numbered off.
pub(crate) fn dense(directory: &Path, case: Case) -> DenseTrace {
    let (source, addressing) = open(directory, case);
    let progress = Progress::hidden();
    let scan = Scan::of(&source, &Window::default(), &addressing, &progress).expect("the trace can be read");
    let reader = source.reader().expect("it was just read");
    let feeder = Feeder::new(reader, addressing, scan.renumbers, &progress);
    numbered(&feeder, true).expect("the trace can be read").finished()
}

fn open(directory: &Path, case: Case) -> (Source, Addressing) {
    let source =
        Source::open(&directory.join(case.file), &Options::default()).expect("the trace can be opened");
    assert_eq!(source.format(), case.format, "{}", case.file);
    let block_size = BlockSize::new(4096).expect("a good size");
    (source, Addressing { block_size, one_block_each: case.one_block_each, writes_as_reads: true })
}

/// One shard is the policy undivided: to the miss.
fn hold_exactly(cases: &[Case]) {
    let Some(directory) = traces() else { return };
    for &case in cases {
        for point in points(&directory, case.name, "ARC") {
            let (_, found) = misses(&directory, case, point.blocks, Some(1));
            assert_eq!(found, point.misses, "misses of {} with {} blocks", case.name, point.blocks);
        }
    }
}

/// As shipped, in shards: within half a point where each has at least 1,000 blocks.
fn hold_sharded(cases: &[Case]) {
    let Some(directory) = traces() else { return };
    for &case in cases {
        for point in points(&directory, case.name, "ARC").into_iter().filter(|point| point.blocks >= 2000) {
            let (references, found) = misses(&directory, case, point.blocks, None);
            let points_off = (found as f64 - point.misses as f64).abs() * 100.0 / references as f64;
            assert!(
                points_off <= 0.5,
                "{} with {} blocks is {points_off} points off",
                case.name,
                point.blocks
            );
        }
    }
}

#[test]
fn the_arc_papers_traces_miss_as_often_as_published_to_the_miss() {
    hold_exactly(&[OLTP, P3]);
}

#[test]
fn the_arc_papers_longest_trace_misses_as_often_as_published_to_the_miss() {
    hold_exactly(&[P12]);
}

#[test]
fn the_cloudphysics_trace_misses_as_often_by_pages_and_by_ids_to_the_miss() {
    hold_exactly(&[CLOUD, CLOUD_IDS, CLOUD_SECTORS]);
}

#[test]
fn the_lirs_authors_traces_miss_as_often_to_the_miss() {
    hold_exactly(&LIRS);
}

#[test]
fn shards_as_shipped_cost_less_than_half_a_point() {
    hold_sharded(&[OLTP, P3, P12, CLOUD]);
}

/// Two-tier figures of others: RAM and SSD blocks, then hits in RAM, misses and blocks written to the SSD.
struct TwoTiers {
    ram_blocks: u64,
    ssd_blocks: u64,
    ram_hits: u64,
    misses: u64,
    written: u64,
}

/// The figures for adaptive replacement over `policy` in `mode`, on the trace that they call `name`.
fn two_tier_points(directory: &Path, name: &str, policy: &str, mode: &str) -> Vec<TwoTiers> {
    let csv =
        std::fs::read_to_string(directory.join("oracle_two_tier.csv")).expect("the figures can be read");
    let point = |line: &str| {
        let columns: Vec<&str> = line.split(',').collect();
        let number = |index: usize| columns[index].parse().expect("a number");
        (columns[0] == name && columns[3] == "ARC" && columns[4] == policy && columns[5] == mode).then(|| {
            TwoTiers {
                ram_blocks: number(1),
                ssd_blocks: number(2),
                ram_hits: number(7),
                misses: number(9),
                written: number(10),
            }
        })
    };
    csv.lines().filter_map(point).collect()
}

/// Where the SSD tier stands: a table of misses in percent and of blocks written for each access, beside an SSD tier
/// that is a plain FIFO or LRU of what leaves RAM, and one that is adaptive and written on every miss.
///
/// Ours misses less wherever scans or loops pass through the others (P3, multi1, CloudPhysics in up to 32,768 blocks):
/// what is seen once is not written, so what is seen again stays. It misses a point more on OLTP in an SSD not much
/// larger than RAM, where the list of refused ids is too short to see blocks come back, and four points more than FIFO
/// on CloudPhysics in 131,072 blocks: a loop that barely fits and that plain FIFO keeps whole.
#[test]
#[expect(clippy::print_stdout, reason = "the table is what this is for")]
fn the_ssd_tier_misses_less_than_simple_ones_on_the_whole_and_writes_less_than_half() {
    let Some(directory) = traces() else { return };
    println!("trace, blocks in RAM and SSD | misses %, written: ours | FIFO | LRU | adaptive");
    let (mut excess, mut saved, mut count) = (0.0, 0.0, 0.0);
    for case in [OLTP, P3, CLOUD, LIRS[2]] {
        let of = |policy, mode| two_tier_points(&directory, case.name, policy, mode);
        let (fifo, lru, adaptive) = (of("FIFO", "victim"), of("LRU", "victim"), of("ARC", "fill"));
        assert!(!fifo.is_empty() && fifo.len() == lru.len() && fifo.len() == adaptive.len(), "{}", case.name);
        for ((fifo, lru), adaptive) in fifo.iter().zip(&lru).zip(&adaptive) {
            let mut config = Config::new(RamSize::Blocks(fifo.ram_blocks));
            config.shards = Some(1);
            config.ssd = Some(SsdConfig::new("none", SsdSize::Blocks(fifo.ssd_blocks)));
            let ours = counters(&directory, case, config);
            assert_eq!(ours.ram_hits, fifo.ram_hits, "RAM does not depend on what is below: {}", case.name);
            let all = ours.references as f64;
            let written = (ours.ssd_blocks_written + ours.ssd_blocks_reinserted) as f64 / all;
            let percent = |misses: u64| misses as f64 * 100.0 / all;
            let row =
                |point: &TwoTiers| format!("{:.2}, {:.3}", percent(point.misses), point.written as f64 / all);
            println!(
                "{}, {} and {} | {:.2}, {written:.3} | {} | {} | {}",
                case.name,
                fifo.ram_blocks,
                fifo.ssd_blocks,
                percent(ours.disk_reads),
                row(fifo),
                row(lru),
                row(adaptive)
            );
            let excess_here = percent(ours.disk_reads) - percent(fifo.misses.min(lru.misses));
            assert!(excess_here < 5.0, "{excess_here} points");
            excess += excess_here;
            saved += 1.0 - written * all / fifo.written.min(lru.written) as f64;
            count += 1.0;
        }
    }
    let (excess, saved) = (excess / count, saved / count);
    println!(
        "on the mean {excess:.2} points of misses more than the better of FIFO and LRU, {saved:.2} of the writes saved"
    );
    assert!(excess < 0.0 && saved > 0.5);
}
