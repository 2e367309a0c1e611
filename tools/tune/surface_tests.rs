//! Sampled surfaces against exact ones, on a made trace; and in the slow run on recorded ones.

use std::path::Path;

use super::super::load::{Grid, Limits, Survey};
use super::*;
use crate::replay::Addressing;
use crate::trace::Source;

fn recording(path: &Path) -> Recording {
    let block_size = BlockSize::new(4096).expect("a good size");
    let addressing = Addressing { block_size, one_block_each: false, writes_as_reads: false };
    let (grid, work) = (Grid { addressing, shift_bytes: 0 }, Work { is_shown: false });
    let source = Source::open(path, &crate::trace::Options::default()).expect("the trace can be opened");
    let [survey] = Survey::of(&source, &[grid], &work).expect("the trace can be read");
    assert!(Limits::BOUNDED.keep(&survey), "{} is small enough to be kept whole", path.display());
    Recording::load(&source, &grid, &survey, &work).expect("the trace can be read")
}

/// Four RAM sizes and five of the SSD, none among them.
fn sizes(unique: u64) -> Sizes {
    let bytes = |share: u64| (unique * 4096 / share).max(512 << 10);
    Sizes {
        ram_bytes: vec![bytes(128), bytes(32), bytes(8), bytes(2)],
        ssd_bytes: vec![
            0,
            bytes(16).max(16 << 20),
            bytes(8).max(32 << 20),
            bytes(2).max(64 << 20),
            bytes(1).max(128 << 20),
        ],
        ssd_write_budget: None,
        write: Mode::Back,
    }
}

/// Mean absolute error of disk shares, the worst one, and how many lie outside their own error bar.
pub(in super::super) fn compare(exact: &Surface, sampled: &Surface) -> (f64, f64, usize) {
    let off = |(one, other): (&Cell, &Cell)| (one.disk_share - other.disk_share).abs();
    let pairs = || exact.cells.iter().zip(&sampled.cells);
    let outside = pairs().filter(|&(one, other)| off((one, other)) > other.disk_share_error).count();
    (pairs().map(off).sum::<f64>() / exact.cells.len() as f64, pairs().map(off).fold(0.0, f64::max), outside)
}

fn touches(count: u64, seed: u64) -> Vec<Touch> {
    let mut random = fastrand::Rng::with_seed(seed);
    let touch = |step: u64| {
        let id = match step / 2000 % 3 {
            0 => 100_000 + step % 40_000,
            _ => (random.f64().powi(3) * 60_000.0) as u64,
        };
        Touch {
            first: terrace::BlockId::from_u64(id),
            count: 1,
            is_write: step.is_multiple_of(7),
            skipped_pages: [0, 0],
            time_us: step,
        }
    };
    (0..count).map(touch).collect()
}

#[test]
fn a_sampled_surface_is_near_the_exact_one_and_its_error_bars_hold_it() {
    let seed = fastrand::u64(..);
    let block_size = BlockSize::new(4096).expect("a good size");
    let recording = Recording { touches: touches(200_000, seed), rate: 1.0, block_size };
    let (sizes, work) = (sizes(100_000), Work { is_shown: false });
    let exact = Surface::simulate(&recording, &sizes, 1.0, &work).expect("sizes that work");
    let sampled = Surface::simulate(&recording, &sizes, 0.1, &work).expect("sizes that work");
    assert!(exact.cells.iter().all(|cell| cell.disk_share_error == 0.0));
    let (mean, worst, outside) = compare(&exact, &sampled);
    assert!(mean < 0.02 && worst < 0.06, "seed {seed}: {mean} and {worst}");
    assert!(outside <= exact.cells.len() / 5, "seed {seed}: {outside} outside of {}", exact.cells.len());
    let written = |surface: &Surface| surface.cells.iter().map(|cell| cell.ssd_bytes_written).sum::<f64>();
    assert!((written(&sampled) / written(&exact) - 1.0).abs() < 0.1, "seed {seed}");
}

#[test]
fn what_goes_to_a_log_is_told_by_samples_as_by_the_whole() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = String::from("time_ns,volume,operation,offset,bytes\n");
    for time in 0..20_000 {
        let operation = if random.u8(..2) == 0 { "W" } else { "R" };
        let sector = (random.f64().powi(2) * 100_000.0) as u64;
        text += &format!("{time},0,{operation},{},{}\n", sector * 512, random.u64(1..300) * 512);
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("a file of ours can be written");
    let recording = recording(file.path());
    let (sizes, work) = (sizes(20_000), Work { is_shown: false });
    let surface = |write, rate| {
        let sizes = Sizes { write, ..sizes.clone() };
        Surface::simulate(&recording, &sizes, rate, &work).expect("sizes that work").cells
    };
    let (back, exact, sampled) =
        (surface(Mode::Back, 1.0), surface(Mode::BackSsd, 1.0), surface(Mode::BackSsd, 0.2));
    let logged = Logged::of(&recording).record_bytes as f64;
    for (index, exact) in exact.iter().enumerate().filter(|(_, cell)| cell.ssd_bytes > 0) {
        let near = |bytes: f64, wanted: f64| (bytes / wanted - 1.0).abs() < 0.05;
        let of_log = exact.ssd_bytes_written - back[index].ssd_bytes_written;
        assert!(near(of_log, logged), "seed {seed}: {of_log} went to the log, not {logged}");
        assert!(
            near(sampled[index].ssd_bytes_written, exact.ssd_bytes_written),
            "seed {seed}: {sampled:?}, {exact:?}"
        );
        assert!((exact.disk_share - back[index].disk_share).abs() < 0.01, "seed {seed}: {exact:?}");
        assert!(
            exact.index_bytes > back[index].index_bytes && exact.write_amplification > Some(1.0),
            "{exact:?}"
        );
    }
    assert_eq!(exact[0].ssd_bytes_written, 0.0, "there is no SSD");
}

#[test]
fn a_surface_without_an_ssd_counts_in_ram_what_one_with_an_ssd_counts_there() {
    let block_size = BlockSize::new(4096).expect("a good size");
    let recording = Recording { touches: touches(50_000, 1), rate: 1.0, block_size };
    let sizes = Sizes {
        ram_bytes: vec![8 << 20],
        ssd_bytes: vec![0, 64 << 20],
        ssd_write_budget: None,
        write: Mode::Back,
    };
    let surface =
        Surface::simulate(&recording, &sizes, 1.0, &Work { is_shown: false }).expect("sizes that work");
    let [without, with] = surface.cells[..] else { panic!("two cells") };
    assert!((without.ram_share - with.ram_share).abs() < 1e-12);
    assert_eq!((without.ssd_share, without.ssd_bytes_written), (0.0, 0.0));
    assert!((without.disk_share - with.disk_share - with.ssd_share).abs() < 1e-12);
    assert!(with.ssd_share > 0.05 && with.ssd_bytes_written > 0.0, "{with:?}");
}

#[test]
#[expect(clippy::print_stdout, reason = "the errors are worth a look, and a test that skips says so")]
fn on_recorded_traces_the_mean_error_is_at_most_a_point_and_inside_the_error_bar() {
    if std::env::var_os("TERRACE_SLOW").is_none() {
        println!("skipped: takes minutes; set TERRACE_SLOW=1");
        return;
    }
    let Some(directory) = crate::replay::oracle_tests::traces() else { return };
    let files = [
        "arc/OLTP.lis.zst",
        "arc/P3.lis.zst",
        "arc/P12.lis.zst",
        "cloudphysics/cloudPhysicsIO.vscsi.zst",
        "lirs/cpp.trc.zst",
        "lirs/loop.trc.zst",
        "lirs/multi1.trc.zst",
        "lirs/multi2.trc.zst",
        "lirs/multi3.trc.zst",
        "lirs/scan.trc.zst",
        "lirs/sprite.trc.zst",
        "mqsim/wsrch-small.trace.zst",
        "msr/msr.cut.per_10k.rw_20_80.105.trace.zst",
        "msr/msr.cut.per_10k.rw_40_60.1370.trace.zst",
    ];
    for file in files {
        let recording = recording(&directory.join(file));
        let unique = u64::from(recording.dense().unique());
        let (sizes, work) = (sizes(unique), Work { is_shown: false });
        let rate = rate_for(&recording, unique, &sizes, Effort::Sampled);
        if rate == 1.0 {
            println!("{file}: never sampled, {unique} blocks are few");
            continue;
        }
        let exact = Surface::simulate(&recording, &sizes, 1.0, &work).expect("sizes that work");
        let sampled = Surface::simulate(&recording, &sizes, rate, &work).expect("sizes that work");
        let (mean, worst, outside) = compare(&exact, &sampled);
        let bar =
            sampled.cells.iter().map(|cell| cell.disk_share_error).sum::<f64>() / sampled.cells.len() as f64;
        println!(
            "{file}: rate {rate:.3}, mean {mean:.4}, worst {worst:.4}, mean bar {bar:.4}, {outside} outside"
        );
        assert!(mean <= 0.01 && mean <= bar + f64::EPSILON, "{file}: mean {mean}, bar {bar}");
        // 95 % intervals: one in twenty may lie outside.
        assert!(outside <= exact.cells.len() / 10, "{file}: {outside} outside");
    }
}
