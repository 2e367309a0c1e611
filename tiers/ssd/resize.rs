//! Another size for the file while it is used.
//!
//! Segments stay where they are, and as large as they are: there are more of them, or fewer. The journal stays. The two
//! checkpoint areas move behind the last segment when a larger segment table needs it (see `geometry`).
//!
//! ```text
//! grow:    the file is extended -> begin_grow -> a checkpoint -> the new segments are free; step_resize until done
//! shrink:  begin_shrink -> the segments beyond the new end are sealed, destaged, emptied, retired -> is_emptied
//!          -> begin_fewer -> a checkpoint -> the file is cut; step_resize until done
//! ```
//!
//! The checkpoint is the step: it is written to areas that are none of the old ones, then the superblock names areas and
//! layout together. A crash before finds the old layout, whose areas, journal and segments nobody has touched; after, the
//! new one.
//!
//! Invariants:
//! 1. No segment that the layout on the device does not have is ever handed out; so none that lies where an old
//!    checkpoint area was, before no superblock names that any more.
//! 2. A layout without a segment is written only when that segment holds nothing, and its retirement is durable.
//! 3. The index has room for every slot of the log at any moment, and takes a table of the new size in small steps.

use crate::error::Result;

use super::log::Log;
use super::segment::{Segment, State};
use super::{Geometry, SealPlan, Ssd};

impl Ssd {
    /// The layout of this file at a size of at most `file_bytes`.
    ///
    /// # Errors
    /// [`crate::Error::Size`] when nothing can be cached in so little, with what can.
    pub fn plan_resize(&self, file_bytes: u64) -> Result<Geometry> {
        self.geometry.resized(file_bytes)
    }

    /// The device is as long as `geometry` wants: with the next durable checkpoint the file has this layout, of more
    /// segments than before.
    pub fn begin_grow(&mut self, geometry: Geometry) {
        self.set_geometry(geometry);
    }

    /// From now on nothing new goes to segments that `geometry` has not, and what is in them goes: those that were open
    /// are to be sealed, and reclaim takes them first. Dirty blocks in them are to be destaged.
    pub fn begin_shrink(&mut self, geometry: Geometry) -> Vec<SealPlan> {
        self.dirty.leave_segments_from(geometry.segment_count);
        self.dirty.set_capacity(&geometry);
        let closed = self.log.begin_shrink(geometry);
        closed.into_iter().filter_map(|segment| self.seal_one(std::iter::once(segment))).collect()
    }

    /// The shrink is given up: the segments are as good as ever.
    pub fn give_shrink_up(&mut self) {
        self.dirty.set_capacity(&self.geometry);
        self.log.give_shrink_up(self.geometry);
    }

    /// Whether nothing is left beyond the end of the layout that a shrink wants.
    pub fn is_emptied(&self) -> bool {
        self.log.is_emptied()
    }

    /// Whether the log has segments beyond that end, for blocks that the backing store does not have.
    pub fn has_log_leaving(&self) -> bool {
        self.log.has_leaving_dirty()
    }

    /// Whether every record that was planned is durable, or given up.
    pub fn is_log_settled(&self) -> bool {
        self.dirty.is_settled()
    }

    /// Everything beyond the end of `geometry` is gone: with the next durable checkpoint the file has this layout.
    pub fn begin_fewer(&mut self, geometry: Geometry) {
        assert_eq!(self.log.usable, geometry.segment_count, "another shrink was begun");
        assert!(self.log.is_emptied(), "segments that hold something would be lost");
        self.set_geometry(geometry);
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.log.set_geometry(geometry);
        self.dirty.set_capacity(&geometry);
        self.index.begin_move(geometry.slot_count());
        self.admission.set_capacity(geometry.capacity_blocks());
        self.fills = self.log.has_room();
    }

    /// Whether the file on the device has the layout that was wanted last.
    pub fn is_resize_durable(&self) -> bool {
        self.durable_geometry == self.geometry
    }

    /// A checkpoint with this layout is durable.
    pub(super) fn note_durable_geometry(&mut self, geometry: Geometry) {
        self.durable_geometry = geometry;
        // While it shrinks this is the old layout, whose end is not to be used again.
        if geometry == self.geometry && !self.log.is_shrinking {
            self.log.lend(geometry.segment_count);
        }
    }

    /// A part of what is left to do in RAM; whether there is more.
    pub fn step_resize(&mut self) -> bool {
        // 0.3 ms under the lock, when every entry is a cache miss.
        const ENTRIES: usize = 2048;
        self.index.step(ENTRIES)
    }
}

impl Log {
    /// See [`Ssd::begin_shrink`]: the segments that are to be sealed.
    fn begin_shrink(&mut self, geometry: Geometry) -> Vec<u32> {
        self.geometry = geometry;
        self.usable = geometry.segment_count;
        self.is_shrinking = true;
        let usable = self.usable;
        self.free.retain(|&segment| segment < usable);
        for open in self.open.iter_mut() {
            *open = open.filter(|&segment| segment < usable);
        }
        let leaving = self.drafts.range_mut(usable..);
        leaving
            .map(|(&segment, draft)| {
                draft.is_closed = true;
                segment
            })
            .collect()
    }

    fn give_shrink_up(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.is_shrinking = false;
        self.lend(geometry.segment_count);
    }

    /// Segments below `count` may be handed out.
    fn lend(&mut self, count: u32) {
        for segment in self.usable..count {
            if self.segments[segment as usize].state == State::Free {
                self.free.push_back(segment);
            }
        }
        self.usable = count;
    }

    fn is_emptied(&self) -> bool {
        self.leaving().all(|segment| segment.state == State::Free)
    }

    fn has_leaving_dirty(&self) -> bool {
        self.leaving().any(|segment| segment.state == State::Dirty)
    }

    fn leaving(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().skip(self.usable as usize)
    }

    fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.is_shrinking = false;
        // Plans may still name segments that are no more: those stay, free and in no list.
        let count = self.segments.len().max(geometry.segment_count as usize);
        self.segments.resize(count, Segment::UNUSED);
        self.bits.resize(count);
    }
}
