//! A log that stays full, since a volume's disk is dead or a copy in it is bad: what that costs the other volumes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::{Background, Cache, Config, Device, Error, Volume, WriteMode};

use crate::common::{BLOCK, bytes_of, content, eventually, small, stored, without_hanging};
use crate::{DISK_BYTES, Devices, check, write, zeros};

/// As many as the log has room for, and some.
const MANY: u64 = 160;

/// Two volumes on one SSD: the first is to fall sick.
struct Two {
    devices: Devices,
    other: Arc<MemoryDevice>,
    journal: Arc<Journal>,
    cache: Cache,
    sick: Volume,
    sound: Volume,
}

impl Two {
    fn tuned(tune: impl FnOnce(&mut Config)) -> Self {
        let journal = Arc::new(Journal::default());
        let devices = Devices::recorded(&journal);
        let other = Arc::new(MemoryDevice::new(DISK_BYTES).named("other").recorded_in(&journal));
        let mut config = devices.config();
        tune(&mut config);
        let (cache, sick) = devices.open_with(&config, WriteMode::BackSsd);
        let sound = cache.attach("other", other.clone(), WriteMode::BackSsd).expect("the volume attaches");
        Self { devices, other, journal, cache, sick, sound }
    }

    /// The disk of the first volume takes nothing any more, while the log has blocks 0 to 8 of it, as 1.
    fn with_a_dead_disk() -> Self {
        Self::with_a_dead_disk_and(|_| ())
    }

    fn with_a_dead_disk_and(tune: impl FnOnce(&mut Config)) -> Self {
        let two = Self::tuned(tune);
        two.kill();
        (0..8).for_each(|block| write(&two.sick, block, 1));
        two.sick.flush().expect("the log has room");
        two
    }

    fn kill(&self) {
        for operation in [Operation::Write, Operation::Sync, Operation::Discard] {
            self.devices.disk.fail(Fault::every(operation));
        }
    }

    /// Fills the log, and goes on: many times what it has room for.
    fn fill(&self, rounds: std::ops::RangeInclusive<u64>) {
        for round in rounds {
            (0..MANY).for_each(|block| write(&self.sound, block, round));
            self.sound.flush().expect("the other volume is none of its business");
        }
    }

    /// What is left when the power fails now and all that was not synced is lost.
    fn after_power_loss(&self) -> (Cache, Volume, Volume, Arc<MemoryDevice>) {
        let mut cut = self.journal.first_cut();
        while cut.advance() {}
        let mut images = cut.images(Loss::All, 1).into_iter().map(Arc::new);
        let mut next = || images.next().expect("three devices");
        let (ssd, disk, other) = (next(), next(), next());
        let (cache, sick) = Devices { ssd, disk }.open();
        let sound = cache.attach("other", other.clone(), WriteMode::BackSsd).expect("the volume attaches");
        (cache, sick, sound, other)
    }

    /// Changes a bit of the log's only copy of this content.
    fn spoil(&self, block: u64, number: u64) {
        let (ssd, wanted) = (&self.devices.ssd, content(block, number));
        let pages = (0..ssd.len_bytes() / BLOCK as u64).map(|page| page * BLOCK as u64);
        let found: Vec<u64> = pages.filter(|&offset| stored(&**ssd, offset, BLOCK) == wanted).collect();
        assert_eq!(found.len(), 1, "copies of block {block}");
        ssd.flip_bit(found[0] + 99, 1);
    }
}

#[test]
fn a_volume_whose_disk_is_dead_costs_no_other_a_flush() {
    without_hanging(|| {
        let two = Two::with_a_dead_disk();
        two.fill(1..=12);
        // A part of a block, of which the log had all.
        two.sound.write(5 * BLOCK as u64 + 512, &[9; 1024]).expect("a write succeeds");
        two.sound.flush().expect("the other volume is none of its business");
        let mut fifth = content(5, 12);
        fifth[512..1536].fill(9);
        let left = |sound: &Volume, sick: &Volume| {
            (0..MANY).filter(|&block| block != 5).for_each(|block| check(sound, block, 12));
            assert!(bytes_of(sound, 5 * BLOCK as u64, BLOCK) == fifth);
            (0..8).for_each(|block| check(sick, block, 1));
        };
        left(&two.sound, &two.sick);
        let (cache, sick, sound, other) = two.after_power_loss();
        left(&sound, &sick);
        cache.settle().expect("its disk is another one now");
        left(&sound, &sick);
        (0..MANY).filter(|&block| block != 5).for_each(|block| {
            assert!(stored(&*other, block * BLOCK as u64, BLOCK) == content(block, 12), "block {block}");
        });
    });
}

#[test]
fn a_bad_copy_that_keeps_the_log_full_costs_no_flush() {
    without_hanging(|| {
        let two = Two::tuned(|config| config.background = Background::OnSettle);
        write(&two.sick, 3, 1);
        two.sick.flush().expect("the log has room");
        two.spoil(3, 1);
        two.fill(1..=12);
        (0..MANY).for_each(|block| check(&two.sound, block, 12));
        // Its own volume has what it can, and says of every flush that it lacks one.
        write(&two.sick, 4, 1);
        let error = two.sick.flush().expect_err("one of its blocks is lost");
        assert!(matches!(error, Error::LostWithSsd { blocks: 1, .. }), "{error}");
        assert!(stored(&*two.devices.disk, 4 * BLOCK as u64, BLOCK) == content(4, 1));
        // The log has no room for a new copy of the block, and nothing takes the place of the bad one by another way.
        write(&two.sick, 3, 2);
        two.sick.flush().expect_err("it is still lost");
        // The bit is as it was there.
        let (_cache, sick, sound, _) = two.after_power_loss();
        (0..MANY).for_each(|block| check(&sound, block, 12));
        check(&sick, 3, 1);
        two.sick.forget(3 * BLOCK as u64, BLOCK as u64).expect("a forget succeeds");
        write(&two.sick, 3, 3);
        two.sick.flush().expect("nothing is lost now");
        two.cache.settle().expect("all goes below");
        two.cache.assert_quiet();
        assert!(stored(&*two.devices.disk, 3 * BLOCK as u64, BLOCK) == content(3, 3));
    });
}

#[test]
fn the_sick_volume_is_told_and_the_log_is_used_again_once_it_is_well() {
    without_hanging(|| {
        let two = Two::with_a_dead_disk();
        two.fill(1..=4);
        (0..4).for_each(|block| write(&two.sick, block, 2));
        let error = two.sick.flush().expect_err("its disk is dead");
        assert!(matches!(error, Error::StillDirty { .. }), "{error}");
        two.devices.disk.clear_faults();
        eventually("its disk works again", || two.sick.flush().is_ok());
        (0..4).for_each(|block| check(&two.sick, block, 2));
        eventually("there is room again", || {
            two.cache.settle().expect("all goes below");
            two.cache.stats().ssd.dirty_blocks == 0
        });
        two.other.stall(Operation::Write);
        write(&two.sound, 7, 9);
        two.sound.flush().expect("the log has it");
        two.other.resume();
        two.cache.settle().expect("all goes below");
        two.cache.assert_quiet();
        for (block, number) in [(7, 9), (8, 4)] {
            assert!(stored(&*two.other, block * BLOCK as u64, BLOCK) == content(block, number));
        }
    });
}

#[test]
fn a_sound_volume_is_detached_while_the_log_stays_full() {
    without_hanging(|| {
        let two = Two::with_a_dead_disk();
        two.fill(1..=3);
        (0..8).for_each(|block| write(&two.sound, block, 4));
        two.sound.detach().expect("it has nothing that cannot be written");
        let again = two.cache.attach("other", two.other.clone(), WriteMode::BackSsd).expect("it attaches");
        (0..8).for_each(|block| check(&again, block, 4));
        (8..MANY).for_each(|block| check(&again, block, 3));
        write(&again, 0, 5);
        two.cache.close().expect("what the sick one has is in the log");
        assert!(stored(&*two.other, 0, BLOCK) == content(0, 5));
    });
}

/// What it left in the log nobody brings below.
#[test]
fn a_volume_that_is_not_attached_costs_no_other_a_flush() {
    without_hanging(|| {
        for background in [Background::Continuous, Background::OnSettle] {
            let two = Two::with_a_dead_disk_and(|config| config.background = background);
            two.sick.detach().expect("all that it has is in the log");
            two.fill(1..=6);
            two.cache.close().expect("the cache closes");
            let cache = Cache::open(&two.devices.config()).expect("the cache opens");
            let sound = cache.attach("other", two.other.clone(), WriteMode::BackSsd).expect("it attaches");
            (0..MANY).for_each(|block| check(&sound, block, 6));
            (0..MANY).for_each(|block| write(&sound, block, 7));
            sound.flush().expect("the other volume is none of its business");
            two.devices.disk.clear_faults();
            let disk = two.devices.disk.clone();
            let sick = cache.attach("disk", disk.clone(), WriteMode::BackSsd).expect("it attaches");
            (0..8).for_each(|block| check(&sick, block, 1));
            cache.settle().expect("all goes below");
            (0..8)
                .for_each(|block| assert!(stored(&*disk, block * BLOCK as u64, BLOCK) == content(block, 1)));
        }
    });
}

#[test]
fn discards_go_past_a_log_that_stays_full_and_so_does_what_is_on_top_of_them() {
    without_hanging(|| {
        let two = Two::with_a_dead_disk();
        two.fill(1..=3);
        // As many tombstones as there may be.
        for number in 0..512 {
            let block = 8 + number % 64;
            two.sick.discard(block * BLOCK as u64, BLOCK as u64).expect("a discard succeeds");
        }
        two.sick.flush().expect("there is room for so many");
        for round in 4..8 {
            two.sound.discard(16 * BLOCK as u64, 16 * BLOCK as u64).expect("a discard succeeds");
            write(&two.sound, 20, round);
            two.sound.flush().expect("the other volume is none of its business");
            let (_cache, _, sound, other) = two.after_power_loss();
            check(&sound, 20, round);
            check(&sound, 32, 3);
            (16..20).chain(21..32).for_each(|block| {
                assert!(bytes_of(&sound, block * BLOCK as u64, BLOCK) == zeros(), "block {block}");
            });
            assert!(
                stored(&*other, 16 * BLOCK as u64, BLOCK) == zeros(),
                "it is below when the flush is done"
            );
        }
        two.sound.discard(50 * BLOCK as u64, BLOCK as u64).expect("a discard succeeds");
        two.sound.flush().expect("the other volume is none of its business");
        let (_cache, _, sound, _) = two.after_power_loss();
        assert!(bytes_of(&sound, 50 * BLOCK as u64, BLOCK) == zeros(), "nothing was written with it");
        // One that fails is told, and run again.
        two.other.fail(Fault::every(Operation::Discard));
        two.sound.discard(40 * BLOCK as u64, BLOCK as u64).expect("a discard succeeds");
        two.sound.flush().expect_err("it could not be discarded");
        two.other.clear_faults();
        two.other.fail(Fault::nth(Operation::Sync, 0));
        two.sound.discard(41 * BLOCK as u64, BLOCK as u64).expect("a discard succeeds");
        eventually("it is tried again", || two.sound.flush().is_ok());
        for block in 40..42 {
            assert!(stored(&*two.other, block * BLOCK as u64, BLOCK) == zeros(), "block {block}");
        }
        two.devices.disk.clear_faults();
        eventually("its disk works again", || two.cache.settle().is_ok());
        two.cache.assert_quiet();
    });
}

#[test]
fn an_ssd_that_fails_while_its_log_is_passed_is_left_in_order() {
    without_hanging(|| {
        let two = Two::with_a_dead_disk();
        two.fill(1..=3);
        for operation in [Operation::Write, Operation::Sync] {
            two.devices.ssd.fail(Fault::every(operation));
        }
        // Not before there is something to be void.
        eventually("the log is left", || {
            (0..MANY).for_each(|block| write(&two.sound, block, 4));
            two.sound.flush().is_ok() && two.sound.mode() == WriteMode::Back
        });
        assert!(!two.cache.stats().ssd_in_use);
        (0..MANY).for_each(|block| {
            assert!(stored(&*two.other, block * BLOCK as u64, BLOCK) == content(block, 4), "block {block}");
        });
        (0..8).for_each(|block| check(&two.sick, block, 1));
        two.devices.disk.clear_faults();
        eventually("its disk works again", || two.sick.flush().is_ok());
        (0..8).for_each(|block| {
            assert!(stored(&*two.devices.disk, block * BLOCK as u64, BLOCK) == content(block, 1));
        });
        two.cache.settle().expect("all is below");
        two.cache.assert_quiet();
    });
}

/// Two volumes, a log that is full of what the disk of the first one holds up, and a flush of the second that waits for it.
fn waiting_for_a_disk(writeback_delay_ms: u64) -> (Two, Receiver<terrace::Result<()>>) {
    let two = Two::tuned(|config| {
        *config = Config { writeback_delay_ms, dirty_high: 0.9, dirty_low: 0.9, ..small(400) };
    });
    two.devices.disk.stall(Operation::Write);
    (0..100).for_each(|block| write(&two.sick, block, 1));
    two.sick.flush().expect("the log has room");
    two.devices.disk.wait_until_held(1);
    (0..MANY).for_each(|block| write(&two.sound, block, 1));
    let (sender, flushed) = channel();
    two.sound.flush_with(move |result| sender.send(result).expect("someone listens"));
    eventually("what found room is below", || two.cache.stats().ssd.dirty_blocks == 100);
    let waits = flushed.recv_timeout(Duration::from_millis(200));
    assert!(waits.is_err(), "the log had no room for all: {waits:?}");
    let is_below = |&block: &u64| stored(&*two.other, block * BLOCK as u64, BLOCK) == content(block, 1);
    assert!((0..MANY).filter(is_below).count() < MANY as usize, "nothing went past it");
    (two, flushed)
}

/// A disk that is slow makes room: whoever finds the log full waits for that.
#[test]
fn nothing_goes_past_a_log_that_is_full_for_a_while() {
    without_hanging(|| {
        let (two, flushed) = waiting_for_a_disk(5);
        two.devices.disk.resume();
        flushed.recv().expect("it ends").expect("there is room now");
        two.cache.settle().expect("all goes below");
        two.cache.assert_quiet();
    });
}

/// No tick comes by that would have it look again.
#[test]
fn who_waits_for_a_disk_goes_past_the_log_when_that_dies() {
    without_hanging(|| {
        let (two, flushed) = waiting_for_a_disk(3_600_000);
        two.kill();
        two.devices.disk.resume();
        flushed.recv().expect("it ends").expect("the other volume is none of its business");
        let (_cache, sick, sound, _) = two.after_power_loss();
        (0..100).for_each(|block| check(&sick, block, 1));
        (0..MANY).for_each(|block| check(&sound, block, 1));
        two.devices.disk.clear_faults();
        eventually("its disk works again", || two.cache.settle().is_ok());
        two.cache.assert_quiet();
    });
}
