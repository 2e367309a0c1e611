//! A cache that settles after each request and its simulation count the same hits, to the block.

mod common;

use std::sync::Arc;

use common::{Files, seed};
use terrace::{
    Background, BlockId, BlockSize, Cache, Config, RamSize, Simulation, SsdConfig, SsdSize, Stats, WriteMode,
};

fn config(files: &Files, ram_blocks: u64, ssd_blocks: u64, shards: u32) -> Config {
    let mut config = Config::new(RamSize::Blocks(ram_blocks));
    config.block_size = BlockSize::new(4096).expect("a block size");
    config.shards = Some(shards);
    config.slack_blocks = Some(256);
    config.background = Background::OnSettle;
    if ssd_blocks > 0 {
        config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(ssd_blocks)));
    }
    config
}

/// What both count; operations and bytes depend on how requests were merged.
fn counted(stats: &Stats) -> [u64; 9] {
    [
        stats.references,
        stats.read_ram_hits,
        stats.write_ram_hits,
        stats.read_ssd_hits,
        stats.disk_reads,
        stats.ssd.blocks_written,
        stats.ssd.blocks_reinserted,
        stats.ssd.evicted_blocks,
        stats.ssd.cached_blocks,
    ]
}

fn run(ram_blocks: u64, ssd_blocks: u64, shards: u32, mode: WriteMode) {
    let seed = seed();
    println!("seed {seed}");
    let files = Files::new();
    let blocks = 4 * (ram_blocks + ssd_blocks);
    let config = config(&files, ram_blocks, ssd_blocks, shards);
    let cache = Cache::open(&config).expect("the cache opens");
    let volume =
        cache.attach("disk", Arc::new(files.backing(blocks * 4096)), mode).expect("the volume attaches");
    let mut simulation = Simulation::new(&config).expect("the simulation starts");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut buffer = vec![0; 40 * 4096];
    for step in 0..3000u64 {
        let longest = if random.u8(..8) == 0 { 40 } else { 6 };
        let count = random.u64(1..=longest);
        // The fourth power draws most requests to the low blocks.
        let first = ((random.f64().powi(4) * blocks as f64) as u64).min(blocks - count);
        let id = BlockId::new(volume.id(), first);
        let bytes = &mut buffer[..count as usize * 4096];
        if random.u8(..3) == 0 {
            volume.write(first * 4096, bytes).expect("a write succeeds");
            simulation.write(id, count, step);
        } else {
            volume.read(first * 4096, bytes).expect("a read succeeds");
            simulation.read(id, count, step);
        }
        cache.settle().expect("the cache settles");
        let (real, simulated) = (cache.stats(), simulation.stats());
        assert_eq!(counted(&real), counted(&simulated), "seed {seed} step {step}:\n{real:?}\n{simulated:?}");
    }
    assert!(ssd_blocks == 0 || cache.stats().ssd.evicted_blocks > 0, "seed {seed}: the log never wrapped");
}

#[test]
fn ram_alone_counts_the_same_in_back_mode() {
    run(100, 0, 1, WriteMode::Back);
}

#[test]
fn two_tiers_count_the_same_in_back_mode() {
    run(64, 512, 1, WriteMode::Back);
}

#[test]
fn two_tiers_in_shards_count_the_same_in_through_mode() {
    run(100, 300, 3, WriteMode::Through);
}
