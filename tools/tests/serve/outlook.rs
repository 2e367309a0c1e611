//! `terrace tune --live`: what other sizes would do for a service that runs.

use serde_json::Value;

use crate::common::{Playground, Run};
use crate::harness::{MIB, Server, have, make_disk, nbdsh, seed};

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

#[test]
fn a_service_that_runs_says_what_other_sizes_would_do() {
    if !have(&["nbdsh"]) {
        return;
    }
    let (ground, seed) = (Playground::new(), seed());
    make_disk(&ground, "disk", 16 * MIB);
    let sizes = ["--ram-size", "2MiB", "--block-size", "4KiB", "--write", "back"];
    let at = ["serve", "--backing", "disk", "--listen", "unix:nbd"];
    let server = Server::start(&ground, &[&at, &sizes[..]].concat());
    let early = tune(&ground, &[]);
    assert_eq!(early.code, Some(2));
    assert!(early.stderr.contains("was asked for too little to tell yet; ask again"), "{}", early.stderr);
    // Two windows of ten thousand blocks, and a pause between them that keeps its share of the processor small.
    let told = (0..1000).find_map(|round| {
        read_much(&ground, seed ^ round);
        let run = tune(&ground, &["--json", "--disk-latency", "3ms,9ms", "--ram-max", "3MiB"]);
        (run.code == Some(0)).then_some(run.stdout)
    });
    let report: Value = serde_json::from_str(&told.expect("it is asked for much")).expect("JSON");
    assert_eq!((report["method"].as_str(), report["block_bytes"].as_u64()), (Some("live"), Some(4096)));
    assert_eq!(report["trace"], "the service at nbd.control");
    assert_eq!(
        (&report["curves"], &report["profile"], &report["requests"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(
        (&report["world"]["write"], report["uncached_mean_us"].as_f64()),
        (&"back".into(), Some(3000.0))
    );
    let surface = report["surface"].as_array().expect("a list");
    let ram_bytes = |size: &Value| size["ram_bytes"].as_u64().expect("a number");
    assert!(surface.len() == 16 && surface.contains(&report["present"]), "{report}");
    assert!((MIB as u64..2 * MIB as u64).contains(&ram_bytes(&report["present"])), "{}", report["present"]);
    assert!(surface.iter().any(|size| ram_bytes(size) > 4 * MIB as u64));
    assert!(ram_bytes(&report["recommendation"]) <= 3 * MIB as u64, "--ram-max holds");
    // More RAM never has more reads wait, beyond what the simulation may be wrong by.
    let waiting: Vec<f64> = surface
        .iter()
        .filter(|size| size["ssd_bytes"] == 0)
        .map(|size| size["disk_share"].as_f64().expect("a number"))
        .collect();
    assert!(waiting.len() == 4 && waiting.windows(2).all(|pair| pair[1] <= pair[0] + 0.05), "{waiting:?}");
    let run = tune(&ground, &["--report", "page.html"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(
        run.stdout.starts_with("the service at nbd.control: ") && run.stdout.contains("now"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("since the service began"), "{}", run.stdout);
    let page = std::fs::read_to_string(ground.path().join("page.html")).expect("it was written");
    assert!(page.contains("the service at nbd.control") && page.contains("<svg"));
    assert_eq!(server.stop().code, Some(0));
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
