//! Files at rest: what they hold, which copy wins and why, and what every kind of damage is called.

use crate::block::{BlockId, PAGE_BYTES, Version, VolumeId};
use crate::device::Device;
use crate::error::Error;

use super::super::format::Summary;
use super::super::record::RECORD_MAGIC;
use super::super::*;
use super::device::MemoryDevice;
use super::driver::{Driver, IDENTITY, checkpoint, data_of};

const BLOCKS: u64 = 200;

fn version_of(driver: &Driver, number: u64) -> Version {
    Version::from_u64(driver.ssd.first_version().as_u64() + number)
}

/// Puts blocks into the log, whole, in one record.
fn log(driver: &mut Driver, numbers: &[u64], step: u64, now_us: u64) -> u64 {
    log_in(driver, numbers, step, now_us, 0)
}

/// The same in an epoch of the volume.
fn log_in(driver: &mut Driver, numbers: &[u64], step: u64, now_us: u64, epoch: u64) -> u64 {
    let version = version_of(driver, step);
    driver.settle_journal();
    let copies: Vec<NewCopy> = numbers
        .iter()
        .map(|&number| NewCopy { block: driver.block(number), version, mask: Box::new([0xff]), epoch })
        .collect();
    let data: Vec<Vec<u8>> = copies.iter().map(|copy| data_of(copy.block, version)).collect();
    let data: Vec<&[u8]> = data.iter().map(|bytes| &bytes[..]).collect();
    let mut plan = driver.ssd.plan_record(&copies, now_us).expect("there is room");
    let offset = plan.offset;
    plan.run(driver.device(), &data).expect("in range");
    driver.ssd.finish_record(plan);
    offset
}

fn sync_log(driver: &mut Driver) {
    let sync = driver.ssd.plan_log_sync().expect("something is written");
    driver.device().sync().expect("works");
    driver.ssd.finish_log_sync(sync);
}

fn destage(driver: &mut Driver, number: u64) {
    let read = driver.ssd.plan_log_read(driver.block(number)).expect("the log has it");
    driver.ssd.finish_destage(&read);
}

/// Everything that was found, as a watcher.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    at: u64,
}

impl Watcher for Found {
    fn at(&mut self, bytes: u64) {
        assert!(bytes >= self.at, "progress goes on");
        self.at = bytes;
    }

    fn found(&mut self, finding: Finding) {
        self.findings.push(finding);
    }
}

fn verified(device: &dyn Device) -> (Vec<Row>, Vec<Finding>) {
    let mut found = Found::default();
    let rows = verify(device, &mut found).expect("it can be read");
    let counted: u64 = rows.iter().map(|row| row.damaged + row.unfinished).sum();
    assert_eq!(counted, found.findings.len() as u64);
    (rows.to_vec(), found.findings)
}

fn damages(device: &dyn Device) -> Vec<Structure> {
    let findings = verified(device).1;
    findings.iter().filter(|found| found.severity == Severity::Damage).map(|found| found.structure).collect()
}

fn opens(device: &MemoryDevice) -> bool {
    let geometry = FileAtRest::open(device).map(|file| file.geometry());
    geometry.is_ok_and(|geometry| Ssd::open(device, geometry, SsdPolicy::default()).is_ok())
}

/// A file in use: clean blocks in sealed and open segments, voids, marks, blocks in the log, synced.
fn busy() -> Driver {
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let slots = u64::from(driver.ssd.geometry().slots_per_segment);
    (0..slots * 3 + 2).for_each(|number| {
        driver.demote(number, version_of(&driver, 1));
    });
    driver.void(1, version_of(&driver, 2), VoidMark::Exact);
    log(&mut driver, &[2, 3, 100], 3, 5_000_000);
    sync_log(&mut driver);
    log(&mut driver, &[3], 4, 7_000_000);
    sync_log(&mut driver);
    driver
}

/// The file as its owner leaves it when it dies, nothing lost.
fn killed(driver: Driver) -> MemoryDevice {
    driver.device.expect("not simulated")
}

#[test]
fn a_torn_frame_of_the_journal_with_a_whole_one_behind_it_is_damage_and_the_last_is_not() {
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let slots = u64::from(driver.ssd.geometry().slots_per_segment);
    (0..slots * 2).for_each(|number| {
        driver.demote(number, version_of(&driver, 1));
    });
    (0..3).for_each(|number| driver.void(number, version_of(&driver, 2), VoidMark::Exact));
    let journal = driver.ssd.geometry().journal_offset;
    let bytes = killed(driver).bytes();
    let frames = bytes[journal as usize..].chunks_exact(PAGE_BYTES);
    let frames = frames.take_while(|page| page.starts_with(b"TERRJRN1")).count();
    assert!(frames >= 3, "each void has a frame");
    for frame in 0..frames {
        let device = MemoryDevice::holding(bytes.clone());
        device.change(journal + (frame * PAGE_BYTES) as u64 + 66, |bytes| bytes[0] ^= 1);
        let is_last = frame + 1 == frames;
        assert_eq!(opens(&device), is_last, "frame {frame} of {frames}");
        assert_eq!(damages(&device).is_empty(), is_last, "frame {frame} of {frames}");
    }
}

#[test]
fn a_torn_record_is_damage_when_one_behind_it_says_that_it_was_synced() {
    for syncs_between in [true, false] {
        let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
        log(&mut driver, &[1], 1, 0);
        sync_log(&mut driver);
        let torn = log(&mut driver, &[2], 1, 0);
        if syncs_between {
            sync_log(&mut driver);
        }
        log(&mut driver, &[3], 1, 0);
        let device = killed(driver);
        device.change(torn + 70, |bytes| bytes[0] ^= 1);
        assert_eq!(!opens(&device), syncs_between, "a record that nobody was promised may be torn");
        assert_eq!(damages(&device), if syncs_between { vec![Structure::Record] } else { vec![] });
    }
}

#[test]
fn what_a_file_holds_is_counted_by_volume_and_the_oldest_dirty_block_has_its_time() {
    let driver = busy();
    let slots = u64::from(driver.ssd.geometry().slots_per_segment);
    let volume = driver.volume;
    let device = killed(driver);
    let file = FileAtRest::open(&device).expect("it opens");
    assert_eq!((file.volume("disk"), file.volume("another")), (Some(volume), None));
    let info = file.info().expect("it can be read");
    assert!(!info.is_closed_in_order && info.journal_entries > 0);
    let [disk] = &info.volumes[..] else { panic!("one volume: {info:?}") };
    assert_eq!((disk.name.as_str(), disk.warmth), ("disk", Warmth::ColdNotDetached));
    // Three segments are sealed; one block is void, two are in the log.
    assert_eq!((disk.clean_blocks, disk.dirty_blocks), (slots * 3 - 3, 3));
    assert_eq!((disk.dirty_bytes, disk.oldest_dirty_s), (3 * 4096, Some(5)));
    assert_eq!(disk.last_dirty_offset, Some(100 * 4096));
    let segments = info.segments;
    assert_eq!((segments.clean, segments.dirty, segments.reinserted), (3, 1, 0));
    assert_eq!(segments.clean + segments.dirty + segments.free, info.geometry.segment_count);
}

#[test]
fn a_file_closed_in_order_says_so_and_its_volume_is_warm_with_its_identity() {
    let mut driver = busy();
    for number in [2, 3, 100] {
        destage(&mut driver, number);
    }
    driver.ssd.retire_unneeded();
    let device = driver.close();
    let info = FileAtRest::open(&device).and_then(|file| file.info()).expect("it opens");
    assert!(info.is_closed_in_order);
    let disk = &info.volumes[0];
    assert_eq!((disk.warmth, disk.identity), (Warmth::Warm, Some(IDENTITY)));
    assert_eq!((disk.dirty_blocks, disk.oldest_dirty_s), (0, None));
    assert_eq!((info.segments.dirty, info.segments.forgotten), (0, 0));
    assert!(verified(&device).1.is_empty());
}

#[test]
fn a_discarded_range_alone_makes_a_file_dirty_until_the_backing_store_was_told() {
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let (first, version) = (driver.block(20), version_of(&driver, 1));
    driver.ssd.put_tombstone(first, 4, version, 0).expect("there is room");
    driver.settle_journal();
    let look = |driver: &Driver| {
        let device = MemoryDevice::holding(driver.device().bytes());
        let file = FileAtRest::open(&device).expect("it opens");
        assert!(verified(&device).1.is_empty());
        let is_buried = file.explain(BlockId::new(first.volume(), 23)).expect("it reads").is_buried;
        (file.info().expect("it reads").volumes.remove(0), is_buried)
    };
    let (disk, is_buried) = look(&driver);
    assert!(disk.is_dirty() && is_buried);
    assert_eq!((disk.dirty_blocks, disk.discarded_ranges), (0, 1));
    assert_eq!(disk.last_dirty_offset, Some(23 * 4096));
    let DestageRun::Discard(tombstone) = driver.ssd.plan_destage(driver.volume, None, None, 0, 9) else {
        panic!("there is something to discard")
    };
    driver.ssd.finish_tombstone(&tombstone);
    driver.settle_journal();
    let (disk, is_buried) = look(&driver);
    assert!(!disk.is_dirty() && !is_buried, "{disk:?}");
}

#[test]
fn copies_of_earlier_epochs_are_dirty_until_they_are_below_and_tombstones_hide_what_is_older() {
    use Verdict::{EarlierEpoch, LeftOut, Wins, WinsDestaged};
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let slots = u64::from(driver.ssd.geometry().slots_per_segment);
    (10..10 + slots).for_each(|number| {
        driver.demote(number, version_of(&driver, 1));
    });
    log_in(&mut driver, &[1, 2, 3], 2, 5_000_000, 1);
    sync_log(&mut driver);
    log_in(&mut driver, &[1], 3, 7_000_000, 2);
    sync_log(&mut driver);
    let look = |driver: &Driver| {
        let device = MemoryDevice::holding(driver.device().bytes());
        assert!(damages(&device).is_empty());
        let file = FileAtRest::open(&device).expect("it opens");
        let disk = file.info().expect("it reads").volumes.remove(0);
        let counts = (disk.dirty_blocks, disk.dirty_bytes, disk.discarded_ranges, disk.oldest_dirty_s);
        (counts, [1, 2, 3, 11].map(|number| verdicts(&device, number)))
    };
    let (counts, verdicts) = look(&driver);
    assert_eq!(counts, (3, 3 * 4096, 0, Some(5)), "a block is counted once");
    assert_eq!(verdicts, [vec![Wins, EarlierEpoch(1)], vec![Wins], vec![Wins], vec![Wins]]);

    let volume = driver.volume;
    for (first, count, number) in [(1, 2, 4), (10, 3, 5)] {
        let (first, version) = (driver.block(first), version_of(&driver, number));
        driver.ssd.put_tombstone(first, count, version, 2).expect("there is room");
    }
    driver.settle_journal();
    let (counts, verdicts) = look(&driver);
    assert_eq!(counts, (3, 3 * 4096, 2, Some(5)), "what is of epoch 1 goes below before the discard");
    let [one, two, three, clean] = &verdicts;
    assert!(matches!(one[..], [LeftOut(Doubt::Tombstone, Some(_)), EarlierEpoch(1)]), "{one:?}");
    assert!(matches!(two[..], [EarlierEpoch(1)]), "{two:?}");
    assert!(matches!(three[..], [Wins]), "{three:?}");
    assert!(matches!(clean[..], [LeftOut(Doubt::Tombstone, Some(_))]), "{clean:?}");

    let DestageRun::Write(run) = driver.ssd.plan_destage(volume, None, None, 0, 9) else {
        panic!("epoch 1 is first")
    };
    assert_eq!(run.len(), 3);
    run.iter().for_each(|read| driver.ssd.finish_destage(read));
    let next = driver.ssd.plan_destage(volume, None, None, 0, 9);
    assert!(matches!(next, DestageRun::Discard(_)), "{next:?}");
    driver.settle_journal();
    let (counts, verdicts) = look(&driver);
    assert_eq!(counts, (0, 0, 2, None));
    assert!(matches!(verdicts[1][..], [LeftOut(Doubt::Tombstone, Some(_))]), "{verdicts:?}");
    assert_eq!(verdicts[2], [WinsDestaged]);
}

#[test]
fn looking_at_a_file_writes_nothing() {
    let device = killed(busy());
    let before = device.bytes();
    let file = FileAtRest::open(&device).expect("it opens");
    file.info().expect("it can be read");
    file.explain(BlockId::new(VolumeId::new(0), 3)).expect("it can be read");
    verified(&device);
    assert!(device.bytes() == before);
}

/// The verdicts on the copies of block `number`, the winner first.
fn verdicts(device: &MemoryDevice, number: u64) -> Vec<Verdict> {
    let file = FileAtRest::open(device).expect("it opens");
    let volume = file.volume("disk").unwrap_or(VolumeId::new(0));
    let explained = file.explain(BlockId::new(volume, number)).expect("it can be read");
    explained.copies.iter().for_each(|copy| assert!(copy.is_whole, "{copy:?}"));
    explained.copies.iter().map(|copy| copy.verdict).collect()
}

#[test]
fn every_copy_of_a_block_is_found_and_told_why_it_wins_or_loses() {
    use Verdict::{LeftOut, NotExpected, Older, PastTheEnd, Retired, Wins};
    let mut driver = busy();
    let version = version_of(&driver, 5);
    driver.void(4, version, VoidMark::Region);
    let first = driver.block(5);
    driver.ssd.void_range(first, 2, version);
    driver.settle_journal();
    let torn = log(&mut driver, &[150], 5, 0) + PAGE_BYTES as u64;
    let device = killed(driver);
    device.change(torn, |bytes| bytes[0] ^= 1);
    let file = FileAtRest::open(&device).expect("it opens");
    let explained = file.explain(first).expect("it can be read");
    let [copy] = &explained.copies[..] else { panic!("one copy: {explained:?}") };
    // A mark is told before a void; both are there.
    assert!(matches!(copy.verdict, LeftOut(Doubt::RegionMarked, Some(_))), "{copy:?}");
    assert!(matches!(verdicts(&device, 3)[..], [Wins, Older, LeftOut(Doubt::RegionMarked, _)]));
    let explained = file.explain(BlockId::new(first.volume(), 150)).expect("it can be read");
    assert!(matches!(explained.copies[0].verdict, PastTheEnd(_)) && !explained.copies[0].is_whole);

    let mut driver = busy();
    let (block, volume) = (driver.block(1), driver.volume);
    let plan = driver.ssd.plan_read(driver.block(7)).expect("it is there");
    driver.ssd.finish_read(&plan, false);
    driver.settle_journal();
    let device = killed(driver);
    assert!(matches!(verdicts(&device, 0)[..], [Wins]));
    assert!(matches!(verdicts(&device, 1)[..], [LeftOut(Doubt::Overwritten, Some(_))]), "{block}");
    assert!(matches!(verdicts(&device, 7)[..], [LeftOut(Doubt::SlotVoid, Some(_))]));
    assert!(verdicts(&device, 190).is_empty());
    let mut ssd =
        Ssd::open(&device, FileAtRest::open(&device).expect("opens").geometry(), SsdPolicy::default())
            .expect("it opens");
    assert_eq!(ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches"), volume, "it has dirty blocks");
    let JournalPlan::Write(write) = ssd.plan_journal() else { panic!("it is noted that it is cold") };
    write.run(&device).expect("in range");
    assert!(matches!(verdicts(&device, 0)[..], [LeftOut(Doubt::VolumeCold, Some(_))]));
    assert!(matches!(verdicts(&device, 1)[..], [LeftOut(Doubt::DeadAtCheckpoint, None)]));

    let mut driver = busy();
    for number in [2, 3, 100] {
        destage(&mut driver, number);
    }
    driver.ssd.retire_unneeded();
    driver.settle_journal();
    let copies = verdicts(&MemoryDevice::holding(driver.device().bytes()), 100);
    assert!(matches!(copies[..], [Retired(_)]), "{copies:?}");
    let copies = verdicts(&driver.close(), 100);
    assert!(matches!(copies[..], [NotExpected]), "{copies:?}");
}

/// No opening leaves two clean copies that are believed. Here a summary is made that names a block of another segment.
#[test]
fn of_two_clean_copies_that_are_as_good_neither_wins_and_neither_is_read() {
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let geometry = driver.ssd.geometry();
    let slots = geometry.slots_per_segment;
    (0..u64::from(slots) * 2).for_each(|number| {
        driver.demote(number, version_of(&driver, 1));
    });
    let (first, file_id) = (driver.block(0), driver.ssd.file_id());
    let device = killed(driver);
    assert_eq!(verdicts(&device, 0), [Verdict::Wins]);
    let mut pages = Pages::new(geometry.summary_bytes() as usize);
    let second = (0..geometry.segment_count).find_map(|segment| {
        device.read(geometry.summary_offset(segment), &mut [IoSliceMut::new(&mut pages)]).expect("in range");
        let summary = Summary::from_bytes(&pages, file_id, segment, slots)?;
        (!summary.entries.iter().any(|entry| entry.block == first)).then_some(summary)
    });
    let mut second = second.expect("there are two");
    let Summary { segment, generation, ref mut entries, .. } = second;
    let rival = &mut entries[0];
    rival.block = first;
    let (slot, version) = (rival.slot, rival.version);
    let offset = geometry.slot_offset(segment, slot);
    let plan = SlotPlan { block: first, version, segment, generation, slot, offset, file_id };
    rival.crc = append(&device, &[plan], &[&data_of(first, version)]).expect("in range")[0];
    let pages = second.to_pages();
    device.write(geometry.summary_offset(second.segment), &[IoSlice::new(&pages)]).expect("in range");
    assert_eq!(verdicts(&device, 0), [Verdict::Rivals, Verdict::Rivals]);
    assert_eq!(verdicts(&device, 1), [Verdict::Wins], "its neighbours are as they were");
    let mut reopened = Ssd::open(&device, geometry, SsdPolicy::default()).expect("opens");
    assert!(reopened.plan_read(first).is_none());
    assert!(reopened.plan_read(BlockId::new(first.volume(), 1)).is_some());
}

#[test]
fn the_winner_is_the_copy_that_the_next_opening_reads() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    for step in 1..600 {
        let (number, version) = (random.u64(..120), version_of(&driver, step));
        match random.u8(..10) {
            0 => driver.void(number, version, VoidMark::Exact),
            1 => {
                log(&mut driver, &[number], step, step);
                sync_log(&mut driver);
                // Segments of the log go in their order, so the oldest must not stay.
                let stays = random.u64(..120);
                for number in (0..120).filter(|&number| number != stays) {
                    if let Some(read) = driver.ssd.plan_log_read(driver.block(number)) {
                        driver.ssd.finish_destage(&read);
                    }
                }
                driver.ssd.retire_unneeded();
            }
            _ => {
                driver.demote(number, version);
            }
        }
        driver.reclaim();
    }
    let (volume, device) = (driver.volume, killed(driver));
    let file = FileAtRest::open(&device).expect("it opens");
    let explained: Vec<Explanation> =
        (0..120).map(|number| file.explain(BlockId::new(volume, number)).expect("it reads")).collect();
    let left = MemoryDevice::holding(device.bytes());
    let mut ssd = Ssd::open(&left, file.geometry(), SsdPolicy::default()).expect("it opens");
    let mut found = 0;
    for explanation in explained {
        let winner = explanation.copies.first().filter(|copy| copy.verdict.wins());
        let place = match ssd.plan_log_read(explanation.block) {
            Some(read) => Some((true, read.version.as_u64())),
            None => ssd.plan_read(explanation.block).map(|plan| (false, u64::from(plan.slot))),
        };
        let explained = winner.map(|copy| match copy.place {
            CopyPlace::Record { .. } => (true, copy.version.as_u64()),
            CopyPlace::Slot { slot, .. } => (false, u64::from(slot)),
        });
        assert_eq!(explained, place, "seed {seed}, block {}", explanation.block);
        let winners = explanation.copies.iter().filter(|copy| copy.verdict.wins()).count();
        assert!(winners <= 1, "seed {seed}");
        found += winners;
    }
    assert!(found > 20, "seed {seed}: {found} copies are not enough to tell");
}

#[test]
fn each_kind_of_damage_is_named_and_what_recovery_does_about_it_is_true() {
    let driver = busy();
    let geometry = driver.ssd.geometry();
    let plan = {
        let mut driver = busy();
        driver.ssd.plan_read(driver.block(0)).expect("it is there")
    };
    let bytes = driver.close().bytes();
    assert!(verified(&MemoryDevice::holding(bytes.clone())).1.is_empty());
    let pages = bytes.chunks_exact(PAGE_BYTES).enumerate();
    let records: Vec<u64> = pages
        .filter(|(_, page)| page.starts_with(&RECORD_MAGIC))
        .map(|(number, _)| (number * PAGE_BYTES) as u64)
        .collect();
    assert_eq!(records.len(), 2);
    let superblock = format::Superblock::from_page(&bytes[..PAGE_BYTES]).expect("it is whole");
    let area = geometry.checkpoint_area_offset(superblock.checkpoint_area);
    let cases = [
        (100, Structure::Superblock, true, "takes the other copy"),
        (PAGE_BYTES as u64 + 100, Structure::Superblock, true, "takes the other copy"),
        (area + 70, Structure::Checkpoint, false, "refused"),
        (geometry.summary_offset(plan.segment) + 70, Structure::Summary, true, "forgets the copies"),
        (plan.offset + 700, Structure::CleanBlock, true, "dropped when it is read"),
        (records[0] + 70, Structure::Record, false, "refused"),
        // Of the first record blocks 2 and 100 are the newest, 3 is not.
        (records[0] + PAGE_BYTES as u64, Structure::DirtyBlock, true, "nothing else has it"),
        (records[0] + 2 * PAGE_BYTES as u64, Structure::DirtyBlock, true, "out of use"),
    ];
    for (offset, structure, stays_open, consequence) in cases {
        let device = MemoryDevice::holding(bytes.clone());
        device.change(offset, |bytes| bytes[0] ^= 4);
        let findings = verified(&device).1;
        let [finding] = &findings[..] else { panic!("one damage at {offset}: {findings:?}") };
        assert_eq!((finding.severity, finding.structure), (Severity::Damage, structure), "{finding:?}");
        assert!(finding.consequence.contains(consequence), "{finding:?}");
        assert_eq!(opens(&device), stays_open, "{finding:?}");
    }
}

#[test]
fn a_crash_leaves_unfinished_structures_and_no_damage() {
    let mut driver = busy();
    log(&mut driver, &[50], 9, 0);
    let torn = log(&mut driver, &[51], 9, 0) + PAGE_BYTES as u64;
    let device = killed(driver);
    device.change(torn, |bytes| bytes[0] ^= 1);
    let (rows, findings) = verified(&device);
    assert!(findings.iter().all(|found| found.severity == Severity::Unfinished), "{findings:?}");
    assert!(findings.iter().any(|found| found.structure == Structure::Record), "{findings:?}");
    assert!(rows.iter().all(|row| row.checked > 0), "{rows:?}");
}

#[test]
fn what_is_no_cache_file_cannot_be_verified() {
    let device = MemoryDevice::new(1 << 20);
    let error = verify(&device, &mut Found::default()).expect_err("zeros are no cache file");
    assert!(matches!(error, Error::NotACacheFile { .. }));
}

#[test]
fn a_checkpoint_in_the_middle_of_its_life_keeps_a_file_whole() {
    let mut driver = busy();
    let device = driver.device.take().expect("not simulated");
    assert!(checkpoint(&mut driver.ssd, &device, false));
    let (_, findings) = verified(&device);
    assert!(findings.iter().all(|found| found.severity == Severity::Unfinished), "{findings:?}");
}
