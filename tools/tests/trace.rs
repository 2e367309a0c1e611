//! `terrace trace` as a process: what it says, what it writes, and what others' tools say of that.

mod common;

use std::fmt::Write as _;
use std::process::Command;

use common::{Playground, is_slow_run, json, recorded};
use serde_json::Value;

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no `{key}`"))
}

/// Runs `terrace trace` with `arguments`, which must work; gives what it printed.
fn trace(ground: &Playground, arguments: &[&str]) -> String {
    let run = ground.terrace(&[&["trace"], arguments].concat());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    run.stdout
}

/// The same where it must be refused, with one line and a way out, and nothing made.
fn refused(ground: &Playground, arguments: &[&str]) -> String {
    let before = ground.listing();
    let run = ground.terrace(&[&["trace"], arguments].concat());
    let stderr = run.stderr;
    assert_eq!(run.code, Some(2), "{arguments:?}: {stderr}");
    assert!(stderr.lines().count() == 1 && stderr.contains("; "), "{arguments:?}: {stderr}");
    assert_eq!(ground.listing(), before, "{arguments:?} changed the directory");
    stderr
}

fn info(ground: &Playground, trace: &str) -> Value {
    json(&ground.terrace(&["trace", "info", trace, "--json"]))
}

/// A CSV of SPC: two units, a request each 10 ms.
fn spc(requests: u32) -> String {
    let mut text = String::new();
    for number in 0..requests {
        let kind = if number % 4 == 0 { 'w' } else { 'r' };
        let seconds = f64::from(number) / 100.0;
        let sector = u64::from(number) * 7 % 1000;
        writeln!(text, "{},{sector},512,{kind},{seconds:.2}", number % 2).expect("a string takes everything");
    }
    text
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().skip(1).collect()
}

#[test]
fn info_says_format_units_duration_and_volumes() {
    let ground = Playground::new();
    ground.file("t.spc", spc(1000).as_bytes());
    let report = info(&ground, "t.spc");
    assert_eq!((report["format"].as_str(), report["packing"].as_str()), (Some("spc"), Some("plain")));
    assert_eq!((count(&report, "requests"), count(&report, "writes")), (1000, 250));
    assert_eq!(report["duration_seconds"].as_f64(), Some(9.99));
    assert_eq!(report["volumes"].as_array().map(Vec::len), Some(2));
    let text = trace(&ground, &["info", "t.spc"]);
    for words in
        ["t.spc: spc; 512-byte sectors and bytes, times in s", "10.0 s, 100.1 requests a second", "250"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_trace_goes_through_every_format_and_stays_what_it_is() {
    let ground = Playground::new();
    ground.file("t.spc", spc(500).as_bytes());
    trace(&ground, &["convert", "t.spc", "t.trc"]);
    trace(&ground, &["convert", "t.trc", "from-ours.csv", "--as", "csv"]);
    trace(&ground, &["convert", "t.spc", "direct.csv", "--as", "csv"]);
    let read = |name: &str| std::fs::read_to_string(ground.path().join(name)).expect("it was made");
    assert_eq!(read("from-ours.csv"), read("direct.csv"));
    let packed = zstd::encode_all(&std::fs::read(ground.path().join("t.trc")).expect("it was made")[..], 1);
    ground.file("t.trc.zst", &packed.expect("in memory"));
    trace(&ground, &["convert", "t.trc.zst", "from-packed.csv", "--as", "csv"]);
    assert_eq!(read("from-packed.csv"), read("direct.csv"));
    trace(&ground, &["convert", "direct.csv", "t.fio", "--as", "fio"]);
    trace(&ground, &["convert", "t.fio", "from-fio.csv", "--as", "csv"]);
    assert_eq!(read("from-fio.csv"), read("direct.csv"));
    // Volumes of objects are in the upper bits.
    trace(&ground, &["convert", "t.trc", "t.lcs", "--as", "lcs"]);
    let report = json(&ground.terrace(&["trace", "info", "t.lcs", "--json"]));
    assert_eq!((count(&report, "requests"), count(&report, "writes")), (500, 125));
    refused(&ground, &["convert", "t.spc", "t.fio"]);
}

#[test]
fn a_part_is_cut_by_time_number_and_volume_the_same_with_an_index_and_without() {
    let ground = Playground::new();
    ground.file("t.spc", spc(1000).as_bytes());
    trace(&ground, &["convert", "t.spc", "t.trc"]);
    for (number, (window, requests)) in [
        (&["--from", "1s", "--to", "2s"][..], 100),
        (&["--from-request", "10", "--to-request", "30"], 20),
        (&["--volume", "1", "--to", "1s"], 50),
        (&["--volume", "1", "--volume", "0"], 1000),
        (&["--from", "9990ms"], 1),
    ]
    .into_iter()
    .enumerate()
    {
        let cut = |from: &str| {
            let to = format!("{number}-{from}.csv");
            trace(&ground, &[&["cut", from, &to, "--as", "csv"], window].concat());
            std::fs::read_to_string(ground.path().join(to)).expect("it was made")
        };
        let (plain, indexed) = (cut("t.spc"), cut("t.trc"));
        assert_eq!(lines(&plain).len(), requests, "{window:?}");
        assert_eq!(plain, indexed, "{window:?}");
    }
    ground.file("ids", b"1\n2\n");
    refused(&ground, &["cut", "ids", "x", "--from", "1s"]);
    refused(&ground, &["cut", "t.spc", "x", "--from", "100s"]);
    refused(&ground, &["cut", "t.spc", "x", "--from", "2s", "--to", "1s"]);
}

#[test]
fn the_whole_part_of_a_recording_cut_short_can_be_saved() {
    let ground = Playground::new();
    trace(&ground, &["generate", "t.trc", "--requests", "200000", "--size", "64MiB"]);
    let whole = std::fs::read(ground.path().join("t.trc")).expect("it was made");
    ground.file("short.trc", &whole[..whole.len() * 2 / 3]);
    let line = refused(&ground, &["convert", "short.trc", "x"]);
    let kept =
        line.split("--to-request ").nth(1).and_then(|rest| rest.split('`').next()).expect("it says how");
    trace(&ground, &["cut", "short.trc", "saved.trc", "--to-request", kept]);
    assert_eq!(count(&info(&ground, "saved.trc"), "requests").to_string(), kept);
}

#[test]
fn traces_are_merged_in_the_order_of_time() {
    let ground = Playground::new();
    ground.file("a.csv", b"time_ns,volume,operation,offset,bytes\n10,x,read,0,1\n30,y,write,0,2\n");
    ground.file("b.csv", b"time_ns,volume,operation,offset,bytes\n20,x,read,0,3\n40,x,flush,0,0\n");
    let merged = |to: &str, more: &[&str]| {
        trace(&ground, &[&["merge", "a.csv", "b.csv", "--output", to, "--as", "csv"], more].concat());
        let text = std::fs::read_to_string(ground.path().join(to)).expect("it was made");
        lines(&text).into_iter().map(String::from).collect::<Vec<_>>()
    };
    let apart =
        ["10,volume-0,read,0,1", "20,volume-1,read,0,3", "30,volume-2,write,0,2", "40,volume-1,flush,0,0"];
    assert_eq!(merged("apart", &[]), apart);
    let by_name =
        ["10,volume-0,read,0,1", "20,volume-0,read,0,3", "30,volume-1,write,0,2", "40,volume-0,flush,0,0"];
    assert_eq!(merged("by-name", &["--volumes", "by-name"]), by_name);
    let mapped =
        ["10,volume-0,read,0,1", "20,volume-1,read,0,3", "30,volume-1,write,0,2", "40,volume-1,flush,0,0"];
    assert_eq!(merged("mapped", &["--map", "1:0=0", "--map", "1:1=1", "--map", "2:0=1"]), mapped);
    let aligned =
        ["0,volume-0,read,0,1", "0,volume-1,read,0,3", "20,volume-2,write,0,2", "20,volume-1,flush,0,0"];
    assert_eq!(merged("aligned", &["--align"]), aligned);
    ground.file("ids", b"1\n");
    refused(&ground, &["merge", "a.csv", "ids", "--output", "x"]);
    refused(&ground, &["merge", "a.csv", "b.csv", "--output", "x", "--map", "3:0=0"]);
}

#[test]
fn what_is_not_aligned_is_said_with_the_shift_that_aligns_it() {
    let ground = Playground::new();
    let text: String = (0..100).map(|page| format!("0,{},4096,r,{page}\n", 63 + 8 * page)).collect();
    ground.file("t.spc", text.as_bytes());
    let report = info(&ground, "t.spc");
    assert_eq!((count(&report, "shift_bytes"), count(&report, "references")), (512, 200));
    assert!(trace(&ground, &["info", "t.spc"]).contains("--shift 512 aligns them"));
    let moved = json(&ground.terrace(&["trace", "info", "t.spc", "--json", "--shift", "512"]));
    assert_eq!((moved["shift_bytes"].as_u64(), count(&moved, "references")), (None, 100));
    let run = ["replay", "t.spc", "--simulate", "--block-size", "4k", "--json"];
    let replayed = json(&ground.terrace(&[&run[..], &["--shift", "512"]].concat()));
    assert_eq!((count(&replayed, "references"), replayed["aligning_shift_bytes"].as_u64()), (100, None));
    assert_eq!(count(&json(&ground.terrace(&run)), "aligning_shift_bytes"), 512);
}

#[test]
fn named_columns_read_a_table_and_replay_does_its_flushes_and_discards() {
    let ground = Playground::new();
    ground.file("t", b"a;1;W;0;8\na;2;F;0;0\nb;3;R;8;8\na;4;D;0;8\na;5;R;0;8\n");
    let how = ["--columns", "volume,time:ms,op,offset:512,size:512", "--separator", ";"];
    let report = json(&ground.terrace(&[&["trace", "info", "t", "--json"], &how[..]].concat()));
    assert_eq!(["reads", "writes", "flushes", "discards"].map(|key| count(&report, key)), [2, 1, 1, 1]);
    for mode in ["back", "through"] {
        let run = ["replay", "t", "--json", "--block-size", "4k", "--write", mode];
        let replayed = json(&ground.terrace(&[&run[..], &how].concat()));
        assert_eq!(["requests", "skipped_commands", "volumes"].map(|key| count(&replayed, key)), [5, 0, 2]);
        assert_eq!((count(&replayed, "references"), count(&replayed, "wrong_blocks")), (3, 0));
        assert!(count(&replayed, "disk_syncs") >= 1);
    }
    refused(&ground, &["info", "t", "--columns", "time,op"]);
    refused(&ground, &["info", "t", "--columns", "volume,time,op,offset,size"]);
}

/// Whether the tool is there, with a word about it where it is not.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
fn has_tool(name: &str) -> bool {
    let is_there =
        Command::new(name).arg("--version").output().is_ok() || Command::new(name).arg("-V").output().is_ok();
    if !is_there {
        println!("skipped: no {name} on this machine");
    }
    is_there
}

#[test]
fn fio_replays_what_we_write_and_we_read_what_fio_writes() {
    if !has_tool("fio") {
        return;
    }
    let ground = Playground::new();
    let shape =
        ["--size", "8MiB", "--request-size", "4KiB-16KiB", "--flush-every", "100", "--rate", "100000"];
    trace(&ground, &[&["generate", "t.trc", "--requests", "2000"], &shape[..]].concat());
    trace(&ground, &["convert", "t.trc", "t.fio", "--as", "fio"]);
    ground.file("volume-0", &vec![0; 8 << 20]);
    let fio = |arguments: &[&str]| -> Value {
        let fixed = ["--name=job", "--ioengine=psync", "--output-format=json", "--output=out.json"];
        let run = Command::new("fio").args(fixed).args(arguments).current_dir(ground.path()).output();
        assert!(run.expect("fio was there before").status.success(), "{arguments:?}");
        let out = std::fs::read_to_string(ground.path().join("out.json")).expect("fio made it");
        serde_json::from_str::<Value>(&out).expect("JSON")["jobs"][0].clone()
    };
    let same = |job: &Value, report: &Value| {
        for (ours, theirs) in [("reads", "read"), ("writes", "write")] {
            assert_eq!(Some(count(report, ours)), job[theirs]["total_ios"].as_u64(), "{ours}");
        }
        assert_eq!(Some(count(report, "read_bytes")), job["read"]["io_bytes"].as_u64());
        assert_eq!(Some(count(report, "written_bytes")), job["write"]["io_bytes"].as_u64());
    };
    let job = fio(&["--read_iolog=t.fio", "--replay_no_stall=1"]);
    let ours = info(&ground, "t.trc");
    same(&job, &ours);
    assert_eq!(Some(count(&ours, "flushes")), job["sync"]["total_ios"].as_u64());
    let job = fio(&["--filename=file", "--size=1m", "--bs=4k", "--rw=randrw", "--write_iolog=log"]);
    let theirs = info(&ground, "log");
    assert_eq!(theirs["format"].as_str(), Some("fio"));
    same(&job, &theirs);
}

/// A recording of blktrace by one processor, number 0, as blkparse wants it.
fn on_processor_0(mut recording: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while at < recording.len() {
        recording[at + 40..at + 44].fill(0);
        at += 48 + usize::from(u16::from_le_bytes([recording[at + 46], recording[at + 47]]));
    }
    recording
}

#[test]
fn blkparse_says_the_requests_that_we_read_from_its_recording() {
    let Some(path) = recorded("blktrace/sample.blktrace.0.zst") else { return };
    if !has_tool("blkparse") {
        return;
    }
    let ground = Playground::new();
    let packed = std::fs::File::open(path).expect("it is there");
    ground.file("disk.blktrace.0", &on_processor_0(zstd::decode_all(packed).expect("it is whole")));
    let said = Command::new("blkparse").args(["-i", "disk"]).current_dir(ground.path()).output();
    ground.file("said", &said.expect("blkparse was there before").stdout);
    let table = |from: &str, to: &str| -> Vec<(u64, String)> {
        trace(&ground, &["convert", from, to, "--as", "csv"]);
        let text = std::fs::read_to_string(ground.path().join(to)).expect("it was made");
        let row = |line: &str| {
            line.split_once(',').map(|(time, rest)| (time.parse().expect("a time"), rest.into()))
        };
        lines(&text).into_iter().filter_map(row).collect()
    };
    let (ours, theirs) = (table("disk.blktrace.0", "a"), table("said", "b"));
    assert_eq!((ours.len(), theirs.len()), (963, 963));
    // blkparse counts from its first event.
    let begun = ours[0].0 - theirs[0].0;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!((ours.0 - begun, &ours.1), (theirs.0, &theirs.1));
    }
}

#[test]
fn a_long_trace_takes_no_more_memory_than_a_short_one() {
    let ground = Playground::new();
    let peak = |requests: &str| {
        let to = format!("{requests}.csv");
        trace(
            &ground,
            &[
                "generate",
                &to,
                "--as",
                "csv",
                "--requests",
                requests,
                "--size",
                "16GiB",
                "--pattern",
                "uniform",
            ],
        );
        let report = info(&ground, &to);
        std::fs::remove_file(ground.path().join(to)).expect("it was made");
        assert_eq!(count(&report, "requests").to_string(), requests);
        count(&report, "memory_peak_bytes")
    };
    // The sample of blocks is at its largest in both.
    let (short, long) = if is_slow_run() { ("3000000", "40000000") } else { ("1500000", "3000000") };
    let (short, long) = (peak(short), peak(long));
    assert!(long < short + (8 << 20) && long < 200 << 20, "{short} bytes, {long} bytes");
}
