//! What a replay has its cache do that a serving one does: record itself, and say what other sizes would do.

use std::path::PathBuf;

use serde::Serialize;
use terrace::{BlockSize, Cache, Config, Outlook, RecordConfig, RecordStatus, WhatIf};

use super::report::{Measures, Report, Setup};
use crate::failure::Result;
use crate::tune::{self, Live, OutlookReport, TuneArgs, live_report};
use crate::units::parse_size;

/// The watcher may take a processor of its own: a replay goes as fast as it can, and a day in a minute is to be seen.
const BUSY_SHARE: f64 = 1.0;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LiveArgs {
    /// Record what the cache is asked for in PATH.1, PATH.2 and so on, as it can record itself when it serves; `terrace
    /// trace info PATH` takes all of them as one
    #[arg(long, value_name = "PATH", conflicts_with_all = ["simulate", "demo"], help_heading = "Output")]
    pub(crate) record: Option<PathBuf>,

    /// The most that all files of --record take together; the oldest go
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "record", default_value = "1GiB",
          help_heading = "Output")]
    pub(crate) record_size: u64,

    /// Say at the end what other sizes of RAM and SSD would have done, as a cache that serves can: by sampled simulation of
    /// its own traffic
    #[arg(long, conflicts_with_all = ["simulate", "demo"], help_heading = "Output")]
    pub(crate) what_if: bool,
}

/// What the recordings of all passes came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Recorded {
    pub(crate) path: String,
    pub(crate) requests: u64,
    pub(crate) requests_lost: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Why it ended before the replay did.
    pub(crate) failure: Option<String>,
}

/// What is kept over the passes.
#[derive(Default)]
pub(crate) struct LiveAnswers {
    pub(crate) recorded: Option<Recorded>,
    outlooks: Vec<Outlook>,
}

impl LiveArgs {
    /// Each request has its own time, so that those of one thread stay in order.
    pub(crate) fn record_config(&self) -> Option<RecordConfig> {
        let path = self.record.as_ref()?;
        Some(RecordConfig { bytes_max: self.record_size, stamp_every: 1, ..RecordConfig::new(path) })
    }

    pub(crate) fn watcher(&self, cache: &Cache, config: &Config) -> Result<Option<WhatIf>> {
        Ok(if self.what_if { Some(WhatIf::start(cache, config, BUSY_SHARE)?) } else { None })
    }
}

impl LiveAnswers {
    /// A pass ends.
    pub(crate) fn end_pass(&mut self, args: &LiveArgs, cache: &Cache, watcher: Option<&WhatIf>) {
        if let Some(watcher) = watcher {
            self.outlooks = watcher.outlooks();
        }
        if let (Some(path), Some(status)) = (&args.record, cache.stop_recording()) {
            self.add(path.display().to_string(), status);
        }
    }

    fn add(&mut self, path: String, status: RecordStatus) {
        let RecordStatus { requests, requests_lost, files, bytes, failure, .. } = status;
        let before = self.recorded.take();
        let sum = |of: fn(&Recorded) -> u64, more: u64| before.as_ref().map_or(0, of) + more;
        self.recorded = Some(Recorded {
            path,
            requests: sum(|recorded| recorded.requests, requests),
            requests_lost: sum(|recorded| recorded.requests_lost, requests_lost),
            files,
            bytes,
            failure: before.as_ref().and_then(|recorded| recorded.failure.clone()).or(failure),
        });
    }

    /// What other sizes would have done, for a replay with `setup` that counted `total`; none when nobody asked, or the
    /// cache has seen too little.
    fn what_if(&self, setup: &Setup, total: &Measures, passes: usize) -> Result<Option<tune::Report>> {
        if self.outlooks.is_empty() {
            return Ok(None);
        }
        let seconds = setup.duration_seconds.filter(|&seconds| seconds > 0.0);
        let a_day = |count: u64| seconds.map(|seconds| count as f64 / passes as f64 * 86_400.0 / seconds);
        let live = Live {
            name: &format!("the cache that replayed {}", setup.trace),
            block_size: BlockSize::new(setup.block_bytes)?,
            outlooks: &OutlookReport::of(&self.outlooks, setup.block_bytes),
            write: setup.write_mode,
            references_a_day: a_day(total.counters.references),
            log_bytes_a_day: a_day(total.counters.ssd_log_bytes_written),
        };
        live_report(&live, &TuneArgs::defaults()).map(Some)
    }

    /// Adds the answers to `report`.
    pub(crate) fn tell(self, args: &LiveArgs, report: &mut Report) -> Result<()> {
        report.what_if = self.what_if(&report.setup, &report.total, report.passes.len())?;
        report.is_what_if_short = args.what_if && report.what_if.is_none();
        report.recorded = self.recorded;
        Ok(())
    }
}
