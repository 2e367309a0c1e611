//! The segments of the dirty stream, in the order in which they were opened and go.

use std::collections::BTreeSet;

use crate::block::{BlockId, VolumeId};

use super::chains::CopyId;
use super::{CopyState, DirtyLog, LogCopy};

/// A segment of the dirty stream.
pub(in super::super) struct DirtySegment {
    pub(in super::super) segment: u32,
    pub(in super::super) generation: u32,
    pub(in super::super) first_sequence: u64,
    pub(in super::super) next_page: u32,
    /// Nothing after this page is part of it; known of segments of an earlier opening.
    pub(in super::super) end_page: Option<u32>,
    /// A bit a copy: 1 when it must not be used any more.
    pub(in super::super) dead: Vec<u64>,
    /// Copies in its records, whatever became of them.
    pub(in super::super) copy_count: u32,
    /// Those that were put into chains; where one has left, the name may be that of another copy.
    pub(in super::super) ids: Vec<CopyId>,
    /// Copies that keep it: not durable, dirty or bad.
    pub(in super::super) needed: u32,
    pub(in super::super) is_closed: bool,
}

impl DirtySegment {
    pub(in super::super) fn new(segment: u32, generation: u32, first_sequence: u64) -> Self {
        Self {
            segment,
            generation,
            first_sequence,
            next_page: 0,
            end_page: None,
            dead: Vec::new(),
            copy_count: 0,
            ids: Vec::new(),
            needed: 0,
            is_closed: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + 8 * self.dead.capacity() + size_of::<CopyId>() * self.ids.capacity()
    }

    pub(super) fn set_dead(&mut self, index: u32) {
        let word = index as usize / 64;
        if self.dead.len() <= word {
            self.dead.resize(word + 1, 0);
        }
        self.dead[word] |= 1 << (index % 64);
    }

    fn is_dead(&self, index: u32) -> bool {
        is_dead_in(&self.dead, index)
    }

    /// A copy in it is in a chain.
    pub(super) fn add(&mut self, id: CopyId) {
        // A quarter more each time in place of twice as many: there may be thousands of segments.
        if self.ids.len() == self.ids.capacity() {
            self.ids.reserve_exact(self.ids.len() / 4 + 16);
        }
        self.ids.push(id);
    }
}

/// What keeps the first segment of the log, and so all of them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogKeepers {
    /// Whose dirty copies are in it that can go below.
    pub volumes: BTreeSet<VolumeId>,
    /// It has dirty copies that cannot: they are bad, or in the chain of one that is.
    pub has_bad: bool,
}

/// Whether copy number `index` is dead in a segment's words.
pub(in super::super) fn is_dead_in(words: &[u64], index: u32) -> bool {
    words.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

impl DirtyLog {
    /// What comes goes to another segment, if the open one is `first` or a later one.
    pub(in super::super) fn leave_segments_from(&mut self, first: u32) {
        if self.segments.back().is_some_and(|last| last.segment >= first) {
            self.close_open();
        }
    }

    pub(in super::super) fn close_open(&mut self) {
        if let Some(last) = self.segments.back_mut() {
            last.is_closed = true;
        }
    }

    pub(in super::super) fn open_segment(&mut self, segment: u32, generation: u32) {
        self.close_open();
        self.segments.push_back(DirtySegment::new(segment, generation, self.next_sequence));
    }

    /// The place in line of the segment of this generation.
    fn segment_at(&self, generation: u32) -> usize {
        let at = self.segments.partition_point(|other| other.generation < generation);
        let is_it = self.segments.get(at).is_some_and(|segment| segment.generation == generation);
        assert!(is_it, "a copy lies in a segment of the log");
        at
    }

    pub(super) fn segment_mut(&mut self, generation: u32) -> &mut DirtySegment {
        let is_last_used =
            self.segments.get(self.last_used).is_some_and(|last| last.generation == generation);
        if !is_last_used {
            self.last_used = self.segment_at(generation);
        }
        &mut self.segments[self.last_used]
    }

    /// The number of the segment of this generation.
    pub(in super::super) fn segment_of(&self, generation: u32) -> u32 {
        self.segments[self.segment_at(generation)].segment
    }

    pub(in super::super) fn keepers(&self) -> LogKeepers {
        let mut keepers = LogKeepers::default();
        let Some(first) = self.segments.front() else { return keepers };
        let is_in = |id: &&CopyId| self.chains.is_in(**id, first.generation);
        for &id in first.ids.iter().filter(is_in) {
            let block = self.chains.block(id);
            match self.chains.state(id) {
                CopyState::Destaged => {}
                _ if self.bad.contains(&block) => keepers.has_bad = true,
                _ => {
                    keepers.volumes.insert(block.volume());
                }
            }
        }
        keepers
    }

    /// Whether nothing keeps the open segment, and it is the only one.
    pub(in super::super) fn is_open_unneeded(&self) -> bool {
        self.segments.len() == 1 && self.segments[0].needed == 0
    }

    /// The next segment that nothing keeps, with its generation; out of the log with this call.
    pub(in super::super) fn take_unneeded(&mut self) -> Option<(u32, u32)> {
        let first = self.segments.front().filter(|first| first.is_closed && first.needed == 0)?;
        let (segment, generation) = (first.segment, first.generation);
        let gone = self.segments.pop_front().expect("it was just looked at");
        for id in gone.ids {
            if self.chains.is_in(id, generation) {
                debug_assert_eq!(self.chains.state(id), CopyState::Destaged, "nothing else is unneeded");
                self.chains.remove(id);
            }
        }
        Some((segment, generation))
    }

    /// Puts a recovered segment in line, behind those before it.
    pub(in super::super) fn restore_segment(&mut self, segment: DirtySegment) {
        self.segments.push_back(DirtySegment { is_closed: true, ..segment });
    }

    /// Puts the next recovered copy of its segment, in the order of their writing, there and in its chain; `is_void` when it
    /// must not be used. It gets its number here.
    pub(in super::super) fn restore_next_copy(&mut self, block: BlockId, mut copy: LogCopy, is_void: bool) {
        let segment = self.segment_mut(copy.generation);
        copy.index = segment.copy_count;
        segment.copy_count += 1;
        if is_void || segment.is_dead(copy.index) {
            segment.set_dead(copy.index);
        } else {
            segment.needed += u32::from(copy.state == CopyState::Dirty);
            self.note(block);
            self.install(block, &copy);
        }
    }
}
