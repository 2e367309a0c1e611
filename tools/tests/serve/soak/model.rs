//! What every byte of an export may be, while many connections read and write it.
//!
//! An export is cut into stretches, whose ends lie anywhere in a block. Only the owner of a stretch writes there, and never
//! over a range that has a write without an answer; everybody reads everywhere.
//!
//! A clock counts what happens. A write begins before it is sent, and is over when its answer was taken. A read that was
//! sent at `sent` and checked at once when it came may see a write that began before, unless another one of the same byte
//! began after the first was over, and was itself over before `sent`. A write whose client left has no answer, so it may be
//! seen or not for as long as the round lasts. A round ends when the server has no connection any more: nothing is under way
//! then, and what is read becomes the ground for the next ([`Stretch::settle`]).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What a write leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// Bytes that only this number has there.
    Noise(u64),
    Zeros,
}

#[derive(Clone, Debug)]
struct Write {
    range: Range<u64>,
    content: Content,
    began: u64,
    over: Option<u64>,
}

/// A part of an export that one connection owns.
struct Stretch {
    range: Range<u64>,
    /// What it was when the round began.
    ground: Vec<u8>,
    /// Of this round, in the order of beginning.
    writes: Vec<Write>,
}

/// One export.
pub(super) struct Disk {
    pub(super) name: String,
    clock: AtomicU64,
    stretches: Vec<Mutex<Stretch>>,
}

/// A write that has no answer yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteId {
    owner: usize,
    index: usize,
}

impl Disk {
    /// All zeros, cut for so many owners.
    pub(super) fn new(name: &str, bytes: u64, owners: u64) -> Self {
        let stretch = |owner: u64| {
            let range = owner * bytes / owners..(owner + 1) * bytes / owners;
            let ground = vec![0; (range.end - range.start) as usize];
            Mutex::new(Stretch { range, ground, writes: Vec::new() })
        };
        let stretches = (0..owners).map(stretch).collect();
        Self { name: name.into(), clock: AtomicU64::new(1), stretches }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.stretches.last().expect("there are owners").lock().range.end
    }

    /// What happens from now on is later than this.
    pub(super) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn stretch(&self, owner: usize) -> Range<u64> {
        self.stretches[owner].lock().range.clone()
    }

    /// A write of `owner` begins, if none is under way there or was abandoned.
    pub(super) fn begin(&self, owner: usize, range: Range<u64>, content: Content) -> Option<WriteId> {
        let mut stretch = self.stretches[owner].lock();
        assert!(stretch.range.start <= range.start && range.end <= stretch.range.end);
        if stretch.over(&range).any(|write| write.over.is_none()) {
            return None;
        }
        let index = stretch.writes.len();
        stretch.writes.push(Write { range, content, began: self.now(), over: None });
        Some(WriteId { owner, index })
    }

    /// It was answered.
    pub(super) fn end(&self, id: WriteId) {
        self.stretches[id.owner].lock().writes[id.index].over = Some(self.now());
    }

    /// It was refused, before anything of it was done.
    pub(super) fn refused(&self, id: WriteId) {
        let write = &mut self.stretches[id.owner].lock().writes[id.index];
        (write.range, write.over) = (0..0, Some(0));
    }

    /// Whether `bytes`, the answer to a read from `offset` on, are what they may be; what is wrong otherwise.
    pub(super) fn check(&self, offset: u64, bytes: &[u8], sent: u64) -> Result<(), String> {
        let end = offset + bytes.len() as u64;
        for stretch in &self.stretches {
            let stretch = stretch.lock();
            let common = intersection(&stretch.range, &(offset..end));
            if !common.is_empty() {
                let part = &bytes[(common.start - offset) as usize..(common.end - offset) as usize];
                stretch.check(common, part, sent).map_err(|what| format!("{}: {what}", self.name))?;
            }
        }
        Ok(())
    }

    /// Ends a round: `bytes` is the whole disk, read while nothing else was under way.
    pub(super) fn settle(&self, bytes: &[u8]) {
        for stretch in &self.stretches {
            let mut stretch = stretch.lock();
            let range = stretch.range.start as usize..stretch.range.end as usize;
            stretch.ground.copy_from_slice(&bytes[range]);
            stretch.writes.clear();
        }
    }
}

impl Stretch {
    fn over(&self, range: &Range<u64>) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(move |write| !intersection(&write.range, range).is_empty())
    }

    fn check(&self, range: Range<u64>, bytes: &[u8], sent: u64) -> Result<(), String> {
        let writes: Vec<&Write> = self.over(&range).collect();
        let mut cuts: Vec<u64> =
            writes.iter().flat_map(|write| [write.range.start, write.range.end]).collect();
        cuts.extend([range.start, range.end]);
        cuts.retain(|cut| (range.start..=range.end).contains(cut));
        cuts.sort_unstable();
        cuts.dedup();
        for piece in cuts.windows(2).map(|cuts| cuts[0]..cuts[1]) {
            let here = &bytes[(piece.start - range.start) as usize..(piece.end - range.start) as usize];
            let over: Vec<&Write> =
                writes.iter().copied().filter(|write| write.range.contains(&piece.start)).collect();
            self.check_piece(&piece, here, &over, sent)?;
        }
        Ok(())
    }

    /// `writes` are all over the whole piece.
    fn check_piece(
        &self,
        piece: &Range<u64>,
        bytes: &[u8],
        writes: &[&Write],
        sent: u64,
    ) -> Result<(), String> {
        let is_hidden = |over: u64| {
            writes.iter().any(|later| later.began > over && later.over.is_some_and(|over| over < sent))
        };
        let mut allowed = Vec::new();
        if !is_hidden(0) {
            let start = (piece.start - self.range.start) as usize;
            allowed.push(self.ground[start..start + bytes.len()].to_vec());
        }
        let visible = writes.iter().filter(|write| !write.over.is_some_and(is_hidden));
        allowed.extend(visible.map(|write| write.content.at(piece)));
        if allowed.iter().any(|whole| whole == bytes) {
            return Ok(());
        }
        // Parts of several, then: a write is not done at one moment.
        let wrong =
            bytes.iter().enumerate().position(|(at, byte)| allowed.iter().all(|one| one[at] != *byte));
        wrong.map_or(Ok(()), |at| {
            let place = piece.start + at as u64;
            let hidden: Vec<&&Write> = writes.iter().filter(|write| write.content.at(piece)[at] == bytes[at]).collect();
            Err(format!("byte {place} is {} and one of {} things; writes that leave such a byte: {hidden:?}; all: {writes:?}", bytes[at], allowed.len()))
        })
    }
}

impl Content {
    /// What it is there.
    pub(super) fn at(self, range: &Range<u64>) -> Vec<u8> {
        match self {
            Self::Zeros => vec![0; (range.end - range.start) as usize],
            Self::Noise(number) => {
                range.clone().map(|at| (mix(number ^ (at / 8)) >> (at % 8 * 8)) as u8).collect()
            }
        }
    }
}

/// A word that is like no other: the finish of splitmix64.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn intersection(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    one.start.max(other.start)..one.end.min(other.end)
}

#[test]
fn the_model_takes_what_may_be_and_nothing_else() {
    let disk = Disk::new("disk", 1000, 3);
    let old = Content::Noise(1);
    let first = disk.begin(1, 400..500, old).expect("nothing is under way");
    assert!(disk.begin(1, 450..460, Content::Zeros).is_none(), "one is under way");
    let read = |sent: u64, bytes: &[u8]| disk.check(400, bytes, sent).is_ok();
    let (zeros, written) = (vec![0; 100], old.at(&(400..500)));
    let torn = [&written[..30], &zeros[30..]].concat();
    let sent = disk.now();
    assert!(read(sent, &zeros) && read(sent, &written) && read(sent, &torn));
    disk.end(first);
    assert!(read(sent, &zeros), "it may have been read before");
    let sent = disk.now();
    assert!(!read(sent, &zeros) && !read(sent, &torn) && read(sent, &written));
    let second = disk.begin(1, 440..600, Content::Zeros).expect("the first is over");
    let sent = disk.now();
    let newer = [&written[..40], &zeros[40..]].concat();
    assert!(read(sent, &written) && read(sent, &newer));
    disk.end(second);
    let sent = disk.now();
    assert!(!read(sent, &written) && read(sent, &newer));
    let refused = disk.begin(1, 400..500, old).expect("the second is over");
    disk.refused(refused);
    assert!(!read(disk.now(), &written));
    let whole = [vec![0; 400], newer.clone(), vec![0; 500]].concat();
    disk.settle(&whole);
    assert!(read(disk.now(), &newer));
}
