//! Power cut after every write: what was overwritten below never comes back, what was sealed does.

use std::collections::BTreeMap;

use crate::block::{BlockId, Version, VolumeId};

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{Driver, checkpoint, data_of, geometry, read_block};

pub(super) const BLOCKS: u64 = 64;
pub(super) const NUMBERS: u64 = 100;

/// What the backing store holds, and since which step of the device.
pub(super) struct Below {
    pub(super) next: Version,
    /// For each block, the versions written below: the step at which the write was submitted, and the version.
    writes: BTreeMap<u64, Vec<(usize, Version)>>,
}

impl Below {
    pub(super) fn new(first: Version) -> Self {
        Self { next: first.next(), writes: (0..NUMBERS).map(|number| (number, vec![(0, first)])).collect() }
    }

    pub(super) fn now(&self, number: u64) -> Version {
        self.at(number, usize::MAX)
    }

    fn at(&self, number: u64, step: usize) -> Version {
        self.writes[&number].iter().rev().find(|write| write.0 <= step).expect("the first is at step 0").1
    }

    pub(super) fn write(&mut self, number: u64, step: usize) {
        self.writes.get_mut(&number).expect("below NUMBERS").push((step, self.next));
        self.next = self.next.next();
    }

    /// The same store after the power failed at `step`, with versions from `first` on.
    pub(super) fn cut(&self, step: usize, first: Version) -> Self {
        let writes = (0..NUMBERS).map(|number| (number, vec![(0, self.at(number, step))])).collect();
        Self { next: first.next(), writes }
    }
}

pub(super) fn run_script(driver: &mut Driver, below: &mut Below, random: &mut fastrand::Rng, calls: usize) {
    for _ in 0..calls {
        let number = random.u64(..NUMBERS);
        match random.u32(..100) {
            0..45 => {
                driver.demote(number, below.now(number));
            }
            45..70 => {
                driver.read(number, below.now(number));
            }
            70..88 => {
                let mark = if random.u32(..8) == 0 { VoidMark::Region } else { VoidMark::Exact };
                driver.void(number, below.next, mark);
                below.write(number, driver.device().step_count());
            }
            88..91 => {
                let count = random.u64(1..=NUMBERS - number);
                driver.ssd.void_range(driver.block(number), count, below.next);
                driver.settle_journal();
                for number in number..number + count {
                    below.write(number, driver.device().step_count());
                }
            }
            91..94 => {
                let plans = driver.ssd.plan_seal_open();
                plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
            }
            94..96 => {
                let device = driver.device.as_ref().expect("not simulated");
                assert!(checkpoint(&mut driver.ssd, device, false));
            }
            _ => driver.reclaim(),
        }
    }
}

/// Everything readable is what the backing store holds; returns how much that is.
pub(super) fn check(
    ssd: &mut Ssd,
    device: &MemoryDevice,
    volume: VolumeId,
    below: &Below,
    step: usize,
    seed: u64,
) -> u32 {
    let mut found = 0;
    for number in 0..NUMBERS {
        let Some(plan) = ssd.plan_read(BlockId::new(volume, number)) else { continue };
        let data = read_block(device, &plan);
        assert!(plan.verify(&data), "seed {seed} step {step}: block {number} is torn");
        let wanted = data_of(plan.block, below.at(number, step));
        assert_eq!(data, wanted, "seed {seed} step {step}: block {number} turned back into something older");
        found += 1;
    }
    found
}

#[test]
fn nothing_overwritten_below_is_ever_read_again_wherever_the_power_fails() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut driver = Driver::create(BLOCKS, SsdPolicy::default());
    let mut below = Below::new(driver.ssd.first_version());
    driver.device().keep_steps();
    run_script(&mut driver, &mut below, &mut random, 1500);
    let mut found_total = 0;
    for kept in 0..=driver.device().step_count() {
        let odds = random.u32(..4);
        let device = driver.device().after_power_loss(kept, || random.u32(..4) >= odds);
        let mut ssd = Ssd::open(&device, geometry(BLOCKS), SsdPolicy::default())
            .unwrap_or_else(|error| panic!("seed {seed} step {kept}: {error}"));
        found_total += check(&mut ssd, &device, driver.volume, &below, kept, seed);
        if kept % 7 != 0 {
            continue;
        }
        // Once more: what one recovery forgot, the next one must not find.
        let mut again = below.cut(kept, ssd.first_version());
        let mut second = Driver::of(ssd, device, driver.volume);
        second.device().keep_steps();
        run_script(&mut second, &mut again, &mut random, 60);
        let kept = random.usize(..=second.device().step_count());
        let device = second.device().after_power_loss(kept, || random.bool());
        let mut ssd = Ssd::open(&device, geometry(BLOCKS), SsdPolicy::default())
            .unwrap_or_else(|error| panic!("seed {seed} second step {kept}: {error}"));
        check(&mut ssd, &device, driver.volume, &again, kept, seed);
    }
    assert!(found_total > 0, "seed {seed}: something survives");
}

#[test]
fn what_was_sealed_and_synced_is_there_after_a_crash() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    let slots = u64::from(geometry(1000).slots_per_segment);
    for number in 0..slots * 20 + 3 {
        driver.demote(number, version);
    }
    driver.void(7, version.next(), VoidMark::Exact);
    let volume = driver.volume;
    let device = driver.device.expect("not simulated");
    let ssd = Ssd::open(&device, geometry(1000), SsdPolicy::default()).expect("opens");
    let mut driver = Driver::of(ssd, device, volume);
    for number in 0..slots * 20 + 3 {
        let is_kept = number != 7 && number < slots * 20;
        assert!(driver.read(number, version) == is_kept, "block {number}");
    }
    let cold = driver.ssd.attach_volume("disk", Some(super::driver::IDENTITY)).expect("attaches");
    assert_ne!(cold, volume, "a volume that was open when the power failed is cold");
    driver.settle_journal();
    let ssd = Ssd::open(driver.device(), geometry(1000), SsdPolicy::default()).expect("opens");
    assert!(!ssd.contains(BlockId::new(volume, 0)), "its copies went with its number");
}

#[test]
fn copies_in_a_marked_region_are_dropped_by_a_crash_and_kept_by_a_close() {
    for closes in [false, true] {
        let mut driver = Driver::create(20_000, SsdPolicy::default());
        let version = driver.ssd.first_version();
        for number in 0..8200 {
            driver.demote(number, version);
        }
        let plans = driver.ssd.plan_seal_open();
        plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
        driver.void(5000, version.next(), VoidMark::Region);
        let durable = driver.ssd.journal_durable();
        assert!(!driver.ssd.void(driver.block(5001), version.next(), VoidMark::Region), "marked already");
        assert_eq!(driver.ssd.journal_durable(), durable);
        let volume = driver.volume;
        let device = if closes { driver.close() } else { driver.device.expect("not simulated") };
        let mut ssd = Ssd::open(&device, geometry(20_000), SsdPolicy::default()).expect("opens");
        let mut is_there = |number| ssd.plan_read(BlockId::new(volume, number)).is_some();
        assert!(is_there(4095) && is_there(8192), "outside of the region");
        assert!(!is_there(5000) && !is_there(5001));
        assert_eq!(is_there(4096), closes, "closed: {closes}");
    }
}

#[test]
fn voids_stay_pending_while_the_device_fails_and_are_written_when_it_works_again() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    (0..100).for_each(|number| {
        driver.demote(number, version);
    });
    let plans = driver.ssd.plan_seal_open();
    plans.into_iter().for_each(|plan| driver.seal(Some(plan)));
    driver.device().fail_from_now_on(true);
    assert!(driver.ssd.void(driver.block(1), version.next(), VoidMark::Exact));
    assert!(!driver.settle_journal());
    assert!(
        driver.ssd.void(driver.block(1), version.next(), VoidMark::Exact),
        "the first void is not durable yet"
    );
    assert!(!checkpoint(&mut driver.ssd, driver.device.as_ref().expect("not simulated"), false));
    driver.device().fail_from_now_on(false);
    assert!(driver.ssd.journal_pending().is_some());
    assert!(driver.settle_journal());
    let volume = driver.volume;
    let mut ssd = Ssd::open(driver.device(), geometry(1000), SsdPolicy::default()).expect("opens");
    assert!(
        ssd.plan_read(BlockId::new(volume, 1)).is_none() && ssd.plan_read(BlockId::new(volume, 2)).is_some()
    );
}
