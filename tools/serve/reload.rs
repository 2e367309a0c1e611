//! SIGHUP: the file is read again, and what can change while clients are connected does.
//!
//! | changes at once                               | how                                                           |
//! |-----------------------------------------------|---------------------------------------------------------------|
//! | `log`, `stop-timeout`                         |                                                               |
//! | `limits`                                      | for clients that come then; those that are here keep theirs   |
//! | `tls`, and what is in its files               | for clients that come then: certificates are renewed so       |
//! | `listen`                                      | addresses come and go; clients that are here stay             |
//! | `ram-size`, `ssd-size`                        | the cache is resized                                          |
//! | `ssd-file` that comes or goes                 | the SSD is attached or detached                               |
//! | `write` of an export                          | its mode is changed; leaving `back-ssd` waits for the disk    |
//! | an export that comes                          | it is opened, attached and offered                            |
//! | an export that goes                           | its clients are sent away, it is flushed and detached         |
//!
//! What else differs is named and waits for the next start.
//!
//! It has two steps. [`Prepared::of`] checks and opens all that can be before anything changes, as a start does: a file that
//! cannot be read or contradicts itself, a certificate without its key, an address that is taken, a disk that is not there
//! change nothing, and the reason is said. Then the changes are made, one after the other; one that fails all the same is
//! said too, and the others are made: each is of use alone.
//!
//! What one plan lets go and the other wants cannot be opened before: a disk under another name is opened when the old name
//! is gone. An address that overlaps one that goes, such as 0.0.0.0 after 127.0.0.1, is refused: it takes two steps.

use std::sync::Arc;

use terrace::tiers::backing::file::FileBacking;
use terrace_nbd::Tls;

use super::args::ServeArgs;
use super::check;
use super::doors::Entrance;
use super::log::Log;
use super::plan::{ExportPlan, Plan};
use super::service::Service;
use crate::failure::{Failure, Result};

/// What became of it, in a line.
pub(super) fn reload(args: &ServeArgs, service: &Service, log: &Log) -> String {
    if args.config.is_none() {
        return "nothing to read again: there is no --config".into();
    }
    let current = service.plan();
    let prepared = args.plan().and_then(|wanted| Prepared::of(wanted, &current, service));
    let Prepared { wanted, tls, entrances, mut backings } = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return format!("the file was not taken over: {failure}"),
    };
    let mut changes = Changes { service, done: Vec::new(), failed: Vec::new() };
    changes.of_service(&current, &wanted, log);
    changes.of_doors(&current, &wanted, tls, entrances);
    changes.of_exports_that_go(&current, &wanted);
    changes.of_tiers(&current, &wanted);
    changes.of_exports(&current, &wanted, &mut backings);
    changes.summary(&waiting(&current, &wanted))
}

/// A plan that works on this machine, with what it needs that is not there yet.
struct Prepared {
    wanted: Plan,
    tls: Option<Tls>,
    entrances: Vec<Entrance>,
    /// By the name of its export.
    backings: Vec<(String, Arc<FileBacking>)>,
}

impl Prepared {
    fn of(mut wanted: Plan, current: &Plan, service: &Service) -> Result<Self> {
        // Where it was told nowhere it stays, also when the address that it was put beside goes.
        wanted.control = wanted.control.or_else(|| current.control.clone());
        check::check_plan(&wanted)?;
        let tls = check::load_tls(&wanted)?;
        check::check_reach(&wanted, tls.is_some())?;
        service.doors.check_passed(tls.is_some(), wanted.insecure)?;
        check::check_files(&wanted)?;
        if wanted.listen.is_empty() && !service.doors.has_passed() {
            return Err(check::no_address());
        }
        let in_use: Vec<_> = current.exports.iter().map(|export| check::file_at(&export.backing)).collect();
        let is_free = |export: &&ExportPlan| !in_use.contains(&check::file_at(&export.backing));
        let come = wanted.exports.iter().filter(|export| find(current, export).is_none());
        let open = |export: &ExportPlan| Ok((export.name.clone(), check::open_backing(export)?));
        let backings = come.filter(is_free).map(open).collect::<Result<_>>()?;
        // Last: from here on clients may find a socket there.
        let come = wanted.listen.iter().filter(|address| !current.listen.contains(address));
        let open = |address| check::open_entrance(address, wanted.socket_mode);
        let entrances = come.map(open).collect::<Result<_>>()?;
        Ok(Self { wanted, tls, entrances, backings })
    }
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
        if current.limits != wanted.limits {
            self.service.server.set_limits(wanted.limits.limits());
            self.done.push("limits".into());
        }
        self.service.note(|plan| {
            (plan.log, plan.stop_timeout) = (wanted.log, wanted.stop_timeout);
            plan.limits = wanted.limits.clone();
            plan.insecure = wanted.insecure;
        });
    }

    fn of_doors(&mut self, current: &Plan, wanted: &Plan, tls: Option<Tls>, entrances: Vec<Entrance>) {
        let (doors, server) = (&self.service.doors, &self.service.server);
        // First, and new ones last: no address is ever open to more than its plan lets in.
        for address in current.listen.iter().filter(|address| !wanted.listen.contains(address)) {
            doors.close(server, address);
            self.service.note(|plan| plan.listen.retain(|open| open != address));
            self.done.push(format!("{address} is closed"));
        }
        if doors.set_tls(server, tls) {
            self.done.push("tls".into());
        }
        self.service.note(|plan| plan.tls = wanted.tls.clone());
        for entrance in entrances {
            let address = entrance.address.clone().expect("none was passed since the start");
            self.make(format!("{address} is open"), |service| {
                let opened = service.doors.open(&service.server, entrance);
                opened.map_err(|error| Failure::caused(format!("cannot listen on {address}"), error))?;
                service.note(|plan| plan.listen.push(address));
                Ok(())
            });
        }
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

    fn of_exports(&mut self, current: &Plan, wanted: &Plan, backings: &mut Vec<(String, Arc<FileBacking>)>) {
        if wanted.cache.ssd_file.is_some() {
            self.of_modes(current, wanted);
        }
        for export in wanted.exports.iter().filter(|export| find(current, export).is_none()) {
            let opened = backings.extract_if(.., |(name, _)| *name == export.name).next();
            self.make(format!("{} is new", export.name), |service| {
                let backing =
                    opened.map_or_else(|| check::open_backing(export), |(_, backing)| Ok(backing))?;
                service.add(export, backing)?;
                service.note(|plan| plan.exports.push(export.clone()));
                Ok(())
            });
        }
    }

    fn of_modes(&mut self, current: &Plan, wanted: &Plan) {
        for export in &wanted.exports {
            let changed = |before: &ExportPlan| before.write != export.write && !before.read_only;
            if find(current, export).is_some_and(changed) && !export.read_only {
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
        (current.socket_mode != wanted.socket_mode, "socket-mode"),
        (current.control != wanted.control, "control"),
        (current.http != wanted.http, "http"),
        (before.block_size != after.block_size, "block-size"),
        (before.ssd_write_budget != after.ssd_write_budget, "ssd-write-budget"),
        (before.ordered != after.ordered, "ordered"),
        (other_file, "ssd-file"),
        (before.record != after.record, "record"),
        (before.record_size != after.record_size, "record-size"),
    ]
    .into_iter()
    .filter(|&(differs, _)| differs)
    .map(|(_, what)| what.to_string())
    .collect();
    for export in &wanted.exports {
        let Some(before) = find(current, export) else { continue };
        let ExportPlan { name, backing, write: _, read_only, exclusive, mark, generation, description } =
            export;
        let differing = [
            (before.backing != *backing, "backing"),
            (before.read_only != *read_only, "read-only"),
            (before.exclusive != *exclusive, "exclusive"),
            (before.mark != *mark, "mark"),
            (before.generation != *generation, "generation"),
            (before.description != *description, "description"),
        ];
        let differing = differing.into_iter().filter(|&(differs, _)| differs);
        waiting.extend(differing.map(|(_, what)| format!("{what} of {name}")));
    }
    waiting
}
