//! Taking requests: a lane for each shard, under the lock of the shard, and some for calls that hold none.
//!
//! A lane holds a few requests itself and then moves them together to a chunk of the stock; a full chunk is exchanged for
//! an empty one. Those that come close together share a look at the clock. The stock is all the memory there is for
//! requests on their way; chunks are taken from where they were put last, so that a recorder that keeps up works in the
//! processor's caches.
//!
//! Why not straight into the chunk: the recorder read it last, on another processor, so each of its cache lines has to be
//! fetched back, and the locks that a hit takes wait for every store before them. In one copy such fetches overlap. And why
//! so few: a hit waits for the processor's caches most of its time, and all lanes together should not push it out of the
//! nearest.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use terrace_recording::{Kind, Lost};
use terrace_tiers::block::BlockId;

use super::Recording;
use super::slots::{BYTES_MAX, Slot};
use crate::sync::{Instant, Mutex};

/// So many that neither the stock's lock counts nor making the stock, and so few that the lanes' own chunks do not either.
const CHUNK_SLOTS: usize = 1024;

/// Requests that a lane holds itself when they share a time, and the slots for them: one for the time, and one to spare for
/// a length.
const NEAR_REQUESTS: usize = 16;
const NEAR_SLOTS: usize = NEAR_REQUESTS + 2;

/// Slots that one request takes at the most: its time, its length and itself.
const REQUEST_SLOTS_MAX: usize = 3;

/// Requests of a lane that come closer together than this share a look at the clock, which takes half as long as a hit.
const STAMP_SHARE_NS: u64 = 50_000;

type Chunk = Vec<Slot>;

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
        let count = (bytes / (CHUNK_SLOTS * size_of::<Slot>())).max(1) + lanes;
        let empty = (0..count).map(|_| Vec::with_capacity(CHUNK_SLOTS)).collect();
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

    /// Gives the memory back: no lane is left.
    pub(super) fn release(&self) {
        *self.chunks.lock() = Chunks { empty: Vec::new(), full: Vec::new() };
    }

    /// Shows `read` all full chunks. They are empty from now on.
    pub(super) fn drain(&self, mut read: impl FnMut(&[Slot])) {
        let count = self.chunks.lock().full.len();
        // What comes meanwhile is for the next time. Read without the lock, for which lanes may wait.
        let mut done = 0;
        while done < count {
            let mut chunks = self.chunks.lock();
            let batch = (count - done).min(64);
            let mut taken: Vec<Chunk> = chunks.full.drain(..batch).collect();
            drop(chunks);
            for chunk in &mut taken {
                read(chunk);
                chunk.clear();
            }
            self.chunks.lock().empty.append(&mut taken);
            done += batch;
        }
    }
}

/// What takes requests of a recording; nothing while the cache does not record.
pub(in super::super) struct Lane {
    /// Slots in `near`, and how many there may be before the next look at the clock.
    len: u32,
    len_max: u32,
    far: Option<Box<Far>>,
    /// Not moved to a chunk yet; begins with a stamp.
    near: [Slot; NEAR_SLOTS],
}

impl Default for Lane {
    fn default() -> Self {
        Self { len: 0, len_max: 0, far: None, near: [Slot::default(); NEAR_SLOTS] }
    }
}

/// What a lane needs now and then.
struct Far {
    clock: RecordClock,
    /// The last look at it, and how many requests that was for.
    time_ns: u64,
    sharing: u32,
    stamp_every: u32,
    chunk: Chunk,
    lost: Lost,
    recording: Arc<Recording>,
}

impl Lane {
    pub(super) fn new(recording: Arc<Recording>, stamp_every: u32) -> Self {
        let far = Far {
            clock: recording.clock,
            time_ns: 0,
            sharing: 1,
            stamp_every,
            chunk: Vec::with_capacity(CHUNK_SLOTS),
            lost: Lost::default(),
            recording,
        };
        Self { far: Some(Box::new(far)), ..Self::default() }
    }

    #[inline]
    pub(in super::super) fn is_recording(&self) -> bool {
        self.far.is_some()
    }

    /// A request of `bytes` bytes from `start` on in `block`; nothing happens while the cache does not record. A call of its
    /// own, so that a hit that nobody records does not make room for what this needs.
    #[inline(never)]
    pub(in super::super) fn take(&mut self, block: BlockId, start: usize, kind: Kind, bytes: u64) {
        if self.len < self.len_max && bytes <= BYTES_MAX {
            self.push(Slot::request(block, start, kind, bytes));
        } else {
            self.take_with_stamp(block, start, kind, bytes);
        }
    }

    #[cold]
    fn take_with_stamp(&mut self, block: BlockId, start: usize, kind: Kind, bytes: u64) {
        let Some(far) = &mut self.far else { return };
        let now_ns = far.clock.now_ns();
        if self.len as usize + REQUEST_SLOTS_MAX > NEAR_SLOTS {
            if far.put(&self.near[..self.len as usize]).is_none() {
                return far.lost.add(Lost { requests: 1, times_ns: Some((now_ns, now_ns)) });
            }
            self.len = 0;
        }
        let is_close = now_ns.saturating_sub(far.time_ns) < u64::from(far.sharing) * STAMP_SHARE_NS;
        let sharing = if is_close { far.stamp_every } else { 1 };
        (far.time_ns, far.sharing) = (now_ns, sharing);
        self.push(Slot::stamp(now_ns));
        if bytes > BYTES_MAX {
            self.push(Slot::length(bytes));
        }
        self.push(Slot::request(block, start, kind, bytes));
        self.len_max = self.len.saturating_add(sharing - 1).min(NEAR_SLOTS as u32);
    }

    #[inline]
    fn push(&mut self, slot: Slot) {
        self.near[self.len as usize] = slot;
        self.len += 1;
    }

    /// Moves what was taken since the last time behind `slots`; what was lost since then. The next request looks at the
    /// clock: it comes later than all that this gave.
    pub(super) fn collect(&mut self, slots: &mut Vec<Slot>) -> Lost {
        let Some(far) = &mut self.far else { return Lost::default() };
        slots.append(&mut far.chunk);
        slots.extend_from_slice(&self.near[..self.len as usize]);
        (self.len, self.len_max) = (0, 0);
        std::mem::take(&mut far.lost)
    }
}

impl Far {
    /// Moves slots that begin with a stamp to a chunk; none when there is no memory for them.
    fn put(&mut self, slots: &[Slot]) -> Option<()> {
        if self.chunk.len() + slots.len() > CHUNK_SLOTS {
            self.recording.stock.exchange(&mut self.chunk)?;
        }
        self.chunk.extend_from_slice(slots);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use terrace_tiers::block::{BlockSize, VolumeId};

    use super::super::slots::{Taken, unpacked};
    use super::*;
    use crate::config::RecordConfig;

    /// A recording whose thread never comes, with memory for one chunk more than the lanes'.
    fn standing(lanes: usize) -> Arc<Recording> {
        let config = RecordConfig { buffer_bytes: 0, ..RecordConfig::new("unused") };
        Arc::new(Recording::new(&config, lanes))
    }

    fn take(lane: &mut Lane, blocks: std::ops::Range<u64>) {
        let block = |number| BlockId::new(VolumeId::new(1), number);
        blocks.for_each(|number| lane.take(block(number), 0, Kind::Write, 512));
    }

    fn taken(chunk: &[Slot]) -> Vec<Taken> {
        unpacked(chunk, BlockSize::DEFAULT)
    }

    fn number(taken: &Taken) -> u64 {
        taken.offset >> BlockSize::DEFAULT.shift()
    }

    #[test]
    fn a_recorder_that_stands_still_delays_nobody() {
        let recording = standing(1);
        let mut lane = Lane::new(recording.clone(), 16);
        let count = 4 * CHUNK_SLOTS as u64;
        take(&mut lane, 0..count);
        let (mut requests, mut rest) = (Vec::new(), Vec::new());
        let lost = lane.collect(&mut rest);
        recording.stock.drain(|chunk| requests.append(&mut taken(chunk)));
        requests.append(&mut taken(&rest));
        let kept = requests.len() as u64;
        assert!(requests.iter().map(number).eq(0..kept), "the first are kept, in order");
        assert_eq!(kept + lost.requests, count);
        // Three chunks and what is near; every other slot is a stamp at the most, and a few are left at the end of a chunk.
        let slots = (3 * CHUNK_SLOTS + NEAR_SLOTS) as u64;
        assert!((slots * 4 / 10..slots).contains(&kept), "{kept}");
        let (from, to) = lost.times_ns.expect("some were lost");
        assert!(requests[kept as usize - 1].time_ns <= from && from <= to);
        // When it goes on, so does the lane.
        rest.clear();
        take(&mut lane, 0..10);
        assert_eq!(lane.collect(&mut rest), Lost::default());
        assert_eq!(taken(&rest).len(), 10);
    }

    #[test]
    fn requests_share_a_look_at_the_clock_when_they_come_close_together_and_never_over_a_collection() {
        let recording = standing(1);
        let mut lane = Lane::new(recording, 16);
        let mut slots = Vec::new();
        // As if the last look were at this moment, whatever the machine does between.
        let far = lane.far.as_mut().expect("it records");
        (far.time_ns, far.sharing) = (u64::MAX / 2, 16);
        take(&mut lane, 0..10);
        lane.collect(&mut slots);
        let first = taken(&slots)[0].time_ns;
        assert!(taken(&slots).iter().all(|taken| taken.time_ns == first), "ten of sixteen");
        assert_eq!(slots.len(), 11, "and one stamp");
        slots.clear();
        take(&mut lane, 0..1);
        lane.collect(&mut slots);
        assert!(taken(&slots)[0].time_ns > first, "the next looks again");
    }

    #[test]
    fn every_chunk_can_be_read_alone_wherever_it_ends() {
        let (recording, seed) = (standing(40), fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let mut lane = Lane::new(recording.clone(), 16);
        let wanted: Vec<(u64, u64)> = (0..10 * CHUNK_SLOTS as u64)
            .map(|number| (number, if random.bool() { 512 } else { BYTES_MAX + random.u64(1..9) }))
            .collect();
        for &(number, bytes) in &wanted {
            lane.take(BlockId::new(VolumeId::new(1), number), 0, Kind::Discard, bytes);
        }
        let (mut requests, mut rest) = (Vec::new(), Vec::new());
        assert_eq!(lane.collect(&mut rest), Lost::default());
        recording.stock.drain(|chunk| {
            assert!(chunk.len() <= CHUNK_SLOTS && !taken(chunk).is_empty());
            requests.append(&mut taken(chunk));
        });
        requests.append(&mut taken(&rest));
        assert!(requests.iter().map(|taken| (number(taken), taken.bytes)).eq(wanted), "seed {seed}");
        assert!(requests.iter().all(|taken| taken.time_ns > 0), "seed {seed}");
    }
}
