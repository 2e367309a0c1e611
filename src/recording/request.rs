//! One request, as every trace format says it in its own words.

/// What one request touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Span {
    /// Bytes of a volume: every block they overlap.
    Bytes { offset: u64, bytes: u64 },
    /// Ids, one block each.
    Ids { first: u64, count: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Read,
    Write,
    /// What was written before is to be durable; its span is empty.
    Flush,
    /// The range holds nothing of worth any more.
    Discard,
}

/// One request of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// Devices and hosts of the trace, numbered from 0 as they appear.
    pub volume: u32,
    pub kind: Kind,
    pub span: Span,
    /// Nanoseconds since some fixed moment; none when the trace has no times.
    pub time_ns: Option<u64>,
}

/// Requests that were made and that a recording does not have.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lost {
    pub requests: u64,
    /// They were made from the one to the other; none when there are none.
    pub times_ns: Option<(u64, u64)>,
}

impl Lost {
    /// Adds those of `other`.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.times_ns = match (self.times_ns, other.times_ns) {
            (Some((from, to)), Some((earlier, later))) => Some((from.min(earlier), to.max(later))),
            (ours, theirs) => ours.or(theirs),
        };
    }
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];
}

impl Span {
    /// What a flush touches.
    pub const NOTHING: Self = Self::Bytes { offset: 0, bytes: 0 };

    /// Where it begins, and how long it is: bytes, or ids.
    pub fn parts(self) -> (u64, u64) {
        match self {
            Self::Bytes { offset, bytes } => (offset, bytes),
            Self::Ids { first, count } => (first, count),
        }
    }
}

impl Request {
    /// The time for those who count in microseconds.
    pub fn time_us(&self) -> Option<u64> {
        self.time_ns.map(|ns| ns / 1000)
    }
}
