//! Sizes, numbers and ranges at their limits, and the policy at its own.

use std::sync::Arc;

use terrace::tiers::ram::arc_policy::{ArcPolicy, List};
use terrace::tiers::testing::MemoryDevice;
use terrace::{Background, BlockId, Cache, Config, RamSize, SsdConfig, SsdSize, VolumeId, WriteMode};

use super::MODES;
use crate::common::{BLOCK, Files, bytes_of, content, held, small, stored};
use crate::world::{BLOCK_U64, DISK_BLOCKS, SSD_BLOCKS, World, number_of, read, write};

#[test]
fn blocks_of_a_volume_of_8_tib_that_differ_above_32_bits_stay_apart() {
    const VOLUME_BYTES: u64 = 8 << 40;
    let offsets = [0, 1 << 32, 1 << 41, (1 << 41) + (1 << 32), 3 << 41, VOLUME_BYTES - BLOCK_U64];
    for mode in MODES {
        let world = World { disk: Arc::new(MemoryDevice::new(VOLUME_BYTES)), ..World::new() };
        let (cache, volume) = world.open(held(16), mode);
        let numbered = |number: usize| content(number as u64, 1);
        for (number, &offset) in offsets.iter().enumerate() {
            volume.write(offset, &numbered(number)).expect("a write succeeds");
        }
        for round in 0..2 {
            for (number, &offset) in offsets.iter().enumerate() {
                assert!(bytes_of(&volume, offset, BLOCK) == numbered(number), "{mode:?} {offset}");
            }
            volume.flush().expect("a flush succeeds");
            // From RAM first, then from wherever they went.
            (1000..1040 + round).for_each(|block| drop(read(&volume, block)));
        }
        cache.settle().expect("all goes below");
        for (number, &offset) in offsets.iter().enumerate() {
            assert!(stored(&*world.disk, offset, BLOCK) == numbered(number), "{mode:?} {offset} below");
        }
        assert!(volume.write(VOLUME_BYTES - 511, &[1; 512]).is_err(), "past the end");
    }
    let files = Files::new();
    let cache = Cache::open(&held(16)).expect("the cache opens");
    let sparse = Arc::new(files.backing(VOLUME_BYTES));
    let volume = cache.attach("sparse", sparse, WriteMode::Through).expect("the volume attaches");
    volume.write(VOLUME_BYTES - BLOCK_U64, &content(7, 1)).expect("a sparse file takes it");
    volume.discard(1 << 33, 5 << 40).expect("a discard succeeds");
    volume.flush().expect("a flush succeeds");
    assert!(bytes_of(&volume, VOLUME_BYTES - BLOCK_U64, BLOCK) == content(7, 1));
}

/// Lists and target from figure 4 of the paper. With the lengths of the ghost lists as they are after the block left
/// them, or after REPLACE as well, the target would be 3, or 4, and block 9 would have left in place of 1.
#[test]
fn the_policy_adapts_before_the_block_moves() {
    let mut policy = ArcPolicy::new(5);
    let volume = VolumeId::new(1);
    for number in [9, 4, 5, 8, 8, 2, 5, 7, 6, 2, 1, 9, 4, 3, 6, 8] {
        policy.request(BlockId::new(volume, number), |_| true).expect("all may leave");
    }
    let numbers = |list| policy.list(list).map(BlockId::number).collect::<Vec<_>>();
    let lists = [List::Recent, List::Frequent, List::RecentGhost, List::FrequentGhost].map(numbers);
    assert_eq!(lists, [vec![3], vec![9, 4, 6, 8], vec![7, 1], vec![5, 2]]);
    assert_eq!(policy.recent_target(), 2.0);
}

#[test]
fn a_cache_file_has_its_size_from_the_start_and_keeps_it() {
    let files = Files::new();
    let mut config = Config { writeback_delay_ms: 1, ..small(32) };
    config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(SSD_BLOCKS)));
    let cache = Cache::open(&config).expect("the cache opens");
    let bytes = || std::fs::metadata(files.ssd()).expect("it is there").len();
    let size = bytes();
    let disk = Arc::new(files.backing(4 * DISK_BLOCKS * BLOCK_U64));
    let volume = cache.attach("disk", disk, WriteMode::BackSsd).expect("the volume attaches");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let volume = &volume;
            scope.spawn(move || {
                for block in (0..4 * DISK_BLOCKS).filter(|block| block % 4 == thread) {
                    write(volume, block, 1);
                    drop(read(volume, block / 2));
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(bytes(), size);
            let ssd = cache.stats().ssd;
            assert!(ssd.cached_blocks <= ssd.capacity_blocks, "{ssd:?}");
        }
    });
    cache.close().expect("the cache closes");
    assert_eq!(bytes(), size);
}

#[test]
fn ram_holds_no_more_than_it_was_given_and_the_index_no_more_than_20_bytes_a_block() {
    const RAM_BYTES: u64 = 4 << 20;
    let world = World::new();
    let disk = Arc::new(MemoryDevice::patterned(16 * RAM_BYTES, 1));
    let config = Config { ram: RamSize::Bytes(RAM_BYTES), shards: None, ..held(16) };
    let cache = Cache::open(&world.config(config)).expect("the cache opens");
    let volume = cache.attach("disk", disk, WriteMode::Through).expect("the volume attaches");
    let blocks = 16 * RAM_BYTES / BLOCK_U64;
    for _ in 0..2 {
        (0..blocks).for_each(|block| drop(read(&volume, block)));
    }
    let held: Vec<_> = (0..blocks)
        .map_while(|block| {
            let before = cache.stats().read_ram_hits;
            let blocks = volume.read_ref(block * BLOCK_U64, BLOCK).ok()?;
            Some((blocks, cache.stats().read_ram_hits - before))
        })
        .take((RAM_BYTES / BLOCK_U64) as usize + 1)
        .collect();
    assert!(held.len() as u64 <= RAM_BYTES / BLOCK_U64, "readers hold more than there is");
    drop(held);
    let ssd = cache.stats().ssd;
    // The table is sized once; a small one has its fixed part beside it.
    assert!(ssd.index_bytes <= 20 * ssd.capacity_blocks + (64 << 10), "{ssd:?}");
}

#[test]
fn blocks_in_the_log_take_no_more_ram_than_the_configuration_says() {
    let world = World::new();
    let config = world.config(Config { background: Background::OnSettle, ..held(64) });
    let ssd = config.ssd.clone().expect("there is one");
    let most = ssd.index_bytes_max(config.block_size).expect("its size is known");
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", world.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    let clean = cache.stats().ssd.index_bytes;
    for block in 0..40 {
        volume.write(block * BLOCK_U64 + 512, &[1; 512]).expect("a write succeeds");
        volume.flush().expect("the log is there");
    }
    let dirty = cache.stats().ssd.index_bytes;
    assert!(clean < dirty && dirty <= most + (64 << 10), "{clean}, then {dirty}, of {most}");
    let as_found = SsdConfig { size: SsdSize::AsFound, ..ssd };
    assert!(as_found.index_bytes_max(config.block_size).is_err(), "the file alone knows");
}

#[test]
fn empty_reads_writes_discards_and_forgets_do_nothing_anywhere() {
    for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
        let world = World::new();
        let (cache, volume) = world.open(held(16), mode);
        write(&volume, 3, 1);
        volume.flush().expect("a flush succeeds");
        let before = (world.disk.counters(), cache.stats().references);
        let end = DISK_BLOCKS * BLOCK_U64;
        for offset in [0, 1, 3 * BLOCK_U64, 3 * BLOCK_U64 + 700, end] {
            volume.read(offset, &mut []).expect("an empty read succeeds");
            volume.write(offset, &[]).expect("an empty write succeeds");
            volume.discard(offset, 0).expect("an empty discard succeeds");
            if offset % BLOCK_U64 == 0 {
                volume.forget(offset, 0).expect("an empty forget succeeds");
            }
        }
        assert!(volume.discard(end + 1, 0).is_err() && volume.discard(1, u64::MAX).is_err());
        assert_eq!((world.disk.counters(), cache.stats().references), before, "{mode:?}");
        volume.flush().expect("a flush succeeds");
        assert_eq!(number_of(3, &read(&volume, 3)), 1);
        cache.assert_quiet();
    }
}
