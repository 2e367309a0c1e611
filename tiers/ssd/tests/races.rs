//! What happens between plan and finish, and the two twins.

use crate::block::{BlockId, Version};

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{Driver, data_of, geometry};

fn planned(demote: Demote) -> SlotPlan {
    let Demote::Append(plan) = demote else { panic!("{demote:?}") };
    plan
}

/// Until the first segment is full and sealed, with these blocks in it.
fn fill_one_segment(driver: &mut Driver, version: Version) -> u64 {
    let slots = u64::from(driver.ssd.geometry().slots_per_segment);
    (0..slots).for_each(|number| {
        planned(driver.demote(number, version));
    });
    slots
}

fn fill_until_reclaim(driver: &mut Driver, version: Version) -> ReclaimPlan {
    for number in 0.. {
        driver.demote(number, version);
        if let Some(plan) = driver.ssd.plan_reclaim() {
            return plan;
        }
    }
    unreachable!("the cache is full at some time")
}

#[test]
fn a_block_voided_while_its_append_is_in_flight_does_not_come_back() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    let block = driver.block(5);
    let plan = planned(driver.ssd.plan_demote(block, version, true, 0));
    assert!(driver.ssd.contains(block) && driver.ssd.plan_read(block).is_none(), "on its way");
    driver.ssd.void(block, version.next(), VoidMark::Exact);
    let crcs = append(driver.device(), &[plan], &[&data_of(block, version)]).expect("appends");
    driver.ssd.finish_append(&[plan], Some(&crcs));
    assert!(!driver.ssd.contains(block));
    let volume = driver.volume;
    let device = driver.close();
    let ssd = Ssd::open(&device, geometry(1000), SsdPolicy::default()).expect("opens");
    assert!(!ssd.contains(BlockId::new(volume, 5)), "nor after a restart");
}

#[test]
fn a_block_demoted_again_after_a_void_keeps_its_second_place_when_the_first_append_finishes() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let (old, new) = (driver.ssd.first_version(), driver.ssd.first_version().next());
    let block = driver.block(5);
    let first = planned(driver.ssd.plan_demote(block, old, true, 0));
    driver.ssd.void(block, new, VoidMark::Exact);
    let second = planned(driver.ssd.plan_demote(block, new, true, 0));
    let both = [data_of(block, old), data_of(block, new)];
    let crcs = append(driver.device(), &[first, second], &[&both[0], &both[1]]).expect("neighbours");
    driver.ssd.finish_append(&[second], Some(&crcs[1..]));
    driver.ssd.finish_append(&[first], Some(&crcs[..1]));
    assert!(driver.read(5, new));
}

#[test]
fn a_failed_append_leaves_nothing_behind() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    driver.device().fail_from_now_on(true);
    let version = driver.ssd.first_version();
    driver.demote(5, version);
    assert!(!driver.ssd.contains(driver.block(5)));
    driver.device().fail_from_now_on(false);
    driver.demote(5, version);
    assert!(driver.read(5, version));
    assert!(driver.reopen().read(5, version));
}

/// The segment was chosen to be emptied, and its retirement not yet in the journal: a void that relied on it queued
/// nothing, and the write below went ahead of both.
#[test]
fn a_block_voided_between_the_choice_of_its_segment_and_the_retirement_does_not_come_back() {
    for mark in [VoidMark::Exact, VoidMark::Region] {
        let mut driver = Driver::create(1000, SsdPolicy::default());
        let version = driver.ssd.first_version();
        fill_until_reclaim(&mut driver, version);
        assert!(driver.settle_journal());
        assert!(driver.ssd.void(driver.block(0), version.next(), mark), "the write below has to wait");
        assert!(driver.settle_journal());
        let after_power_loss = MemoryDevice::holding(driver.device().bytes());
        let ssd = Ssd::open(&after_power_loss, geometry(1000), SsdPolicy::default()).expect("opens");
        assert!(!ssd.contains(driver.block(0)), "{mark:?}");
    }
}

#[test]
fn a_block_voided_while_it_is_moved_does_not_come_back() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    fill_one_segment(&mut driver, version);
    assert!((0..3).all(|number| driver.read(number, version) && driver.read(number, version)));
    let reclaim = fill_until_reclaim(&mut driver, version);
    let entries = reclaim.run(driver.device()).expect("reads");
    let moves = driver.ssd.plan_moves(&reclaim, Some(&entries));
    assert_eq!(moves.iter().map(|moved| moved.from.block.number()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(driver.ssd.journal_pending().is_some(), "the others left the index before the journal says so");
    assert!(driver.read(0, version), "old places serve until the move is done");
    assert!(driver.ssd.void(driver.block(1), version.next(), VoidMark::Exact));
    for moved in &moves {
        let data = data_of(moved.from.block, version);
        let crcs = append(driver.device(), &[moved.to], &[&data]).expect("appends");
        driver.ssd.finish_moves(&[*moved], Some(&crcs));
    }
    driver.ssd.finish_reclaim(&reclaim);
    driver.settle_journal();
    let mut driver = driver.reopen();
    assert!(driver.read(0, version) && driver.read(2, version));
    assert!(!driver.read(1, version) && !driver.read(3, version));
}

#[test]
fn a_read_overtaken_by_the_reuse_of_its_segment_is_told_to_ask_again() {
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    fill_one_segment(&mut driver, version);
    let plan = driver.ssd.plan_read(driver.block(0)).expect("it was written");
    for number in 100..1000 {
        driver.demote(number, version);
        driver.reclaim();
    }
    let data = super::driver::read_block(driver.device(), &plan);
    assert!(!plan.verify(&data), "what is there now is something else");
    assert_eq!(driver.ssd.finish_read(&plan, false), ReadVerdict::Moved);
    assert_eq!(driver.ssd.stats().corrupt_blocks, 0);
}

#[test]
fn a_corrupt_copy_is_dropped_and_stays_dropped_after_a_crash() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    fill_one_segment(&mut driver, version);
    let plan = driver.ssd.plan_read(driver.block(3)).expect("it was written");
    driver.device().change(plan.offset, |bytes| bytes[17] ^= 1);
    let data = super::driver::read_block(driver.device(), &plan);
    assert!(!plan.verify(&data));
    assert_eq!(driver.ssd.finish_read(&plan, false), ReadVerdict::Corrupt);
    assert!(!driver.ssd.contains(driver.block(3)) && driver.ssd.journal_pending().is_some());
    driver.settle_journal();
    let volume = driver.volume;
    let ssd = Ssd::open(driver.device(), geometry(1000), SsdPolicy::default()).expect("opens");
    assert!(!ssd.contains(BlockId::new(volume, 3)) && ssd.contains(BlockId::new(volume, 4)));
}

#[test]
fn data_of_another_block_or_an_older_generation_never_passes() {
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    fill_one_segment(&mut driver, version);
    let plan = driver.ssd.plan_read(driver.block(0)).expect("it was written");
    let data = data_of(plan.block, version);
    assert!(plan.verify(&data));
    assert!(!ReadPlan { block: driver.block(1), ..plan }.verify(&data));
    assert!(!ReadPlan { generation: plan.generation + 1, ..plan }.verify(&data));
    assert!(!ReadPlan { file_id: plan.file_id + 1, ..plan }.verify(&data));
}

#[test]
fn a_segment_whose_summary_cannot_be_read_is_emptied_all_the_same() {
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    let slots = fill_one_segment(&mut driver, version);
    let reclaim = fill_until_reclaim(&mut driver, version);
    assert!(driver.ssd.plan_moves(&reclaim, None).is_empty());
    driver.ssd.finish_reclaim(&reclaim);
    driver.settle_journal();
    assert!((0..slots).all(|number| !driver.ssd.contains(driver.block(number))));
    assert_eq!(driver.ssd.stats().evicted_blocks, slots);
}

#[test]
fn a_burst_of_demotions_finds_room_without_any_reclaim() {
    for blocks in [1000, 10_000] {
        let mut driver = Driver::simulated(blocks, SsdPolicy::default());
        let version = driver.ssd.first_version();
        let mut number = 0;
        while driver.ssd.stats().cached_blocks < blocks {
            driver.demote(number, version);
            number += 1;
        }
        for extra in 0..1024.min(blocks / 4) {
            assert!(
                matches!(driver.demote(number + extra, version), Demote::Append(_)),
                "{extra} of {blocks}"
            );
        }
        driver.reclaim();
        assert!(driver.ssd.stats().cached_blocks <= blocks);
        let mut refused = 0;
        for number in 100_000..100_000 + 2 * blocks {
            refused += u64::from(driver.demote(number, version) == Demote::Refused(Refusal::NoSegment));
        }
        assert_eq!(refused, driver.ssd.stats().refused_no_segment);
        assert!(refused > 0, "without reclaim there is an end");
        driver.reclaim();
        assert!(matches!(driver.demote(999_999, version), Demote::Append(_)), "and reclaim always goes on");
    }
}

#[test]
fn a_simulated_tier_makes_the_same_decisions_as_a_real_one() {
    let seed = fastrand::u64(..);
    for budget in [None, Some(24 * 60 * 4096 * 50)] {
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = SsdPolicy { write_budget_bytes_per_day: budget, ..SsdPolicy::default() };
        let mut real = Driver::create(500, policy.clone());
        let mut twin = Driver::simulated(500, policy);
        let version = real.ssd.first_version();
        for step in 0..20_000u64 {
            let number = random.u64(..600).min(random.u64(..1500));
            match random.u32(..10) {
                0..5 => {
                    let is_earned = random.bool();
                    let now_us = step * 1000;
                    let mut demote = real.demote_at(number, version, is_earned, now_us);
                    if let Demote::Append(plan) = &mut demote {
                        plan.file_id = 0;
                    }
                    // A simulated segment starts where a real one does, and nobody else writes to it.
                    assert_eq!(demote, twin.demote_at(number, version, is_earned, now_us), "seed {seed}");
                }
                5..9 => assert_eq!(real.read(number, version), twin.read(number, version), "seed {seed}"),
                _ => {
                    real.void(number, version, VoidMark::Exact);
                    twin.void(number, version, VoidMark::Exact);
                }
            }
            if random.u32(..50) == 0 {
                real.reclaim();
                twin.reclaim();
            }
        }
        let comparable = |stats: SsdStats| SsdStats { bytes_written: 0, ..stats };
        assert_eq!(comparable(real.ssd.stats()), comparable(twin.ssd.stats()), "seed {seed}");
        assert!(real.ssd.stats().blocks_reinserted > 0 && real.ssd.stats().evicted_blocks > 0);
    }
}

#[test]
fn the_index_with_everything_beside_it_takes_at_most_20_bytes_a_cached_block() {
    for (block_bytes, gib) in [(16 << 10, 64), (4 << 10, 16), (64 << 10, 256)] {
        let block_size = crate::block::BlockSize::new(block_bytes).expect("a power of two");
        let ssd =
            Ssd::simulated(Geometry::for_bytes(block_size, gib << 30).expect("fits"), SsdPolicy::default());
        let stats = ssd.stats();
        let bytes = stats.index_bytes as f64 / stats.capacity_blocks as f64;
        assert!(bytes <= 20.0, "{block_bytes}: {bytes}");
    }
}

#[test]
fn moves_that_are_never_finished_leave_nothing_in_the_index() {
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    let slots = fill_one_segment(&mut driver, version);
    assert!((0..slots).all(|number| driver.read(number, version) && driver.read(number, version)));
    let reclaim = fill_until_reclaim(&mut driver, version);
    let entries = reclaim.run(driver.device()).expect("reads");
    let moves = driver.ssd.plan_moves(&reclaim, Some(&entries));
    assert!(moves.len() > 1);
    driver.ssd.finish_moves(&moves[..1], None);
    driver.ssd.finish_reclaim(&reclaim);
    driver.settle_journal();
    assert!((0..slots).all(|number| !driver.ssd.contains(driver.block(number))));
    for number in 1000..1400 {
        driver.demote(number, version);
        driver.reclaim();
    }
    driver.ssd.finish_moves(&moves[1..], Some(&vec![0; moves.len() - 1]));
    assert!((0..slots).all(|number| !driver.ssd.contains(driver.block(number))));
}

#[test]
fn an_emptied_segment_is_not_written_to_before_its_retirement_is_durable() {
    let mut driver = Driver::create(100, SsdPolicy::default());
    let version = driver.ssd.first_version();
    let reclaim = fill_until_reclaim(&mut driver, version);
    let entries = reclaim.run(driver.device()).expect("reads");
    assert!(driver.ssd.plan_moves(&reclaim, Some(&entries)).is_empty());
    driver.ssd.finish_reclaim(&reclaim);
    let free = driver.ssd.stats().segments_free;
    let JournalPlan::Write(write) = driver.ssd.plan_journal() else { panic!("a retirement waits") };
    assert!(matches!(driver.ssd.plan_journal(), JournalPlan::Nothing), "one write at a time");
    driver.ssd.finish_journal(&write, false);
    assert_eq!(driver.ssd.stats().segments_free, free);
    driver.settle_journal();
    assert_eq!(driver.ssd.stats().segments_free, free + 1);
}

#[test]
fn a_full_journal_asks_for_a_checkpoint_and_goes_on_after_it_with_nothing_lost() {
    let mut driver = Driver::create(4000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..4000).for_each(|number| {
        driver.demote(number, version);
    });
    let plans = driver.ssd.plan_seal_open();
    plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
    let volume = driver.volume;
    let mut next = 0;
    let mut fill = |driver: &mut Driver| {
        for _ in 0..4000 {
            driver.ssd.void(driver.block(next), version.next(), VoidMark::Exact);
            next += 1;
            match driver.ssd.plan_journal() {
                JournalPlan::Write(write) => {
                    write.run(driver.device()).expect("writes");
                    driver.ssd.finish_journal(&write, true);
                }
                JournalPlan::Full => return next,
                JournalPlan::Nothing => panic!("a void waits"),
            }
        }
        unreachable!("the journal is full at some time")
    };
    let pages = driver.ssd.geometry().journal_bytes / 4096;
    assert!(fill(&mut driver) >= pages - 2, "both halves are used");
    assert!(matches!(driver.ssd.plan_journal(), JournalPlan::Full));
    let device = driver.device.as_ref().expect("not simulated");
    device.fail_from_now_on(true);
    assert!(!super::driver::checkpoint(&mut driver.ssd, device, false));
    device.fail_from_now_on(false);
    assert!(matches!(driver.ssd.plan_journal(), JournalPlan::Full), "a failed one frees nothing");
    let voided = next_durable(&driver, volume);
    let device = driver.device.as_ref().expect("not simulated");
    assert!(super::driver::checkpoint(&mut driver.ssd, device, false));
    assert_eq!(next_durable(&driver, volume), voided + 1, "the checkpoint has the one that waited");
    let voided = fill(&mut driver);
    assert_eq!(next_durable(&driver, volume), voided - 1, "all but the one that found the journal full");
}

/// How many blocks, from 0 on, a restart would find void.
fn next_durable(driver: &Driver, volume: crate::block::VolumeId) -> u64 {
    let device = super::device::MemoryDevice::holding(driver.device().bytes());
    let ssd = Ssd::open(&device, driver.ssd.geometry(), SsdPolicy::default()).expect("opens");
    let first = (0..4000).find(|&number| ssd.contains(BlockId::new(volume, number))).expect("some are left");
    assert!((first..4000).all(|number| ssd.contains(BlockId::new(volume, number))));
    first
}
