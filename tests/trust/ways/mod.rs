//! The ways in which caches have lost data, one test each: see the table in `main`.

mod bounds;
mod progress;
mod races;
mod restarts;

use std::sync::mpsc;
use std::time::Duration;

use terrace::WriteMode;

/// All that there are.
const MODES: [WriteMode; 4] = [WriteMode::Around, WriteMode::Through, WriteMode::Back, WriteMode::BackSsd];

#[track_caller]
fn answer<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).expect("it is answered")
}
