//! Simulations of recorded traces against the miss counts that two other implementations agree on.
//!
//! The traces are others' and not part of the project: they are looked for in `../shared/traces` from the workspace's
//! root, or where `TERRACE_TRACES` says. Without them a test says `skipped`, except where `CI` is set: there it fails.

use std::path::{Path, PathBuf};

use terrace::{BlockSize, Config, RamSize, Simulation};

use super::blocks::{Addressing, Feeder, Scan};
use super::progress::Progress;
use super::run::simulate_pieces;
use crate::trace::{Format, Source};

/// A point of the reference figures: so many blocks of RAM, so many misses.
struct Point {
    blocks: u64,
    misses: u64,
}

#[expect(clippy::print_stdout, reason = "a test that skips says so")]
fn traces() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let directory = std::env::var_os("TERRACE_TRACES").map_or(beside, PathBuf::from);
    if directory.join("oracle.csv").is_file() {
        return Some(directory);
    }
    assert!(std::env::var_os("CI").is_none(), "no recorded traces in {}", directory.display());
    println!("skipped: no recorded traces in {}", directory.display());
    None
}

/// The figures for adaptive replacement on the trace that the figures call `name`.
fn points(directory: &Path, name: &str) -> Vec<Point> {
    let csv = std::fs::read_to_string(directory.join("oracle.csv")).expect("the figures can be read");
    // A quoted column holds a comma; the ones we need stand at fixed places from the end.
    let point = |line: &str| {
        let from_end: Vec<&str> = line.rsplit(',').collect();
        let at = from_end.iter().position(|&column| column == "ARC")?;
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
struct Case {
    name: &'static str,
    file: &'static str,
    format: Format,
    one_block_each: bool,
}

const fn case(name: &'static str, file: &'static str, format: Format) -> Case {
    Case { name, file, format, one_block_each: false }
}

const OLTP: Case = case("arc_OLTP", "arc/OLTP.lis.zst", Format::Arc);
const P3: Case = case("arc_P3", "arc/P3.lis.zst", Format::Arc);
const P12: Case = case("arc_P12", "arc/P12.lis.zst", Format::Arc);
const CLOUD: Case = case("cpio_4k", "cloudphysics/cloudPhysicsIO.vscsi.zst", Format::Vscsi);
const CLOUD_IDS: Case = Case {
    one_block_each: true,
    ..case("cpio_rawlbn", "cloudphysics/cloudPhysicsIO.oracleGeneral.bin.zst", Format::OracleGeneral)
};
const CLOUD_SECTORS: Case = Case {
    one_block_each: true,
    ..case("cpio_rawlbn", "cloudphysics/cloudPhysicsIO.vscsi.zst", Format::Vscsi)
};
const LIRS: [Case; 7] = [
    case("lirs_cpp", "lirs/cpp.trc.zst", Format::Ids),
    case("lirs_loop", "lirs/loop.trc.zst", Format::Ids),
    case("lirs_multi1", "lirs/multi1.trc.zst", Format::Ids),
    case("lirs_multi2", "lirs/multi2.trc.zst", Format::Ids),
    case("lirs_multi3", "lirs/multi3.trc.zst", Format::Ids),
    case("lirs_scan", "lirs/scan.trc.zst", Format::Ids),
    case("lirs_sprite", "lirs/sprite.trc.zst", Format::Ids),
];

/// References and misses of `case` with so many blocks of RAM; the format is told from the content.
fn misses(directory: &Path, case: Case, blocks: u64, shards: Option<u32>) -> (u64, u64) {
    let source = Source::open(&directory.join(case.file), None).expect("the trace can be opened");
    assert_eq!(source.format(), case.format, "{}", case.file);
    let block_size = BlockSize::new(4096).expect("a good size");
    let addressing = Addressing { block_size, one_block_each: case.one_block_each, writes_as_reads: true };
    let progress = Progress::hidden();
    let scan = Scan::of(&source, &addressing, &progress).expect("the trace can be read");
    let reader = source.reader().expect("it was just read");
    let feeder = Feeder::new(reader, addressing, scan.renumbers, &progress);
    let mut config = Config::new(RamSize::Blocks(blocks));
    config.block_size = block_size;
    config.shards = shards;
    let mut simulation = Simulation::new(&config).expect("sizes that work");
    let counters = simulate_pieces(&mut simulation, &feeder).expect("the trace can be read").counters;
    (counters.references, counters.references - counters.ram_hits)
}

/// One shard is the policy undivided: to the miss.
fn hold_exactly(cases: &[Case]) {
    let Some(directory) = traces() else { return };
    for &case in cases {
        for point in points(&directory, case.name) {
            let (_, found) = misses(&directory, case, point.blocks, Some(1));
            assert_eq!(found, point.misses, "misses of {} with {} blocks", case.name, point.blocks);
        }
    }
}

/// As shipped, in shards: within half a point where each has at least 1,000 blocks.
fn hold_sharded(cases: &[Case]) {
    let Some(directory) = traces() else { return };
    for &case in cases {
        for point in points(&directory, case.name).into_iter().filter(|point| point.blocks >= 2000) {
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
