//! Three bits a slot: whether its copy is live, and how often it was hit.
//!
//! Each segment has whole words of its own, so that a checkpoint copies them and recovery puts them back.

use super::geometry::Geometry;

/// A hit counter has two bits.
pub(super) const HITS_MAX: u32 = 3;

pub(super) struct SlotBits {
    live_words: usize,
    hit_words: usize,
    live: Vec<u64>,
    hits: Vec<u64>,
}

impl SlotBits {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let (live_words, hit_words) = (geometry.live_words(), geometry.hit_words());
        let segments = geometry.segment_count as usize;
        Self {
            live_words,
            hit_words,
            live: vec![0; segments * live_words],
            hits: vec![0; segments * hit_words],
        }
    }

    /// Makes room for so many segments.
    pub(super) fn resize(&mut self, segments: usize) {
        self.live.resize(segments * self.live_words, 0);
        self.hits.resize(segments * self.hit_words, 0);
    }

    pub(super) fn bytes(&self) -> u64 {
        (size_of_val(self.live.as_slice()) + size_of_val(self.hits.as_slice())) as u64
    }

    /// All slots of `segment` are live and none was hit.
    pub(super) fn open(&mut self, segment: u32) {
        let (live_words, hit_words) = (self.live_words, self.hit_words);
        self.live[segment as usize * live_words..][..live_words].fill(u64::MAX);
        self.hits[segment as usize * hit_words..][..hit_words].fill(0);
    }

    /// The bits of `segment` are these.
    pub(super) fn load(&mut self, segment: u32, live: &[u64], hits: &[u64]) {
        let (live_words, hit_words) = (self.live_words, self.hit_words);
        self.live[segment as usize * live_words..][..live_words].copy_from_slice(live);
        self.hits[segment as usize * hit_words..][..hit_words].copy_from_slice(hits);
    }

    /// No slot of `segment` is live, and none was hit.
    pub(super) fn clear(&mut self, segment: u32) {
        let (live_words, hit_words) = (self.live_words, self.hit_words);
        self.live[segment as usize * live_words..][..live_words].fill(0);
        self.hits[segment as usize * hit_words..][..hit_words].fill(0);
    }

    pub(super) fn set_dead(&mut self, segment: u32, slot: u32) {
        self.live[segment as usize * self.live_words + slot as usize / 64] &= !(1 << (slot % 64));
    }

    pub(super) fn hit_count(&self, segment: u32, slot: u32) -> u32 {
        hits_in(self.hits(segment), slot)
    }

    /// One more hit, up to `max`.
    pub(super) fn hit(&mut self, segment: u32, slot: u32, max: u32) {
        if self.hit_count(segment, slot) < max {
            *self.hit_word(segment, slot) += 1 << (slot % 32 * 2);
        }
    }

    fn hit_word(&mut self, segment: u32, slot: u32) -> &mut u64 {
        &mut self.hits[segment as usize * self.hit_words + slot as usize / 32]
    }

    /// One bit a slot, the lowest first.
    pub(super) fn live(&self, segment: u32) -> &[u64] {
        &self.live[segment as usize * self.live_words..][..self.live_words]
    }

    /// Two bits a slot, the lowest first.
    pub(super) fn hits(&self, segment: u32) -> &[u64] {
        &self.hits[segment as usize * self.hit_words..][..self.hit_words]
    }
}

/// What recovery found in one segment: no slot but those that are put.
pub(super) struct FoundBits {
    pub(super) live: Vec<u64>,
    pub(super) hits: Vec<u64>,
}

impl FoundBits {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self { live: vec![0; geometry.live_words()], hits: vec![0; geometry.hit_words()] }
    }

    /// `slot` is live, and was hit so often.
    pub(super) fn put(&mut self, slot: u32, hits: u32) {
        self.live[slot as usize / 64] |= 1 << (slot % 64);
        self.hits[slot as usize / 32] |= u64::from(hits & HITS_MAX) << (slot % 32 * 2);
    }
}

/// Whether `slot` is live in a segment's words.
pub(super) fn is_live_in(words: &[u64], slot: u32) -> bool {
    words[slot as usize / 64] >> (slot % 64) & 1 == 1
}

/// The hit counter of `slot` in a segment's words.
pub(super) fn hits_in(words: &[u64], slot: u32) -> u32 {
    (words[slot as usize / 32] >> (slot % 32 * 2)) as u32 & HITS_MAX
}
