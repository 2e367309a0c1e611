//! A cache that settles after each request and its simulation count the same hits, to the block.

mod common;

use std::sync::Arc;

use common::{Files, seed};
use terrace::{
    Background, BlockId, BlockSize, Cache, Config, RamSize, Simulation, SsdConfig, SsdSize, Stats, WriteMode,
};

const SECTORS: u64 = 4096 / 512;

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
fn counted(stats: &Stats) -> [u64; 12] {
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
        stats.ssd.blocks_destaged,
        stats.ssd.records_written,
        stats.ssd.record_bytes_written,
    ]
}

/// A cache and its simulation, given the same requests.
struct Twins {
    files: Files,
    config: Config,
    mode: WriteMode,
    blocks: u64,
    simulation: Simulation,
    random: fastrand::Rng,
}

impl Twins {
    fn new(ram_blocks: u64, ssd_blocks: u64, shards: u32, mode: WriteMode, seed: u64) -> Self {
        let files = Files::new();
        let config = config(&files, ram_blocks, ssd_blocks, shards);
        let simulation = Simulation::new(&config).expect("the simulation starts");
        let random = fastrand::Rng::with_seed(seed);
        Self { files, config, mode, blocks: 4 * (ram_blocks + ssd_blocks), simulation, random }
    }

    /// Opens the cache, makes `requests` requests, shows both counts after each to `look`, and closes the cache.
    fn run(&mut self, requests: u64, mut look: impl FnMut(u64, Stats, Stats)) {
        let cache = Cache::open(&self.config).expect("the cache opens");
        let backing = Arc::new(self.files.backing(self.blocks * 4096));
        let volume = cache.attach("disk", backing, self.mode).expect("the volume attaches");
        let mut buffer = vec![0; 40 * 4096];
        for step in 0..requests {
            let longest = if self.random.u8(..8) == 0 { 40 } else { 6 };
            let count = self.random.u64(1..=longest);
            // The fourth power draws most requests to the low blocks.
            let first = ((self.random.f64().powi(4) * self.blocks as f64) as u64).min(self.blocks - count);
            let id = BlockId::new(volume.id(), first);
            let bytes = &mut buffer[..count as usize * 4096];
            if self.random.u8(..16) == 0 {
                volume.discard(first * 4096, count * 4096).expect("a discard succeeds");
                self.simulation.discard(id, count);
            } else if self.random.u8(..3) == 0 {
                volume.write(first * 4096, bytes).expect("a write succeeds");
                self.simulation.write_in(self.mode, id, 0..count * SECTORS, step);
            } else {
                volume.read(first * 4096, bytes).expect("a read succeeds");
                self.simulation.read(id, count, step);
            }
            cache.settle().expect("the cache settles");
            look(step, cache.stats(), self.simulation.stats());
        }
        cache.close().expect("the cache closes");
    }
}

fn run(ram_blocks: u64, ssd_blocks: u64, shards: u32, mode: WriteMode) {
    let seed = seed();
    let mut evicted_blocks = 0;
    Twins::new(ram_blocks, ssd_blocks, shards, mode, seed).run(3000, |step, real, simulated| {
        assert_eq!(counted(&real), counted(&simulated), "seed {seed} step {step}:\n{real:?}\n{simulated:?}");
        evicted_blocks = real.ssd.evicted_blocks;
    });
    assert!(ssd_blocks == 0 || evicted_blocks > 0, "seed {seed}: the log never wrapped");
}

#[test]
fn a_reopened_cache_hits_its_ssd_like_one_that_lost_only_its_ram() {
    let seed = seed();
    let mut twins = Twins::new(64, 1024, 2, WriteMode::Back, seed);
    let mut before = Stats::default();
    twins.run(1500, |_, _, simulated| before = simulated);
    twins.simulation.reopen();
    let (mut real, mut simulated) = (Stats::default(), Stats::default());
    twins.run(500, |_, real_now, simulated_now| (real, simulated) = (real_now, simulated_now));
    let reads = real.reads as f64;
    let of_real = real.read_ssd_hits as f64 / reads;
    let of_simulated = (simulated.read_ssd_hits - before.read_ssd_hits) as f64 / reads;
    assert!(of_real > 0.1, "seed {seed}: nothing was warm");
    assert!((of_real - of_simulated).abs() < 0.01, "seed {seed}: {of_real} of the reads, not {of_simulated}");
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

#[test]
fn what_goes_past_both_tiers_counts_the_same() {
    run(64, 512, 2, WriteMode::Around);
}

#[test]
fn two_tiers_with_a_log_count_the_same() {
    run(64, 512, 1, WriteMode::BackSsd);
    run(100, 300, 3, WriteMode::BackSsd);
}

#[test]
fn one_ram_tier_over_several_ssds_counts_over_each_what_it_counts_over_it_alone() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let files = Files::new();
    let configs = [0, 200, 512, 3000].map(|ssd_blocks| config(&files, 64, ssd_blocks, 2));
    let mut alone = configs.clone().map(|config| Simulation::new(&config).expect("the simulation starts"));
    let ssds: Vec<SsdConfig> = configs.iter().filter_map(|config| config.ssd.clone()).collect();
    let mut together = Simulation::over(&configs[0], &ssds).expect("the simulation starts");
    for step in 0..20_000 {
        // Some requests are longer than RAM: blocks leave it before they were read.
        let count = if random.u8(..50) == 0 { 100 } else { random.u64(1..6) };
        let first = BlockId::from_u64((random.f64().powi(3) * 8000.0) as u64);
        let is_write = random.u8(..4) == 0;
        for simulation in alone.iter_mut().chain([&mut together]) {
            if is_write {
                simulation.write(first, count, step);
            } else {
                simulation.read(first, count, step);
            }
        }
    }
    for (index, simulation) in alone[1..].iter().enumerate() {
        let (one, all) = (simulation.stats(), together.stats_over(index));
        assert_eq!(one, all, "seed {seed}, SSD {index}");
        assert!(one.read_ssd_hits > 0 && one.ssd.evicted_blocks > 0, "seed {seed}: {one:?}");
    }
    let (ram, all) = (alone[0].stats(), together.stats());
    assert_eq!((ram.ram_hits, ram.references), (all.ram_hits, all.references), "seed {seed}");
}
