//! Taking requests: a lane for each shard, under the lock of the shard.
//!
//! A lane fills a chunk of the stock and then exchanges it. The stock is all the memory there is for requests on their
//! way; chunks are taken from where they were put last, so that a recorder that keeps up works in the processor's caches.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use terrace_recording::{Kind, Lost};
use terrace_tiers::block::VolumeId;

use super::Recording;
use crate::sync::{Instant, Mutex};

/// So many that the stock's lock does not count, and so few that the lanes' own chunks do not either.
const CHUNK_REQUESTS: usize = 256;

/// Requests of a shard that come closer together than this share a look at the clock, which takes half as long as a hit.
const STAMP_SHARE_NS: u64 = 50_000;

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    pub(super) time_ns: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) volume: VolumeId,
    pub(super) kind: Kind,
}

pub(super) type Chunk = Vec<Taken>;

/// Nanoseconds since 1970 as they were when the recording began, and as they went on from there without a jump.
#[derive(Clone, Copy)]
pub(super) struct RecordClock {
    began: Instant,
    began_ns: u64,
}

impl RecordClock {
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), began_ns: u64::try_from(since.as_nanos()).unwrap_or(0) }
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.began_ns + self.began.elapsed().as_nanos() as u64
    }
}

/// The chunks that no lane has.
pub(super) struct Stock {
    chunks: Mutex<Chunks>,
}

struct Chunks {
    empty: Vec<Chunk>,
    /// In the order in which lanes gave them.
    full: Vec<Chunk>,
}

impl Stock {
    /// `bytes` of memory, and a chunk more for each of `lanes`.
    pub(super) fn new(bytes: usize, lanes: usize) -> Self {
        let count = (bytes / (CHUNK_REQUESTS * size_of::<Taken>())).max(1) + lanes;
        let empty = (0..count).map(|_| empty_chunk()).collect();
        Self { chunks: Mutex::new(Chunks { empty, full: Vec::with_capacity(count) }) }
    }

    /// An empty chunk for a full one; none when there is none, and the full one stays.
    fn exchange(&self, chunk: &mut Chunk) -> Option<()> {
        let mut chunks = self.chunks.lock();
        let empty = chunks.empty.pop()?;
        // Never more than there are chunks, so this allocates nothing.
        chunks.full.push(std::mem::replace(chunk, empty));
        Some(())
    }

    /// The requests of all full chunks, behind those in `out`. The chunks are empty from now on.
    pub(super) fn drain(&self, out: &mut Vec<Taken>) {
        let count = self.chunks.lock().full.len();
        // What comes meanwhile is for the next time. Copied without the lock, for which lanes may wait.
        let mut done = 0;
        while done < count {
            let mut chunks = self.chunks.lock();
            let batch = (count - done).min(64);
            let mut taken: Vec<Chunk> = chunks.full.drain(..batch).collect();
            drop(chunks);
            for chunk in &mut taken {
                out.append(chunk);
            }
            self.chunks.lock().empty.append(&mut taken);
            done += batch;
        }
    }
}

pub(super) fn empty_chunk() -> Chunk {
    Vec::with_capacity(CHUNK_REQUESTS)
}

/// What a shard has while the cache records.
pub(in super::super) struct Lane {
    recording: Arc<Recording>,
    chunk: Chunk,
    lost: Lost,
    stamp_every: u32,
    /// The last look at the clock, how many requests it is for, and how many of them are to come.
    time_ns: u64,
    sharing: u32,
    left: u32,
}

impl Lane {
    pub(super) fn new(recording: Arc<Recording>, stamp_every: u32) -> Self {
        let chunk = empty_chunk();
        Self { recording, chunk, lost: Lost::default(), stamp_every, time_ns: 0, sharing: 1, left: 0 }
    }

    #[inline]
    pub(in super::super) fn take(&mut self, volume: VolumeId, kind: Kind, offset: u64, bytes: u64) {
        if self.left == 0 {
            self.stamp();
        }
        self.left -= 1;
        if self.chunk.len() == CHUNK_REQUESTS && self.recording.stock.exchange(&mut self.chunk).is_none() {
            return self.lost.add(Lost { requests: 1, times_ns: Some((self.time_ns, self.time_ns)) });
        }
        self.chunk.push(Taken { time_ns: self.time_ns, offset, bytes, volume, kind });
    }

    fn stamp(&mut self) {
        let now_ns = self.recording.clock.now_ns();
        let is_close = now_ns.saturating_sub(self.time_ns) < u64::from(self.sharing) * STAMP_SHARE_NS;
        self.sharing = if is_close { self.stamp_every } else { 1 };
        (self.time_ns, self.left) = (now_ns, self.sharing);
    }

    /// What was taken and lost since the last time, the requests for the empty `chunk`. The next request looks at the
    /// clock: it comes later than all that this gave.
    pub(super) fn collect(&mut self, chunk: &mut Chunk) -> Lost {
        self.left = 0;
        std::mem::swap(&mut self.chunk, chunk);
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RecordConfig;

    /// A recording whose thread never comes, with memory for one chunk more than the lanes'.
    fn standing(lanes: usize) -> Arc<Recording> {
        let config = RecordConfig { buffer_bytes: 0, ..RecordConfig::new("unused") };
        Arc::new(Recording::new(&config, lanes))
    }

    fn take(lane: &mut Lane, offsets: std::ops::Range<u64>) {
        offsets.for_each(|offset| lane.take(VolumeId::new(1), Kind::Write, offset, 512));
    }

    #[test]
    fn a_recorder_that_stands_still_delays_nobody() {
        let recording = standing(1);
        let mut lane = Lane::new(recording.clone(), 16);
        let room = 3 * CHUNK_REQUESTS as u64;
        take(&mut lane, 0..room + 1000);
        let (mut requests, mut rest) = (Vec::new(), empty_chunk());
        let lost = lane.collect(&mut rest);
        recording.stock.drain(&mut requests);
        requests.append(&mut rest);
        assert!(requests.iter().map(|taken| taken.offset).eq(0..room), "the first are kept, in order");
        assert_eq!(lost.requests, 1000);
        let (from, to) = lost.times_ns.expect("some were lost");
        assert!(requests[room as usize - 1].time_ns <= from && from <= to);
        // When it goes on, so does the lane.
        take(&mut lane, 0..10);
        assert_eq!(lane.collect(&mut rest), Lost::default());
        assert_eq!(rest.len(), 10);
    }

    #[test]
    fn requests_share_a_look_at_the_clock_when_they_come_close_together_and_never_over_a_collection() {
        let recording = standing(1);
        let mut lane = Lane::new(recording, 16);
        let mut chunk = empty_chunk();
        // As if the last look were at this moment, whatever the machine does between.
        lane.time_ns = u64::MAX / 2;
        lane.sharing = 16;
        take(&mut lane, 0..10);
        lane.collect(&mut chunk);
        let first = chunk[0].time_ns;
        assert!(chunk.iter().all(|taken| taken.time_ns == first), "ten of sixteen");
        chunk.clear();
        take(&mut lane, 0..1);
        lane.collect(&mut chunk);
        assert!(chunk[0].time_ns > first, "the next looks again");
    }
}
