//! `terrace serve`: disks behind the tiers, as network block devices.
//!
//! ```text
//! args ──┐
//!        ├──> plan ──> check ──> Service ──> terrace_nbd::Server ──> VolumeExport ──> terrace::Volume
//! toml ──┘                        ▲   │                                 (export.rs)
//!            signals ── reload ───┤   └──> Snapshot ──> report ──> control socket ──> terrace ctl
//!                       control ──┘   └──> metrics, history ──> page ──> http ──> Prometheus, a browser
//! ```
//!
//! The life of a service: everything is checked, the cache opened, the disks attached, and only then clients are let in.
//! On a wish to end nobody is let in any more; those that are here get answers to what they began; everything is made
//! durable; the cache file is left in order. All of that takes `stop-timeout` at most: then what is not durable is said, and
//! left as in a crash.

mod args;
mod check;
pub(crate) mod control;
mod errors;
mod export;
mod helpers;
mod history;
mod http;
pub(crate) mod interval;
mod log;
pub(crate) mod meter;
mod metrics;
mod notify;
mod page;
pub(crate) mod plan;
mod reload;
pub(crate) mod report;
pub(crate) mod service;
mod signals;
mod status;

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) use args::ServeArgs;
use notify::Manager;
use service::Service;
use signals::Event;

use crate::failure::{Failure, Result};

/// A service manager waits so much longer than the service takes.
const MARGIN: Duration = Duration::from_secs(5);

/// Runs the subcommand; `print` takes what goes to standard output.
pub(crate) fn main(args: &ServeArgs, print: impl Fn(&str)) -> Result<()> {
    let plan = args.plan()?;
    let log = log::Log::start(plan.log);
    let no_threads =
        |error| Failure::caused("the system gives no thread", error).remedy("raise this user's limits");
    let events = signals::events().map_err(no_threads)?;
    let manager = Manager::of_process();
    let mut checked = check::check(plan)?;
    let names: Vec<String> = checked.listeners.iter().map(|(listener, _)| listener.name()).collect();
    let (control, http) = (checked.control.take(), checked.http.take());
    let service = Arc::new(Service::open(checked)?);
    // Its file is removed when this function ends.
    let control = control.map(|control| control.serve(&service)).transpose().map_err(no_threads)?;
    let mut ready = format!("ready at {}", names.join(", "));
    if let Some(control) = &control {
        ready += &format!(", control at {}", control.path().display());
    }
    if let Some(http) = http {
        ready += &format!(", page and metrics at http://{}/", http.address());
        http.serve(&service).map_err(no_threads)?;
    }
    print(&ready);
    manager.ready(&ready);
    let life = Arc::new(Life { args: args.clone(), service, log, manager });
    life.wait_for_end(&events);
    life.stop()
}

/// A service from when it is ready.
struct Life {
    args: ServeArgs,
    service: Arc<Service>,
    log: log::Log,
    manager: Manager,
}

impl Life {
    /// Does what events ask for, until one asks to end.
    fn wait_for_end(self: &Arc<Self>, events: &Receiver<Event>) {
        let mut reload: Option<JoinHandle<()>> = None;
        loop {
            let event = match self.manager.watchdog_interval() {
                Some(interval) => events.recv_timeout(interval),
                None => events.recv().map_err(RecvTimeoutError::from),
            };
            match event {
                Ok(Event::Reload) if reload.as_ref().is_some_and(|running| !running.is_finished()) => {
                    say("still busy with the file as it was; send SIGHUP again later");
                }
                Ok(Event::Reload) => {
                    let life = self.clone();
                    reload = Some(thread::spawn(move || life.reload()));
                }
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // It takes every lock that requests take: one that nobody gets keeps the watchdog waiting.
                    self.service.cache.stats();
                    self.manager.alive();
                }
            }
        }
    }

    fn reload(&self) {
        let what = reload::reload(&self.args, &self.service, &self.log);
        self.manager.status(&what);
        say(&what);
    }

    /// Ends the service in order, within its time.
    fn stop(&self) -> Result<()> {
        let within = self.service.plan().stop_timeout;
        self.manager.stopping(within + MARGIN);
        let (sender, ended) = channel();
        let service = self.service.clone();
        thread::spawn(move || sender.send(end(&service, within / 4)));
        match ended.recv_timeout(within) {
            Ok(Ok(())) => {
                say("stopped; everything is durable");
                Ok(())
            }
            Ok(Err(failure)) => Err(Failure::NotDurable(failure.to_string())),
            Err(_) => {
                let dirty_blocks = self.service.cache.stats().dirty_blocks;
                Err(Failure::NotDurable(format!(
                    "stopped after {} s with {dirty_blocks} blocks that are not durable; --stop-timeout gives them time",
                    within.as_secs_f64()
                )))
            }
        }
    }
}

/// `grace` is for clients to finish; those that do not are cut off.
fn end(service: &Service, grace: Duration) -> Result<()> {
    service.note_stopping();
    let clients = service.server.stats().connections;
    say(&format!("stopping: {clients} clients finish what they began"));
    let drained = service.server.shutdown(grace);
    if drained.cut > 0 {
        say(&format!("{} clients did not finish and were cut off", drained.cut));
    }
    say(&format!("making everything durable: {} blocks are not", service.cache.stats().dirty_blocks));
    service.close()
}

/// A line about the life of the service, for whoever started it.
fn say(line: &str) {
    // When this cannot be written there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "terrace: {line}");
}
