//! Random operations from many threads against a plain vector of bytes.
//!
//! Each thread owns a stretch of the volume, at byte offsets that no block respects, so neighbours share blocks and
//! even sectors. A thread's reads of its own stretch must give back exactly what it wrote.

mod common;

use std::sync::Arc;

use common::{Files, seed};
use terrace::{BlockSize, Cache, Config, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

struct Case {
    block_bytes: u64,
    ram_blocks: u64,
    ssd_blocks: u64,
    shards: u32,
    mode: WriteMode,
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

/// One thread's work: `model` is what its stretch, from `start` on, must read as.
fn work(cache: &Cache, volume: &Volume, start: usize, model: &mut [u8], case: &Case, seed: u64) {
    let &Case { operations, block_bytes, .. } = case;
    let is_alone = case.threads == 1;
    let mut random = fastrand::Rng::with_seed(seed);
    for step in 0..operations {
        let at = random.usize(..model.len());
        let length = match random.u8(..10) {
            0..4 => random.usize(1..=512),
            4..8 => random.usize(1..=20_000),
            _ => random.usize(1..=200_000),
        };
        let range = at..(at + length).min(model.len());
        let offset = (start + at) as u64;
        let has_log = case.mode == WriteMode::BackSsd;
        if random.u8(..50) == 0 && !has_log {
            let modes = [WriteMode::Around, WriteMode::Through, WriteMode::Back];
            volume.set_mode(modes[random.usize(..3)]).expect("the mode is switched");
        }
        if random.u8(..80) == 0 {
            let blocks = random.u64(8 * u64::from(case.shards)..2 * case.ram_blocks);
            let resized = cache.resize_ram(RamSize::Blocks(blocks)).expect("RAM is resized");
            assert_eq!(resized.blocks, blocks, "seed {seed} step {step}");
        }
        match random.u8(..20) {
            0..8 => {
                let fill = random.u8(..);
                for (index, byte) in model[range.clone()].iter_mut().enumerate() {
                    *byte = fill.wrapping_add((index % 251) as u8);
                }
                volume.write(offset, &model[range]).expect("a write succeeds");
            }
            8 if !has_log => {
                model[range.clone()].fill(0);
                volume.discard(offset, range.len() as u64).expect("a discard succeeds");
            }
            8..19 => {
                let mut found = vec![0; range.len()];
                volume.read(offset, &mut found).expect("a read succeeds");
                if let Some(wrong) =
                    (0..range.len()).find(|&index| found[index] != model[range.start + index])
                {
                    panic!("seed {seed} step {step}: byte {} is wrong", offset as usize + wrong);
                }
            }
            _ => {
                volume.flush().expect("a flush succeeds");
                if is_alone {
                    // All is below: nothing changes.
                    let block_bytes = block_bytes as usize;
                    let first = range.start / block_bytes * block_bytes;
                    let end = range.end.next_multiple_of(block_bytes).min(model.len());
                    volume.forget(first as u64, (end - first) as u64).expect("a forget succeeds");
                }
            }
        }
    }
}

fn run(case: &Case) {
    let seed = seed();
    let files = Files::new();
    let bytes = (case.threads * case.stretch_bytes) as u64;
    let mut models = vec![vec![0u8; case.stretch_bytes]; case.threads];
    for pass in 0..3 {
        let cache = Cache::open(&config(case, &files)).expect("the cache opens");
        let volume =
            cache.attach("disk", Arc::new(files.backing(bytes)), case.mode).expect("the volume attaches");
        std::thread::scope(|scope| {
            for (index, model) in models.iter_mut().enumerate() {
                let volume = volume.clone();
                let seed = seed.wrapping_add((pass * 1000 + index) as u64);
                let cache = &cache;
                scope.spawn(move || work(cache, &volume, index * case.stretch_bytes, model, case, seed));
            }
        });
        let stats = cache.stats();
        assert_eq!(stats.read_ram_hits + stats.read_ssd_hits + stats.disk_reads, stats.reads, "seed {seed}");
        assert_eq!(stats.reads + stats.writes, stats.references, "seed {seed}");
        // In its own mode the log may keep what is dirty over a close; the next pass then begins with that.
        let is_drained = case.mode != WriteMode::BackSsd || pass != 0;
        if is_drained && case.mode == WriteMode::BackSsd {
            cache.settle().expect("the log is drained");
            let ssd = cache.stats().ssd;
            assert!(
                ssd.records_written > 0 && ssd.blocks_destaged > 0 && ssd.dirty_blocks == 0,
                "seed {seed}: {ssd:?}"
            );
        }
        cache.close().expect("the cache closes");
        if !is_drained {
            continue;
        }
        let below = std::fs::read(files.disk()).expect("the backing file can be read");
        assert!(below == models.concat(), "seed {seed}: after a close the backing store has every byte");
    }
}

#[test]
fn many_threads_on_shared_blocks_read_what_they_wrote_in_back_mode() {
    run(&Case {
        block_bytes: 16384,
        ram_blocks: 64,
        ssd_blocks: 400,
        shards: 4,
        mode: WriteMode::Back,
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
        threads: 1,
        stretch_bytes: 12_345_678,
        operations: 800,
    });
}
