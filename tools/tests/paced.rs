//! Replays on recorded time, through the real binary.

mod common;

use common::{Playground, json};
use serde_json::Value;

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no `{key}`"))
}

/// Requests so many nanoseconds apart: reads and writes of 16 KiB all over 4 MiB, overlapping, with a flush and a discard
/// now and then.
fn trace(requests: u64, apart_ns: u64, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = "time_ns,volume,operation,offset,bytes\n".to_string();
    for number in 0..requests {
        let offset = random.u64(..1000) * 4096;
        let (operation, offset, bytes) = match random.u8(..20) {
            0 => ("flush", 0, 0),
            1 => ("discard", offset + 100, 20_000),
            2..=9 => ("write", offset, 16_384),
            _ => ("read", offset, 16_384),
        };
        text += &format!("{},v,{operation},{offset},{bytes}\n", number * apart_ns);
    }
    text
}

#[test]
fn an_open_loop_takes_the_recorded_time_and_shows_lateness_beside_latency() {
    let (ground, seed) = (Playground::new(), fastrand::u64(..));
    ground.file("t.csv", trace(500, 1_000_000, seed).as_bytes());
    let run = ["replay", "t.csv", "--speed", "2x", "--block-size", "4k"];
    let report = json(&ground.terrace(&[&run[..], &["--json"]].concat()));
    assert_eq!((report["speed"].as_f64(), count(&report, "threads")), (Some(2.0), 256));
    assert_eq!((count(&report, "requests"), count(&report, "wrong_blocks")), (500, 0), "seed {seed}");
    // No request is made before it is due.
    assert!(report["seconds"].as_f64().expect("a number") >= 0.499 / 2.0);
    assert_eq!(count(&report["lateness_us"], "count"), 500);
    for key in ["latency_us", "latency_from_deadline_us"] {
        assert_eq!(count(&report[key]["all"], "count"), 500, "{key}");
    }
    let max = |times: &Value| times["max"].as_f64().expect("a number");
    assert!(max(&report["latency_from_deadline_us"]["all"]) >= max(&report["lateness_us"]));
    let classes = report["distribution"].as_array().expect("a list");
    assert_eq!(classes.last().map(|class| &class["up_to_us"]), Some(&Value::Null));
    for column in ["lateness", "latency", "latency_from_deadline"] {
        assert_eq!(classes.iter().map(|class| count(class, column)).sum::<u64>(), 500, "{column}");
    }
    let shown = ground.terrace(&run).stdout;
    for words in ["late by", "after they were due", "0.5 s, 0.2 s at 2x", "at most 256 requests under way"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn a_closed_loop_has_no_deadlines() {
    let ground = Playground::new();
    ground.file("t.csv", trace(100, 1_000_000, 1).as_bytes());
    let report = json(&ground.terrace(&["replay", "t.csv", "--speed", "max", "--threads", "2", "--json"]));
    for key in ["speed", "latency_from_deadline_us", "lateness_us", "distribution", "first_held_back_seconds"]
    {
        assert_eq!(report[key], Value::Null, "{key}");
    }
    assert_eq!((count(&report, "threads"), count(&report, "held_back")), (2, 0));
}

#[test]
fn requests_beyond_the_bound_are_held_back_and_counted_and_none_are_below_it() {
    let ground = Playground::new();
    // Forty reads at once, of a disk that takes 10 ms for each.
    let read = |number: u64| format!("5,v,read,{},4096\n", number << 20);
    let reads: String = (0..40).map(read).collect();
    ground.file("t.csv", format!("time_ns,volume,operation,offset,bytes\n{reads}").as_bytes());
    let replay = |in_flight: &str| {
        let run = ["replay", "t.csv", "--speed", "1x", "--disk-iops", "100", "--in-flight", in_flight];
        let shown = ground.terrace(&run);
        (json(&ground.terrace(&[&run[..], &["--json"]].concat())), shown.stdout)
    };
    let (report, shown) = replay("2");
    assert!((36..=38).contains(&count(&report, "held_back")), "{}", report["held_back"]);
    assert_eq!(report["first_held_back_seconds"].as_f64(), Some(0.0));
    assert!(shown.contains("the loop was not open then"), "{shown}");
    let (report, shown) = replay("41");
    assert_eq!((count(&report, "held_back"), &report["first_held_back_seconds"]), (0, &Value::Null));
    assert!(!shown.contains("not open"), "{shown}");
}

#[test]
fn a_storm_of_overlapping_requests_reads_no_wrong_byte_in_any_mode() {
    let (ground, seed) = (Playground::new(), fastrand::u64(..));
    ground.file("t.csv", trace(3000, 1000, seed).as_bytes());
    for mode in ["around", "through", "back", "back-ssd"] {
        let tiers = ["--ram-blocks", "200", "--ssd-size", "64MiB", "--block-size", "4k"];
        let run = ["replay", "t.csv", "--speed", "1x", "--in-flight", "64", "--write", mode, "--json"];
        let run = ground.terrace(&[&run[..], &tiers].concat());
        assert_eq!(run.code, Some(0), "seed {seed}, {mode}: {}", run.stderr);
        let report = json(&run);
        assert_eq!((count(&report, "requests"), count(&report, "wrong_blocks")), (3000, 0));
    }
}
