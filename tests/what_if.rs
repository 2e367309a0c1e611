//! What more RAM or SSD would do, told by a cache that runs.

mod common;

use std::sync::Arc;

use common::BLOCK;
use terrace::tiers::testing::MemoryDevice;
use terrace::{Cache, Config, RamSize, WhatIf, WriteMode};

const RAM_BLOCKS: u64 = 256;
const BLOCKS: u64 = 2048;

fn open() -> (Cache, terrace::Volume, Config) {
    let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
    config.block_size = terrace::BlockSize::new(BLOCK as u64).expect("a block size");
    let cache = Cache::open(&config).expect("the cache opens");
    let disk = Arc::new(MemoryDevice::new(BLOCKS * BLOCK as u64));
    let volume = cache.attach("disk", disk, WriteMode::Back).expect("the volume attaches");
    (cache, volume, config)
}

fn touch_many(volume: &terrace::Volume, random: &mut fastrand::Rng) {
    for _ in 0..10_000 {
        let block = (BLOCKS as f64 * random.f64().powi(3)) as u64;
        volume.read_ref(block * BLOCK as u64, BLOCK).expect("the disk can be read");
    }
}

#[test]
fn a_cache_that_runs_says_what_other_sizes_would_do_and_agrees_with_itself_about_its_own() {
    let seed = common::seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (cache, volume, config) = open();
    let what_if = WhatIf::start(&cache, &config, 1.0).expect("it can be watched");
    let mut rounds = 0;
    while what_if.outlooks().is_empty() {
        touch_many(&volume, &mut random);
        rounds += 1;
        assert!(rounds < 20_000, "seed {seed}: nothing to say after so much");
    }
    let stats = cache.stats();
    let measured = stats.ram_hits as f64 / stats.references as f64;
    let outlooks = what_if.outlooks();
    let here = outlooks.iter().find(|outlook| outlook.is_present).expect("the own size is among them");
    assert_eq!((here.size.ram_blocks, here.size.ssd_blocks), (RAM_BLOCKS, 0));
    // A sample of no less than a quarter of the blocks; the machine's load says which.
    assert!((here.ram_hit_ratio - measured).abs() < 0.1, "seed {seed}: {here:?}, measured {measured}");
    let double = outlooks.iter().find(|it| it.size.ram_blocks == 2 * RAM_BLOCKS && it.size.ssd_blocks == 0);
    assert!(double.expect("so is twice that").ram_hit_ratio > here.ram_hit_ratio, "seed {seed}");
    cache.close().expect("nothing is dirty");
    drop(what_if);
}

#[test]
fn nothing_is_said_before_anything_was_seen_and_a_closed_cache_can_be_let_go_first() {
    let (cache, volume, config) = open();
    let what_if = WhatIf::start(&cache, &config, WhatIf::BUSY_SHARE).expect("it can be watched");
    assert!(what_if.outlooks().is_empty());
    drop((volume, cache));
    assert!(what_if.outlooks().is_empty());
}
