//! A recording of all that callers ask for, in the project's own format of traces, while the cache serves.
//!
//! ```text
//!   hit ───► lane of its block's shard ─┐
//!            (under the shard's lock)   ├─► chunks, a bounded stock ──► one thread ──► PATH.1  PATH.2  PATH.3 ...
//!   other ─► lane of its thread ────────┘                               by time        a ring of whole recordings
//!   calls    (nearly always its own)
//! ```
//!
//! | file       | what it does                                                          |
//! |------------|-----------------------------------------------------------------------|
//! | `lane`     | takes a request: no allocation, no wait, seldom a look at the clock   |
//! | `slots`    | what of it a lane holds, 16 bytes                                     |
//! | `recorder` | the thread: collects the lanes, puts requests in order, writes        |
//! | `files`    | the ring of files, and its bound                                      |
//!
//! Recorded are the calls on volumes, each once however many blocks it has: time, volume, read (prefetches too), write,
//! flush or discard, offset, length. Calls that are refused at once (closed, detached, out of range) are not, nor what the
//! cache does by itself.
//!
//! Invariants:
//! 1. A request waits for nothing of the recording but the lock of a lane, under which there is no wait and no call of the
//!    system: a hit has it anyway, and other calls share theirs with few. What finds no room is lost and counted, and the
//!    recording says how many and when (`a_recorder_that_stands_still_delays_nobody`,
//!    `what_finds_no_room_is_lost_counted_and_dated`).
//! 2. Times never fall from one request to the next. A time is that of the request, or of one before it in its lane: at
//!    most [`RecordConfig::stamp_every`] requests and one tick ago (`recorded_times_never_fall_and_are_those_of_the_calls`).
//! 3. While nothing is lost, the requests are those that were made (`what_many_callers_ask_is_recorded_once_each`), and
//!    those of one caller are in order when each has its own time (`one_caller_finds_his_requests_in_order`).
//! 4. All files together never have more bytes than [`RecordConfig::bytes_max`], and memory does not grow with time
//!    (`the_oldest_files_go_and_the_bound_holds`).
//! 5. A kill leaves whole blocks, at most [`RecordConfig::block_ms`] short of what was asked
//!    (`a_killed_process_leaves_a_recording_of_what_it_asked`). There are no syncs: a power cut may leave less.
//! 6. What goes wrong with the files ends the recording and nothing else (`a_full_disk_ends_the_recording_alone`).
//!
//! While nothing is recorded a hit in RAM looks at one field under the lock that it holds, and others at one number.

mod files;
mod lane;
mod recorder;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::utils::CachePadded;
use terrace_recording::Kind;
use terrace_tiers::block::BlockId;

use super::dirty::VolumeState;
use super::{Inner, Result};
use crate::config::RecordConfig;
use crate::error::Error;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Instant, Mutex, thread_number};

use files::Files;
pub(super) use lane::Lane;
use lane::{RecordClock, Stock};
use recorder::Recorder;

/// A recording of a cache, running or the last one.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct RecordStatus {
    pub is_running: bool,
    /// Requests in its files, those among them that are gone with the oldest.
    pub requests: u64,
    /// Requests that found no room, or that were on their way when the recording failed.
    pub requests_lost: u64,
    /// Its files now, with those of earlier recordings of this path.
    pub files: u64,
    pub bytes: u64,
    /// Why it ended by itself.
    pub failure: Option<String>,
}

/// How long whoever ends a recording waits for its files to be whole: a disk that stands still must not keep the cache
/// from closing.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Lanes of calls that are no hits, by the number of the thread. Not those of the shards: such a call has no lock of one at
/// hand, and would wait for all that is planned and finished under it.
const CALL_LANES: usize = 16;

/// What a cache has for its recordings, one after another.
#[derive(Default)]
pub(super) struct Records {
    /// Changes only while a recording begins or ends.
    is_running: AtomicBool,
    /// Beside those in the shards.
    lanes: [CachePadded<Mutex<Lane>>; CALL_LANES],
    /// The recording that runs, or the last one.
    latest: Mutex<Option<Arc<Recording>>>,
}

/// What the cache and the recorder's thread share.
pub(super) struct Recording {
    state: Mutex<RecordState>,
    changed: Condvar,
    stock: Stock,
    clock: RecordClock,
}

#[derive(Default)]
struct RecordState {
    wants_end: bool,
    status: RecordStatus,
}

impl Recording {
    fn new(config: &RecordConfig, lanes: usize) -> Self {
        let status = RecordStatus { is_running: true, ..RecordStatus::default() };
        Self {
            state: Mutex::new(RecordState { wants_end: false, status }),
            changed: Condvar::new(),
            stock: Stock::new(config.buffer_bytes, lanes),
            clock: RecordClock::new(),
        }
    }

    fn status(&self) -> RecordStatus {
        self.state.lock().status.clone()
    }

    /// Sleeps for `length`, or until the end is wanted; whether it is.
    fn wait(&self, length: Duration) -> bool {
        let until = Instant::now() + length;
        let mut state = self.state.lock();
        while !state.wants_end && !self.changed.wait_until(&mut state, until).timed_out() {}
        state.wants_end
    }

    fn publish(&self, status: RecordStatus) {
        self.state.lock().status = status;
        self.changed.notify_all();
    }

    /// Has the thread end, and waits until it did.
    fn end(&self) -> RecordStatus {
        let until = Instant::now() + STOP_WAIT;
        let mut state = self.state.lock();
        state.wants_end = true;
        self.changed.notify_all();
        while state.status.is_running && !self.changed.wait_until(&mut state, until).timed_out() {}
        state.status.clone()
    }
}

impl RecordConfig {
    fn check(&self) -> Result<()> {
        if self.bytes_max < files::BYTES_MAX_LEAST {
            return Err(Error::Config(format!(
                "a recording within {} bytes does not work; give it {} or more",
                self.bytes_max,
                files::BYTES_MAX_LEAST
            )));
        }
        if self.stamp_every == 0 || self.block_ms == 0 {
            return Err(Error::Config("stamp_every and block_ms of a recording must be at least 1".into()));
        }
        Ok(())
    }
}

impl Inner {
    pub(super) fn start_recording(self: &Arc<Self>, config: &RecordConfig) -> Result<()> {
        self.check_open()?;
        config.check()?;
        let recording = Arc::new(Recording::new(config, self.shards.len() + CALL_LANES));
        {
            let mut place = self.records.latest.lock();
            if let Some(running) = place.as_ref().filter(|recording| recording.status().is_running) {
                let requests = running.status().requests;
                return Err(Error::Config(format!(
                    "a recording is running and has {requests} requests; stop it first"
                )));
            }
            *place = Some(recording.clone());
        }
        let files = Files::begin(config).inspect_err(|error| {
            recording.publish(RecordStatus { failure: Some(error.to_string()), ..RecordStatus::default() });
        })?;
        for shard in &self.shards {
            shard.lock().lane = Lane::new(recording.clone(), config.stamp_every);
        }
        for lane in &self.records.lanes {
            *lane.lock() = Lane::new(recording.clone(), config.stamp_every);
        }
        self.records.is_running.store(true, Ordering::Relaxed);
        Recorder::start(self, recording, files, config);
        Ok(())
    }

    pub(super) fn stop_recording(&self) -> Option<RecordStatus> {
        let recording = self.records.latest.lock().clone()?;
        Some(recording.end())
    }

    pub(super) fn record_status(&self) -> Option<RecordStatus> {
        let recording = self.records.latest.lock().clone()?;
        Some(recording.status())
    }

    /// Records the request of a caller that no hit recorded.
    #[inline]
    pub(super) fn note(&self, volume: &VolumeState, kind: Kind, offset: u64, bytes: u64) {
        if self.records.is_running.load(Ordering::Relaxed) {
            self.take_request(volume, kind, offset, bytes);
        }
    }

    #[cold]
    fn take_request(&self, volume: &VolumeState, kind: Kind, offset: u64, bytes: u64) {
        let is_nothing = bytes == 0 && kind != Kind::Flush;
        if is_nothing || self.is_out(volume) || volume.check_stretch(offset, bytes).is_err() {
            return;
        }
        let block = BlockId::new(volume.id, volume.block_number(offset));
        let start = offset - block.byte_offset(self.size);
        let lane = &self.records.lanes[thread_number() % CALL_LANES];
        lane.lock().take(block, start as usize, kind, bytes);
    }
}
