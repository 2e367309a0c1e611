//! A process that writes through the cache on real files is killed at random, again and again on the same files.
//!
//! The test starts itself as a child that writes from several threads and appends what it begins and what was
//! acknowledged to a log, by one call of the system each. The parent kills it, reads the log, and looks at every sector
//! through a reopened cache: it holds the last value that the log says is kept, or a later one that was begun. Now and
//! then the parent does not look, and the next child finds the files as they were left.
//!
//! A kill loses what is in the process, and nothing that the kernel has; what a power cut loses is tested elsewhere.

mod child;
#[path = "../common/mod.rs"]
mod common;
mod log;
mod oracle;

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use child::be_the_child;
use common::{BLOCK, eventually, seed, small};
use oracle::Oracle;
use terrace::tiers::backing::file::FileBacking;
use terrace::{Answer, Cache, Config, SsdConfig, SsdSize, Volume, WriteMode};

const SECTOR: usize = 512;
const SECTORS: usize = 1024;
const VOLUMES: usize = 2;
const THREADS: usize = 4;
/// What a volume may be in one life of the child; each draws anew.
const MODES: [WriteMode; 4] = [WriteMode::Through, WriteMode::Around, WriteMode::Back, WriteMode::BackSsd];

/// A child's part, in its environment: number of the life, seed, folder.
const CHILD: &str = "TERRACE_KILLED_CHILD";
const SIGKILL: i32 = 9;

const BLOCKS: usize = SECTORS * SECTOR / BLOCK;
/// Of each volume; together more than the RAM holds and less than its ghosts remember.
const WARM_BLOCKS: usize = 40;

/// The folder of one test: cache file, backing files, logs.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn disk(&self, volume: usize) -> PathBuf {
        self.folder.join(format!("disk-{volume}"))
    }

    fn log(&self, life: u64) -> PathBuf {
        self.folder.join(format!("log-{life}"))
    }

    fn config(&self) -> Config {
        let mut config = small(48);
        config.writeback_delay_ms = 5;
        config.dirty_high = 0.9;
        config.ssd = Some(SsdConfig::new(self.folder.join("ssd"), SsdSize::Blocks(160)));
        config
    }

    /// The cache with its volumes. The file must be free to lock.
    fn open(&self, modes: [WriteMode; VOLUMES]) -> (Cache, [Volume; VOLUMES]) {
        let cache = Cache::open(&self.config()).expect("the cache opens");
        let volumes = std::array::from_fn(|index| {
            let disk = FileBacking::create(self.disk(index), (SECTORS * SECTOR) as u64);
            let disk = Arc::new(disk.expect("the backing file opens"));
            cache.attach(&format!("disk {index}"), disk, modes[index]).expect("the volume attaches")
        });
        (cache, volumes)
    }
}

/// The modes of the volumes in one life.
fn modes(seed: u64) -> [WriteMode; VOLUMES] {
    let mut random = fastrand::Rng::with_seed(seed);
    std::array::from_fn(|_| MODES[random.usize(..MODES.len())])
}

/// Runs a child for a while and kills it.
fn run_child(test: &str, files: &Files, life: u64, seed: u64, random: &mut fastrand::Rng) {
    let folder = files.folder.to_str().expect("a plain path");
    let mut child = Command::new(std::env::current_exe().expect("this test is a file"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, format!("{life} {seed} {folder}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the child starts");
    // One in four is killed early, most of those while it opens.
    if random.u8(..4) > 0 {
        let has_ended = |child: &mut Child| child.try_wait().expect("a child of ours").is_some();
        eventually("the child opened the cache", || {
            std::fs::metadata(files.log(life)).is_ok_and(|found| found.len() > 0) || has_ended(&mut child)
        });
    }
    std::thread::sleep(Duration::from_micros(random.u64(..150_000)));
    child.kill().expect("a child of ours");
    let status = child.wait().expect("a child of ours");
    assert_eq!(status.signal(), Some(SIGKILL), "seed {seed} life {life}: the child ended by itself");
}

/// The first `blocks` blocks of `volume`, each once, judged by `oracle`; where they came from.
fn check_volume(oracle: &mut Oracle, index: usize, volume: &Volume, blocks: usize) -> Result<Answer, String> {
    let mut answer = Answer::default();
    let mut block = vec![0; BLOCK];
    for offset in (0..blocks * BLOCK).step_by(BLOCK) {
        answer.add(volume.read(offset as u64, &mut block).map_err(|error| error.to_string())?);
        oracle.check(index, offset / SECTOR, &block)?;
    }
    Ok(answer)
}

/// The first `blocks` blocks of each volume through a reopened cache; how many of them came from the SSD.
fn check(files: &Files, oracle: &mut Oracle, blocks: usize) -> Result<[u32; VOLUMES], String> {
    let (cache, volumes) = files.open([WriteMode::Back; VOLUMES]);
    if blocks == WARM_BLOCKS {
        // Copies that were not found yet would be misses.
        cache.settle().map_err(|error| error.to_string())?;
    }
    let mut from_ssd = [0; VOLUMES];
    for (index, volume) in volumes.iter().enumerate() {
        from_ssd[index] = check_volume(oracle, index, volume, blocks)?.ssd_blocks;
    }
    cache.settle().and_then(|()| cache.close()).map_err(|error| error.to_string())?;
    Ok(from_ssd)
}

/// Has the SSD hold some of the first [`WARM_BLOCKS`] blocks of each volume, and closes in order.
fn warm_up(files: &Files) {
    let (cache, volumes) = files.open([WriteMode::Back; VOLUMES]);
    // What leaves RAM and is asked for again soon has earned its place.
    for _ in 0..4 {
        for volume in &volumes {
            volume.read(0, &mut vec![0; WARM_BLOCKS * BLOCK]).expect("a read succeeds");
        }
        cache.settle().expect("the cache settles");
    }
    cache.close().expect("the cache closes");
}

/// Sets the time of change of a file, as someone who writes to it past the cache does.
fn touch(path: &Path) {
    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    let file = OpenOptions::new().write(true).open(path).expect("the backing file opens");
    file.set_modified(later).expect("the time can be set");
}

/// What all lives together did.
#[derive(Default, Debug)]
struct Tally {
    checks: u64,
    acknowledged: u64,
    flushes: u64,
}

/// One child after the other on the same files, each killed.
fn kill_children(test: &str, files: &Files, oracle: &mut Oracle, kills: u64, seed: u64) -> Tally {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    for life in 0..kills {
        let life_seed = seed.wrapping_add(life);
        run_child(test, files, life, life_seed, &mut random);
        let lived = oracle.replay(&log::read(&files.log(life)), modes(life_seed));
        tally.acknowledged += lived.acknowledged;
        tally.flushes += lived.flushes;
        let is_last = life + 1 == kills;
        if !is_last && random.u8(..4) == 0 {
            continue;
        }
        tally.checks += 1;
        // It opens at once: the lock of the cache file went with its holder.
        let from_ssd = check(files, oracle, BLOCKS).unwrap_or_else(|what| {
            panic!("seed {seed} life {life} {:?}: {what}", modes(life_seed));
        });
        for (index, is_cold) in lived.is_cold.into_iter().enumerate() {
            assert!(!is_cold || from_ssd[index] == 0, "seed {seed} life {life}: volume {index} is warm");
        }
    }
    tally
}

/// Both volumes are warm as they were left, and cold when someone else changed them.
fn check_warmth(files: &Files, oracle: &mut Oracle) {
    warm_up(files);
    let from_ssd = check(files, oracle, WARM_BLOCKS).expect("nothing changed");
    assert!(from_ssd.iter().all(|&blocks| blocks > 0), "{from_ssd:?} blocks are warm");
    warm_up(files);
    touch(&files.disk(0));
    let from_ssd = check(files, oracle, WARM_BLOCKS).expect("nothing changed");
    assert!(from_ssd[0] == 0 && from_ssd[1] > 0, "{from_ssd:?} blocks are warm");
}

#[test]
#[expect(clippy::print_stdout, reason = "what was done is the result")]
fn what_was_acknowledged_survives_kills_at_random_moments() {
    if let Ok(part) = std::env::var(CHILD) {
        be_the_child(&part);
    }
    let seed = seed();
    let kills = if std::env::var_os("TERRACE_SLOW").is_some() { 200 } else { 8 };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let files = Files { folder: folder.path().into() };
    let mut oracle = Oracle::new();
    let test = "what_was_acknowledged_survives_kills_at_random_moments";
    let tally = kill_children(test, &files, &mut oracle, kills, seed);
    let Tally { checks, acknowledged, flushes } = tally;
    println!(
        "kills: {kills}, checks: {checks}, acknowledged: {acknowledged}, flushes: {flushes}, violations: 0"
    );
    assert!(acknowledged > 0 && flushes > 0, "seed {seed}: no child came to do anything");
    check_warmth(&files, &mut oracle);
}
