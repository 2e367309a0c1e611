//! One segment: its states (see the picture in `log`) and who writes to it.

/// Who writes to a segment; the number is part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Clean = 0,
    Reinserted = 1,
}

impl Stream {
    pub(super) const COUNT: usize = 2;

    pub(super) fn from_number(number: u32) -> Option<Self> {
        [Self::Clean, Self::Reinserted].into_iter().find(|&stream| stream as u32 == number)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    /// Of an earlier opening; what it holds is not known yet.
    Unread,
    Preparing,
    Open,
    Sealing,
    Sealed,
    Reclaiming,
    /// Of the dirty stream.
    Dirty,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) state: State,
    pub(super) is_prepared: bool,
    pub(super) generation: u32,
    pub(super) slots_used: u32,
}
