//! Blocks newer than the backing store: what was synced to the log is there wherever the power fails, and nothing older
//! comes back.

use std::collections::BTreeSet;

use crate::block::{BlockId, BlockSize, SECTOR_BYTES, Version, VolumeId, mask};
use crate::device::Device;

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{IDENTITY, checkpoint};

const BLOCKS: usize = 24;
/// Blocks that fit the cache file.
const ROOM: u64 = 64;

fn size() -> BlockSize {
    BlockSize::new(16 << 10).expect("a power of two")
}

fn geometry() -> Geometry {
    Geometry::for_blocks(size(), ROOM).expect("fits")
}

/// What one sector holds: the number of the write that it is from.
type Content = Vec<u64>;

fn bytes_of(block: usize, content: &[u64]) -> Vec<u8> {
    let sector = |(index, &write): (usize, &u64)| {
        let word = write << 24 | (block as u64) << 8 | index as u64;
        word.to_le_bytes().repeat(SECTOR_BYTES / 8)
    };
    content.iter().enumerate().flat_map(sector).collect()
}

/// The write that a sector is from; panics when it is not one of this place.
fn write_of(block: usize, index: usize, bytes: &[u8]) -> u64 {
    let word = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert_eq!((word >> 8 & 0xffff, word & 0xff), (block as u64, index as u64), "a sector of another place");
    assert!(bytes.chunks_exact(8).all(|part| part == word.to_le_bytes()), "a torn sector");
    word >> 24
}

/// Contents by the step of the device at which they came to be.
struct History(Vec<(usize, Vec<Content>)>);

impl History {
    fn new() -> Self {
        Self(vec![(0, vec![vec![0; size().sectors()]; BLOCKS])])
    }

    fn now(&self) -> &Vec<Content> {
        &self.0.last().expect("never empty").1
    }

    fn at(&self, step: usize) -> &Vec<Content> {
        &self.0.iter().rev().find(|entry| entry.0 <= step).expect("the first is at step 0").1
    }

    fn change(&mut self, step: usize, change: impl FnOnce(&mut Vec<Content>)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.0.push((step, next));
    }
}

/// A cache above with all its blocks in RAM, one call after the other.
struct Writer {
    ssd: Ssd,
    device: MemoryDevice,
    volume: VolumeId,
    next: u64,
    /// The newest content, and which sectors of it are neither below nor in the log.
    ram: Vec<Content>,
    dirty: Vec<u64>,
    /// Content of the blocks whose record is not durable.
    logged: Vec<(usize, Content)>,
    below: History,
    promised: History,
}

impl Writer {
    fn new() -> Self {
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
            dirty: vec![0; BLOCKS],
            logged: Vec::new(),
            below: History::new(),
            promised: History::new(),
        };
        writer.settle_journal();
        writer.device.keep_steps();
        writer
    }

    fn block(&self, number: usize) -> BlockId {
        BlockId::new(self.volume, number as u64)
    }

    fn version(&mut self) -> Version {
        self.next += 1;
        Version::from_u64(self.ssd.first_version().as_u64() + self.next)
    }

    fn settle_journal(&mut self) {
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
    fn after_power_loss(&self, kept: usize, random: &mut fastrand::Rng, place: &str) -> Self {
        let device = self.device.after_power_loss(kept, || random.bool());
        device.keep_steps();
        let mut ssd = Ssd::open_early(&device, geometry(), SsdPolicy::default()).expect("opens");
        let below = self.below.at(kept).clone();
        let ram = read_all(&mut ssd, &device, self.volume, &below);
        check(&ram, self.promised.at(kept), &self.ram, place);
        let (below, promised) = (History(vec![(0, below)]), History(vec![(0, ram.clone())]));
        Self {
            ssd,
            device,
            volume: self.volume,
            next: self.next,
            ram,
            dirty: vec![0; BLOCKS],
            logged: Vec::new(),
            below,
            promised,
        }
    }

    /// What is not newer in RAM is read from the SSD or below as it is there.
    fn check_clean(&mut self, place: &str) {
        let found = read_all(&mut self.ssd, &self.device, self.volume, self.below.now());
        for number in 0..BLOCKS {
            let is_newer = self.dirty[number] != 0 || self.logged.iter().any(|(logged, _)| *logged == number);
            assert!(is_newer || found[number] == self.ram[number], "{place}: block {number}");
        }
    }

    fn checkpoint(&mut self) {
        assert!(checkpoint(&mut self.ssd, &self.device, false));
    }

    fn write(&mut self, number: usize, sectors: std::ops::Range<usize>) {
        let version = self.version();
        self.ssd.void_clean(self.block(number), version);
        self.ram[number][sectors.clone()].fill(self.next);
        mask::set(&mut self.dirty[number..=number], sectors);
    }

    /// Puts the dirty ones of `numbers` into the log, not synced.
    fn log(&mut self, numbers: impl Iterator<Item = usize>) {
        let is_under_way = |number: &usize| self.logged.iter().any(|(other, _)| other == number);
        let numbers: Vec<usize> =
            numbers.filter(|number| self.dirty[*number] != 0 && !is_under_way(number)).collect();
        let mut copies = Vec::new();
        for &number in &numbers {
            let (block, version) = (self.block(number), self.version());
            let mut mask: SectorMask = Box::new([self.dirty[number]]);
            if let Some(older) = self.ssd.dirty_mask(block) {
                mask::add(&mut mask, older);
            }
            copies.push(NewCopy { block, version, mask });
        }
        let mut rest = &copies[..];
        while !rest.is_empty() {
            let Some(mut plan) = self.ssd.plan_record(rest, 0) else { return };
            let (now, later) = rest.split_at(plan.block_count());
            let numbers: Vec<usize> = now.iter().map(|copy| copy.block.number() as usize).collect();
            let data: Vec<Vec<u8>> =
                numbers.iter().map(|&number| bytes_of(number, &self.ram[number])).collect();
            let data: Vec<&[u8]> = data.iter().map(|bytes| &bytes[..]).collect();
            plan.run(&self.device, &data).expect("in range");
            self.ssd.finish_record(plan);
            for number in numbers {
                self.dirty[number] = 0;
                self.logged.push((number, self.ram[number].clone()));
            }
            rest = later;
        }
    }

    fn sync(&mut self) {
        let Some(sync) = self.ssd.plan_log_sync() else { return };
        self.device.sync().expect("works");
        self.ssd.finish_log_sync(sync);
        let logged = std::mem::take(&mut self.logged);
        self.promised.change(self.device.step_count(), |promised| {
            for (number, content) in logged {
                promised[number] = content;
            }
        });
    }

    /// The device fails, and works again: what was not synced goes to the log once more.
    fn give_up(&mut self) {
        self.ssd.give_records_up();
        for (number, _) in std::mem::take(&mut self.logged) {
            self.dirty[number] = u64::from(u32::MAX);
        }
        self.checkpoint();
    }

    fn destage(&mut self, from: usize) {
        let run = self.ssd.dirty_run(self.volume, from as u64, 4);
        let mut reads = Vec::new();
        for block in run {
            let read = self.ssd.plan_log_read(block).expect("a dirty block is in the log");
            let mut bytes = vec![0; size().bytes()];
            assert!(read.run(&self.device, &mut bytes).expect("in range"), "{block} fails its checksum");
            assert_eq!(self.ssd.finish_log_read(&read, true), ReadVerdict::Valid);
            reads.push((read, bytes));
        }
        self.settle_journal();
        self.below.change(self.device.step_count(), |below| {
            for (read, bytes) in &reads {
                overlay(&mut below[read.block.number() as usize], read, bytes);
            }
        });
        reads.iter().for_each(|(read, _)| self.ssd.finish_destage(read));
        self.ssd.retire_unneeded();
        self.settle_journal();
    }

    /// A write that goes below by another way, where the rules allow it.
    fn write_below(&mut self, number: usize) {
        let is_busy = self.logged.iter().any(|(other, _)| *other == number);
        if is_busy || self.dirty[number] != 0 || self.ssd.dirty_mask(self.block(number)).is_some() {
            return;
        }
        let version = self.version();
        self.ssd.void(self.block(number), version, VoidMark::Exact);
        self.settle_journal();
        let write = self.next;
        self.ram[number].fill(write);
        self.below.change(self.device.step_count(), |below| below[number].fill(write));
        self.promised.change(self.device.step_count(), |promised| promised[number].fill(write));
    }

    /// A clean block leaves RAM.
    fn demote(&mut self, number: usize) {
        if self.dirty[number] != 0 || self.ram[number] != self.below.now()[number] {
            return;
        }
        let (block, version) = (self.block(number), self.version());
        let Demote::Append(plan) = self.ssd.plan_demote(block, version, true, 0) else { return };
        let crcs = append(&self.device, &[plan], &[&bytes_of(number, &self.ram[number])]).expect("in range");
        if let Some(seal) = self.ssd.finish_append(&[plan], Some(&crcs)) {
            self.seal(seal);
        }
    }

    fn seal(&mut self, seal: SealPlan) {
        self.settle_journal();
        self.device.sync().expect("works");
        seal.run(&self.device).expect("in range");
        self.ssd.finish_seal(seal, true);
    }

    fn reclaim(&mut self) {
        while let Some(plan) = self.ssd.plan_reclaim() {
            self.ssd.plan_moves(&plan, None);
            self.ssd.finish_reclaim(&plan);
            self.settle_journal();
        }
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        let number = random.usize(..BLOCKS);
        match random.u32(..100) {
            0..40 => {
                let start = random.usize(..size().sectors());
                self.write(number, start..random.usize(start + 1..=size().sectors()));
            }
            40..58 => self.log(number..BLOCKS.min(number + 5)),
            58..72 => self.sync(),
            72..82 => self.destage(number),
            82..86 => self.write_below(number),
            86..92 => self.demote(number),
            92..94 => {
                let seals = self.ssd.plan_seal_open();
                seals.into_iter().for_each(|seal| self.seal(seal));
            }
            94..96 => self.checkpoint(),
            96 => self.give_up(),
            _ => self.reclaim(),
        }
    }
}

fn overlay(content: &mut Content, read: &LogRead, bytes: &[u8]) {
    for sector in mask::runs(&read.mask, size().sectors()).flatten() {
        let at = sector * SECTOR_BYTES;
        content[sector] = write_of(read.block.number() as usize, sector, &bytes[at..at + SECTOR_BYTES]);
    }
}

/// Everything as a cache on this file and this backing store reads it.
fn read_all(ssd: &mut Ssd, device: &MemoryDevice, volume: VolumeId, below: &[Content]) -> Vec<Content> {
    let mut all = below.to_vec();
    for (number, content) in all.iter_mut().enumerate() {
        let block = BlockId::new(volume, number as u64);
        let mut bytes = vec![0; size().bytes()];
        if let Some(read) = ssd.plan_log_read(block) {
            assert!(read.run(device, &mut bytes).expect("in range"), "{block} fails its checksum");
            overlay(content, &read, &bytes);
        } else if let Some(plan) = ssd.plan_read(block) {
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

fn check(found: &[Content], promised: &[Content], newest: &[Content], place: &str) {
    for number in 0..BLOCKS {
        for sector in 0..size().sectors() {
            let (found, least) = (found[number][sector], promised[number][sector]);
            let most = newest[number][sector];
            assert!(
                (least..=most).contains(&found),
                "{place}: sector {sector} of block {number} is of write {found}, promised {least}, newest {most}"
            );
        }
    }
}

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
        check(&first, promised, &writer.ram, &place);
        if kept % 3 != 0 {
            continue;
        }
        // The power fails again: while the file is opened anything promised will do, and after it only what was read.
        let cut = random.usize(..=device.step_count());
        let during = device.after_power_loss(cut, || random.bool());
        let mut ssd = open(&during, &place);
        check(
            &read_all(&mut ssd, &during, writer.volume, below),
            promised,
            &writer.ram,
            &format!("{place}, cut at {cut} of opening"),
        );
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
        (0..bytes.len()).step_by(4096).filter(|&at| bytes[at..at + 8] == *b"TERRREC1").collect();
    assert_eq!(headers.len(), 3);
    for at in headers {
        let mut bad = bytes.clone();
        bad[at + 70] ^= 1;
        assert!(is_damaged(&bad), "the record at {at}");
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
    assert_eq!(writer.ssd.finish_log_read(&read, false), ReadVerdict::Corrupt);
    assert!(
        writer.ssd.plan_log_read(block).is_some_and(|read| read.is_dirty),
        "no older copy takes its place"
    );
    assert!(writer.ssd.dirty_run(writer.volume, 0, 4).is_empty(), "it cannot be destaged");
    writer.ssd.retire_unneeded();
    writer.write(0, 0..32);
    writer.log(0..1);
    writer.sync();
    assert_eq!(writer.ssd.dirty_run(writer.volume, 0, 4), vec![block]);
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
