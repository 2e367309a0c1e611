//! `terrace ctl`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::common::{Playground, Run};
use crate::harness::{MIB, Server, have, make_disk, nbdsh};

fn ctl(ground: &Playground, arguments: &[&str]) -> Run {
    ground.terrace(&[&["ctl", "--socket", "nbd.control"], arguments].concat())
}

/// What it prints when it goes well.
fn told(ground: &Playground, arguments: &[&str]) -> String {
    let run = ctl(ground, arguments);
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
    run.stdout.trim_end().to_string()
}

fn json(ground: &Playground, command: &str) -> Value {
    serde_json::from_str(&told(ground, &["--json", command])).expect("JSON")
}

fn refused(ground: &Playground, arguments: &[&str]) -> String {
    let run = ctl(ground, arguments);
    assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1), "{arguments:?}: {}", run.stderr);
    run.stderr
}

#[test]
fn stats_count_what_clients_did_by_operation_and_where_it_came_from() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    nbdsh(
        &ground,
        "
h.pwrite(b'x' * 4096, 0)
h.pread(4096, 0)
h.pread(4096, 1 << 20)
h.flush()
try:
    h.set_strict_mode(0)
    h.pread(4096, 4 << 20)
except nbd.Error:
    pass
",
    );
    let stats = json(&ground, "stats");
    let operations = stats["exports"][0]["operations"].as_array().expect("a list");
    let count = |name: &str| {
        let operation = operations.iter().find(|operation| operation["operation"] == name).expect(name);
        (operation["count"].as_u64(), operation["bytes"].as_u64(), operation["errors"].as_u64())
    };
    assert_eq!(count("read_ram"), (Some(1), Some(4096), Some(0)));
    assert_eq!(count("read_disk"), (Some(1), Some(4096), Some(0)));
    assert_eq!(count("write"), (Some(1), Some(4096), Some(0)));
    assert_eq!(count("flush"), (Some(1), Some(0), Some(0)));
    assert_eq!(stats["counters"]["disk_reads"], 1);
    assert_eq!(stats["now"]["dirty_blocks"], 0);
    assert_eq!(stats["clients"]["accepted"], 1);
    let table = told(&ground, &["stats"]);
    assert!(table.contains("read ram") && table.contains("dirty on the SSD"), "{table}");
    assert!(told(&ground, &["exports"]).contains("disk"));
    assert!(json(&ground, "connections").is_array());
    assert_eq!(told(&ground, &["what-if"]), "not enough traffic was seen yet");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn modes_and_sizes_change_while_the_service_runs() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--ssd-file", "ssd", "--ssd-size", "128MiB"]);
    assert_eq!(told(&ground, &["set-mode", "back-ssd", "disk"]), "disk writes in mode back-ssd");
    assert_eq!(json(&ground, "exports")[0]["mode"], "back-ssd");
    assert!(told(&ground, &["safe-to-unplug"]).starts_with("no: exports write back to it: disk"));
    assert!(refused(&ground, &["detach-ssd"]).contains("give it another mode first"));
    assert_eq!(told(&ground, &["set-mode", "through"]), "every export writes in mode through");
    assert!(told(&ground, &["safe-to-unplug"]).starts_with("yes: "));
    // What the cache made of it.
    let room = |size: &str| -> u64 {
        let told = told(&ground, &["resize-ram", &format!("{size}MiB")]);
        let blocks = told.strip_prefix(&format!("RAM has {size} MiB and room for ")).expect("it says so");
        blocks.split(' ').next().expect("a word").parse().expect("a number")
    };
    let (small, large) = (room("32"), room("64"));
    assert!((1800..2048).contains(&small) && (1800..2048).contains(&(large / 2)), "{small}, {large} blocks");
    assert!(told(&ground, &["resize-ssd", "256MiB"]).starts_with("the SSD has 256 MiB and room for "));
    assert_eq!(told(&ground, &["flush"]), "everything written before is durable");
    assert_eq!(told(&ground, &["drain"]), "the disks durably have everything");
    told(&ground, &["detach-ssd"]);
    assert_eq!(json(&ground, "stats")["ssd_bytes"], Value::Null);
    told(&ground, &["attach-ssd", "ssd", "128MiB"]);
    assert_eq!(json(&ground, "stats")["ssd_bytes"], 128 << 20);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_clients_ask_is_recorded_while_that_is_wanted() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &[]);
    assert!(refused(&ground, &["stop-recording"]).contains("nothing is recorded"));
    told(&ground, &["record", "trace"]);
    assert!(refused(&ground, &["record", "another"]).contains("a recording is running"));
    nbdsh(&ground, "h.pread(4096, 0)\nh.pread(4096, 0)\nh.pwrite(b'x', 5)\nh.flush()\n");
    assert_eq!(told(&ground, &["stop-recording"]), "4 requests were recorded, 0 lost");
    let info = ground.terrace(&["trace", "info", "trace.1"]);
    assert_eq!(info.code, Some(0), "{}", info.stderr);
    assert_eq!(json(&ground, "stats")["recording"]["requests"], 4);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_cannot_be_is_said_in_one_line_and_the_service_goes_on() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &[]);
    assert!(refused(&ground, &["flush", "dusk"]).contains("there is no export dusk; there are disk"));
    refused(&ground, &["set-mode", "back-ssd"]);
    refused(&ground, &["set-mode", "later"]);
    refused(&ground, &["resize-ram", "4k"]);
    refused(&ground, &["resize-ssd", "1GiB"]);
    refused(&ground, &["attach-ssd", "missing/file", "128MiB"]);
    refused(&ground, &["frob"]);
    let nobody = ground.terrace(&["ctl", "--socket", "nowhere", "stats"]);
    assert_eq!(nobody.code, Some(2));
    assert!(nobody.stderr.contains("name the socket"), "{}", nobody.stderr);
    let mut stream = UnixStream::connect(ground.path().join("nbd.control")).expect("it is served");
    let mut answers = BufReader::new(stream.try_clone().expect("a second handle"));
    for line in ["", "{}", "nonsense", "{\"command\": \"format\"}", "{\"command\": \"drain\"}"] {
        stream.write_all(format!("{line}\n").as_bytes()).expect("the service reads");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("it answers");
        let answer: Value = serde_json::from_str(&answer).expect("one object a line");
        let key = if line.contains("drain") { "result" } else { "error" };
        assert!(answer[key].is_string(), "{line}: {answer}");
    }
    assert_eq!(server.stop().code, Some(0));
}
