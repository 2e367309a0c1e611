//! What a simulation of the same requests says, beside what was measured.
//!
//! The simulation is of a cache that has done all its work before the next request comes. A real one has not: what it wrote
//! and did not sync yet cannot leave RAM, so that others leave in its place; what leaves RAM while the SSD is busy is
//! dropped; and with many requests under way blocks are asked for in another order. So the two agree where the work of a
//! request is done before its blocks are in the way: with `--settle` to the block, and without where the disk sets the pace
//! and write-back is not delayed by much of the recording (`tests/recorded.rs` says how near). As fast as a quick disk
//! answers they differ by a point or two, and the more of RAM is written within one delay of write-back, the more.

use serde::Serialize;

use super::args::ReplayArgs;
use super::backing::disk_model;
use super::job::Job;
use super::latency::Percentiles;
use super::report::{Counters, Pass};
use super::simulated::simulate;
use crate::failure::Result;
use crate::tune::{Latency, Mixture};

pub(super) const KEYS: &[(&str, &str)] = &[
    ("read_ram_hits, ssd_hits, disk_reads", "reads of blocks by where they were answered, simulated"),
    ("write_ram_hits", "writes to blocks in RAM, simulated"),
    ("ssd_blocks_written, ssd_bytes_written", "what the SSD was given, simulated"),
    (
        "ram_points, ssd_points, disk_points",
        "measured share of reads less the predicted one, in percentage points",
    ),
    (
        "read_mean_us, read_p99_us",
        "latency of reads from the simulated shares and the latencies of the devices, without waiting in queues; null \
         where the disk's is not known",
    ),
    ("measured_read_mean_us, measured_read_p99_us", "the same as measured, from the submission"),
];

/// The prediction for all passes together.
#[derive(Clone, Serialize)]
pub(crate) struct Prediction {
    pub(super) read_ram_hits: u64,
    pub(super) ssd_hits: u64,
    pub(super) disk_reads: u64,
    pub(super) write_ram_hits: u64,
    pub(super) ssd_blocks_written: u64,
    pub(super) ssd_bytes_written: u64,
    pub(super) ram_points: f64,
    pub(super) ssd_points: f64,
    pub(super) disk_points: f64,
    pub(super) read_mean_us: Option<f64>,
    pub(super) read_p99_us: Option<f64>,
    pub(super) measured_read_mean_us: Option<f64>,
    pub(super) measured_read_p99_us: Option<f64>,
}

impl Prediction {
    /// Simulates what `measured` was measured of.
    pub(super) fn of(args: &ReplayArgs, job: &Job, measured: &[Pass]) -> Result<Self> {
        let (mut predicted, mut slowest) = (Counters::default(), [0; 3]);
        for simulated in simulate(args, job)? {
            predicted = predicted.plus(simulated.pass.counters);
            slowest.iter_mut().zip(simulated.slowest).for_each(|(sum, reads)| *sum += reads);
        }
        let sum = |sum: Counters, pass: &Pass| sum.plus(pass.counters);
        let counters = measured.iter().fold(Counters::default(), sum);
        let mut timings = measured.iter().filter_map(|pass| pass.timings.clone());
        let reads = timings.next().and_then(|mut all| {
            timings.for_each(|other| all.add(&other));
            all.reads()
        });
        let disk = args.disk_latency.or_else(|| disk_of_model(args));
        Ok(Self::beside(&predicted, &counters, disk.and_then(|disk| mixture(args, disk, slowest)), reads))
    }

    fn beside(
        predicted: &Counters,
        measured: &Counters,
        latency: Option<Mixture>,
        reads: Option<Percentiles>,
    ) -> Self {
        let points = |pick: fn(&Counters) -> u64| {
            let percent = |counters| 100.0 * pick(counters) as f64 / counters.reads.max(1) as f64;
            percent(measured) - percent(predicted)
        };
        Self {
            read_ram_hits: predicted.read_ram_hits,
            ssd_hits: predicted.ssd_hits,
            disk_reads: predicted.disk_reads,
            write_ram_hits: predicted.write_ram_hits,
            ssd_blocks_written: predicted.ssd_blocks_written,
            ssd_bytes_written: predicted.ssd_bytes_written,
            ram_points: points(|counters| counters.read_ram_hits),
            ssd_points: points(|counters| counters.ssd_hits),
            disk_points: points(|counters| counters.disk_reads),
            read_mean_us: latency.map(|latency| latency.mean_us()),
            read_p99_us: latency.map(|latency| latency.p99_us()),
            measured_read_mean_us: reads.map(|reads| reads.mean),
            measured_read_p99_us: reads.map(|reads| reads.p99),
        }
    }
}

/// What a random read of one block takes on the modelled disk; none without a model.
fn disk_of_model(args: &ReplayArgs) -> Option<Latency> {
    let model = disk_model(args)?;
    let bytes = args.block_size.bytes() as u64;
    // Over the mean distance of two random places, and over the whole disk.
    let us = |third_parts: u64| model.busy(third_parts, 3, bytes).as_secs_f64() * 1e6;
    Some(Latency::new(us(1), us(3)))
}

/// None when nothing was read.
fn mixture(args: &ReplayArgs, disk: Latency, slowest: [u64; 3]) -> Option<Mixture> {
    let reads: u64 = slowest.iter().sum();
    let share = |count: u64| count as f64 / reads as f64;
    let [ram, ssd, from_disk] = slowest.map(share);
    (reads > 0)
        .then_some(Mixture { parts: [(ram, args.ram_latency), (ssd, args.ssd_latency), (from_disk, disk)] })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn prediction() -> Prediction {
        let counters = |read_ram_hits, ssd_hits, disk_reads| Counters {
            reads: read_ram_hits + ssd_hits + disk_reads,
            read_ram_hits,
            ssd_hits,
            disk_reads,
            ..Counters::default()
        };
        Prediction::beside(&counters(10, 20, 70), &counters(24, 36, 140), None, None)
    }

    #[test]
    fn points_are_of_each_ones_own_reads_and_positive_where_more_was_measured() {
        let Prediction { ram_points, ssd_points, disk_points, .. } = prediction();
        for (points, wanted) in [(ram_points, 2.0), (ssd_points, -2.0), (disk_points, 0.0)] {
            assert!((points - wanted).abs() < 1e-9, "{points}, not {wanted}");
        }
    }
}
