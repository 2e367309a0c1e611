//! The miss-ratio curve of LRU, exactly and for all sizes in one pass.
//!
//! Source: Mattson, Gecsei, Slutz and Traiger, "Evaluation techniques for storage hierarchies", IBM Systems Journal 1970:
//! LRU keeps, in every size, the top of one stack, so a reference at depth d of it hits in every size from d on. Bennett
//! and Kruskal, "LRU stack processing", IBM JRD 1975, for the depth by counting marks.
//!
//! ```text
//! marks:  one bit a moment, set at the last use of each block       oldest ......x......... newest
//! depth of a block last used at x = 1 + the bits set after x
//!
//! leaf:   512 bits, one cache line       tree: a Fenwick tree of the bits set in all leaves that are full
//! ```
//!
//! The leaf that is being filled is not in the tree: a new mark costs one bit, and only marks that go pay for a walk.
//! When the moments run out the marks are moved together, in order; there is room for so many that this is rare.
//!
//! Invariants, tested against a plain list: after each reference the marks are as many as blocks seen; `last` of each of
//! them is the place of its mark; the order of marks is the order of last uses.

const WORDS: usize = 8;
const LEAF: usize = WORDS * 64;

/// Tells of each reference how deep in the LRU stack its block lies.
pub struct StackDistances {
    marks: Vec<[u64; WORDS]>,
    /// Fenwick: node i sums the leaves `i - lowbit(i) .. i`, counted from 1.
    tree: Vec<u32>,
    /// By block: the moment of its last use; [`NEVER`].
    last: Vec<u32>,
    now: usize,
    /// Blocks seen.
    live: u32,
}

const NEVER: u32 = u32::MAX;

impl StackDistances {
    /// For blocks with numbers below `unique`.
    ///
    /// # Panics
    /// When `unique` is 2^30 or more.
    pub fn new(unique: u32) -> Self {
        assert!(unique < 1 << 30, "{unique} blocks are too many for one stack");
        // Moved together every `unique` references at the most; and small traces hardly ever.
        let leaves = (2 * unique as usize).max(1 << 14).div_ceil(LEAF) + 1;
        Self {
            marks: vec![[0; WORDS]; leaves],
            tree: vec![0; leaves + 1],
            last: vec![NEVER; unique as usize],
            now: 0,
            live: 0,
        }
    }

    /// The depth, from 1, of `block` before this reference; none when it was never referenced.
    #[inline]
    pub fn reference(&mut self, block: u32) -> Option<u32> {
        if self.now == self.marks.len() * LEAF {
            self.compact();
        }
        let last = std::mem::replace(&mut self.last[block as usize], self.now as u32);
        let depth = if last == NEVER {
            self.live += 1;
            None
        } else {
            Some(self.take_mark(last as usize))
        };
        self.marks[self.now / LEAF][self.now % LEAF / 64] |= 1 << (self.now % 64);
        self.now += 1;
        if self.now.is_multiple_of(LEAF) {
            self.enter_leaf(self.now / LEAF - 1);
        }
        depth
    }

    /// Clears the mark at `moment`; how many there are from it on.
    #[inline]
    fn take_mark(&mut self, moment: usize) -> u32 {
        let leaf = moment / LEAF;
        let depth = self.live - self.before_leaf(leaf) - before(&self.marks[leaf], moment % LEAF);
        self.marks[leaf][moment % LEAF / 64] &= !(1 << (moment % 64));
        if leaf < self.now / LEAF {
            let mut node = leaf + 1;
            while node < self.tree.len() {
                self.tree[node] -= 1;
                node += node & node.wrapping_neg();
            }
        }
        depth
    }

    /// Marks in the leaves before `leaf`.
    #[inline]
    fn before_leaf(&self, leaf: usize) -> u32 {
        let (mut node, mut sum) = (leaf, 0);
        while node > 0 {
            sum += self.tree[node];
            node &= node - 1;
        }
        sum
    }

    fn enter_leaf(&mut self, leaf: usize) {
        let count = before(&self.marks[leaf], LEAF);
        let mut node = leaf + 1;
        while node < self.tree.len() {
            self.tree[node] += count;
            node += node & node.wrapping_neg();
        }
    }

    /// Moves all marks to the oldest moments, in their order.
    fn compact(&mut self) {
        let starts: Vec<u32> = self
            .marks
            .iter()
            .scan(0, |sum, leaf| Some(std::mem::replace(sum, *sum + before(leaf, LEAF))))
            .collect();
        for last in self.last.iter_mut().filter(|last| **last != NEVER) {
            let moment = *last as usize;
            *last = starts[moment / LEAF] + before(&self.marks[moment / LEAF], moment % LEAF);
        }
        self.marks.fill([0; WORDS]);
        self.tree.fill(0);
        self.now = self.live as usize;
        for moment in 0..self.now {
            self.marks[moment / LEAF][moment % LEAF / 64] |= 1 << (moment % 64);
        }
        (0..self.now / LEAF).for_each(|leaf| self.enter_leaf(leaf));
    }
}

/// Marks of the leaf at places below `place`.
#[inline]
fn before(leaf: &[u64; WORDS], place: usize) -> u32 {
    let whole: u32 = leaf[..place / 64].iter().map(|word| word.count_ones()).sum();
    match place % 64 {
        0 => whole,
        bits => whole + (leaf[place / 64] & ((1 << bits) - 1)).count_ones(),
    }
}

/// How often LRU misses, for every size.
pub struct LruCurve {
    /// By size in blocks, from 0 to as many as there are.
    misses: Vec<u64>,
    references: u64,
}

impl LruCurve {
    /// Of `references` to blocks with numbers below `unique`.
    pub fn of(references: &[u32], unique: u32) -> Self {
        let mut stack = StackDistances::new(unique);
        let mut counts = vec![0u32; unique as usize + 1];
        for &block in references {
            if let Some(depth) = stack.reference(block) {
                counts[depth as usize] += 1;
            }
        }
        Self::of_depths(counts.into_iter().map(u64::from), references.len() as u64)
    }

    /// From how many of `references` were at each depth, from depth 0 (where none is).
    pub fn of_depths(counts: impl Iterator<Item = u64>, references: u64) -> Self {
        let misses = counts.scan(references, |misses, count| {
            *misses -= count;
            Some(*misses)
        });
        Self { misses: misses.collect(), references }
    }

    /// Misses with `blocks` blocks, first references included.
    pub fn misses(&self, blocks: u64) -> u64 {
        let last = self.misses.len() - 1;
        self.misses[usize::try_from(blocks).map_or(last, |blocks| blocks.min(last))]
    }

    /// Misses over references; 0 for an empty trace.
    pub fn miss_ratio(&self, blocks: u64) -> f64 {
        self.misses(blocks) as f64 / self.references.max(1) as f64
    }

    pub fn references(&self) -> u64 {
        self.references
    }

    /// Blocks that were referenced: a larger cache gives nothing more.
    pub fn unique(&self) -> u64 {
        self.misses.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stack as a list, the latest last.
    #[derive(Default)]
    struct PlainStack(Vec<u32>);

    impl PlainStack {
        fn reference(&mut self, block: u32) -> Option<u32> {
            let place = self.0.iter().rposition(|&other| other == block);
            let depth = place.map(|place| (self.0.len() - place) as u32);
            place.map(|place| self.0.remove(place));
            self.0.push(block);
            depth
        }
    }

    #[test]
    fn depths_agree_with_a_plain_list_over_many_compactions() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for unique in [1, 2, 63, 64, 65, 511, 700] {
            let (mut stack, mut twin) = (StackDistances::new(unique), PlainStack::default());
            for step in 0..60_000u32 {
                // Mostly near the last one, at times anywhere, at times a scan.
                let block = match step / 997 % 3 {
                    0 => random.u32(..unique),
                    1 => step % unique,
                    _ => random.u32(..unique).min(random.u32(..unique)),
                };
                let wanted = twin.reference(block);
                assert_eq!(stack.reference(block), wanted, "seed {seed}, {unique} blocks, step {step}");
            }
        }
    }

    #[test]
    fn a_loop_misses_always_until_the_whole_loop_fits() {
        let references: Vec<u32> = (0..1000).map(|step| step % 100).collect();
        let curve = LruCurve::of(&references, 100);
        assert_eq!((curve.misses(0), curve.misses(99), curve.misses(100)), (1000, 1000, 100));
        assert_eq!((curve.misses(u64::MAX), curve.unique(), curve.references()), (100, 100, 1000));
    }

    #[test]
    fn an_empty_trace_has_an_empty_curve() {
        let curve = LruCurve::of(&[], 0);
        assert_eq!((curve.misses(5), curve.miss_ratio(5)), (0, 0.0));
    }
}
