//! The service while it runs: one cache, the disks behind it, the clients in front of it.
//!
//! Whoever shows what it does (the control socket, metrics, a page) asks for a [`Snapshot`]; whoever changes it calls one
//! of the methods below, which say what they did in a line. The log has each change.
//!
//! Locks: `changing` is held for the whole of a change, so that there is one at a time; under it the others, one by one and
//! for no longer than it takes to look. No request of a client takes any of them, and no snapshot waits for a change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use terrace::tiers::backing::file::FileBacking;
use terrace::tiers::mark::{FileMark, MarkPlace};
use terrace::{
    AttachOptions, Cache, Config, Outlook, OutlookProgress, RamSize, RecordConfig, RecordStatus, SsdConfig,
    SsdSize, Stats, Volume, WhatIf,
};
use terrace_nbd::{ConnectionStats, Exports, Server, ServerStats};

use super::check::Checked;
use super::doors::Doors;
use super::export::{About, VolumeExport, Workers};
use super::meter::OperationSnapshot;
use super::plan::{ExportPlan, Plan};
use super::report::Lost;
use crate::failure::{Failure, Result};
use crate::mode::Mode;

/// Everything that runs.
pub(crate) struct Service {
    pub(super) cache: Cache,
    pub(super) server: Server,
    pub(super) doors: Doors,
    exports: Arc<Exports>,
    served: RwLock<BTreeMap<String, Arc<Served>>>,
    changing: Mutex<()>,
    force: Mutex<InForce>,
    what_if: Mutex<Option<WhatIf>>,
    since: Instant,
    is_stopping: AtomicBool,
}

/// What is in force now.
struct InForce {
    plan: Plan,
    /// As the cache would be opened to be what it is.
    config: Config,
}

/// One disk that is served.
pub(crate) struct Served {
    pub(super) plan: ExportPlan,
    pub(super) volume: Volume,
    export: Arc<VolumeExport>,
}

/// What the service is and has done.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) running_for: Duration,
    pub(crate) block_bytes: u64,
    pub(crate) ram_bytes: u64,
    /// Of the cache file; none without an SSD.
    pub(crate) ssd_bytes: Option<u64>,
    /// What clean blocks may write to the SSD in a day.
    pub(crate) ssd_write_budget: Option<u64>,
    pub(crate) stats: Stats,
    pub(crate) server: ServerStats,
    pub(crate) connections: Vec<ConnectionStats>,
    pub(crate) exports: Vec<ExportSnapshot>,
    /// What other sizes would give; empty until enough was seen.
    pub(crate) outlooks: Vec<Outlook>,
    /// None where no other size can be simulated.
    pub(crate) outlook_progress: Option<OutlookProgress>,
    /// The recording that runs, or the last one.
    pub(crate) recording: Option<RecordStatus>,
}

/// One disk, and what clients did with it.
#[derive(Debug)]
pub(crate) struct ExportSnapshot {
    pub(crate) name: String,
    pub(crate) backing: String,
    pub(crate) bytes: u64,
    pub(crate) mode: Mode,
    pub(crate) read_only: bool,
    /// Newer in RAM than below.
    pub(crate) dirty_blocks: u64,
    /// Written below, and not synced yet.
    pub(crate) unsynced_blocks: u64,
    /// Blocks that nobody can give any more.
    pub(crate) lost_blocks: u64,
    pub(crate) operations: Vec<OperationSnapshot>,
}

impl Service {
    /// Opens the cache, attaches the disks and lets clients in. When it fails nothing is left behind.
    pub(super) fn open(checked: Checked) -> Result<Self> {
        let Checked { plan, config, backings, tls, entrances, .. } = checked;
        let cache = Cache::open(&config).map_err(|error| {
            Failure::caused("the cache cannot be opened", error)
                .remedy("mend that, or leave the SSD file out")
        })?;
        let exports = Arc::new(Exports::default());
        let service = Self {
            server: Server::new(exports.clone(), plan.limits.limits()),
            doors: Doors::new(tls),
            exports,
            served: RwLock::default(),
            what_if: Mutex::new(watch(&cache, &config)),
            since: Instant::now(),
            is_stopping: AtomicBool::new(false),
            changing: Mutex::default(),
            force: Mutex::new(InForce { plan: plan.clone(), config }),
            cache,
        };
        for (export, backing) in plan.exports.iter().zip(backings) {
            service.add(export, backing)?;
        }
        if let Some(path) = &plan.cache.record {
            service.record(path, plan.cache.record_size)?;
        }
        // Last, since whoever comes in finds everything.
        for entrance in entrances {
            service.doors.open(&service.server, entrance).map_err(no_threads)?;
        }
        Ok(service)
    }

    /// Serves one more disk.
    pub(super) fn add(&self, plan: &ExportPlan, backing: Arc<FileBacking>) -> Result<()> {
        let name = &plan.name;
        let workers = Workers::new().map_err(no_threads)?;
        let stale_ssd = self.force.lock().plan.stale_ssd.into();
        let mark = plan.mark.as_ref().map(|path| -> Arc<dyn MarkPlace> { Arc::new(FileMark::new(path)) });
        let options =
            AttachOptions { mark, stale_ssd, exclusive: plan.exclusive, generation: plan.generation };
        let volume = self.cache.attach_with(name, backing, plan.mode(), &options);
        let volume = volume.map_err(|error| cannot_attach(name, error))?;
        let about = About { description: plan.description.clone(), read_only: plan.read_only };
        let export = Arc::new(VolumeExport::new(volume.clone(), about, workers));
        let served = Served { plan: plan.clone(), volume, export: export.clone() };
        self.served.write().insert(name.clone(), Arc::new(served));
        self.exports.insert(name, export);
        tracing::info!(export = %name, backing = %plan.backing.display(), "an export is served");
        Ok(())
    }

    /// Serves a disk no longer: its clients are sent away, and all of it goes below.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let served = self.served(name)?;
        self.exports.remove(name);
        self.server.disconnect(name);
        served.volume.detach().map_err(|error| {
            // It is whole, and still attached.
            self.exports.insert(name, served.export.clone());
            failed(&format!("export {name} cannot be let go"), error)
        })?;
        self.served.write().remove(name);
        self.note(|plan| plan.exports.retain(|export| export.name != name));
        tracing::info!(export = name, "an export is gone");
        Ok(())
    }

    /// The disks that are served, by name.
    pub(super) fn all(&self) -> Vec<Arc<Served>> {
        self.served.read().values().cloned().collect()
    }

    pub(super) fn served(&self, name: &str) -> Result<Arc<Served>> {
        let served = self.served.read();
        served.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = served.keys().map(String::as_str).collect();
            Failure::input(format!("there is no export {name}"))
                .remedy(format!("there are {}", names.join(", ")))
        })
    }

    /// The disks that a command is about: one, or all when none is named.
    pub(super) fn chosen(&self, name: Option<&str>) -> Result<Vec<Arc<Served>>> {
        name.map_or_else(|| Ok(self.all()), |name| Ok(vec![self.served(name)?]))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (block_bytes, ram_bytes, ssd_bytes, ssd_write_budget) = {
            let cache = &self.force.lock().plan.cache;
            let ssd = cache.ssd_size.filter(|_| cache.ssd_file.is_some());
            (cache.block_size.bytes() as u64, cache.ram_size, ssd, cache.ssd_write_budget)
        };
        let (outlooks, outlook_progress) = {
            let what_if = self.what_if.lock();
            (what_if.as_ref().map_or_else(Vec::new, WhatIf::outlooks), what_if.as_ref().map(WhatIf::progress))
        };
        Snapshot {
            running_for: self.since.elapsed(),
            block_bytes,
            ram_bytes,
            ssd_bytes,
            ssd_write_budget,
            stats: self.cache.stats(),
            server: self.server.stats(),
            connections: self.server.connections(),
            exports: self.all().iter().map(|served| served.snapshot()).collect(),
            outlooks,
            outlook_progress,
            recording: self.cache.record_status(),
        }
    }

    pub(super) fn flush(&self, name: Option<&str>) -> Result<()> {
        for served in self.chosen(name)? {
            let what = format!("export {} is not flushed", served.plan.name);
            served.volume.flush().map_err(|error| failed(&what, error))?;
        }
        Ok(())
    }

    /// What nobody can give any more, of one export or of all.
    pub(super) fn lost(&self, name: Option<&str>) -> Result<Vec<Lost>> {
        let lost = |served: Arc<Served>| {
            let volume = &served.volume;
            let block_bytes = volume.block_size().bytes() as u64;
            Lost::of(&served.plan.name, &volume.lost_blocks(), block_bytes, volume.len_bytes())
        };
        Ok(self.chosen(name)?.into_iter().flat_map(lost).collect())
    }

    pub(super) fn forget(&self, name: &str, offset: u64, bytes: u64) -> Result<()> {
        let what = format!("nothing of export {name} is forgotten");
        self.served(name)?.volume.forget(offset, bytes).map_err(|error| failed(&what, error))?;
        tracing::warn!(export = name, offset, bytes, "a range was forgotten");
        Ok(())
    }

    /// Of one export, or of all that may be written.
    pub(super) fn set_mode(&self, name: Option<&str>, mode: Mode) -> Result<()> {
        let _changing = self.changing.lock();
        for served in self.chosen(name)? {
            let export = &served.plan.name;
            if served.plan.read_only {
                if name.is_some() {
                    return Err(
                        Failure::input(format!("export {export} is read-only")).remedy("name another")
                    );
                }
                continue;
            }
            let what = format!("export {export} keeps its mode");
            served.volume.set_mode(mode.into()).map_err(|error| failed(&what, error))?;
            tracing::info!(%export, %mode, "the mode of writing was changed");
            let mut force = self.force.lock();
            let planned = force.plan.exports.iter_mut().filter(|planned| planned.name == *export);
            planned.for_each(|planned| planned.write = mode);
        }
        Ok(())
    }

    /// Gives RAM another size; how many blocks it has room for.
    pub(super) fn resize_ram(&self, bytes: u64) -> Result<u64> {
        let _changing = self.changing.lock();
        let resized = self.cache.resize_ram(RamSize::Bytes(bytes));
        let resized = resized.map_err(|error| failed("RAM keeps its size", error))?;
        self.change(|force| {
            force.plan.cache.ram_size = bytes;
            force.config.ram = RamSize::Bytes(bytes);
        });
        tracing::info!(bytes, blocks = resized.blocks, "RAM was resized");
        Ok(resized.blocks)
    }

    /// Gives the cache file another size; how many blocks it has room for.
    pub(super) fn resize_ssd(&self, bytes: u64) -> Result<u64> {
        let _changing = self.changing.lock();
        let resized = self.cache.resize_ssd(SsdSize::Bytes(bytes));
        let resized = resized.map_err(|error| failed("the SSD keeps its size", error))?;
        self.change(|force| {
            force.plan.cache.ssd_size = Some(bytes);
            if let Some(ssd) = &mut force.config.ssd {
                ssd.size = SsdSize::Bytes(bytes);
            }
        });
        tracing::info!(bytes, blocks = resized.blocks, "the SSD was resized");
        Ok(resized.blocks)
    }

    pub(super) fn detach_ssd(&self) -> Result<()> {
        let _changing = self.changing.lock();
        let detached = self.cache.detach_ssd();
        if !matches!(detached, Err(terrace::Error::SsdInUse { .. })) {
            self.change(|force| {
                (force.plan.cache.ssd_file, force.plan.cache.ssd_size, force.config.ssd) = (None, None, None);
            });
            tracing::info!("the SSD was detached");
        }
        detached.map_err(|error| failed("the SSD is not left in order", error))
    }

    pub(super) fn attach_ssd(&self, file: &std::path::Path, bytes: u64) -> Result<()> {
        let _changing = self.changing.lock();
        let mut ssd = SsdConfig::new(file, SsdSize::Bytes(bytes));
        ssd.policy.write_budget_bytes_per_day = self.force.lock().plan.cache.ssd_write_budget;
        self.cache.attach_ssd(&ssd).map_err(|error| failed("the SSD is not attached", error))?;
        self.change(|force| {
            (force.plan.cache.ssd_file, force.plan.cache.ssd_size) = (Some(file.to_owned()), Some(bytes));
            force.config.ssd = Some(ssd);
        });
        tracing::info!(file = %file.display(), bytes, "an SSD was attached");
        Ok(())
    }

    /// Records what clients ask for, in at most `bytes_max` bytes.
    pub(super) fn record(&self, file: &std::path::Path, bytes_max: Option<u64>) -> Result<()> {
        let mut config = RecordConfig::new(file);
        config.bytes_max = bytes_max.unwrap_or(config.bytes_max);
        self.cache.start_recording(&config).map_err(|error| failed("nothing is recorded", error))?;
        tracing::info!(file = %file.display(), "a recording began");
        Ok(())
    }

    pub(super) fn stop_recording(&self) -> Result<RecordStatus> {
        let running = self.cache.record_status().filter(|status| status.is_running);
        let ended = running.and_then(|_| self.cache.stop_recording());
        let ended =
            ended.ok_or_else(|| Failure::input("nothing is recorded").remedy("begin with record FILE"))?;
        tracing::info!(requests = ended.requests, lost = ended.requests_lost, "the recording ended");
        Ok(ended)
    }

    /// Waits until the backing stores have all there is, durably.
    pub(super) fn drain(&self) -> Result<()> {
        self.flush(None)?;
        self.cache.settle().map_err(|error| failed("not everything is on the backing stores", error))
    }

    /// Blocks that a crash of the machine now would take the newest bytes of.
    pub(super) fn blocks_not_durable(&self) -> u64 {
        let stats = self.cache.stats();
        stats.dirty_blocks + stats.unsynced_blocks
    }

    /// The tiers are others now, and so are those to compare them with.
    fn change(&self, change: impl FnOnce(&mut InForce)) {
        let config = {
            let mut force = self.force.lock();
            change(&mut force);
            force.config.clone()
        };
        let mut what_if = self.what_if.lock();
        // One at a time.
        *what_if = None;
        *what_if = watch(&self.cache, &config);
    }

    /// What is in force, as far as it can be said in a plan.
    pub(super) fn plan(&self) -> Plan {
        self.force.lock().plan.clone()
    }

    /// What a change that was told from outside came to.
    pub(super) fn note(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.force.lock().plan);
    }

    /// Clients are sent away from now on.
    pub(super) fn note_stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Makes everything durable and leaves the cache file in order. No client is there any more.
    pub(super) fn close(&self) -> Result<()> {
        *self.what_if.lock() = None;
        self.cache.close().map_err(|error| failed("not everything is durable", error))
    }
}

impl Served {
    fn snapshot(&self) -> ExportSnapshot {
        ExportSnapshot {
            name: self.plan.name.clone(),
            backing: self.plan.backing.display().to_string(),
            bytes: self.volume.len_bytes(),
            mode: self.volume.mode().into(),
            read_only: self.plan.read_only,
            dirty_blocks: self.volume.dirty_blocks(),
            unsynced_blocks: self.volume.unsynced_blocks(),
            lost_blocks: self.volume.lost_blocks().len() as u64,
            operations: self.export.meter().snapshot(),
        }
    }
}

fn no_threads(error: std::io::Error) -> Failure {
    Failure::caused("the system gives no threads or descriptors", error)
        .remedy("raise the limits of this user")
}

fn cannot_attach(name: &str, error: terrace::Error) -> Failure {
    match error {
        terrace::Error::SsdMissing { cache_file, .. } => Failure::input(format!(
            "the disk of export {name} lacks blocks that only cache file {cache_file:016x} has"
        ))
        .remedy("serve it with that --ssd-file, or lose them by --stale-ssd forget"),
        terrace::Error::SsdOlder { dirty_blocks, .. } => Failure::input(format!(
            "the cache file has {dirty_blocks} blocks of export {name}, and is not known to be all that the disk lacks"
        ))
        .remedy(
            "serve the disk under the name and with the cache file that it had; or have --stale-ssd forget drop what the \
             file has, or believe put it over the disk",
        ),
        error => Failure::caused(format!("export {name} cannot be served"), error).remedy("nothing of it was changed"),
    }
}

/// A watcher of what other sizes would do; none, and a word about it, where these cannot be simulated.
fn watch(cache: &Cache, config: &Config) -> Option<WhatIf> {
    let started = WhatIf::start(cache, config, WhatIf::BUSY_SHARE);
    started.inspect_err(|error| tracing::info!(%error, "no outlook on other sizes")).ok()
}

fn failed(what: &str, error: terrace::Error) -> Failure {
    Failure::caused(what, error)
}
