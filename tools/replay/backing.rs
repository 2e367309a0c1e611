//! The backing files of a replay, slowed down as asked.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use terrace::Device;
use terrace::tiers::backing::file::FileBacking;
use terrace::tiers::backing::slow::{DiskModel, SlowDevice};
use terrace::tiers::file_device::FileOptions;

use super::args::{Disk, ReplayArgs};
use crate::failure::{Failure, Result};

/// The model that `args` ask for; none when the file is to be as fast as it is.
pub(crate) fn disk_model(args: &ReplayArgs) -> Option<DiskModel> {
    let mut model = match args.disk_model {
        Disk::None => DiskModel::NONE,
        Disk::Hdd => DiskModel::HDD,
        Disk::Ssd => DiskModel::SSD,
    };
    model.seek_us = args.disk_seek.unwrap_or(model.seek_us);
    model.bandwidth_bytes_per_s = args.disk_bandwidth.unwrap_or(model.bandwidth_bytes_per_s);
    model.iops = args.disk_iops.unwrap_or(model.iops);
    (model != DiskModel::NONE).then_some(model)
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

/// What is at `path`, which `flag` named, and whether it may be used.
pub(crate) fn look_at(path: &Path, flag: &str, overwrite: bool) -> Result<Found> {
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
            .remedy(format!("name another {flag}")));
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
    let options = FileOptions { create: Some(bytes), lock: true, ..FileOptions::new(path) };
    FileBacking::with_options(&options).map_err(|error| {
        Failure::caused(format!("cannot make the backing file of {bytes} bytes"), error).remedy(
            "name another --backing; if it is too large for the file system, choose a smaller --block-size",
        )
    })
}
