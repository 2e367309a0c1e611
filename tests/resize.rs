//! RAM and the cache file grow and shrink while the cache is used.

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    BLOCK, Files, bytes_of, content, eventually, held, seed, small, ssd_bytes, stored, without_hanging,
};
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{Cache, Config, Device, Error, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

fn disk_of(blocks: u64) -> Arc<MemoryDevice> {
    let disk = MemoryDevice::new(blocks * BLOCK as u64);
    for block in 0..blocks {
        disk.write(block * BLOCK as u64, &[IoSlice::new(&content(block, 1))]).expect("a disk takes bytes");
    }
    Arc::new(disk)
}

fn on(disk: &Arc<MemoryDevice>, config: &Config) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", disk.clone(), WriteMode::Back).expect("the volume attaches");
    (cache, volume)
}

fn read(volume: &Volume, block: u64) -> Vec<u8> {
    bytes_of(volume, block * BLOCK as u64, BLOCK)
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK as u64, &content(block, number)).expect("a write succeeds");
}

/// Of `blocks`, each read once to see, how many were in RAM.
fn in_ram(volume: &Volume, blocks: std::ops::Range<u64>) -> u64 {
    let mut bytes = vec![0; BLOCK];
    let hits = blocks.map(|block| {
        let answer = volume.read(block * BLOCK as u64, &mut bytes).expect("a read succeeds");
        u64::from(answer.ram_blocks)
    });
    hits.sum()
}

#[test]
fn a_grown_cache_holds_more_and_a_shrunk_one_keeps_what_was_used_last() {
    let disk = disk_of(400);
    let (cache, volume) = on(&disk, &Config { slack_blocks: Some(32), ..small(50) });
    assert_eq!(in_ram(&volume, 0..50), 0);
    let resized = cache.resize_ram(RamSize::Blocks(200)).expect("there is address space");
    assert_eq!((resized.blocks, resized.held_blocks), (200, 0));
    assert_eq!(in_ram(&volume, 0..200), 50, "nothing left while it grew");
    assert_eq!(in_ram(&volume, 0..200), 200);
    let resized = cache.resize_ram(RamSize::Blocks(60)).expect("all may leave");
    assert_eq!((resized.blocks, resized.held_blocks), (60, 0));
    assert_eq!(in_ram(&volume, 140..200), 60);
    assert_eq!(in_ram(&volume, 0..100), 0);
    cache.assert_quiet();
    assert!((0..400).all(|block| read(&volume, block) == content(block, 1)));
    cache.close().expect("the cache closes");
}

#[test]
fn a_size_that_cannot_work_is_refused_with_one_that_does_and_nothing_changes() {
    let disk = disk_of(100);
    let config = Config { ram_bytes_max: Some(8 << 20), shards: Some(2), ..small(64) };
    let (cache, volume) = on(&disk, &config);
    assert_eq!(in_ram(&volume, 0..40), 0);
    for ram in [RamSize::Blocks(0), RamSize::Blocks(15), RamSize::Bytes(4096)] {
        let error = cache.resize_ram(ram).expect_err("too small").to_string();
        assert!(error.contains("give"), "{error}");
    }
    let error = cache.resize_ram(RamSize::Bytes(100 << 20)).expect_err("too large").to_string();
    assert!(error.contains("ram_bytes_max"), "{error}");
    assert_eq!(in_ram(&volume, 0..40), 40);
    let error = cache.resize_ram(RamSize::Bytes(100_000)).expect_err("too small").to_string();
    let bytes =
        error.split(' ').filter_map(|word| word.parse::<u64>().ok()).next_back().expect("a size is named");
    let resized = cache.resize_ram(RamSize::Bytes(bytes)).expect("the size that was named works");
    assert_eq!(resized.blocks, 16);
    let resized = cache.resize_ram(RamSize::Bytes(8 << 20)).expect("the largest that was provided for");
    assert!(resized.blocks > 1500, "{resized:?}");
    cache.close().expect("the cache closes");
    assert!(matches!(cache.resize_ram(RamSize::Blocks(64)), Err(Error::Closed)));
}

#[test]
fn dirty_blocks_that_are_too_many_are_durable_before_they_leave() {
    let disk = disk_of(100);
    let (cache, volume) = on(&disk, &held(100));
    (0..80).for_each(|block| write(&volume, block, 2));
    assert_eq!(cache.stats().dirty_blocks, 80);
    let resized = cache.resize_ram(RamSize::Blocks(10)).expect("the disk takes them");
    assert_eq!((resized.blocks, resized.held_blocks), (10, 0));
    assert!(cache.stats().disk_syncs > 0 && cache.stats().unsynced_blocks == 0);
    for block in 0..80 {
        assert_eq!(stored(&*disk, block * BLOCK as u64, BLOCK), content(block, 2), "block {block} below");
        assert_eq!(read(&volume, block), content(block, 2));
    }
    cache.assert_quiet();
}

#[test]
fn a_shrink_past_blocks_that_cannot_be_written_is_taken_back() {
    let disk = disk_of(200);
    let (cache, volume) = on(&disk, &held(100));
    (0..80).for_each(|block| write(&volume, block, 2));
    disk.fail(Fault::every(Operation::Write));
    let error = cache.resize_ram(RamSize::Blocks(10)).expect_err("they may not leave");
    assert!(matches!(error, Error::StillDirty { .. }), "{error}");
    assert!((0..80).all(|block| read(&volume, block) == content(block, 2)));
    // The old size holds: these go beside the dirty ones, and no writer waits.
    assert_eq!(in_ram(&volume, 100..120), 0);
    assert_eq!(in_ram(&volume, 100..120), 20);
    write(&volume, 0, 3);
    disk.clear_faults();
    assert_eq!(cache.resize_ram(RamSize::Blocks(10)).expect("the disk takes them again").blocks, 10);
    assert_eq!(stored(&*disk, 0, BLOCK), content(0, 3));
    cache.close().expect("the cache closes");
}

#[test]
fn readers_keep_the_blocks_they_hold_and_the_answer_counts_them() {
    let disk = disk_of(300);
    let (cache, volume) = on(&disk, &Config { frame_wait_ms: 1, ..small(200) });
    assert_eq!(in_ram(&volume, 0..200), 0);
    let references: Vec<_> =
        (0..200).map(|block| volume.read_ref(block * BLOCK as u64, BLOCK).expect("in RAM")).collect();
    let resized = cache.resize_ram(RamSize::Blocks(20)).expect("all may leave");
    // 20 blocks and a slack of 32 stay, whoever holds them.
    assert_eq!((resized.blocks, resized.held_blocks), (20, 200 - 52));
    for (held, block) in references.iter().zip(0..) {
        assert!(held.parts()[0][..] == content(block, 1), "block {block}");
    }
    drop(references);
    assert_eq!(cache.resize_ram(RamSize::Blocks(20)).expect("the same size").held_blocks, 0);
    assert!((0..300).all(|block| read(&volume, block) == content(block, 1)));
    cache.assert_quiet();
}

#[test]
fn what_leaves_a_shrinking_cache_goes_to_the_ssd() {
    let disk = disk_of(600);
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(2000)));
    let mut config = small(500);
    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(2000)));
    let (cache, volume) = on(&disk, &config);
    (0..500).for_each(|block| drop(read(&volume, block)));
    cache.resize_ram(RamSize::Blocks(8)).expect("all may leave");
    cache.settle().expect("the cache settles");
    let stats = cache.stats();
    assert_eq!((stats.demotions_dropped, stats.ssd.cached_blocks), (0, 492));
    cache.close().expect("the cache closes");
}

/// Writes and reads of threads that each have a stretch of the volume, until it is over.
fn traffic(volume: &Volume, thread: u64, seed: u64, is_over: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(thread));
    let mut model = vec![1; 100];
    while !is_over.load(Ordering::Relaxed) {
        let index = random.usize(..model.len());
        let (block, number) = (thread * 100 + index as u64, model[index]);
        match random.u8(..10) {
            0..4 => {
                model[index] += 1;
                write(volume, block, number + 1);
            }
            4 => {
                let length = random.usize(1..=model.len() - index);
                let bytes = bytes_of(volume, block * BLOCK as u64, length * BLOCK);
                for (at, bytes) in bytes.chunks(BLOCK).enumerate() {
                    assert!(bytes == content(block + at as u64, model[index + at]), "seed {seed}");
                }
            }
            5 if random.u8(..8) == 0 => volume.flush().expect("a flush succeeds"),
            _ => assert!(read(volume, block) == content(block, number), "seed {seed}, block {block}"),
        }
    }
}

fn resizes_beside_traffic(mode: WriteMode, shards: u32) {
    let seed = seed();
    let disk = disk_of(400);
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(3000)));
    let mut config = Config { shards: Some(shards), writeback_delay_ms: 1, ..small(200) };
    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(300)));
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", disk, mode).expect("the volume attaches");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic: Vec<_> = (0..4)
            .map(|thread| (volume.clone(), thread))
            .map(|(volume, thread)| {
                let is_over = &is_over;
                scope.spawn(move || traffic(&volume, thread, seed, is_over))
            })
            .collect();
        // Two at a time, which come one after the other.
        let resizers: Vec<_> = (0..2)
            .map(|resizer: u64| {
                let cache = cache.clone();
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed ^ resizer << 32);
                    for step in 0..20 {
                        let blocks = if step % 5 == 0 { 8 * u64::from(shards) } else { random.u64(64..600) };
                        let resized = cache.resize_ram(RamSize::Blocks(blocks)).expect("a size that works");
                        assert_eq!(resized.blocks, blocks, "seed {seed}");
                        let size = SsdSize::Blocks(random.u64(100..1500));
                        cache.resize_ssd(size).expect("the device is large enough");
                    }
                })
            })
            .collect();
        resizers.into_iter().for_each(|resizer| resizer.join().expect("no resize fails"));
        is_over.store(true, Ordering::Relaxed);
        traffic.into_iter().for_each(|thread| thread.join().expect("no call fails"));
    });
    cache.resize_ram(RamSize::Blocks(8 * u64::from(shards))).expect("a size that works");
    cache.settle().expect("the cache settles");
    cache.assert_quiet();
    cache.assert_nobody_waits();
    cache.close().expect("the cache closes");
}

#[test]
fn resizes_in_a_row_and_beside_each_other_disturb_no_reader_and_no_writer() {
    without_hanging(|| resizes_beside_traffic(WriteMode::Back, 4));
}

#[test]
fn resizes_beside_writes_through_and_to_a_log_disturb_nobody() {
    without_hanging(|| resizes_beside_traffic(WriteMode::Through, 1));
    without_hanging(|| resizes_beside_traffic(WriteMode::BackSsd, 2));
}

#[test]
fn a_resize_beside_a_close_ends_before_it_or_says_that_the_cache_is_closed() {
    for round in 0..20 {
        let disk = disk_of(100);
        let (cache, volume) = on(&disk, &held(100));
        (0..60).for_each(|block| write(&volume, block, 2));
        without_hanging(move || {
            std::thread::scope(|scope| {
                let closer = cache.clone();
                scope.spawn(move || closer.close().expect("the cache closes"));
                for blocks in [20 + round, 90, 8] {
                    match cache.resize_ram(RamSize::Blocks(blocks)) {
                        Ok(resized) => assert_eq!(resized.blocks, blocks),
                        Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
                    }
                }
            });
        });
        for block in 0..60 {
            assert_eq!(stored(&*disk, block * BLOCK as u64, BLOCK), content(block, 2), "block {block}");
        }
    }
}

#[test]
fn a_writer_that_waited_while_ram_shrank_goes_on() {
    let disk = disk_of(100);
    // Not an hour between two tries, as elsewhere.
    let (cache, volume) = on(&disk, &Config { writeback_delay_ms: 1, ..held(60) });
    // Its blocks are dirty for as long as the disk does not write them.
    disk.fail(Fault::every(Operation::Write));
    (0..50).for_each(|block| write(&volume, block, 2));
    let shrinks = cache.clone();
    let resizer = std::thread::spawn(move || shrinks.resize_ram(RamSize::Blocks(8)));
    let writer = {
        let volume = volume.clone();
        std::thread::spawn(move || (50..60).for_each(|block| write(&volume, block, 2)))
    };
    assert!(resizer.join().expect("it does not panic").is_err());
    disk.clear_faults();
    without_hanging(move || writer.join().expect("no write fails"));
    eventually("the writers are let go", || in_ram(&volume, 50..51) == 1);
    cache.close().expect("the cache closes");
}

/// A cache of little RAM over `disk` with a cache file of `ssd_blocks`.
fn on_file(disk: &Arc<MemoryDevice>, files: &Files, ssd_blocks: u64, mode: WriteMode) -> (Cache, Volume) {
    let mut config = Config { writeback_delay_ms: 1, ..small(16) };
    config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(ssd_blocks)));
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
    (cache, volume)
}

/// Reads `blocks` so that none is dropped on its way to the SSD.
fn read_slowly(cache: &Cache, volume: &Volume, blocks: std::ops::Range<u64>) {
    for first in blocks.clone().step_by(16) {
        for block in first..blocks.end.min(first + 16) {
            assert!(read(volume, block) == content(block, 1), "block {block}");
        }
        cache.settle().expect("the cache settles");
    }
}

fn file_bytes(files: &Files) -> u64 {
    std::fs::metadata(files.ssd()).expect("it is there").len()
}

#[test]
fn a_grown_cache_file_keeps_its_copies_has_room_for_more_and_is_warm_when_it_is_opened_again() {
    let (disk, files) = (disk_of(1000), Files::new());
    let (cache, volume) = on_file(&disk, &files, 100, WriteMode::Back);
    read_slowly(&cache, &volume, 0..100);
    let before = cache.stats().ssd;
    let resized = cache.resize_ssd(SsdSize::Blocks(1000)).expect("the disk has room");
    assert_eq!(file_bytes(&files), resized.file_bytes);
    assert!(resized.blocks > 800, "{resized:?}");
    let after = cache.stats().ssd;
    assert_eq!((after.cached_blocks, after.capacity_blocks), (before.cached_blocks, resized.blocks));
    read_slowly(&cache, &volume, 100..700);
    assert!(cache.stats().ssd.cached_blocks > 600, "{:?}", cache.stats().ssd);
    cache.close().expect("the cache closes");
    drop((cache, volume));
    let (cache, volume) = on_file(&disk, &files, 1000, WriteMode::Back);
    assert_eq!(cache.stats().ssd.capacity_blocks, resized.blocks, "it is that large already");
    cache.settle().expect("all that it holds is found");
    assert!((0..700).all(|block| read(&volume, block) == content(block, 1)));
    assert!(cache.stats().read_ssd_hits > 600, "{:?}", cache.stats());
    cache.close().expect("the cache closes");
}

#[test]
fn a_shrunk_cache_file_ends_earlier_and_serves_what_is_left() {
    let (disk, files) = (disk_of(1000), Files::new());
    let (cache, volume) = on_file(&disk, &files, 800, WriteMode::Back);
    let full = file_bytes(&files);
    read_slowly(&cache, &volume, 0..900);
    let resized = cache.resize_ssd(SsdSize::Bytes(full / 3)).expect("all may go");
    assert_eq!(file_bytes(&files), resized.file_bytes);
    assert!(resized.file_bytes <= full / 3 && resized.blocks > 150, "{resized:?}");
    assert!((0..900).all(|block| read(&volume, block) == content(block, 1)));
    cache.settle().expect("the cache settles");
    let ssd = cache.stats().ssd;
    assert!(ssd.cached_blocks > 100 && ssd.cached_blocks <= resized.blocks + 64, "{ssd:?}");
    cache.assert_quiet();
    cache.close().expect("the cache closes");
    drop((cache, volume));
    let (cache, volume) = on_file(&disk, &files, 800, WriteMode::Back);
    assert!(cache.stats().ssd.capacity_blocks > 700, "an opening with another size resizes");
    cache.settle().expect("all that it holds is found");
    assert!((0..900).all(|block| read(&volume, block) == content(block, 1)));
    assert!(cache.stats().read_ssd_hits > 50 && cache.stats().ssd_errors == 0);
    cache.close().expect("the cache closes");
}

#[test]
fn dirty_blocks_in_the_log_stay_when_the_file_grows_and_go_below_when_it_ends_before_them() {
    let (disk, files) = (disk_of(400), Files::new());
    let (cache, volume) = on_file(&disk, &files, 300, WriteMode::BackSsd);
    for round in 2..6 {
        (0..300).for_each(|block| write(&volume, block, round));
        volume.flush().expect("the log takes it");
        let blocks = if round % 2 == 0 { 900 } else { 100 };
        cache.resize_ssd(SsdSize::Blocks(blocks)).expect("it may go below");
        assert!((0..300).all(|block| read(&volume, block) == content(block, round)), "round {round}");
    }
    cache.close().expect("the cache closes");
    drop((cache, volume));
    let (cache, volume) = on_file(&disk, &files, 300, WriteMode::Back);
    assert!((0..300).all(|block| read(&volume, block) == content(block, 5)));
    assert!((0..300).all(|block| stored(&*disk, block * BLOCK as u64, BLOCK) == content(block, 5)));
    cache.close().expect("the cache closes");
}

#[test]
fn a_shrink_past_dirty_blocks_that_cannot_go_below_is_given_up() {
    let disk = disk_of(400);
    let ssd: Arc<dyn Device> = Arc::new(MemoryDevice::new(ssd_bytes(600)));
    let open = |blocks| {
        let mut config = Config { writeback_delay_ms: 1, ..small(100) };
        config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(blocks)));
        Cache::open(&config)
    };
    let cache = open(600).expect("the cache opens");
    let volume = cache.attach("disk", disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    let before = cache.stats().ssd.capacity_blocks;
    disk.fail(Fault::every(Operation::Write));
    // More than one segment of the log, so that some are where the file would end.
    (0..250).for_each(|block| write(&volume, block, 2));
    volume.flush().expect("the log takes it");
    let mut refused = 0;
    for blocks in [30, 60] {
        match cache.resize_ssd(SsdSize::Blocks(blocks)) {
            Ok(_) => {}
            Err(Error::StillDirty { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && cache.stats().ssd.capacity_blocks == before);
    assert!((0..250).all(|block| read(&volume, block) == content(block, 2)));
    write(&volume, 300, 2);
    volume.flush().expect("the log goes on");
    drop((cache, volume));
    disk.clear_faults();
    let cache = open(30).expect("the cache opens");
    assert_eq!(cache.stats().ssd.capacity_blocks, before, "it keeps its size for them");
    // Nobody has attached the volume that they belong to.
    let error =
        cache.resize_ssd(SsdSize::Blocks(30)).expect_err("its dirty blocks would be lost").to_string();
    assert!(error.contains("attach"), "{error}");
    let volume = cache.attach("disk", disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    cache.resize_ssd(SsdSize::Blocks(30)).expect("they go below");
    assert!((0..250).all(|block| read(&volume, block) == content(block, 2)));
    cache.close().expect("the cache closes");
}

#[test]
fn a_cache_file_that_finds_no_room_stays_as_it_is() {
    let disk = disk_of(300);
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(200)));
    let mut config = small(16);
    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(200)));
    let (cache, volume) = on(&disk, &config);
    (0..150).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    let before = cache.stats().ssd;
    cache.resize_ssd(SsdSize::Blocks(2000)).expect_err("the device is no larger");
    let error = cache.resize_ssd(SsdSize::Bytes(10_000)).expect_err("too small").to_string();
    assert!(error.contains("give it at least"), "{error}");
    let after = cache.stats().ssd;
    assert_eq!((after.capacity_blocks, after.cached_blocks), (before.capacity_blocks, before.cached_blocks));
    assert!((0..150).all(|block| read(&volume, block) == content(block, 1)));
    assert!(cache.stats().ssd_in_use);
    cache.close().expect("the cache closes");
    let (cache, _volume) = on(&disk, &small(16));
    let error = cache.resize_ssd(SsdSize::Blocks(100)).expect_err("there is none").to_string();
    assert!(error.contains("no SSD"), "{error}");
}
