//! A cache on two simulated devices, and what is left of them wherever the power fails.

use std::sync::Arc;

use terrace::tiers::mark::{DeviceMark, MarkPlace};
use terrace::tiers::testing::{Cut, Journal, Loss, MemoryDevice};
use terrace::{AttachOptions, Cache, Config, Device, SsdConfig, SsdSize, Volume, WriteMode};

use crate::common::{BLOCK, bytes_of, content, ssd_bytes, stored};

pub(crate) const SSD_BLOCKS: u64 = 256;
pub(crate) const DISK_BLOCKS: u64 = 512;
pub(crate) const BLOCK_U64: u64 = BLOCK as u64;

pub(crate) struct World {
    pub(crate) ssd: Arc<MemoryDevice>,
    pub(crate) disk: Arc<MemoryDevice>,
    /// Has the mark of a volume that nobody else writes to.
    pub(crate) mark: Arc<MemoryDevice>,
    pub(crate) journal: Arc<Journal>,
}

impl World {
    pub(crate) fn new() -> Self {
        let journal = Arc::new(Journal::default());
        let device = |bytes, name| Arc::new(MemoryDevice::new(bytes).named(name).recorded_in(&journal));
        let (ssd, disk) = (device(ssd_bytes(SSD_BLOCKS), "ssd"), device(DISK_BLOCKS * BLOCK_U64, "disk"));
        let mark = device(DeviceMark::BYTES, "mark");
        Self { ssd, disk, mark, journal: journal.clone() }
    }

    pub(crate) fn config(&self, config: Config) -> Config {
        let ssd = SsdConfig::on_device(self.ssd.clone(), SsdSize::Blocks(SSD_BLOCKS));
        Config { ssd: Some(ssd), ..config }
    }

    pub(crate) fn open(&self, config: Config, mode: WriteMode) -> (Cache, Volume) {
        self.open_through(self.disk.clone(), config, mode)
    }

    /// The same with the disk behind `device`.
    pub(crate) fn open_through(
        &self,
        device: Arc<dyn Device>,
        config: Config,
        mode: WriteMode,
    ) -> (Cache, Volume) {
        let cache = Cache::open(&self.config(config)).expect("the cache opens");
        let volume = cache.attach("disk", device, mode).expect("the volume attaches");
        (cache, volume)
    }

    /// The volume attached as one that nobody else writes to.
    pub(crate) fn open_exclusive(&self, config: Config, mode: WriteMode) -> (Cache, Volume) {
        let cache = Cache::open(&self.config(config)).expect("the cache opens");
        let mark: Arc<dyn MarkPlace> = Arc::new(DeviceMark::new(self.mark.clone()));
        let options = AttachOptions { mark: Some(mark), exclusive: true, ..AttachOptions::default() };
        let volume = cache.attach_with("disk", self.disk.clone(), mode, &options);
        (cache, volume.expect("the volume attaches"))
    }

    pub(crate) fn below(&self, block: u64) -> Vec<u8> {
        stored(&*self.disk, block * BLOCK_U64, BLOCK)
    }

    fn of(cut: &Cut, loss: Loss, seed: u64) -> Self {
        let mut images = cut.images(loss, seed).into_iter().map(Arc::new);
        let mut next = || images.next().expect("the SSD, the disk, and its mark");
        Self { ssd: next(), disk: next(), mark: next(), journal: Arc::default() }
    }

    /// What is left when the power fails now.
    pub(crate) fn after_power_loss(&self, loss: Loss) -> Self {
        let mut cut = self.journal.first_cut();
        while cut.advance() {}
        let Self { ssd, disk, mark, .. } = Self::of(&cut, loss, 1);
        let journal = Arc::default();
        let recorded = |device| {
            let device: MemoryDevice = Arc::into_inner(device).expect("nobody else has it");
            Arc::new(device.recorded_in(&journal))
        };
        let (ssd, disk, mark) = (recorded(ssd), recorded(disk), recorded(mark));
        Self { ssd, disk, mark, journal: journal.clone() }
    }

    /// What is left when the power fails at every `step`th place from `mark` on, with each loss; `look` is told the last
    /// mark before it as well.
    pub(crate) fn each_loss(
        &self,
        mark: u64,
        step: usize,
        seed: u64,
        mut look: impl FnMut(&Self, u64, &str),
    ) {
        let (mut cut, mut count) = (self.journal.first_cut(), 0);
        loop {
            if let Some(&last) = cut.marks().last().filter(|_| cut.marks().contains(&mark)) {
                for loss in Loss::ALL.into_iter().filter(|_| count % step == 0) {
                    let place = format!("seed {seed} cut {} {loss:?}", cut.position());
                    look(&Self::of(&cut, loss, seed), last, &place);
                }
                count += 1;
            }
            if !cut.advance() {
                return;
            }
        }
    }
}

pub(crate) fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
}

pub(crate) fn read(volume: &Volume, block: u64) -> Vec<u8> {
    bytes_of(volume, block * BLOCK_U64, BLOCK)
}

/// The number of the content that `block` reads as, of zeros 0; the whole of it is the same.
#[track_caller]
pub(crate) fn number_of(block: u64, bytes: &[u8]) -> u64 {
    let mut numbers = sector_numbers(block, bytes);
    let first = numbers.next().expect("a block has sectors");
    assert!(numbers.all(|number| number == first), "block {block} is torn");
    first
}

/// The same of each sector.
pub(crate) fn sector_numbers(block: u64, bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(512).map(move |sector| {
        let number = u64::from_le_bytes(sector[..8].try_into().expect("eight bytes")) & u64::from(u32::MAX);
        let is_zeros = number == 0 && sector.iter().all(|&byte| byte == 0);
        assert!(is_zeros || content(block, number)[..512] == *sector, "block {block} is another's");
        number
    })
}
