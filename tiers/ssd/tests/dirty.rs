//! Blocks newer than the backing store: what was synced to the log is there wherever the power fails, and nothing older
//! comes back.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::block::{BlockId, Version};
use crate::device::Identity;

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{IDENTITY, checkpoint};
use super::log_writer::{BLOCKS, Writer, bytes_of, check, geometry, overlay, read_all, size};

#[test]
fn what_was_synced_to_the_log_is_there_and_nothing_older_wherever_the_power_fails() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writer = Writer::new();
    for _ in 0..900 {
        writer.step(&mut random);
    }
    let stats = writer.ssd.stats();
    assert!(stats.blocks_destaged > 5 && stats.segments_in_use > 0, "seed {seed}: {stats:?}");
    let mut dirty_found = 0;
    for kept in 0..=writer.device.step_count() {
        let odds = random.u32(..4);
        let device = writer.device.after_power_loss(kept, || random.u32(..4) >= odds);
        device.keep_steps();
        let place = format!("seed {seed} step {kept}");
        let open = |device: &MemoryDevice, place: &str| {
            Ssd::open(device, geometry(), SsdPolicy::default())
                .unwrap_or_else(|error| panic!("{place}: {error}"))
        };
        let mut ssd = open(&device, &place);
        dirty_found += ssd.dirty_blocks();
        let (below, promised) = (writer.below.at(kept), writer.promised.at(kept));
        let first = read_all(&mut ssd, &device, writer.volume, below);
        check(&writer, &first, promised, &place);
        if kept % 3 != 0 {
            continue;
        }
        // The power fails again: while the file is opened anything promised will do, and after it only what was read.
        let cut = random.usize(..=device.step_count());
        let during = device.after_power_loss(cut, || random.bool());
        let mut ssd = open(&during, &place);
        let again = read_all(&mut ssd, &during, writer.volume, below);
        check(&writer, &again, promised, &format!("{place}, cut at {cut} of opening"));
        let after = device.after_power_loss(device.step_count(), || random.bool());
        let mut ssd = open(&after, &place);
        assert_eq!(
            read_all(&mut ssd, &after, writer.volume, below),
            first,
            "{place}: what was read has changed"
        );
    }
    assert!(dirty_found > 0, "seed {seed}: dirty blocks survive");
}

/// The void of a clean copy that was not found yet was taken for one of the older copy in the log, which nothing newer
/// had taken the place of when the power failed.
#[test]
fn what_is_logged_or_destaged_while_summaries_are_unread_is_kept_and_nothing_older_is_found() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let mut writer = Writer::new();
        (0..300).for_each(|_| writer.step(&mut random));
        for life in 0..3 {
            let place = format!("seed {seed}, round {round}, life {life}");
            let kept = random.usize(..=writer.device.step_count());
            writer = writer.after_power_loss(kept, &mut random, &place);
            for _ in 0..random.usize(..80) {
                match random.u32(..8) {
                    0 => {
                        if let Some(plan) = writer.ssd.plan_scan() {
                            writer.ssd.finish_scan(plan.run(&writer.device));
                        }
                    }
                    1 => writer.check_clean(&place),
                    _ => writer.step(&mut random),
                }
            }
            writer.check_clean(&place);
        }
    }
}

#[test]
fn in_order_the_backing_store_alone_is_one_epoch_and_a_part_of_the_next_also_after_a_crash() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writer = Writer::new();
    writer.epoch = 1;
    for _ in 0..900 {
        writer.step(&mut random);
    }
    assert!(
        writer.epoch > 2 && writer.ssd.stats().blocks_destaged > 5,
        "seed {seed}: epoch {}",
        writer.epoch
    );
    for (step, below) in &writer.below.0 {
        assert!(writer.is_an_epoch(below, *step), "seed {seed} step {step}");
    }
    for kept in (0..=writer.device.step_count()).step_by(3) {
        let device = writer.device.after_power_loss(kept, || random.bool());
        let mut ssd = Ssd::open(&device, geometry(), SsdPolicy::default()).expect("opens");
        let mut below = writer.below.at(kept).clone();
        let wanted = read_all(&mut ssd, &device, writer.volume, &below);
        let place = format!("seed {seed} step {kept}");
        check(&writer, &wanted, writer.promised.at(kept), &place);
        while ssd.has_destage(writer.volume) {
            match ssd.plan_destage(writer.volume, None, None, 0, 2) {
                DestageRun::Discard(tombstone) => {
                    tombstone.blocks().for_each(|number| below[number as usize].fill(0));
                    ssd.finish_tombstone(&tombstone);
                }
                DestageRun::Write(run) => run.iter().for_each(|read| {
                    let mut bytes = vec![0; size().bytes()];
                    let spoilt = read.run(&device, &mut bytes).expect("in range");
                    assert_eq!(spoilt, None, "{place}: it fails its checksum");
                    overlay(&mut below[read.block.number() as usize], read, &bytes);
                    ssd.finish_destage(read);
                }),
            }
            assert!(writer.is_an_epoch(&below, kept), "{place}: while it is destaged after the crash");
        }
        assert_eq!(below, wanted, "{place}: all is below");
    }
}

#[test]
fn a_sync_of_the_log_covers_what_was_written_before_it_began_and_no_record_after_a_gap() {
    let mut writer = Writer::new();
    let plan_one = |writer: &mut Writer, number: usize| {
        let (block, version) = (writer.block(number), writer.version());
        let copy = NewCopy { block, version, mask: Box::new([1]), epoch: 0 };
        writer.ssd.plan_record(&[copy], 0).expect("there is room")
    };
    let finish = |writer: &mut Writer, mut plan: RecordPlan| {
        plan.run(&writer.device, &[&[7; 16 << 10]]).expect("in range");
        writer.ssd.finish_record(plan);
    };
    let plans: Vec<RecordPlan> = (0..4).map(|number| plan_one(&mut writer, number)).collect();
    let tickets: Vec<LogTicket> = plans.iter().map(RecordPlan::ticket).collect();
    let [zeroth, first, second, third] = plans.try_into().ok().expect("four of them");
    finish(&mut writer, first);
    assert!(writer.ssd.plan_log_sync().is_none(), "the record before is not written");
    finish(&mut writer, zeroth);
    let sync = writer.ssd.plan_log_sync().expect("two are written");
    // While it runs: it may have missed this one.
    finish(&mut writer, second);
    writer.ssd.finish_log_sync(sync);
    let fates: Vec<LogFate> = tickets.iter().map(|&ticket| writer.ssd.log_fate(ticket)).collect();
    assert_eq!(fates, [LogFate::Durable, LogFate::Durable, LogFate::UnderWay, LogFate::UnderWay]);
    let found = [0, 1, 2, 3].map(|number| writer.ssd.plan_log_read(writer.block(number)).is_some());
    assert_eq!(found, [true, true, false, false]);
    finish(&mut writer, third);
    let sync = writer.ssd.plan_log_sync().expect("two more are written");
    assert!(sync.covers(tickets[2]) && sync.covers(tickets[3]));
}

#[test]
fn nothing_of_an_epoch_is_planned_beside_the_one_before() {
    let mut writer = Writer::new();
    writer.epoch = 1;
    writer.write(3, 0..32);
    writer.end_epoch();
    writer.write(3, 0..32);
    writer.write(1, 0..32);
    writer.discard(7..9);
    writer.end_epoch();
    let mut next = |epoch, after: Option<&Tombstone>, from| match writer.ssd.plan_destage(
        writer.volume,
        epoch,
        after,
        from,
        4,
    ) {
        DestageRun::Discard(tombstone) => {
            (tombstone.epoch(), vec![tombstone.blocks().start], Some(tombstone))
        }
        DestageRun::Write(run) => {
            let blocks = run.iter().map(|read| read.block.number()).collect();
            let epoch = run.first().map_or(0, |read| read.epoch);
            run.iter().for_each(|read| writer.ssd.finish_destage(read));
            (epoch, blocks, None)
        }
    };
    let (epoch, blocks, _) = next(None, None, 0);
    assert_eq!((epoch, blocks), (1, vec![3]), "the older version of block 3, and nothing else");
    assert_eq!(next(Some(1), None, 0).1, Vec::<u64>::new(), "that is to be synced first");
    let (epoch, blocks, tombstone) = next(None, None, 0);
    assert_eq!((epoch, blocks), (2, vec![7]), "what was discarded comes first in its epoch");
    assert_eq!(next(Some(2), tombstone.as_ref(), 0).1, [1]);
    assert_eq!(next(Some(2), tombstone.as_ref(), 2).1, [3]);
}

#[test]
fn a_volume_with_dirty_blocks_keeps_its_number_over_a_crash_and_refuses_a_changed_store() {
    let mut writer = Writer::new();
    writer.demote(1);
    let seals = writer.ssd.plan_seal_open();
    seals.into_iter().for_each(|seal| writer.seal(seal));
    writer.write(0, 3..5);
    writer.log(0..1);
    writer.sync();
    let volume = writer.volume;
    let mut ssd = Ssd::open(&writer.device, geometry(), SsdPolicy::default()).expect("opens");
    assert!(ssd.plan_read(BlockId::new(volume, 1)).is_some());
    assert_eq!(ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches"), volume);
    assert!(ssd.plan_read(BlockId::new(volume, 1)).is_none(), "clean copies may be older than the store");
    assert_eq!(ssd.dirty_blocks_of(volume), 1);
    ssd.detach_volume(volume, Some(IDENTITY));
    assert!(checkpoint(&mut ssd, &writer.device, true));
    let mut ssd = Ssd::open(&writer.device, geometry(), SsdPolicy::default()).expect("opens");
    let changed = Identity { modified_ns: 7, ..IDENTITY };
    let refused = ssd.attach_volume("disk", Some(changed)).expect_err("the store was changed");
    assert!(matches!(refused, Error::VolumeChanged { dirty_blocks: 1, .. }), "{refused}");
    assert_eq!(ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches"), volume);
}

#[test]
fn a_synced_record_that_is_missing_is_damage_and_not_a_shorter_log() {
    let mut writer = Writer::new();
    for number in 0..3 {
        writer.write(number, 0..32);
        writer.log(number..number + 1);
        writer.sync();
    }
    writer.checkpoint();
    let is_damaged = |bytes: &[u8]| {
        let opened = Ssd::open(&MemoryDevice::holding(bytes.to_vec()), geometry(), SsdPolicy::default());
        matches!(opened, Err(Error::Damaged { .. }))
    };
    let bytes = writer.device.bytes();
    assert!(!is_damaged(&bytes));
    let headers: Vec<usize> =
        (0..bytes.len()).step_by(4096).filter(|&at| bytes[at..at + 8] == *b"TERRREC2").collect();
    assert_eq!(headers.len(), 3);
    for at in headers {
        let mut bad = bytes.clone();
        bad[at + 70] ^= 1;
        assert!(is_damaged(&bad), "the record at {at}");
    }
}

/// A segment that began after the first record that the power failure tore stayed in line, with the numbers of records that
/// were forgotten. What was logged next took these numbers, and the file was refused from then on.
#[test]
fn a_log_goes_on_after_a_tear_though_a_later_segment_was_begun() {
    let mut writer = Writer::new();
    writer.write(0, 0..32);
    writer.log(0..1);
    writer.sync();
    let headers = |bytes: &[u8]| -> Vec<usize> {
        (0..bytes.len()).step_by(4096).filter(|&at| bytes[at..at + 8] == *b"TERRREC2").collect()
    };
    let synced = headers(&writer.device.bytes());
    // Not synced, in the rest of this segment and the beginning of the next one.
    let mut number = 1;
    while writer.ssd.dirty.segments.len() < 2 {
        writer.write(number, 0..32);
        writer.log(number..number + 1);
        number += 1;
    }
    assert!(number > 2, "the first of them is in the segment of what was synced");
    let mut bytes = writer.device.bytes();
    let torn = headers(&bytes).into_iter().find(|&at| at > synced[0]).expect("a record was written");
    bytes[torn + 70] ^= 1;

    let mut device = MemoryDevice::holding(bytes);
    for life in 0..2 {
        let mut ssd = Ssd::open_early(&device, geometry(), SsdPolicy::default())
            .unwrap_or_else(|error| panic!("life {life}: {error}"));
        assert_eq!(ssd.dirty_blocks(), 1 + life, "what was synced, and nothing after the tear");
        // No checkpoint ends the scan, so no segment leaves the line.
        ssd.scan_all(&device);
        let block = BlockId::new(writer.volume, 10 + life);
        let copy =
            NewCopy { block, version: ssd.first_version(), mask: Box::new([u64::from(u32::MAX)]), epoch: 0 };
        let mut plan = ssd.plan_record(&[copy], 0).expect("there is room");
        plan.run(&device, &[&bytes_of(10 + life as usize, &[0; 32])]).expect("in range");
        ssd.finish_record(plan);
        let sync = ssd.plan_log_sync().expect("a record is written");
        ssd.finish_log_sync(sync);
        device = MemoryDevice::holding(device.bytes());
    }
}

#[test]
fn a_bad_dirty_copy_is_an_error_until_something_newer_is_durable() {
    let mut writer = Writer::new();
    writer.write(0, 0..32);
    writer.log(0..1);
    writer.sync();
    let block = writer.block(0);
    let read = writer.ssd.plan_log_read(block).expect("it is in the log");
    assert_eq!(writer.ssd.finish_log_read(&read, Some(read.version)), ReadVerdict::Corrupt);
    assert!(
        writer.ssd.plan_log_read(block).is_some_and(|read| read.is_dirty),
        "no older copy takes its place"
    );
    assert!(!writer.ssd.has_destage(writer.volume), "it cannot be destaged");
    assert_eq!(writer.ssd.bad_blocks_of(writer.volume), [block], "and the backing store lacks it");
    writer.ssd.retire_unneeded();
    writer.write(0, 0..32);
    writer.log(0..1);
    writer.sync();
    let DestageRun::Write(run) = writer.ssd.plan_destage(writer.volume, None, None, 0, 4) else {
        panic!("no discard")
    };
    assert_eq!(run[0].block, block);
}

#[test]
fn a_tombstone_voids_what_is_older_and_is_itself_void_once_it_is_below() {
    let mut writer = Writer::new();
    for number in 0..4 {
        writer.write(number, 0..32);
    }
    writer.log(0..4);
    writer.sync();
    writer.discard(1..BLOCKS);
    writer.write(2, 3..5);
    writer.log(2..3);
    writer.sync();
    let open = |writer: &Writer| {
        let copy = MemoryDevice::holding(writer.device.bytes());
        Ssd::open(&copy, geometry(), SsdPolicy::default()).expect("opens")
    };
    let mut ssd = open(&writer);
    let [zeroth, first, second] = [0, 1, 2].map(|number| writer.block(number));
    assert!(!ssd.is_buried(zeroth) && ssd.is_buried(first) && ssd.is_buried(second));
    assert!(
        ssd.plan_log_read(first).is_none() && ssd.plan_log_read(second).is_some_and(|read| read.is_on_zeros)
    );
    assert_eq!(ssd.dirty_blocks_of(writer.volume), 3, "two blocks and a range");
    assert!(ssd.attach_volume("disk", Some(IDENTITY)).is_ok_and(|volume| volume == writer.volume));
    (0..BLOCKS).for_each(|from| writer.destage(from));
    assert_eq!(writer.ssd.dirty_blocks(), 0);
    let ssd = open(&writer);
    assert!(!ssd.is_buried(first), "the next write below would be discarded");
}

#[test]
fn a_tombstone_of_a_huge_range_takes_one_entry_and_no_room_in_the_log() {
    let mut writer = Writer::new();
    writer.write(0, 0..32);
    writer.log(0..1);
    writer.sync();
    let before = writer.device.step_count();
    let version = writer.version();
    let all = BlockId::NUMBER_LIMIT;
    writer.ssd.put_tombstone(writer.block(0), all, version, 0).expect("there is room");
    writer.settle_journal();
    assert_eq!(writer.device.step_count() - before, 2, "a page of the journal and a sync");
    let far = BlockId::new(writer.volume, all - 1);
    assert!(writer.ssd.is_buried(far) && writer.ssd.plan_log_read(writer.block(0)).is_none());
    writer.checkpoint();
    let version = writer.version();
    assert!(writer.ssd.may_void_range(writer.block(5), 2));
    writer.ssd.void_range(writer.block(5), 2, version);
    writer.settle_journal();
    let ssd = Ssd::open(&writer.device, geometry(), SsdPolicy::default()).expect("opens");
    assert!(ssd.is_buried(writer.block(4)) && ssd.is_buried(writer.block(7)) && ssd.is_buried(far));
    assert!(!ssd.is_buried(writer.block(5)) && !ssd.is_buried(writer.block(6)));
}

/// It would hide what is written from now on.
#[test]
fn a_tombstone_of_an_opening_that_never_was_is_damage() {
    for later in [0, 1] {
        let mut writer = Writer::new();
        let opening = writer.ssd.first_version().opening();
        let version = Version::first_of_opening(opening + later).next();
        writer.ssd.put_tombstone(writer.block(0), 1, version, 0).expect("there is room");
        writer.settle_journal();
        let opened = Ssd::open(&writer.device, geometry(), SsdPolicy::default());
        assert_eq!(opened.is_ok(), later == 0, "{:?}", opened.err());
    }
}

#[test]
fn tombstones_are_as_many_as_a_checkpoint_has_room_for() {
    let mut writer = Writer::new();
    let mut taken = 0;
    loop {
        let version = writer.version();
        let first = BlockId::new(writer.volume, 10 * taken);
        if writer.ssd.put_tombstone(first, 9, version, 0).is_none() {
            break;
        }
        taken += 1;
        writer.settle_journal();
    }
    let mut cut = 0;
    while writer.ssd.may_void_range(BlockId::new(writer.volume, 10 * cut + 4), 1) {
        let version = writer.version();
        writer.ssd.void_range(BlockId::new(writer.volume, 10 * cut + 4), 1, version);
        writer.settle_journal();
        cut += 1;
        assert!(cut <= taken, "a cut leaves two of one");
        if cut == taken {
            break;
        }
    }
    assert!(taken > 100 && cut > 100, "{taken} and {cut}");
    writer.checkpoint();
    let ssd = Ssd::open(&writer.device, geometry(), SsdPolicy::default()).expect("opens");
    assert_eq!(ssd.dirty_blocks_of(writer.volume), taken + cut);
}

/// A checkpoint before all summaries are read has the tombstones, and the journal that put and cut them is applied over it:
/// each was there twice then, and with enough of them the file was refused.
#[test]
fn tombstones_are_the_same_when_the_journal_is_applied_over_a_checkpoint_that_has_them() {
    let mut random = fastrand::Rng::with_seed(1);
    let before = Writer::new();
    let mut writer = before.after_power_loss(before.device.step_count(), &mut random, "no dirty blocks yet");
    let at = |number: u64| BlockId::new(before.volume, 10 * number);
    let mut taken = 0;
    loop {
        let version = writer.version();
        if writer.ssd.put_tombstone(at(taken), 9, version, 0).is_none() {
            break;
        }
        taken += 1;
    }
    for number in 0..taken / 2 {
        let version = writer.version();
        writer.ssd.void_range(BlockId::from_u64(at(number).as_u64() + 4), 1, version);
    }
    writer.settle_journal();
    writer.checkpoint();
    let first: Vec<Tombstone> = writer.ssd.dirty.tombstones.iter().take(20).cloned().collect();
    first.iter().for_each(|tombstone| writer.ssd.finish_tombstone(tombstone));
    writer.settle_journal();
    writer.checkpoint();
    assert!(writer.ssd.is_scanning(), "the journal is as long as ever");

    let known = |ssd: &Ssd| -> Vec<(Range<u64>, Version)> {
        let all = ssd.dirty.tombstones.iter();
        all.map(|tombstone| (tombstone.ids.clone(), tombstone.version)).collect()
    };
    for life in 0..3 {
        let ssd = Ssd::open_early(&writer.device, geometry(), SsdPolicy::default())
            .unwrap_or_else(|error| panic!("life {life}: {error}"));
        assert!(known(&ssd) == known(&writer.ssd), "life {life}: {} are known", known(&ssd).len());
    }
    assert_eq!(known(&writer.ssd).len() as u64, taken + taken / 2 - first.len() as u64);
}

#[test]
fn the_segments_of_the_log_go_round() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut writer = Writer::new();
    let mut generations = BTreeSet::new();
    for _ in 0..400 {
        let number = random.usize(..BLOCKS);
        writer.write(number, 0..32);
        writer.log(0..BLOCKS);
        writer.sync();
        (0..BLOCKS).for_each(|from| writer.destage(from));
        assert_eq!(writer.ssd.dirty_blocks(), 0, "seed {seed}");
        generations.insert(writer.ssd.stats().segments_free);
    }
    assert!(generations.len() <= 3, "seed {seed}: segments come back as fast as they go: {generations:?}");
}

/// A record that is given up may be on the device all the same, and recovery would bring it over what is newer: the log said
/// of such a block that it has nothing of it, so no void of it was written down.
#[test]
fn what_was_given_up_comes_back_over_nothing_that_is_newer() {
    for is_forgotten in [false, true] {
        let mut writer = Writer::new();
        writer.write(0, 0..32);
        writer.log(0..1);
        writer.fail();
        writer.dirty[0] = 0;
        if is_forgotten {
            writer.forget(0..1);
        } else {
            writer.write_below(0);
        }
        let newest = writer.shows(0, &writer.ram[0]);
        let found_after_crash = || {
            let step = writer.device.step_count();
            let device = writer.device.after_power_loss(step, || true);
            let mut ssd = Ssd::open(&device, geometry(), SsdPolicy::default()).expect("opens");
            read_all(&mut ssd, &device, writer.volume, writer.below.at(step))
        };
        assert_eq!(found_after_crash()[0], newest, "forgotten: {is_forgotten}");
    }
}
