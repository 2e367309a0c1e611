//! What is there after SIGKILL.

use crate::common::Playground;
use crate::harness::{
    MIB, Server, contents, have, make_disk, nbdsh, noise, number, run, seed, stats, stats_when_read, uri,
};

const SERVE: [&str; 11] = [
    "serve",
    "--backing",
    "disk",
    "--listen",
    "unix:nbd",
    "--ram-size",
    "16MiB",
    "--ssd-file",
    "ssd",
    "--ssd-size",
    "128MiB",
];

/// Lives that end by SIGKILL, each at another place of a script that never stops writing. What was flushed, or written with
/// FUA, is there in the next life; what was not is as it was or as it was to be.
#[test]
fn what_was_flushed_to_the_ssd_is_there_after_each_of_many_kills() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    let disk = make_disk(&ground, "disk", 16 * MIB);
    let back_ssd = [&SERVE[..], &["--write", "back-ssd"]].concat();
    let seed = seed();
    for life in 0..5 {
        let server = Server::start(&ground, &back_ssd);
        let script = LIFE.replace("SEED", &(seed.wrapping_add(life) % 1000).to_string());
        nbdsh(&ground, &script.replace("LIFE", &life.to_string()).replace("PID", &server.pid().to_string()));
        server.ended();
    }
    let server = Server::start(&ground, &back_ssd);
    nbdsh(&ground, CHECK);
    assert_eq!(server.stop().code, Some(0));
    // In another mode the log goes below before anybody is let in, and the disk alone has it all.
    let server = Server::start(&ground, &SERVE);
    nbdsh(&ground, CHECK);
    assert_eq!(server.stop().code, Some(0));
    let stored = contents(&disk);
    let through_the_cache = std::fs::read(ground.path().join("read")).expect("the script wrote it");
    assert!(stored == through_the_cache);
}

#[test]
fn a_disk_is_not_served_without_the_ssd_that_has_its_newest_blocks_unless_they_are_given_up() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 16 * MIB);
    let server = Server::start(&ground, &[&SERVE[..], &["--write", "back-ssd"]].concat());
    nbdsh(&ground, "h.pwrite(b'x' * 4096, 0)\nh.flush()");
    server.kill();
    let without = ["serve", "--backing", "disk", "--listen", "unix:nbd"];
    let refused = |arguments: &[&str]| {
        let run = ground.terrace(arguments);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1), "{}", run.stderr);
        assert!(run.stderr.contains("--stale-ssd forget"), "{}", run.stderr);
    };
    refused(&without);
    refused(&[&SERVE[..], &["--export", "another-name"]].concat());
    let server = Server::start(&ground, &SERVE);
    nbdsh(&ground, "assert h.pread(4096, 0) == b'x' * 4096");
    assert_eq!(server.stop().code, Some(0));
    // The disk has it now.
    assert_eq!(Server::start(&ground, &without).stop().code, Some(0));
    let server = Server::start(&ground, &[&SERVE[..], &["--write", "back-ssd"]].concat());
    nbdsh(&ground, "h.pwrite(b'y' * 4096, 0)\nh.flush()");
    server.kill();
    refused(&without);
    let server = Server::start(&ground, &[&without[..], &["--stale-ssd", "forget"]].concat());
    nbdsh(&ground, "assert h.pread(1, 0) in (b'x', b'y')");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn the_ssd_stays_warm_over_a_kill_when_nobody_else_writes_to_the_disk() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for more in [&[][..], &["--exclusive"], &["--exclusive", "--mark", "kept"]] {
        let ground = Playground::new();
        ground.file("disk", &noise(seed(), 64 * MIB));
        let arguments = [&SERVE[..], more].concat();
        let read_all = || run(&ground, "nbdcopy", &["--requests=2", &uri(&ground, ""), "null:"]);
        let server = Server::start(&ground, &arguments);
        // Until many segments are full, and nothing is on its way that belongs to them.
        loop {
            read_all();
            let stats = stats(&ground);
            let written = number(&stats["counters"]["ssd_blocks_written"]);
            if written > 2000 && number(&stats["now"]["ssd_queue_depth"]) == 0 {
                break;
            }
        }
        server.kill();
        let server = Server::start(&ground, &arguments);
        let before = stats_when_read(&ground);
        // Every block is read once: what hits was there before.
        read_all();
        let after = stats(&ground);
        let hits = number(&after["counters"]["ssd_hits"]);
        assert_eq!(hits > 0, !more.is_empty(), "{more:?}: {before} {after}");
        assert_eq!(ground.path().join("kept").exists(), more.contains(&"--mark"), "{more:?}");
        assert_eq!(server.stop().code, Some(0));
    }
}

/// Sectors 0 to 1023, each in a page of its own; `model` has for each what it may be.
const LIFE: &str = r#"
import json, os, random, signal
pages = 1024
try:
    model = json.load(open("model"))
except FileNotFoundError:
    model = [[0]] * pages
random.seed(SEED)
def read(page):
    data = h.pread(512, page * 4096)
    number = int.from_bytes(data[:8], "little")
    assert data == (number.to_bytes(8, "little") * 64), "a torn sector in page %d" % page
    return number
for page in range(pages):
    number = read(page)
    assert number in model[page], "page %d is %d, of %s" % (page, number, model[page])
    model[page] = [number]
number = LIFE * 100000
for step in range(random.randrange(200, 1500)):
    number += 1
    page = random.randrange(pages)
    flags = nbd.CMD_FLAG_FUA if random.randrange(50) == 0 else 0
    model[page] = model[page] + [number]
    h.pwrite(number.to_bytes(8, "little") * 64, page * 4096, flags)
    if flags:
        model[page] = [number]
    if random.randrange(100) == 0:
        h.flush()
        model = [[numbers[-1]] for numbers in model]
json.dump(model, open("model", "w"))
os.kill(PID, signal.SIGKILL)
"#;

const CHECK: &str = r#"
import json
model = json.load(open("model"))
for page, numbers in enumerate(model):
    data = h.pread(512, page * 4096)
    number = int.from_bytes(data[:8], "little")
    assert number in numbers, "page %d is %d, of %s" % (page, number, numbers)
    numbers[:] = [number]
json.dump(model, open("model", "w"))
with open("read", "wb") as all:
    for at in range(0, h.get_size(), 1 << 20):
        all.write(h.pread(1 << 20, at))
"#;
