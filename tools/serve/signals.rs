//! Signals as events, in the order of coming. The second wish to end is granted here, whatever else is under way.

use std::sync::mpsc::{Receiver, channel};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Stop,
    Reload,
}

/// The exit code of a service that was ended before all was durable.
pub(super) const ENDED_AT_ONCE: i32 = 1;

/// Takes SIGTERM, SIGINT and SIGHUP from now on. The second of the first two ends the process.
///
/// # Errors
/// When the system refuses.
pub(super) fn events() -> std::io::Result<Receiver<Event>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, events) = channel();
    thread::Builder::new().name("terrace-signals".into()).spawn(move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                // Nobody takes events any more: the process is at its end.
                let _ = sender.send(Event::Reload);
            } else if is_stopping {
                super::say("ended at once; what was not flushed is lost as in a crash");
                std::process::exit(ENDED_AT_ONCE);
            } else {
                is_stopping = true;
                let _ = sender.send(Event::Stop);
            }
        }
    })?;
    Ok(events)
}
