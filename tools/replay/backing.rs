//! The backing files of a replay, slowed down as asked.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use terrace::Device;
use terrace::tiers::Error;
use terrace::tiers::backing::file::FileBacking;
use terrace::tiers::device::Identity;

use super::args::{Disk, ReplayArgs};
use crate::failure::{Failure, Result};

/// How slow a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DiskModel {
    /// For an access that does not follow the one before.
    pub(crate) seek_us: u64,
    pub(crate) bandwidth_bytes_per_s: u64,
    pub(crate) iops: u64,
}

impl DiskModel {
    /// 7,200 turns a minute: 4 ms to seek and half a turn, rounded down.
    pub(crate) const HDD: Self = Self { seek_us: 8_000, bandwidth_bytes_per_s: 150_000_000, iops: u64::MAX };
    const SSD: Self = Self { seek_us: 90, bandwidth_bytes_per_s: 500_000_000, iops: 90_000 };
    const UNLIMITED: Self = Self { seek_us: 0, bandwidth_bytes_per_s: u64::MAX, iops: u64::MAX };

    /// The model that `args` ask for; none when the file is to be as fast as it is.
    pub(crate) fn of(args: &ReplayArgs) -> Option<Self> {
        let mut model = match args.disk_model {
            Disk::None => Self::UNLIMITED,
            Disk::Hdd => Self::HDD,
            Disk::Ssd => Self::SSD,
        };
        model.seek_us = args.disk_seek.unwrap_or(model.seek_us);
        model.bandwidth_bytes_per_s = args.disk_bandwidth.unwrap_or(model.bandwidth_bytes_per_s);
        model.iops = args.disk_iops.unwrap_or(model.iops);
        (model != Self::UNLIMITED).then_some(model)
    }
}

/// What is at a backing path before the replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Nothing,
    /// A file whose content may go.
    File,
    /// A device of so many bytes whose content may go.
    BlockDevice {
        bytes: u64,
    },
}

/// What is at `path`, and whether it may be used.
pub(crate) fn look_at(path: &Path, overwrite: bool) -> Result<Found> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => {
            return Err(Failure::caused(
                format!("cannot look at the backing file {}", path.display()),
                error,
            )
            .remedy("name a path that you may write"));
        }
    };
    let shown = path.display();
    if !overwrite {
        return Err(Failure::input(format!(
            "the backing file {shown} exists, and a replay would overwrite it"
        ))
        .remedy("name a new path, or add --overwrite if what it holds may go"));
    }
    if metadata.is_file() {
        return Ok(Found::File);
    }
    if !metadata.file_type().is_block_device() {
        return Err(Failure::input(format!("{shown} is neither a file nor a block device"))
            .remedy("name another --backing"));
    }
    let length = File::open(path).and_then(|mut device| device.seek(SeekFrom::End(0)));
    let bytes = length.map_err(|error| {
        Failure::caused(format!("cannot open {shown}"), error).remedy("name a device that you may write")
    })?;
    Ok(Found::BlockDevice { bytes })
}

/// Makes or opens the backing file at `path` with room for `bytes` bytes. A file becomes empty and sparse.
pub(crate) fn open_backing(path: &Path, bytes: u64, model: Option<DiskModel>) -> Result<Arc<dyn Device>> {
    let file: Arc<dyn Device> = Arc::new(open_file(path, bytes)?);
    Ok(match model {
        None => file,
        Some(model) => slowed(file, model),
    })
}

/// `device` as slow as `model`.
pub(crate) fn slowed(device: Arc<dyn Device>, model: DiskModel) -> Arc<dyn Device> {
    Arc::new(SlowDevice::new(device, model))
}

fn open_file(path: &Path, bytes: u64) -> Result<FileBacking> {
    let shown = path.display();
    if path.is_file() {
        // What it held may go, or we would not be here; empty, it is made anew.
        OpenOptions::new().write(true).truncate(true).open(path).map_err(|error| {
            Failure::caused(format!("cannot empty the backing file {shown}"), error)
                .remedy("name another --backing, or none for a temporary one")
        })?;
    }
    FileBacking::create(path, bytes).map_err(|error| {
        Failure::caused(format!("cannot make the backing file of {bytes} bytes"), error).remedy(
            "name another --backing; if it is too large for the file system, choose a smaller --block-size",
        )
    })
}

/// A device that takes as long as its model: one access at a time, in the order they come.
struct SlowDevice {
    device: Arc<dyn Device>,
    model: DiskModel,
    /// When the arm is free, and the byte it then stands at.
    arm: Mutex<(Instant, u64)>,
}

impl SlowDevice {
    fn new(device: Arc<dyn Device>, model: DiskModel) -> Self {
        Self { device, model, arm: Mutex::new((Instant::now(), 0)) }
    }

    fn wait_for(&self, offset: u64, bytes: u64) {
        let until = {
            let mut arm = self.arm.lock().unwrap_or_else(PoisonError::into_inner);
            let seek = if arm.1 == offset { 0 } else { self.model.seek_us };
            let transfer_us = bytes.saturating_mul(1_000_000) / self.model.bandwidth_bytes_per_s;
            let busy_us = (seek + transfer_us).max(1_000_000 / self.model.iops);
            let until = arm.0.max(Instant::now()) + Duration::from_micros(busy_us);
            *arm = (until, offset + bytes);
            until
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

impl Device for SlowDevice {
    fn name(&self) -> String {
        self.device.name()
    }

    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), Error> {
        self.wait_for(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum());
        self.device.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<(), Error> {
        self.wait_for(offset, buffers.iter().map(|buffer| buffer.len() as u64).sum());
        self.device.write(offset, buffers)
    }

    fn sync(&self) -> Result<(), Error> {
        self.device.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        self.device.discard(offset, bytes)
    }

    fn identity(&self) -> Option<Identity> {
        self.device.identity()
    }

    fn alignment(&self) -> usize {
        self.device.alignment()
    }
}
