//! What is done to a volume while it is in use: its mode changes, ranges are discarded and forgotten, it is detached.

mod common;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{
    BLOCK, block_on, bytes_of, content, eventually, held, seed, small, ssd_bytes, stored, without_hanging,
};
use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::tiers::{Error as TierError, Result as TierResult};
use terrace::{Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;

fn open(config: &Config, device: &Arc<MemoryDevice>, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), mode).expect("the volume attaches");
    (cache, volume)
}

/// With an SSD of `ssd_blocks` blocks on a device.
fn with_ssd(config: Config, ssd_blocks: u64) -> (Config, Arc<MemoryDevice>) {
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(ssd_blocks)));
    let size = SsdSize::Blocks(ssd_blocks);
    (Config { ssd: Some(SsdConfig::on_device(ssd.clone(), size)), ..config }, ssd)
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
}

fn read(volume: &Volume, block: u64) -> Vec<u8> {
    bytes_of(volume, block * BLOCK_U64, BLOCK)
}

fn below(device: &MemoryDevice, block: u64) -> Vec<u8> {
    stored(device, block * BLOCK_U64, BLOCK)
}

#[track_caller]
fn answered<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).expect("it is answered")
}

#[test]
fn a_write_around_is_below_when_it_is_acknowledged_and_nothing_of_it_is_kept() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Around);
    let resident: Vec<u64> = (0..16).collect();
    resident.iter().for_each(|&block| drop(read(&volume, block)));
    for block in 100..200 {
        write(&volume, block, 1);
        assert!(below(&device, block) == content(block, 1), "block {block}");
    }
    let reads = device.counters().reads;
    resident.iter().for_each(|&block| drop(read(&volume, block)));
    assert_eq!(device.counters().reads, reads, "a hundred blocks that pass displace nobody");
    write(&volume, 3, 1);
    assert!(read(&volume, 3) == content(3, 1));
    assert_eq!(device.counters().reads, reads + 1, "a block that was resident is void");
    volume.write(150 * BLOCK_U64 + 100, &[7; 700]).expect("a write of parts of sectors succeeds");
    let mut wanted = content(150, 1);
    wanted[100..800].fill(7);
    assert!(below(&device, 150) == wanted && read(&volume, 150) == wanted);
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

/// A read was on its way when the block was written past the cache; the old bytes it brought were kept.
#[test]
fn a_fill_that_races_with_a_write_around_keeps_no_old_bytes() {
    for bytes in [BLOCK, 1024] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, WriteMode::Around);
        let mut wanted = below(&device, 5);
        wanted[..bytes].fill(9);
        device.stall(Operation::Read);
        let (sender, receiver) = mpsc::channel();
        volume.read_with(5 * BLOCK_U64, BLOCK, move |answer| drop(sender.send(answer.map(drop))));
        device.wait_until_held(1);
        volume.write(5 * BLOCK_U64, &wanted[..bytes]).expect("a write succeeds");
        assert_eq!(device.counters().writes, 1, "it is below while the read hangs");
        device.resume();
        answered(&receiver).expect("the read succeeds");
        assert!(below(&device, 5) == wanted);
        assert!(read(&volume, 5) == wanted, "{bytes} bytes");
        volume.flush().expect("a flush succeeds");
        cache.assert_quiet();
    }
}

#[test]
fn a_copy_on_the_ssd_is_void_before_a_write_around_goes_below() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let (config, ssd) = with_ssd(held(16), 200);
    let (cache, volume) = open(&config, &device, WriteMode::Around);
    (0..64).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    assert!(cache.stats().ssd.bytes_written > 0);
    ssd.stall(Operation::Sync);
    let (sender, receiver) = mpsc::channel();
    let writes = device.counters().writes;
    volume.write_with(0, content(0, 1), move |answer| drop(sender.send(answer.map(drop))));
    ssd.wait_until_held(1);
    assert_eq!(device.counters().writes, writes, "the void is not durable yet");
    assert!(receiver.try_recv().is_err());
    ssd.resume();
    answered(&receiver).expect("a write succeeds");
    let from_ssd = cache.stats().read_ssd_hits;
    assert!(read(&volume, 0) == content(0, 1));
    assert_eq!(cache.stats().read_ssd_hits, from_ssd);
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

#[test]
fn what_was_written_around_before_a_sync_that_failed_is_named_lost() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Around);
    write(&volume, 3, 1);
    read(&volume, 3);
    device.fail(Fault::nth(Operation::Sync, 0));
    assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })));
    let reads = device.counters().reads;
    read(&volume, 3);
    assert_eq!(device.counters().reads, reads + 1, "a clean copy may be of what the device drops");
    for _ in 0..3 {
        assert!(matches!(volume.flush(), Err(Error::Lost { blocks: 1, .. })), "it stays named");
    }
    drop(cache);
}

#[test]
fn a_mode_switched_with_dirty_blocks_loses_and_delays_nothing() {
    let modes = [WriteMode::Around, WriteMode::Through, WriteMode::Back];
    for (from, to) in modes.iter().flat_map(|&from| modes.map(|to| (from, to))) {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, from);
        (0..8).for_each(|block| write(&volume, block, 1));
        device.stall(Operation::Write);
        volume.set_mode(to).expect("the mode is switched");
        assert_eq!(volume.mode(), to);
        device.resume();
        // Into sectors that are dirty, beside them, and into a block that was not touched.
        volume.write(2 * BLOCK_U64 + 300, &[5; 1000]).expect("a write succeeds");
        volume.write(20 * BLOCK_U64 + 300, &[5; 1000]).expect("a write succeeds");
        let mut wanted = content(2, 1);
        wanted[300..1300].fill(5);
        assert!(read(&volume, 2) == wanted, "{from:?} {to:?}");
        if to != WriteMode::Back {
            assert!(below(&device, 2) == wanted, "{from:?} {to:?}: acknowledged as the new mode says");
        }
        volume.flush().expect("a flush succeeds");
        assert!(below(&device, 2) == wanted, "{from:?} {to:?}");
        (0..8)
            .filter(|&block| block != 2)
            .for_each(|block| assert!(below(&device, block) == content(block, 1)));
        assert!(stored(&*device, 20 * BLOCK_U64 + 300, 1000) == [5; 1000]);
        cache.assert_quiet();
        cache.close().expect("the cache closes");
        assert!(matches!(volume.set_mode(from), Err(Error::Closed)));
    }
}

#[test]
fn a_write_around_that_fails_below_is_kept_and_tried_again() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let config = Config { writeback_delay_ms: 2, ..small(32) };
    let (cache, volume) = open(&config, &device, WriteMode::Around);
    device.fail(Fault::nth(Operation::Write, 0));
    assert!(matches!(volume.write(0, &content(0, 1)), Err(Error::Tier(_))));
    assert!(read(&volume, 0) == content(0, 1));
    eventually("a flush succeeds", || volume.flush().is_ok());
    assert!(below(&device, 0) == content(0, 1));
    let reads = device.counters().reads;
    read(&volume, 0);
    assert_eq!(device.counters().reads, reads + 1, "it has left RAM");
    without_hanging(move || cache.assert_quiet());
}

/// Sends what `done` is told.
fn told(sender: &mpsc::Sender<Result<(), Error>>) -> impl FnOnce(Result<(), Error>) + Send + 'static {
    let sender = sender.clone();
    move |answer| sender.send(answer).expect("it is waited for")
}

#[test]
fn a_discard_of_any_alignment_reads_as_zeros_at_once_and_below_after_a_flush() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
        let bytes = 40 * BLOCK_U64 + 700;
        let device = Arc::new(MemoryDevice::patterned(bytes, seed));
        let (config, _ssd) = with_ssd(held(24), 200);
        let (cache, volume) = open(&Config { shards: Some(3), ..config }, &device, mode);
        let mut model = stored(&*device, 0, bytes as usize);
        for step in 0..200 {
            let (one, other) = (random.usize(..=model.len()), random.usize(..=model.len()));
            let range = if random.bool() {
                one.min(other)..one.max(other)
            } else {
                one..(one + random.usize(..9000)).min(model.len())
            };
            match random.u8(..4) {
                0 => {
                    model[range.clone()].fill(0);
                    volume.discard(range.start as u64, range.len() as u64).expect("a discard succeeds");
                }
                1 => {
                    let range = range.start..range.end.min(range.start + 9000);
                    model[range.clone()].fill(step as u8);
                    volume.write(range.start as u64, &model[range.clone()]).expect("a write succeeds");
                }
                2 if random.bool() => {
                    volume.flush().expect("a flush succeeds");
                    assert!(stored(&*device, 0, model.len()) == model, "seed {seed} step {step} {mode:?}");
                }
                _ => {
                    let found = bytes_of(&volume, range.start as u64, range.len());
                    assert!(found == model[range], "seed {seed} step {step} {mode:?}");
                }
            }
        }
        volume.flush().expect("a flush succeeds");
        assert!(bytes_of(&volume, 0, model.len()) == model && stored(&*device, 0, model.len()) == model);
        assert!(matches!(volume.discard(1, bytes), Err(Error::OutOfRange { .. })));
        cache.assert_quiet();
    }
}

#[test]
fn a_fill_under_way_does_not_bring_back_what_was_discarded() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    device.stall(Operation::Read);
    let (sender, receiver) = mpsc::channel();
    for block in 4..7 {
        let sender = sender.clone();
        volume.read_with(block * BLOCK_U64, BLOCK, move |answer| drop(sender.send(answer.map(drop))));
    }
    // Part of a block that is being filled, written before and after.
    volume.write(4 * BLOCK_U64, &[1; 512]).expect("a write succeeds");
    volume.discard(4 * BLOCK_U64, 3 * BLOCK_U64).expect("a discard succeeds");
    volume.write(6 * BLOCK_U64 + 512, &[2; 512]).expect("a write succeeds");
    device.resume();
    (0..3).for_each(|_| answered(&receiver).expect("a read succeeds"));
    let mut wanted = vec![0; 3 * BLOCK];
    wanted[2 * BLOCK + 512..][..512].fill(2);
    assert!(bytes_of(&volume, 4 * BLOCK_U64, 3 * BLOCK) == wanted);
    volume.flush().expect("a flush succeeds");
    assert!(stored(&*device, 4 * BLOCK_U64, 3 * BLOCK) == wanted);
    cache.assert_quiet();
}

#[test]
fn older_writes_below_end_before_a_discard_and_newer_ones_begin_after_it() {
    for mode in [WriteMode::Back, WriteMode::Through, WriteMode::Around] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, WriteMode::Back);
        (2..6).for_each(|block| write(&volume, block, 1));
        device.stall(Operation::Write);
        device.stall(Operation::Discard);
        let (sender, receiver) = mpsc::channel();
        volume.flush_with(told(&sender));
        device.wait_until_held(1);
        volume.discard(0, 8 * BLOCK_U64).expect("a discard succeeds");
        assert!(bytes_of(&volume, 0, 8 * BLOCK) == vec![0; 8 * BLOCK], "while older bytes are on their way");
        volume.set_mode(mode).expect("the mode is switched");
        let newer = sender.clone();
        volume.write_with(3 * BLOCK_U64 + 512, [7; 1024], move |answer| drop(newer.send(answer.map(drop))));
        let mut wanted = vec![0; 8 * BLOCK];
        wanted[3 * BLOCK + 512..][..1024].fill(7);
        assert!(bytes_of(&volume, 0, 8 * BLOCK) == wanted);
        assert_eq!(device.counters().discards, 0);
        volume.flush_with(told(&sender));
        device.resume();
        (0..3).for_each(|_| answered(&receiver).expect("all are told of success"));
        assert!(stored(&*device, 0, 8 * BLOCK) == wanted, "{mode:?}");
        assert!(bytes_of(&volume, 0, 8 * BLOCK) == wanted, "{mode:?}");
        cache.assert_quiet();
    }
}

/// A read found no frame for the zeros of a block that was discarded while it was written below, and gave up the place
/// that the end of the write looks for.
#[test]
fn a_read_without_a_frame_leaves_a_discarded_block_to_the_write_that_is_under_way() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let config = Config { frame_wait_ms: 20, slack_blocks: Some(8), ..held(16) };
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    write(&volume, 3, 1);
    device.stall(Operation::Write);
    let (sender, receiver) = mpsc::channel();
    volume.flush_with(told(&sender));
    device.wait_until_held(1);
    volume.discard(3 * BLOCK_U64, BLOCK_U64).expect("a discard succeeds");
    let mut references = Vec::new();
    for block in 10.. {
        match block_on(volume.read_async(block * BLOCK_U64, BLOCK)) {
            Ok(blocks) => references.push(blocks),
            Err(error) => {
                assert!(matches!(error, Error::WouldBlock));
                break;
            }
        }
    }
    assert!(matches!(block_on(volume.read_async(3 * BLOCK_U64, BLOCK)), Err(Error::WouldBlock)));
    drop(references);
    device.resume();
    answered(&receiver).expect("a flush succeeds");
    volume.flush().expect("a flush succeeds");
    assert!(read(&volume, 3) == vec![0; BLOCK] && below(&device, 3) == vec![0; BLOCK]);
    cache.assert_quiet();
}

#[test]
fn a_discard_that_the_device_refuses_is_tried_again_and_newer_writes_wait_for_it() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    device.fail(Fault::every(Operation::Discard));
    volume.discard(0, 8 * BLOCK_U64).expect("a discard succeeds");
    write(&volume, 3, 1);
    write(&volume, 20, 1);
    for _ in 0..3 {
        assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })));
    }
    eventually("other blocks go below", || {
        assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })));
        below(&device, 20) == content(20, 1)
    });
    assert!(below(&device, 3) != content(3, 1), "it would be discarded with the old ones");
    assert!(read(&volume, 2) == vec![0; BLOCK] && read(&volume, 3) == content(3, 1));
    device.clear_faults();
    eventually("a flush succeeds", || volume.flush().is_ok());
    assert!(below(&device, 2) == vec![0; BLOCK] && below(&device, 3) == content(3, 1));
    cache.assert_quiet();
}

/// A discard ran, newer bytes went below after it, and then the sync failed: run again alone, the discard would have
/// taken them.
#[test]
fn a_discard_that_a_failed_sync_should_have_covered_is_run_again_before_what_came_after_it() {
    for mode in [WriteMode::Back, WriteMode::Through, WriteMode::Around] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, mode);
        volume.discard(0, 8 * BLOCK_U64).expect("a discard succeeds");
        eventually("it runs", || device.counters().discards == 1);
        write(&volume, 3, 1);
        device.fail(Fault::nth(Operation::Sync, 0));
        assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })), "{mode:?}");
        let mut wanted = vec![0; 8 * BLOCK];
        wanted[3 * BLOCK..4 * BLOCK].copy_from_slice(&content(3, 1));
        assert!(bytes_of(&volume, 0, 8 * BLOCK) == wanted, "{mode:?}");
        eventually("a flush succeeds", || volume.flush().is_ok());
        assert_eq!(device.counters().discards, 2, "{mode:?}");
        assert!(stored(&*device, 0, 8 * BLOCK) == wanted, "{mode:?}");
        assert!(bytes_of(&volume, 0, 8 * BLOCK) == wanted, "{mode:?}");
        cache.assert_quiet();
    }
}

/// A crash brings nothing back that was discarded and flushed: each block is as flushed last, or as something that was
/// asked for later.
#[test]
fn what_was_discarded_and_flushed_stays_gone_wherever_the_power_fails() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::new(16 * BLOCK_U64).recorded_in(&journal));
    let (cache, volume) = open(&Config { writeback_delay_ms: 1, ..small(8) }, &device, WriteMode::Back);
    // What was asked for, in order: blocks, what they hold then (0 for nothing), and how many flushes came before.
    let mut asked = vec![(0..16, 0, 0)];
    let mut flushes = 0;
    for number in 1..=80 {
        let first = random.u64(..16);
        let range = first..(first + random.u64(1..8)).min(16);
        if random.bool() {
            volume.discard(first * BLOCK_U64, (range.end - first) * BLOCK_U64).expect("a discard succeeds");
            asked.push((range, 0, flushes));
        } else {
            range.clone().for_each(|block| write(&volume, block, number));
            asked.push((range, number, flushes));
        }
        if random.u8(..6) == 0 {
            if random.u8(..3) == 0 {
                device.fail(Fault::nth(Operation::Sync, 0));
            }
            if volume.flush().is_ok() {
                flushes += 1;
                journal.mark(flushes);
            }
            device.clear_faults();
        }
    }
    cache.close().expect("the cache closes");
    let mut cut = journal.first_cut();
    loop {
        let flushed = cut.marks().last().copied().unwrap_or(0);
        for loss in Loss::ALL {
            let disk = cut.images(loss, seed).swap_remove(0);
            for block in 0..16 {
                let found = below(&disk, block);
                let mut known = asked.iter().filter(|(range, ..)| range.contains(&block)).rev();
                let (later, before): (Vec<_>, Vec<_>) = known.by_ref().partition(|(_, _, at)| *at >= flushed);
                let may_be = later.iter().chain(before.first()).map(|(_, number, _)| match number {
                    0 => vec![0; BLOCK],
                    _ => content(block, *number),
                });
                let may_be: Vec<Vec<u8>> = may_be.collect();
                for at in (0..BLOCK).step_by(512) {
                    let is_known = may_be.iter().any(|bytes| bytes[at..at + 512] == found[at..at + 512]);
                    assert!(is_known, "seed {seed} {loss:?} cut {}: block {block} at {at}", cut.position());
                }
            }
        }
        if !cut.advance() {
            return;
        }
    }
}

/// 16 TiB of ones that remember what was asked of them.
#[derive(Default)]
struct Vast {
    cannot_discard: bool,
    discarded: Mutex<Vec<(u64, u64)>>,
    zeros_written: AtomicU64,
}

const VAST_BYTES: u64 = 16 << 40;

impl Device for Vast {
    fn name(&self) -> String {
        "vast".into()
    }

    fn len_bytes(&self) -> u64 {
        VAST_BYTES
    }

    fn read(&self, _offset: u64, buffers: &mut [IoSliceMut<'_>]) -> TierResult<()> {
        buffers.iter_mut().for_each(|buffer| buffer.fill(1));
        Ok(())
    }

    fn write(&self, _offset: u64, buffers: &[IoSlice<'_>]) -> TierResult<()> {
        let zeros = buffers.iter().filter(|buffer| buffer.iter().all(|&byte| byte == 0));
        self.zeros_written.fetch_add(zeros.map(|buffer| buffer.len() as u64).sum(), Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> TierResult<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, bytes: u64) -> TierResult<()> {
        if self.cannot_discard {
            let source = io::ErrorKind::Unsupported.into();
            return Err(TierError::Device { action: "discard", device: self.name(), offset, bytes, source });
        }
        self.discarded.lock().expect("nobody panicked").push((offset, bytes));
        Ok(())
    }
}

#[test]
fn an_empty_discard_does_nothing_and_a_huge_one_is_one_call_below() {
    let device = Arc::new(Vast::default());
    let (config, _ssd) = with_ssd(held(32), 200);
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("vast", device.clone(), WriteMode::Back).expect("the volume attaches");
    let far = VAST_BYTES - 5 * BLOCK_U64;
    (0..60).for_each(|block| drop(bytes_of(&volume, far - block * BLOCK_U64, BLOCK)));
    cache.settle().expect("the cache settles");
    assert!(cache.stats().ssd.bytes_written > 0);
    volume.discard(far, 0).expect("an empty discard succeeds");
    volume.discard(VAST_BYTES, 0).expect("an empty discard succeeds");
    volume.flush().expect("a flush succeeds");
    assert!(device.discarded.lock().expect("nobody panicked").is_empty());
    volume.discard(BLOCK_U64, VAST_BYTES - BLOCK_U64).expect("a huge discard succeeds");
    volume.write(far, &[9; BLOCK]).expect("a write succeeds");
    volume.flush().expect("a flush succeeds");
    let discarded = device.discarded.lock().expect("nobody panicked").clone();
    assert_eq!(discarded, [(BLOCK_U64, VAST_BYTES - BLOCK_U64)]);
    assert!(bytes_of(&volume, far, BLOCK) == [9; BLOCK]);
    // This device gives nothing back, so what comes from it shows.
    let from_ssd = cache.stats().read_ssd_hits;
    assert!(bytes_of(&volume, far - 59 * BLOCK_U64, BLOCK) == [1; BLOCK]);
    assert_eq!(cache.stats().read_ssd_hits, from_ssd, "the copies on the SSD are void");
    cache.assert_quiet();
}

#[test]
fn a_device_that_cannot_discard_has_zeros_written() {
    let device = Arc::new(Vast { cannot_discard: true, ..Vast::default() });
    let cache = Cache::open(&held(32)).expect("the cache opens");
    let volume = cache.attach("vast", device.clone(), WriteMode::Back).expect("the volume attaches");
    volume.discard(0, 3 << 20).expect("a discard succeeds");
    volume.flush().expect("a flush succeeds");
    assert_eq!(device.zeros_written.load(Ordering::Relaxed), 3 << 20);
    cache.assert_quiet();
}

#[test]
fn more_discards_than_the_books_hold_flush_first() {
    let device = Arc::new(MemoryDevice::patterned(1024 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    for block in 0..200 {
        block_on(volume.discard_async(block * 3 * BLOCK_U64, BLOCK_U64)).expect("a discard succeeds");
    }
    (0..200).for_each(|block| assert!(read(&volume, block * 3) == vec![0; BLOCK]));
    volume.flush().expect("a flush succeeds");
    (0..200).for_each(|block| assert!(below(&device, block * 3) == vec![0; BLOCK]));
    device.fail(Fault::every(Operation::Discard));
    let refused = (0..200).find_map(|block| volume.discard(block * 3 * BLOCK_U64, BLOCK_U64).err());
    assert!(matches!(refused, Some(Error::StillDirty { .. })), "{refused:?}");
    device.clear_faults();
    eventually("a flush succeeds", || volume.flush().is_ok());
    cache.assert_quiet();
}

#[test]
fn what_is_forgotten_is_read_from_below_and_dirty_bytes_are_gone() {
    let device = Arc::new(MemoryDevice::patterned(65 * BLOCK_U64 - 100, 1));
    let (config, _ssd) = with_ssd(held(16), 200);
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    (0..64).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    (0..8).for_each(|block| write(&volume, block, 1));
    // Behind the cache.
    let other = MemoryDevice::patterned(64 * BLOCK_U64, 2);
    (0..64).for_each(|block| {
        let bytes = below(&other, block);
        device.write(block * BLOCK_U64, &[IoSlice::new(&bytes)]).expect("a write succeeds");
    });
    volume.forget(0, 0).expect("an empty forget succeeds");
    for (offset, bytes) in [(1, BLOCK_U64), (0, BLOCK_U64 - 1), (512, 512)] {
        assert!(matches!(volume.forget(offset, bytes), Err(Error::NotWholeBlocks { .. })));
    }
    assert!(matches!(volume.forget(0, 65 * BLOCK_U64), Err(Error::OutOfRange { .. })));
    volume.forget(4 * BLOCK_U64, 61 * BLOCK_U64 - 100).expect("a forget succeeds");
    let from_ssd = cache.stats().read_ssd_hits;
    (4..64).for_each(|block| assert!(read(&volume, block) == below(&other, block), "block {block}"));
    assert_eq!(cache.stats().read_ssd_hits, from_ssd);
    (0..4).for_each(|block| assert!(read(&volume, block) == content(block, 1), "block {block}"));
    volume.flush().expect("a flush succeeds");
    (0..4).for_each(|block| assert!(below(&device, block) == content(block, 1)));
    (4..64).for_each(|block| assert!(below(&device, block) == below(&other, block), "block {block}"));
    cache.assert_quiet();
}

#[test]
fn a_device_that_takes_nothing_any_more_is_left_by_forgetting() {
    for operation in [Operation::Write, Operation::Sync, Operation::Discard] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let config = Config { writeback_delay_ms: 1, ..small(32) };
        let (cache, volume) = open(&config, &device, WriteMode::Back);
        device.fail(Fault::every(operation));
        (0..8).for_each(|block| write(&volume, block, 1));
        volume.discard(10 * BLOCK_U64, 10 * BLOCK_U64).expect("a discard succeeds");
        for _ in 0..3 {
            assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })), "{operation:?}");
        }
        assert!(cache.close().is_err(), "it has blocks that nobody else has");
        // In two parts, which cut the discard.
        volume.forget(0, 15 * BLOCK_U64).expect("a forget succeeds");
        assert!(read(&volume, 16) == vec![0; BLOCK]);
        // Where discards go through, none is left.
        let is_left = volume.flush().is_err();
        assert!(
            is_left || operation == Operation::Write,
            "{operation:?}: half of the discard is still there"
        );
        volume.forget(15 * BLOCK_U64, 49 * BLOCK_U64).expect("a forget succeeds");
        eventually("a flush succeeds", || volume.flush().is_ok());
        if operation == Operation::Write {
            let fresh = MemoryDevice::patterned(64 * BLOCK_U64, 1);
            assert!(read(&volume, 30) == below(&fresh, 30), "it is as it was");
        }
        (0..64).for_each(|block| assert!(read(&volume, block) == below(&device, block), "{operation:?}"));
        cache.assert_quiet();
        cache.close().expect("the cache closes");
    }
}

#[test]
fn forgetting_waits_for_what_is_under_way_below_and_flushes_that_waited_go_on() {
    for mode in [WriteMode::Back, WriteMode::Through] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, mode);
        device.stall(Operation::Write);
        device.stall(Operation::Read);
        let (sender, receiver) = mpsc::channel();
        let (writes, flushes) = (sender.clone(), sender.clone());
        volume.write_with(3 * BLOCK_U64 + 512, [7; 1024], move |answer| drop(writes.send(answer.map(drop))));
        volume.flush_with(told(&flushes));
        device.wait_until_held(1);
        // Around the written sectors, and of a block that nobody wrote.
        for block in [3, 5] {
            let sender = sender.clone();
            volume.read_with(block * BLOCK_U64, BLOCK, move |answer| drop(sender.send(answer.map(drop))));
        }
        device.wait_until_held(3);
        let forgetting = {
            let (volume, sender) = (volume.clone(), sender.clone());
            std::thread::spawn(move || {
                sender.send(volume.forget(0, 64 * BLOCK_U64)).expect("it is waited for");
            })
        };
        if mode == WriteMode::Back {
            answered(&receiver).expect("a `back` write is in RAM");
        }
        assert!(receiver.try_recv().is_err(), "the rest hangs");
        device.resume();
        let rest = if mode == WriteMode::Back { 4 } else { 5 };
        (0..rest).for_each(|_| answered(&receiver).expect("all are told of success"));
        forgetting.join().expect("it ends");
        let reads = device.counters().reads;
        for block in [3, 5] {
            assert!(read(&volume, block) == below(&device, block), "block {block}");
        }
        assert!(device.counters().reads >= reads + 2, "nothing was kept");
        volume.flush().expect("a flush succeeds");
        cache.assert_quiet();
    }
}

#[test]
fn a_block_that_was_lost_is_not_named_any_more_once_it_is_forgotten() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Around);
    (3..5).for_each(|block| write(&volume, block, 1));
    device.fail(Fault::nth(Operation::Sync, 0));
    assert!(volume.flush().is_err());
    assert!(matches!(volume.flush(), Err(Error::Lost { blocks: 2, .. })));
    volume.forget(3 * BLOCK_U64, BLOCK_U64).expect("a forget succeeds");
    assert!(matches!(volume.flush(), Err(Error::Lost { blocks: 1, .. })));
    volume.forget(0, 64 * BLOCK_U64).expect("a forget succeeds");
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

/// Writers, readers, discards, forgets and flushes on the same blocks: nothing hangs, and the books agree in the end.
#[test]
fn discards_and_forgets_among_other_traffic_leave_the_books_right() {
    let seed = seed();
    let cache = without_hanging(move || {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let config = Config { writeback_delay_ms: 1, shards: Some(2), ..small(24) };
        let (config, _ssd) = with_ssd(config, 200);
        let (cache, volume) = open(&config, &device, WriteMode::Back);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (volume, device) = (volume.clone(), device.clone());
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(thread));
                scope.spawn(move || {
                    for number in 0..600 {
                        let first = random.u64(..64);
                        let count = random.u64(1..16).min(64 - first);
                        match random.u8(..12) {
                            0 => volume.discard(first * BLOCK_U64, count * BLOCK_U64).expect("it succeeds"),
                            1 => volume.forget(first * BLOCK_U64, count * BLOCK_U64).expect("it succeeds"),
                            2 => drop(volume.flush()),
                            3 if random.u8(..4) == 0 => device.fail(Fault::nth(Operation::Sync, 0)),
                            3 if random.u8(..4) == 0 => device.fail(Fault::nth(Operation::Discard, 0)),
                            3 => {
                                let modes = [WriteMode::Around, WriteMode::Through, WriteMode::Back];
                                volume.set_mode(modes[random.usize(..3)]).expect("the mode is switched");
                            }
                            4..8 => drop(bytes_of(&volume, first * BLOCK_U64, count as usize * BLOCK)),
                            _ => drop(volume.write(first * BLOCK_U64 + 300, &[number as u8; 5000][..3000])),
                        }
                    }
                });
            }
        });
        device.clear_faults();
        // What was lost around a failed sync is told until it is forgotten.
        eventually("a flush succeeds", || match volume.flush() {
            Err(Error::Lost { .. }) => {
                volume.forget(0, 64 * BLOCK_U64).expect("a forget succeeds");
                false
            }
            flushed => flushed.is_ok(),
        });
        cache.settle().expect("the cache settles");
        (0..64).for_each(|block| assert!(read(&volume, block) == below(&device, block), "seed {seed}"));
        cache
    });
    cache.assert_quiet();
}

#[test]
fn a_volume_that_was_detached_comes_back_warm_and_others_go_on() {
    let (one, other) = (
        Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1)),
        Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 2)),
    );
    let (config, _ssd) = with_ssd(held(32), 200);
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("one", one.clone(), WriteMode::Back).expect("it attaches");
    let stays = cache.attach("other", other.clone(), WriteMode::Back).expect("it attaches");
    for _ in 0..2 {
        (0..64).for_each(|block| drop(read(&volume, block)));
    }
    write(&stays, 3, 1);
    (60..64).for_each(|block| write(&volume, block, 1));
    cache.settle().expect("the cache settles");
    (56..60).for_each(|block| write(&volume, block, 1));
    volume.detach().expect("it is detached");
    (56..64).for_each(|block| assert!(below(&one, block) == content(block, 1), "it was flushed"));
    assert!(read(&stays, 3) == content(3, 1));
    write(&stays, 4, 1);

    let old = volume;
    assert!(matches!(old.read_ref(0, BLOCK), Err(Error::Detached { .. })));
    assert!(matches!(old.write(0, &[1; 700]), Err(Error::Detached { .. })));
    assert!(matches!(block_on(old.read_async(0, BLOCK)), Err(Error::Detached { .. })));
    assert!(matches!(block_on(old.write_async(0, [1; 700])), Err(Error::Detached { .. })));
    assert!(matches!(old.flush(), Err(Error::Detached { .. })));
    assert!(matches!(block_on(old.flush_async()), Err(Error::Detached { .. })));
    assert!(matches!(old.discard(0, BLOCK_U64), Err(Error::Detached { .. })));
    assert!(matches!(old.forget(0, BLOCK_U64), Err(Error::Detached { .. })));
    assert!(matches!(old.set_mode(WriteMode::Around), Err(Error::Detached { .. })));
    assert!(matches!(old.detach(), Err(Error::Detached { .. })));

    let volume = cache.attach("one", one.clone(), WriteMode::Back).expect("it attaches again");
    let (before, reads) = (cache.stats().read_ssd_hits, one.counters().reads);
    (0..64).for_each(|block| drop(read(&volume, block)));
    assert!(cache.stats().read_ssd_hits - before >= 16, "its copies are believed");
    assert!(
        one.counters().reads - reads >= 8,
        "what was written was not on the SSD, and nothing stayed in RAM"
    );
    for block in 0..64 {
        assert!(read(&volume, block) == below(&one, block), "block {block}");
    }
    assert!(matches!(old.read_ref(0, BLOCK), Err(Error::Detached { .. })));
    // Changed while it was away: nothing is believed.
    volume.detach().expect("it is detached");
    one.write(0, &[IoSlice::new(&content(0, 9))]).expect("a write succeeds");
    let volume = cache.attach("one", one.clone(), WriteMode::Back).expect("it attaches again");
    let before = cache.stats().read_ssd_hits;
    assert!(read(&volume, 0) == content(0, 9));
    (1..20).for_each(|block| drop(read(&volume, block)));
    assert_eq!(cache.stats().read_ssd_hits, before);
    cache.settle().expect("the cache settles");
    cache.assert_quiet();
    cache.close().expect("the cache closes");
}

#[test]
fn a_volume_with_blocks_that_cannot_be_written_is_detached_only_when_they_are_forgotten() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    device.fail(Fault::every(Operation::Write));
    (0..3).for_each(|block| write(&volume, block, 1));
    assert!(matches!(volume.detach(), Err(Error::StillDirty { blocks: 3, .. })));
    assert!(read(&volume, 1) == content(1, 1), "it works as before");
    write(&volume, 5, 1);
    volume.forget(0, 64 * BLOCK_U64).expect("a forget succeeds");
    volume.detach().expect("it is detached");
    let again = cache.attach("disk", device.clone(), WriteMode::Back).expect("the name is free");
    (0..8).for_each(|block| assert!(read(&again, block) == below(&device, block)));
    cache.assert_quiet();
}

#[test]
fn detaching_waits_for_reads_under_way_and_holds_up_no_other_volume() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    let stays = cache.attach("other", Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 2)), WriteMode::Back);
    let stays = stays.expect("it attaches");
    // Both have the device number 0 and share four threads.
    device.stall(Operation::Read);
    let (sender, receiver) = mpsc::channel();
    let done = sender.clone();
    volume.read_with(5 * BLOCK_U64, BLOCK, move |answer| drop(done.send(answer.map(drop))));
    device.wait_until_held(1);
    let detaching = {
        let volume = volume.clone();
        std::thread::spawn(move || volume.detach())
    };
    eventually("it takes no calls", || {
        matches!(volume.set_mode(WriteMode::Back), Err(Error::Detached { .. }))
    });
    write(&stays, 3, 1);
    read(&stays, 4);
    stays.flush().expect("a flush succeeds");
    assert!(matches!(
        cache.attach("disk", device.clone(), WriteMode::Back),
        Err(Error::AlreadyAttached { .. })
    ));
    assert!(!detaching.is_finished(), "a read is under way");
    device.resume();
    answered(&receiver).expect("the read succeeds");
    detaching.join().expect("it ends").expect("it is detached");
    cache.assert_quiet();
}

#[test]
fn what_was_acknowledged_before_or_beside_a_detach_is_below() {
    let seed = seed();
    for mode in [WriteMode::Back, WriteMode::Through, WriteMode::Around] {
        let cache = without_hanging(move || {
            let device = Arc::new(MemoryDevice::new(256 * BLOCK_U64));
            let config = Config { writeback_delay_ms: 1, shards: Some(2), ..small(24) };
            let (config, _ssd) = with_ssd(config, 200);
            let cache = Cache::open(&config).expect("the cache opens");
            let mut last = vec![0u64; 256];
            for round in 1..=20 {
                let volume = cache.attach("disk", device.clone(), mode).expect("it attaches");
                std::thread::scope(|scope| {
                    for (thread, last) in last.chunks_mut(64).enumerate() {
                        let volume = volume.clone();
                        let mut random =
                            fastrand::Rng::with_seed(seed.wrapping_add(round * 10 + thread as u64));
                        scope.spawn(move || {
                            for number in 1.. {
                                let block = random.usize(..64);
                                let offset = (thread * 64 + block) as u64 * BLOCK_U64;
                                let number = round << 20 | number;
                                match volume.write(offset, &content(block as u64, number)) {
                                    Ok(_) => last[block] = number,
                                    Err(Error::Detached { .. }) => return,
                                    Err(error) => panic!("{error}"),
                                }
                                match volume.read_ref(random.u64(..256) * BLOCK_U64, BLOCK) {
                                    Ok(_) => {}
                                    Err(Error::Detached { .. }) => return,
                                    Err(error) => panic!("{error}"),
                                }
                            }
                        });
                    }
                    let writes = device.counters().writes;
                    eventually("they are at it", || device.counters().writes > writes + 10);
                    volume.detach().expect("it is detached");
                });
                for (block, &number) in last.iter().enumerate() {
                    let wanted =
                        if number == 0 { vec![0; BLOCK] } else { content(block as u64 % 64, number) };
                    let found = below(&device, block as u64);
                    assert!(found == wanted, "seed {seed} {mode:?} round {round} block {block}");
                }
            }
            cache
        });
        cache.assert_quiet();
    }
}

#[test]
fn a_crash_after_a_detach_leaves_the_volume_warm_and_one_after_it_came_back_and_changed_does_not_lie() {
    let seed = seed();
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, seed).recorded_in(&journal));
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(400)).recorded_in(&journal));
    let config = |ssd| Config { ssd: Some(SsdConfig::on_device(ssd, SsdSize::Blocks(400))), ..held(32) };
    let cache = Cache::open(&config(ssd)).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), WriteMode::Back).expect("it attaches");
    (0..256).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    (0..8).for_each(|block| write(&volume, block, 1));
    volume.detach().expect("it is detached");
    journal.mark(1);
    let volume = cache.attach("disk", device, WriteMode::Back).expect("it attaches again");
    for number in 2..6 {
        (0..64).step_by(5).for_each(|block| write(&volume, block, number));
        volume.discard((100 + number) * BLOCK_U64, 20 * BLOCK_U64).expect("a discard succeeds");
        volume.flush().expect("a flush succeeds");
    }
    let (mut ssd_hits, mut cut) = (0, journal.first_cut());
    loop {
        if cut.marks().contains(&1) {
            for loss in Loss::ALL {
                let devices = cut.images(loss, seed);
                let [disk, ssd] = <[MemoryDevice; 2]>::try_from(devices).ok().expect("two are recorded");
                let disk = Arc::new(disk);
                let cache = Cache::open(&config(Arc::new(ssd))).expect("the cache opens");
                let volume = cache.attach("disk", disk.clone(), WriteMode::Back).expect("it attaches");
                for block in (0..256).step_by(3) {
                    let is_right = read(&volume, block) == below(&disk, block);
                    assert!(is_right, "seed {seed} {loss:?} cut {}: block {block}", cut.position());
                }
                ssd_hits += cache.stats().read_ssd_hits;
            }
        }
        if !cut.advance() {
            break;
        }
    }
    assert!(ssd_hits > 0, "nothing was warm");
}
