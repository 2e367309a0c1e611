//! `terrace tune --live`: what other sizes would do for a service that runs.

use serde_json::Value;

use crate::common::{Playground, Run};
use crate::harness::{MIB, Server, have, make_disk, nbdsh, number, seed, stats};

const BLOCK_BYTES: u64 = 4096;

fn tune(ground: &Playground, more: &[&str]) -> Run {
    ground.terrace(&[&["tune", "--live", "nbd.control"], more].concat())
}

/// Reads many blocks, most of them near the front.
fn read_much(ground: &Playground, seed: u64) {
    let script = format!(
        "
import random
random.seed({seed})
for _ in range(3000):
    h.pread(1 << 16, int(random.random() ** 3 * 500) << 14)
"
    );
    nbdsh(ground, &script);
}

/// Reads as much of a few blocks that any RAM has.
fn read_the_same(ground: &Playground) {
    nbdsh(ground, "for _ in range(3000): h.pread(1 << 16, 0)");
}

/// What it says once `read`, which is told how often it was called, was called so often that it `is_enough`.
fn told(ground: &Playground, read: impl Fn(u64), is_enough: impl Fn(&Value) -> bool) -> Value {
    let told = (0..1000).find_map(|round| {
        read(round);
        let run = tune(ground, &["--json", "--disk-latency", "3ms,9ms", "--ram-max", "3MiB"]);
        let report = (run.code == Some(0)).then(|| serde_json::from_str(&run.stdout).expect("JSON"));
        report.filter(&is_enough)
    });
    told.expect("it is asked for much")
}

fn share(size: &Value, name: &str) -> f64 {
    size[name].as_f64().expect("a number")
}

fn sizes(report: &Value) -> &[Value] {
    report["surface"].as_array().expect("a list")
}

/// The share of reads that wait for the disk without an SSD, by the size of RAM.
fn waiting(report: &Value) -> Vec<f64> {
    let without = sizes(report).iter().filter(|size| size["ssd_bytes"] == 0);
    without.map(|size| share(size, "disk_share")).collect()
}

#[test]
fn a_service_that_runs_says_what_other_sizes_would_do() {
    if !have(&["nbdsh"]) {
        return;
    }
    let (ground, seed) = (Playground::new(), seed());
    make_disk(&ground, "disk", 16 * MIB);
    let tiers = ["--ram-size", "2MiB", "--block-size", "4KiB", "--write", "back"];
    let at = ["serve", "--backing", "disk", "--listen", "unix:nbd"];
    let server = Server::start(&ground, &[&at, &tiers[..]].concat());
    let early = tune(&ground, &[]);
    assert_eq!(early.code, Some(2));
    let lacks = "not enough traffic was seen yet: 0 of 20,000 references to blocks of the sample; ask again";
    assert!(early.stderr.contains(lacks), "{}", early.stderr);
    // Two windows of ten thousand blocks, and a pause between them that keeps its share of the processor small.
    let report = told(&ground, |round| read_much(&ground, seed ^ round), |_| true);
    check_head(&ground, &report);
    check_sizes(&report);
    check_shares(&report);
    // What was asked for before is forgotten, and counts in nothing that is told.
    let report = told(
        &ground,
        |_| read_the_same(&ground),
        |report| {
            let simulated = number(&report["references"]) as f64 * share(report, "sample_rate");
            assert!(simulated < 150_000.0, "of two windows, and what came until it was looked: {report}");
            waiting(report).iter().all(|&waiting| waiting < 0.01)
        },
    );
    assert!(sizes(&report).iter().all(|size| share(size, "ram_share") > 0.99), "{report}");
    check_what_people_read(&ground);
    assert_eq!(server.stop().code, Some(0));
}

fn check_head(ground: &Playground, report: &Value) {
    assert_eq!((&report["method"], number(&report["block_bytes"])), (&"live".into(), BLOCK_BYTES));
    assert_eq!(report["trace"], "the service at nbd.control");
    assert_eq!(
        (&report["curves"], &report["profile"], &report["requests"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!((&report["world"]["write"], share(report, "uncached_mean_us")), (&"back".into(), 3000.0));
    let all = number(&stats(ground)["counters"]["references"]);
    assert!((1..=all).contains(&number(&report["references"])), "{all} in all: {report}");
}

/// From half to four times of what RAM has, and SSDs of so many times that.
fn check_sizes(report: &Value) {
    let present = &report["present"];
    let has = number(&present["ram_bytes"]) / BLOCK_BYTES;
    assert!((256..512).contains(&has) && present["ssd_bytes"] == 0, "{present}");
    let of_ram = |ram: u64| [0, 4, 16, 64].map(|times| (ram * BLOCK_BYTES, times * has * BLOCK_BYTES));
    let wanted: Vec<_> = [has / 2, has, 2 * has, 4 * has].into_iter().flat_map(of_ram).collect();
    let pair = |size: &Value| (number(&size["ram_bytes"]), number(&size["ssd_bytes"]));
    assert_eq!(sizes(report).iter().map(pair).collect::<Vec<_>>(), wanted);
    assert!(sizes(report).contains(present), "{report}");
    let recommended = number(&report["recommendation"]["ram_bytes"]);
    assert!(recommended > 0 && recommended <= 3 * MIB as u64, "--ram-max holds");
}

/// More of a tier never has more reads wait for what is below it, beyond what the simulation may be wrong by, and much
/// more has far fewer.
fn check_shares(report: &Value) {
    const WRONG: f64 = 0.05;
    for size in sizes(report) {
        let shares = ["ram_share", "ssd_share", "disk_share"].map(|name| share(size, name));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{size}");
        assert_eq!(size["ssd_bytes"] == 0, shares[1] == 0.0, "{size}");
    }
    let waiting = waiting(report);
    assert!(waiting.windows(2).all(|pair| pair[1] <= pair[0] + WRONG), "{waiting:?}");
    assert!(waiting[3] < waiting[0] - 0.2, "{waiting:?}");
    for over_ram in sizes(report).chunks(4) {
        let of = |name| over_ram.iter().map(|size| share(size, name)).collect::<Vec<_>>();
        let (ram, disk) = (of("ram_share"), of("disk_share"));
        assert!(
            ram.iter().all(|share| (share - ram[0]).abs() <= WRONG),
            "an SSD does not change RAM: {ram:?}"
        );
        assert!(disk.windows(2).all(|pair| pair[1] <= pair[0] + WRONG), "{disk:?}");
    }
    let most_ssd = &sizes(report)[3];
    assert!(share(most_ssd, "disk_share") < waiting[0] / 2.0, "{most_ssd}, without an SSD {waiting:?}");
}

fn check_what_people_read(ground: &Playground) {
    let run = tune(ground, &["--report", "page.html"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(
        run.stdout.starts_with("the service at nbd.control: ") && run.stdout.contains("now"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("since the service began"), "{}", run.stdout);
    let page = std::fs::read_to_string(ground.path().join("page.html")).expect("it was written");
    assert!(page.contains("the service at nbd.control") && page.contains("<svg"));
}

#[test]
fn what_only_a_trace_has_is_refused_and_so_is_a_service_that_is_not_there() {
    let ground = Playground::new();
    for more in [&["trace"][..], &["--ram-sizes", "1GiB"], &["--format", "csv"], &["--effort", "exact"]] {
        let run = tune(&ground, more);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1), "{more:?}: {}", run.stderr);
        assert!(run.stderr.contains("cannot be used with"), "{more:?}: {}", run.stderr);
    }
    let nobody = tune(&ground, &[]);
    assert_eq!(nobody.code, Some(2));
    assert!(nobody.stderr.contains("no answer at nbd.control") && nobody.stderr.contains("name the socket"));
    let nothing = ground.terrace(&["tune"]);
    assert_eq!(nothing.code, Some(2), "{}", nothing.stderr);
}
