//! What replays of the trace measured, beside what was predicted of them: a report's proof.
//!
//! Both stand in what `terrace replay --predict --json` printed. Devices, speed and mode of writing are those of the
//! replay, so that nothing here is computed but shares.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// Of the blocks that were read, by where they came from.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Shares {
    pub(crate) ram: f64,
    pub(crate) ssd: f64,
    pub(crate) disk: f64,
}

/// One replay.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) trace: String,
    pub(crate) block_bytes: u64,
    pub(crate) ram_bytes: u64,
    pub(crate) ssd_bytes: u64,
    pub(crate) predicted: Shares,
    pub(crate) measured: Shares,
    pub(crate) predicted_ssd_bytes_written: u64,
    pub(crate) measured_ssd_bytes_written: u64,
    /// None where the replay was not told how fast its disk is.
    pub(crate) predicted_mean_us: Option<f64>,
    pub(crate) measured_mean_us: Option<f64>,
}

/// As a replay prints it, with other keys besides.
#[derive(Deserialize)]
struct Replay {
    trace: String,
    block_bytes: u64,
    ram_bytes: Option<u64>,
    ram_blocks: Option<u64>,
    ssd_bytes: Option<u64>,
    ssd_blocks: Option<u64>,
    #[serde(flatten)]
    counts: Counts,
    prediction: Option<Prediction>,
}

#[derive(Deserialize)]
struct Prediction {
    #[serde(flatten)]
    counts: Counts,
    read_mean_us: Option<f64>,
    measured_read_mean_us: Option<f64>,
}

#[derive(Deserialize)]
struct Counts {
    read_ram_hits: u64,
    ssd_hits: u64,
    disk_reads: u64,
    ssd_bytes_written: u64,
}

impl Counts {
    fn shares(&self) -> Shares {
        let reads = (self.read_ram_hits + self.ssd_hits + self.disk_reads).max(1) as f64;
        let share = |blocks: u64| blocks as f64 / reads;
        Shares { ram: share(self.read_ram_hits), ssd: share(self.ssd_hits), disk: share(self.disk_reads) }
    }
}

impl Measured {
    /// The replay whose JSON is in the file at `path`.
    ///
    /// # Errors
    /// When it is no replay's, or was not predicted.
    pub(super) fn read(path: &Path) -> Result<Self> {
        const REMEDY: &str = "make it with `terrace replay TRACE --predict --json`";
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::caused(format!("cannot read {name}"), error).remedy(REMEDY))?;
        let replay: Replay = serde_json::from_str(&text)
            .map_err(|error| Failure::caused(format!("{name} is no replay's JSON"), error).remedy(REMEDY))?;
        let Some(prediction) = replay.prediction else {
            return Err(Failure::input(format!("{name} is of a replay without a prediction")).remedy(REMEDY));
        };
        let size = |bytes: Option<u64>, blocks: Option<u64>| {
            bytes.or(blocks.map(|blocks| blocks.saturating_mul(replay.block_bytes))).unwrap_or(0)
        };
        Ok(Self {
            trace: replay.trace,
            block_bytes: replay.block_bytes,
            ram_bytes: size(replay.ram_bytes, replay.ram_blocks),
            ssd_bytes: size(replay.ssd_bytes, replay.ssd_blocks),
            predicted: prediction.counts.shares(),
            measured: replay.counts.shares(),
            predicted_ssd_bytes_written: prediction.counts.ssd_bytes_written,
            measured_ssd_bytes_written: replay.counts.ssd_bytes_written,
            predicted_mean_us: prediction.read_mean_us,
            measured_mean_us: prediction.measured_read_mean_us,
        })
    }
}
