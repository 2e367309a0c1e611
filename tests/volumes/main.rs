//! What is done to a volume while it is in use: its mode changes, ranges are discarded and forgotten, it is detached.

#[path = "../common/mod.rs"]
mod common;
mod detaches;
mod discards;
mod forgets;
mod modes;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{BLOCK, bytes_of, content, ssd_bytes, stored};
use terrace::tiers::testing::MemoryDevice;
use terrace::{Cache, Config, Error, SsdConfig, SsdSize, Volume, WriteMode};

pub(crate) const BLOCK_U64: u64 = BLOCK as u64;

pub(crate) fn open(config: &Config, device: &Arc<MemoryDevice>, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), mode).expect("the volume attaches");
    (cache, volume)
}

/// With an SSD of `ssd_blocks` blocks on a device.
pub(crate) fn with_ssd(config: Config, ssd_blocks: u64) -> (Config, Arc<MemoryDevice>) {
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(ssd_blocks)));
    let size = SsdSize::Blocks(ssd_blocks);
    (Config { ssd: Some(SsdConfig::on_device(ssd.clone(), size)), ..config }, ssd)
}

pub(crate) fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
}

pub(crate) fn read(volume: &Volume, block: u64) -> Vec<u8> {
    bytes_of(volume, block * BLOCK_U64, BLOCK)
}

pub(crate) fn below(device: &MemoryDevice, block: u64) -> Vec<u8> {
    stored(device, block * BLOCK_U64, BLOCK)
}

#[track_caller]
pub(crate) fn answered<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).expect("it is answered")
}

/// Sends what `done` is told.
pub(crate) fn told(
    sender: &mpsc::Sender<Result<(), Error>>,
) -> impl FnOnce(Result<(), Error>) + Send + 'static {
    let sender = sender.clone();
    move |answer| sender.send(answer).expect("it is waited for")
}
