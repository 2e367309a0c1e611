//! SIGHUP: the file is read again, and what can change while clients are connected does.
//!
//! | changes at once                               | how                                                           |
//! |-----------------------------------------------|---------------------------------------------------------------|
//! | `log`, `stop-timeout`                         |                                                               |
//! | `ram-size`, `ssd-size`                        | the cache is resized                                          |
//! | `ssd-file` that comes or goes                 | the SSD is attached or detached                               |
//! | `write` of an export                          | its mode is changed; leaving `back-ssd` waits for the disk    |
//! | an export that comes                          | it is opened, attached and offered                            |
//! | an export that goes                           | its clients are sent away, it is flushed and detached         |
//!
//! What else differs is named and waits for the next start. A change that fails is said, and the others are made all the
//! same: each is of use alone. A file that cannot be read, or contradicts itself, changes nothing.

use super::args::ServeArgs;
use super::check;
use super::log::Log;
use super::plan::{ExportPlan, Plan};
use super::service::Service;
use crate::failure::Result;

/// What became of it, in a line.
pub(super) fn reload(args: &ServeArgs, service: &Service, log: &Log) -> String {
    if args.config.is_none() {
        return "nothing to read again: there is no --config".into();
    }
    let read = args.plan().and_then(|plan| {
        check::check_names(&plan)?;
        check::cache_config(&plan.cache)?;
        Ok(plan)
    });
    let wanted = match read {
        Ok(plan) => plan,
        Err(failure) => return format!("the file was not taken over: {failure}"),
    };
    let current = service.plan();
    let mut changes = Changes { service, done: Vec::new(), failed: Vec::new() };
    changes.of_service(&current, &wanted, log);
    changes.of_exports_that_go(&current, &wanted);
    changes.of_tiers(&current, &wanted);
    changes.of_exports(&current, &wanted);
    changes.summary(&waiting(&current, &wanted))
}

struct Changes<'a> {
    service: &'a Service,
    done: Vec<String>,
    failed: Vec<String>,
}

impl Changes<'_> {
    fn make(&mut self, what: String, change: impl FnOnce(&Service) -> Result<()>) {
        match change(self.service) {
            Ok(()) => self.done.push(what),
            Err(failure) => self.failed.push(failure.to_string()),
        }
    }

    fn of_service(&mut self, current: &Plan, wanted: &Plan, log: &Log) {
        if current.log != wanted.log {
            log.set(wanted.log);
            self.done.push("log".into());
        }
        if current.stop_timeout != wanted.stop_timeout {
            self.done.push("stop-timeout".into());
        }
        self.service.note(|plan| (plan.log, plan.stop_timeout) = (wanted.log, wanted.stop_timeout));
    }

    fn of_tiers(&mut self, current: &Plan, wanted: &Plan) {
        let (before, after) = (&current.cache, &wanted.cache);
        if before.ram_size != after.ram_size {
            self.make("ram-size".into(), |service| service.resize_ram(after.ram_size).map(drop));
        }
        match (&before.ssd_file, &after.ssd_file) {
            (Some(_), None) => self.make("ssd-file".into(), Service::detach_ssd),
            (None, Some(file)) => {
                let bytes = after.ssd_size.expect("it was checked that a file has a size");
                self.make("ssd-file".into(), |service| service.attach_ssd(file, bytes));
            }
            (Some(before_file), Some(file)) if before_file == file && before.ssd_size != after.ssd_size => {
                let bytes = after.ssd_size.expect("it was checked that a file has a size");
                self.make("ssd-size".into(), |service| service.resize_ssd(bytes).map(drop));
            }
            _ => {}
        }
    }

    /// Before the tiers, since one of them may be all that needs the SSD.
    fn of_exports_that_go(&mut self, current: &Plan, wanted: &Plan) {
        for export in current.exports.iter().filter(|export| find(wanted, export).is_none()) {
            self.make(format!("{} is gone", export.name), |service| service.remove(&export.name));
        }
        // Out of the log first: that needs the SSD, and what comes after may take it away.
        if wanted.cache.ssd_file.is_none() {
            self.of_modes(current, wanted);
        }
    }

    fn of_exports(&mut self, current: &Plan, wanted: &Plan) {
        if wanted.cache.ssd_file.is_some() {
            self.of_modes(current, wanted);
        }
        for export in wanted.exports.iter().filter(|export| find(current, export).is_none()) {
            self.make(format!("{} is new", export.name), |service| {
                service.add(export, check::open_backing(export)?)?;
                service.note(|plan| plan.exports.push(export.clone()));
                Ok(())
            });
        }
    }

    fn of_modes(&mut self, current: &Plan, wanted: &Plan) {
        for export in &wanted.exports {
            let changed = find(current, export).is_some_and(|before| before.write != export.write);
            if changed && !export.read_only {
                let name = &export.name;
                self.make(format!("mode of {name}"), |service| service.set_mode(Some(name), export.write));
            }
        }
    }

    fn summary(self, waiting: &[String]) -> String {
        let mut parts = Vec::new();
        let mut part = |what: &str, list: &[String], with: &str| {
            if !list.is_empty() {
                parts.push(format!("{what}: {}", list.join(with)));
            }
        };
        part("changed", &self.done, ", ");
        part("waits for the next start", waiting, ", ");
        part("not changed", &self.failed, "; ");
        if parts.is_empty() { "the file says what is in force".into() } else { parts.join("; ") }
    }
}

fn find<'a>(plan: &'a Plan, export: &ExportPlan) -> Option<&'a ExportPlan> {
    plan.exports.iter().find(|other| other.name == export.name)
}

/// What differs and cannot change now.
fn waiting(current: &Plan, wanted: &Plan) -> Vec<String> {
    let (before, after) = (&current.cache, &wanted.cache);
    let other_file =
        before.ssd_file.is_some() && after.ssd_file.is_some() && before.ssd_file != after.ssd_file;
    let mut waiting: Vec<String> = [
        (current.listen != wanted.listen, "listen"),
        (current.control != wanted.control, "control"),
        (current.http != wanted.http, "http"),
        (current.insecure != wanted.insecure, "insecure"),
        (current.tls != wanted.tls, "tls"),
        (current.limits != wanted.limits, "limits"),
        (before.block_size != after.block_size, "block-size"),
        (before.ssd_write_budget != after.ssd_write_budget, "ssd-write-budget"),
        (other_file, "ssd-file"),
    ]
    .into_iter()
    .filter(|&(differs, _)| differs)
    .map(|(_, what)| what.to_string())
    .collect();
    for export in &wanted.exports {
        let Some(before) = find(current, export) else { continue };
        let same = ExportPlan { write: before.write, ..export.clone() };
        if same != *before {
            waiting.push(format!("backing, read-only and description of {}", export.name));
        }
    }
    waiting
}
