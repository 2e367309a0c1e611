//! The CloudPhysics recording, two hours of a virtual machine's reads and writes, through the real tiers.

mod common;

use common::{Playground, is_slow_run, json, recorded};
use serde_json::Value;

const RECORDING: &str = "cloudphysics/cloudPhysicsIO.vscsi.zst";

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no `{key}`"))
}

fn replay(ground: &Playground, trace: &str, arguments: &[&str]) -> Value {
    json(&ground.terrace(&[&["replay", trace, "--json", "--block-size", "4KiB"], arguments].concat()))
}

/// Configured RAM, 20 bytes for each block that fits the SSD, 64 MiB.
fn assert_memory_is_bounded(report: &Value, ram_bytes: u64, ssd_blocks: u64) {
    let (peak, most) = (count(report, "memory_peak_bytes"), ram_bytes + 20 * ssd_blocks + (64 << 20));
    assert!(peak <= most, "{peak} bytes of memory, {most} are allowed");
}

#[test]
fn a_settled_replay_with_writes_counts_what_the_simulation_counts() {
    let Some(trace) = recorded(RECORDING).filter(|_| is_slow_run()) else { return };
    let ground = Playground::new();
    for sizes in [
        ["--ram-blocks", "8192", "--ssd-blocks", "32768", "--shards", "1", "--write", "back"],
        ["--ram-blocks", "20000", "--ssd-blocks", "131072", "--shards", "8", "--write", "through"],
    ] {
        let with_data = replay(&ground, &trace, &[&sizes[..], &["--settle"]].concat());
        let without = replay(&ground, &trace, &[&sizes[..], &["--simulate"]].concat());
        for key in ["references", "ram_hits", "ssd_hits", "disk_reads", "ssd_blocks_written", "wrong_blocks"]
        {
            assert_eq!(with_data[key], without[key], "{key} of {sizes:?}");
        }
    }
}

#[test]
fn four_threads_read_no_wrong_byte_in_bounded_memory() {
    let Some(trace) = recorded(RECORDING).filter(|_| is_slow_run()) else { return };
    let ground = Playground::new();
    for (mode, ram, ram_bytes) in [("back", "64MiB", 64 << 20), ("through", "256MiB", 256 << 20)] {
        let run = ["--threads", "4", "--write", mode, "--ram-size", ram, "--ssd-blocks", "200000"];
        let report = replay(&ground, &trace, &run);
        assert_eq!(count(&report, "wrong_blocks"), 0, "{mode}");
        assert_memory_is_bounded(&report, ram_bytes, 200_000);
    }
}

#[test]
fn a_second_pass_hits_the_ssd_like_a_cache_that_lost_only_its_ram() {
    let Some(trace) = recorded(RECORDING).filter(|_| is_slow_run()) else { return };
    let ground = Playground::new();
    // Settled, both count the same in the first pass, so that what differs in the second is the restart's doing.
    let run = ["--ram-blocks", "8192", "--ssd-blocks", "300000", "--passes", "2", "--shards", "1"];
    let real = replay(&ground, &trace, &[&run[..], &["--settle", "--write", "back"]].concat());
    let simulated = replay(&ground, &trace, &[&run[..], &["--simulate"]].concat());
    let share = |report: &Value| {
        let first = &report["passes"][1]["first_requests"];
        count(first, "ssd_hits") as f64 / count(first, "reads") as f64
    };
    let (real, simulated) = (share(&real), share(&simulated));
    assert!(simulated > 0.1, "nothing was kept: {simulated}");
    assert!((real - simulated).abs() < 0.01, "{real} of the reads, and {simulated} simulated");
}

/// A hard disk ten times as fast. Two hours go by in three minutes: fast enough to test, and slow enough that what leaves RAM
/// gets to the SSD and what was written gets synced before it is in the way, as at the recorded speed. For that the sync
/// must not wait a fifth of a second either, which is nine seconds of the recording.
const QUICK_HARD_DISK: [&str; 8] = [
    "--disk-seek",
    "800us",
    "--disk-iops",
    "1500",
    "--disk-bandwidth",
    "1500MB/s",
    "--writeback-delay",
    "5ms",
];

#[test]
fn hits_of_each_tier_are_predicted_within_half_a_point_at_four_pairs_of_sizes() {
    let Some(trace) = recorded(RECORDING).filter(|_| is_slow_run()) else { return };
    let ground = Playground::new();
    let measure = |[ram, ssd]: [&str; 2]| {
        let sizes = ["--predict", "--ram-blocks", ram, "--ssd-blocks", ssd];
        let report = replay(&ground, &trace, &[&sizes[..], &QUICK_HARD_DISK].concat());
        let points = ["ram_points", "ssd_points", "disk_points"];
        let points = points.map(|key| report["prediction"][key].as_f64().expect("a number"));
        (format!("RAM {ram}, SSD {ssd}: {points:?} points, {}", report["demotions_dropped"]), points)
    };
    // All at once: each waits for its disk most of the time.
    let found = std::thread::scope(|scope| {
        let pairs = [["2048", "16384"], ["8192", "32768"], ["8192", "131072"], ["32768", "131072"]];
        let runs = pairs.map(|pair| scope.spawn(move || measure(pair)));
        runs.map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let shown = found.iter().map(|(shown, _)| format!("\n{shown} dropped")).collect::<String>();
    assert!(found.iter().flat_map(|(_, points)| points).all(|points| points.abs() <= 0.5), "{shown}");
}
