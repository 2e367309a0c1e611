//! Summaries are read while the tier serves: what is found is never older than what was written meanwhile, and what is
//! not found in one opening is not found in the next.

use crate::block::{BlockId, Version, VolumeId};

use super::super::format::Summary;
use super::super::*;
use super::crash::{BLOCKS, Below, NUMBERS, check, run_script};
use super::device::MemoryDevice;
use super::driver::{Driver, IDENTITY, checkpoint, data_of, geometry};
use super::log_writer::{self, Writer};

/// A file with the blocks 0, 1, ... sealed, as they were in the first version, left without a close.
pub(super) struct Left {
    pub(super) device: MemoryDevice,
    pub(super) volume: VolumeId,
    pub(super) version: Version,
    pub(super) numbers: u64,
}

impl Left {
    pub(super) fn new() -> Self {
        Self::after(|_| {})
    }

    pub(super) fn after(change: impl FnOnce(&mut Driver)) -> Self {
        let mut driver = Driver::create(1000, SsdPolicy::default());
        let (volume, version) = (driver.volume, driver.ssd.first_version());
        let numbers = 40 * u64::from(driver.ssd.geometry().slots_per_segment);
        for number in 0..numbers {
            driver.demote(number, version);
        }
        change(&mut driver);
        driver.settle_journal();
        Self { device: driver.device.expect("not simulated"), volume, version, numbers }
    }

    pub(super) fn open(self) -> Driver {
        Driver::early(self.device, geometry(1000), self.volume)
    }
}

/// The same file after the power failed now, with nothing lost.
pub(super) fn crash(driver: &Driver) -> Driver {
    let device = MemoryDevice::holding(driver.device().bytes());
    let ssd = Ssd::open(&device, driver.ssd.geometry(), SsdPolicy::default()).expect("opens");
    Driver::of(ssd, device, driver.volume)
}

#[test]
fn nothing_overwritten_is_found_by_a_scan_beside_it_nor_after_another_crash() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut found, mut found_again, mut unread) = (0, 0, 0);
    for _ in 0..12 {
        let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
        let mut below = Below::new(driver.ssd.first_version());
        driver.device().keep_steps();
        run_script(&mut driver, &mut below, &mut random, 400);
        for _ in 0..25 {
            let kept = random.usize(..=driver.device().step_count());
            let device = driver.device().after_power_loss(kept, || random.bool());
            // Three openings one after the other, each cut in the middle of its scan.
            let mut next = Driver::early(device, geometry(BLOCKS), driver.volume);
            let mut now = below.cut(kept, next.ssd.first_version());
            for _ in 0..3 {
                next.device().keep_steps();
                serve_while_scanning(&mut next, &mut now, &mut random);
                let step = next.device().step_count();
                unread += next.ssd.stats().segments_unread;
                let device = next.device.as_ref().expect("not simulated");
                found += check(&mut next.ssd, device, next.volume, &now, step, seed);
                let kept = random.usize(..=step);
                let device = next.device().after_power_loss(kept, || random.bool());
                next = Driver::early(device, geometry(BLOCKS), driver.volume);
                now = now.cut(kept, next.ssd.first_version());
            }
            next.finish_scan();
            let device = next.device.as_ref().expect("not simulated");
            found_again += check(&mut next.ssd, device, next.volume, &now, usize::MAX, seed);
        }
    }
    assert!(found > 0 && found_again > 0 && unread > 0, "seed {seed}: {found} {found_again} {unread}");
}

/// Calls of any kind, with summaries read and finished in any order between them; some are left unread.
fn serve_while_scanning(driver: &mut Driver, below: &mut Below, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(..40) {
        match random.u32(..12) {
            0..3 => driver.read_summaries(),
            3..5 if !driver.scanned.is_empty() => {
                let scanned = driver.scanned.swap_remove(random.usize(..driver.scanned.len()));
                driver.ssd.finish_scan(scanned);
            }
            5 if !driver.scanned.is_empty() => driver.lend(random.usize(..driver.scanned.len())),
            6 if !driver.installs.is_empty() => {
                let install = driver.installs.swap_remove(random.usize(..driver.installs.len()));
                driver.ssd.finish_install(install);
            }
            7 => {
                let number = random.u64(..NUMBERS);
                driver.void(number, below.next, VoidMark::Exact);
                below.write(number, driver.device().step_count());
            }
            _ => run_script(driver, below, random, 1),
        }
    }
}

#[test]
fn a_block_written_before_its_copy_is_found_waits_for_the_journal_and_the_copy_is_never_found() {
    for mark in [VoidMark::Exact, VoidMark::Region] {
        for is_read_already in [false, true] {
            let mut driver = Left::new().open();
            if is_read_already {
                (0..100).for_each(|_| driver.read_summaries());
            }
            let version = driver.ssd.first_version();
            assert!(driver.ssd.void(driver.block(7), version, mark), "the write below has to wait");
            assert!(driver.settle_journal());
            assert!(!crash(&driver).ssd.contains(driver.block(7)), "{mark:?}: nor after a crash");
            driver.finish_scan();
            assert!(!driver.ssd.contains(driver.block(7)), "{mark:?}");
            assert!(driver.ssd.contains(driver.block(8)), "{mark:?}: its neighbour is");
            assert!(!driver.reopen().ssd.contains(BlockId::new(VolumeId::new(0), 7)));
        }
    }
}

#[test]
fn a_range_discarded_before_its_copies_are_found_is_never_found() {
    let left = Left::new();
    let numbers = left.numbers;
    let mut driver = left.open();
    driver.read_summaries();
    for (first, count) in [(10, 5), (13, 20), (40, 1), (9, 1), (numbers - 1, 1 << 39)] {
        let version = driver.ssd.first_version();
        driver.ssd.void_range(driver.block(first), count, version);
    }
    assert!(driver.settle_journal());
    let check = |driver: &mut Driver| {
        for number in 0..numbers {
            let is_out = (9..33).contains(&number) || number == 40 || number == numbers - 1;
            assert_eq!(driver.ssd.contains(driver.block(number)), !is_out, "block {number}");
        }
    };
    check(&mut crash(&driver));
    driver.finish_scan();
    check(&mut driver);
}

#[test]
fn a_block_demoted_before_its_old_copy_is_found_keeps_the_new_one_and_a_void_is_for_both() {
    let left = Left::after(|driver| {
        let device = driver.device.as_ref().expect("not simulated");
        assert!(checkpoint(&mut driver.ssd, device, false));
    });
    let old = left.version;
    let mut driver = left.open();
    let new = driver.ssd.first_version();
    // What is free is known first.
    driver.read_summaries();
    let scanned = driver.scanned.pop().expect("some are unread");
    driver.ssd.finish_scan(scanned);
    assert!(!driver.ssd.contains(driver.block(3)));
    assert!(matches!(driver.demote(3, new), Demote::Append(_)));
    let free = driver.ssd.plan_seal_open();
    free.into_iter().for_each(|plan| driver.seal(Some(plan)));
    driver.finish_scan();
    let mut is_there = |number: u64, version| {
        let plan = driver.ssd.plan_read(driver.block(number)).expect("it is found");
        super::driver::read_block(driver.device(), &plan) == data_of(plan.block, version)
    };
    assert!(is_there(3, new) && is_there(4, old), "the one of now");
    let mut again = crash(&driver);
    if let Some(plan) = again.ssd.plan_read(again.block(3)) {
        let data = super::driver::read_block(again.device(), &plan);
        assert!(data == data_of(plan.block, new) || data == data_of(plan.block, old), "one of the two");
    }
    driver.void(3, new.next(), VoidMark::Exact);
    assert!(!driver.ssd.contains(driver.block(3)));
    assert!(!crash(&driver).ssd.contains(driver.block(3)));
}

/// The scan could not read a summary, so that a void of a block in it was taken for needless. The next opening could.
#[test]
fn a_summary_that_was_unreadable_in_one_opening_brings_nothing_back_in_the_next() {
    let mut driver = Left::new().open();
    let offset = driver.ssd.geometry().summary_offset(0);
    let flip = |driver: &Driver| driver.device().change(offset, |bytes| bytes[100] ^= 1);
    flip(&driver);
    driver.finish_scan();
    assert!(!driver.ssd.contains(driver.block(0)) && !driver.ssd.is_scanning());
    assert!(driver.ssd.void(driver.block(0), driver.ssd.first_version(), VoidMark::Exact));
    flip(&driver);
    let write_journal = |driver: &mut Driver| {
        let JournalPlan::Write(write) = driver.ssd.plan_journal() else { panic!("there is an entry") };
        write.run(driver.device()).expect("writes");
        driver.ssd.finish_journal(&write, true);
    };
    write_journal(&mut driver);
    let again = crash(&driver);
    assert!(!again.ssd.contains(again.block(0)) && again.ssd.contains(again.block(1)));
    let device = driver.device.as_ref().expect("not simulated");
    assert!(checkpoint(&mut driver.ssd, device, false));
    assert!(
        !driver.ssd.void(driver.block(0), driver.ssd.first_version(), VoidMark::Exact),
        "nothing to find"
    );
}

#[test]
fn a_checkpoint_before_all_is_read_forgets_no_segment_and_no_void() {
    let left = Left::after(|driver| {
        let version = driver.ssd.first_version().next();
        driver.ssd.void(driver.block(1), version, VoidMark::Exact);
        driver.ssd.void_range(driver.block(20), 10, version);
        assert!(driver.read(2, driver.ssd.first_version()));
    });
    let numbers = left.numbers;
    let mut driver = left.open();
    for _ in 0..3 {
        driver.read_summaries();
        driver.ssd.void(driver.block(5), driver.ssd.first_version(), VoidMark::Exact);
        assert!(driver.settle_journal());
        assert!(checkpoint(&mut driver.ssd, driver.device.as_ref().expect("not simulated"), false));
        driver = Driver::early(MemoryDevice::holding(driver.device().bytes()), geometry(1000), driver.volume);
    }
    driver.finish_scan();
    for number in 0..numbers {
        let is_out = number == 1 || number == 5 || (20..30).contains(&number);
        assert_eq!(driver.ssd.contains(driver.block(number)), !is_out, "block {number}");
    }
}

#[test]
fn no_segment_is_emptied_or_given_out_before_it_is_known_what_it_holds() {
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let (volume, version) = (driver.volume, driver.ssd.first_version());
    for number in 0..3 * BLOCKS {
        driver.demote(number, version);
        driver.reclaim();
    }
    let device = MemoryDevice::holding(driver.device().bytes());
    let mut driver = Driver::early(device, geometry(BLOCKS), volume);
    let version = driver.ssd.first_version();
    assert_eq!(driver.ssd.stats().segments_free, 0, "after a crash none is known to be free");
    assert_eq!(driver.demote(1000, version), Demote::Refused(Refusal::NoSegment));
    let (mut number, mut is_over) = (2000, false);
    while driver.ssd.is_scanning() {
        // What is new fills what turned out to be free, and is sealed, but does not go before what is not known.
        while matches!(driver.demote(number, version), Demote::Append(_)) {
            number += 1;
        }
        is_over |= driver.ssd.stats().cached_blocks > BLOCKS;
        assert!(driver.ssd.plan_reclaim().is_none());
        driver.read_summaries();
        let scanned = driver.scanned.pop().expect("some are unread");
        driver.ssd.finish_scan(scanned);
    }
    assert!(is_over && number > 2000, "there was too much before the end");
    driver.reclaim();
    assert!(driver.settle_journal() && driver.ssd.stats().segments_free > 0);
    assert!(matches!(driver.demote(1000, version), Demote::Append(_)));
}

#[test]
fn copies_leave_in_the_same_order_in_whatever_order_the_summaries_were_read() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let version = driver.ssd.first_version();
    for _ in 0..4 * BLOCKS {
        let number = random.u64(..2 * BLOCKS);
        driver.demote(number, version);
        for _ in 0..3 {
            driver.read(random.u64(..BLOCKS / 4), version);
        }
        driver.reclaim();
    }
    let volume = driver.volume;
    let device = driver.close();
    let bytes = device.bytes();
    let order_of = |ssd: Ssd, device: MemoryDevice| {
        let mut driver = Driver::of(ssd, device, volume);
        let version = driver.ssd.first_version();
        let mut left = Vec::new();
        for number in 1000..1000 + 3 * BLOCKS {
            driver.demote(number, version);
            driver.reclaim();
            left.push((0..2 * BLOCKS).filter(|&number| driver.ssd.contains(driver.block(number))).count());
        }
        (left, driver.ssd.stats().blocks_reinserted)
    };
    let whole = Ssd::open(&device, geometry(BLOCKS), SsdPolicy::default()).expect("opens");
    let wanted = order_of(whole, device);
    assert!(wanted.1 > 0, "seed {seed}: blocks that were hit are kept");
    let mut early = Driver::early(MemoryDevice::holding(bytes), geometry(BLOCKS), volume);
    while early.ssd.is_scanning() {
        early.read_summaries();
        if !early.scanned.is_empty() && random.bool() {
            let scanned = early.scanned.swap_remove(random.usize(..early.scanned.len()));
            early.ssd.finish_scan(scanned);
        }
    }
    assert!(early.settle_journal());
    let Driver { ssd, device, .. } = early;
    assert_eq!(order_of(ssd, device.expect("not simulated")), wanted, "seed {seed}");
}

#[test]
fn a_volume_that_comes_back_cold_finds_none_of_its_copies_and_they_take_no_room_in_the_index() {
    let mut driver = Left::new().open();
    driver.read_summaries();
    let cold = driver.ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches");
    assert_ne!(cold, driver.volume, "it was not closed in order");
    driver.finish_scan();
    assert_eq!(driver.ssd.stats().cached_blocks, 0);
    assert!(driver.settle_journal());
    assert_eq!(crash(&driver).ssd.stats().cached_blocks, 0);
}

/// A checkpoint listed a segment that was open, and a crash left it without a summary. It was used for dirty blocks in
/// the next opening, and the one after that believed the checkpoint and did not look for them.
#[test]
fn a_segment_that_a_checkpoint_lists_and_that_holds_nothing_is_used_once_it_is_durably_retired() {
    let left = Left::after(|driver| {
        driver.demote(1000, driver.ssd.first_version());
        let device = driver.device.as_ref().expect("not simulated");
        assert!(checkpoint(&mut driver.ssd, device, false));
    });
    let mut driver = left.open();
    let segments = u64::from(geometry(1000).segment_count);
    driver.finish_scan();
    // 40 are full.
    assert_eq!(driver.ssd.stats().segments_free, segments - 41);
    assert!(driver.ssd.journal_pending().is_some());
    assert!(driver.settle_journal());
    assert_eq!(driver.ssd.stats().segments_free, segments - 40);
}

/// The power failed when a block was in the log, synced, and the journal did not say yet that its clean copy is older. Only
/// what is in the log tells that, also when the block is below.
#[test]
fn a_clean_copy_that_the_log_hides_is_not_found_though_the_block_is_destaged_before_its_summary_is_read() {
    let seed = fastrand::u64(..);
    let mut writer = Writer::new();
    (0..log_writer::BLOCKS).for_each(|number| writer.demote(number));
    let seals = writer.ssd.plan_seal_open();
    seals.into_iter().for_each(|seal| writer.seal(seal));
    writer.write(0, 0..log_writer::size().sectors());
    writer.log(0..1);
    writer.sync();
    assert!(writer.ssd.journal_pending().is_some(), "the void is not durable");
    let step = writer.device.step_count();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut next = writer.after_power_loss(step, &mut random, &format!("seed {seed}"));
    next.destage(0);
    assert!(next.ssd.dirty_blocks() == 0 && next.ssd.is_scanning());
    next.ssd.scan_all(&next.device);
    let copies = next.ssd.stats().cached_blocks;
    assert_eq!(copies, log_writer::BLOCKS as u64 - 1, "seed {seed}: those of the others are found");
    next.check_clean(&format!("seed {seed}"));
    next.checkpoint();
    next.settle_journal();
    assert!(next.ssd.dirty.segments.is_empty(), "now it is given back");
    next.check_clean(&format!("seed {seed}, at the end"));
}

/// A void would be for the copy in the log as well, which must stay until what comes into RAM now is durable there.
#[test]
fn a_write_to_a_block_in_the_log_voids_nothing_while_its_part_of_the_index_is_lent() {
    let seed = fastrand::u64(..);
    let mut writer = Writer::new();
    (0..log_writer::BLOCKS).for_each(|number| writer.demote(number));
    let seals = writer.ssd.plan_seal_open();
    seals.into_iter().for_each(|seal| writer.seal(seal));
    writer.write(0, 0..log_writer::size().sectors());
    writer.log(0..1);
    writer.sync();
    let step = writer.device.step_count();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut next = writer.after_power_loss(step, &mut random, &format!("seed {seed}"));
    let plan = next.ssd.plan_scan().expect("there are summaries");
    let mut scanned = plan.run(&next.device);
    let mut install = next.ssd.plan_install(&mut scanned).expect("copies are found");
    assert!(next.ssd.index.is_lent(next.block(0)));
    next.settle_journal();
    next.write(0, 0..1);
    assert!(next.ssd.journal_pending().is_none(), "seed {seed}");
    install.run();
    next.ssd.finish_install(install);
}

/// One opening leaves one copy of a block that is believed. Two are damage, and either could be the older one.
#[test]
fn of_two_copies_that_are_believed_neither_is_nor_is_a_third() {
    let left = Left::new();
    let layout = geometry(1000);
    // Blocks 8 and 16, the first of the second and third segment, become block 0.
    for segment in [1, 2] {
        let offset = layout.summary_offset(segment);
        left.device.change(offset, |bytes| {
            let file_id = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
            let summary = Summary::from_bytes(bytes, file_id, segment, layout.slots_per_segment);
            let mut summary = summary.expect("it is sealed");
            summary.entries[0].block = BlockId::new(left.volume, 0);
            let pages = summary.to_pages();
            bytes[..pages.len()].copy_from_slice(&pages);
        });
    }
    let mut driver = left.open();
    driver.finish_scan();
    let gone = [0, 8, 16];
    assert!(gone.iter().all(|&number| !driver.ssd.contains(driver.block(number))));
    assert!(driver.ssd.contains(driver.block(1)) && driver.ssd.contains(driver.block(17)));
    assert!(driver.settle_journal(), "durably");
    assert!(!crash(&driver).ssd.contains(driver.block(0)));
}
