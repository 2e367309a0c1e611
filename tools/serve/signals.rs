//! Signals as events, in the order of coming. The third wish to end is granted here, whatever else is under way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Result;

/// What the life of a service consists of.
#[derive(Debug)]
pub(super) enum Event {
    /// SIGTERM or SIGINT: the first to end, the second to be quick about it.
    Stop,
    /// SIGHUP.
    Reload,
    /// The service is open, or cannot be opened.
    Opened,
    /// All that ends the service in order has been done.
    Ended(Result<()>),
}

/// So many wishes to end are as good as a crash.
const WISHES_MAX: usize = 3;

/// The exit code of a service that was ended before all was durable.
const ENDED_AT_ONCE: i32 = 1;

/// Takes SIGTERM, SIGINT and SIGHUP from now on, as events that come out of the receiver. Others may be put in.
///
/// # Errors
/// When the system refuses.
pub(super) fn events() -> std::io::Result<(Sender<Event>, Receiver<Event>)> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, events) = channel();
    let own = sender.clone();
    thread::Builder::new().name("terrace-signals".into()).spawn(move || {
        let mut wishes = 0;
        for signal in signals.forever() {
            let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
            wishes += usize::from(signal != SIGHUP);
            if wishes == WISHES_MAX {
                super::say("ended at once: what was flushed is kept, what was not is lost as in a crash");
                std::process::exit(ENDED_AT_ONCE);
            }
            // Nobody takes events any more: the process is at its end.
            let _ = sender.send(event);
        }
    })?;
    Ok((own, events))
}
