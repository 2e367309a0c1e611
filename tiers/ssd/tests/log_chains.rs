//! Chains of copies that each have a part of a block.

use crate::block::{BlockId, BlockSize, Version, VolumeId, mask};

use super::super::dirty_log::{DirtyLog, chain_max};
use super::super::*;
use super::log_writer::{BLOCKS, Tamper, Writer, geometry, read_all, read_all_tampered, violation};

/// Writes some sectors of a block and flushes them.
fn flush(writer: &mut Writer, number: usize, sectors: std::ops::Range<usize>) {
    writer.write(number, sectors);
    writer.log(number..number + 1);
    writer.sync();
}

fn copies_of(writer: &mut Writer, number: usize) -> usize {
    let read = writer.ssd.plan_log_read(writer.block(number)).expect("the log has it");
    read.copy_count()
}

fn destage_all(writer: &mut Writer) {
    (0..BLOCKS).for_each(|from| writer.destage(from));
}

/// The oldest copy of a chain counts as being below, which it is not.
fn drop_oldest(log: &mut DirtyLog, block: BlockId) {
    if let [_, .., oldest] = &log.dirty_copies(block)[..] {
        log.destaged(block, oldest.epoch, oldest.version);
    }
}

/// The version of the newest copy of `block`, if a tombstone may still have it.
fn newest_of(log: &DirtyLog, block: BlockId) -> Option<Version> {
    let newest = log.dirty_copies(block).first()?.version;
    log.tombstones.iter().all(|tombstone| tombstone.version < newest).then_some(newest)
}

/// What must hold of chains, and what is done in its place.
const BROKEN: &[(&str, Tamper)] = &[
    (
        "a sector is that of the newest copy that has it",
        Tamper { read: |read| read.parts.reverse(), ..Tamper::NONE },
    ),
    (
        "a block is all of its copies",
        Tamper {
            read: |read| {
                read.parts.truncate(1);
                read.mask.clone_from(&read.parts[0].mask);
            },
            ..Tamper::NONE
        },
    ),
    ("a segment stays while a copy in it is dirty", Tamper { reclaimed: drop_oldest, ..Tamper::NONE }),
    ("what is superseded in part stays", Tamper { synced: drop_oldest, ..Tamper::NONE }),
    (
        "a tombstone takes the newest copy too",
        Tamper { buried: |log, block, version| newest_of(log, block).unwrap_or(version), ..Tamper::NONE },
    ),
];

/// What is wrong after a crash at some step of a random run.
fn first_violation(tamper: Tamper, seed: u64) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writer = Writer::new();
    writer.tamper = tamper;
    (0..400).for_each(|_| writer.step(&mut random));
    (0..=writer.device.step_count()).step_by(2).find_map(|kept| {
        let device = writer.device.after_power_loss(kept, || random.bool());
        let mut ssd = Ssd::open(&device, geometry(), SsdPolicy::default()).expect("opens");
        let found = read_all_tampered(&mut ssd, &device, writer.volume, writer.below.at(kept), tamper);
        violation(&writer, &found, writer.promised.at(kept))
    })
}

#[test]
fn every_broken_chain_is_caught_and_a_sound_one_never() {
    let seed = fastrand::u64(..);
    let seeds = || (0..12).map(|round| seed.wrapping_add(round));
    for (promise, tamper) in BROKEN {
        let caught = seeds().find_map(|seed| first_violation(*tamper, seed));
        assert!(caught.is_some(), "not caught: {promise}, seed {seed}");
    }
    for seed in seeds() {
        assert_eq!(first_violation(Tamper::NONE, seed), None, "seed {seed}");
    }
}

#[test]
fn a_flush_writes_what_was_written_since_the_one_before() {
    let mut writer = Writer::new();
    flush(&mut writer, 3, 0..32);
    for page in 0..4 {
        let before = writer.ssd.stats().bytes_written;
        flush(&mut writer, 3, 8 * page..8 * page + 8);
        assert_eq!(writer.ssd.stats().bytes_written - before, 8192, "a header and a page");
    }
    assert_eq!(copies_of(&mut writer, 3), 4, "the first has nothing that no newer one has");
    destage_all(&mut writer);
    assert_eq!(writer.below.now()[3], writer.ram[3], "all of them are below");
    assert_eq!(writer.ssd.dirty_blocks(), 0);
}

#[test]
fn a_segment_stays_for_the_one_sector_that_only_a_copy_in_it_has() {
    let mut writer = Writer::new();
    flush(&mut writer, 0, 0..32);
    let first = writer.ssd.dirty.segments[0].generation;
    let is_there =
        |writer: &Writer| writer.ssd.dirty.segments.front().map(|front| front.generation) == Some(first);
    while writer.ssd.dirty.segments.len() < 3 {
        flush(&mut writer, 0, 1..32);
        flush(&mut writer, 1, 0..32);
    }
    writer.ssd.retire_unneeded();
    assert!(is_there(&writer), "sector 0 is nowhere else");
    flush(&mut writer, 0, 0..1);
    writer.ssd.retire_unneeded();
    assert!(!is_there(&writer));
}

#[test]
fn what_keeps_the_first_segment_is_named_until_nothing_does() {
    let mut writer = Writer::new();
    assert_eq!(writer.ssd.log_keepers(), LogKeepers::default());
    flush(&mut writer, 0, 0..32);
    let first = writer.ssd.plan_log_read(writer.block(0)).expect("it is there");
    let volumes = [writer.volume].into();
    assert_eq!(writer.ssd.log_keepers(), LogKeepers { volumes, has_bad: false });
    writer.ssd.finish_log_read(&first, Some(first.version));
    assert_eq!(writer.ssd.log_keepers(), LogKeepers { has_bad: true, ..LogKeepers::default() });
    assert!(!writer.ssd.retire_refusing());
    writer.forget(0..1);
    assert_eq!(writer.ssd.log_keepers(), LogKeepers::default());
    assert!(writer.ssd.retire_refusing(), "the open one too, which has no room for anything");
    assert!(writer.ssd.dirty.segments.is_empty());
}

#[test]
fn a_chain_that_is_too_long_is_written_as_one_copy() {
    let size = BlockSize::new(64 << 10).expect("a block size");
    let most = chain_max(size);
    let mut log = DirtyLog::new(&Geometry::for_blocks(size, 64).expect("fits"));
    log.open_segment(1, 1);
    let block = BlockId::new(VolumeId::new(1), 5);
    let mut put = |version: usize, mask: u64| {
        let wanted = log.wanted_mask(block);
        let mut words: SectorMask = Box::new([mask, 0]);
        wanted.iter().for_each(|wanted| mask::add(&mut words, wanted));
        let version = Version::from_u64(version as u64);
        let (header, _) = log.plan(0, &[NewCopy { block, version, mask: words, epoch: 0 }], 0);
        let pending = log.wanted_mask(block);
        log.finish(LogTicket { sequence: header.sequence, round: log.round() }, header);
        log.finish_sync(log.plan_sync().expect("it is written"));
        (wanted.is_some(), pending.is_some(), log.read_copies(block).len())
    };
    for version in 1..most {
        assert_eq!(put(version, 1 << version), (false, false, version));
    }
    assert_eq!(put(most, 1), (false, true, most), "with the one on its way there are as many as may be");
    assert_eq!(put(most + 1, 2), (true, true, 1));
    assert_eq!(put(most + 2, 2), (false, false, 2));
}

#[test]
fn a_block_with_one_bad_copy_is_bad_until_that_is_overwritten_whole() {
    let mut writer = Writer::new();
    flush(&mut writer, 2, 0..8);
    let bad = writer.ssd.plan_log_read(writer.block(2)).expect("it is there").version;
    flush(&mut writer, 2, 4..12);
    let read = writer.ssd.plan_log_read(writer.block(2)).expect("it is there");
    assert_eq!(read.copy_count(), 2);
    assert_eq!(writer.ssd.finish_log_read(&read, Some(bad)), ReadVerdict::Corrupt);
    let block = writer.block(2);
    assert_eq!(writer.ssd.bad_blocks_of(writer.volume), [block]);
    assert!(!writer.ssd.has_destage(writer.volume), "nothing of it goes below");
    assert!(writer.ssd.holds_back(block));
    let wanted = writer.ssd.wanted_mask(block).expect("a part is not enough");
    assert!(mask::contains(&wanted, 0..12));
    // One that was accepted before anyone knew.
    let copy = NewCopy { block, version: writer.version(), mask: Box::new([0b10]), epoch: 0 };
    let mut plan = writer.ssd.plan_record(&[copy], 0).expect("there is room");
    plan.run(&writer.device, &[&[0; 16 << 10]]).expect("in range");
    writer.ssd.finish_record(plan);
    writer.sync();
    assert_eq!(writer.ssd.bad_blocks_of(writer.volume), [block], "sector 0 is still bad");
    flush(&mut writer, 2, 0..4);
    assert_eq!(writer.ssd.bad_blocks_of(writer.volume), []);
    assert!(writer.ssd.has_destage(writer.volume));
}

/// A destaged copy that was found bad took a newer one with it that was on its way: what a flush had promised was neither
/// in the log nor below.
#[test]
fn a_bad_destaged_copy_does_not_take_a_newer_one_with_it() {
    let mut writer = Writer::new();
    flush(&mut writer, 2, 0..8);
    // Another keeps the segment.
    flush(&mut writer, 9, 0..8);
    let read = writer.ssd.plan_log_read(writer.block(2)).expect("it is there");
    let content = writer.ram[2].clone();
    writer.below.change(writer.device.step_count(), |below| below[2] = content);
    writer.ssd.finish_destage(&read);
    writer.write(2, 8..16);
    writer.log(2..3);
    assert_eq!(writer.ssd.finish_log_read(&read, Some(read.version)), ReadVerdict::Corrupt);
    writer.sync();
    writer.check_clean("now");
    writer.settle_journal();
    let mut ssd = Ssd::open(&writer.device, geometry(), SsdPolicy::default()).expect("opens");
    let found = read_all(&mut ssd, &writer.device, writer.volume, writer.below.now());
    assert_eq!(found[2], writer.ram[2], "after a restart");
    let read = ssd.plan_log_read(writer.block(2)).expect("it is there");
    assert_eq!(read.copy_count(), 1, "the bad one does not come back");
}

/// What an opening without epochs had logged was found again after one with epochs had it below, and something newer over
/// it: then it went there once more.
#[test]
fn a_copy_without_an_epoch_is_below_when_a_newer_one_with_an_epoch_is() {
    let mut writer = Writer::new();
    flush(&mut writer, 4, 0..32);
    // Of the last one a copy is still dirty: nothing of the segment goes.
    for (epoch, number) in [(1, 4), (2, 7), (3, 8)] {
        writer.epoch = epoch;
        flush(&mut writer, number, 0..16);
    }
    (0..3).for_each(|_| writer.destage(0));
    assert_eq!((&writer.below.now()[4], writer.ssd.dirty_blocks()), (&writer.ram[4], 1));
    let wanted = writer.below.now()[4].clone();
    let mut random = fastrand::Rng::with_seed(1);
    let mut writer = writer.after_power_loss(writer.device.step_count(), &mut random, "epochs");
    while writer.ssd.dirty_blocks() > 0 {
        destage_all(&mut writer);
    }
    assert_eq!(writer.below.now()[4], wanted);
}

/// A copy of before a discard, in the epoch before, was the last one left of its block when it went below. It stayed as
/// destaged, and was read again as soon as the discard was below too.
#[test]
fn what_a_discard_hides_does_not_come_to_light_when_both_are_below() {
    let mut writer = Writer::new();
    writer.epoch = 1;
    flush(&mut writer, 4, 0..32);
    writer.epoch = 2;
    writer.discard(4..5);
    writer.epoch = 3;
    // Still dirty at the end, so that no segment goes.
    flush(&mut writer, 8, 0..1);
    (0..2).for_each(|_| writer.destage(0));
    assert!(writer.below.now()[4].iter().all(|&made| made == 0));
    writer.check_clean("now");
    writer.checkpoint();
    let mut random = fastrand::Rng::with_seed(1);
    writer.after_power_loss(writer.device.step_count(), &mut random, "after a crash");
}
