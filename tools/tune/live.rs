//! What a cache that runs says of other sizes ([`terrace::WhatIf`]), as a report like that of a trace.
//!
//! The surface is the cache's own; latency, wear, price and the recommendation follow from it as they do from a trace, so
//! table, JSON and page are the same. What only a trace can tell (curves, request sizes, working sets) is left out.

use std::path::Path;

use serde::{Deserialize, Serialize};
use terrace::tiers::ssd::Geometry;
use terrace::{BlockSize, Outlook, OutlookProgress};

use super::args::TuneArgs;
use super::candidate::{Candidate, World};
use super::choose::choose;
use super::report::{Report, constraints, probe_devices};
use super::surface::{Cell, index_bytes};
use crate::ctl;
use crate::failure::{Failure, Result};
use crate::mode::Mode;
use crate::serve::control::Command;
use crate::serve::report::Report as ServiceReport;
use crate::units::{show_count, show_seconds};

const ASK_AGAIN: &str = "ask again when it has seen more";

/// What a size would give: shares of all reads, from 0 to 1. An error is half the width of the interval that holds the true
/// share in 95 of 100 cases.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct OutlookReport {
    pub(crate) ram_bytes: u64,
    pub(crate) ssd_bytes: u64,
    /// The tiers have this size now.
    pub(crate) is_present: bool,
    pub(crate) read_ram_ratio: f64,
    pub(crate) read_ram_ratio_error: f64,
    pub(crate) read_ssd_ratio: f64,
    pub(crate) read_disk_ratio: f64,
    pub(crate) read_disk_ratio_error: f64,
    /// Blocks written to the SSD for each block that is read or written.
    pub(crate) ssd_writes: f64,
    /// Blocks that were asked for meanwhile, and which share of them was simulated, in so many samples.
    pub(crate) references: u64,
    pub(crate) sample_rate: f64,
    pub(crate) samples: u64,
}

impl OutlookReport {
    /// The same of each of `outlooks`, of a cache with blocks of `block_bytes` bytes.
    pub(crate) fn of(outlooks: &[Outlook], block_bytes: u64) -> Vec<Self> {
        let one = |outlook: &Outlook| Self {
            ram_bytes: outlook.size.ram_blocks * block_bytes,
            ssd_bytes: outlook.size.ssd_blocks * block_bytes,
            is_present: outlook.is_present,
            read_ram_ratio: (1.0 - outlook.read_ssd_ratio - outlook.read_disk_ratio).max(0.0),
            read_ram_ratio_error: outlook.read_ram_ratio_error,
            read_ssd_ratio: outlook.read_ssd_ratio,
            read_disk_ratio: outlook.read_disk_ratio,
            read_disk_ratio_error: outlook.read_disk_ratio_error,
            ssd_writes: outlook.ssd_writes,
            references: outlook.references,
            sample_rate: outlook.rate,
            samples: outlook.samples,
        };
        outlooks.iter().map(one).collect()
    }
}

/// How much was simulated of what the first answer needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ProgressReport {
    /// References to blocks of the sample.
    pub(crate) references_seen: u64,
    pub(crate) references_wanted: u64,
}

impl ProgressReport {
    pub(crate) fn of(progress: OutlookProgress) -> Self {
        Self { references_seen: progress.seen, references_wanted: progress.wanted }
    }

    /// What is lacking, for people; none: nobody watches.
    pub(crate) fn show(progress: Option<Self>) -> String {
        let Some(Self { references_seen, references_wanted }) = progress else {
            return "other sizes of these tiers cannot be simulated".into();
        };
        let (seen, wanted) = (show_count(references_seen), show_count(references_wanted));
        format!("not enough traffic was seen yet: {seen} of {wanted} references to blocks of the sample")
    }
}

/// The answer of a cache.
pub(crate) struct Live<'a> {
    /// What the cache is called.
    pub(crate) name: &'a str,
    pub(crate) block_size: BlockSize,
    /// By RAM and then by SSD, as [`terrace::WhatIf::outlooks`] gives them.
    pub(crate) outlooks: &'a [OutlookReport],
    /// When it acknowledges a write, if the arguments do not say.
    pub(crate) write: Mode,
    /// Blocks that it is asked for in a day; none: nobody knows, and nothing is said of wear.
    pub(crate) references_a_day: Option<f64>,
    /// What goes to its log in a day, whatever the sizes.
    pub(crate) log_bytes_a_day: Option<f64>,
}

/// The report of `live`, with devices, prices and constraints as `args` have them.
///
/// # Errors
/// When the cache has seen too little to say anything, or a device cannot be measured.
pub(crate) fn live_report(live: &Live<'_>, args: &TuneArgs) -> Result<Report> {
    let Some(first) = live.outlooks.first() else {
        return Err(
            Failure::input(format!("{} was asked for too little to tell yet", live.name)).remedy(ASK_AGAIN)
        );
    };
    // A day is what is counted in.
    let mut world = World {
        trace_days: live.references_a_day.map(|_| 1.0),
        write: args.write.unwrap_or(live.write),
        ..World::of(args, None)
    };
    probe_devices(args, live.block_size, &mut world)?;
    let constraints = constraints(args);
    // Of volumes in several modes some have a log, unless it is asked what one mode would do for all.
    let has_log = args.write.is_none_or(|mode| mode == Mode::BackSsd);
    let log_bytes = live.log_bytes_a_day.filter(|_| has_log).unwrap_or(0.0);
    let mode = if log_bytes > 0.0 { Mode::BackSsd } else { world.write };
    let cells: Vec<Cell> = live.outlooks.iter().map(|outlook| live.cell(outlook, mode, log_bytes)).collect();
    let choice = choose(&cells, &world, &constraints);
    let present = live.outlooks.iter().position(|outlook| outlook.is_present);
    let mut report = Report {
        trace: live.name.into(),
        format: None,
        units: None,
        volumes: None,
        requests: None,
        references: first.references,
        unique_blocks: None,
        bytes_read: None,
        bytes_written: None,
        lost_requests: 0,
        trace_seconds: None,
        block_bytes: live.block_size.bytes() as u64,
        shift_bytes: 0,
        method: "live",
        sample_rate: first.sample_rate,
        samples: first.samples,
        constraints,
        surface: cells.iter().map(|cell| Candidate::of(cell, &world)).collect(),
        recommendation: choice.recommendation,
        runner_up: choice.runner_up,
        fastest: choice.fastest,
        present: present.map(|index| Candidate::of(&cells[index], &world)),
        refusal: choice.refusal,
        changes: choice.changes,
        curves: None,
        curve_errors: None,
        profile: None,
        variants: Vec::new(),
        measured: Vec::new(),
        warnings: Vec::new(),
        memory_peak_bytes: None,
        uncached_mean_us: world.uncached_mean_us(),
        world,
    };
    report.warnings = vec![
        "These are the sizes from half to four times of what the cache has; a recording of it (`terrace tune`) can be \
         asked for any."
            .into(),
    ];
    Ok(report)
}

/// The report of the service whose control socket is `socket`.
///
/// # Errors
/// When it does not answer, and as [`live_report`].
pub(super) fn report_of_service(socket: &Path, args: &TuneArgs) -> Result<Report> {
    let service: ServiceReport = ctl::read(ctl::ask(socket, &Command::Stats)?)?;
    report_of(&format!("the service at {}", socket.display()), &service, args)
}

/// What a service that is called so says of itself.
fn report_of(name: &str, service: &ServiceReport, args: &TuneArgs) -> Result<Report> {
    let seconds = service.running_seconds;
    // Of several the one that makes a write wait longest.
    let written = service.exports.iter().filter(|export| !export.read_only).map(|export| export.mode);
    let slowest = |mode: &Mode| {
        [Mode::BackSsd, Mode::Back, Mode::Around, Mode::Through].iter().position(|it| it == mode)
    };
    let write = written.max_by_key(slowest).unwrap_or_default();
    let a_day = |count: u64| (seconds > 0.0).then(|| count as f64 * 86_400.0 / seconds);
    let live = Live {
        name,
        block_size: BlockSize::new(service.block_bytes)?,
        outlooks: &service.outlooks,
        write,
        references_a_day: a_day(service.counters.references),
        log_bytes_a_day: a_day(service.counters.ssd_log_bytes_written),
    };
    if service.outlooks.is_empty() {
        let what = format!("{name} cannot tell: {}", ProgressReport::show(service.outlook_progress));
        return Err(Failure::input(what).remedy(ASK_AGAIN));
    }
    let mut report = live_report(&live, args)?;
    report.warnings.push(format!(
        "A day is taken to be like the {} since the service began: wear of the SSD follows from that.",
        show_seconds(seconds)
    ));
    Ok(report)
}

impl Live<'_> {
    fn cell(&self, outlook: &OutlookReport, mode: Mode, log_bytes: f64) -> Cell {
        let block_bytes = self.block_size.bytes() as u64;
        let ssd_blocks = outlook.ssd_bytes / block_bytes;
        let layout = Geometry::for_blocks(self.block_size, ssd_blocks).ok();
        let clean = self.references_a_day.unwrap_or(0.0) * outlook.ssd_writes * block_bytes as f64;
        Cell {
            ram_bytes: outlook.ram_bytes,
            ssd_bytes: outlook.ssd_bytes,
            ssd_blocks,
            ram_share: outlook.read_ram_ratio,
            ssd_share: outlook.read_ssd_ratio,
            disk_share: outlook.read_disk_ratio,
            ram_share_error: outlook.read_ram_ratio_error,
            disk_share_error: outlook.read_disk_ratio_error,
            index_bytes: layout.as_ref().map_or(0, |layout| index_bytes(layout, mode)),
            ssd_bytes_written: clean + if layout.is_some() { log_bytes } else { 0.0 },
            write_amplification: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use terrace::tiers::testing::MemoryDevice;
    use terrace::{Cache, Config, RamSize, SsdConfig, SsdSize, WhatIf, WriteMode};

    use super::*;
    use crate::serve::report::ExportReport;
    use crate::serve::report::tests::a_report;

    const BLOCKS: u64 = 2048;

    /// What a small cache says that runs until it can.
    fn outlooks() -> Vec<Outlook> {
        let mut config = Config::new(RamSize::Blocks(256));
        config.block_size = block_size();
        let simulated = Config { ssd: Some(SsdConfig::new("", SsdSize::Blocks(1024))), ..config.clone() };
        let cache = Cache::open(&config).expect("the cache opens");
        let disk = Arc::new(MemoryDevice::new(BLOCKS * 4096));
        let volume = cache.attach("disk", disk, WriteMode::Back).expect("the volume attaches");
        let watcher = WhatIf::start(&cache, &simulated, 1.0).expect("the sizes work");
        let mut random = fastrand::Rng::with_seed(3);
        while watcher.outlooks().is_empty() {
            for _ in 0..5000 {
                let block = (BLOCKS as f64 * random.f64().powi(3)) as u64;
                volume.read_ref(block * 4096, 4096).expect("a memory device never fails");
            }
        }
        watcher.outlooks()
    }

    fn block_size() -> BlockSize {
        BlockSize::new(4096).expect("a block size")
    }

    /// The report of a small cache that runs.
    pub(crate) fn report() -> Report {
        report_with(&OutlookReport::of(&outlooks(), 4096), Some(1e6))
    }

    fn report_with(outlooks: &[OutlookReport], references_a_day: Option<f64>) -> Report {
        let (name, write) = ("a cache", Mode::Back);
        let log_bytes_a_day = references_a_day.map(|_| 1e5);
        let live =
            Live { name, block_size: block_size(), outlooks, write, references_a_day, log_bytes_a_day };
        live_report(&live, &TuneArgs::defaults()).expect("it has seen enough")
    }

    /// Numbers that are all different, so that each is seen to go where it belongs.
    fn an_outlook() -> OutlookReport {
        OutlookReport {
            ram_bytes: 1000 * 4096,
            ssd_bytes: 64_000 * 4096,
            is_present: true,
            read_ram_ratio: 0.625,
            read_ram_ratio_error: 0.03,
            read_ssd_ratio: 0.25,
            read_disk_ratio: 0.125,
            read_disk_ratio_error: 0.02,
            ssd_writes: 0.5,
            references: 77_000,
            sample_rate: 0.75,
            samples: 4,
        }
    }

    #[test]
    fn the_report_of_a_cache_has_its_size_and_all_that_follows_from_the_surface() {
        let report = report();
        let present = report.present.expect("its size is among them");
        assert_eq!((present.cell.ram_bytes, report.surface.len()), (256 * 4096, 20));
        assert!((900..1200).contains(&present.cell.ssd_blocks), "{present:?}");
        assert!(report.surface.contains(&present) && report.recommendation.is_some());
        for Candidate { cell, ssd_bytes_a_day, .. } in &report.surface {
            assert!((cell.ram_share + cell.ssd_share + cell.disk_share - 1.0).abs() < 1e-9, "{cell:?}");
            assert_eq!(cell.ssd_bytes == 0, *ssd_bytes_a_day == Some(0.0), "{cell:?}");
        }
        let row = |line: &&str| line.contains("now");
        let text = super::super::table::show(&report);
        assert_eq!(text.lines().filter(row).count(), 1, "{text}");
        assert!(text.starts_with("a cache: "), "{text}");
    }

    #[test]
    fn every_number_of_an_outlook_goes_where_it_belongs() {
        let mut outlook = outlooks().swap_remove(0);
        (outlook.size.ram_blocks, outlook.size.ssd_blocks) = (1000, 64_000);
        (outlook.read_ssd_ratio, outlook.read_disk_ratio) = (0.25, 0.125);
        (outlook.read_ram_ratio_error, outlook.read_disk_ratio_error) = (0.03, 0.02);
        (outlook.ssd_writes, outlook.references) = (0.5, 77_000);
        (outlook.rate, outlook.samples, outlook.is_present) = (0.75, 4, true);
        assert_eq!(OutlookReport::of(&[outlook], 4096), [an_outlook()]);
        let report = report_with(&[an_outlook()], Some(1e6));
        let wanted = Cell {
            ram_bytes: 1000 * 4096,
            ssd_bytes: 64_000 * 4096,
            ssd_blocks: 64_000,
            index_bytes: Geometry::for_blocks(block_size(), 64_000).expect("a layout").index_bytes_max(),
            ram_share: 0.625,
            ssd_share: 0.25,
            disk_share: 0.125,
            ram_share_error: 0.03,
            disk_share_error: 0.02,
            ssd_bytes_written: 1e6 * 0.5 * 4096.0 + 1e5,
            write_amplification: None,
        };
        assert_eq!((report.surface[0].cell, report.surface[0].ssd_bytes_a_day), (wanted, Some(2.0481e9)));
        assert_eq!(report.present, Some(report.surface[0]));
        assert_eq!((report.references, report.sample_rate, report.samples), (77_000, 0.75, 4));
        assert_eq!((report.block_bytes, report.world.write), (4096, Mode::Back));
        assert_eq!(report.uncached_mean_us, TuneArgs::defaults().disk_latency.mean_us);
    }

    #[test]
    fn where_nobody_knows_how_much_is_asked_for_in_a_day_nothing_is_said_of_wear() {
        let report = report_with(&[OutlookReport { is_present: false, ..an_outlook() }], None);
        assert_eq!((report.surface[0].ssd_bytes_a_day, report.surface[0].life_years), (None, None));
        assert_eq!(report.present, None, "no size is told to be there");
    }

    #[test]
    fn a_service_is_judged_by_how_its_exports_write_and_by_its_days() {
        let mut service = a_report(3600.0);
        service.outlooks = vec![an_outlook()];
        let export = |mode, read_only| ExportReport { mode, read_only, ..service.exports[0].clone() };
        let (back, through) = (export(Mode::Back, false), export(Mode::Through, false));
        let (log, unwritten) = (export(Mode::BackSsd, false), export(Mode::Through, true));
        let mut args = TuneArgs::defaults();
        for (exports, wanted) in [
            (vec![&back], Mode::Back),
            (vec![&log, &back, &unwritten], Mode::Back),
            (vec![&back, &through], Mode::Through),
            (vec![&export(Mode::Around, false)], Mode::Around),
            (vec![&log], Mode::BackSsd),
            (vec![&unwritten], Mode::Through),
            (vec![], Mode::Through),
        ] {
            service.exports = exports.into_iter().cloned().collect();
            let report = report_of("it", &service, &args).expect("it has seen enough");
            assert_eq!(report.world.write, wanted, "{:?}", service.exports);
        }
        // What is asked for counts more than what there is.
        args.write = Some(Mode::Back);
        let report = report_of("it", &service, &args).expect("it has seen enough");
        assert_eq!((report.world.write, report.trace.as_str()), (Mode::Back, "it"));
        let references = service.counters.references as f64 * 24.0;
        let wanted = references * 0.5 * service.block_bytes as f64;
        let found = report.surface[0].ssd_bytes_a_day.expect("it has run for a while");
        assert!((found / wanted - 1.0).abs() < 1e-9, "{found} instead of {wanted} bytes");
        service.running_seconds = 0.0;
        let report = report_of("it", &service, &args).expect("it has seen enough");
        assert_eq!(report.surface[0].ssd_bytes_a_day, None, "no day follows from no time");
    }

    #[test]
    fn a_service_that_saw_too_little_says_how_much_it_lacks() {
        let mut service = a_report(3600.0);
        service.outlooks.clear();
        let mut said = |progress| {
            service.outlook_progress = progress;
            let Err(failure) = report_of("it", &service, &TuneArgs::defaults()) else {
                panic!("it saw nothing")
            };
            failure.to_string()
        };
        let progress = ProgressReport { references_seen: 12, references_wanted: 262_144 };
        let lacks = "it cannot tell: not enough traffic was seen yet: 12 of 262,144 references to blocks of the sample; ask again";
        assert!(said(Some(progress)).starts_with(lacks), "{}", said(Some(progress)));
        assert!(said(None).contains("cannot be simulated"), "{}", said(None));
    }

    #[test]
    fn a_cache_that_saw_too_little_says_so() {
        let (name, write, references_a_day) = ("a cache", Mode::Through, None);
        let (block_size, log_bytes_a_day) = (block_size(), None);
        let live = Live { name, block_size, outlooks: &[], write, references_a_day, log_bytes_a_day };
        let Err(failure) = live_report(&live, &TuneArgs::defaults()) else { panic!("it saw nothing") };
        assert!(failure.to_string().contains("too little to tell yet; ask again"), "{failure}");
    }
}
