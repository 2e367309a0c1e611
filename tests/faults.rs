//! Devices that err, stall, flip bits and lose what was not synced: every answer is right or an error, and what was
//! flushed stays.

mod common;

use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{
    BLOCK, Files, bytes_of, content, eventually, held, seed, small, ssd_bytes, stored, without_hanging,
};
use terrace::tiers::ssd::{Geometry, Ssd, SsdPolicy};
use terrace::tiers::testing::{Cut, Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::{BlockId, BlockSize, Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;

fn open(config: &Config, device: &Arc<MemoryDevice>, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), mode).expect("the volume attaches");
    (cache, volume)
}

/// Content `number` for the blocks of `range`.
fn write(volume: &Volume, range: std::ops::Range<u64>, number: u64) {
    for block in range {
        volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
    }
}

fn assert_below(device: &MemoryDevice, range: std::ops::Range<u64>, number: u64) {
    for block in range {
        let found = stored(device, block * BLOCK_U64, BLOCK);
        assert!(found == content(block, number), "block {block} is not below as {number}");
    }
}

/// Shows every cut of the run to `look`.
fn each_cut(journal: &Journal, mut look: impl FnMut(&Cut)) {
    let mut cut = journal.first_cut();
    loop {
        look(&cut);
        if !cut.advance() {
            return;
        }
    }
}

#[test]
fn a_read_error_answers_everyone_who_waits_and_only_for_its_block() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (cache, volume) = open(&small(32), &device, WriteMode::Back);
    device.fail(Fault::every(Operation::Read).within(5 * BLOCK_U64..6 * BLOCK_U64));
    device.stall(Operation::Read);
    let (sender, receiver) = mpsc::channel();
    let read = |first: u64, count: usize| {
        let sender = sender.clone();
        volume.read_with(first * BLOCK_U64, count * BLOCK, move |answer| {
            let answer = answer.map(|blocks| blocks.parts().iter().flat_map(|part| part.to_vec()).collect());
            let _ = sender.send((first, count, answer));
        });
    };
    read(3, 5);
    device.wait_until_held(1);
    // All these wait for the run that is held.
    read(5, 1);
    read(5, 1);
    read(4, 1);
    read(6, 2);
    device.resume();
    let mut failed = 0;
    for _ in 0..5 {
        let (first, count, answer): (u64, usize, Result<Vec<u8>, Error>) =
            receiver.recv_timeout(Duration::from_secs(60)).expect("everyone is answered");
        if (first..first + count as u64).contains(&5) {
            assert!(matches!(answer, Err(Error::Tier(_))), "{first}, {count}");
            failed += 1;
        } else {
            let found = answer.expect("a neighbour is served");
            assert!(found == stored(&*device, first * BLOCK_U64, count * BLOCK), "{first}, {count}");
        }
    }
    assert_eq!(failed, 3);
    device.clear_faults();
    let reads = device.counters().reads;
    bytes_of(&volume, 6 * BLOCK_U64, 2 * BLOCK);
    assert_eq!(device.counters().reads, reads, "the neighbours are resident");
    assert!(bytes_of(&volume, 5 * BLOCK_U64, BLOCK) == stored(&*device, 5 * BLOCK_U64, BLOCK));
    cache.assert_quiet();
}

#[test]
fn a_write_below_that_fails_stays_dirty_until_it_succeeds() {
    for mode in [WriteMode::Back, WriteMode::Through] {
        let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
        let (cache, volume) = open(&held(32), &device, mode);
        device.fail(Fault::every(Operation::Write));
        if mode == WriteMode::Through {
            let answer = volume.write(0, &[content(0, 1), content(1, 1)].concat());
            assert!(matches!(answer, Err(Error::Tier(_))), "{answer:?}");
        } else {
            write(&volume, 0..2, 1);
        }
        for _ in 0..3 {
            match volume.flush() {
                Err(Error::StillDirty { blocks: 2, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bytes_of(&volume, 0, BLOCK), content(0, 1), "it reads as it was written");
        assert_eq!(cache.stats().failing_volumes, 1);
        device.clear_faults();
        volume.flush().expect("a write that began before the flush and fails is tried again");
        assert_eq!(cache.stats().failing_volumes, 0);
        assert_below(&device, 0..2, 1);
        cache.assert_quiet();
        cache.close().expect("the cache closes");
    }
}

#[test]
fn a_flush_is_told_of_failures_since_it_began_and_not_of_earlier_ones() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    device.stall(Operation::Write);
    device.fail(Fault::nth(Operation::Write, 0));
    write(&volume, 0..1, 1);
    let (sender, receiver) = mpsc::channel();
    let flush = |name: &'static str| {
        let sender = sender.clone();
        volume.flush_with(move |answer| drop(sender.send((name, answer))));
    };
    flush("before");
    device.wait_until_held(1);
    flush("since");
    device.resume();
    for _ in 0..2 {
        match receiver.recv_timeout(Duration::from_secs(60)).expect("everyone is answered") {
            ("before", Err(Error::StillDirty { blocks: 1, .. })) | ("since", Ok(())) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_below(&device, 0..1, 1);
    cache.assert_quiet();
}

#[test]
fn a_bad_block_does_not_hold_up_its_neighbours() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let config = Config { writeback_delay_ms: 2, dirty_high: 0.9, dirty_low: 0.9, ..small(48) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    device.fail(Fault::every(Operation::Write).within(7 * BLOCK_U64..8 * BLOCK_U64));
    write(&volume, 0..32, 1);
    assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })));
    eventually("all but one are below and synced", || {
        let stats = cache.stats();
        stats.dirty_blocks == 1 && stats.unsynced_blocks == 0
    });
    assert_below(&device, 0..7, 1);
    assert_below(&device, 8..32, 1);
    device.clear_faults();
    eventually("a flush succeeds", || volume.flush().is_ok());
    assert_below(&device, 7..8, 1);
    cache.assert_quiet();
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next_one() {
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64).recorded_in(&journal));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    write(&volume, 0..4, 1);
    device.fail(Fault::nth(Operation::Sync, 0));
    assert!(matches!(volume.flush(), Err(Error::StillDirty { blocks: 4, .. })));
    volume.flush().expect("a flush succeeds");
    journal.mark(1);
    assert_eq!(device.counters().writes, 2, "the run was written again");
    each_cut(&journal, |cut| {
        if cut.marks().contains(&1) {
            assert_below(&cut.images(Loss::All, 0)[0], 0..4, 1);
        }
    });
    cache.assert_quiet();
}

/// A flush that was called while a sync was running waits for the next one. The first fails, and what it should have
/// covered is dirty again; the second succeeds without having been given those blocks.
#[test]
fn a_flush_that_waits_behind_a_failed_sync_does_not_succeed_without_its_blocks() {
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64).recorded_in(&journal));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    write(&volume, 0..4, 1);
    device.fail(Fault::nth(Operation::Sync, 0));
    device.stall(Operation::Sync);
    let (sender, receiver) = mpsc::channel();
    let flush = || {
        let (sender, journal) = (sender.clone(), journal.clone());
        volume.flush_with(move |answer| {
            if answer.is_ok() {
                journal.mark(1);
            }
            sender.send(()).expect("it is waited for");
        });
    };
    flush();
    device.wait_until_held(1);
    flush();
    // One more block, whose flush waits for its write and then for a sync.
    write(&volume, 9..10, 1);
    flush();
    device.resume();
    for _ in 0..3 {
        receiver.recv_timeout(Duration::from_secs(60)).expect("every flush is answered");
    }
    each_cut(&journal, |cut| {
        if cut.marks().contains(&1) {
            assert_below(&cut.images(Loss::All, 0)[0], 0..4, 1);
        }
    });
    volume.flush().expect("a flush succeeds");
    assert_below(&device, 0..4, 1);
    cache.assert_quiet();
}

/// A sector of a block is below and its sync is running; another sector of it is written and goes below meanwhile. The
/// sync fails: the first sector must be written again, though the block is covered by the next sync now.
#[test]
fn a_failed_sync_is_remembered_by_a_block_that_was_written_again_meanwhile() {
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64).recorded_in(&journal));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    let (first, second) = (vec![1; 512], vec![2; 512]);
    volume.write(0, &first).expect("a write succeeds");
    device.fail(Fault::nth(Operation::Sync, 0));
    device.stall(Operation::Sync);
    volume.flush_with(|_| ());
    device.wait_until_held(1);
    volume.write(1024, &second).expect("a write succeeds");
    volume.flush_with(|_| ());
    eventually("the second sector is below", || cache.stats().dirty_blocks == 0);
    device.resume();
    eventually("a flush succeeds", || volume.flush().is_ok());
    journal.mark(1);
    each_cut(&journal, |cut| {
        if cut.marks().contains(&1) {
            let image = &cut.images(Loss::All, 0)[0];
            assert_eq!(stored(image, 0, 512), first);
            assert_eq!(stored(image, 1024, 512), second);
        }
    });
    cache.assert_quiet();
}

#[test]
fn a_disk_that_is_full_says_so_and_loses_nothing() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    write(&volume, 0..8, 1);
    let full = Fault { kind: io::ErrorKind::StorageFull, ..Fault::every(Operation::Write) };
    device.fail(full.within(4 * BLOCK_U64..64 * BLOCK_U64));
    let error = volume.flush().expect_err("there is no room");
    let cause = std::error::Error::source(&error).and_then(|cause| cause.source());
    let kind = cause.and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::StorageFull));
    assert!(matches!(cache.close(), Err(Error::StillDirty { .. })), "a close does not lose it either");
    for block in 0..8 {
        assert_eq!(bytes_of(&volume, block * BLOCK_U64, BLOCK), content(block, 1));
    }
    device.clear_faults();
    eventually("the cache closes", || cache.close().is_ok());
    assert_below(&device, 0..8, 1);
}

/// A volume of 256 patterned blocks behind 32 in RAM and a simulated SSD of 64.
struct TwoTiers {
    device: Arc<MemoryDevice>,
    ssd: Arc<MemoryDevice>,
    cache: Cache,
    volume: Volume,
}

const SSD_BLOCKS: u64 = 64;
const VOLUME_BLOCKS: u64 = 256;

fn ssd_geometry() -> Geometry {
    Geometry::for_blocks(BlockSize::new(BLOCK_U64).expect("a size"), SSD_BLOCKS).expect("a layout")
}

impl TwoTiers {
    fn new(mode: WriteMode) -> Self {
        let device = Arc::new(MemoryDevice::patterned(VOLUME_BLOCKS * BLOCK_U64, 1));
        Self::on(device, Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS))), mode)
    }

    fn on(device: Arc<MemoryDevice>, ssd: Arc<MemoryDevice>, mode: WriteMode) -> Self {
        let mut config = small(32);
        config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        let (cache, volume) = open(&config, &device, mode);
        Self { device, ssd, cache, volume }
    }

    /// Reads these blocks, each for itself, and checks every byte.
    fn read(&self, blocks: impl IntoIterator<Item = u64>) {
        for block in blocks {
            let found = bytes_of(&self.volume, block * BLOCK_U64, BLOCK);
            assert!(found == stored(&*self.device, block * BLOCK_U64, BLOCK), "block {block} is wrong");
        }
    }
}

#[test]
fn reads_are_answered_from_below_while_appends_to_the_ssd_hang() {
    for operation in [Operation::Write, Operation::Sync] {
        let tiers = without_hanging(move || {
            let tiers = TwoTiers::new(WriteMode::Back);
            tiers.ssd.stall(operation);
            // Far more than there are frames, some of them twice.
            for round in 0..4 {
                tiers.read(round * 16..VOLUME_BLOCKS);
            }
            tiers
        });
        let dropped = tiers.cache.stats().demotions_dropped;
        assert!(operation == Operation::Sync || dropped > 0, "what the SSD cannot take is counted");
        tiers.ssd.resume();
        tiers.cache.settle().expect("the cache settles");
        tiers.cache.assert_quiet();
        tiers.cache.close().expect("the cache closes");
    }
}

/// A slow SSD had the frames of a write and of as many blocks again that waited for it: more than the slack.
#[test]
fn the_ssd_never_holds_so_many_frames_that_a_read_has_none() {
    let device = Arc::new(MemoryDevice::patterned(2048 * BLOCK_U64, 1));
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(4096)));
    let mut config = Config { frame_wait_ms: 0, ..small(32) };
    config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(4096)));
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    ssd.set_latency(Operation::Write, Duration::from_millis(20));
    for block in 0..2048 {
        let found = bytes_of(&volume, block * BLOCK_U64, BLOCK);
        assert!(found == stored(&*device, block * BLOCK_U64, BLOCK), "block {block} is wrong");
    }
    cache.settle().expect("the cache settles");
    cache.assert_quiet();
}

#[test]
fn errors_of_ssd_writes_cost_hits_and_nothing_else() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let tiers = TwoTiers::new(WriteMode::Back);
        let segments = ssd_geometry().segments_offset;
        // Fewer than switch it off.
        let fault = Fault { kind, count: 4, ..Fault::every(Operation::Write) };
        tiers.ssd.fail(fault.within(segments..u64::MAX));
        tiers.read(0..100);
        tiers.cache.settle().expect("the cache settles");
        let stats = tiers.cache.stats();
        assert!(stats.ssd_errors > 0 && stats.ssd_in_use, "{stats:?}");
        tiers.ssd.clear_faults();
        for _ in 0..2 {
            tiers.read(0..100);
            tiers.cache.settle().expect("the cache settles");
        }
        assert!(tiers.cache.stats().ssd.blocks_written > 0, "it serves again");
        tiers.cache.assert_quiet();
    }
}

#[test]
fn a_copy_that_cannot_be_read_or_was_changed_is_counted_and_not_served_again() {
    for flips in [false, true] {
        let tiers = TwoTiers::new(WriteMode::Back);
        tiers.read(0..80);
        tiers.cache.settle().expect("the cache settles");
        let before = tiers.cache.stats();
        let geometry = ssd_geometry();
        if flips {
            for page in geometry.segments_offset / BLOCK_U64..geometry.file_bytes() / BLOCK_U64 {
                tiers.ssd.flip_bit(page * BLOCK_U64 + page % BLOCK_U64, (page % 8) as u32);
            }
        } else {
            tiers.ssd.fail(Fault::every(Operation::Read).within(geometry.segments_offset..u64::MAX));
        }
        tiers.read(0..40);
        let after = tiers.cache.stats();
        let bad = after.ssd.corrupt_blocks - before.ssd.corrupt_blocks;
        assert!(bad > 0, "{after:?}");
        assert_eq!(after.read_ssd_hits, before.read_ssd_hits, "nothing was served from there");
        assert!(flips || after.ssd_errors >= bad);
        tiers.ssd.clear_faults();
        tiers.cache.settle().expect("the cache settles");
        for _ in 0..3 {
            tiers.read(0..80);
        }
        tiers.cache.settle().expect("the cache settles");
        tiers.cache.assert_quiet();
        tiers.cache.close().expect("the cache closes");
    }
}

#[test]
fn a_journal_that_fails_switches_the_ssd_off_and_the_cache_goes_on() {
    let tiers = TwoTiers::new(WriteMode::Back);
    tiers.read(0..80);
    tiers.cache.settle().expect("the cache settles");
    let geometry = ssd_geometry();
    let journal = geometry.journal_offset..geometry.checkpoint_offset;
    tiers.ssd.fail(Fault::every(Operation::Write).within(journal));
    write(&tiers.volume, 0..60, 1);
    tiers.volume.flush().expect("a flush needs no SSD");
    assert!(!tiers.cache.stats().ssd_in_use);
    tiers.read(0..VOLUME_BLOCKS);
    tiers.cache.settle().expect("the cache settles");
    tiers.cache.assert_quiet();
    tiers.cache.close().expect("the cache closes");
    assert_below(&tiers.device, 0..60, 1);
    // What it holds is older than the disk now.
    tiers.ssd.clear_faults();
    let tiers = TwoTiers::on(tiers.device.clone(), tiers.ssd.clone(), WriteMode::Back);
    tiers.read(0..VOLUME_BLOCKS);
    assert!(tiers.cache.stats().ssd_in_use);
}

/// What a script wrote and flushed: the stamp of each sector of a few blocks.
#[derive(Clone)]
struct Stamps(Vec<u64>);

impl Stamps {
    fn read(device: &dyn Device, sectors: usize) -> Self {
        let bytes = stored(device, 0, sectors * 512);
        Self(
            bytes
                .chunks_exact(512)
                .map(|sector| u64::from_le_bytes(sector[..8].try_into().expect("8")))
                .collect(),
        )
    }
}

#[test]
fn after_a_flush_all_that_was_acknowledged_before_survives_a_power_cut() {
    let seed = seed();
    for mode in [WriteMode::Back, WriteMode::Through] {
        let mut random = fastrand::Rng::with_seed(seed);
        let journal = Arc::new(Journal::default());
        let sectors = 40 * 8;
        let device = Arc::new(MemoryDevice::new(sectors as u64 * 512).recorded_in(&journal));
        let config = Config { writeback_delay_ms: 1, ..small(16) };
        let (cache, volume) = open(&config, &device, mode);
        let mut now = Stamps(vec![0; sectors]);
        let mut flushed = vec![now.clone()];
        for stamp in 1..=300 {
            let first = random.usize(..sectors);
            let count = random.usize(1..=24).min(sectors - first);
            let bytes: Vec<u8> = stamp_bytes(stamp, count);
            volume.write(first as u64 * 512, &bytes).expect("a write succeeds");
            now.0[first..first + count].fill(stamp);
            if random.u8(..6) == 0 {
                if random.u8(..3) == 0 {
                    device.fail(Fault::nth(Operation::Sync, 0));
                }
                if volume.flush().is_ok() {
                    flushed.push(now.clone());
                    journal.mark(flushed.len() as u64 - 1);
                }
                device.clear_faults();
            }
        }
        cache.close().expect("the cache closes");
        flushed.push(now);
        journal.mark(flushed.len() as u64 - 1);
        each_cut(&journal, |cut| {
            let promised = &flushed[cut.marks().last().map_or(0, |&mark| mark as usize)];
            for loss in Loss::ALL {
                let found = Stamps::read(&cut.images(loss, seed)[0], sectors);
                let lost = (0..sectors).find(|&sector| found.0[sector] < promised.0[sector]);
                assert_eq!(lost, None, "seed {seed} {mode:?} {loss:?} cut {}", cut.position());
            }
        });
    }
}

fn stamp_bytes(stamp: u64, sectors: usize) -> Vec<u8> {
    stamp.to_le_bytes().iter().copied().cycle().take(sectors * 512).collect()
}

/// Rule 1. At every moment of a run, recovery from what is durable on the SSD must believe no copy of a block for
/// which something newer was given to the disk.
#[test]
fn nothing_is_written_below_while_the_ssd_has_an_older_copy_that_recovery_would_believe() {
    let seed = seed();
    for mode in [WriteMode::Back, WriteMode::Through, WriteMode::Around] {
        let mut random = fastrand::Rng::with_seed(seed);
        let journal = Arc::new(Journal::default());
        // A `through` write voids a region of 4096 blocks at once: those that are used lie far apart.
        let (numbers, stride) = if mode == WriteMode::Back { (96, 1) } else { (96, 1024) };
        let bytes = numbers * stride * BLOCK_U64;
        let device = Arc::new(MemoryDevice::patterned(bytes, seed).recorded_in(&journal));
        let ssd = Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).recorded_in(&journal));
        let tiers = TwoTiers::on(device, ssd, mode);
        tiers.read((0..numbers).map(|number| number * stride));
        tiers.cache.settle().expect("the cache settles");
        for number in 1..=120 {
            let block = random.u64(..numbers) * stride;
            let count = random.u64(1..=4).min(numbers * stride - block);
            match random.u8(..8) {
                0..3 => drop(bytes_of(&tiers.volume, block * BLOCK_U64, count as usize * BLOCK)),
                3..6 => write(&tiers.volume, block..block + count, number),
                6 => tiers.volume.discard(block * BLOCK_U64, count * BLOCK_U64).expect("a discard succeeds"),
                _ => tiers.cache.settle().expect("the cache settles"),
            }
            if mode == WriteMode::Back && random.u8(..4) == 0 {
                tiers.volume.flush().expect("a flush succeeds");
            }
        }
        let volume = tiers.volume.id();
        let mut believed_copies = 0;
        each_cut(&journal, |cut| {
            let disk = cut.images(Loss::Nothing, seed).swap_remove(0);
            let ssd = cut.images(Loss::All, seed).swap_remove(1);
            // Before it was made there is nothing to believe.
            let Ok(mut tier) = Ssd::open(&ssd, ssd_geometry(), SsdPolicy::default()) else { return };
            for number in (0..numbers).map(|number| number * stride) {
                let Some(plan) = tier.plan_read(BlockId::new(volume, number)) else { continue };
                let copy = stored(&ssd, plan.offset, BLOCK);
                believed_copies += 1;
                // What fails its checksum is not served.
                let is_same = !plan.verify(&copy) || copy == stored(&disk, number * BLOCK_U64, BLOCK);
                assert!(is_same, "seed {seed} {mode:?} cut {}: block {number} is older", cut.position());
            }
        });
        assert!(believed_copies > 1000, "only {believed_copies} copies were looked at");
    }
}

/// The power fails when the file has its size and nothing is in it yet. Later openings must not take it for another's.
#[test]
fn a_cache_file_whose_making_was_cut_short_is_made_again() {
    let files = Files::new();
    let mut config = small(16);
    config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(64)));
    let open_on = |bytes: &[u8]| {
        std::fs::write(files.ssd(), bytes).expect("the file can be written");
        Cache::open(&config).and_then(|cache| cache.close())
    };
    let mut bytes = vec![0; ssd_bytes(64) as usize];
    open_on(&bytes).expect("nothing but zeros");
    let made = std::fs::read(files.ssd()).expect("the file can be read");
    bytes[..512].copy_from_slice(&made[..512]);
    open_on(&bytes).expect("a torn first superblock");
    let other_size = [bytes, vec![0; 4096]].concat();
    assert!(open_on(&other_size).is_err(), "not one that this cache began to make");
    assert!(std::fs::read(files.ssd()).is_ok_and(|after| after == other_size), "so it is left alone");
}

/// A process wrote in mode `through`, so that its writes were acknowledged and not synced, and died. Whoever flushes
/// through the next process means those too.
#[test]
fn the_first_flush_syncs_what_an_earlier_process_left_unsynced_below() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    device.write(0, &[io::IoSlice::new(&content(0, 1))]).expect("no fault is set");
    let (cache, volume) = open(&small(16), &device, WriteMode::Through);
    device.fail(Fault::nth(Operation::Sync, 0));
    assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })), "its sync failed");
    volume.flush().expect("the next sync succeeds");
    assert_eq!(device.counters().syncs, 2);
    volume.flush().expect("nothing is left to do");
    cache.close().expect("the cache closes");
    assert_eq!(device.counters().syncs, 2, "once is enough");
    let untouched = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    open(&small(16), &untouched, WriteMode::Back).0.close().expect("the cache closes");
    assert_eq!(untouched.counters().syncs, 1, "a close is a flush");
}
