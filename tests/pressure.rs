//! Frames, dirty blocks and time run out, caches close under load: every call answers, and nothing acknowledged is lost.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{
    BLOCK, Files, block_on, bytes_of, content, eventually, held, seed, small, ssd_bytes, stored,
    without_hanging,
};
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{Background, BlockSize, Cache, Config, Error, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;

fn open(config: &Config, device: &Arc<MemoryDevice>, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), mode).expect("the volume attaches");
    (cache, volume)
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
}

fn assert_below(device: &MemoryDevice, block: u64, number: u64) {
    let found = stored(device, block * BLOCK_U64, BLOCK);
    assert!(found == content(block, number), "block {block} is not below as {number}");
}

#[test]
fn readers_that_hold_every_frame_are_told_so_and_all_works_when_they_let_go() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let config = Config { frame_wait_ms: 50, slack_blocks: Some(8), ..small(16) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    let mut references = Vec::new();
    for block in 0.. {
        match volume.read_ref(block * BLOCK_U64, BLOCK) {
            Ok(blocks) => references.push(blocks),
            Err(Error::WouldBlock) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(references.len(), 24, "every frame");
    assert!(matches!(volume.write(200 * BLOCK_U64, &content(200, 1)), Err(Error::WouldBlock)));
    assert!(matches!(block_on(volume.read_async(200 * BLOCK_U64, BLOCK)), Err(Error::WouldBlock)));
    for (block, blocks) in references.iter().enumerate() {
        let found: Vec<u8> = blocks.parts().iter().flat_map(|part| part.to_vec()).collect();
        assert!(found == stored(&*device, block as u64 * BLOCK_U64, BLOCK), "block {block}");
    }
    drop(references);
    for block in 0..64 {
        bytes_of(&volume, block * BLOCK_U64, BLOCK);
        write(&volume, block + 100, 1);
    }
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

#[test]
fn a_read_that_waits_for_frames_in_between_uses_each_block_once() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let config = Config { frame_wait_ms: 100_000, slack_blocks: Some(8), ..small(16) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    // Frames for two of the four blocks are free.
    let mut references: Vec<_> =
        (0..22).map(|block| volume.read_ref(block * BLOCK_U64, BLOCK).expect("a frame is free")).collect();
    let before = cache.stats();
    let found = without_hanging({
        let volume = volume.clone();
        move || {
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| bytes_of(&volume, 100 * BLOCK_U64, 4 * BLOCK));
                while !reader.is_finished() {
                    // When it has the first two, so that it comes back for the rest.
                    if volume.places(100..102).expect("they are in it").iter().all(|place| place.in_ram) {
                        references.pop();
                    }
                    std::thread::yield_now();
                }
                reader.join().expect("the read succeeds")
            })
        }
    });
    assert!(found == stored(&*device, 100 * BLOCK_U64, 4 * BLOCK));
    let after = cache.stats();
    assert_eq!((after.reads - before.reads, after.disk_reads - before.disk_reads), (4, 4));
}

#[test]
fn a_call_that_waits_for_a_frame_goes_on_when_a_reader_lets_one_go() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let config = Config { frame_wait_ms: 100_000, slack_blocks: Some(8), ..small(16) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    let mut references: Vec<_> =
        (0..24).map(|block| volume.read_ref(block * BLOCK_U64, BLOCK).expect("a frame is free")).collect();
    let cache = without_hanging(move || {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| bytes_of(&volume, 100 * BLOCK_U64, BLOCK));
            let writer = scope.spawn(|| write(&volume, 101, 1));
            // Whether they wait already or not: they must notice.
            while !reader.is_finished() || !writer.is_finished() {
                references.pop();
                std::thread::yield_now();
            }
        });
        volume.flush().expect("a flush succeeds");
        cache
    });
    cache.assert_quiet();
}

/// A write to part of a sector saw a free frame, and another took it before the fill that the write needs: it was told
/// `WouldBlock`, though calls with a callback wait.
#[test]
fn writes_to_parts_of_sectors_that_share_few_frames_are_all_done() {
    let device = Arc::new(MemoryDevice::patterned(1024 * BLOCK_U64, 1));
    let config = Config { frame_wait_ms: 100_000, slack_blocks: Some(8), ..small(16) };
    let (cache, volume) = open(&config, &device, WriteMode::Through);
    let references: Vec<_> =
        (0..7).map(|block| volume.read_ref(block * BLOCK_U64, BLOCK).expect("a frame is free")).collect();
    let cache = without_hanging(move || {
        std::thread::scope(|scope| {
            for thread in 0..12 {
                let volume = &volume;
                scope.spawn(move || {
                    for block in (0..70).cycle().take(700) {
                        let offset = (100 + 12 * block + thread) * BLOCK_U64;
                        bytes_of(volume, offset - BLOCK_U64, BLOCK);
                        volume.discard(offset + 100, 300).expect("a discard succeeds");
                    }
                });
            }
        });
        drop(references);
        volume.flush().expect("a flush succeeds");
        cache
    });
    cache.assert_quiet();
}

#[test]
fn references_keep_their_bytes_while_the_block_is_overwritten_and_evicted() {
    let device = Arc::new(MemoryDevice::new(256 * BLOCK_U64));
    let (cache, volume) = open(&small(32), &device, WriteMode::Back);
    let mut references = Vec::new();
    for number in 1..=6 {
        write(&volume, 3, number);
        references.push(volume.read_ref(3 * BLOCK_U64, BLOCK).expect("a read succeeds"));
        volume.write(3 * BLOCK_U64 + 100, &[0xaa; 700]).expect("a write succeeds");
        if number % 2 == 0 {
            volume.flush().expect("a flush succeeds");
            for block in 10..200 {
                bytes_of(&volume, block * BLOCK_U64, BLOCK);
            }
        }
    }
    for (number, blocks) in (1..).zip(&references) {
        assert!(blocks.parts()[0][..] == content(3, number), "reference {number} changed");
    }
    drop(references);
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

#[test]
fn above_the_high_mark_writers_wait_and_at_the_low_mark_they_go_on() {
    let device = Arc::new(MemoryDevice::new(256 * BLOCK_U64));
    let config = Config { dirty_high: 0.5, dirty_low: 0.25, writeback_delay_ms: 1, ..small(64) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    device.stall(Operation::Write);
    let (sender, receiver) = mpsc::channel();
    for block in 0..100 {
        let sender = sender.clone();
        volume.write_with(block * BLOCK_U64, content(block, 1), move |answer| {
            sender.send(answer).expect("it is waited for");
        });
    }
    device.wait_until_held(1);
    let acknowledged = receiver.try_iter().inspect(|answer| assert!(answer.is_ok())).count();
    assert_eq!(acknowledged, 32, "as many as the high mark has");
    let blocked = {
        let volume = volume.clone();
        std::thread::spawn(move || write(&volume, 200, 1))
    };
    device.resume();
    for _ in 0..100 - acknowledged {
        receiver.recv_timeout(Duration::from_secs(60)).expect("everyone goes on").expect("a write succeeds");
    }
    blocked.join().expect("it goes on");
    volume.flush().expect("a flush succeeds");
    (0..100).for_each(|block| assert_below(&device, block, 1));
    cache.assert_quiet();
}

#[test]
fn writers_that_wait_for_room_survive_writes_and_syncs_that_fail_for_a_while() {
    for operation in [Operation::Write, Operation::Sync] {
        let cache = without_hanging(move || {
            let device = Arc::new(MemoryDevice::new(512 * BLOCK_U64));
            let config = Config { writeback_delay_ms: 2, ..small(64) };
            let (cache, volume) = open(&config, &device, WriteMode::Back);
            device.fail(Fault { count: 12, ..Fault::every(operation) });
            for block in 0..512 {
                write(&volume, block, 1);
            }
            eventually("a flush succeeds", || volume.flush().is_ok());
            (0..512).for_each(|block| assert_below(&device, block, 1));
            cache
        });
        cache.assert_quiet();
    }
}

/// Half of what waits for a sync was bad: neither all was written nor half of it unsynced, so nothing was synced, and
/// the writers waited for the bad blocks.
#[test]
fn writers_go_on_while_many_blocks_cannot_be_written() {
    without_hanging(|| {
        let device = Arc::new(MemoryDevice::new(512 * BLOCK_U64));
        let config = Config { writeback_delay_ms: 2, dirty_high: 0.5, dirty_low: 0.5, ..small(64) };
        let (_cache, volume) = open(&config, &device, WriteMode::Back);
        device.fail(Fault::every(Operation::Write).within(0..20 * BLOCK_U64));
        for block in 0..200 {
            write(&volume, block, 1);
        }
        device.clear_faults();
        eventually("a flush succeeds", || volume.flush().is_ok());
        (0..200).for_each(|block| assert_below(&device, block, 1));
    });
}

#[test]
fn dropping_the_last_handle_writes_everything() {
    let files = Files::new();
    let config = Config { writeback_delay_ms: 3_600_000, ..small(64) };
    let cache = Cache::open(&config).expect("the cache opens");
    let backing = Arc::new(files.backing(64 * BLOCK_U64));
    let volume = cache.attach("disk", backing, WriteMode::Back).expect("the volume attaches");
    drop(cache);
    (0..16).for_each(|block| write(&volume, block, 1));
    drop(volume);
    let below = std::fs::read(files.disk()).expect("the file can be read");
    for block in 0..16 {
        assert!(below[block as usize * BLOCK..][..BLOCK] == content(block, 1), "block {block}");
    }
}

/// The last handle went with the callback that owned it, on the only thread of the disk's lane, which then waited for
/// its own flush.
#[test]
fn the_last_handle_may_go_in_a_callback() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let config = Config { disk_threads: 1, ..held(32) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    (0..8).for_each(|block| write(&volume, block, 1));
    device.stall(Operation::Read);
    let last = volume.clone();
    volume.read_with(20 * BLOCK_U64, BLOCK, move |answer| {
        answer.expect("a read succeeds");
        drop(last);
    });
    device.wait_until_held(1);
    drop((cache, volume));
    device.resume();
    eventually("everything is below", || stored(&*device, 7 * BLOCK_U64, BLOCK) == content(7, 1));
    eventually("nobody has the device any more", || Arc::strong_count(&device) == 1);
}

#[test]
fn a_close_while_others_read_and_write_answers_every_call_and_loses_no_acknowledged_write() {
    let seed = seed();
    for round in 0..40u64 {
        let mode = if round % 2 == 0 { WriteMode::Back } else { WriteMode::Through };
        without_hanging(move || {
            let device = Arc::new(MemoryDevice::new(256 * BLOCK_U64));
            let ssd = Arc::new(MemoryDevice::new(ssd_bytes(64)));
            let mut config = Config { writeback_delay_ms: 1, ..small(32) };
            config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(64)));
            let (cache, volume) = open(&config, &device, mode);
            let acknowledged: Vec<AtomicU64> = (0..6).map(|_| AtomicU64::new(0)).collect();
            let is_going = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for thread in 0..6u64 {
                    let (volume, acknowledged, is_going) = (&volume, &acknowledged, &is_going);
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed ^ (round * 8 + thread));
                        for number in 1.. {
                            let block = thread * 32;
                            let bytes = content(block, number);
                            let written = match thread {
                                0..4 => volume.write(block * BLOCK_U64, &bytes),
                                _ => block_on(volume.write_async(block * BLOCK_U64, bytes)),
                            };
                            match written {
                                Ok(_) => acknowledged[thread as usize].store(number, Ordering::SeqCst),
                                Err(_) => return,
                            }
                            is_going.fetch_add(1, Ordering::SeqCst);
                            let mut buffer = vec![0; BLOCK];
                            if volume.read(random.u64(..256) * BLOCK_U64, &mut buffer).is_err() {
                                return;
                            }
                        }
                    });
                }
                while is_going.load(Ordering::SeqCst) < 20 * (round % 7) {
                    std::thread::yield_now();
                }
                cache.close().expect("the cache closes");
            });
            for (thread, number) in acknowledged.iter().enumerate() {
                let (block, number) = (thread as u64 * 32, number.load(Ordering::SeqCst));
                let found = stored(&*device, block * BLOCK_U64, 8);
                let found = u64::from_le_bytes(found.try_into().expect("8 bytes")) & 0xffff_ffff;
                assert!(
                    found >= number,
                    "seed {seed} round {round}: {number} was acknowledged, {found} is below"
                );
            }
            assert!(matches!(volume.read(0, &mut [0; 8]), Err(Error::Closed)));
            assert!(matches!(volume.write(0, &[0; 8]), Err(Error::Closed)));
            assert!(matches!(volume.flush(), Err(Error::Closed)));
            assert!(matches!(block_on(volume.read_async(0, 8)), Err(Error::Closed)));
            assert!(matches!(block_on(volume.write_async(0, [0; 8])), Err(Error::Closed)));
            assert!(matches!(block_on(volume.flush_async()), Err(Error::Closed)));
            assert!(matches!(cache.settle(), Err(Error::Closed)));
            let other = Arc::new(MemoryDevice::new(BLOCK_U64));
            assert!(matches!(cache.attach("other", other, WriteMode::Back), Err(Error::Closed)));
            cache.close().expect("a second close does nothing");
        });
    }
}

/// The writer waits for a frame in the callback entry, which has no limit, and the cache closes.
#[test]
fn a_write_that_waits_for_a_frame_is_answered_when_the_cache_closes() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let config = Config { slack_blocks: Some(8), ..small(16) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    let references: Vec<_> =
        (0..24).map(|block| volume.read_ref(block * BLOCK_U64, BLOCK).expect("a frame is free")).collect();
    let (sender, receiver) = mpsc::channel();
    volume.write_with(100 * BLOCK_U64, content(100, 1), move |answer| {
        sender.send(answer).expect("it is waited for");
    });
    cache.close().expect("the cache closes");
    let answer = receiver.recv_timeout(Duration::from_secs(60)).expect("it is answered");
    assert!(matches!(answer, Err(Error::Closed)), "{answer:?}");
    drop(references);
}

/// A close that a volume's flush refuses leaves the cache as it was, the other volumes too.
#[test]
fn a_close_that_fails_leaves_every_volume_at_work() {
    let devices: Vec<_> = (0..6).map(|_| Arc::new(MemoryDevice::new(64 * BLOCK_U64))).collect();
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(64)));
    let mut config = held(32);
    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(64)));
    let cache = Cache::open(&config).expect("the cache opens");
    let volumes: Vec<_> = (0..6)
        .map(|number| {
            let device = devices[number].clone();
            cache.attach(&format!("disk {number}"), device, WriteMode::Back).expect("it attaches")
        })
        .collect();
    volumes.iter().for_each(|volume| write(volume, 0, 1));
    devices[3].fail(Fault::every(Operation::Write));
    assert!(matches!(cache.close(), Err(Error::StillDirty { .. })));
    for (number, volume) in volumes.iter().enumerate() {
        assert_eq!(bytes_of(volume, 0, BLOCK), content(0, 1), "volume {number}");
        write(volume, 1, 2);
    }
    devices[3].clear_faults();
    cache.close().expect("the cache closes");
    for device in &devices {
        assert_below(device, 0, 1);
        assert_below(device, 1, 2);
    }
}

#[test]
fn two_caches_in_one_process_do_not_know_of_each_other() {
    let (one, two) = (Files::new(), Files::new());
    let caches: Vec<_> = [&one, &two]
        .into_iter()
        .map(|files| {
            let mut config = small(32);
            config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(64)));
            let cache = Cache::open(&config).expect("the cache opens");
            let backing = Arc::new(files.backing(128 * BLOCK_U64));
            let volume = cache.attach("disk", backing, WriteMode::Back).expect("the volume attaches");
            (cache, volume)
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, (_, volume)) in (1..).zip(&caches) {
            scope.spawn(move || {
                (0..128).for_each(|block| write(volume, block, number));
                for block in 0..128 {
                    assert!(bytes_of(volume, block * BLOCK_U64, BLOCK) == content(block, number));
                }
            });
        }
    });
    caches[0].0.close().expect("the first closes");
    assert!(bytes_of(&caches[1].1, 0, BLOCK) == content(0, 2), "the second goes on");
    caches[1].0.close().expect("the second closes");
}

#[test]
fn a_cache_file_that_does_not_fit_is_refused_with_the_reason_and_left_as_it_is() {
    let files = Files::new();
    let with = |size, block_bytes| {
        let mut config = small(32);
        config.block_size = BlockSize::new(block_bytes).expect("a size");
        config.ssd = Some(SsdConfig { prepare: false, ..SsdConfig::new(files.ssd(), size) });
        config
    };
    let right = with(SsdSize::Blocks(64), BLOCK_U64);
    let cache = Cache::open(&right).expect("the cache opens");
    match Cache::open(&right).err() {
        Some(Error::Tier(error)) => {
            assert!(matches!(*error, terrace::tiers::Error::Locked { .. }), "{error}");
        }
        other => panic!("{other:?}"),
    }
    cache.close().expect("the cache closes");
    drop(cache);
    let before = std::fs::read(files.ssd()).expect("the file can be read");
    match Cache::open(&with(SsdSize::Blocks(64), 2 * BLOCK_U64)).err() {
        Some(Error::Tier(error)) => {
            let is_right = matches!(*error, terrace::tiers::Error::Mismatch { field: "block bytes", .. });
            assert!(is_right, "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(files.ssd()).expect("it is there") == before);
    Cache::open(&right).expect("the right one opens still").close().expect("and closes");

    let foreign = vec![7; 100_000];
    std::fs::write(files.ssd(), &foreign).expect("the file can be written");
    match Cache::open(&right).err() {
        Some(Error::Tier(error)) => {
            assert!(matches!(*error, terrace::tiers::Error::NotACacheFile { .. }), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(files.ssd()).expect("it is there") == foreign, "a foreign file is not touched");
}

/// Every block of the shard is dirty, fewer than the high mark of the whole cache: the block that a write changes in
/// part was read past the directory, again and again, and nobody asked for write-back.
#[test]
fn a_write_to_part_of_a_sector_finds_room_in_a_shard_full_of_dirty_blocks() {
    for background in [Background::OnSettle, Background::Continuous] {
        // 56 blocks fill at least one of four shards of 16, and some of these are of that shard.
        for part in (60..120).step_by(4) {
            let reads = without_hanging(move || {
                let device = Arc::new(MemoryDevice::new(128 * BLOCK_U64));
                let config = Config { background, shards: Some(4), ..held(64) };
                let (cache, volume) = open(&config, &device, WriteMode::Back);
                (0..56).for_each(|block| write(&volume, block, 1));
                volume.write(part * BLOCK_U64 + 5, b"part").expect("a write succeeds");
                volume.flush().expect("a flush succeeds");
                assert_eq!(stored(&*device, part * BLOCK_U64 + 5, 4), b"part");
                cache.assert_quiet();
                device.counters().reads
            });
            assert!(reads < 10, "{reads} reads for one block");
        }
    }
}

#[test]
fn a_pool_without_slack_is_refused_with_a_size_that_works() {
    for slack in 0..4 {
        let config = Config { slack_blocks: Some(slack), ..small(8) };
        assert!(matches!(Cache::open(&config).err(), Some(Error::Config(_))), "{slack}");
    }
}

#[test]
fn calls_that_give_up_waiting_leave_nothing_behind() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let config = Config { frame_wait_ms: 0, slack_blocks: Some(4), ..small(8) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    let references: Vec<_> =
        (0..12).map(|block| volume.read_ref(block * BLOCK_U64, BLOCK).expect("a frame is free")).collect();
    for _ in 0..1000 {
        assert!(matches!(volume.read(100 * BLOCK_U64, &mut [0; 8]), Err(Error::WouldBlock)));
        assert!(matches!(volume.write(101 * BLOCK_U64, &[0; BLOCK]), Err(Error::WouldBlock)));
    }
    cache.assert_nobody_waits();
    drop(references);
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

#[test]
fn one_thread_on_the_smallest_cache_makes_progress_whatever_it_writes() {
    for mode in [WriteMode::Back, WriteMode::Through] {
        for with_ssd in [false, true] {
            without_hanging(move || {
                let device = Arc::new(MemoryDevice::new(512 * BLOCK_U64));
                let mut config = Config { slack_blocks: Some(4), ..Config::new(RamSize::Blocks(8)) };
                config.block_size = BlockSize::new(BLOCK_U64).expect("a size");
                if with_ssd {
                    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(64)));
                    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(64)));
                }
                let (cache, volume) = open(&config, &device, mode);
                let mut model = vec![0; 512 * BLOCK];
                let mut random = fastrand::Rng::with_seed(7);
                for step in 0..60 {
                    let start = random.usize(..400 * BLOCK);
                    let longest = if step % 10 == 0 { 100 * BLOCK } else { 2 * BLOCK };
                    let range = start..start + random.usize(1..longest);
                    model[range.clone()].fill(step);
                    volume.write(start as u64, &model[range.clone()]).expect("a write succeeds");
                    let start = random.usize(..400 * BLOCK);
                    let bytes = random.usize(1..longest);
                    assert!(
                        bytes_of(&volume, start as u64, bytes) == model[start..start + bytes],
                        "step {step}"
                    );
                }
                volume.flush().expect("a flush succeeds");
                assert!(stored(&*device, 0, model.len()) == model);
                cache.settle().expect("the cache settles");
                cache.assert_quiet();
            });
        }
    }
}

#[test]
fn hundreds_of_threads_share_a_small_cache() {
    without_hanging(move || {
        let device = Arc::new(MemoryDevice::new(1024 * BLOCK_U64));
        let ssd = Arc::new(MemoryDevice::new(ssd_bytes(256)));
        let mut config = Config { frame_wait_ms: 60_000, writeback_delay_ms: 1, ..small(64) };
        config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(256)));
        let (cache, volume) = open(&config, &device, WriteMode::Back);
        std::thread::scope(|scope| {
            for thread in 0..300u64 {
                let volume = &volume;
                scope.spawn(move || {
                    for number in 1..=10 {
                        // Blocks of its own, and a stretch that all read.
                        let block = 200 + thread;
                        write(volume, block, number);
                        volume.write(block * BLOCK_U64 + 100, &[9; 3]).expect("a write succeeds");
                        bytes_of(volume, 8 * number * BLOCK_U64, 20 * BLOCK);
                        let mut wanted = content(block, number);
                        wanted[100..103].fill(9);
                        assert!(bytes_of(volume, block * BLOCK_U64, BLOCK) == wanted, "thread {thread}");
                    }
                });
            }
        });
        cache.settle().expect("the cache settles");
        cache.assert_quiet();
    });
}
