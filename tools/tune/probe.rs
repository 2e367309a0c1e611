//! What a device's reads take, measured: a second of random reads of one block each, past the page cache.

use std::io::IoSliceMut;
use std::path::Path;
use std::time::{Duration, Instant};

use terrace::Device;
use terrace::tiers::device::PageBuf;
use terrace::tiers::file_device::{FileDevice, FileOptions};

use super::devices::Latency;
use crate::failure::{Failure, Result};

/// Written where a directory is named; larger than what drives keep in memory for one file.
const FILE_BYTES: u64 = 256 << 20;
const WRITE_BYTES: usize = 1 << 20;
const TIME: Duration = Duration::from_secs(1);
/// A disk answers fewer in a second; a percentile of fewer would be one read's.
const READS_MIN: usize = 200;
/// However slow the disk is.
const TIME_MAX: Duration = Duration::from_secs(10);

/// The latency of random reads of `block_bytes` at `path`.
pub(super) fn measure(path: &Path, block_bytes: usize) -> Result<Latency> {
    let failed = |error: terrace::tiers::Error| {
        Failure::caused(format!("cannot measure {}", path.display()), error)
            .remedy("name a file, a block device or a directory that you may read, or give the latency")
    };
    if !path.is_dir() {
        let options = FileOptions { read_only: true, ..FileOptions::new(path) };
        return reads(&FileDevice::open(&options).map_err(failed)?, block_bytes).map_err(failed)?.ok_or_else(
            || {
                Failure::input(format!("{} is shorter than 16 blocks", path.display()))
                    .remedy("name a larger file, or its directory")
            },
        );
    }
    let temporary = tempfile::tempdir_in(path).map_err(|error| {
        Failure::caused(format!("cannot make a file in {}", path.display()), error)
            .remedy("name another directory")
    })?;
    let options =
        FileOptions { create: Some(FILE_BYTES), ..FileOptions::new(temporary.path().join("terrace-probe")) };
    let device = FileDevice::open(&options).map_err(failed)?;
    fill(&device).map_err(failed)?;
    let latency = reads(&device, block_bytes).map_err(failed)?;
    Ok(latency.expect("the file is longer than 16 blocks"))
}

/// No holes: they would be read from nowhere.
fn fill(device: &FileDevice) -> terrace::tiers::Result<()> {
    let mut buffer = PageBuf::zeroed(WRITE_BYTES);
    buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 31 % 251) as u8);
    for offset in (0..FILE_BYTES).step_by(WRITE_BYTES) {
        device.write(offset, &[std::io::IoSlice::new(&buffer)])?;
    }
    device.sync()
}

/// None when the device is too short to be read at random.
fn reads(device: &FileDevice, block_bytes: usize) -> terrace::tiers::Result<Option<Latency>> {
    let blocks = device.len_bytes() / block_bytes as u64;
    if blocks < 16 {
        return Ok(None);
    }
    let mut random = fastrand::Rng::with_seed(1);
    let mut buffer = PageBuf::zeroed(block_bytes);
    let (mut took_us, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < TIME || (took_us.len() < READS_MIN && begun.elapsed() < TIME_MAX) {
        let offset = random.u64(..blocks) * block_bytes as u64;
        let start = Instant::now();
        device.read(offset, &mut [IoSliceMut::new(&mut buffer)])?;
        took_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Some(summary(took_us)))
}

fn summary(mut took_us: Vec<f64>) -> Latency {
    took_us.sort_unstable_by(f64::total_cmp);
    let mean_us = took_us.iter().sum::<f64>() / took_us.len() as f64;
    Latency::new(mean_us, took_us[(took_us.len() - 1) * 99 / 100])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_mean_and_the_99th_of_100() {
        let latency = summary((1..=100).rev().map(f64::from).collect());
        assert_eq!(latency, Latency { mean_us: 50.5, p99_us: 99.0 });
    }

    #[test]
    fn a_file_is_measured_and_left_as_it_was_and_a_missing_one_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("disk");
        std::fs::write(&file, vec![7; 1 << 20]).expect("a file in our directory");
        let latency = measure(&file, 4096).expect("it can be read");
        assert!(latency.mean_us > 0.0 && latency.p99_us >= latency.mean_us);
        assert_eq!(std::fs::read(&file).expect("still there"), vec![7; 1 << 20]);
        assert!(measure(&directory.path().join("none"), 4096).is_err());
        std::fs::write(&file, [0; 4096]).expect("a file in our directory");
        assert!(measure(&file, 4096).is_err(), "one block is not random");
    }
}
