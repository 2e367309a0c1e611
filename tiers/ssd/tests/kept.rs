//! A volume that nobody else writes to keeps the clean copies that a sync of its backing store covers over a crash, and
//! none that is younger: not even when the file is left again before it is known what it holds.

use crate::block::{BlockId, VolumeId};

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{Driver, IDENTITY, geometry};
use super::scan::crash;

const NAME: &str = "kept";

/// A file that was left without a close, of a volume with as many blocks that a sync covers as blocks that none does: the
/// first of each.
struct Left {
    device: MemoryDevice,
    volume: VolumeId,
    synced: BlockId,
    unsynced: BlockId,
}

fn attach(ssd: &mut Ssd) -> VolumeId {
    ssd.attach_again(NAME, Some(IDENTITY), true).expect("it has no dirty blocks")
}

fn leave() -> Left {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    driver.volume = attach(&mut driver.ssd);
    let slots = u64::from(driver.ssd.geometry().slots_per_segment);
    let (early, late) = (driver.ssd.first_version(), driver.ssd.first_version().next());
    for number in 0..slots {
        driver.demote(number, early);
    }
    driver.ssd.note_synced(driver.volume, early);
    for number in slots..2 * slots {
        driver.demote(number, late);
    }
    assert!(driver.settle_journal());
    let (synced, unsynced) = (driver.block(0), driver.block(slots));
    Left { device: driver.device.expect("not simulated"), volume: driver.volume, synced, unsynced }
}

/// After another crash, which follows what `act` does while all summaries are unread.
fn after_another_crash(act: impl FnOnce(&mut Ssd, VolumeId)) {
    let Left { device, volume, synced, unsynced } = leave();
    let mut driver = Driver::early(device, geometry(1000), volume);
    assert_eq!(attach(&mut driver.ssd), volume, "it keeps its number");
    act(&mut driver.ssd, volume);
    assert!(driver.settle_journal() && driver.ssd.is_scanning());
    let again = crash(&driver);
    assert!(again.ssd.contains(synced), "what a sync covered is there");
    assert!(!again.ssd.contains(unsynced), "what none covered is not");
}

#[test]
fn a_copy_that_no_sync_covered_is_not_believed_when_a_sync_ends_while_its_summary_is_unread() {
    after_another_crash(|ssd, volume| ssd.note_synced(volume, ssd.first_version().next()));
}

#[test]
fn a_copy_that_no_sync_covered_is_not_believed_when_its_volume_is_detached_while_its_summary_is_unread() {
    after_another_crash(|ssd, volume| ssd.detach_volume(volume, Some(IDENTITY)));
}
