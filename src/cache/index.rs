//! The index of RAM: shards, each a whole directory of its own under a short lock.
//!
//! A block is in exactly one shard, chosen by a hash of its id without the lowest bits, so that neighbours share a
//! lock. All that happens to a block in RAM happens under the lock of its shard.
//!
//! | the block is        | slot | `frame`  | `sectors`                | in `fills` | may leave                 |
//! |---------------------|------|----------|--------------------------|------------|---------------------------|
//! | clean               | yes  | yes      | none                     | no         | yes                       |
//! | being filled        | yes  | no       | none                     | yes        | yes: the fill goes on     |
//! | written             | yes  | yes      | valid, dirty, unsynced   | no         | once written and synced   |
//! | written, and filled | yes  | yes      | valid, dirty, unsynced   | yes        | not before the fill ended |
//! | discarded in a write below | yes | no  | none of them             | no         | once the write has ended  |
//! | left while filled   | no   | no       | none                     | yes        | it has left               |
//! | elsewhere           | no   | no       | none                     | no         | -                         |
//!
//! Invariants:
//! 1. A block that is resident and in `fills` has `filling` set, and the fill knows the slot.
//! 2. `sectors` is none exactly when every sector is valid, none is dirty, none is unsynced and no write is under way.
//! 3. A fill never overwrites a valid sector: what was written since it was planned is newer than what it brings.
//! 4. A block with written sectors stays until a sync of the backing store covers them (rule 7), and while a fill is
//!    under way, so that the fill cannot hand out bytes that are older than an acknowledged write.

use std::ops::Range;

use hashbrown::HashMap;
use smallvec::SmallVec;
use terrace_tiers::block::{BlockId, BlockSize, SECTOR_BYTES, Version, mask};
use terrace_tiers::ram::arc_policy::{Access, ArcPolicy, Evicted, NoVictim, Side, Slot};
use terrace_tiers::ram::frames::{FrameMut, FrameRef};

use super::WriteWaiter;
use super::entry::{Entry, Sectors};
use super::fence::Fence;
use super::read::FillWaiter;
use super::record::Lane;

pub(super) type FastHash = foldhash::fast::FixedState;

/// RAM that a block of capacity takes in the index beyond [`ArcPolicy::BYTES_PER_BLOCK`]: its entry, and the sectors it
/// has while it is dirty, with what an allocation costs.
pub(crate) const DIRECTORY_BYTES_PER_BLOCK: usize = size_of::<Entry>() + size_of::<Sectors>() + 16;

/// One block on its way into RAM.
pub(super) struct Fill {
    pub(super) waiters: SmallVec<[FillWaiter; 1]>,
    /// Where the block goes; none when it left, or found no place, meanwhile.
    pub(super) slot: Option<Slot>,
    /// The volume's version when the fill was planned.
    pub(super) version: Version,
    /// Set when the block left RAM before its bytes came: from where.
    pub(super) left_from: Option<Side>,
    /// The block was discarded meanwhile: whatever comes counts as zeros.
    pub(super) is_void: bool,
    /// The block was forgotten meanwhile: what comes is for those who wait, and not kept.
    pub(super) is_stale: bool,
}

impl Fill {
    fn new(waiter: Option<FillWaiter>, slot: Option<Slot>, version: Version) -> Self {
        Self {
            waiters: waiter.into_iter().collect(),
            slot,
            version,
            left_from: None,
            is_void: false,
            is_stale: false,
        }
    }
}

/// A block that left RAM.
pub(super) struct Departed {
    pub(super) block: BlockId,
    pub(super) frame: FrameRef,
    /// It left the frequent side: it was met at least twice.
    pub(super) earned: bool,
}

/// References by what became of them; see [`crate::Stats`] for the laws.
#[derive(Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) read_ram_hits: u64,
    pub(super) read_ssd_hits: u64,
    pub(super) disk_reads: u64,
    pub(super) fills_joined: u64,
    pub(super) writes: u64,
    pub(super) write_ram_hits: u64,
}

/// What a read found.
pub(super) enum Found {
    /// All wanted sectors are in this frame.
    Ready(FrameRef),
    /// A fill is under way: wait for it.
    Filling,
    /// Nothing: plan a fill.
    Absent,
}

/// What became of a fill: who waits for it, the bytes they get, and the block if it has left meanwhile.
pub(super) struct FilledBlock {
    pub(super) waiters: SmallVec<[FillWaiter; 1]>,
    pub(super) frame: Option<FrameRef>,
    pub(super) departed: Option<Departed>,
    /// The block may leave now and could not before.
    pub(super) released: bool,
    /// See [`Fill::is_stale`]: the caller takes the block out.
    pub(super) is_stale: bool,
}

/// One directory.
pub(super) struct Shard {
    pub(super) policy: ArcPolicy,
    pub(super) entries: Vec<Entry>,
    pub(super) fills: HashMap<BlockId, Fill, FastHash>,
    /// Writes that are acknowledged when the backing store has them.
    pub(super) write_waiters: HashMap<BlockId, Vec<WriteWaiter>, FastHash>,
    pub(super) counters: Counters,
    /// Discards and forgets that are not over.
    pub(super) fences: Vec<Fence>,
    pub(super) lane: Lane,
    size: BlockSize,
}

impl Shard {
    pub(super) fn new(capacity: u32, size: BlockSize) -> Self {
        let policy = ArcPolicy::new(capacity);
        let mut entries = Vec::new();
        entries.resize_with(policy.slot_limit(), Entry::default);
        Self {
            policy,
            entries,
            fills: HashMap::default(),
            write_waiters: HashMap::default(),
            counters: Counters::default(),
            fences: Vec::new(),
            lane: Lane::default(),
            size,
        }
    }

    /// Another capacity; with a smaller one there may be too many blocks until [`Self::shed`] was called often enough.
    pub(super) fn set_capacity(&mut self, capacity: u32) {
        self.policy.set_capacity(capacity);
        let more = self.policy.slot_limit().saturating_sub(self.entries.len());
        self.entries.reserve_exact(more);
        self.entries.resize_with(self.policy.slot_limit(), Entry::default);
    }

    /// Lets at most `count_max` of the blocks go that are too many: how many, and those of them that have bytes.
    pub(super) fn shed(&mut self, count_max: usize) -> (usize, Vec<Departed>) {
        let (entries, mut evicted) = (&self.entries, Vec::new());
        self.policy.shrink_excess(count_max, |slot| entries[slot.index()].may_leave(), &mut evicted);
        (evicted.len(), evicted.into_iter().filter_map(|evicted| self.take(evicted)).collect())
    }

    /// Gives back the memory that a larger capacity took. Slots change.
    pub(super) fn compact(&mut self) {
        let Self { policy, entries, fills, .. } = self;
        if policy.excess() > 0 || policy.slot_limit() == policy.capacity() as usize + 1 {
            return;
        }
        let mut moved = Vec::new();
        moved.resize_with(policy.capacity() as usize + 1, Entry::default);
        policy.compact(|from, to| moved[to.index()] = std::mem::take(&mut entries[from.index()]));
        *entries = moved;
        for (&block, fill) in fills.iter_mut().filter(|(_, fill)| fill.slot.is_some()) {
            fill.slot = policy.lookup(block);
        }
    }

    pub(super) fn entry_of(&mut self, block: BlockId) -> Option<(Slot, &mut Entry)> {
        let slot = self.policy.lookup(block)?;
        Some((slot, &mut self.entries[slot.index()]))
    }

    /// One reference by a read that wants the sectors of `range`, and the block that left to make room.
    pub(super) fn find(&mut self, block: BlockId, range: Range<usize>) -> (Found, Option<Departed>) {
        match self.reference(block) {
            Ok((slot, _, departed)) => {
                let entry = &self.entries[slot.index()];
                if entry.has(range) {
                    self.counters.read_ram_hits += 1;
                    let frame = entry.frame.clone().expect("an entry with valid sectors has a frame");
                    return (Found::Ready(frame), departed);
                }
                (if entry.filling { Found::Filling } else { Found::Absent }, departed)
            }
            // Nothing here may leave: the block is read past the directory.
            Err(NoVictim) if self.fills.contains_key(&block) => (Found::Filling, None),
            Err(NoVictim) => (Found::Absent, None),
        }
    }

    /// Whether `block` is here, or would find a place.
    pub(super) fn has_place_for(&mut self, block: BlockId) -> bool {
        let entries = &self.entries;
        self.policy.lookup(block).is_some() || self.policy.has_room(|slot| entries[slot.index()].may_leave())
    }

    /// Whether all that a read wants is at hand.
    pub(super) fn has(&mut self, block: BlockId, range: Range<usize>) -> bool {
        self.entry_of(block).is_some_and(|(_, entry)| entry.has(range))
    }

    /// One reference by a read, if all it wants is at hand; else nothing happens.
    #[inline(always)]
    pub(super) fn hit(&mut self, block: BlockId, range: Range<usize>) -> Option<FrameRef> {
        let slot = self.policy.lookup(block)?;
        let entry = &self.entries[slot.index()];
        let frame = entry.frame.as_ref().filter(|_| entry.has(range))?.clone();
        self.policy.hit(slot);
        self.counters.read_ram_hits += 1;
        Some(frame)
    }

    /// One reference by a write: the slot of `block`, whether it was resident, and the block that left to make room.
    pub(super) fn find_for_write(&mut self, block: BlockId) -> Result<(Slot, Option<Departed>), NoVictim> {
        let (slot, was_resident, departed) = self.reference(block)?;
        self.counters.writes += 1;
        self.counters.write_ram_hits += u64::from(was_resident);
        Ok((slot, departed))
    }

    fn reference(&mut self, block: BlockId) -> Result<(Slot, bool, Option<Departed>), NoVictim> {
        let entries = &self.entries;
        match self.policy.request(block, |slot| entries[slot.index()].may_leave())? {
            Access::Hit(slot) => Ok((slot, true, None)),
            Access::Miss { slot, evicted, .. } => {
                let departed = evicted.and_then(|evicted| self.take(evicted));
                // A block that left while its fill was under way is wanted again: the fill goes on for it.
                if let Some(fill) = self.fills.get_mut(&block) {
                    fill.slot = Some(slot);
                    fill.left_from = None;
                    self.entries[slot.index()].filling = true;
                }
                Ok((slot, false, departed))
            }
        }
    }

    /// Empties the entry of a block that the policy let go.
    fn take(&mut self, evicted: Evicted) -> Option<Departed> {
        let entry = std::mem::take(&mut self.entries[evicted.slot.index()]);
        debug_assert!(entry.may_leave(), "{} left with {}", evicted.block, entry.frame.is_some());
        if entry.filling {
            let fill = self.fills.get_mut(&evicted.block).expect("a filling entry has a fill");
            fill.slot = None;
            fill.left_from = Some(evicted.from);
            return None;
        }
        // Only whole blocks go to the SSD: one that was written in part is read again when it is wanted.
        // So do zeros of a discard that is not below: a crash may take it back.
        let is_offered = entry.sectors.is_none() && !self.is_discarded(evicted.block);
        let frame = entry.frame.filter(|_| is_offered)?;
        let earned = evicted.from == Side::Frequent;
        Some(Departed { block: evicted.block, frame, earned })
    }

    /// Notes that a fill is under way for `block`, which is resident or found no place.
    pub(super) fn start_fill(&mut self, block: BlockId, version: Version, waiter: Option<FillWaiter>) {
        let slot = self.policy.lookup(block);
        if let Some(slot) = slot {
            self.entries[slot.index()].filling = true;
        }
        let before = self.fills.insert(block, Fill::new(waiter, slot, version));
        assert!(before.is_none(), "two fills of {block} at once");
    }

    /// No frame was to be had for a fill of `block`: its place is given up again, if it holds nothing.
    pub(super) fn give_up(&mut self, block: BlockId) {
        if let Some((_, entry)) = self.entry_of(block)
            && entry.frame.is_none()
            && !entry.writing
            && !entry.filling
        {
            *entry = Entry::default();
            self.policy.remove(block);
        }
    }

    /// Puts a block back into RAM that is on its way to the SSD, whole and clean.
    pub(super) fn take_back(&mut self, block: BlockId, frame: FrameRef, version: Version) -> FrameRef {
        self.counters.read_ssd_hits += 1;
        if let Some((_, entry)) = self.entry_of(block) {
            debug_assert!(entry.frame.is_none(), "{block} was written while a copy of it went to the SSD");
            entry.frame = Some(frame.clone());
            entry.version = version;
        }
        frame
    }

    /// Puts a block that was discarded into RAM: zeros, around what was written since. `bytes` is where they go.
    pub(super) fn take_zeros(&mut self, block: BlockId, bytes: FrameMut, version: Version) -> FrameRef {
        self.counters.read_ram_hits += 1;
        let slot = self.policy.lookup(block);
        if let Some(slot) = slot {
            self.entries[slot.index()].filling = true;
        }
        self.fills.insert(block, Fill { is_void: true, ..Fill::new(None, slot, version) });
        let done = self.finish_fill(block, Some(bytes), true);
        done.frame.expect("a fill that has bytes has a frame")
    }

    /// Puts the bytes of a fill in place, around what was written meanwhile; none when they could not be read.
    ///
    /// `is_on_ssd` says that they came from there, so that they need not go there again.
    pub(super) fn finish_fill(
        &mut self,
        block: BlockId,
        bytes: Option<FrameMut>,
        is_on_ssd: bool,
    ) -> FilledBlock {
        let fill = self.fills.remove(&block).expect("only its own fill finishes a fill");
        let is_stale = fill.is_stale;
        let mut done =
            FilledBlock { waiters: fill.waiters, frame: None, departed: None, released: false, is_stale };
        let bytes = bytes.map(|mut bytes| {
            if fill.is_void {
                bytes.fill(0);
            }
            bytes
        });
        let Some(slot) = fill.slot else {
            done.frame = bytes.map(FrameMut::freeze);
            let is_offered = !is_on_ssd && !fill.is_void && !is_stale;
            if let (Some(frame), Some(from), true) = (&done.frame, fill.left_from, is_offered) {
                let (frame, earned) = (frame.clone(), from == Side::Frequent);
                done.departed = Some(Departed { block, frame, earned });
            }
            return done;
        };
        let entry = &mut self.entries[slot.index()];
        entry.filling = false;
        done.is_stale |= entry.is_forgotten;
        let is_read = bytes.is_some();
        match (&entry.frame, bytes) {
            (None, None) if entry.writing => {}
            (None, None) => {
                *entry = Entry::default();
                self.policy.remove(block);
                return done;
            }
            (None, Some(bytes)) => {
                entry.version = fill.version;
                entry.frame = Some(bytes.freeze());
                if let Some(sectors) = &mut entry.sectors {
                    mask::set(sectors.valid_mut(), 0..self.size.sectors());
                }
            }
            (Some(_), None) => {}
            (Some(written), Some(mut bytes)) => {
                if let Some(sectors) = &mut entry.sectors {
                    for run in mask::runs(sectors.valid(), self.size.sectors()) {
                        let run = run.start * SECTOR_BYTES..run.end * SECTOR_BYTES;
                        bytes[run.clone()].copy_from_slice(&written[run]);
                    }
                    mask::set(sectors.valid_mut(), 0..self.size.sectors());
                    entry.frame = Some(bytes.freeze());
                }
            }
        }
        done.frame = entry.frame.clone().filter(|_| is_read);
        self.settle_entry(slot);
        done.released = self.entries[slot.index()].may_leave();
        done
    }

    /// Writes `data` into the block in `slot`, from byte `start` on: in place when nobody else holds the frame, else
    /// into a new one. `spare` is that new one; what is left of it comes back.
    ///
    /// `start` and the length are whole sectors, or the sectors at the edges are valid already.
    pub(super) fn store(
        &mut self,
        slot: Slot,
        start: usize,
        data: &[u8],
        version: Version,
        spare: FrameMut,
    ) -> Option<FrameMut> {
        let size = self.size;
        let entry = &mut self.entries[slot.index()];
        let sectors = start / SECTOR_BYTES..(start + data.len()).div_ceil(SECTOR_BYTES);
        let masks = entry.sectors_mut(size);
        mask::set(masks.valid_mut(), sectors.clone());
        mask::set(masks.dirty_mut(), sectors);
        entry.version = version;
        if let Some(bytes) = entry.frame.as_mut().and_then(FrameRef::get_mut) {
            bytes[start..start + data.len()].copy_from_slice(data);
            return Some(spare);
        }
        let mut bytes = spare;
        if let Some(old) = &entry.frame {
            bytes[..start].copy_from_slice(&old[..start]);
            bytes[start + data.len()..].copy_from_slice(&old[start + data.len()..]);
        }
        bytes[start..start + data.len()].copy_from_slice(data);
        entry.frame = Some(bytes.freeze());
        None
    }

    /// Whether the sectors that a write of `start..end` touches in part are valid, so that it can merge with them.
    pub(super) fn edges_are_valid(&self, slot: Slot, start: usize, end: usize) -> bool {
        let entry = &self.entries[slot.index()];
        [start, end]
            .into_iter()
            .filter(|edge| edge % SECTOR_BYTES != 0)
            .all(|edge| entry.has(edge / SECTOR_BYTES..edge / SECTOR_BYTES + 1))
    }

    /// Brings an entry whose state changed back to the invariants: a clean, whole block has no sectors, one that may
    /// leave again is given back to the policy, and one that only passes through leaves at once.
    pub(super) fn settle_entry(&mut self, slot: Slot) {
        let size = self.size;
        let entry = &mut self.entries[slot.index()];
        if entry.is_pinned() {
            return;
        }
        if (entry.passes || entry.frame.is_none()) && !entry.filling {
            *entry = Entry::default();
            self.policy.remove(self.policy.block_at(slot));
            return;
        }
        let is_whole = entry.sectors.as_ref().is_none_or(|s| mask::contains(s.valid(), 0..size.sectors()));
        if is_whole {
            debug_assert!(
                entry
                    .sectors
                    .as_ref()
                    .is_none_or(|s| mask::is_empty(s.dirty()) && mask::is_empty(s.unsynced()))
            );
            entry.sectors = None;
        }
        if entry.may_leave() {
            self.policy.release(slot);
        }
    }
}
