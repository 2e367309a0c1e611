//! The process that is killed.

use std::io::Read;
use std::ops::Range;

use terrace::Volume;

use super::log::{Event, Log, Record};
use super::oracle::{sector_of, value_of};
use super::{Files, SECTOR, SECTORS, THREADS, VOLUMES, modes};

/// Each thread owns every [`THREADS`]th stretch of so many sectors: neighbours share blocks of 8.
const STRETCH: usize = 13;

/// One thread of the child, and what it knows of its sectors.
struct Writer<'a> {
    thread: usize,
    log: &'a Log,
    random: fastrand::Rng,
    /// The value of its last write; higher than any of an earlier life.
    last: u64,
    known: [Vec<Option<u64>>; VOLUMES],
}

impl<'a> Writer<'a> {
    fn new(thread: usize, log: &'a Log, life: u64, seed: u64) -> Self {
        let known = std::array::from_fn(|_| vec![None; SECTORS]);
        let random = fastrand::Rng::with_seed(seed.wrapping_mul(31).wrapping_add(thread as u64));
        Self { thread, log, random, last: (life + 1) << 32, known }
    }

    /// Some neighbouring sectors of its own.
    fn range(&mut self) -> Range<usize> {
        let stretches = SECTORS.div_ceil(STRETCH);
        let own = (stretches - self.thread).div_ceil(THREADS);
        let start = (self.random.usize(..own) * THREADS + self.thread) * STRETCH;
        let end = (start + STRETCH).min(SECTORS);
        let first = self.random.usize(start..end);
        first..self.random.usize(first..end) + 1
    }

    fn run(&mut self, volumes: &[Volume; VOLUMES], operations: usize) {
        for _ in 0..operations {
            let index = self.random.usize(..VOLUMES);
            match self.random.u8(..40) {
                0..24 => self.write(index, &volumes[index]),
                24..39 => self.read(index, &volumes[index]),
                _ => flush(self.log, self.thread, index, &volumes[index]),
            }
        }
    }

    fn write(&mut self, index: usize, volume: &Volume) {
        let range = self.range();
        self.last += 1;
        let value = self.last;
        let data: Vec<u8> = range.clone().flat_map(|sector| sector_of(index, sector, value)).collect();
        let (first, count) = (range.start as u32, range.len() as u8);
        let record = Record { first, count, value, ..Record::of(Event::Begun, self.thread, index) };
        self.log.append(record);
        volume.write((range.start * SECTOR) as u64, &data).expect("a write succeeds");
        self.log.append(Record { event: Event::Acknowledged, ..record });
        self.known[index][range].fill(Some(value));
    }

    /// Its sectors read as it wrote them, or as it saw them first.
    fn read(&mut self, index: usize, volume: &Volume) {
        let range = self.range();
        let mut data = vec![0; range.len() * SECTOR];
        volume.read((range.start * SECTOR) as u64, &mut data).expect("a read succeeds");
        for (sector, bytes) in range.zip(data.chunks_exact(SECTOR)) {
            let found = value_of(index, sector, bytes).expect("a whole sector");
            let known = *self.known[index][sector].get_or_insert(found);
            assert_eq!(known, found, "sector {sector} of volume {index} changed by itself");
        }
    }
}

fn flush(log: &Log, thread: usize, index: usize, volume: &Volume) {
    log.append(Record::of(Event::Flushing, thread, index));
    volume.flush().expect("a flush succeeds");
    log.append(Record::of(Event::Flushed, thread, index));
}

/// Writes, flushes, closes and reopens until it is killed, or its parent is gone.
pub(super) fn be_the_child(part: &str) -> ! {
    let mut words = part.splitn(3, ' ');
    let mut word = || words.next().expect("three words");
    let mut number = || word().parse::<u64>().expect("a number");
    let (life, seed) = (number(), number());
    let files = Files { folder: word().into() };
    std::thread::spawn(|| {
        // The parent holds the other end and never writes: this ends with the parent.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let log = Log::create(&files.log(life));
    let mut writers: [Writer<'_>; THREADS] =
        std::array::from_fn(|thread| Writer::new(thread, &log, life, seed));
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let (cache, volumes) = files.open(modes(seed));
        log.append(Record::of(Event::Opened, THREADS, 0));
        let operations = random.usize(1..400);
        std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.run(&volumes, operations));
            }
        });
        (0..VOLUMES).for_each(|index| log.append(Record::of(Event::Flushing, THREADS, index)));
        log.append(Record::of(Event::Closing, THREADS, 0));
        cache.close().expect("the cache closes");
        (0..VOLUMES).for_each(|index| log.append(Record::of(Event::Flushed, THREADS, index)));
    }
}
