//! Closing and opening in order, and files that are not what was asked for.

use crate::block::{BlockId, BlockSize, Version};
use crate::device::{Device, Identity};
use crate::error::Error;

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{Driver, block_size, checkpoint, geometry};

#[test]
fn everything_written_before_a_clean_close_is_there_after_it() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    for number in 0..700 {
        assert!(matches!(driver.demote(number, version), Demote::Append(_)));
    }
    let volume = driver.volume;
    let mut driver = driver.reopen();
    assert_eq!(driver.volume, volume, "the volume is what it was");
    assert!(driver.ssd.first_version() > version);
    for number in 0..700 {
        assert!(driver.read(number, version), "block {number}");
    }
    assert_eq!(driver.ssd.stats().hits, 700);
}

#[test]
fn the_order_of_leaving_and_the_hits_survive_a_restart() {
    let policy = SsdPolicy { ghost_percent: 0, ..SsdPolicy::default() };
    let left = |restarts: bool| {
        let mut driver = Driver::create(200, policy.clone());
        let version = driver.ssd.first_version();
        let slots = u64::from(geometry(200).slots_per_segment);
        (0..slots * 10).for_each(|number| {
            driver.demote(number, version);
        });
        for number in (0..slots * 10).step_by(5) {
            assert!(driver.read(number, version) && driver.read(number, version));
        }
        if restarts {
            driver = driver.reopen();
        }
        let mut order = Vec::new();
        for number in 10_000..10_400 {
            driver.demote(number, version);
            driver.reclaim();
            order.push((0..slots * 10).filter(|&n| driver.ssd.contains(driver.block(n))).collect::<Vec<_>>());
        }
        order
    };
    let (through, restarted) = (left(false), left(true));
    assert_eq!(through, restarted);
    assert!(
        through.iter().any(|blocks| !blocks.is_empty() && blocks.iter().all(|n| n % 5 == 0)),
        "hits count"
    );
}

#[test]
fn a_volume_that_looks_different_or_was_not_closed_gets_a_new_number_and_is_cold() {
    let other = Identity { bytes: 9, ..super::driver::IDENTITY };
    for (left_as, found_as, is_warm) in [
        (Some(super::driver::IDENTITY), Some(super::driver::IDENTITY), true),
        (Some(super::driver::IDENTITY), Some(other), false),
        (Some(super::driver::IDENTITY), None, false),
        (None, None, false),
    ] {
        let mut driver = Driver::create(1000, SsdPolicy::default());
        driver.demote(1, driver.ssd.first_version());
        let volume = driver.volume;
        driver.ssd.detach_volume(volume, left_as);
        let plans = driver.ssd.plan_seal_open();
        plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
        let device = driver.device.expect("not simulated");
        assert!(checkpoint(&mut driver.ssd, &device, true));
        let mut ssd = Ssd::open(&device, geometry(1000), SsdPolicy::default()).expect("opens");
        let again = ssd.attach_volume("disk", found_as).expect("attaches");
        assert_eq!(again == volume, is_warm);
        assert_eq!(ssd.contains(BlockId::new(again, 1)), is_warm);
        assert!(checkpoint(&mut ssd, &device, true));
        let mut ssd = Ssd::open(&device, geometry(1000), SsdPolicy::default()).expect("opens");
        let third = ssd.attach_volume("disk", found_as).expect("attaches");
        assert!(third != volume && third != again, "it was attached when the file was closed");
        assert!(!ssd.contains(BlockId::new(third, 1)));
    }
}

#[test]
fn more_volumes_than_fit_forget_the_one_detached_longest_and_never_fail() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let long = "x".repeat(5000);
    let unrecorded = driver.ssd.attach_volume(&long, Some(super::driver::IDENTITY)).expect("attaches");
    for number in 0..200 {
        let name = format!("{number}{}", "y".repeat(1000));
        let volume = driver.ssd.attach_volume(&name, Some(super::driver::IDENTITY)).expect("attaches");
        assert!(volume > unrecorded);
        if number % 2 == 0 {
            driver.ssd.detach_volume(volume, Some(super::driver::IDENTITY));
        }
        driver.settle_journal();
    }
    let next = driver.ssd.attach_volume("another", None).expect("attaches");
    let mut driver = driver.reopen();
    assert!(driver.ssd.volumes().count() >= 16);
    assert!(driver.ssd.attach_volume("last", None).expect("attaches") > next, "numbers are not used again");
}

#[test]
fn reopening_and_appending_across_every_page_of_the_journal_loses_no_void() {
    let mut driver = Driver::create(4000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..4000).for_each(|number| {
        driver.demote(number, version);
    });
    let plans = driver.ssd.plan_seal_open();
    plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
    let volume = driver.volume;
    let mut device = driver.device.expect("not simulated");
    let pages = geometry(4000).journal_bytes / 4096;
    let mut next = 0;
    for records in 0..=pages + 2 {
        let ssd = Ssd::open(&device, geometry(4000), SsdPolicy::default()).expect("opens");
        let mut driver = Driver::of(ssd, device, volume);
        for _ in 0..records {
            driver.void(next, version.next(), VoidMark::Exact);
            next += 1;
        }
        device = driver.device.expect("not simulated");
        let ssd = Ssd::open(&device, geometry(4000), SsdPolicy::default()).expect("opens");
        for number in 0..4000 {
            let is_there = ssd.contains(BlockId::new(volume, number));
            assert_eq!(is_there, number >= next, "block {number} after {records} records");
        }
    }
}

#[test]
fn a_torn_journal_record_is_forgotten_and_the_ones_before_still_count() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..500).for_each(|number| {
        driver.demote(number, version);
    });
    let plans = driver.ssd.plan_seal_open();
    plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
    let volume = driver.volume;
    assert!(checkpoint(&mut driver.ssd, driver.device.as_ref().expect("not simulated"), false));
    (0..3).for_each(|number| driver.void(number, version.next(), VoidMark::Exact));
    let bytes = driver.device().bytes();
    let third = (geometry(1000).journal_offset..geometry(1000).journal_offset + geometry(1000).journal_bytes)
        .step_by(4096)
        .filter(|&at| bytes[at as usize..].starts_with(b"TERRJRN1"))
        .max_by_key(|&at| u64::from_le_bytes(bytes[at as usize + 24..][..8].try_into().expect("eight")))
        .expect("three were written");
    driver.device().change(third, |bytes| bytes[70] ^= 1);
    let ssd = Ssd::open(driver.device(), geometry(1000), SsdPolicy::default()).expect("opens");
    let is_there: Vec<bool> = (0..4).map(|number| ssd.contains(BlockId::new(volume, number))).collect();
    assert_eq!(is_there, [false, false, true, true]);
}

#[test]
fn a_hole_in_the_journal_is_damage() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..1000).for_each(|number| {
        driver.demote(number, version);
    });
    let bytes = driver.device().bytes();
    let half_bytes = geometry(1000).journal_bytes / 2;
    // Both halves in use: frames until the second half is begun, with no checkpoint in between.
    for number in 0..half_bytes / 4096 + 2 {
        driver.ssd.void(driver.block(number), version.next(), VoidMark::Exact);
        let JournalPlan::Write(write) = driver.ssd.plan_journal() else {
            panic!("there is something to write")
        };
        write.run(driver.device()).expect("writes");
        driver.ssd.finish_journal(&write, true);
    }
    assert_ne!(bytes, driver.device().bytes());
    assert!(driver.ssd.wants_checkpoint());
    driver.device().change(geometry(1000).journal_offset + 4096, |bytes| bytes[70] ^= 1);
    let opened = Ssd::open(driver.device(), geometry(1000), SsdPolicy::default());
    assert!(matches!(opened, Err(Error::Damaged { .. })));
}

#[test]
fn a_file_made_over_another_believes_nothing_of_it() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..900).for_each(|number| {
        driver.demote(number, version);
    });
    driver.void(3, version.next(), VoidMark::Exact);
    let device = driver.close();
    let ssd = Ssd::create(&device, geometry(1000), SsdPolicy::default()).expect("creates");
    let volume = Driver::over(ssd, None).volume;
    let ssd = Ssd::open(&device, geometry(1000), SsdPolicy::default()).expect("opens");
    assert_eq!(ssd.stats().cached_blocks, 0);
    assert!((0..900).all(|number| !ssd.contains(BlockId::new(volume, number))));
}

#[test]
fn one_bad_superblock_or_an_older_one_is_no_harm_and_two_bad_ones_are_damage() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..900).for_each(|number| {
        driver.demote(number, version);
    });
    let volume = driver.volume;
    let bytes = driver.close().bytes();
    for bad in [&[0][..], &[4096], &[0, 4096]] {
        let device = MemoryDevice::holding(bytes.clone());
        bad.iter().for_each(|&at| device.change(at, |bytes| bytes[100] ^= 1));
        match Ssd::open(&device, geometry(1000), SsdPolicy::default()) {
            Ok(ssd) => assert!(bad.len() == 1 && ssd.contains(BlockId::new(volume, 0))),
            Err(error) => assert!(bad.len() == 2 && matches!(error, Error::Damaged { .. }), "{error}"),
        }
    }
}

/// The power fails between the two superblocks, and in the recovery after that it tears the one that was written. The
/// other one was older, and the checkpoint it names is overwritten by then.
#[test]
fn a_superblock_torn_twice_in_a_row_never_leaves_a_file_without_one() {
    let whole = Driver::create(8, SsdPolicy::default()).close().bytes();
    for good in [0, 1] {
        for kept in 0..=7 {
            let device = MemoryDevice::holding(whole.clone());
            device.keep_steps();
            Ssd::open(&device, geometry(8), SsdPolicy::default()).expect("opens");
            // After the first sync, the checkpoint, its sync, one superblock and the sync of that: the other is of before.
            let device = device.after_power_loss(5, || false);
            if good == 0 {
                device.change(0, |bytes| {
                    let (first, rest) = bytes.split_at_mut(4096);
                    first.swap_with_slice(&mut rest[..4096]);
                });
            }
            device.keep_steps();
            Ssd::open(&device, geometry(8), SsdPolicy::default()).expect("opens");
            let mut sector = 0;
            let device = device.after_power_loss(kept, || {
                sector += 1;
                sector % 8 != 0
            });
            let opened = Ssd::open(&device, geometry(8), SsdPolicy::default());
            assert!(opened.is_ok(), "good {good}, step {kept}: {:?}", opened.err());
        }
    }
}

/// A process died after it wrote a superblock, and before that was synced. The next one believed what it read, wrote its
/// checkpoint over the older one, and then the power failed: the superblock that was left named what was overwritten.
#[test]
fn a_superblock_that_a_dead_process_did_not_sync_is_made_durable_before_the_older_checkpoint_is_written_over()
{
    let whole = Driver::create(8, SsdPolicy::default()).close().bytes();
    for done in 0..=6 {
        let device = MemoryDevice::holding(whole.clone());
        device.keep_steps();
        device.fail_after(done);
        let died = Ssd::open(&device, geometry(8), SsdPolicy::default());
        assert!(died.is_err() && device.step_count() == done, "it has more steps than {done}");
        device.fail_from_now_on(false);
        Ssd::open(&device, geometry(8), SsdPolicy::default()).expect("opens");
        for kept in done..=device.step_count() {
            // Of what was not synced the first page is lost, and what came later is not.
            let mut sector = 0;
            let device = device.after_power_loss(kept, || {
                sector += 1;
                sector > 8
            });
            let opened = Ssd::open(&device, geometry(8), SsdPolicy::default());
            assert!(opened.is_ok(), "died after {done}, power failure after {kept}: {:?}", opened.err());
        }
    }
}

/// The power fails while a file is made. Nothing is in it yet, so that it can be made again.
#[test]
fn a_making_that_the_power_cut_short_left_nothing_to_open_or_can_be_opened() {
    let made = MemoryDevice::new(geometry(8).file_bytes());
    made.keep_steps();
    drop(Ssd::create(&made, geometry(8), SsdPolicy::default()).expect("makes a file"));
    for kept in 0..=made.step_count() {
        for lost in 0..256u32 {
            // Of the sectors of what is not synced, a different half each time.
            let mut sector = 0;
            let device = made.after_power_loss(kept, || {
                sector += 1;
                lost >> (sector % 8) & 1 == 0
            });
            let is_unmade = Ssd::is_unmade(&device).expect("the device reads");
            let opens = Ssd::open(&device, geometry(8), SsdPolicy::default()).is_ok();
            assert!(
                is_unmade != opens,
                "step {kept}, lost {lost:b}: to be made: {is_unmade}, opens: {opens}"
            );
        }
    }
    for (at, what) in [(0, &b"TERRACE2"[..]), (0, b"another"), (700, b"another"), (4100, b"another")] {
        let device = MemoryDevice::new(geometry(8).file_bytes());
        device.change(at, |bytes| bytes[..what.len()].copy_from_slice(what));
        assert!(!Ssd::is_unmade(&device).expect("the device reads"), "{what:?} at {at}");
    }
}

#[test]
fn another_kind_of_file_another_format_and_other_blocks_are_told_apart() {
    let open = |device: &MemoryDevice, geometry| Ssd::open(device, geometry, SsdPolicy::default()).err();
    let blank = MemoryDevice::new(geometry(1000).file_bytes());
    assert!(matches!(open(&blank, geometry(1000)), Some(Error::NotACacheFile { .. })));
    assert!(matches!(open(&MemoryDevice::new(10), geometry(1000)), Some(Error::NotACacheFile { .. })));
    let bytes = Driver::create(1000, SsdPolicy::default()).close().bytes();
    let device = MemoryDevice::holding(bytes.clone());
    [7, 4096 + 7].into_iter().for_each(|at| device.change(at, |bytes| bytes[0] = b'2'));
    assert!(matches!(open(&device, geometry(1000)), Some(Error::Mismatch { field: "format", .. })));
    let device = MemoryDevice::holding(bytes.clone());
    let other = Geometry::for_blocks(BlockSize::DEFAULT, 1000).expect("fits");
    assert!(matches!(open(&device, other), Some(Error::Mismatch { field: "block bytes", .. })));
    let other = Geometry::for_blocks(block_size(), 1008).expect("fits");
    let opened = Ssd::open(&device, other, SsdPolicy::default()).expect("it opens with the size that it has");
    assert_eq!(opened.geometry(), geometry(1000));
    let short = MemoryDevice::holding(bytes[..bytes.len() - 4096].to_vec());
    assert!(matches!(open(&short, geometry(1000)), Some(Error::Damaged { .. })));
    assert!(Ssd::create(&short, geometry(1000), SsdPolicy::default()).is_err());
}

#[test]
#[expect(clippy::print_stderr, reason = "a panic deep inside cannot name the seed")]
fn random_bytes_anywhere_in_the_metadata_never_panic() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..100).for_each(|number| {
        driver.demote(number, version);
    });
    (0..20).for_each(|number| driver.void(number, version.next(), VoidMark::Exact));
    let bytes = driver.device().bytes();
    let geometry = geometry(100);
    let (segment, segments) = (geometry.segment_bytes, geometry.segments_offset);
    let mut opened = 0;
    for _ in 0..3000 {
        let device = MemoryDevice::holding(bytes.clone());
        for _ in 0..random.u32(1..4) {
            let at = match random.u32(..3) {
                0 => random.u64(..segments),
                1 => random.u64(..8) * 4096 + random.u64(..128),
                _ => segments + random.u64(1..8) * segment - 4096 + random.u64(..400),
            };
            let (len, value) = (random.usize(1..9), random.u64(..));
            device.change(at, |bytes| bytes[..len].copy_from_slice(&value.to_le_bytes()[..len]));
        }
        opened += u32::from(Ssd::open(&device, geometry, SsdPolicy::default()).is_ok());
    }
    assert!(opened > 0, "seed {seed}");
}

#[test]
#[expect(clippy::print_stderr, reason = "a panic deep inside cannot name the seed")]
fn random_items_behind_good_checksums_never_panic() {
    use super::super::format::{CHECKPOINT_MAGIC, FrameHeader, JOURNAL_MAGIC};
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..100).for_each(|number| {
        driver.demote(number, version);
    });
    driver.void(0, version.next(), VoidMark::Exact);
    let bytes = driver.device().bytes();
    let geometry = geometry(100);
    let is_frame = |at: &u64| {
        let magic = &bytes[*at as usize..][..8];
        magic == CHECKPOINT_MAGIC || magic == JOURNAL_MAGIC
    };
    let frames: Vec<u64> = (0..geometry.segments_offset).step_by(4096).filter(is_frame).collect();
    for _ in 0..3000 {
        let device = MemoryDevice::holding(bytes.clone());
        let at = frames[random.usize(..frames.len())];
        let magic = bytes[at as usize..][..8].try_into().expect("eight");
        let header =
            FrameHeader::from_bytes(&bytes[at as usize..], magic, driver.ssd.file_id).expect("a frame");
        let mut items = bytes[at as usize + 64..][..header.item_bytes as usize].to_vec();
        for _ in 0..random.u32(1..4) {
            let at = random.usize(..items.len());
            items[at] = random.u8(..);
        }
        let frame = header.frame(&items);
        device.change(at, |bytes| bytes[..frame.len()].copy_from_slice(&frame));
        if let Ok(mut ssd) = Ssd::open(&device, geometry, SsdPolicy::default()) {
            ssd.attach_volume("disk", None).expect("attaches");
            ssd.plan_demote(driver.block(70), Version::ZERO, true, 0);
        }
        assert!(device.len_bytes() > 0);
    }
}

#[test]
fn a_prepared_segment_is_handed_to_nobody_meanwhile_and_is_not_prepared_twice() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let slots = u64::from(geometry(1000).slots_per_segment);
    let (mut prepared, mut busy) = (0, Vec::new());
    while let Some((segment, offset, bytes)) = driver.ssd.plan_prepare() {
        assert_eq!((offset, bytes), (geometry(1000).segment_offset(segment), geometry(1000).segment_bytes));
        assert!(!busy.contains(&segment));
        if prepared < 50 {
            driver.ssd.finish_prepare(segment);
            prepared += 1;
        } else {
            busy.push(segment);
        }
    }
    for number in 0..slots * prepared {
        if let Demote::Append(plan) = driver.demote(number, Version::ZERO) {
            assert!(!busy.contains(&plan.segment), "segment {} is being prepared", plan.segment);
        }
    }
    let used = u64::from(geometry(1000).segment_count) - driver.ssd.stats().segments_free - busy.len() as u64;
    assert_eq!(used, prepared - 1, "one is reserved for reinsertion");
    let mut driver = driver.reopen();
    let again = std::iter::from_fn(|| driver.ssd.plan_prepare()).count();
    assert!(again <= busy.len(), "those written before the restart are known");
}
