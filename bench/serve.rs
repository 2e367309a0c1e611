//! The service against servers of others on the same machine in the same run, with fio over Unix sockets as the client;
//! medians of five rounds, in turns.
//!
//!     cargo bench -p terrace-bench --bench serve
//!
//! With a word, only the parts that contain it: `cargo bench -p terrace-bench --bench serve -- ram`.
//!
//! | part    | ours                                        | theirs                                        | goal |
//! |---------|---------------------------------------------|-----------------------------------------------|------|
//! | ram     | all blocks in RAM                           | nbdkit's memory plugin                        | 1    |
//! | ssd     | a working set on the SSD, 1/32 of it in RAM | `qemu-nbd --cache=none` on the cache file     | 0.9  |
//! | slow    | the same, in front of a slow disk           | nbdkit's cache filter there with the same RAM | 20   |
//! | destage | p99 of hits in RAM while the log goes below | the same hits while nothing else happens      | 2    |
//!
//! The last is a time, at most so many times the other one; the rest are rates, at least so many times. A block on the SSD
//! is read whole, as its checksum covers all of it; so `ssd` is measured with blocks of 16 KiB, which is what there is
//! without a choice, and with blocks as small as the smallest requests.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use terrace_bench::is_trial;
use terrace_bench::measure::{Turns, median};
use terrace_bench::scenes::serve::{Load, Measured, Server, SlowDisk, is_the_command, missing};
use terrace_bench::scenes::temporary_folder;

const MIB: u64 = 1 << 20;
const REQUESTS_BYTES: [u64; 3] = [4 << 10, 16 << 10, 128 << 10];
const DEPTHS: [u32; 2] = [1, 32];
const LOG_BLOCK_BYTES: u64 = 128 << 10;

/// What a run costs.
struct Effort {
    rounds: usize,
    time: Duration,
    /// Of hits in RAM.
    ram_bytes: u64,
    /// Of a working set on the SSD; a fraction of it fits in RAM.
    ssd_bytes: u64,
    /// The same before the slow disk, from which it must come first.
    slow_bytes: u64,
    dirty_bytes: u64,
}

impl Effort {
    fn of_this_run() -> Self {
        if is_trial() {
            let time = Duration::from_millis(200);
            let (ram_bytes, ssd_bytes, slow_bytes, dirty_bytes) = (16 * MIB, 64 * MIB, 32 * MIB, 64 * MIB);
            Self { rounds: 1, time, ram_bytes, ssd_bytes, slow_bytes, dirty_bytes }
        } else {
            let time = Duration::from_secs(3);
            let (ram_bytes, ssd_bytes, slow_bytes, dirty_bytes) =
                (512 * MIB, 2048 * MIB, 1024 * MIB, 4096 * MIB);
            Self { rounds: 5, time, ram_bytes, ssd_bytes, slow_bytes, dirty_bytes }
        }
    }
}

type Part = fn(&Effort);

fn main() -> ExitCode {
    if is_the_command() {
        return terrace_tools::main();
    }
    let missing = missing();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "not installed: {}", missing.join(", "));
        println!("skipped: not installed: {}", missing.join(", "));
        return ExitCode::SUCCESS;
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let parts: [(&str, Part); 4] = [("ram", ram), ("ssd", ssd), ("slow", slow), ("destage", destage)];
    for (name, part) in parts {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str())) {
            part(&Effort::of_this_run());
        }
    }
    ExitCode::SUCCESS
}

fn ram(effort: &Effort) {
    let folder = temporary_folder();
    make_disk(folder.path(), "disk", effort.ram_bytes);
    let ram_size = (2 * effort.ram_bytes).to_string();
    let ours = Server::ours(folder.path(), &["--backing", "disk", "--ram-size", &ram_size]);
    let theirs = Server::nbdkit(folder.path(), &["memory", &effort.ram_bytes.to_string()]);
    // Memory that nobody wrote to is no memory.
    for server in [&ours, &theirs] {
        server.run(&once("write", effort.ram_bytes));
    }
    compare("ram", "nbdkit's memory plugin", effort, effort.ram_bytes, &ours, &theirs);
    print_sources("ram", &ours);
}

fn ssd(effort: &Effort) {
    for (part, block_bytes) in [("ssd", 16 << 10), ("ssd, 4k blocks", 4 << 10)] {
        let folder = temporary_folder();
        make_disk(folder.path(), "disk", effort.ssd_bytes);
        let ours = on_ssd(folder.path(), "disk", effort.ssd_bytes, block_bytes);
        bring_to_ssd(&ours, effort.ssd_bytes);
        let theirs = Server::qemu_nbd(folder.path(), "ssd");
        compare(part, "qemu-nbd --cache=none", effort, effort.ssd_bytes, &ours, &theirs);
        print_sources(part, &ours);
    }
}

fn slow(effort: &Effort) {
    let folder = temporary_folder();
    let _disk = SlowDisk::start(folder.path(), effort.slow_bytes);
    let ours = on_ssd(folder.path(), "slow", effort.slow_bytes, 16 << 10);
    let (file, ram) = (folder.path().join("slow"), format!("cache-max-size={}", ram_of(effort.slow_bytes)));
    let file = file.to_str().expect("a path of text");
    let theirs = Server::nbdkit(folder.path(), &["--filter=cache", "file", file, &ram, "cache-on-read=true"]);
    bring_to_ssd(&ours, effort.slow_bytes);
    theirs.run(&once("read", effort.slow_bytes));
    compare("slow", "nbdkit's cache filter", effort, effort.slow_bytes, &ours, &theirs);
    print_sources("slow", &ours);
}

fn destage(effort: &Effort) {
    let folder = temporary_folder();
    let (hot_bytes, dirty_bytes) = (effort.dirty_bytes / 32, effort.dirty_bytes);
    make_disk(folder.path(), "disk", hot_bytes + dirty_bytes);
    let ours = behind_a_log(folder.path(), dirty_bytes);
    let hits = |depth, time| {
        let hot = Load { offset: 0, bytes: hot_bytes, ..once("randread", hot_bytes) };
        ours.run(&Load { request_bytes: 4 << 10, depth, time: Some(time), ..hot })
    };
    for depth in DEPTHS {
        let (mut idle, mut beside, mut dirty) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        for _ in 0..effort.rounds {
            ours.run(&once("read", hot_bytes));
            idle.push(hits(depth, effort.time));
            ours.run(&Load { offset: hot_bytes, ..once("write", dirty_bytes) });
            dirty[0].push(ours.dirty_bytes(LOG_BLOCK_BYTES));
            std::thread::scope(|scope| {
                scope.spawn(|| ours.drain());
                beside.push(hits(depth, effort.time / 2));
                dirty[1].push(ours.dirty_bytes(LOG_BLOCK_BYTES));
            });
        }
        let p99 = |measured: &[Measured]| median(measured.iter().map(|measured| measured.p99_us));
        let mib = |bytes: &[u64]| median(bytes.iter().map(|&bytes| (bytes / MIB) as f64));
        println!(
            "serve/destage depth {depth:2}: {:.2} times the p99 of idle ({:.0} of {:.0} us), while {:.0} of {:.0} MiB went \
             below",
            p99(&beside) / p99(&idle),
            p99(&beside),
            p99(&idle),
            mib(&dirty[0]) - mib(&dirty[1]),
            mib(&dirty[0])
        );
    }
    print_sources("destage", &ours);
}

/// The service with a log that has room for so many bytes: a half of the file at most, and a share of its blocks that is
/// larger for larger blocks.
fn behind_a_log(folder: &Path, bytes: u64) -> Server {
    let (ram, ssd) = ((bytes / 8).max(32 * MIB).to_string(), (2 * bytes + 256 * MIB).to_string());
    let block = LOG_BLOCK_BYTES.to_string();
    let tiers = ["--ram-size", &ram, "--ssd-file", "ssd", "--ssd-size", &ssd, "--block-size", &block];
    Server::ours(folder, &[&["--backing", "disk", "--write", "back-ssd"], &tiers[..]].concat())
}

/// A file of so many zeros.
fn make_disk(folder: &Path, name: &str, bytes: u64) {
    let made = File::create(folder.join(name)).and_then(|file| file.set_len(bytes));
    made.expect("a file in our folder");
}

/// Of a working set of `bytes`: a small part, and the least that a cache takes.
fn ram_of(bytes: u64) -> u64 {
    (bytes / 32).max(16 * MIB)
}

/// The service with an SSD that has room for `bytes` and more, in blocks of this size.
fn on_ssd(folder: &Path, disk: &str, bytes: u64, block_bytes: u64) -> Server {
    let (ram, ssd) = (ram_of(bytes).to_string(), (bytes + bytes / 2).max(128 * MIB).to_string());
    let block = block_bytes.to_string();
    let tiers = ["--ram-size", &ram, "--ssd-file", "ssd", "--ssd-size", &ssd, "--block-size", &block];
    Server::ours(folder, &[&["--backing", disk], &tiers[..]].concat())
}

/// Reads the first `bytes` until they no longer come from the disk, or it does not help.
fn bring_to_ssd(ours: &Server, bytes: u64) {
    let from_disk = || ours.operations().get("read_disk").copied().unwrap_or(0);
    for _ in 0..8 {
        let before = from_disk();
        ours.run(&once("read", bytes));
        if from_disk() - before < bytes / MIB / 50 {
            return;
        }
    }
}

/// Once over the first `bytes`.
fn once(pattern: &'static str, bytes: u64) -> Load {
    Load { pattern, request_bytes: MIB, depth: 4, offset: 0, bytes, time: None }
}

/// Random reads of every size and depth over the first `bytes`, of both in turns.
fn compare(part: &str, name: &str, effort: &Effort, bytes: u64, ours: &Server, theirs: &Server) {
    for request_bytes in REQUESTS_BYTES {
        for depth in DEPTHS {
            let time = Some(effort.time);
            let load = Load { pattern: "randread", request_bytes, depth, offset: 0, bytes, time };
            let p99 = RefCell::new([Vec::new(), Vec::new()]);
            let run = |side: usize, server: &Server| {
                let measured = server.run(&load);
                p99.borrow_mut()[side].push(measured.p99_us);
                measured.iops
            };
            let turns = Turns::run(effort.rounds, || run(0, ours), || run(1, theirs));
            let [our_p99, their_p99] = p99.into_inner().map(|times| median(times.into_iter()));
            println!(
                "serve/{part} {:3}k depth {depth:2}: {:6.2} of {name} ({:.0} of {:.0} requests/s; best rounds {:.2}), p99 \
                 {our_p99:.0} us, theirs {their_p99:.0}",
                request_bytes >> 10,
                turns.ratio(),
                turns.ours(),
                turns.floor(),
                turns.best_ratio()
            );
        }
    }
}

/// Where the reads of the service were answered from, with those that brought the blocks there.
fn print_sources(part: &str, ours: &Server) {
    let count = ours.operations();
    let of = |name: &str| count.get(name).copied().unwrap_or(0);
    println!(
        "serve/{part}: reads from RAM {}, SSD {}, disk {}",
        of("read_ram"),
        of("read_ssd"),
        of("read_disk")
    );
}
