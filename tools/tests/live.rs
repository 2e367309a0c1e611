//! What a cache says of itself while it runs, tried with replays: its recording, and what other sizes would do.

mod common;

use std::fmt::Write as _;
use std::path::PathBuf;

use common::{Playground, json};
use serde_json::Value;
use terrace_recording::{Kind, Lost, Request, Span, Writer};

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no `{key}`"))
}

/// An I/O log of fio: requests of whole pages on two files, and now and then a sync.
fn fio(requests: u64, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = String::from("fio version 3 iolog\n");
    for time in 0..requests {
        let file = ["a", "b"][random.usize(..2)];
        let (offset, bytes) = (random.u64(..2000) * 4096, random.u64(1..20) * 4096);
        match random.u8(..20) {
            0 => writeln!(text, "{time} {file} sync"),
            1..6 => writeln!(text, "{time} {file} write {offset} {bytes}"),
            _ => writeln!(text, "{time} {file} read {offset} {bytes}"),
        }
        .expect("a string takes everything");
    }
    text
}

fn replay(ground: &Playground, trace: &str, more: &[&str]) -> Value {
    let sizes = ["replay", trace, "--block-size", "4k", "--ram-blocks", "700", "--json"];
    json(&ground.terrace(&[&sizes, more].concat()))
}

/// Volume, operation, offset and length of every request of a trace.
fn requests(ground: &Playground, trace: &str) -> Vec<String> {
    let run = ground.terrace(&["trace", "convert", trace, "table", "--as", "csv"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let table = ground.path().join("table");
    let text = std::fs::read_to_string(&table).expect("it was written");
    std::fs::remove_file(table).expect("it is ours");
    let without_time = |line: &str| line.split_once(',').map(|(_, rest)| rest.to_string());
    text.lines().skip(1).filter_map(without_time).collect()
}

fn info(ground: &Playground, trace: &str) -> Value {
    json(&ground.terrace(&["trace", "info", trace, "--json"]))
}

/// The files `NAME.1` and so on.
fn numbered(ground: &Playground, name: &str) -> Vec<PathBuf> {
    let path = |number| ground.path().join(format!("{name}.{number}"));
    (1..).map(path).take_while(|path| path.exists()).collect()
}

#[test]
fn the_recording_of_a_replay_is_the_trace_again() {
    let (ground, seed) = (Playground::new(), fastrand::u64(..));
    ground.file("t", fio(6000, seed).as_bytes());
    let replayed = replay(&ground, "t", &["--record", "rec", "--ssd-size", "64MiB", "--write", "back"]);
    let recorded = &replayed["recorded"];
    assert_eq!((count(recorded, "requests"), count(recorded, "requests_lost")), (6000, 0));
    assert_eq!((recorded["failure"].clone(), count(recorded, "files")), (Value::Null, 1));
    assert_eq!(requests(&ground, "rec"), requests(&ground, "t"), "seed {seed}");
    let told = info(&ground, "rec");
    assert_eq!((count(&told, "out_of_order"), count(&told, "lost_requests")), (0, 0));
    let names = ["replay-0", "replay-1"].map(Value::from);
    assert_eq!([0, 1].map(|volume| told["volumes"][volume]["name"].clone()), names);
    // What follows of the one follows of the other.
    let hits = |trace| {
        let report = replay(&ground, trace, &["--simulate"]);
        (count(&report, "references"), count(&report, "ram_hits"), count(&report, "disk_reads"))
    };
    assert_eq!(hits("rec"), hits("t"), "seed {seed}");
    let tuned = |trace| json(&ground.terrace(&["tune", trace, "--block-size", "4k", "--json"]));
    assert_eq!(tuned("rec")["curves"], tuned("t")["curves"], "seed {seed}");
}

#[test]
fn the_files_of_a_recording_are_one_trace_also_when_the_cache_was_killed_in_between() {
    let ground = Playground::new();
    ground.file("t", fio(3000, 4).as_bytes());
    replay(&ground, "t", &["--record", "rec", "--passes", "2"]);
    let twice = replay(&ground, "t", &["--record", "rec", "--threads", "3"]);
    assert_eq!(count(&twice["recorded"], "files"), 3);
    let (once, all) = (requests(&ground, "t"), requests(&ground, "rec"));
    assert_eq!(all.len(), 9000);
    assert!(all[..3000] == once && all[3000..6000] == once, "in the order of the files");
    assert_eq!(count(&info(&ground, "rec"), "files"), 3);
    // The second file ends in its only block, and the third has only just begun.
    let files = numbered(&ground, "rec");
    let cut = |path: &PathBuf, bytes| {
        let file = std::fs::File::options().write(true).open(path).expect("it is ours");
        file.set_len(bytes).expect("it is ours");
    };
    cut(&files[1], 500);
    cut(&files[2], 3);
    assert_eq!(requests(&ground, "rec"), once);
    let alone = ground.terrace(&["trace", "info", "rec.2"]);
    assert_eq!(alone.code, Some(2));
    assert!(
        alone.stderr.contains("cut short") && alone.stderr.contains("--to-request 0"),
        "{}",
        alone.stderr
    );
}

#[test]
fn what_a_recording_lost_is_told_by_all_who_read_it() {
    let ground = Playground::new();
    let mut writer = Writer::new(Vec::new()).expect("in memory");
    writer.name_volume("disk".into());
    for number in 0..2000 {
        let span = Span::Bytes { offset: number % 700 * 4096, bytes: 4096 };
        let time_ns = Some((10 + number) * 1_000_000_000);
        writer.write(&Request { volume: 0, kind: Kind::Read, span, time_ns }).expect("in memory");
    }
    writer.lose(Lost { requests: 1234, times_ns: Some((40_000_000_000, 70_000_000_000)) });
    ground.file("rec.7", &writer.finish(&[]).expect("in memory"));
    let told = info(&ground, "rec");
    assert_eq!(count(&told, "lost_requests"), 1234);
    assert_eq!((count(&told, "lost_from_ns"), count(&told, "lost_to_ns")), (40_000_000_000, 70_000_000_000));
    let text = ground.terrace(&["trace", "info", "rec"]).stdout;
    assert!(text.contains("1,234 requests more were made and are missing, between 30"), "{text}");
    let tuned = json(&ground.terrace(&["tune", "rec", "--block-size", "4k", "--json"]));
    assert_eq!(count(&tuned, "lost_requests"), 1234);
    let warnings = tuned["warnings"].as_array().expect("a list");
    assert!(
        warnings.iter().any(|one| one.as_str().is_some_and(|text| text.starts_with("1,234 requests are")))
    );
}

#[test]
fn what_a_replay_says_of_other_sizes_is_what_their_simulation_gives() {
    let ground = Playground::new();
    let generate = |name: &str, requests: &str| {
        let sizes = ["--size", "16MiB", "--skew", "0.9", "--write-share", "0.2", "--seed", "3"];
        let run =
            ground.terrace(&[&["trace", "generate", name, "--requests", requests], &sizes[..]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    };
    // The same requests, and after half of them the caches are warm.
    generate("half", "60000");
    generate("all", "120000");
    let run = ["replay", "all", "--block-size", "4k", "--ram-blocks", "400", "--what-if", "--json"];
    let report = json(&ground.terrace(&run));
    let answer = &report["what_if"];
    assert_eq!((answer["method"].as_str(), answer["curves"].clone()), (Some("live"), Value::Null));
    let present = count(&answer["present"], "ram_bytes");
    assert_eq!((present, count(&answer["present"], "ssd_bytes")), (400 * 4096, 0));
    let surface = answer["surface"].as_array().expect("a list");
    assert_eq!(surface.len(), 16);
    for one in surface.iter().filter(|one| count(one, "ssd_bytes") == 0) {
        let blocks = (count(one, "ram_bytes") / 4096).to_string();
        let of = |trace| {
            let run =
                ["replay", trace, "--simulate", "--block-size", "4k", "--ram-blocks", &blocks, "--json"];
            let report = json(&ground.terrace(&run));
            (count(&report, "disk_reads") as f64, count(&report, "reads") as f64)
        };
        let (all, half) = (of("all"), of("half"));
        let exact = (all.0 - half.0) / (all.1 - half.1);
        let number = |key: &str| one[key].as_f64().expect("a number");
        let (said, error) = (number("disk_share"), number("disk_share_error"));
        // Which part of the traffic was watched is for the machine's load to say, and a part differs from the whole.
        assert!((said - exact).abs() <= error + 0.03, "{blocks} blocks: {said} ± {error}, exactly {exact}");
    }
    let text = ground.terrace(&run[..run.len() - 1]).stdout;
    assert!(text.contains("now") && text.contains("Share of reads that wait for the disk"), "{text}");
}
