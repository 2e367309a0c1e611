//! Ranges that are discarded, of any size, beside reads, writes and failures.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::tiers::{Error as TierError, Result as TierResult};
use terrace::{Cache, Config, Device, Error, WriteMode};

use crate::common::{BLOCK, block_on, bytes_of, content, eventually, held, seed, small, stored};
use crate::{BLOCK_U64, answered, below, open, read, told, with_ssd, write};

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
