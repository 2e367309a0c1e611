//! Many clients that come, work and break off for as long as wanted, while the service is changed under them.
//!
//! A day of it, which prints its seed and a line for each round:
//!
//! ```text
//! TERRACE_SOAK_SECONDS=86400 cargo test --release -p terrace-tools --test serve soak -- --nocapture
//! ```
//!
//! Without the variable it takes ten minutes where TERRACE_SLOW is set, and a few seconds otherwise. It goes in rounds. In each
//! 64 clients (`actor.rs`) read, write, flush, trim and zero over four exports, one of them on a slow disk, and leave in the
//! middle of requests, replies, heads and payloads, or stop reading; meanwhile sizes, modes, limits and addresses change and the
//! SSD comes and goes (`governor.rs`). What holds:
//!
//! 1. Every byte of every read is what it may be (`model.rs`); at the end of a round the whole of each export is, and at the
//!    end of all the backing files are, by themselves.
//! 2. Every request of a client that stays is answered, and every connection that is left is closed, within [`STUCK`].
//! 3. When all clients have gone, the service has no connection and no request in flight, and no more threads and descriptors
//!    than at the end of any round before.
//! 4. Memory that is not the cache's file mappings is at the end at most [`GROWTH_KIB_MAX`] above what it was half way:
//!    64 KiB of each connection that leak show within a thousand connections, a kilobyte of each within 60,000.
//! 5. The service ends in order, with everything durable.

mod actor;
mod governor;
mod model;

use std::fs;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use actor::{Actor, Stage};
use governor::Governor;
use model::Disk;

use crate::common::Playground;
use crate::harness::{MIB, Server, contents, make_disk, seed};
use crate::raw::{Ask, Client, DISCONNECT, Heads, Place, READ, STUCK};
use crate::slow_disk::SlowDisk;

const ACTORS: usize = 64;
/// The file behind the slow disk.
const BELOW: &str = "below.img";
const DISK_BYTES: usize = 24 * MIB + 12_345 * 512;
const SLOW_OPERATIONS: u32 = 2000;
const GROWTH_KIB_MAX: u64 = 24 << 10;
const ROUNDS: u32 = 20;
const ROUND_MAX: Duration = Duration::from_secs(60);

/// How long it is to take.
fn wanted() -> Duration {
    let chosen = std::env::var("TERRACE_SOAK_SECONDS");
    let chosen = chosen.map(|seconds| seconds.parse().expect("TERRACE_SOAK_SECONDS is a number of seconds"));
    let is_slow = std::env::var_os("TERRACE_SLOW").is_some();
    Duration::from_secs(chosen.unwrap_or(if is_slow { 600 } else { 5 }))
}

/// What a process has that must not grow.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: u64,
    threads: u64,
}

impl Held {
    /// No more of either.
    fn is_within(self, most: Self) -> bool {
        self.descriptors <= most.descriptors && self.threads <= most.threads
    }
}

fn held(pid: u32) -> Held {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64;
    Held { descriptors, threads: status(pid, "Threads:") }
}

/// A number of /proc/PID/status.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the system tells it");
    line.split_whitespace().nth(1).expect("a value").parse().expect("a number")
}

/// Waits until `is_so`, for as long as nothing may take longer.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < STUCK, "{what}: not within {} s", STUCK.as_secs());
        thread::yield_now();
    }
}

#[test]
fn clients_that_break_off_and_changes_under_load_leave_no_wrong_byte_nothing_stuck_and_nothing_behind() {
    let (seed, wanted) = (seed(), wanted());
    let round = (wanted / ROUNDS).clamp(Duration::from_secs(1), ROUND_MAX);
    let soak = Soak::start(seed);
    let (since, mut memory, mut least) = (Instant::now(), Vec::new(), None);
    let mut governor = soak.governor(seed);
    while since.elapsed() < wanted || memory.len() < 2 {
        soak.play_round(seed.wrapping_add(memory.len() as u64), &mut governor, round);
        let held = soak.check_that_nothing_is_left(&governor, least);
        least = Some(held);
        memory.push(status(soak.server.pid(), "RssAnon:"));
        soak.tell(&governor, since.elapsed(), &memory, held);
    }
    let half = memory.len() / 2;
    let before = memory[..half].iter().max().expect("there are rounds");
    let after = memory[memory.len() - 1];
    assert!(after <= before + GROWTH_KIB_MAX, "memory grew from {before} to {after} KiB: {memory:?}");
    drop(governor);
    soak.end();
}

/// In a test that fails they go in this order.
struct Soak {
    server: Server,
    slow: Option<SlowDisk>,
    ground: Playground,
    stage: Arc<Stage>,
}

impl Soak {
    fn start(seed: u64) -> Self {
        let ground = Playground::new();
        let names = ["one", "two", "three", "slow"];
        for file in ["one.img", "two.img", "three.img", BELOW] {
            make_disk(&ground, file, DISK_BYTES);
        }
        let slow = SlowDisk::of(ground.path(), BELOW, "slow.img", SLOW_OPERATIONS);
        if slow.is_none() {
            std::os::unix::fs::symlink(BELOW, ground.path().join("slow.img")).expect("a free name");
        }
        let mut random = fastrand::Rng::with_seed(seed);
        ground.file("conf", governor::config(&modes(), true, false, &mut random).as_bytes());
        let mut command = ground.command(&["serve", "--config", "conf"]);
        command.stderr(fs::File::create(ground.path().join("said")).expect("a file in our directory"));
        let server = Server::spawn(&mut command);
        let port = server.ready.split("127.0.0.1:").nth(1).and_then(|rest| rest.split([',', '\n']).next());
        let port = port.expect("it listens there").trim().parse().expect("a port");
        let stage = Stage {
            disks: names.map(|name| Disk::new(name, DISK_BYTES as u64, ACTORS as u64)).into(),
            places: vec![Place::Unix(ground.path().join("nbd")), Place::Tcp(port)],
            requests: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
        };
        Self { server, slow, ground, stage: Arc::new(stage) }
    }

    fn governor(&self, seed: u64) -> Governor<'_> {
        let random = fastrand::Rng::with_seed(!seed);
        let (ground, server, modes) = (&self.ground, &self.server, modes());
        Governor { ground, server, random, modes, has_ssd: true, changes: 0, reloads: 0 }
    }

    /// Ends when all clients are gone, and panics with the first of them that does.
    fn play_round(&self, seed: u64, governor: &mut Governor<'_>, round: Duration) {
        let (deadline, has_failed) = (Instant::now() + round, AtomicBool::new(false));
        let goes_on = || Instant::now() < deadline && !has_failed.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let play = |number| {
                let stage = self.stage.clone();
                let random = fastrand::Rng::with_seed(seed.wrapping_mul(ACTORS as u64) + number as u64);
                let (goes_on, has_failed) = (&goes_on, &has_failed);
                scope.spawn(move || {
                    let actor = Actor { number, random, stage };
                    let played = panic::catch_unwind(panic::AssertUnwindSafe(|| actor.play(goes_on)));
                    has_failed.fetch_or(played.is_err(), Ordering::Relaxed);
                    played
                })
            };
            let actors: Vec<_> = (0..ACTORS).map(play).collect();
            governor.govern(goes_on);
            for actor in actors {
                actor.join().expect("its panic was caught").unwrap_or_else(|what| panic::resume_unwind(what));
            }
        });
    }

    /// After a round: 1 to 3 of the head of this file.
    fn check_that_nothing_is_left(&self, governor: &Governor<'_>, least: Option<Held>) -> Held {
        wait_until("all connections close", || governor.stats()["clients"]["connections"] == 0);
        for disk in &self.stage.disks {
            let bytes = self.read_whole(disk);
            disk.settle(&bytes);
        }
        let pid = self.server.pid();
        wait_until("the last connection closes", || governor.stats()["clients"]["connections"] == 0);
        let clients = governor.stats()["clients"].clone();
        assert_eq!((&clients["requests_in_flight"], &clients["bytes_in_flight"]), (&0.into(), &0.into()));
        let mut now = held(pid);
        if let Some(least) = least {
            // The thread that answered last may still be on its way out, now as in the rounds before.
            wait_until("threads and descriptors come back", || {
                now = held(pid);
                now.is_within(least)
            });
        }
        now
    }

    fn read_whole(&self, disk: &Disk) -> Vec<u8> {
        let mut client =
            Client::of(&self.stage.places[0], Heads::Extended, &disk.name).expect("it is let in");
        let mut whole = Vec::with_capacity(DISK_BYTES);
        while whole.len() < DISK_BYTES {
            let (offset, length) = (whole.len() as u64, MIB.min(DISK_BYTES - whole.len()));
            let sent = disk.now();
            let bytes = client.ask(&Ask { command: READ, offset, length, ..Ask::default() }, &[]);
            let bytes = bytes.expect("the disk can be read");
            disk.check(offset, &bytes, sent).unwrap_or_else(|what| panic!("WRONG BYTES: {what}"));
            whole.extend(bytes);
        }
        client.send(&Ask { command: DISCONNECT, ..Ask::default() }, &[]).expect("the server listens");
        client.wait_for_end();
        whole
    }

    #[expect(clippy::print_stdout, reason = "whoever waits for a day wants to see something")]
    fn tell(&self, governor: &Governor<'_>, elapsed: Duration, memory: &[u64], held: Held) {
        println!(
            "{:6.0} s: round {}, {} connections, {} requests, {} changes, {} KiB, {} threads, {} descriptors",
            elapsed.as_secs_f64(),
            memory.len(),
            self.stage.sessions.load(Ordering::Relaxed),
            self.stage.requests.load(Ordering::Relaxed),
            governor.changes,
            memory[memory.len() - 1],
            held.threads,
            held.descriptors,
        );
    }

    /// Everything was read since the last change, so the model has it, and so must the files.
    fn end(self) {
        let ended = self.server.stop();
        let said = fs::read_to_string(self.ground.path().join("said")).expect("it is there");
        assert_eq!(ended.code, Some(0), "{said}");
        drop(self.slow);
        for disk in &self.stage.disks {
            let file = if disk.name == "slow" { BELOW.into() } else { format!("{}.img", disk.name) };
            let path = self.ground.path().join(file);
            let checked = disk.check(0, &contents(&path), disk.now());
            checked.unwrap_or_else(|what| panic!("WRONG BYTES in the file of {what}"));
        }
    }
}

fn modes() -> Vec<(String, &'static str)> {
    [("one", "around"), ("two", "through"), ("three", "back-ssd"), ("slow", "back")]
        .map(|(name, mode)| (name.to_string(), mode))
        .into()
}
