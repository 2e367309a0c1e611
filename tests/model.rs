//! Random operations from many threads against a plain vector of bytes.
//!
//! Each thread owns a stretch of the volume, at byte offsets that no block respects, so neighbours share blocks and
//! even sectors. A thread's reads of its own stretch must give back exactly what it wrote.
//!
//! | variable                 | meaning                                                                    |
//! |--------------------------|----------------------------------------------------------------------------|
//! | `TERRACE_SEED`           | the seed, which is printed                                                 |
//! | `TERRACE_MODEL_SECONDS`  | how long `lives_of_any_kind_read_what_they_wrote` goes on; 60 with `TERRACE_SLOW`, else 3 |

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Files, block_on, seed};
use fastrand::Rng;
use terrace::{BlockSize, Cache, Config, Error, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

const MODES: [WriteMode; 4] = [WriteMode::Around, WriteMode::Through, WriteMode::Back, WriteMode::BackSsd];

#[derive(Clone, Debug)]
struct Case {
    block_bytes: u64,
    ram_blocks: u64,
    ssd_blocks: u64,
    shards: u32,
    mode: WriteMode,
    /// The volume may get mode `back-ssd` while it is in use, and leave it; without, it stays in that or never has it.
    may_log: bool,
    threads: usize,
    stretch_bytes: usize,
    operations: usize,
}

fn config(case: &Case, files: &Files) -> Config {
    let mut config = Config::new(RamSize::Blocks(case.ram_blocks));
    config.block_size = BlockSize::new(case.block_bytes).expect("a block size");
    config.shards = Some(case.shards);
    config.writeback_delay_ms = 5;
    if case.ssd_blocks > 0 {
        config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(case.ssd_blocks)));
    }
    config
}

/// One thread: `model` is what its stretch, from `start` on, must read as.
struct Worker<'a> {
    cache: &'a Cache,
    volume: &'a Volume,
    case: &'a Case,
    start: usize,
    model: &'a mut [u8],
    random: Rng,
}

impl Worker<'_> {
    fn run(&mut self, seed: u64) {
        for step in 0..self.case.operations {
            let at = self.random.usize(..self.model.len());
            let length = match self.random.u8(..10) {
                0..4 => self.random.usize(1..=512),
                4..8 => self.random.usize(1..=20_000),
                _ => self.random.usize(1..=200_000),
            };
            let range = at..(at + length).min(self.model.len());
            if self.random.u8(..50) == 0 {
                self.switch_mode();
            }
            if self.random.u8(..80) == 0 {
                self.resize();
            }
            match self.random.u8(..20) {
                0..8 => self.write(range),
                8 => self.discard(range),
                9..19 => self.read(range, &format!("seed {seed} step {step}")),
                _ => self.flush(range),
            }
        }
    }

    /// Another thread's may come in between: sizes are whatever was asked for last.
    fn resize(&mut self) {
        let Case { shards, ram_blocks, ssd_blocks, .. } = *self.case;
        let blocks = self.random.u64(8 * u64::from(shards)..4 * ram_blocks);
        let resized = self.cache.resize_ram(RamSize::Blocks(blocks)).expect("RAM is resized");
        assert_eq!(resized.blocks, blocks);
        if ssd_blocks > 0 && self.random.bool() {
            let blocks = self.random.u64(ssd_blocks / 2 + 32..2 * ssd_blocks + 64);
            self.cache.resize_ssd(SsdSize::Blocks(blocks)).expect("the cache file is resized");
        }
    }

    fn offset(&self, range: &std::ops::Range<usize>) -> u64 {
        (self.start + range.start) as u64
    }

    fn switch_mode(&mut self) {
        let modes = match (self.case.may_log, self.case.mode) {
            (true, _) => &MODES[..],
            (false, WriteMode::BackSsd) => &MODES[3..],
            (false, _) => &MODES[..3],
        };
        self.volume.set_mode(modes[self.random.usize(..modes.len())]).expect("the mode changes");
    }

    fn write(&mut self, range: std::ops::Range<usize>) {
        let fill = self.random.u8(..);
        for (index, byte) in self.model[range.clone()].iter_mut().enumerate() {
            *byte = fill.wrapping_add((index % 251) as u8);
        }
        let (offset, data) = (self.offset(&range), &self.model[range]);
        let written = if self.random.u8(..4) == 0 {
            block_on(self.volume.write_async(offset, data.to_vec()))
        } else {
            self.volume.write(offset, data)
        };
        written.expect("a write succeeds");
    }

    fn discard(&mut self, range: std::ops::Range<usize>) {
        self.volume.discard(self.offset(&range), range.len() as u64).expect("a discard succeeds");
        self.model[range].fill(0);
    }

    fn read(&mut self, range: std::ops::Range<usize>, place: &str) {
        let mut found = vec![0; range.len()];
        let offset = self.offset(&range);
        // A future is told at once when no frame is free: then the call that waits.
        let is_async = self.random.u8(..4) == 0 && range.len() < 20_000;
        match is_async.then(|| block_on(self.volume.read_async(offset, range.len()))) {
            Some(Ok(blocks)) => blocks.copy_to(&mut found),
            Some(Err(Error::WouldBlock)) | None => {
                self.volume.read(offset, &mut found).expect("a read succeeds");
            }
            Some(Err(error)) => panic!("a read succeeds: {error}"),
        }
        let wrong = found.iter().zip(&self.model[range]).position(|(found, wanted)| found != wanted);
        assert_eq!(wrong, None, "{place}: the first wrong byte after {offset}");
    }

    fn flush(&mut self, range: std::ops::Range<usize>) {
        self.volume.flush().expect("a flush succeeds");
        if self.case.mode == WriteMode::BackSsd || self.case.may_log {
            return;
        }
        // All that is this thread's alone is below: nothing changes.
        let block_bytes = self.case.block_bytes as usize;
        let first = (self.start + range.start).next_multiple_of(block_bytes);
        let end = (self.start + range.end) / block_bytes * block_bytes;
        if first < end {
            self.volume.forget(first as u64, (end - first) as u64).expect("a forget succeeds");
        }
    }
}

/// Runs all threads on one opening of the cache; with `is_drained`, until the backing store has every byte.
fn live(case: &Case, files: &Files, models: &mut [Vec<u8>], is_drained: bool, seed: u64) {
    let cache = Cache::open(&config(case, files)).expect("the cache opens");
    let disk = Arc::new(files.backing((case.threads * case.stretch_bytes) as u64));
    let volume = cache.attach("disk", disk, case.mode).expect("the volume attaches");
    std::thread::scope(|scope| {
        for (index, model) in models.iter_mut().enumerate() {
            let volume = volume.clone();
            let (cache, seed) = (&cache, seed.wrapping_add(index as u64));
            scope.spawn(move || {
                let (start, random) = (index * case.stretch_bytes, Rng::with_seed(seed));
                Worker { cache, volume: &volume, case, start, model, random }.run(seed);
            });
        }
    });
    let stats = cache.stats();
    assert_eq!(stats.read_ram_hits + stats.read_ssd_hits + stats.disk_reads, stats.reads, "seed {seed}");
    assert_eq!(stats.reads + stats.writes, stats.references, "seed {seed}");
    if is_drained {
        cache.settle().expect("the log is drained");
        assert_eq!(cache.stats().ssd.dirty_blocks, 0, "seed {seed}");
        cache.assert_quiet();
    }
    cache.close().expect("the cache closes");
    if is_drained {
        let below = std::fs::read(files.disk()).expect("the backing file can be read");
        assert!(below == models.concat(), "seed {seed}: the backing store has every byte");
    }
}

fn run(case: &Case) {
    let (seed, files) = (seed(), Files::new());
    let mut models = vec![vec![0u8; case.stretch_bytes]; case.threads];
    for pass in 0..3 {
        // In its own mode the log keeps what is dirty over a close; the next pass begins with that.
        let is_drained = case.mode != WriteMode::BackSsd || pass == 1;
        live(case, &files, &mut models, is_drained, seed.wrapping_add(pass * 1000));
    }
}

/// A case of any kind, small enough that all of its tiers run over.
fn any_case(random: &mut Rng, threads: usize, stretch_bytes: usize, block_bytes: u64) -> Case {
    let mode = MODES[random.usize(..4)];
    let is_logged = mode == WriteMode::BackSsd || random.u8(..4) == 0;
    let bytes = (threads * stretch_bytes) as u64;
    let ram_blocks = (bytes / block_bytes / random.u64(2..12)).max(40);
    Case {
        block_bytes,
        ram_blocks,
        ssd_blocks: if is_logged || random.bool() { ram_blocks * random.u64(2..8) + 200 } else { 0 },
        shards: random.u32(1..=4),
        mode,
        may_log: is_logged,
        threads,
        stretch_bytes,
        operations: random.usize(50..400),
    }
}

fn seconds() -> u64 {
    match std::env::var("TERRACE_MODEL_SECONDS") {
        Ok(seconds) => seconds.parse().expect("TERRACE_MODEL_SECONDS is a number"),
        Err(_) if std::env::var_os("TERRACE_SLOW").is_some() => 60,
        Err(_) => 3,
    }
}

/// One volume after the other, each opened again and again as long as its layout stays: in any mode, with mode switches,
/// discards, forgets and flushes by all threads.
#[test]
#[expect(clippy::print_stdout, reason = "how much was run is the result")]
fn lives_of_any_kind_read_what_they_wrote() {
    let (first, until) = (seed(), Instant::now() + Duration::from_secs(seconds()));
    let (mut lives, mut volumes) = (0, 0);
    while volumes == 0 || Instant::now() < until {
        let mut random = Rng::with_seed(first.wrapping_add(volumes));
        volumes += 1;
        let files = Files::new();
        let (threads, stretch_bytes) = (random.usize(1..=12), random.usize(200_000..1_500_000));
        let block_bytes = [4096, 8192, 16384, 65536][random.usize(..4)];
        let case = any_case(&mut random, threads, stretch_bytes, block_bytes);
        let mut models = vec![vec![0u8; stretch_bytes]; threads];
        for life in 0..4 {
            let mode = if case.ssd_blocks == 0 { MODES[random.usize(..3)] } else { MODES[random.usize(..4)] };
            let case = Case { mode: if life == 0 { case.mode } else { mode }, ..case.clone() };
            let seed = random.u64(..);
            println!("volume {volumes} of seed {first}, life {life}: {case:?}");
            live(&case, &files, &mut models, random.bool(), seed);
            lives += 1;
            if Instant::now() >= until {
                break;
            }
        }
    }
    println!("lives: {lives} of {volumes} volumes");
}

#[test]
fn many_threads_on_shared_blocks_read_what_they_wrote_in_back_mode() {
    run(&Case {
        block_bytes: 16384,
        ram_blocks: 64,
        ssd_blocks: 400,
        shards: 4,
        mode: WriteMode::Back,
        may_log: false,
        threads: 6,
        stretch_bytes: 1_000_003,
        operations: 400,
    });
}

#[test]
fn many_threads_on_shared_blocks_read_what_they_wrote_in_through_mode() {
    run(&Case {
        block_bytes: 4096,
        ram_blocks: 100,
        ssd_blocks: 800,
        shards: 2,
        mode: WriteMode::Through,
        may_log: false,
        threads: 5,
        stretch_bytes: 700_001,
        operations: 300,
    });
}

#[test]
fn many_threads_on_shared_blocks_read_what_they_wrote_with_a_log_on_the_ssd() {
    for (block_bytes, ram_blocks, ssd_blocks) in [(4096, 100, 600), (65536, 40, 200)] {
        run(&Case {
            block_bytes,
            ram_blocks,
            ssd_blocks,
            shards: 2,
            mode: WriteMode::BackSsd,
            may_log: false,
            threads: 5,
            stretch_bytes: 700_001,
            operations: 300,
        });
    }
}

#[test]
fn many_threads_on_shared_blocks_read_what_they_wrote_in_around_mode() {
    run(&Case {
        block_bytes: 4096,
        ram_blocks: 100,
        ssd_blocks: 800,
        shards: 2,
        mode: WriteMode::Around,
        may_log: false,
        threads: 5,
        stretch_bytes: 700_001,
        operations: 300,
    });
}

#[test]
fn a_cache_without_an_ssd_of_a_few_large_blocks_reads_what_was_written() {
    run(&Case {
        block_bytes: 1 << 20,
        ram_blocks: 16,
        ssd_blocks: 0,
        shards: 1,
        mode: WriteMode::Back,
        may_log: false,
        threads: 3,
        stretch_bytes: 9_000_001,
        operations: 150,
    });
}

#[test]
fn one_thread_alone_reads_what_it_wrote() {
    run(&Case {
        block_bytes: 65536,
        ram_blocks: 40,
        ssd_blocks: 100,
        shards: 1,
        mode: WriteMode::Back,
        may_log: false,
        threads: 1,
        stretch_bytes: 12_345_678,
        operations: 800,
    });
}
