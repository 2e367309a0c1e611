//! A device made as slow as a model of a disk: for demonstrations and replays on machines without one.
//!
//! The disk has one arm. Requests hold it one after the other in the order in which they arrive, so that merging and
//! sorting above pay off as they do on a real disk:
//!
//! ```text
//!   free ─────────┬── seek ──┬── transfer ──┬── seek ──┬── transfer ──► time of the model
//!                 │ request 1               │ request 2
//!                 arrives          (arrives meanwhile: starts when 1 ends)
//! ```
//!
//! - A request that begins where the last one ended needs no seek: it costs its transfer alone.
//! - Any other costs the time of a seek over its distance, and no less than `1 / iops`.
//! - The seek over a distance d of a disk of length L is `seek_us * (0.4 + 1.125 * sqrt(d / L))`: settling and half a
//!   turn, whatever the distance, and an arm that speeds up and brakes. The mean over random places is `seek_us`.
//! - A sync takes a seek without distance when something was written since the last. The write cache of a real disk,
//!   which acknowledges early and sorts, is not modelled.
//!
//! A call ends at a moment of the model's time, computed when it arrives, or when the device below is done if that is
//! later. So neither late wake-ups nor the device below add up.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::device::{Device, Extent, Identity, total_bytes};
use crate::error::Result;

/// How slow a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskModel {
    /// Mean time of a seek between random places, with the half turn of the platter until the data comes by.
    pub seek_us: u64,
    pub bandwidth_bytes_per_s: u64,
    /// Bound on the requests a second that do not continue the one before.
    pub iops: u64,
}

impl DiskModel {
    /// A disk of 7,200 turns a minute: 8 ms a random access, 150 MB a second in a row.
    pub const HDD: Self = Self { seek_us: 8_000, bandwidth_bytes_per_s: 150_000_000, iops: 150 };
    /// A SATA drive without moving parts.
    pub const SSD: Self = Self { seek_us: 0, bandwidth_bytes_per_s: 500_000_000, iops: 50_000 };
    /// As fast as the device below.
    pub const NONE: Self = Self { seek_us: 0, bandwidth_bytes_per_s: u64::MAX, iops: u64::MAX };

    /// How long a request of `bytes` bytes holds the arm, `distance` bytes away from where it stands on a disk of
    /// `disk_bytes`.
    pub fn busy(&self, distance: u64, disk_bytes: u64, bytes: u64) -> Duration {
        let transfer = Duration::from_secs_f64(bytes as f64 / self.bandwidth_bytes_per_s.max(1) as f64);
        if distance == 0 {
            return transfer;
        }
        let spacing = Duration::from_secs_f64(1.0 / self.iops.max(1) as f64);
        self.seek(distance as f64 / disk_bytes.max(1) as f64).max(spacing) + transfer
    }

    /// The seek over a part of the disk. 1.125 is 0.6 over the mean of the root of a random distance, 8/15.
    fn seek(&self, part: f64) -> Duration {
        Duration::from_micros(self.seek_us).mul_f64(0.4 + 1.125 * part.clamp(0.0, 1.0).sqrt())
    }
}

/// What a slow device did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SlowStats {
    pub requests: u64,
    /// Requests that did not continue the one before.
    pub seeks: u64,
    /// How long the arm was held, by the model.
    pub busy: Duration,
}

/// `device`, as slow as a model.
pub struct SlowDevice<D> {
    device: D,
    model: DiskModel,
    arm: Mutex<Arm>,
}

struct Arm {
    free_at: Instant,
    /// The byte behind the last request.
    position: u64,
    is_dirty: bool,
    stats: SlowStats,
}

impl<D: Device> SlowDevice<D> {
    pub fn new(device: D, model: DiskModel) -> Self {
        let arm = Arm { free_at: Instant::now(), position: 0, is_dirty: false, stats: SlowStats::default() };
        Self { device, model, arm: Mutex::new(arm) }
    }

    pub fn stats(&self) -> SlowStats {
        self.arm.lock().unwrap_or_else(PoisonError::into_inner).stats
    }

    /// Holds the arm for one request, in the model's time; the moment at which it ends.
    fn hold(&self, offset: u64, bytes: u64, writes: bool) -> Instant {
        let mut arm = self.arm.lock().unwrap_or_else(PoisonError::into_inner);
        let distance = arm.position.abs_diff(offset);
        let busy = self.model.busy(distance, self.device.len_bytes(), bytes);
        arm.position = offset + bytes;
        arm.is_dirty |= writes;
        arm.stats.requests += 1;
        arm.stats.seeks += u64::from(distance > 0);
        arm.hold(busy)
    }
}

impl Arm {
    fn hold(&mut self, busy: Duration) -> Instant {
        self.free_at = self.free_at.max(Instant::now()) + busy;
        self.stats.busy += busy;
        self.free_at
    }
}

fn wait_until(end: Instant) {
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}

impl<D: Device> Device for SlowDevice<D> {
    fn name(&self) -> String {
        self.device.name()
    }

    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let end = self.hold(offset, total_bytes(buffers), false);
        let result = self.device.read(offset, buffers);
        wait_until(end);
        result
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let end = self.hold(offset, total_bytes(buffers), true);
        let result = self.device.write(offset, buffers);
        wait_until(end);
        result
    }

    fn sync(&self) -> Result<()> {
        let end = {
            let mut arm = self.arm.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = if arm.is_dirty { self.model.seek(0.0) } else { Duration::ZERO };
            arm.is_dirty = false;
            arm.hold(busy)
        };
        let result = self.device.sync();
        wait_until(end);
        result
    }

    /// Costs what a write without data costs.
    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        let end = self.hold(offset, 0, true);
        let result = self.device.discard(offset, bytes);
        wait_until(end);
        result
    }

    /// A file system has it in memory.
    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        self.device.extents(offset, bytes, count_max)
    }

    fn identity(&self) -> Option<Identity> {
        self.device.identity()
    }

    fn alignment(&self) -> usize {
        self.device.alignment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryDevice;

    const DISK_BYTES: u64 = 1 << 40;

    #[test]
    fn random_reads_of_the_disk_model_come_at_the_rate_of_a_disk_and_sequential_ones_at_its_bandwidth() {
        let mut random = fastrand::Rng::with_seed(1);
        let block = 16 << 10;
        let (mut at, mut total) = (0u64, Duration::ZERO);
        for _ in 0..10_000 {
            let next = random.u64(..DISK_BYTES - block);
            total += DiskModel::HDD.busy(at.abs_diff(next), DISK_BYTES, block);
            at = next + block;
        }
        let iops = 10_000.0 / total.as_secs_f64();
        assert!((100.0..150.0).contains(&iops), "{iops} a second");
        let sequential = DiskModel::HDD.busy(0, DISK_BYTES, 150_000_000);
        assert!((0.99..1.01).contains(&sequential.as_secs_f64()), "{sequential:?}");
        assert_eq!(DiskModel::NONE.busy(1 << 30, DISK_BYTES, 1 << 20).as_micros(), 0);
    }

    #[test]
    fn requests_take_turns_and_one_that_continues_needs_no_seek() {
        let model = DiskModel { seek_us: 1_000, bandwidth_bytes_per_s: u64::MAX, iops: 500 };
        let device = SlowDevice::new(MemoryDevice::new(1 << 30), model);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for place in 1..=10 {
                let device = &device;
                scope.spawn(move || device.write(place << 20, &[IoSlice::new(&[1; 4096])]));
            }
        });
        assert!(started.elapsed() >= Duration::from_millis(20), "ten at once take ten turns of 2 ms");
        let stats = device.stats();
        assert_eq!((stats.requests, stats.seeks), (10, 10));
        device.write(0, &[IoSlice::new(&[1; 4096])]).expect("memory does not fail");
        for page in 1..1000u64 {
            device.write(page * 4096, &[IoSlice::new(&[1; 4096])]).expect("memory does not fail");
        }
        assert_eq!(device.stats().seeks, 11);
        assert!(device.stats().busy < stats.busy + Duration::from_millis(4));
    }
}
