//! The ids lately refused or evicted, 2 bytes for each block of the file: nobody waits for them when that is opened, and
//! they are all there once it is read.

use std::io::{IoSlice, IoSliceMut};

use crate::block::{BlockId, VolumeId};
use crate::testing::MemoryDevice;

use super::super::*;
use super::driver::block_size;

/// So many that their ghosts take several frames.
const BLOCKS: u64 = 1 << 20;
const REFUSED: u64 = 20_000;

fn geometry() -> Geometry {
    Geometry::for_blocks(block_size(), BLOCKS).expect("fits")
}

fn block(number: u64) -> BlockId {
    BlockId::new(VolumeId::new(0), number)
}

/// A file that was closed in order and remembers the ids below [`REFUSED`].
fn closed() -> MemoryDevice {
    let device = MemoryDevice::new(geometry().file_bytes());
    let mut ssd = Ssd::create(&device, geometry(), SsdPolicy::default()).expect("creates");
    (0..REFUSED).for_each(|number| ssd.admission.evicted(block(number)));
    let plan = ssd.plan_checkpoint(true);
    plan.run(&device).expect("in range");
    ssd.finish_checkpoint(plan, true);
    device
}

fn open(device: &MemoryDevice) -> Ssd {
    Ssd::open_early(device, geometry(), SsdPolicy::default()).expect("opens")
}

/// How many of the ids that were remembered are; they are not any more after this.
fn known(ssd: &mut Ssd) -> u64 {
    (0..REFUSED).map(|number| u64::from(ssd.admission.admits(block(number), false, false, 0))).sum()
}

#[test]
fn they_are_read_after_the_file_serves_and_put_behind_what_came_to_them_meanwhile() {
    let device = closed();
    let mut early = open(&device);
    assert!(early.is_scanning() && known(&mut early) < REFUSED * 3 / 4, "most are in frames of their own");
    let device = closed();
    let mut ssd = open(&device);
    let late = REFUSED..REFUSED + 1000;
    late.clone().for_each(|number| ssd.admission.evicted(block(number)));
    let plan = ssd.plan_scan().expect("there are ghosts");
    assert!(ssd.plan_scan().is_none() && ssd.is_scanning(), "one frame at a time");
    ssd.finish_scan(plan.run(&device));
    assert!(ssd.is_scanning(), "there are more");
    ssd.scan_all(&device);
    assert!(!ssd.is_scanning());
    assert!(late.clone().all(|number| ssd.admission.admits(block(number), false, false, 0)));
    assert_eq!(known(&mut ssd), REFUSED);
}

#[test]
fn a_frame_of_them_that_is_torn_costs_those_behind_it_and_is_told_as_damage() {
    let device = closed();
    let verified = || verify(&device, &mut Silent).expect("it can be read");
    assert!(verified().iter().all(|row| row.damaged == 0));
    let superblock = recover::read_superblocks(&device).expect("it has one")[0].1;
    let layout = geometry();
    let end = layout.checkpoint_area_offset(superblock.checkpoint_area) + superblock.checkpoint_bytes;
    let last = end - PAGE_BYTES as u64;
    let mut page = vec![0; PAGE_BYTES];
    device.read(last, &mut [IoSliceMut::new(&mut page)]).expect("in range");
    page[0] ^= 1;
    device.write(last, &[IoSlice::new(&page)]).expect("in range");
    assert_eq!(verified().iter().map(|row| row.damaged).sum::<u64>(), 1);
    let mut ssd = open(&device);
    ssd.scan_all(&device);
    assert!(!ssd.is_scanning());
    let known = known(&mut ssd);
    assert!(known > REFUSED / 2 && known < REFUSED, "{known}");
}

struct Silent;

impl Watcher for Silent {
    fn at(&mut self, _bytes: u64) {}

    fn found(&mut self, _finding: Finding) {}
}
