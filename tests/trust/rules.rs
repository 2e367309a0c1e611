//! The rules of trust, one test each: see the table in `main`.

use std::io::IoSlice;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::{Fault, Loss, MemoryDevice, Operation};
use terrace::{BlockSize, Cache, Config, Device, Error, Volume, WriteMode};

use crate::common::{BLOCK, content, eventually, held, seed, small, without_hanging};
use crate::hostile::{At, Hostile};
use crate::world::{BLOCK_U64, DISK_BLOCKS, SSD_BLOCKS, World, number_of, read, sector_numbers, write};

#[test]
fn newer_bytes_wait_until_the_older_copy_on_the_ssd_is_void_durably() {
    without_hanging(|| {
        for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
            let world = World::new();
            let (cache, volume) = world.open(held(16), mode);
            (0..64).for_each(|block| drop(read(&volume, block)));
            cache.settle().expect("the cache settles");
            world.ssd.stall(Operation::Sync);
            let writes = world.disk.counters().writes;
            let (sender, receiver) = mpsc::channel();
            let flushed = volume.clone();
            volume.write_with(0, content(0, 1), move |written| {
                written.expect("a write succeeds");
                flushed.flush_with(move |result| drop(sender.send(result)));
            });
            if mode == WriteMode::Back {
                assert_eq!(number_of(0, &read(&volume, 0)), 1, "it is acknowledged");
            }
            world.ssd.wait_until_held(1);
            assert_eq!(world.disk.counters().writes, writes, "{mode:?}: the void is not durable");
            world.ssd.resume();
            receiver.recv_timeout(Duration::from_secs(60)).expect("it ends").expect("a flush succeeds");
            assert_eq!(world.below(0), content(0, 1));
        }
    });
}

#[test]
fn a_dirty_copy_stays_until_what_was_written_over_it_is_durable() {
    let (world, seed) = (World::new(), seed());
    world.disk.fail(Fault::every(Operation::Write));
    let (cache, volume) = world.open(held(16), WriteMode::BackSsd);
    let other = Arc::new(MemoryDevice::new(DISK_BLOCKS * BLOCK_U64));
    let other = cache.attach("other", other, WriteMode::Through).expect("the volume attaches");
    for number in 1..6 {
        write(&volume, 0, number);
        // What goes below first has all voids made durable that there are.
        write(&other, 0, number);
        write(&volume, number, number);
        volume.flush().expect("the log is there");
        world.journal.mark(number);
    }
    world.each_loss(1, 1, seed, |left, flushed, place| {
        let (_cache, volume) = left.open(held(16), WriteMode::BackSsd);
        let found = number_of(0, &read(&volume, 0));
        assert!((flushed..6).contains(&found), "{place}: {found} after {flushed} was flushed");
    });
}

/// Clean copies outlive the crash here. Those of an `around` write that no sync covered are on the SSD, whole, and the disk
/// may have lost what they are of. None of those blocks was there before, so no void covers them.
#[test]
fn what_was_read_after_a_crash_never_turns_into_something_older() {
    let seed = seed();
    for mode in [WriteMode::Around, WriteMode::Back] {
        let world = World::new();
        let (cache, volume) = world.open_exclusive(held(16), mode);
        let pass = |blocks: std::ops::Range<u64>| {
            for block in blocks {
                drop(read(&volume, block));
                // None is dropped on its way.
                eventually("appends end", || {
                    let ssd = cache.stats().ssd;
                    ssd.cached_blocks <= ssd.blocks_written
                });
            }
        };
        pass(200..300);
        world.journal.mark(0);
        (0..20).for_each(|block| write(&volume, block, 2));
        pass(0..20);
        pass(300..400);
        let mut warm_blocks = 0;
        world.each_loss(0, 7, seed, |left, _, place| {
            let (cache, volume) = left.open_exclusive(held(16), mode);
            let finds = || (0..20).chain(200..220).map(|block| (block, read(&volume, block)));
            let first: Vec<(u64, Vec<u8>)> = finds().collect();
            for (block, bytes) in &first {
                let is_right = |number: u64| number == 0 || *block < 20 && number == 2;
                assert!(sector_numbers(*block, bytes).all(is_right), "{place} {mode:?}: block {block}");
                assert!(left.below(*block) == *bytes, "{place} {mode:?}: block {block} below");
            }
            (100..140).for_each(|block| drop(read(&volume, block)));
            assert!(finds().eq(first), "{place} {mode:?}: again");
            warm_blocks += cache.stats().read_ssd_hits;
        });
        assert!(warm_blocks > 0, "seed {seed} {mode:?}: nothing outlived a crash");
    }
}

/// Reads `blocks` and then others, until all are on the SSD.
fn pass_on(cache: &Cache, volume: &Volume, blocks: std::ops::Range<u64>) {
    for block in blocks {
        drop(read(volume, block));
        eventually("appends end", || {
            let ssd = cache.stats().ssd;
            ssd.cached_blocks <= ssd.blocks_written
        });
    }
}

/// A sync begins and ends while a write around the cache is under way, and covers nothing of it. Then the block is read, and
/// goes to the SSD: with a version that is not younger than the write's own, that copy would pass for a synced one.
#[test]
fn what_reached_the_disk_after_a_sync_had_begun_does_not_outlive_a_crash_as_synced() {
    without_hanging(|| {
        let seed = seed();
        let world = World::new();
        let (cache, volume) = world.open_exclusive(held(16), WriteMode::Around);
        pass_on(&cache, &volume, 200..300);
        write(&volume, 0, 1);
        let (sender, receiver) = mpsc::channel();
        let flush = || {
            let sender = sender.clone();
            volume.flush_with(move |flushed| sender.send(flushed.is_ok()).expect("it is awaited"));
        };
        world.disk.stall(Operation::Sync);
        flush();
        world.disk.wait_until_held(1);
        // This one waits for the next sync, which begins when the write is under way.
        flush();
        world.disk.stall(Operation::Write);
        let written = sender.clone();
        volume.write_with(BLOCK_U64, content(1, 2), move |done| {
            written.send(done.is_ok()).expect("it is awaited");
        });
        world.disk.wait_until_held(2);
        let ends_well = || receiver.recv_timeout(Duration::from_secs(60)).expect("it ends");
        world.disk.resume_only(Operation::Sync);
        assert!(ends_well() && ends_well(), "both flushes, since nothing of the write was acknowledged");
        world.disk.resume();
        assert!(ends_well());
        pass_on(&cache, &volume, 1..2);
        pass_on(&cache, &volume, 300..400);
        world.journal.mark(0);
        let mut warm_blocks = 0;
        world.each_loss(0, 1, seed, |left, _, place| {
            let (cache, volume) = left.open_exclusive(held(16), WriteMode::Around);
            for block in (0..2).chain(200..220) {
                assert!(read(&volume, block) == left.below(block), "{place}: block {block}");
            }
            warm_blocks += cache.stats().read_ssd_hits;
        });
        assert!(warm_blocks > 0, "seed {seed}: nothing outlived a crash");
    });
}

#[test]
fn zeros_of_a_discard_that_is_not_below_do_not_go_to_the_ssd() {
    without_hanging(|| {
        let world = World::new();
        let (cache, volume) = world.open(held(16), WriteMode::Back);
        (0..8).for_each(|block| write(&volume, block, 1));
        volume.flush().expect("the disk works");
        world.disk.stall(Operation::Discard);
        volume.discard(0, 8 * BLOCK_U64).expect("a discard succeeds");
        (0..8).for_each(|block| assert_eq!(number_of(block, &read(&volume, block)), 0));
        pass_on(&cache, &volume, 100..140);
        world.disk.resume();
        cache.settle().expect("the disk works");
        let places = volume.places(0..8).expect("blocks of the volume");
        assert!(places.iter().all(|place| !place.on_ssd), "{places:?}");
    });
}

#[test]
fn segments_that_are_used_again_bring_nothing_back_wherever_the_power_fails() {
    let (world, seed) = (World::new(), seed());
    let (cache, volume) = world.open(Config { writeback_delay_ms: 1, ..small(16) }, WriteMode::BackSsd);
    let mut round = 0;
    // Until every segment was the log's at least once.
    while cache.stats().ssd.blocks_destaged < 3 * SSD_BLOCKS {
        round += 1;
        (0..12).for_each(|block| write(&volume, (block + round) % 24, round));
        volume.flush().expect("the log is there");
        world.journal.mark(round);
        cache.settle().expect("all goes below");
    }
    world.each_loss(round - 6, 5, seed, |left, flushed, place| {
        let (_cache, volume) = left.open(held(16), WriteMode::BackSsd);
        for block in 0..24 {
            // The last of the flushed rounds that wrote it.
            let promised = (1..=flushed).rev().find(|round| (block + 24 - round % 24) % 24 < 12);
            let found = number_of(block, &read(&volume, block));
            assert!(found >= promised.unwrap_or(0), "{place}: block {block} is {found}, not {promised:?}");
        }
    });
}

/// What holds a segment of the log is a block of another volume, whose disk takes nothing; the segments behind it are
/// emptied one after the other, and with them what took the place of blocks in the first.
#[test]
fn a_segment_that_something_holds_hides_nothing_newer_behind_it_wherever_the_power_fails() {
    let (world, seed) = (World::new(), seed());
    let (cache, volume) = world.open(Config { writeback_delay_ms: 1, ..small(16) }, WriteMode::BackSsd);
    let stuck = Arc::new(MemoryDevice::new(DISK_BLOCKS * BLOCK_U64));
    stuck.fail(Fault::every(Operation::Write));
    let other = cache.attach("other", stuck, WriteMode::BackSsd).expect("the volume attaches");
    write(&other, 0, 1);
    other.flush().expect("the log is there");
    // A round takes three of the log's 16 segments at the most, where each block has a record to itself.
    for round in 1..=5 {
        (0..12).for_each(|block| write(&volume, block, round));
        volume.flush().expect("the log is there");
        world.journal.mark(round);
        eventually("all but that block goes below", || cache.stats().ssd.dirty_blocks == 1);
    }
    world.each_loss(2, 3, seed, |left, flushed, place| {
        let (_cache, volume) = left.open(held(16), WriteMode::BackSsd);
        for block in 0..12 {
            let found = number_of(block, &read(&volume, block));
            assert!((flushed..=5).contains(&found), "{place}: block {block} is {found}");
        }
    });
}

#[test]
fn a_torn_record_is_forgotten_and_what_was_flushed_before_it_is_read() {
    let (world, seed) = (World::new(), seed());
    world.disk.fail(Fault::every(Operation::Write));
    let (_cache, volume) = world.open(held(32), WriteMode::BackSsd);
    (0..8).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    world.journal.mark(1);
    (0..8).for_each(|block| write(&volume, block, 2));
    volume.flush().expect("the log is there");
    world.journal.mark(2);
    let mut forgotten = 0;
    for seed in seed..seed + 8 {
        world.each_loss(1, 1, seed, |left, flushed, place| {
            let (_cache, volume) = left.open(held(32), WriteMode::BackSsd);
            for block in 0..8 {
                let found = number_of(block, &read(&volume, block));
                assert!((flushed..=2).contains(&found), "{place}: block {block} is {found}");
                forgotten += u64::from(found == 1);
            }
        });
    }
    assert!(forgotten > 0, "some record was torn, or lost");
}

#[test]
fn a_fill_that_was_planned_before_a_write_or_a_discard_changes_neither() {
    for discards in [false, true] {
        let world = World::new();
        world.disk.write(0, &[IoSlice::new(&content(0, 1))]).expect("in range");
        let disk = Arc::new(Hostile::new(world.disk.clone()));
        let (cache, volume) = world.open_through(disk.clone(), held(16), WriteMode::Back);
        let (sender, receiver) = mpsc::channel();
        let ask = || {
            let sender = sender.clone();
            volume.read_with(0, BLOCK, move |blocks| {
                let mut bytes = vec![0; BLOCK];
                blocks.expect("the read succeeds").copy_to(&mut bytes);
                drop(sender.send(bytes));
            });
        };
        disk.hold_next_read(At::End);
        ask();
        disk.wait_until_held();
        if discards {
            volume.discard(0, BLOCK_U64).expect("a discard succeeds");
        } else {
            volume.write(1024, &[9; 512]).expect("a write succeeds");
        }
        // Who asks now waits for the same fill.
        ask();
        disk.release();
        let mut wanted = if discards { vec![0; BLOCK] } else { content(0, 1) };
        if !discards {
            wanted[1024..1536].fill(9);
        }
        for _ in 0..2 {
            let found = receiver.recv_timeout(Duration::from_secs(60)).expect("it ends");
            assert!(found == wanted, "discards: {discards}");
        }
        assert!(read(&volume, 0) == wanted, "discards: {discards}");
        cache.settle().expect("the cache settles");
        assert!(world.below(0) == wanted, "discards: {discards}");
    }
}

#[test]
fn blocks_of_a_sync_that_failed_are_written_again_before_the_next_one() {
    for mode in [WriteMode::Back, WriteMode::Through] {
        let world = World::new();
        let (cache, volume) = world.open(held(16), mode);
        (0..4).for_each(|block| write(&volume, block, 1));
        world.disk.fail(Fault::nth(Operation::Sync, 0));
        assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })), "{mode:?}");
        let before = world.disk.counters();
        // As much as there is room for: what waits for a sync does not leave.
        (100..140).for_each(|block| drop(read(&volume, block)));
        volume.flush().expect("the disk works again");
        let after = world.disk.counters();
        assert_eq!(after.write_bytes - before.write_bytes, 4 * BLOCK_U64, "{mode:?}");
        let left = world.after_power_loss(Loss::All);
        (0..4).for_each(|block| assert_eq!(left.below(block), content(block, 1), "{mode:?}"));
        drop(cache);
    }
}

#[test]
fn an_ssd_that_was_switched_off_comes_back_with_nothing_that_is_older() {
    let world = World::new();
    let (cache, volume) = world.open(held(16), WriteMode::Back);
    (0..200).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    let size = BlockSize::new(BLOCK_U64).expect("a block size");
    let geometry = Geometry::for_blocks(size, SSD_BLOCKS).expect("a layout");
    let journal = geometry.journal_offset..geometry.checkpoint_offset;
    world.ssd.fail(Fault::every(Operation::Write).within(journal));
    assert!(cache.stats().ssd.segments_in_use > 1, "some are whole, with their summaries");
    (0..12).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("a flush needs no SSD");
    cache.close().expect("the cache closes");
    drop((cache, volume));
    world.ssd.clear_faults();
    let (cache, volume) = world.open(held(16), WriteMode::Back);
    assert!(cache.stats().ssd_in_use);
    for block in 0..200 {
        assert_eq!(number_of(block, &read(&volume, block)), u64::from(block < 12), "block {block}");
    }
}

#[test]
fn a_store_that_changed_while_it_was_away_loses_clean_copies_and_keeps_dirty_ones() {
    let world = World::new();
    let change = |number| world.disk.write(0, &[IoSlice::new(&content(0, number))]).expect("in range");
    let (cache, volume) = world.open(held(16), WriteMode::Back);
    (0..64).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    cache.close().expect("the cache closes");
    drop((cache, volume));
    change(7);
    let (cache, volume) = world.open(held(16), WriteMode::BackSsd);
    assert_eq!(number_of(0, &read(&volume, 0)), 7);
    (1..64).for_each(|block| drop(read(&volume, block)));
    assert_eq!(cache.stats().read_ssd_hits, 0, "its copies are of what it was");
    world.disk.fail(Fault::every(Operation::Write));
    write(&volume, 5, 2);
    volume.flush().expect("the log is there");
    cache.close().expect("the cache closes");
    drop((cache, volume));
    world.disk.clear_faults();
    let unchanged = world.after_power_loss(Loss::Nothing);
    change(8);
    let cache = Cache::open(&world.config(held(16))).expect("the cache opens");
    let refused = cache.attach("disk", world.disk.clone(), WriteMode::BackSsd).err();
    assert!(refused.is_some(), "what is dirty belongs to the store as it was");
    drop(cache);
    let (_cache, volume) = unchanged.open(held(16), WriteMode::BackSsd);
    eventually("the dirty block is there", || number_of(5, &read(&volume, 5)) == 2);
}
