//! A cache above the tier, as far as the log of dirty blocks goes: all its blocks in RAM, one call after the other, and
//! what each sector may hold wherever the power fails.

use std::collections::HashMap;
use std::ops::Range;

use crate::block::{BlockId, BlockSize, SECTOR_BYTES, Version, VolumeId, mask};
use crate::device::Device;

use super::super::dirty_log::DirtyLog;
use super::super::*;
use super::device::MemoryDevice;
use super::driver::{IDENTITY, checkpoint};

pub(super) const BLOCKS: usize = 24;
/// Blocks that fit the cache file.
pub(super) const ROOM: u64 = 64;

pub(super) fn size() -> BlockSize {
    BlockSize::new(16 << 10).expect("a power of two")
}

pub(super) fn geometry() -> Geometry {
    Geometry::for_blocks(size(), ROOM).expect("fits")
}

/// What one sector holds: the number of the write that it is from, or 0 for zeros.
pub(super) type Content = Vec<u64>;

pub(super) fn bytes_of(block: usize, content: &[u64]) -> Vec<u8> {
    let sector = |(index, &write): (usize, &u64)| {
        let word = if write == 0 { 0 } else { write << 24 | (block as u64) << 8 | index as u64 };
        word.to_le_bytes().repeat(SECTOR_BYTES / 8)
    };
    content.iter().enumerate().flat_map(sector).collect()
}

/// The write that a sector is from; panics when it is not one of this place.
pub(super) fn write_of(block: usize, index: usize, bytes: &[u8]) -> u64 {
    let word = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    if bytes.iter().all(|&byte| byte == 0) {
        return 0;
    }
    assert_eq!((word >> 8 & 0xffff, word & 0xff), (block as u64, index as u64), "a sector of another place");
    assert!(bytes.chunks_exact(8).all(|part| part == word.to_le_bytes()), "a torn sector");
    word >> 24
}

/// Contents by the step of the device at which they came to be.
pub(super) struct History(pub(super) Vec<(usize, Vec<Content>)>);

impl History {
    pub(super) fn new() -> Self {
        Self(vec![(0, vec![vec![0; size().sectors()]; BLOCKS])])
    }

    pub(super) fn now(&self) -> &Vec<Content> {
        &self.0.last().expect("never empty").1
    }

    pub(super) fn at(&self, step: usize) -> &Vec<Content> {
        &self.0.iter().rev().find(|entry| entry.0 <= step).expect("the first is at step 0").1
    }

    pub(super) fn change(&mut self, step: usize, change: impl FnOnce(&mut Vec<Content>)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.0.push((step, next));
    }
}

/// What is done wrong, to see that it is found.
#[derive(Clone, Copy)]
pub(super) struct Tamper {
    /// With a plan to read from the log.
    pub(super) read: fn(&mut LogRead),
    /// With the log of a block, after every sync of it.
    pub(super) synced: fn(&mut DirtyLog, BlockId),
    /// With the log of a block, before segments are given back.
    pub(super) reclaimed: fn(&mut DirtyLog, BlockId),
    /// With the version of a tombstone, the first block of which is this.
    pub(super) buried: fn(&DirtyLog, BlockId, Version) -> Version,
}

impl Tamper {
    pub(super) const NONE: Self =
        Self { read: |_| {}, synced: |_, _| {}, reclaimed: |_, _| {}, buried: |_, _, version| version };
}

/// A cache above with all its blocks in RAM, one call after the other.
pub(super) struct Writer {
    pub(super) ssd: Ssd,
    pub(super) device: MemoryDevice,
    pub(super) volume: VolumeId,
    pub(super) next: u64,
    /// The newest content, by the number of what made it, and which sectors of it are neither below nor in the log.
    pub(super) ram: Vec<Content>,
    /// What a sector shows by its block, index and number, where that is not the number: of discards and forgets.
    pub(super) shown: HashMap<(usize, usize, u64), u64>,
    pub(super) dirty: Vec<u64>,
    /// Everything that a sector was to hold, by block, index and number.
    pub(super) events: Vec<Vec<Vec<u64>>>,
    /// Of what goes to the log now; 0 in any order.
    pub(super) epoch: u64,
    /// Where epochs ended: the step of the device, and the last number before.
    pub(super) ends: Vec<(usize, u64)>,
    /// Content of the blocks whose record is not durable, and what of it is in the record.
    pub(super) logged: Vec<(usize, Content, u64)>,
    pub(super) below: History,
    pub(super) promised: History,
    pub(super) tamper: Tamper,
    /// Copies have all that is in the log already, which nobody wants.
    pub(super) widens: bool,
}

impl Writer {
    pub(super) fn new() -> Self {
        let device = MemoryDevice::new(geometry().file_bytes());
        let mut ssd = Ssd::create(&device, geometry(), SsdPolicy::default()).expect("creates");
        let volume = ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches");
        let ram = vec![vec![0; size().sectors()]; BLOCKS];
        let mut writer = Self {
            ssd,
            device,
            volume,
            next: 1,
            ram,
            shown: HashMap::new(),
            dirty: vec![0; BLOCKS],
            events: vec![vec![vec![0]; size().sectors()]; BLOCKS],
            epoch: 0,
            ends: vec![(0, 0)],
            logged: Vec::new(),
            below: History::new(),
            promised: History::new(),
            tamper: Tamper::NONE,
            widens: false,
        };
        writer.settle_journal();
        writer.device.keep_steps();
        writer
    }

    pub(super) fn block(&self, number: usize) -> BlockId {
        BlockId::new(self.volume, number as u64)
    }

    fn tamper_with_all(&mut self, tamper: fn(&mut DirtyLog, BlockId)) {
        for number in 0..BLOCKS {
            let block = self.block(number);
            tamper(&mut self.ssd.dirty, block);
        }
    }

    pub(super) fn version(&mut self) -> Version {
        self.next += 1;
        Version::from_u64(self.ssd.first_version().as_u64() + self.next)
    }

    /// What sectors with content of these numbers hold.
    pub(super) fn shows(&self, block: usize, content: &[u64]) -> Content {
        let shown =
            |(index, &number): (usize, &u64)| *self.shown.get(&(block, index, number)).unwrap_or(&number);
        content.iter().enumerate().map(shown).collect()
    }

    pub(super) fn settle_journal(&mut self) {
        loop {
            match self.ssd.plan_journal() {
                JournalPlan::Nothing => return,
                JournalPlan::Write(write) => {
                    write.run(&self.device).expect("in range");
                    self.ssd.finish_journal(&write, true);
                }
                JournalPlan::Full => {
                    self.ssd.scan_all(&self.device);
                    self.checkpoint();
                }
            }
        }
    }

    /// What comes after a power failure at `kept`, with all summaries unread.
    pub(super) fn after_power_loss(&self, kept: usize, random: &mut fastrand::Rng, place: &str) -> Self {
        let device = self.device.after_power_loss(kept, || random.bool());
        device.keep_steps();
        let mut ssd = Ssd::open_early(&device, geometry(), SsdPolicy::default()).expect("opens");
        let below = self.below.at(kept).clone();
        let ram = read_all(&mut ssd, &device, self.volume, &below);
        check(self, &ram, self.promised.at(kept), place);
        let (below, promised) = (History(vec![(0, below)]), History(vec![(0, ram.clone())]));
        Self {
            ssd,
            device,
            volume: self.volume,
            next: self.next,
            events: ram.iter().map(|block| block.iter().map(|&made| vec![made]).collect()).collect(),
            ram,
            shown: HashMap::new(),
            dirty: vec![0; BLOCKS],
            epoch: 0,
            ends: vec![(0, 0)],
            logged: Vec::new(),
            below,
            promised,
            tamper: self.tamper,
            widens: self.widens,
        }
    }

    /// What is not newer in RAM is read from the SSD or below as it is there.
    pub(super) fn check_clean(&mut self, place: &str) {
        let found = read_all(&mut self.ssd, &self.device, self.volume, self.below.now());
        for (number, (found, newest)) in found.iter().zip(&self.ram).enumerate() {
            let is_newer =
                self.dirty[number] != 0 || self.logged.iter().any(|(logged, ..)| *logged == number);
            assert!(is_newer || *found == self.shows(number, newest), "{place}: block {number}");
        }
    }

    pub(super) fn checkpoint(&mut self) {
        assert!(checkpoint(&mut self.ssd, &self.device, false));
    }

    pub(super) fn write(&mut self, number: usize, sectors: Range<usize>) {
        let version = self.version();
        self.ssd.void_clean(self.block(number), version);
        self.ram[number][sectors.clone()].fill(self.next);
        self.events[number][sectors.clone()].iter_mut().for_each(|events| events.push(self.next));
        mask::set(&mut self.dirty[number..=number], sectors);
    }

    /// Puts the dirty ones of `numbers` into the log, not synced.
    pub(super) fn log(&mut self, numbers: impl Iterator<Item = usize>) {
        let is_under_way = |number: &usize| self.logged.iter().any(|(other, ..)| other == number);
        let numbers: Vec<usize> =
            numbers.filter(|number| self.dirty[*number] != 0 && !is_under_way(number)).collect();
        let mut copies = Vec::new();
        for &number in &numbers {
            let (block, version) = (self.block(number), self.version());
            let mut mask: SectorMask = Box::new([self.dirty[number]]);
            let more = if self.widens { self.ssd.dirty_mask(block) } else { None };
            if let Some(wanted) = self.ssd.wanted_mask(block).or(more) {
                mask::add(&mut mask, &wanted);
            }
            copies.push(NewCopy { block, version, mask, epoch: self.epoch });
        }
        let mut rest = &copies[..];
        while !rest.is_empty() {
            let Some(mut plan) = self.ssd.plan_record(rest, 0) else { return };
            let (now, later) = rest.split_at(plan.block_count());
            let numbers: Vec<usize> = now.iter().map(|copy| copy.block.number() as usize).collect();
            let data: Vec<Vec<u8>> = numbers
                .iter()
                .map(|&number| bytes_of(number, &self.shows(number, &self.ram[number])))
                .collect();
            let data: Vec<&[u8]> = data.iter().map(|bytes| &bytes[..]).collect();
            plan.run(&self.device, &data).expect("in range");
            self.ssd.finish_record(plan);
            for number in numbers {
                let sectors = std::mem::take(&mut self.dirty[number]);
                self.logged.push((number, self.ram[number].clone(), sectors));
            }
            rest = later;
        }
    }

    pub(super) fn sync(&mut self) {
        let Some(sync) = self.ssd.plan_log_sync() else { return };
        self.device.sync().expect("works");
        self.ssd.finish_log_sync(sync);
        self.tamper_with_all(self.tamper.synced);
        let logged = std::mem::take(&mut self.logged);
        self.promised.change(self.device.step_count(), |promised| {
            for (number, content, _) in logged {
                promised[number] = content;
            }
        });
    }

    /// Nothing of these blocks is on its way to the log, and nothing of them in RAM is newer than what follows.
    pub(super) fn drop_from_ram(&mut self, numbers: &Range<usize>) -> (BlockId, u64, Version) {
        if self.logged.iter().any(|(number, ..)| numbers.contains(number)) {
            self.sync();
        }
        self.dirty[numbers.clone()].fill(0);
        let version = self.version();
        let sectors = self.events[numbers.clone()].iter_mut().flatten();
        sectors.for_each(|events| events.push(self.next));
        (self.block(numbers.start), numbers.len() as u64, version)
    }

    pub(super) fn discard(&mut self, numbers: Range<usize>) {
        let (first, count, version) = self.drop_from_ram(&numbers);
        for number in numbers.clone() {
            self.ram[number].fill(self.next);
            (0..size().sectors()).for_each(|index| {
                self.shown.insert((number, index, self.next), 0);
            });
        }
        let version = (self.tamper.buried)(&self.ssd.dirty, first, version);
        self.ssd.put_tombstone(first, count, version, self.epoch).expect("there is room");
        self.settle_journal();
        self.promise_ram(numbers);
    }

    pub(super) fn forget(&mut self, numbers: Range<usize>) {
        // What is forgotten of an epoch is not below when the next one comes.
        if self.epoch > 0 {
            return;
        }
        let (first, count, version) = self.drop_from_ram(&numbers);
        for number in numbers.clone() {
            self.ram[number].fill(self.next);
            for (index, below) in self.below.now()[number].iter().enumerate() {
                self.shown.insert((number, index, self.next), *below);
            }
        }
        self.ssd.void_range(first, count, version);
        self.settle_journal();
        self.promise_ram(numbers);
    }

    pub(super) fn promise_ram(&mut self, numbers: Range<usize>) {
        let ram = &self.ram;
        self.promised.change(self.device.step_count(), |promised| {
            promised[numbers.clone()].clone_from_slice(&ram[numbers]);
        });
    }

    /// The device fails, and works again: what was not synced goes to the log once more.
    pub(super) fn give_up(&mut self) {
        self.fail();
        self.checkpoint();
    }

    /// The device fails, and the log takes nothing before the next checkpoint.
    pub(super) fn fail(&mut self) {
        self.ssd.give_records_up();
        for (number, _, sectors) in std::mem::take(&mut self.logged) {
            self.dirty[number] |= sectors;
        }
    }

    pub(super) fn destage(&mut self, from: usize) {
        let mut tombstones: Vec<Tombstone> = Vec::new();
        let run = loop {
            let epoch = tombstones.last().map(Tombstone::epoch);
            let next = self.ssd.plan_destage(self.volume, epoch, tombstones.last(), from as u64, 4);
            self.settle_journal();
            match next {
                DestageRun::Discard(tombstone) => {
                    self.below.change(self.device.step_count(), |below| {
                        tombstone.blocks().for_each(|number| below[number as usize].fill(0));
                    });
                    tombstones.push(tombstone);
                }
                DestageRun::Write(run) => break run,
            }
        };
        let mut reads = Vec::new();
        for mut read in run {
            (self.tamper.read)(&mut read);
            let block = read.block;
            let mut bytes = vec![0; size().bytes()];
            assert_eq!(
                read.run(&self.device, &mut bytes).expect("in range"),
                None,
                "{block} fails its checksum"
            );
            assert_eq!(self.ssd.finish_log_read(&read, None), ReadVerdict::Valid);
            reads.push((read, bytes));
        }
        self.settle_journal();
        self.below.change(self.device.step_count(), |below| {
            for (read, bytes) in &reads {
                overlay(&mut below[read.block.number() as usize], read, bytes);
            }
        });
        tombstones.iter().for_each(|tombstone| self.ssd.finish_tombstone(tombstone));
        reads.iter().for_each(|(read, _)| self.ssd.finish_destage(read));
        self.tamper_with_all(self.tamper.reclaimed);
        self.ssd.retire_unneeded();
        self.settle_journal();
    }

    /// All is in the log, synced, and what follows is of the next epoch.
    pub(super) fn end_epoch(&mut self) {
        self.sync();
        self.log(0..BLOCKS);
        self.sync();
        if self.dirty.iter().all(|&dirty| dirty == 0) {
            self.ends.push((self.device.step_count(), self.next));
            self.epoch += 1;
        }
    }

    /// What was flushed last, and a part of what followed it: whether this is that, for some epoch that had ended when the
    /// device was at this step.
    pub(super) fn is_an_epoch(&self, below: &[Content], step: usize) -> bool {
        let ends: Vec<u64> = self.ends.iter().filter(|end| end.0 <= step).map(|end| end.1).collect();
        let last_ends = ends.iter().skip(1).chain([&u64::MAX]);
        ends.iter().zip(last_ends).any(|(&first, &last)| {
            (0..BLOCKS).all(|number| {
                let sectors = self.events[number].iter().zip(&below[number]).enumerate();
                sectors.clone().all(|(index, (events, found))| {
                    let shown = |made: &u64| *self.shown.get(&(number, index, *made)).unwrap_or(made);
                    let oldest = events.partition_point(|&event| event <= first) - 1;
                    events[oldest..]
                        .iter()
                        .take_while(|&&event| event <= last)
                        .any(|event| shown(event) == *found)
                })
            })
        })
    }

    /// A write that goes below by another way, where the rules allow it.
    pub(super) fn write_below(&mut self, number: usize) {
        if self.epoch > 0 {
            return;
        }
        let is_busy = self.logged.iter().any(|(other, ..)| *other == number);
        if is_busy || self.dirty[number] != 0 || self.ssd.holds_back(self.block(number)) {
            return;
        }
        let version = self.version();
        self.ssd.void(self.block(number), version, VoidMark::Exact);
        self.settle_journal();
        let write = self.next;
        self.ram[number].fill(write);
        self.events[number].iter_mut().for_each(|events| events.push(write));
        self.below.change(self.device.step_count(), |below| below[number].fill(write));
        self.promised.change(self.device.step_count(), |promised| promised[number].fill(write));
    }

    /// A clean block leaves RAM.
    pub(super) fn demote(&mut self, number: usize) {
        let bytes = self.shows(number, &self.ram[number]);
        if self.dirty[number] != 0 || bytes != self.below.now()[number] {
            return;
        }
        let (block, version) = (self.block(number), self.version());
        let Demote::Append(plan) = self.ssd.plan_demote(block, version, true, 0) else { return };
        let crcs = append(&self.device, &[plan], &[&bytes_of(number, &bytes)]).expect("in range");
        if let Some(seal) = self.ssd.finish_append(&[plan], Some(&crcs)) {
            self.seal(seal);
        }
    }

    pub(super) fn seal(&mut self, seal: SealPlan) {
        self.settle_journal();
        self.device.sync().expect("works");
        seal.run(&self.device).expect("in range");
        self.ssd.finish_seal(seal, true);
    }

    pub(super) fn reclaim(&mut self) {
        while let Some(plan) = self.ssd.plan_reclaim() {
            self.ssd.plan_moves(&plan, None);
            self.ssd.finish_reclaim(&plan);
            self.settle_journal();
        }
    }

    pub(super) fn step(&mut self, random: &mut fastrand::Rng) {
        let number = random.usize(..BLOCKS);
        match random.u32(..100) {
            0..40 => {
                let start = random.usize(..size().sectors());
                self.write(number, start..random.usize(start + 1..=size().sectors()));
            }
            40..54 => {
                self.widens = random.u32(..4) == 0;
                self.log(number..BLOCKS.min(number + 5));
            }
            54..57 => self.discard(number..random.usize(number..BLOCKS.min(number + 9)) + 1),
            57..59 => self.forget(number..random.usize(number..BLOCKS.min(number + 9)) + 1),
            59..72 => self.sync(),
            72..80 => self.destage(number),
            80..82 if self.epoch > 0 => self.end_epoch(),
            80..82 => self.destage(number),
            82..86 => self.write_below(number),
            86..92 => self.demote(number),
            92..94 => {
                let seals = self.ssd.plan_seal_open();
                seals.into_iter().for_each(|seal| self.seal(seal));
            }
            94..96 => self.checkpoint(),
            96 if random.bool() => self.fail(),
            96 => self.give_up(),
            _ => self.reclaim(),
        }
    }
}

pub(super) fn overlay(content: &mut Content, read: &LogRead, bytes: &[u8]) {
    for sector in mask::runs(&read.mask, size().sectors()).flatten() {
        let at = sector * SECTOR_BYTES;
        content[sector] = write_of(read.block.number() as usize, sector, &bytes[at..at + SECTOR_BYTES]);
    }
}

/// Everything as a cache on this file and this backing store reads it.
pub(super) fn read_all(
    ssd: &mut Ssd,
    device: &MemoryDevice,
    volume: VolumeId,
    below: &[Content],
) -> Vec<Content> {
    read_all_tampered(ssd, device, volume, below, Tamper::NONE)
}

pub(super) fn read_all_tampered(
    ssd: &mut Ssd,
    device: &MemoryDevice,
    volume: VolumeId,
    below: &[Content],
    tamper: Tamper,
) -> Vec<Content> {
    let mut all = below.to_vec();
    for (number, content) in all.iter_mut().enumerate() {
        let block = BlockId::new(volume, number as u64);
        let mut bytes = vec![0; size().bytes()];
        if ssd.is_buried(block) {
            content.fill(0);
        }
        if let Some(mut read) = ssd.plan_log_read(block) {
            (tamper.read)(&mut read);
            assert_eq!(read.run(device, &mut bytes).expect("in range"), None, "{block} fails its checksum");
            assert_eq!(read.is_on_zeros, ssd.is_buried(block));
            overlay(content, &read, &bytes);
        } else if let Some(plan) = ssd.plan_read(block) {
            assert!(!ssd.is_buried(block), "a clean copy of {block} under a tombstone");
            device.read(plan.offset, &mut [IoSliceMut::new(&mut bytes)]).expect("in range");
            // A copy that was not synced may be torn: that is a miss.
            if plan.verify(&bytes) {
                for (sector, bytes) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
                    content[sector] = write_of(number, sector, bytes);
                }
            }
        }
    }
    all
}

pub(super) fn check(writer: &Writer, found: &[Content], promised: &[Content], place: &str) {
    if let Some(violation) = violation(writer, found, promised) {
        panic!("{place}: {violation}");
    }
}

pub(super) fn violation(writer: &Writer, found: &[Content], promised: &[Content]) -> Option<String> {
    for number in 0..BLOCKS {
        for sector in 0..size().sectors() {
            let (found, least) = (found[number][sector], promised[number][sector]);
            let most = writer.ram[number][sector];
            let shown = |made: u64| *writer.shown.get(&(number, sector, made)).unwrap_or(&made);
            if !(least..=most).any(|made| shown(made) == found) {
                return Some(format!(
                    "sector {sector} of block {number} is of write {found}, promised {least}, newest {most}"
                ));
            }
        }
    }
    None
}
