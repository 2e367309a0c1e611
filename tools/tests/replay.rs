//! The real binary on hand-made traces: what it counts, with and without data, and what it leaves behind.

mod common;

use common::{Playground, json, many_ids, recorded};
use serde_json::Value;

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no `{key}`"))
}

/// Lines of MSR: reads and writes by two disks, some requests over several blocks, neither aligned.
fn msr_lines(lines: u64) -> Vec<u8> {
    let line = |number: u64| {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (disk, kind) = (random >> 63, if random >> 61 & 3 == 0 { "Write" } else { "Read" });
        let offset = (random >> 40 & 0xfff) * 5000;
        let bytes = 1 + (random >> 20 & 0x7fff);
        format!("{},host,{disk},{kind},{offset},{bytes},1\n", 128_166_386_787_582_087 + number * 1000)
            .into_bytes()
    };
    (0..lines).flat_map(line).collect()
}

fn laws_hold(report: &Value) {
    let count = |key| count(report, key);
    assert_eq!(count("reads") + count("writes"), count("references"));
    assert_eq!(count("read_ram_hits") + count("ssd_hits") + count("disk_reads"), count("reads"));
    assert_eq!(count("read_ram_hits") + count("write_ram_hits"), count("ram_hits"));
    assert_eq!(count("wrong_blocks"), 0);
}

#[test]
fn a_simulation_of_eight_blocks_counts_as_by_hand() {
    let ground = Playground::new();
    let twice = (1..=8).flat_map(|id| [id, id]);
    let ids: Vec<String> = twice.chain(100..110).chain((1..=8).rev()).map(|id| id.to_string()).collect();
    ground.file("t", ids.join("\n").as_bytes());
    let arguments = ["replay", "t", "--simulate", "--ram-blocks", "8", "--shards", "1", "--json"];
    let report = json(&ground.terrace(&arguments));
    assert_eq!((count(&report, "references"), count(&report, "requests")), (34, 34));
    // Eight second uses fill T2. The first block of the scan takes the place of 1, the others that of the one before
    // them; so 8 down to 2 are hits.
    assert_eq!(count(&report, "ram_hits"), 8 + 7);
    assert_eq!(count(&report, "disk_reads"), 34 - 15);
    assert_eq!(report["latency_us"], Value::Null);
    laws_hold(&report);
}

#[test]
fn a_trace_on_standard_input_or_by_a_pipe_gives_the_same_as_from_a_file_plain_or_zstd() {
    let ground = Playground::new();
    let text = many_ids(20_000);
    let packed = zstd::encode_all(&text[..], 3).expect("in memory");
    ground.file("t", &text);
    let from = |trace: &str, stdin: &[u8]| {
        let arguments = ["replay", trace, "--simulate", "--ram-blocks", "3000", "--json"];
        let report = json(&ground.terrace_reading(&arguments, stdin));
        (count(&report, "references"), count(&report, "ram_hits"))
    };
    let wanted = from("t", b"");
    assert_eq!(wanted.0, 20_000);
    assert_eq!(from("-", &text), wanted);
    assert_eq!(from("-", &packed), wanted);
    // A pipe by its name, as a shell gives it for `<(command)`.
    assert_eq!(from("/dev/stdin", &text), wanted);
    assert_eq!(from("/dev/stdin", &packed), wanted);
}

#[test]
fn a_replay_checks_every_byte_and_leaves_nothing_behind() {
    let ground = Playground::new();
    ground.file("t", &msr_lines(4000));
    let before = ground.listing();
    for mode in ["around", "through", "back", "back-ssd"] {
        for threads in ["1", "4"] {
            let tiers = ["--ram-blocks", "500", "--ssd-size", "64MiB", "--block-size", "4k"];
            let run = ["replay", "t", "--write", mode, "--threads", threads, "--json"];
            let report = json(&ground.terrace(&[&run[..], &tiers].concat()));
            assert_eq!((count(&report, "requests"), count(&report, "volumes")), (4000, 2));
            laws_hold(&report);
        }
    }
    assert_eq!(ground.listing(), before);
}

#[test]
fn an_ordered_replay_writes_below_what_each_flush_left() {
    let ground = Playground::new();
    let lines = (0..50).map(|time| format!("{time},0,W,0,4096\n{time},0,F,0,0\n"));
    let text: String =
        std::iter::once("time_ns,volume,operation,offset,bytes\n".into()).chain(lines).collect();
    ground.file("t", text.as_bytes());
    let run = ["replay", "t", "--write", "back-ssd", "--ssd-size", "64MiB", "--block-size", "4k", "--json"];
    let with = json(&ground.terrace(&[&run[..], &["--ordered"]].concat()));
    assert_eq!(with["ordered"], true);
    assert!(count(&with, "disk_syncs") >= 50, "one block, 50 flushes: {}", with["disk_syncs"]);
}

#[test]
fn a_settled_replay_counts_what_the_simulation_counts() {
    let ground = Playground::new();
    ground.file("t", &msr_lines(1500));
    let run = ["replay", "t", "--json", "--block-size", "4k", "--ram-blocks", "300", "--ssd-blocks", "8192"];
    let hits = ["references", "reads", "writes", "ram_hits", "ssd_hits", "disk_reads"];
    let keys = [&hits[..], &["ssd_blocks_written", "ssd_log_bytes_written"]].concat();
    let counted = ["around", "through", "back", "back-ssd"].map(|mode| {
        let run = [&run[..], &["--write", mode]].concat();
        let with_data = json(&ground.terrace(&[&run[..], &["--settle"]].concat()));
        let without = json(&ground.terrace(&[&run[..], &["--simulate"]].concat()));
        for &key in &keys {
            assert_eq!(with_data[key], without[key], "{key} with {mode}");
        }
        [count(&without, "ssd_hits"), count(&without, "ssd_log_bytes_written")]
    });
    let [hits, logged] = [0, 1].map(|index| counted.map(|one| one[index]));
    assert!(hits[0] < hits[1] && hits[1] == hits[2], "only around keeps no copy: {hits:?}");
    assert!(logged[..3] == [0; 3] && logged[3] > 0, "only back-ssd has a log: {logged:?}");
}

#[test]
fn an_ssd_that_admits_all_is_written_more_and_a_settled_replay_counts_the_same() {
    let ground = Playground::new();
    ground.file("t", &many_ids(20_000));
    let run = ["replay", "t", "--json", "--block-size", "4k", "--ram-blocks", "300", "--ssd-blocks", "1024"];
    let written = ["earned", "all"].map(|admit| {
        let run = [&run[..], &["--ssd-admit", admit]].concat();
        let with_data = json(&ground.terrace(&[&run[..], &["--settle"]].concat()));
        let without = json(&ground.terrace(&[&run[..], &["--simulate"]].concat()));
        for key in ["ram_hits", "ssd_hits", "ssd_blocks_written"] {
            assert_eq!(with_data[key], without[key], "{key} with {admit}");
        }
        count(&without, "ssd_blocks_written")
    });
    assert!(written[1] > 2 * written[0], "{written:?}");
}

#[test]
fn a_settled_replay_of_a_recorded_trace_counts_what_the_simulation_counts() {
    let Some(trace) = recorded("lirs/multi3.trc.zst") else { return };
    let ground = Playground::new();
    let run =
        ["replay", &trace, "--json", "--block-size", "4k", "--ram-blocks", "1000", "--ssd-blocks", "4000"];
    let with_data = json(&ground.terrace(&[&run[..], &["--settle"]].concat()));
    let without = json(&ground.terrace(&[&run[..], &["--simulate"]].concat()));
    for key in
        ["references", "ram_hits", "ssd_hits", "disk_reads", "ssd_blocks_written", "ssd_blocks_reinserted"]
    {
        assert_eq!(with_data[key], without[key], "{key}");
    }
}

#[test]
fn a_second_pass_starts_warm_and_the_totals_are_sums() {
    let ground = Playground::new();
    ground.file("t", &many_ids(3000));
    let run = ["replay", "t", "--json", "--block-size", "4k", "--ram-blocks", "300", "--ssd-size", "64MiB"];
    let report = json(&ground.terrace(&[&run[..], &["--passes", "2"]].concat()));
    let passes = report["passes"].as_array().expect("a list");
    assert_eq!(passes.len(), 2);
    assert_eq!(
        count(&passes[0], "references") + count(&passes[1], "references"),
        count(&report, "references")
    );
    assert_eq!(count(&passes[1]["first_requests"], "requests"), 3000);
    assert!(count(&passes[1]["first_requests"], "ssd_hits") > 0, "the SSD kept nothing over the restart");
    assert!(count(&passes[1], "disk_reads") < count(&passes[0], "disk_reads"));
    laws_hold(&report);
}

#[test]
fn named_files_stay_and_the_tables_say_what_was_found() {
    let ground = Playground::new();
    ground.file("t", &many_ids(2000));
    let run =
        ground.terrace(&["replay", "t", "--ssd-file", "cache", "--ssd-size", "64MiB", "--backing", "disk"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(ground.path().join("cache").exists() && ground.path().join("disk").exists());
    for words in
        ["reads from RAM", "reads from SSD", "reads from disk", "p99.9", "every byte of 2,000 blocks"]
    {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
}

#[test]
fn ids_larger_than_any_block_number_are_replayed_all_the_same() {
    let ground = Playground::new();
    ground.file("t", b"18446744073709551615\n5\n18446744073709551615\n5\n");
    for how in [&["--simulate"][..], &[]] {
        let run = ["replay", "t", "--json", "--ram-blocks", "100"];
        let report = json(&ground.terrace(&[&run[..], how].concat()));
        assert_eq!((count(&report, "references"), count(&report, "ram_hits")), (4, 2));
    }
}

#[test]
fn bytes_changed_behind_the_caches_back_end_the_run_with_1_and_name_the_block() {
    let ground = Playground::new();
    let ids: Vec<u8> = (0..2000).flat_map(|id| format!("{id}\n").into_bytes()).collect();
    ground.file("t", &ids);
    // Reads in a row cost their bytes alone: at this rate the trace takes 32 s, and the file is spoiled long before its end.
    let run =
        ["replay", "t", "--block-size", "4k", "--backing", "disk", "--disk-bandwidth", "250KB/s", "--json"];
    let child = ground.command(&run).spawn().expect("the binary was built for this test");
    let disk = ground.path().join("disk");
    let patience = std::time::Instant::now();
    while std::fs::metadata(&disk).map_or(0, |metadata| metadata.len()) < 2000 * 4096 {
        assert!(patience.elapsed().as_secs() < 120, "the backing file did not come to be");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let file = std::fs::OpenOptions::new().write(true).open(&disk).expect("it is there");
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xee; 2000 * 4096], 0).expect("it has room");
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("terrace: wrong bytes in block ") && stderr.lines().count() == 1, "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(count(&report, "wrong_blocks") >= 1);
}

#[test]
fn help_and_version_go_to_standard_output_with_0() {
    let ground = Playground::new();
    for arguments in [&["--help"][..], &["--version"], &["replay", "--help"]] {
        let run = ground.terrace(arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(!run.stdout.is_empty());
    }
    let help = ground.terrace(&["replay", "--help"]).stdout;
    for word in ["--ram-size", "[default: 64MiB]", "wrong_blocks", "Exit codes"] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn another_policy_is_simulated_by_name_and_the_optimum_misses_least() {
    let ground = Playground::new();
    ground.file("t", &msr_lines(3000));
    let misses = |policy: &str| {
        let run = ["replay", "t", "--simulate", "--policy", policy, "--json", "--ram-blocks", "500"];
        let report = json(&ground.terrace(&[&run[..], &["--block-size", "4k"]].concat()));
        laws_hold(&report);
        assert_eq!(report["policy"], policy);
        count(&report, "references") - count(&report, "ram_hits")
    };
    let optimum = misses("belady");
    for policy in ["arc", "lru", "fifo", "clock", "s3-fifo", "sieve", "2q", "lirs", "w-tiny-lfu"] {
        assert!(misses(policy) > optimum, "{policy}");
    }
    let refused = ground.terrace(&["replay", "t", "--policy", "lru"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

/// Reads, writes, flushes and discards of two volumes; few of them begin or end between blocks, but for discards of multiples
/// of `unit`.
fn all_operations(requests: u64, unit: u64, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = "time_ns,volume,operation,offset,bytes\n".to_string();
    for number in 0..requests {
        let (volume, offset) = (random.u8(..2), random.u64(..200) * 3000);
        let (operation, bytes) = match random.u8(..12) {
            0 => ("flush", 0),
            1 => ("discard", (1 + random.u64(..40_000 / unit)) * unit),
            2..=5 => ("write", 1 + random.u64(..12_000)),
            _ => ("read", 1 + random.u64(..12_000)),
        };
        let offset = match operation {
            "flush" => 0,
            "discard" => offset / unit * unit,
            _ => offset,
        };
        text += &format!("{},v{volume},{operation},{offset},{bytes}\n", number * 1_000_000);
    }
    text
}

#[test]
fn discards_and_flushes_are_done_and_every_byte_after_them_is_right_in_every_mode() {
    let (ground, seed) = (Playground::new(), fastrand::u64(..));
    ground.file("t.csv", all_operations(3000, 1, seed).as_bytes());
    for mode in ["around", "through", "back", "back-ssd"] {
        for threads in ["1", "4"] {
            let tiers = ["--ram-blocks", "64", "--ssd-size", "64MiB", "--block-size", "4k"];
            let run = ["replay", "t.csv", "--write", mode, "--threads", threads, "--json"];
            let run = ground.terrace(&[&run[..], &tiers].concat());
            assert_eq!(run.code, Some(0), "seed {seed}, {mode}, {threads} threads: {}", run.stderr);
            let report = json(&run);
            assert_eq!((count(&report, "requests"), count(&report, "skipped_commands")), (3000, 0));
            laws_hold(&report);
            let of = |kind: &str| count(&report["latency_us"][kind], "count");
            assert!(of("discard") > 100 && of("flush") > 100, "seed {seed}");
            let reads =
                ["ram", "ssd", "disk"].into_iter().filter(|kind| !report["latency_us"][kind].is_null());
            let all = reads.chain(["write", "discard", "flush"]).map(of).sum::<u64>();
            assert_eq!(of("all"), all);
        }
    }
    let report = json(&ground.terrace(&["replay", "t.csv", "--as-reads", "--json"]));
    assert_eq!(count(&report, "requests") + count(&report, "skipped_commands"), 3000);
    assert_eq!((count(&report, "writes"), &report["latency_us"]["discard"]), (0, &Value::Null));
}

#[test]
fn a_settled_replay_with_discards_of_whole_blocks_is_predicted_to_the_block() {
    let (ground, seed) = (Playground::new(), fastrand::u64(..));
    ground.file("t.csv", all_operations(2000, 4096, seed).as_bytes());
    for mode in ["through", "back", "back-ssd"] {
        let tiers = ["--ram-blocks", "64", "--ssd-blocks", "128", "--block-size", "4k", "--shards", "2"];
        let run = ["replay", "t.csv", "--settle", "--predict", "--write", mode, "--json"];
        let report = json(&ground.terrace(&[&run[..], &tiers].concat()));
        let predicted = &report["prediction"];
        assert!(count(predicted, "ssd_hits") > 0, "seed {seed}");
        for key in ["read_ram_hits", "write_ram_hits", "ssd_hits", "disk_reads", "ssd_blocks_written"] {
            assert_eq!(report[key], predicted[key], "{key} with {mode}, seed {seed}");
        }
        for key in ["ram_points", "ssd_points", "disk_points"] {
            assert_eq!(predicted[key].as_f64(), Some(0.0), "{key}");
        }
        assert_eq!(predicted["read_mean_us"], Value::Null, "nobody said how fast the disk is");
    }
    let run = ["replay", "t.csv", "--predict", "--disk-latency", "8ms", "--limit", "100"];
    let shown = ground.terrace(&run);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for words in ["predicted", "measured", "points", "mean read latency"] {
        assert!(shown.stdout.contains(words), "{words}: {}", shown.stdout);
    }
}

#[test]
fn each_volume_has_its_backing_file_and_one_can_be_sent_elsewhere() {
    let ground = Playground::new();
    let line = |(volume, offset)| format!("0,{volume},write,{offset},4096\n");
    let writes: String = [("a", 0), ("b", 1 << 20), ("c", 2 << 20)].map(line).concat();
    ground.file("t.csv", format!("time_ns,volume,operation,offset,bytes\n{writes}").as_bytes());
    let length = |name: &str| std::fs::metadata(ground.path().join(name)).map(|file| file.len()).ok();
    let replay = |more: &[&str]| {
        let report =
            json(&ground.terrace(&[&["replay", "t.csv", "--json", "--block-size", "4k"], more].concat()));
        (count(&report, "volumes"), count(&report, "disk_write_bytes"))
    };
    assert_eq!(replay(&["--backing", "disk", "--map", "1=elsewhere"]), (3, 3 * 4096));
    let lengths = ["disk", "disk.1", "elsewhere", "disk.2"].map(length);
    assert_eq!(lengths, [Some(4096), None, Some((1 << 20) + 4096), Some((2 << 20) + 4096)]);
    let elsewhere = std::fs::read(ground.path().join("elsewhere")).expect("it was made");
    assert!(elsewhere[1 << 20..].iter().any(|&byte| byte != 0), "what was written there is there");
    // Of those that are picked the first has the path itself.
    assert_eq!(replay(&["--backing", "one", "--volume", "2", "--volume", "1"]), (2, 2 * 4096));
    assert_eq!(["one", "one.1", "one.2"].map(length), [Some((1 << 20) + 4096), None, Some((2 << 20) + 4096)]);
    let before = ground.listing();
    assert_eq!(replay(&["--volume", "0"]), (1, 4096));
    assert_eq!(ground.listing(), before, "temporary files go");
}

#[test]
fn a_part_of_a_trace_is_replayed_by_time_moment_number_and_volume() {
    let ground = Playground::new();
    // From 2007-02-22 17:24:38.758 on, every 100 us; two disks.
    ground.file("t", &msr_lines(3000));
    let requests = |more: &[&str]| {
        let run = ["replay", "t", "--simulate", "--ram-blocks", "100", "--json"];
        let report = json(&ground.terrace(&[&run[..], more].concat()));
        count(&report, "requests")
    };
    assert_eq!(requests(&["--from", "100ms"]), 2000);
    assert_eq!(requests(&["--from", "100ms", "--to", "150ms"]), 500);
    assert_eq!(requests(&["--from", "100ms", "--limit", "7"]), 7);
    let of_one = requests(&["--volume", "0"]);
    assert!(of_one > 0 && of_one + requests(&["--volume", "1"]) == 3000);
    let all = requests(&["--from", "2007-02-22T17:24:38Z"]);
    let until = requests(&["--to", "2007-02-22T17:24:38.9Z"]);
    assert_eq!((all, until + requests(&["--from", "2007-02-22T17:24:38.9Z"])), (3000, 3000));
    assert!(until > 1000 && until < 2000, "{until}");
}
