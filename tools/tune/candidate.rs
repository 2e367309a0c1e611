//! What a pair of sizes would mean: latency, wear, memory, price. Arithmetic on a [`Cell`], no simulation.

use serde::Serialize;

use super::args::TuneArgs;
use super::devices::{Latency, Mixture};
use super::surface::Cell;
use crate::mode::Mode;

const GIB: f64 = (1u64 << 30) as f64;
const DAYS_A_YEAR: f64 = 365.25;
/// A longer life is told as this one.
pub(super) const LIFE_YEARS_MAX: f64 = 100.0;

/// What sizes are judged by, besides their hits.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct World {
    pub(crate) ram_latency: Latency,
    pub(crate) ssd_latency: Latency,
    pub(crate) disk_latency: Latency,
    pub(crate) write: Mode,
    /// Prices of a GiB.
    pub(crate) ram_price: f64,
    pub(crate) ssd_price: f64,
    /// How many times over the SSD may be written.
    pub(crate) ssd_endurance: f64,
    /// What the SSD writes inside for each byte it is given.
    pub(crate) ssd_inner_amplification: f64,
    /// How long the trace is; none: nobody knows, and nothing is said of days.
    pub(crate) trace_days: Option<f64>,
}

impl World {
    pub(super) fn of(args: &TuneArgs, trace_us: Option<u64>) -> Self {
        Self {
            ram_latency: args.ram_latency,
            ssd_latency: args.ssd_latency,
            disk_latency: args.disk_latency,
            write: args.write.unwrap_or_default(),
            ram_price: args.ram_price,
            ssd_price: args.ssd_price,
            ssd_endurance: args.ssd_endurance,
            ssd_inner_amplification: args.ssd_inner_amplification,
            trace_days: args.trace_time.or(trace_us).map(|us| us as f64 / 86_400e6),
        }
    }

    /// Without any cache every read is the disk's.
    pub(super) fn uncached_mean_us(&self) -> f64 {
        self.disk_latency.mean_us
    }
}

/// A pair of sizes with what follows of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Candidate {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) ram_bytes_total: u64,
    pub(crate) read_mean_us: f64,
    pub(crate) read_mean_us_error: f64,
    pub(crate) read_p99_us: f64,
    pub(crate) write_mean_us: f64,
    pub(crate) ssd_bytes_a_day: Option<f64>,
    /// None without an SSD, or where days are not known; beyond a century is a century.
    pub(crate) life_years: Option<f64>,
    pub(crate) price: f64,
}

impl Candidate {
    pub(super) fn of(cell: &Cell, world: &World) -> Self {
        let ram_bytes_total = cell.ram_bytes + cell.index_bytes;
        let reads = Mixture {
            parts: [
                (cell.ram_share, world.ram_latency),
                (cell.ssd_share, world.ssd_latency),
                (cell.disk_share, world.disk_latency),
            ],
        };
        let ssd_bytes_a_day = world.trace_days.map(|days| cell.ssd_bytes_written / days);
        Self {
            cell: *cell,
            ram_bytes_total,
            read_mean_us: reads.mean_us(),
            read_mean_us_error: cell.disk_share_error * world.disk_latency.mean_us,
            read_p99_us: reads.p99_us(),
            write_mean_us: match world.write {
                Mode::Around | Mode::Through => world.disk_latency.mean_us,
                Mode::Back | Mode::BackSsd => world.ram_latency.mean_us,
            },
            ssd_bytes_a_day,
            life_years: ssd_bytes_a_day
                .filter(|_| cell.ssd_bytes > 0)
                .map(|bytes| life_years(cell, bytes, world)),
            price: ram_bytes_total as f64 / GIB * world.ram_price
                + cell.ssd_bytes as f64 / GIB * world.ssd_price,
        }
    }
}

fn life_years(cell: &Cell, bytes_a_day: f64, world: &World) -> f64 {
    let lifetime_bytes = cell.ssd_bytes as f64 * world.ssd_endurance;
    (lifetime_bytes / (bytes_a_day * world.ssd_inner_amplification).max(1.0) / DAYS_A_YEAR)
        .min(LIFE_YEARS_MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn world() -> World {
        World {
            ram_latency: Latency::new(2.0, 10.0),
            ssd_latency: Latency::new(100.0, 400.0),
            disk_latency: Latency::new(8000.0, 20_000.0),
            write: Mode::Through,
            ram_price: 4.0,
            ssd_price: 0.1,
            ssd_endurance: 600.0,
            ssd_inner_amplification: 1.5,
            trace_days: Some(2.0),
        }
    }

    pub(in super::super) fn cell(ram_gib: u64, ssd_gib: u64, ram_share: f64, ssd_share: f64) -> Cell {
        Cell {
            ram_bytes: ram_gib << 30,
            ssd_bytes: ssd_gib << 30,
            ssd_blocks: ssd_gib << 16,
            index_bytes: (ssd_gib << 16) * 20,
            ram_share,
            ssd_share,
            disk_share: 1.0 - ram_share - ssd_share,
            ram_share_error: 0.01,
            disk_share_error: 0.01,
            ssd_bytes_written: ssd_gib as f64 * 1e9,
            write_amplification: None,
        }
    }

    #[test]
    fn a_candidate_is_priced_with_the_ram_of_its_index_and_wears_by_the_day() {
        let candidate = Candidate::of(&cell(1, 64, 0.5, 0.4), &world());
        assert_eq!(candidate.ram_bytes_total, (1 << 30) + (64 << 16) * 20);
        let price = 4.0 * (1.0 + 64.0 * 65536.0 * 20.0 / GIB) + 6.4;
        assert!((candidate.price - price).abs() < 1e-9);
        assert!((candidate.read_mean_us - (1.0 + 40.0 + 800.0)).abs() < 1e-6);
        assert!((candidate.read_mean_us_error - 80.0).abs() < 1e-9);
        assert_eq!(candidate.ssd_bytes_a_day, Some(32e9));
        let years = (64u64 << 30) as f64 * 600.0 / (32e9 * 1.5) / 365.25;
        assert!((candidate.life_years.expect("a life") - years).abs() < 1e-9);
    }

    #[test]
    fn where_days_are_not_known_nothing_is_said_of_wear_and_without_an_ssd_neither() {
        let timeless = World { trace_days: None, ..world() };
        let candidate = Candidate::of(&cell(1, 64, 0.5, 0.4), &timeless);
        assert_eq!((candidate.ssd_bytes_a_day, candidate.life_years), (None, None));
        assert_eq!(Candidate::of(&cell(1, 0, 0.5, 0.0), &world()).life_years, None);
    }
}
