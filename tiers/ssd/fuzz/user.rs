//! What calls a tier in a file of any bytes, and what makes valid files.

use std::io::IoSliceMut;

use crate::block::{BlockId, PAGE_BYTES, VolumeId};
use crate::device::{Device, Identity};
use crate::testing::MemoryDevice;

use super::super::{
    Demote, DestageRun, JournalPlan, NewCopy, ReadVerdict, SealPlan, Ssd, SsdPolicy, VoidMark, append,
};
use super::{NO_FAULTS, geometry};

const IDENTITY: Identity = Identity { bytes: 1, modified_ns: 2, inode: 3, device: 4 };

/// What calls a tier, one after the other, every plan run and finished at once.
pub(super) struct User<'a> {
    pub(super) ssd: Ssd,
    device: &'a MemoryDevice,
    volume: VolumeId,
}

impl<'a> User<'a> {
    pub(super) fn new(mut ssd: Ssd, device: &'a MemoryDevice) -> Self {
        let volume = ssd.attach_volume("disk", Some(IDENTITY));
        // With dirty blocks of a volume that looked otherwise.
        let volume = volume.or_else(|_| ssd.attach_volume("another", Some(IDENTITY))).expect(NO_FAULTS);
        Self { ssd, device, volume }
    }

    pub(super) fn create(device: &'a MemoryDevice) -> Self {
        Self::new(Ssd::create(device, geometry(), SsdPolicy::default()).expect(NO_FAULTS), device)
    }

    /// Everything that can be asked of a tier.
    pub(super) fn use_all(&mut self) {
        let known: Vec<VolumeId> = self.ssd.volumes().map(|volume| volume.id).collect();
        for volume in known {
            (0..32).for_each(|number| self.read(BlockId::new(volume, number)));
        }
        self.demote(100..140);
        self.void(110..112, VoidMark::Exact);
        self.void(112..114, VoidMark::Region);
        let version = self.ssd.first_version().next();
        self.ssd.void_range(BlockId::new(self.volume, 114), 3, version);
        self.settle_journal();
        self.log(50..53, 0);
        self.bury(52..55, 0);
        self.destage(51);
        self.demote(140..200);
        (0..200).for_each(|number| self.read(BlockId::new(self.volume, number)));
        self.ssd.stats();
    }

    pub(super) fn demote(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let (block, version) = (BlockId::new(self.volume, number), self.ssd.first_version());
            if let Demote::Append(plan) = self.ssd.plan_demote(block, version, true, 0) {
                let crcs = append(self.device, &[plan], &[&[number as u8; PAGE_BYTES]]).expect(NO_FAULTS);
                let seal = self.ssd.finish_append(&[plan], Some(&crcs));
                self.seal(seal);
            }
            self.reclaim();
        }
    }

    /// Puts blocks into the log, in one record of an epoch; of each every other sector.
    pub(super) fn log(&mut self, numbers: std::ops::Range<u64>, epoch: u64) {
        self.settle_journal();
        let version = self.ssd.first_version().next();
        let copies = numbers.map(|number| NewCopy {
            block: BlockId::new(self.volume, number),
            version,
            mask: Box::new([0x55]),
            epoch,
        });
        let copies: Vec<NewCopy> = copies.collect();
        let mut data = vec![[0; PAGE_BYTES]; copies.len()];
        for (block, copy) in data.iter_mut().zip(&copies) {
            block[0] = copy.block.number() as u8;
        }
        let data: Vec<&[u8]> = data.iter().map(|block| &block[..]).collect();
        let mut rest = &copies[..];
        while let Some(mut plan) = (!rest.is_empty()).then(|| self.ssd.plan_record(rest, 1)).flatten() {
            let (now, later) = rest.split_at(plan.block_count());
            plan.run(self.device, &data[copies.len() - rest.len()..][..now.len()]).expect(NO_FAULTS);
            self.ssd.finish_record(plan);
            rest = later;
        }
        if let Some(sync) = self.ssd.plan_log_sync() {
            self.ssd.finish_log_sync(sync);
        }
    }

    /// Blocks read as zeros from now on.
    pub(super) fn bury(&mut self, numbers: std::ops::Range<u64>, epoch: u64) {
        let (first, count) = (BlockId::new(self.volume, numbers.start), numbers.end - numbers.start);
        self.ssd.put_tombstone(first, count, self.ssd.first_version().next().next(), epoch);
        self.settle_journal();
    }

    /// The backing store has discarded what it is to discard first, and has the first run of dirty blocks up to this
    /// one.
    pub(super) fn destage(&mut self, last: u64) {
        let mut discarded = None;
        let run = loop {
            match self.ssd.plan_destage(self.volume, None, discarded.as_ref(), 0, usize::MAX) {
                DestageRun::Discard(tombstone) => {
                    self.ssd.finish_tombstone(&tombstone);
                    discarded = Some(tombstone);
                }
                DestageRun::Write(run) => break run,
            }
        };
        for read in run.into_iter().filter(|read| read.block.number() <= last) {
            let is_verified = read.run(self.device, &mut [0; PAGE_BYTES]).expect(NO_FAULTS);
            if self.ssd.finish_log_read(&read, is_verified) == ReadVerdict::Valid {
                self.ssd.finish_destage(&read);
            }
        }
        self.ssd.retire_unneeded();
        self.settle_journal();
    }

    pub(super) fn seal(&mut self, plan: Option<SealPlan>) {
        let Some(plan) = plan else { return };
        self.settle_journal();
        plan.run(self.device).expect(NO_FAULTS);
        self.ssd.finish_seal(plan, true);
    }

    pub(super) fn read(&mut self, block: BlockId) {
        let Some(plan) = self.ssd.plan_read(block) else { return };
        let mut data = vec![0; PAGE_BYTES];
        self.device.read(plan.offset, &mut [IoSliceMut::new(&mut data)]).expect(NO_FAULTS);
        self.ssd.finish_read(&plan, plan.verify(&data));
    }

    pub(super) fn void(&mut self, numbers: std::ops::Range<u64>, mark: VoidMark) {
        let version = self.ssd.first_version().next();
        numbers.for_each(|number| {
            self.ssd.void(BlockId::new(self.volume, number), version, mark);
        });
        self.settle_journal();
    }

    pub(super) fn settle_journal(&mut self) {
        loop {
            match self.ssd.plan_journal() {
                JournalPlan::Nothing => return,
                JournalPlan::Write(write) => {
                    write.run(self.device).expect(NO_FAULTS);
                    self.ssd.finish_journal(&write, true);
                }
                JournalPlan::Full => self.ssd.checkpoint(self.device).expect(NO_FAULTS),
            }
        }
    }

    pub(super) fn reclaim(&mut self) {
        while let Some(plan) = self.ssd.plan_reclaim() {
            let entries = plan.run(self.device).ok();
            for moved in self.ssd.plan_moves(&plan, entries.as_deref()) {
                let mut data = vec![0; PAGE_BYTES];
                self.device.read(moved.from.offset, &mut [IoSliceMut::new(&mut data)]).expect(NO_FAULTS);
                let crcs = moved.from.verify(&data).then(|| append(self.device, &[moved.to], &[&data]));
                let crcs = crcs.map(|crcs| crcs.expect(NO_FAULTS));
                let seal = self.ssd.finish_moves(&[moved], crcs.as_deref());
                self.seal(seal);
            }
            self.ssd.finish_reclaim(&plan);
            self.settle_journal();
        }
    }

    pub(super) fn close(&mut self) {
        self.ssd.detach_volume(self.volume, Some(IDENTITY));
        for plan in self.ssd.plan_seal_open() {
            self.seal(Some(plan));
        }
        let plan = self.ssd.plan_checkpoint(true);
        plan.run(self.device).expect(NO_FAULTS);
        self.ssd.finish_checkpoint(plan, true);
    }
}
