//! Recordings that end badly: the process is killed, the disk is full. The test starts itself as a child.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::common::{BLOCK, seed, small};
use super::{Asked, BLOCKS, Ground, ask, asked, found_at, open};
use terrace::{Config, RecordConfig};
use terrace_recording::Kind;

/// A child's part, in its environment: seed and path.
const CHILD: &str = "TERRACE_RECORDING_CHILD";

/// What is to be recorded by the child that this process is; none when it is none.
fn part() -> Option<(u64, PathBuf)> {
    let part = std::env::var(CHILD).ok()?;
    let (seed, path) = part.split_once(' ').expect("as the parent wrote it");
    Some((seed.parse().expect("as the parent wrote it"), path.into()))
}

fn child(test: &str, seed: u64, ground: &Ground, limit: &str) -> Child {
    let test_file = std::env::current_exe().expect("this test is a file");
    // A write beyond a limit is an error as on a full disk, where the signal of it is ignored.
    Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; {limit} exec \"$0\" --exact {test} --nocapture")])
        .arg(test_file)
        .env(CHILD, format!("{seed} {}", ground.path().display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell")
}

/// What `child` prints, line by line.
fn lines_of(child: &mut Child) -> impl Iterator<Item = String> {
    BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok)
}

/// Reads up to a line with `word`; what is behind it there.
fn said(lines: &mut impl Iterator<Item = String>, word: &str) -> String {
    lines.find_map(|line| line.split_once(word).map(|(_, rest)| rest.trim().to_owned())).expect("it says so")
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{word}").and_then(|()| out.flush()).expect("the parent listens");
}

#[test]
fn a_killed_process_leaves_a_recording_of_what_it_asked() {
    if let Some((seed, path)) = part() {
        let config = RecordConfig { stamp_every: 1, block_ms: 1, ..RecordConfig::new(path) };
        let (cache, volume) = open(&Config { record: Some(config), ..small(400) });
        let mut random = fastrand::Rng::with_seed(seed);
        let mut is_told = false;
        loop {
            ask(&volume, &mut random);
            let status = cache.record_status().expect("it runs");
            // Whole blocks are there, and more than one.
            if !is_told && status.requests > 3000 && status.bytes > 10_000 {
                is_told = true;
                say("killable");
            }
        }
    }
    let (seed, ground) = (seed(), Ground::new());
    let mut child = child("broken::a_killed_process_leaves_a_recording_of_what_it_asked", seed, &ground, "");
    said(&mut lines_of(&mut child), "killable");
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    let found = ground.found();
    assert!(matches!(found.end, Some(terrace_recording::Error::CutShort { .. })), "{:?}", found.end);
    assert!(found.names.iter().all(|name| name == "disk"));
    assert!(found.requests.len() > 100, "{} requests", found.requests.len());
    let (_cache, volume) = open(&small(400));
    let mut random = fastrand::Rng::with_seed(seed);
    for (number, request) in found.requests.iter().enumerate() {
        assert_eq!(asked(request), ask(&volume, &mut random), "seed {seed}: request {number}");
    }
}

#[test]
fn a_full_disk_ends_the_recording_alone() {
    if let Some((seed, path)) = part() {
        let config = RecordConfig { stamp_every: 1, block_ms: 1, ..RecordConfig::new(path) };
        let (cache, volume) = open(&Config { record: Some(config), ..small(400) });
        let mut random = fastrand::Rng::with_seed(seed);
        let mut made = 0;
        while cache.record_status().expect("there is one").is_running {
            volume.read(random.u64(..BLOCKS * BLOCK as u64), &mut [0]).expect("a memory device never fails");
            made += 1;
        }
        let status = cache.record_status().expect("there is one");
        // The cache goes on, without a recording, and closes in order.
        (0..1000).for_each(|_| _ = ask(&volume, &mut random));
        cache.close().expect("a memory device never fails");
        assert!(status.requests + status.requests_lost <= made && status.requests_lost > 0, "{status:?}");
        say(&format!("ended {} {}", status.requests, status.failure.expect("why it ended")));
        return;
    }
    let (seed, ground) = (seed(), Ground::new());
    let mut child = child("broken::a_full_disk_ends_the_recording_alone", seed, &ground, "ulimit -f 64;");
    let mut lines = lines_of(&mut child);
    let ended = said(&mut lines, "ended");
    // The test's own summary: it would fail if nobody read it.
    lines.for_each(drop);
    assert!(child.wait().expect("a child of ours").success());
    let (requests, why) = ended.split_once(' ').expect("as the child wrote it");
    assert!(why.contains("File too large"), "{why}");
    let found = found_at(&ground.path());
    assert!(matches!(found.end, Some(terrace_recording::Error::CutShort { .. })), "{:?}", found.end);
    assert_eq!(found.requests.len().to_string(), requests);
    let mut random = fastrand::Rng::with_seed(seed);
    for request in &found.requests {
        let wanted: Asked = (Kind::Read, random.u64(..BLOCKS * BLOCK as u64), 1);
        assert_eq!(asked(request), wanted, "seed {seed}");
    }
}
