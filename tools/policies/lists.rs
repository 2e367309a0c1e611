//! Doubly linked lists of dense ids, in arrays: what the policies keep their queues in.
//!
//! Invariant: a block is in one list of these at the most. Every list is a ring through a sentinel behind the ids, so that
//! nothing here has a special case; `next` of the sentinel is the coldest block, `prev` the hottest.

/// Some lists over one range of ids.
pub(super) struct Lists {
    links: Vec<Link>,
    /// By block: its list; [`NOWHERE`].
    list_of: Vec<u8>,
    lengths: Vec<u32>,
    ids: u32,
}

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

const NOWHERE: u8 = u8::MAX;

impl Lists {
    /// Lists numbered from 0 on, for blocks below `ids`.
    pub(super) fn new(ids: u32, count: u8) -> Self {
        let own = |entry| Link { prev: entry, next: entry };
        Self {
            links: (0..ids + u32::from(count)).map(own).collect(),
            list_of: vec![NOWHERE; ids as usize],
            lengths: vec![0; count.into()],
            ids,
        }
    }

    /// The list that `block` is in.
    #[inline]
    pub(super) fn list_of(&self, block: u32) -> Option<u8> {
        let list = self.list_of[block as usize];
        (list != NOWHERE).then_some(list)
    }

    #[inline]
    pub(super) fn contains(&self, block: u32) -> bool {
        self.list_of[block as usize] != NOWHERE
    }

    #[inline]
    pub(super) fn len(&self, list: u8) -> u32 {
        self.lengths[list as usize]
    }

    /// Adds `block`, which is in no list.
    #[inline]
    pub(super) fn push_hot(&mut self, block: u32, list: u8) {
        let sentinel = self.ids + u32::from(list);
        let prev = self.links[sentinel as usize].prev;
        self.links[block as usize] = Link { prev, next: sentinel };
        self.links[prev as usize].next = block;
        self.links[sentinel as usize].prev = block;
        self.list_of[block as usize] = list;
        self.lengths[list as usize] += 1;
    }

    /// Takes `block`, which is in a list, out.
    #[inline]
    pub(super) fn remove(&mut self, block: u32) {
        let Link { prev, next } = self.links[block as usize];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
        let list = std::mem::replace(&mut self.list_of[block as usize], NOWHERE);
        self.lengths[list as usize] -= 1;
    }

    /// To the hot end of `list`, from wherever it is.
    #[inline]
    pub(super) fn move_hot(&mut self, block: u32, list: u8) {
        self.remove(block);
        self.push_hot(block, list);
    }

    #[inline]
    pub(super) fn coldest(&self, list: u8) -> Option<u32> {
        self.hotter_than(self.ids + u32::from(list))
    }

    #[inline]
    pub(super) fn pop_coldest(&mut self, list: u8) -> Option<u32> {
        let block = self.coldest(list)?;
        self.remove(block);
        Some(block)
    }

    /// The next one towards the hot end; none at it.
    #[inline]
    pub(super) fn hotter_than(&self, block: u32) -> Option<u32> {
        let next = self.links[block as usize].next;
        (next < self.ids).then_some(next)
    }
}
