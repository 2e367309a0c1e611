//! Blocks that are flushed piece by piece: what that writes, and what it takes to read them.

use std::ops::Range;

use crate::block::{BlockId, BlockSize, PAGE_BYTES, SECTOR_BYTES, Version, VolumeId, mask};
use crate::testing::{Fault, MemoryDevice, Operation};

use super::super::dirty_log::chain_max;
use super::super::log_read::LogPart;
use super::super::record::page_count;
use super::super::*;

const SECTORS_A_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;
/// What a flush of a page writes: that, and the header before it.
const FLUSH_BYTES: u64 = 2 * PAGE_BYTES as u64;

/// So much at the most is read along between two copies.
const GAP_BYTES: u64 = 16 << 10;

/// The log of a tier, and what the blocks in it hold.
struct Flusher {
    ssd: Ssd,
    device: MemoryDevice,
    volume: VolumeId,
    version: Version,
    size: BlockSize,
    blocks: Vec<Vec<u8>>,
    written: Vec<SectorMask>,
    random: fastrand::Rng,
    epoch: u64,
}

impl Flusher {
    fn new(block_bytes: usize, blocks: usize, seed: u64) -> Self {
        let size = BlockSize::new(block_bytes as u64).expect("a block size");
        // Room for more than any test here writes.
        let geometry = Geometry::for_bytes(size, 256 << 20).expect("fits");
        let device = MemoryDevice::new(geometry.file_bytes());
        let mut ssd = Ssd::create(&device, geometry, SsdPolicy::default()).expect("creates");
        let volume = ssd.attach_volume("disk", None).expect("it is new");
        let version = ssd.first_version();
        let (blocks, none) = (vec![vec![0; block_bytes]; blocks], vec![0; size.mask_words()]);
        let written = vec![none.into(); blocks.len()];
        let random = fastrand::Rng::with_seed(seed);
        Self { ssd, device, volume, version, size, blocks, written, random, epoch: 0 }
    }

    fn block(&self, number: usize) -> BlockId {
        BlockId::new(self.volume, number as u64)
    }

    /// Writes these sectors and flushes them; the bytes that this took.
    fn flush(&mut self, number: usize, sectors: Range<usize>) -> u64 {
        self.flush_all(number, &[sectors])
    }

    /// The same of several ranges together.
    fn flush_all(&mut self, number: usize, ranges: &[Range<usize>]) -> u64 {
        let block = self.block(number);
        let mut words: SectorMask = vec![0; self.size.mask_words()].into();
        for range in ranges {
            self.random.fill(&mut self.blocks[number][range.start * SECTOR_BYTES..range.end * SECTOR_BYTES]);
            mask::set(&mut words, range.clone());
        }
        mask::add(&mut self.written[number], &words);
        if let Some(wanted) = self.ssd.wanted_mask(block) {
            mask::add(&mut words, &wanted);
        }
        self.version = self.version.next();
        let copy = NewCopy { block, version: self.version, mask: words, epoch: self.epoch };
        let mut plan = self.ssd.plan_record(&[copy], 0).expect("there is room");
        let bytes = plan.bytes();
        plan.run(&self.device, &[&self.blocks[number]]).expect("in range");
        self.ssd.finish_record(plan);
        let sync = self.ssd.plan_log_sync().expect("it is written");
        self.ssd.finish_log_sync(sync);
        bytes
    }

    fn page(&mut self, number: usize, page: usize) -> u64 {
        self.flush(number, page * SECTORS_A_PAGE..(page + 1) * SECTORS_A_PAGE)
    }

    fn pages(&self) -> usize {
        self.size.bytes() / PAGE_BYTES
    }

    fn plan(&mut self, number: usize) -> LogRead {
        self.ssd.plan_log_read(self.block(number)).expect("the log has it")
    }

    /// Where the pages of the copies are, the newest first.
    fn places(&mut self, number: usize) -> Vec<Range<u64>> {
        let size = self.size;
        let bytes = |part: &LogPart| u64::from(page_count(&part.mask, size)) * PAGE_BYTES as u64;
        self.plan(number).parts.iter().map(|part| part.offset..part.offset + bytes(part)).collect()
    }

    /// Reads a block and compares what was written of it; the reads that it took.
    fn check(&mut self, number: usize, what: &str) -> u64 {
        let read = self.plan(number);
        assert_eq!(read.mask, self.written[number], "{what}");
        let kept = self.ssd.dirty.dirty_copies(read.block).len();
        assert!(self.epoch > 0 || kept == read.copy_count(), "{what}: {kept} copies, and a read needs fewer");
        let mut found = vec![0xaa; self.size.bytes()];
        let before = self.device.counters();
        assert_eq!(read.run(&self.device, &mut found).expect("in range"), None, "{what}");
        let between = (read.copy_count() as u64 - 1) * GAP_BYTES;
        let bytes = self.device.counters().read_bytes - before.read_bytes;
        // What fails is read twice.
        assert!(bytes <= 2 * (read.bytes() + between), "{what}: {bytes} bytes read");
        for sector in mask::runs(&read.mask, self.size.sectors()).flatten() {
            let place = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            assert_eq!(found[place.clone()], self.blocks[number][place], "{what}, sector {sector}");
        }
        self.device.counters().reads - before.reads
    }
}

#[test]
fn a_block_that_is_flushed_page_by_page_is_never_written_as_one_and_takes_a_handful_of_reads() {
    for block_bytes in [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let seed = fastrand::u64(..);
        let mut log = Flusher::new(block_bytes, 1, seed);
        let pages = log.pages();
        for page in 0..pages {
            assert_eq!(log.page(0, page), FLUSH_BYTES, "{block_bytes}, in a row");
        }
        let what = format!("{block_bytes}, seed {seed}");
        assert_eq!(log.plan(0).copy_count(), pages, "{what}");
        let reads = log.check(0, &what);
        assert!(reads <= 5, "{what}: {reads} reads");
        for _ in 0..3 * pages {
            let page = log.random.usize(..pages);
            assert_eq!(log.page(0, page), FLUSH_BYTES, "{what}, in any order");
        }
        log.check(0, &what);
    }
}

#[test]
fn a_block_that_is_flushed_in_small_pieces_costs_less_than_a_page_more_a_flush() {
    for block_bytes in [64 << 10, 256 << 10, 1 << 20] {
        let seed = fastrand::u64(..);
        let mut log = Flusher::new(block_bytes, 1, seed);
        let (what, flushes) = (format!("{block_bytes}, seed {seed}"), 2000);
        let (mut took, mut least, mut longest) = (0, 0, 0);
        for _ in 0..flushes {
            let start = log.random.usize(..log.size.sectors());
            let sectors = start..(start + log.random.usize(1..3)).min(log.size.sectors());
            let pages = sectors.end.div_ceil(SECTORS_A_PAGE) - sectors.start / SECTORS_A_PAGE;
            least += (1 + pages as u64) * PAGE_BYTES as u64;
            took += log.flush(0, sectors);
            longest = longest.max(log.plan(0).copy_count());
        }
        assert_eq!(longest, chain_max(log.size), "{what}");
        assert!(took > least, "{what}: now and then it is written as one");
        assert!(took - least < flushes * PAGE_BYTES as u64, "{what}: {} more", took - least);
        log.check(0, &what);
    }
}

#[test]
fn blocks_of_many_copies_leave_room_for_others() {
    let mut log = Flusher::new(1 << 20, 14, 1);
    let most = log.ssd.geometry().log_copies_max() as usize;
    let (pages, mut copies) = (log.pages(), Vec::new());
    for number in 0..14 {
        (0..pages).for_each(|page| {
            log.page(number, page);
        });
        copies.push(log.plan(number).copy_count());
    }
    let full = most / 2 / pages;
    assert_eq!(copies[..full], vec![pages; full]);
    assert!(copies[full + 1..].iter().all(|&copies| copies <= 64), "{copies:?}");
    assert!(log.ssd.dirty_load() < 0.75);
}

/// Copies of earlier epochs, which stay until they are below, were counted with those that a read needs: from the 64th
/// flush of a block on each flush wrote all of its dirty sectors.
#[test]
fn a_block_in_order_is_written_as_one_no_more_often_than_one_without() {
    let mut log = Flusher::new(64 << 10, 1, 1);
    let most = chain_max(log.size);
    let mut as_one = 0;
    for number in 1..=4 * most {
        log.epoch += 1;
        let took = log.flush(0, number % log.size.sectors()..number % log.size.sectors() + 1);
        as_one += usize::from(took > FLUSH_BYTES);
        assert!(log.plan(0).copy_count() <= most);
    }
    assert!((1..=4).contains(&as_one), "{as_one} times");
    log.check(0, "in order");
}

#[test]
fn copies_near_each_other_and_far_apart_are_laid_over_one_another_in_the_order_of_their_flushes() {
    let seed = fastrand::u64(..);
    for (round, block_bytes) in [(1, 16 << 10), (2, 64 << 10), (3, 1 << 20), (4, 1 << 20)] {
        let mut log = Flusher::new(block_bytes, 12, seed.wrapping_add(round));
        let what = format!("seed {seed}, round {round}");
        let (mut reads, mut copies) = (0, 0);
        for flush in 0..600 {
            // One block for a while, so that some of its copies are neighbours.
            let number = if log.random.u32(..4) == 0 { log.random.usize(..12) } else { flush / 50 };
            let longest = if log.random.u32(..30) == 0 { log.size.sectors() } else { 20 };
            let count = log.random.usize(1..4);
            let ranges: Vec<Range<usize>> = std::iter::repeat_with(|| {
                let start = log.random.usize(..log.size.sectors());
                start..(start + 1 + log.random.usize(..longest)).min(log.size.sectors())
            })
            .take(count)
            .collect();
            log.flush_all(number, &ranges);
            if flush % 10 == 9 {
                copies += log.plan(number).copy_count() as u64;
                reads += log.check(number, &what);
            }
        }
        assert!(reads < copies, "{what}: {reads} reads of {copies} copies");
    }
}

#[test]
fn a_place_that_cannot_be_read_spoils_the_copy_that_is_there_and_no_other() {
    let mut log = Flusher::new(64 << 10, 2, 1);
    for page in [5, 3, 5, 9, 14] {
        log.page(0, page);
        log.page(1, page);
    }
    let cannot = |log: &Flusher, range: Range<u64>| {
        log.device.clear_faults();
        log.device.fail(Fault::every(Operation::Read).within(range));
    };
    let places = log.places(0);
    assert_eq!(places.len(), 4, "what was overwritten is not read");
    assert_eq!(log.check(0, "all can be read"), 1);
    for pair in places.windows(2) {
        let (newer, older) = (&pair[0], &pair[1]);
        cannot(&log, older.end..newer.start);
        assert_eq!(log.check(0, "a place between two copies"), 5, "all at once, and one by one");
    }
    for place in &places {
        // A sector of it.
        cannot(&log, place.start + 512..place.start + 1024);
        let (read, mut bytes) = (log.plan(0), vec![0; 64 << 10]);
        let error = read.run(&log.device, &mut bytes).expect_err("a copy cannot be read");
        assert!(
            error.to_string().contains(&place.start.to_string()),
            "{error} names the copy at {}",
            place.start
        );
        let beside: Vec<u64> =
            places.iter().map(|other| other.start).filter(|&at| at != place.start).collect();
        let mut rest = read.clone();
        rest.parts.retain(|part| beside.contains(&part.offset));
        assert_eq!(rest.run(&log.device, &mut bytes).expect("the others can be"), None);
        assert!(log.check(1, "another block") <= 5);
    }
    log.device.clear_faults();
    log.check(0, "the place can be read again");
}

#[test]
fn of_copies_that_come_by_one_read_the_one_that_was_changed_is_named() {
    let mut log = Flusher::new(64 << 10, 1, 1);
    (0..6).for_each(|page| {
        log.page(0, page);
    });
    let read = log.plan(0);
    for part in &read.parts {
        log.device.flip_bit(part.offset + 1000, 3);
        let mut bytes = vec![0; 64 << 10];
        let before = log.device.counters().reads;
        assert_eq!(read.run(&log.device, &mut bytes).expect("in range"), Some(part.version));
        assert_eq!(log.device.counters().reads, before + 1);
        log.device.flip_bit(part.offset + 1000, 3);
    }
    log.check(0, "nothing is changed");
}
