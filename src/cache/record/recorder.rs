//! The thread of a recording: collects what was taken, puts it in the order of time, and writes it.
//!
//! At each tick, of which there are more while more comes, the moment is noted, then every lane is emptied, then the
//! stock. A lane that was emptied looks at the clock again, so all that is stamped before the noted moment is at hand
//! then; it is sorted and written, and the rest waits for the next tick. Nothing of the cache is held while something is
//! written.
//!
//! What is sorted is runs, requests of one stamp: 16 bytes for each, and up to 16 requests have one. The requests stay in
//! their slots until they are written.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use terrace_recording::Lost;
use terrace_tiers::block::{BlockSize, VolumeId};

use super::slots::{Run, Slot, find_runs};
use super::{Lane, RecordStatus, Recording};
use crate::cache::Inner;
use crate::cache::record::files::Files;
use crate::config::RecordConfig;
use crate::sync::atomic::Ordering;
use crate::sync::{Instant, thread};

/// Long enough to cost next to nothing, and short enough for half of the stock when suddenly ten million come in a second.
const TICK_MAX: Duration = Duration::from_millis(50);
const TICK_MIN: Duration = Duration::from_millis(2);
/// Requests that are wanted of a tick: few enough for what is on its way to stay in the processor's caches. So many have
/// memory from one tick to the next.
const BATCH: usize = 16 << 10;

pub(super) struct Recorder {
    inner: Weak<Inner>,
    size: BlockSize,
    recording: Arc<Recording>,
    files: Files,
    block_length: Duration,
    /// When the block began that is being filled.
    block_began: Option<Instant>,
    /// What was taken and is not written.
    slots: Vec<Slot>,
    /// Of the slots, while they are put in order.
    runs: Vec<Run>,
    tick: Duration,
    /// All that lanes took, and what found no room.
    taken: u64,
    requests_lost: u64,
}

impl Recorder {
    pub(super) fn start(inner: &Arc<Inner>, recording: Arc<Recording>, files: Files, config: &RecordConfig) {
        let recorder = Self {
            inner: Arc::downgrade(inner),
            size: inner.size,
            recording,
            files,
            block_length: Duration::from_millis(config.block_ms),
            block_began: None,
            slots: Vec::new(),
            runs: Vec::new(),
            tick: TICK_MAX,
            taken: 0,
            requests_lost: 0,
        };
        let thread = thread::Builder::new().name("terrace-record".into());
        // Nobody joins it: whoever ends the recording waits for its word, and not for ever.
        drop(thread.spawn(move || recorder.run()).expect("a thread can be started"));
    }

    fn run(mut self) {
        let failure = loop {
            let is_last = self.recording.wait(self.tick);
            let until_ns = self.collect(is_last);
            if let Err(error) = self.write(until_ns) {
                break Some(error);
            }
            if is_last {
                break None;
            }
            self.publish();
        };
        self.end(failure);
    }

    /// Brings what was taken to `slots`: the moment before which all is there. At the end the lanes go too.
    fn collect(&mut self, is_last: bool) -> u64 {
        let now_ns = self.recording.clock.now_ns();
        let (mut lost, kept) = (Lost::default(), self.slots.len());
        if let Some(inner) = self.inner.upgrade() {
            if is_last {
                inner.records.is_running.store(false, Ordering::Relaxed);
            }
            let mut empty = |lane: &mut Lane| {
                lost.add(lane.collect(&mut self.slots));
                is_last.then(|| std::mem::take(lane))
            };
            // What ended goes without the lock.
            for shard in &inner.shards {
                let ended = empty(&mut shard.lock().lane);
                drop(ended);
            }
            for lane in &inner.records.lanes {
                let ended = empty(&mut lane.lock());
                drop(ended);
            }
        }
        // After the lanes: what one of them had filled before it was emptied is here.
        let near = self.slots.len();
        self.recording.stock.drain(|chunk| self.slots.extend_from_slice(chunk));
        // Of one time are first those of before, then of the stock, then of the lanes.
        self.runs.clear();
        find_runs(&self.slots, 0..kept, &mut self.runs);
        let came = find_runs(&self.slots, near..self.slots.len(), &mut self.runs)
            + find_runs(&self.slots, kept..near, &mut self.runs);
        self.tick = (self.tick * BATCH as u32).div_f64(came.max(1) as f64).clamp(TICK_MIN, TICK_MAX);
        self.taken += came as u64;
        self.requests_lost += lost.requests;
        self.files.lose(lost);
        if is_last { u64::MAX } else { now_ns }
    }

    /// Writes what was asked before `until_ns`, in the order of time.
    fn write(&mut self, until_ns: u64) -> io::Result<()> {
        // Stable: of one stamp, those of a lane stay as they were.
        self.runs.sort_by_key(|run| run.time_ns);
        let count = self.runs.partition_point(|run| run.time_ns < until_ns);
        for run in &self.runs[..count] {
            for taken in run.requests(&self.slots, self.size) {
                self.files.write(&taken, |id| name_of(&self.inner, id))?;
            }
        }
        let kept = self.slots.len();
        for run in &self.runs[count..] {
            let slots = run.place(&self.slots);
            self.slots.extend_from_within(slots);
        }
        self.slots.drain(..kept);
        // A request has two slots at the most, but for the largest.
        self.slots.shrink_to(2 * BATCH);
        self.runs.shrink_to(BATCH);
        if self.files.unwritten_requests() == 0 {
            self.block_began = None;
        } else if self.block_began.get_or_insert_with(Instant::now).elapsed() >= self.block_length {
            self.files.end_block()?;
            self.block_began = None;
        }
        Ok(())
    }

    fn publish(&self) {
        let (files, bytes) = self.files.size();
        self.recording.publish(RecordStatus {
            is_running: true,
            requests: self.files.whole_requests() + self.files.unwritten_requests(),
            requests_lost: self.requests_lost,
            files,
            bytes,
            failure: None,
        });
    }

    /// After the last request, or after `failure`: then what is in no whole block is lost, and nothing more is taken.
    fn end(mut self, mut failure: Option<io::Error>) {
        if failure.is_some() {
            self.collect(true);
        } else {
            failure = self.files.end_block().err();
        }
        let requests = self.files.whole_requests();
        let mut size = self.files.size();
        if failure.is_none() {
            match self.files.finish() {
                Ok(whole) => size = whole,
                Err(error) => failure = Some(error),
            }
        }
        self.recording.stock.release();
        self.recording.publish(RecordStatus {
            is_running: false,
            requests,
            requests_lost: self.requests_lost + self.taken - requests,
            files: size.0,
            bytes: size.1,
            failure: failure.map(|error| error.to_string()),
        });
    }
}

/// What the volume is called; one that was detached within the last moments has its number alone.
fn name_of(inner: &Weak<Inner>, id: VolumeId) -> String {
    let volume = inner.upgrade().and_then(|inner| inner.volumes.read().by_id.get(&id).cloned());
    volume.map_or_else(|| format!("volume {}", id.number()), |volume| volume.name.clone())
}
