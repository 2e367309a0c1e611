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
//! Attaching a disk takes long where it leaves mode `back-ssd`: first it gets what only the SSD has. A service manager is asked
//! for that time, and a wish to end is granted within `stop-timeout` then too; what the SSD has stays there.
//! On a wish to end nobody is let in any more; those that are here get answers to what they began, for a quarter of
//! `stop-timeout`, and those that do not take them are cut off; everything is made durable; the cache file is left in order.
//! A second wish cuts off at once who is still here. All of that takes `stop-timeout` at most; then, and on a third wish, what
//! is not durable is left as in a crash. Nothing that was flushed is ever lost by it: what a flush covers is on the disks
//! or in the log on the SSD when it is answered.

mod args;
mod check;
pub(crate) mod control;
mod doors;
mod errors;
mod export;
mod health;
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
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use args::ServeArgs;
use check::Checked;
use health::Health;
use notify::Manager;
use service::Service;
use signals::Event;

use crate::failure::{Failure, Result};
use crate::memory;

/// How often it is looked whether something fails.
const LOOK: Duration = Duration::from_secs(5);
/// A service manager waits so much longer than the service takes.
const MARGIN: Duration = Duration::from_secs(5);
/// How often a service manager hears that the service is being opened, which is to go on for [`PATIENCE`].
const OPENING: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// Who starts it by hand wonders from then on.
const LONG: Duration = Duration::from_secs(6);

/// Runs the subcommand; `print` takes what goes to standard output.
pub(crate) fn main(args: &ServeArgs, print: impl Fn(&str)) -> Result<()> {
    memory::give_back_what_is_freed();
    let plan = args.plan()?;
    let log = log::Log::start(plan.log);
    let no_threads =
        |error| Failure::caused("the system gives no thread", error).remedy("raise this user's limits");
    let (sender, events) = signals::events().map_err(no_threads)?;
    let manager = Manager::of_process();
    let mut checked = check::check(plan)?;
    let names: Vec<String> = checked.entrances.iter().map(|entrance| entrance.listener.name()).collect();
    let (control, http) = (checked.control.take(), checked.http.take());
    let service = Arc::new(open(checked, &sender, &events, &manager)?);
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
    let reloads = life.clone().take_reloads().map_err(no_threads)?;
    life.wait_for_end(&events, &reloads);
    life.stop(sender, &events)
}

/// Opens the service on a thread of its own, so that signals and the manager have theirs meanwhile. What it does not grant
/// itself is left for [`Life`].
fn open(
    checked: Checked,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
    manager: &Manager,
) -> Result<Service> {
    let (since, within) = (Instant::now(), checked.plan.stop_timeout);
    let (mut is_long, mut deadline, mut later) = (false, None, Vec::new());
    let opened = sender.clone();
    let opening = thread::spawn(move || {
        let service = Service::open(checked);
        // Whoever receives it waits below.
        let _ = opened.send(Event::Opened);
        service
    });
    // It also ends by a panic.
    while !opening.is_finished() {
        let left = deadline.map(|deadline: Instant| deadline.saturating_duration_since(Instant::now()));
        match events.recv_timeout(left.map_or(OPENING, |left| left.min(OPENING))) {
            Ok(Event::Opened) => break,
            Ok(Event::Stop) if deadline.is_none() => {
                deadline = Some(Instant::now() + within);
                say("stopping once everything is open; a second signal ends that");
                later.push(Event::Stop);
            }
            Ok(Event::Stop) => return Err(not_opened()),
            Ok(event) => later.push(event),
            Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Err(not_opened()),
            Err(_) => {
                manager.opening(PATIENCE);
                if since.elapsed() >= LONG && !is_long {
                    is_long = true;
                    say("still opening: a disk that leaves mode back-ssd gets first what only the SSD has");
                }
            }
        }
    }
    later.into_iter().for_each(|event| drop(sender.send(event)));
    opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn not_opened() -> Failure {
    Failure::input("ended before clients were let in")
        .remedy("what only the SSD has is there at the next start")
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
    fn wait_for_end(&self, events: &Receiver<Event>, reloads: &SyncSender<()>) {
        let mut health = Health::default();
        let interval = self.manager.watchdog_interval().map_or(LOOK, |interval| interval.min(LOOK));
        loop {
            match events.recv_timeout(interval) {
                // If there is no room one is yet to begin, which will find the file as it is now.
                Ok(Event::Reload) => drop(reloads.try_send(())),
                Ok(Event::Stop | Event::Ended(_)) | Err(RecvTimeoutError::Disconnected) => return,
                // It may come after it was seen.
                Ok(Event::Opened) => {}
                Err(RecvTimeoutError::Timeout) => {
                    // It takes every lock that requests take: one that nobody gets keeps the watchdog waiting.
                    health.look(&self.service.cache.stats());
                    self.manager.alive();
                }
            }
        }
    }

    /// Reads the file again for each that is sent, one after the other, on a thread of its own: it may take long.
    fn take_reloads(self: Arc<Self>) -> std::io::Result<SyncSender<()>> {
        let (sender, wanted) = sync_channel(1);
        thread::Builder::new()
            .name("terrace-reload".into())
            .spawn(move || wanted.iter().for_each(|()| self.reload()))?;
        Ok(sender)
    }

    fn reload(&self) {
        self.manager.reloading();
        let what = reload::reload(&self.args, &self.service, &self.log);
        say(&what);
        self.manager.ready(&what);
    }

    /// Ends the service in order, within its time.
    fn stop(&self, sender: Sender<Event>, events: &Receiver<Event>) -> Result<()> {
        let within = self.service.plan().stop_timeout;
        let deadline = Instant::now() + within;
        self.manager.stopping(within + MARGIN);
        let service = self.service.clone();
        thread::spawn(move || sender.send(Event::Ended(end(&service, within / 4))));
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(Ok(()))) => {
                    say("stopped; everything is durable");
                    return Ok(());
                }
                Ok(Event::Ended(Err(failure))) => {
                    return Err(Failure::NotDurable(format!("{failure}; {}", self.what_is_lost())));
                }
                Ok(Event::Stop) => self.hasten(),
                // The service is at its end.
                Ok(Event::Reload | Event::Opened) => {}
                Err(_) => {
                    let seconds = within.as_secs_f64();
                    let lost = self.what_is_lost();
                    return Err(Failure::NotDurable(format!(
                        "stopped after {seconds} s: {lost}; --stop-timeout gives it time"
                    )));
                }
            }
        }
    }

    fn hasten(&self) {
        self.service.server.cut_all();
        let blocks = self.service.blocks_not_durable();
        say(&format!(
            "clients are cut off; {blocks} blocks are yet to be made durable, which a third signal gives up"
        ));
    }

    fn what_is_lost(&self) -> String {
        format!("{} blocks that were not flushed may be lost", self.service.blocks_not_durable())
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
    if drained.stuck > 0 {
        say(&format!("requests of {} clients are without an answer from a disk", drained.stuck));
    }
    say(&format!("making everything durable: {} blocks are not", service.blocks_not_durable()));
    service.close()
}

/// A line about the life of the service, for whoever started it.
fn say(line: &str) {
    // When this cannot be written there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "terrace: {line}");
}
