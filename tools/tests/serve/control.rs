//! `terrace ctl`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::common::{Playground, Run};
use crate::harness::{MIB, Server, have, make_disk, nbdsh, number, run, stats};
use crate::raw::{Ask, Client, READ};

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
    let lacks = told(&ground, &["what-if"]);
    let progress = &json(&ground, "what-if")["progress"];
    assert!(number(&progress["references_seen"]) < number(&progress["references_wanted"]), "{progress}");
    assert!(lacks.starts_with("not enough traffic was seen yet: ") && lacks.contains(" of "), "{lacks}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn modes_change_and_the_ssd_goes_and_comes_while_the_service_runs() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--ssd-file", "ssd", "--ssd-size", "128MiB"]);
    assert_eq!(told(&ground, &["set-mode", "back-ssd", "disk"]), "disk writes in mode back-ssd");
    assert_eq!(json(&ground, "exports")[0]["mode"], "back-ssd");
    for arguments in [&["safe-to-unplug"][..], &["--json", "safe-to-unplug"]] {
        let run = ctl(&ground, arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(1), ""), "{arguments:?}: {}", run.stdout);
        assert!(run.stdout.contains("exports write back to it: disk"), "{}", run.stdout);
    }
    assert!(refused(&ground, &["detach-ssd"]).contains("give it another mode first"));
    assert_eq!(told(&ground, &["set-mode", "through"]), "every export writes in mode through");
    assert!(told(&ground, &["safe-to-unplug"]).starts_with("yes: "));
    assert_eq!(told(&ground, &["flush"]), "everything written before is durable");
    assert_eq!(told(&ground, &["drain"]), "the disks durably have everything");
    told(&ground, &["detach-ssd"]);
    assert_eq!(json(&ground, "stats")["ssd_bytes"], Value::Null);
    told(&ground, &["attach-ssd", "ssd", "128MiB"]);
    assert_eq!(json(&ground, "stats")["ssd_bytes"], 128 << 20);
    assert_eq!(server.stop().code, Some(0));
}

/// The disk is written by somebody else meanwhile, which nobody may, and the service does not look.
#[test]
fn what_is_forgotten_is_what_the_disk_has() {
    let ground = Playground::new();
    let disk = make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    let mut client = Client::at(ground.path());
    let mut first_byte = |block: u64| {
        let ask = Ask { command: READ, offset: block << 14, length: 1, ..Ask::default() };
        client.ask(&ask, &[]).expect("it is read")[0]
    };
    assert_eq!((first_byte(0), first_byte(1), first_byte(2)), (0, 0, 0));
    std::fs::write(disk, vec![7; 4 * MIB]).expect("it is ours");
    assert_eq!((first_byte(0), first_byte(1), first_byte(2)), (0, 0, 0), "it has them in RAM");
    let said = told(&ground, &["forget", "disk", "16KiB", "16KiB"]);
    assert_eq!(said, "16384 bytes at 16384 of disk are what the disk has");
    assert_eq!((first_byte(0), first_byte(1), first_byte(2)), (0, 7, 0));
    assert!(refused(&ground, &["forget", "disk", "1", "16KiB"]).contains("not whole blocks"));
    assert!(refused(&ground, &["forget", "disk", "0", "5MiB"]).contains("past the end"));
    assert!(refused(&ground, &["forget", "dusk", "0", "16KiB"]).contains("there is no export dusk"));
    assert_eq!(told(&ground, &["lost"]), "nothing is lost");
    assert!(refused(&ground, &["lost", "dusk"]).contains("there is no export dusk"));
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_tier_has_the_size_that_was_told_when_its_resize_is_answered() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &[]);
    let mut client = Client::at(ground.path());
    // Reads all blocks of the disk; how many of them RAM had not.
    let mut missed = || {
        let disk_reads = || number(&stats(&ground)["counters"]["disk_reads"]);
        let before = disk_reads();
        for block in 0..256 {
            let ask = Ask { command: READ, offset: block << 14, length: 16 << 10, ..Ask::default() };
            assert!(client.ask(&ask, &[]).is_ok());
        }
        disk_reads() - before
    };
    assert_eq!((missed(), missed()), (256, 0));
    let small = resize(&ground, "ram", "RAM", 1);
    assert!((16..64).contains(&small), "{small} blocks");
    assert!(missed() >= 256 - small, "no more are there than there is room for");
    assert!((1800..2048).contains(&resize(&ground, "ram", "RAM", 32)));
    missed();
    assert_eq!(missed(), 0, "all have room again");
    assert_eq!(server.stop().code, Some(0));

    let server = Server::of_disk(&ground, &["--ssd-file", "ssd", "--ssd-size", "128MiB"]);
    let has = || {
        let file = std::fs::metadata(ground.path().join("ssd")).expect("it is there");
        (number(&stats(&ground)["now"]["ssd_capacity_blocks"]), file.len() >> 20)
    };
    let (before, file_mib) = has();
    assert!(file_mib <= 128, "{file_mib} MiB");
    let large = resize(&ground, "ssd", "the SSD", 256);
    assert!(large > before + 4096, "{before} blocks, then {large}");
    let (now, file_mib) = has();
    assert!(now == large && (129..=256).contains(&file_mib), "{now} blocks in {file_mib} MiB");
    assert_eq!(resize(&ground, "ssd", "the SSD", 128), before);
    assert!(has().0 == before && has().1 <= 128, "{:?}", has());
    assert_eq!(server.stop().code, Some(0));
}

/// Gives a tier so many MiB; for how many blocks it says that this is room.
fn resize(ground: &Playground, tier: &str, name: &str, mib: u64) -> u64 {
    let told = told(ground, &[&format!("resize-{tier}"), &format!("{mib}MiB")]);
    let blocks = told.strip_prefix(&format!("{name} has {mib} MiB and room for ")).expect("it says so");
    assert_eq!(number(&stats(ground)[format!("{tier}_bytes")]), mib << 20);
    blocks.split(' ').next().expect("a word").parse().expect("a number")
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
fn a_service_that_is_told_to_records_from_its_start_on_and_goes_on_behind_that_at_the_next() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    for files in [1, 2] {
        let server = Server::of_disk(&ground, &["--record", "trace", "--record-size", "64MiB"]);
        nbdsh(&ground, "h.pread(4096, 0)\nh.pwrite(b'x', 5)\nh.flush()\n");
        assert!(refused(&ground, &["record", "another"]).contains("a recording is running"));
        assert_eq!(server.stop().code, Some(0));
        let info = ground.terrace(&["trace", "info", "trace", "--json"]);
        let info: Value = serde_json::from_str(&info.stdout).expect("JSON");
        assert_eq!((number(&info["files"]), number(&info["requests"])), (files, 3 * files));
    }
    let serve = ["serve", "--backing", "disk", "--listen", "unix:nbd", "--record", "missing/trace"];
    let run = ground.terrace(&serve);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("nothing is recorded"), "{}", run.stderr);
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
    let nobody = ground.terrace(&["ctl", "--socket", "nowhere", "safe-to-unplug"]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(2), ""), "that is no answer");
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

/// The listener could not let the owner in for lack of descriptors, and tried again at once, on a whole processor.
#[test]
fn an_owner_for_whom_there_is_no_descriptor_costs_no_processor() {
    if !have(&["prlimit"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let mut server = Server::of_disk(&ground, &[]);
    let pid = server.pid().to_string();
    let limit = |count: &str| run(&ground, "prlimit", &["--pid", &pid, &format!("--nofile={count}:")]);
    let since = std::time::Instant::now();
    limit("3");
    let owner = UnixStream::connect(ground.path().join("nbd.control")).expect("it listens");
    let refused = "the owner could not be let in";
    assert!(server.next_line().contains(refused));
    std::thread::sleep(std::time::Duration::from_secs(1));
    limit("1024");
    let tries_max = 1 + since.elapsed().as_millis() / 100;
    drop(owner);
    assert_eq!(json(&ground, "exports")[0]["name"], "disk");
    let ended = server.stop();
    assert_eq!(ended.code, Some(0));
    let tries = ended.stderr.lines().filter(|line| line.contains(refused)).count() as u128;
    assert!(tries <= tries_max, "{tries} tries, and time for {tries_max}");
}
