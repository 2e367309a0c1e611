//! A cache above, in its plainest form: one call after the other, every plan run and finished at once.

use crate::block::{BlockId, BlockSize, Version, VolumeId};
use crate::device::{Device, Identity};

use super::super::*;
use super::device::MemoryDevice;

pub(super) const IDENTITY: Identity = Identity { bytes: 1, modified_ns: 2, inode: 3, device: 4 };

pub(super) fn block_size() -> BlockSize {
    BlockSize::new(4096).expect("a power of two")
}

pub(super) fn geometry(blocks: u64) -> Geometry {
    Geometry::for_blocks(block_size(), blocks).expect("fits")
}

/// The contents of `block` as of `version`.
pub(super) fn data_of(block: BlockId, version: Version) -> Vec<u8> {
    let word = (block.as_u64() ^ version.as_u64().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes().repeat(4096 / 8)
}

/// The tier and its device; without one the tier is a simulated one.
pub(super) struct Driver {
    pub(super) ssd: Ssd,
    pub(super) device: Option<MemoryDevice>,
    pub(super) volume: VolumeId,
    /// Summaries that are read, and not finished.
    pub(super) scanned: Vec<Scanned>,
    /// Parts of the index that are lent.
    pub(super) installs: Vec<Install>,
}

impl Driver {
    pub(super) fn create(blocks: u64, policy: SsdPolicy) -> Self {
        let device = MemoryDevice::new(geometry(blocks).file_bytes());
        let ssd = Ssd::create(&device, geometry(blocks), policy).expect("creates");
        Self::over(ssd, Some(device))
    }

    pub(super) fn simulated(blocks: u64, policy: SsdPolicy) -> Self {
        Self::over(Ssd::simulated(geometry(blocks), policy), None)
    }

    pub(super) fn over(mut ssd: Ssd, device: Option<MemoryDevice>) -> Self {
        let volume = ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches");
        Self { ssd, device, volume, scanned: Vec::new(), installs: Vec::new() }
    }

    /// For a volume of before.
    pub(super) fn of(ssd: Ssd, device: MemoryDevice, volume: VolumeId) -> Self {
        Self { ssd, device: Some(device), volume, scanned: Vec::new(), installs: Vec::new() }
    }

    /// Opened early, with all summaries unread, for a volume of before.
    pub(super) fn early(device: MemoryDevice, geometry: Geometry, volume: VolumeId) -> Self {
        let ssd = Ssd::open_early(&device, geometry, SsdPolicy::default()).expect("opens");
        Self::of(ssd, device, volume)
    }

    /// Reads the next summaries, if some are left, and keeps what they say for later.
    pub(super) fn read_summaries(&mut self) {
        if let Some(plan) = self.ssd.plan_scan() {
            self.scanned.push(plan.run(self.device()));
        }
    }

    /// Has a part of the index lent for what was read, of the summaries with this number.
    pub(super) fn lend(&mut self, number: usize) {
        match self.ssd.plan_install(&mut self.scanned[number]) {
            Some(mut install) => {
                install.run();
                self.installs.push(install);
            }
            None => {
                self.scanned.swap_remove(number);
            }
        }
    }

    pub(super) fn finish_scan(&mut self) {
        self.installs.drain(..).for_each(|install| self.ssd.finish_install(install));
        self.scanned.drain(..).for_each(|scanned| self.ssd.finish_scan(scanned));
        if let Some(device) = &self.device {
            self.ssd.scan_all(device);
        }
    }

    pub(super) fn open(device: MemoryDevice, blocks: u64) -> Self {
        let ssd = Ssd::open(&device, geometry(blocks), SsdPolicy::default()).expect("opens");
        Self::over(ssd, Some(device))
    }

    pub(super) fn device(&self) -> &MemoryDevice {
        self.device.as_ref().expect("this one is not simulated")
    }

    pub(super) fn block(&self, number: u64) -> BlockId {
        BlockId::new(self.volume, number)
    }

    pub(super) fn demote(&mut self, number: u64, version: Version) -> Demote {
        self.demote_at(number, version, true, 0)
    }

    pub(super) fn demote_at(
        &mut self,
        number: u64,
        version: Version,
        is_earned: bool,
        now_us: u64,
    ) -> Demote {
        let demote = self.ssd.plan_demote(self.block(number), version, is_earned, now_us);
        if let Demote::Append(plan) = demote {
            let crcs = match &self.device {
                Some(device) => append(device, &[plan], &[&data_of(plan.block, version)]).ok(),
                None => Some(vec![0]),
            };
            let seal = self.ssd.finish_append(&[plan], crcs.as_deref());
            self.seal(seal);
        }
        demote
    }

    pub(super) fn seal(&mut self, plan: Option<SealPlan>) {
        let Some(plan) = plan else { return };
        let written =
            self.settle_journal() && self.run(|device| device.sync()) && self.run(|device| plan.run(device));
        self.ssd.finish_seal(plan, written);
    }

    fn run(&self, run: impl FnOnce(&dyn Device) -> Result<()>) -> bool {
        self.device.as_ref().is_none_or(|device| run(device).is_ok())
    }

    /// Reads `number`: whether it is there; what is there must be what was written as of `version`.
    pub(super) fn read(&mut self, number: u64, version: Version) -> bool {
        let Some(plan) = self.ssd.plan_read(self.block(number)) else { return false };
        if let Some(device) = &self.device {
            let data = read_block(device, &plan);
            assert!(plan.verify(&data), "block {number} fails its checksum");
            assert_eq!(data, data_of(plan.block, version), "block {number} is not the one of {version:?}");
        }
        self.ssd.finish_read(&plan, true) == ReadVerdict::Valid
    }

    /// Makes the journal durable; false when the device fails.
    pub(super) fn settle_journal(&mut self) -> bool {
        if self.device.is_none() {
            self.ssd.settle_simulated_journal();
            return true;
        }
        loop {
            let device = self.device.as_ref().expect("it was there");
            match self.ssd.plan_journal() {
                JournalPlan::Nothing => break,
                JournalPlan::Write(write) => {
                    let durable = write.run(device).is_ok();
                    self.ssd.finish_journal(&write, durable);
                    if !durable {
                        return false;
                    }
                }
                JournalPlan::Full if self.ssd.is_scanning() => self.finish_scan(),
                JournalPlan::Full => {
                    if !checkpoint(&mut self.ssd, device, false) {
                        return false;
                    }
                }
            }
        }
        if self.ssd.wants_checkpoint() {
            checkpoint(&mut self.ssd, self.device.as_ref().expect("it was there"), false);
        }
        assert_eq!(self.ssd.journal_pending(), None);
        true
    }

    pub(super) fn void(&mut self, number: u64, version: Version, mark: VoidMark) {
        self.ssd.void(self.block(number), version, mark);
        self.settle_journal();
    }

    pub(super) fn reclaim(&mut self) {
        while let Some(plan) = self.ssd.plan_reclaim() {
            let entries = match &self.device {
                Some(device) => plan.run(device).ok(),
                None => Some(self.ssd.simulated_entries(&plan)),
            };
            for moved in self.ssd.plan_moves(&plan, entries.as_deref()) {
                let crcs = match &self.device {
                    Some(device) => {
                        let data = read_block(device, &moved.from);
                        assert!(moved.from.verify(&data));
                        append(device, &[moved.to], &[&data]).ok()
                    }
                    None => Some(vec![0]),
                };
                let seal = self.ssd.finish_moves(&[moved], crcs.as_deref());
                self.seal(seal);
            }
            self.ssd.finish_reclaim(&plan);
            self.settle_journal();
        }
    }

    pub(super) fn close(mut self) -> MemoryDevice {
        self.ssd.detach_volume(self.volume, Some(IDENTITY));
        for plan in self.ssd.plan_seal_open() {
            self.seal(Some(plan));
        }
        self.finish_scan();
        let device = self.device.expect("this one is not simulated");
        checkpoint(&mut self.ssd, &device, true);
        device
    }

    /// As [`Self::close`], and opens it again.
    pub(super) fn reopen(self) -> Self {
        let blocks = self.ssd.geometry().capacity_blocks();
        Self::open(self.close(), blocks)
    }
}

pub(super) fn checkpoint(ssd: &mut Ssd, device: &MemoryDevice, is_clean: bool) -> bool {
    let plan = ssd.plan_checkpoint(is_clean);
    let durable = plan.run(device).is_ok();
    ssd.finish_checkpoint(plan, durable);
    durable
}

pub(super) fn read_block(device: &MemoryDevice, plan: &ReadPlan) -> Vec<u8> {
    let mut data = vec![0; 4096];
    device.read(plan.offset, &mut [IoSliceMut::new(&mut data)]).expect("in range");
    data
}
