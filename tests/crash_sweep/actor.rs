//! Makes a cache do the steps of a script, and notes what is written and promised.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use terrace::tiers::device::Identity;
use terrace::tiers::mark::{DeviceMark, MarkPlace};
use terrace::tiers::testing::MemoryDevice;
use terrace::{
    AttachOptions, Background, Cache, Config, Device, Error, RamSize, SsdConfig, SsdSize, StaleSsd, Volume,
    WriteMode,
};

use super::common::{BLOCK, small, ssd_bytes};
use super::content::{self, Found, SECTOR};
use super::history::{Life, Mark, Marks};
use super::script::{SSD_GROWTH, Script, Step, outlives_process};
use super::sweep::Tally;

pub(crate) const BLOCK_SECTORS: u64 = (BLOCK / SECTOR) as u64;
/// What a broken SSD may fail, before it is switched off and the cache closes without it.
const FAILURES_BEFORE_A_CLOSE: usize = 10;
/// For each device of a cache whose life is recorded.
pub(crate) const THREADS: u32 = 3;

/// What a cache stands on.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) ssd: Arc<dyn Device>,
    /// One for each volume.
    pub(crate) disks: Vec<Arc<dyn Device>>,
    /// Where the mark of each volume is.
    pub(crate) marks: Vec<Arc<dyn Device>>,
}

impl Stage {
    /// New devices, recorded in the journal of `marks`, the SSD first.
    pub(crate) fn recorded(script: &Script, marks: &Marks) -> Self {
        let disk_bytes = script.disk_bytes();
        let resizes = script.mixture.iter().any(|(_, step)| *step == Step::ResizeSsd);
        // The layout of a few blocks less may be the larger one.
        let ssd_blocks = if resizes { 2 * SSD_GROWTH * script.ssd_blocks } else { script.ssd_blocks };
        let disks = script.modes.iter().map(|_| disk_bytes);
        let places = script.modes.iter().map(|_| DeviceMark::BYTES);
        let sizes = [ssd_bytes(ssd_blocks)].into_iter().chain(disks).chain(places);
        Self::of(sizes.map(MemoryDevice::new), Some(marks))
    }

    /// The SSD first, then the disks, then their marks.
    pub(crate) fn of(devices: impl IntoIterator<Item = MemoryDevice>, marks: Option<&Marks>) -> Self {
        let mut devices = devices.into_iter().map(|device| match marks {
            Some(marks) => Arc::new(device.recorded_in(&marks.journal)),
            None => Arc::new(device),
        });
        let ssd = devices.next().expect("the SSD is the first device");
        let mut disks: Vec<_> = devices.map(|disk| -> Arc<dyn Device> { disk }).collect();
        let marks = disks.split_off(disks.len() / 2);
        Self { ssd, disks, marks }
    }
}

/// A device as one process has it.
struct OfProcess {
    inner: Arc<dyn Device>,
    is_dead: Arc<AtomicBool>,
    /// It takes no writes and syncs any more.
    is_broken: Arc<AtomicBool>,
    /// Other threads get a turn before each call, so that their calls come in any order.
    is_shaken: bool,
}

impl OfProcess {
    fn alive(&self, action: &'static str) -> terrace::tiers::Result<&dyn Device> {
        if self.is_shaken {
            std::thread::yield_now();
        }
        if self.is_dead.load(Ordering::SeqCst) {
            let (device, source) = (self.name(), std::io::Error::other("the process is dead"));
            return Err(terrace::tiers::Error::Device { action, device, offset: 0, bytes: 0, source });
        }
        if self.is_broken.load(Ordering::SeqCst) && action != "read" {
            let (device, source) = (self.name(), std::io::Error::other("it is broken"));
            return Err(terrace::tiers::Error::Device { action, device, offset: 0, bytes: 0, source });
        }
        Ok(&*self.inner)
    }
}

impl Device for OfProcess {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> terrace::tiers::Result<()> {
        self.alive("read")?.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> terrace::tiers::Result<()> {
        self.alive("write")?.write(offset, buffers)
    }

    fn sync(&self) -> terrace::tiers::Result<()> {
        self.alive("sync")?.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> terrace::tiers::Result<()> {
        self.alive("discard")?.discard(offset, bytes)
    }

    /// Nobody looks changed, as a raw disk, or a file whose time of change was lost with the power: what is believed
    /// after a crash must not hang on that.
    fn identity(&self) -> Option<Identity> {
        self.inner.identity().map(|identity| Identity { modified_ns: 0, ..identity })
    }
}

/// A cache with all volumes of a script.
pub(crate) struct Opened {
    pub(crate) cache: Cache,
    pub(crate) volumes: Vec<Volume>,
    /// Its process is dead: nothing that it does gets through any more.
    is_dead: Arc<AtomicBool>,
    /// The SSD takes nothing.
    is_ssd_broken: Arc<AtomicBool>,
    /// The disk of the first volume does not.
    is_disk_broken: Arc<AtomicBool>,
    is_shaken: bool,
    ssd: SsdConfig,
}

impl Opened {
    /// With so many threads for each device, of which a script that is the same each time has one.
    pub(crate) fn new(script: &Script, stage: &Stage, threads: u32) -> Result<Self, Error> {
        let threads = if script.background == Background::OnSettle { 1 } else { threads };
        let is_dead = Arc::new(AtomicBool::new(false));
        let is_ssd_broken = Arc::new(AtomicBool::new(false));
        let is_disk_broken = Arc::new(AtomicBool::new(false));
        let (inner, is_shaken) = (stage.ssd.clone(), threads > 1);
        let (dead, broken) = (is_dead.clone(), is_ssd_broken.clone());
        let ssd = Arc::new(OfProcess { inner, is_dead: dead, is_broken: broken, is_shaken });
        let ssd = SsdConfig::on_device(ssd, SsdSize::Blocks(script.ssd_blocks));
        let cache = Cache::open(&config(script, &ssd, threads))?;
        let mut opened =
            Self { cache, volumes: Vec::new(), is_dead, is_ssd_broken, is_disk_broken, is_shaken, ssd };
        for (index, &mode) in script.modes.iter().enumerate() {
            let volume = opened.attach(script, stage, index, mode)?;
            opened.volumes.push(volume);
        }
        Ok(opened)
    }

    fn attach(&self, script: &Script, stage: &Stage, index: usize, mode: WriteMode) -> Result<Volume, Error> {
        let with = |inner: &Arc<dyn Device>, is_broken: Arc<AtomicBool>| -> Arc<dyn Device> {
            let (inner, is_dead, is_shaken) = (inner.clone(), self.is_dead.clone(), self.is_shaken);
            Arc::new(OfProcess { inner, is_dead, is_broken, is_shaken })
        };
        let mark: Arc<dyn MarkPlace> = Arc::new(DeviceMark::new(with(&stage.marks[index], Arc::default())));
        let place = Place { mark, exclusive: script.exclusive };
        let breaks = if index == 0 { self.is_disk_broken.clone() } else { Arc::default() };
        let disk = with(&stage.disks[index], breaks);
        attach(&self.cache, &format!("disk {index}"), &disk, mode, &place)
    }

    /// What each volume holds, and how many of its blocks came from the SSD.
    pub(crate) fn read_all(&self, script: &Script) -> Result<(Vec<Vec<Found>>, u64), Error> {
        let mut ssd_blocks = 0;
        let mut all = Vec::new();
        for volume in &self.volumes {
            all.push(script.read_all(|offset, bytes| {
                volume.read(offset, bytes).map(|read| ssd_blocks += u64::from(read.ssd_blocks))
            })?);
        }
        Ok((all, ssd_blocks))
    }
}

/// Where the mark of a volume is, and whether nobody but the cache writes to the volume.
struct Place {
    mark: Arc<dyn MarkPlace>,
    exclusive: bool,
}

/// Nothing that was promised is on an SSD alone that the volume was written past: it may be forgotten.
fn attach(
    cache: &Cache,
    name: &str,
    disk: &Arc<dyn Device>,
    mode: WriteMode,
    place: &Place,
) -> Result<Volume, Error> {
    let Place { mark, exclusive } = place;
    let given = AttachOptions { mark: Some(mark.clone()), exclusive: *exclusive, ..AttachOptions::default() };
    let options = |stale_ssd| AttachOptions { stale_ssd, ..given.clone() };
    match cache.attach_with(name, disk.clone(), mode, &options(StaleSsd::Refuse)) {
        Err(Error::SsdOlder { .. }) => {
            cache.attach_with(name, disk.clone(), mode, &options(StaleSsd::Forget))
        }
        attached => attached,
    }
}

/// As little of everything as there can be, so that all of it is used again and again.
fn config(script: &Script, ssd: &SsdConfig, threads: u32) -> Config {
    Config {
        slack_blocks: Some(script.slack_blocks),
        disk_threads: threads,
        ssd_threads: threads,
        // Copies of what no sync covers are whole on the SSD before one comes by itself.
        writeback_delay_ms: if script.exclusive { 50 } else { 1 },
        background: script.background,
        ordered_destage: script.ordered,
        ssd: Some(ssd.clone()),
        ..small(script.ram_blocks)
    }
}

pub(crate) struct Actor<'a> {
    script: &'a Script,
    stage: Stage,
    pub(crate) life: Life,
    opened: Opened,
    random: fastrand::Rng,
    /// What the caches counted that were closed.
    pub(crate) tally: Tally,
    /// How often the process has died.
    deaths: u32,
    /// Of the last write.
    pub(crate) number: u64,
    /// Volume, sector and sectors of the last write.
    last: (usize, u64, u64),
}

impl<'a> Actor<'a> {
    pub(crate) fn new(
        script: &'a Script,
        stage: Stage,
        life: Life,
        opened: Opened,
        random: fastrand::Rng,
    ) -> Self {
        let tally = Tally::default();
        Self { script, stage, life, opened, random, tally, deaths: 0, number: 0, last: (0, 0, 1) }
    }

    /// # Errors
    /// What went wrong while the power was on.
    pub(crate) fn act(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            let step = self.script.draw(&mut self.random);
            self.step(step).map_err(|error| format!("{step:?}: {error}"))??;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<Result<(), String>, Error> {
        let volume = self.random.usize(..self.opened.volumes.len());
        // What a volume has that nobody takes stays in RAM, and nobody waits for room there for ever.
        let volume = volume.max(usize::from(self.is_disk_broken()));
        let block = self.block();
        let left = self.script.left_from(block);
        match step {
            Step::WritePart => {
                let start = self.random.u64(..BLOCK_SECTORS);
                let count = self.random.u64(1..=BLOCK_SECTORS - start);
                self.write(volume, block * BLOCK_SECTORS + start, count)?;
            }
            Step::WriteBlocks => {
                let count = self.random.u64(1..=left.min(4));
                self.write(volume, block * BLOCK_SECTORS, count * BLOCK_SECTORS)?;
            }
            Step::WriteBeside => {
                let count = self.random.u64(1..=left.min(4));
                self.write_beside(volume, block, count)?;
            }
            Step::WriteAgain => {
                let (volume, sector, count) = self.last;
                self.write(volume, sector, self.random.clone().u64(1..=count))?;
            }
            Step::Discard => {
                let start = self.random.u64(..BLOCK_SECTORS);
                let count = self.random.u64(1..=left.min(4) * BLOCK_SECTORS - start);
                self.discard(volume, block * BLOCK_SECTORS + start, count)?;
            }
            Step::Forget => {
                self.opened.volumes[volume].flush()?;
                self.promise(volume);
                let count = self.random.u64(1..=left.min(4));
                self.forget(volume, block * BLOCK_SECTORS, count * BLOCK_SECTORS)?;
            }
            Step::ChangeMode => {
                let changes = self.script.changes;
                self.opened.volumes[volume].set_mode(changes[self.random.usize(..changes.len())])?;
            }
            Step::Detach => {
                self.opened.volumes[volume].detach()?;
                self.promise(volume);
                let mode = self.random.choice(self.script.changes).unwrap_or(&self.script.modes[volume]);
                self.opened.volumes[volume] = self.opened.attach(self.script, &self.stage, volume, *mode)?;
            }
            Step::Read => {
                let count = self.random.u64(1..=left.min(4));
                return self.read(volume, block * BLOCK_SECTORS, count * BLOCK_SECTORS);
            }
            Step::Scan => return self.scan(volume),
            Step::Flush => {
                let flushed = self.opened.volumes[volume].flush();
                // A log that fails fails a few flushes, before it is left.
                if flushed.is_err() && self.is_ssd_broken() {
                    return Ok(Ok(()));
                }
                flushed?;
                self.promise(volume);
            }
            Step::FlushBehind => {
                let (marks, number) = (self.life.marks.clone(), self.number);
                self.opened.volumes[volume].flush_with(move |result| {
                    if result.is_ok() {
                        marks.push(Mark::Durable { volume, number });
                    }
                });
            }
            Step::Settle => {
                let settled = self.opened.cache.settle();
                if settled.is_err() && self.is_disk_broken() {
                    return Ok(Ok(()));
                }
                settled?;
                self.promise_all();
            }
            Step::ResizeRam => {
                let blocks = self.random.u64(8..3 * self.script.ram_blocks);
                self.opened.cache.resize_ram(RamSize::Blocks(blocks))?;
            }
            Step::ResizeSsd => {
                let blocks = self.script.ssd_blocks;
                let blocks = self.random.u64(blocks / 2..=SSD_GROWTH * blocks);
                self.opened.cache.resize_ssd(SsdSize::Blocks(blocks))?;
            }
            Step::Reopen => {
                self.close()?;
                self.opened = Opened::new(self.script, &self.stage, THREADS)?;
            }
            Step::Die => return self.die(),
            Step::BreakSsd => self.opened.is_ssd_broken.store(true, Ordering::SeqCst),
            Step::BreakDisk if self.is_disk_broken() => {}
            Step::BreakDisk => {
                self.opened.volumes[0].flush()?;
                self.promise(0);
                self.opened.is_disk_broken.store(true, Ordering::SeqCst);
                // No more than others can go on beside when it finds no room in the log.
                self.write(0, block * BLOCK_SECTORS, left.min(2) * BLOCK_SECTORS)?;
                if self.opened.volumes[0].flush().is_ok() {
                    self.promise(0);
                }
            }
            Step::MendDisk => self.opened.is_disk_broken.store(false, Ordering::SeqCst),
            Step::DetachSsd => {
                let detached = self.opened.cache.detach_ssd();
                if !self.is_ssd_broken() {
                    detached?;
                }
            }
            Step::AttachSsd => {
                if !self.is_ssd_broken() && !self.opened.cache.stats().ssd_in_use {
                    self.opened.cache.attach_ssd(&self.opened.ssd)?;
                }
            }
        }
        Ok(Ok(()))
    }

    /// Three of four times one of the first quarter.
    fn block(&mut self) -> u64 {
        let blocks = self.script.blocks;
        if self.random.u8(..4) == 0 { self.random.u64(..blocks) } else { self.random.u64(..blocks / 4) }
    }

    fn write(&mut self, volume: usize, sector: u64, count: u64) -> Result<(), Error> {
        let data = self.begin(volume, sector, count);
        self.opened.volumes[volume].write(self.script.offset_of(sector), &data).map(drop)
    }

    fn discard(&mut self, volume: usize, sector: u64, count: u64) -> Result<(), Error> {
        self.note_begun(volume, sector, count, true);
        self.opened.volumes[volume].discard(self.script.offset_of(sector), count * SECTOR as u64)
    }

    /// What is left then is what the backing store has.
    fn forget(&mut self, volume: usize, first: u64, count: u64) -> Result<(), Error> {
        self.number += 1;
        let number = self.number;
        self.life.marks.push(Mark::Begun { volume, number });
        self.opened.volumes[volume].forget(self.script.offset_of(first), count * SECTOR as u64)?;
        self.life.marks.push(Mark::Kept { volume, first, count, number });
        let mut bytes = vec![0; count as usize * SECTOR];
        self.opened.volumes[volume].read(self.script.offset_of(first), &mut bytes)?;
        self.life.histories[volume].note_found(first, number, content::found(first, &bytes));
        Ok(())
    }

    fn write_beside(&mut self, volume: usize, block: u64, count: u64) -> Result<(), Error> {
        let (sender, receiver) = mpsc::channel();
        let first = self.number + 1;
        for half in 2 * block..2 * (block + count) {
            let (sectors, sender) = (BLOCK_SECTORS / 2, sender.clone());
            let data = self.begin(volume, half * sectors, sectors);
            let done = move |result| sender.send(result).expect("somebody waits for it");
            self.opened.volumes[volume].write_with(self.script.offset_of(half * sectors), data, done);
        }
        drop(sender);
        let sectors = block * BLOCK_SECTORS..(block + count) * BLOCK_SECTORS;
        self.life.histories[volume].note_at_once(sectors, first);
        receiver.into_iter().try_for_each(|result| result.map(drop))
    }

    /// The bytes of a new write, which is known to have begun.
    fn begin(&mut self, volume: usize, sector: u64, count: u64) -> Vec<u8> {
        self.last = (volume, sector, count);
        self.note_begun(volume, sector, count, false);
        content::written(sector, count, self.number)
    }

    fn note_begun(&mut self, volume: usize, sector: u64, count: u64, is_zeros: bool) {
        self.number += 1;
        self.life.histories[volume].note(sector..sector + count, self.number, is_zeros);
        self.life.marks.push(Mark::Begun { volume, number: self.number });
    }

    fn read(&mut self, volume: usize, sector: u64, count: u64) -> Result<Result<(), String>, Error> {
        let mut bytes = vec![0; count as usize * SECTOR];
        self.opened.volumes[volume].read(self.script.offset_of(sector), &mut bytes)?;
        for (sector, found) in (sector..).zip(content::found(sector, &bytes)) {
            let wanted = self.life.histories[volume].newest(sector);
            if found != wanted {
                return Ok(Err(format!(
                    "sector {sector} of volume {volume} reads as {found:?}, not {wanted:?}"
                )));
            }
        }
        Ok(Ok(()))
    }

    /// Reads the whole volume.
    fn scan(&mut self, volume: usize) -> Result<Result<(), String>, Error> {
        let length = self.script.blocks / self.script.stretches * BLOCK_SECTORS;
        for stretch in 0..self.script.stretches {
            let result = self.read(volume, stretch * length, length)?;
            if result.is_err() {
                return Ok(result);
            }
        }
        Ok(Ok(()))
    }

    fn die(&mut self) -> Result<Result<(), String>, Error> {
        self.opened.is_dead.store(true, Ordering::SeqCst);
        self.opened = Opened::new(self.script, &self.stage, THREADS)?;
        let (found, _) = self.opened.read_all(self.script)?;
        self.deaths += 1;
        for (volume, (found, &mode)) in found.iter().zip(self.script.modes).enumerate() {
            if let Err(why) = self.life.lose(volume, found, outlives_process(mode), self.deaths) {
                return Ok(Err(why));
            }
        }
        self.life.marks.push(Mark::Died);
        Ok(Ok(()))
    }

    fn is_ssd_broken(&self) -> bool {
        self.opened.is_ssd_broken.load(Ordering::SeqCst)
    }

    fn is_disk_broken(&self) -> bool {
        self.opened.is_disk_broken.load(Ordering::SeqCst)
    }

    pub(crate) fn close(&mut self) -> Result<(), Error> {
        let mut closed = self.opened.cache.close();
        // What it has that found no room in the log goes nowhere else.
        if closed.is_err() && self.is_disk_broken() {
            self.opened.is_disk_broken.store(false, Ordering::SeqCst);
            closed = self.opened.cache.close();
        }
        for _ in 0..FAILURES_BEFORE_A_CLOSE {
            if closed.is_ok() || !self.is_ssd_broken() {
                break;
            }
            closed = self.opened.cache.close();
        }
        closed?;
        self.note_stats();
        self.promise_all();
        Ok(())
    }

    pub(crate) fn note_stats(&mut self) {
        let ssd = self.opened.cache.stats().ssd;
        let tally = &mut self.tally;
        tally.blocks_reinserted += ssd.blocks_reinserted;
        tally.blocks_evicted += ssd.evicted_blocks;
        tally.voids += ssd.voids;
    }

    fn promise(&self, volume: usize) {
        self.life.marks.push(Mark::Durable { volume, number: self.number });
    }

    fn promise_all(&self) {
        (0..self.opened.volumes.len()).for_each(|volume| self.promise(volume));
    }
}
