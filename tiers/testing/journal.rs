//! What a run did to its devices, and what a power cut at any moment of it leaves.
//!
//! The journal is one list of events over all recorded devices, so that a cut is at the same moment on all of them.
//! On each, a change is in one of three states at the cut:
//!
//! | change                                                                 | after the cut              |
//! |------------------------------------------------------------------------|----------------------------|
//! | it had returned when a sync started that has returned well             | there                      |
//! | not issued yet                                                         | not there                  |
//! | anything else: no sync since, still under way, failed, or its sync failed | as the [`Loss`] has it    |
//!
//! A failed sync is never made good by a later one; only a newer change to the same bytes settles them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Random;
use super::memory::{MemoryDevice, Registered, sectors};
use super::pages::Pages;

/// What happened to unsettled changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// All are lost.
    All,
    /// All are there.
    Nothing,
    /// They are there in order up to one, which is torn; those after it are lost.
    Tail,
    /// Each is there or lost as a whole: the cache of the disk wrote them in another order.
    Whole,
    /// Each sector of each is there or lost.
    Torn,
}

impl Loss {
    pub const ALL: [Self; 5] = [Self::All, Self::Nothing, Self::Tail, Self::Whole, Self::Torn];
}

/// New bytes for a range.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Data(Arc<[u8]>),
    Zeros(u64),
}

impl Change {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeros(bytes) => *bytes,
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Data(_) => "writes",
            Self::Zeros(_) => "discards",
        }
    }

    /// Makes the part `range` of the change, which lies at `at`.
    pub(super) fn apply(&self, pages: &mut Pages, at: u64, range: Range<u64>) {
        match self {
            Self::Data(data) => pages.write(at, &data[range.start as usize..range.end as usize]),
            Self::Zeros(_) => pages.write_zeros(at, range.end - range.start),
        }
    }
}

/// One line of the journal; its number is its place in it.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Changed {
        device: usize,
        offset: u64,
        change: Change,
    },
    /// The change with this number returned well.
    Returned {
        id: usize,
    },
    SyncStarted,
    Synced {
        device: usize,
        started: usize,
        is_done: bool,
    },
    Mark(u64),
}

/// The record of a run.
#[derive(Default)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    devices: Vec<Registered>,
    events: Vec<Event>,
}

impl Journal {
    /// Writes down that the run got as far as `label`: what it promised by then must hold after any later cut.
    pub fn mark(&self, label: u64) {
        self.push(Event::Mark(label));
    }

    /// How many events there are; a cut is before one of them or at the end.
    pub fn event_count(&self) -> usize {
        self.lock().events.len()
    }

    /// The power cut before anything was done.
    pub fn first_cut(&self) -> Cut {
        let inner = self.lock();
        let devices = inner.devices.iter().cloned().map(CutDevice::new).collect();
        Cut { events: inner.events.clone(), position: 0, devices, marks: Vec::new() }
    }

    pub(super) fn push(&self, event: Event) -> usize {
        let mut inner = self.lock();
        inner.events.push(event);
        inner.events.len() - 1
    }

    pub(super) fn register(&self, device: Registered) -> usize {
        let mut inner = self.lock();
        inner.devices.push(device);
        inner.devices.len() - 1
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment at which the power fails; moves forward only.
pub struct Cut {
    events: Vec<Event>,
    position: usize,
    devices: Vec<CutDevice>,
    marks: Vec<u64>,
}

struct CutDevice {
    device: Registered,
    changes: u64,
    durable: Pages,
    unsettled: Vec<Unsettled>,
}

#[derive(Clone)]
struct Unsettled {
    id: usize,
    offset: u64,
    change: Change,
    /// The event of its return.
    returned: Option<usize>,
    /// Its sync failed: no other will do.
    is_orphan: bool,
    /// Parts that something newer has replaced for good.
    replaced: Vec<Range<u64>>,
}

impl Cut {
    /// Goes on to the next moment at which a cut can leave something else, or promise more; false at the end.
    pub fn advance(&mut self) -> bool {
        while let Some(event) = self.events.get(self.position).cloned() {
            let number = self.position;
            self.position += 1;
            match event {
                Event::Changed { device, offset, change } => {
                    let device = &mut self.devices[device];
                    device.changes += 1;
                    let (returned, is_orphan, replaced) = (None, false, Vec::new());
                    device.unsettled.push(Unsettled {
                        id: number,
                        offset,
                        change,
                        returned,
                        is_orphan,
                        replaced,
                    });
                    return true;
                }
                Event::Returned { id } => {
                    let mut unsettled = self.devices.iter_mut().flat_map(|device| &mut device.unsettled);
                    if let Some(change) = unsettled.find(|change| change.id == id) {
                        change.returned = Some(number);
                    }
                }
                Event::SyncStarted => {}
                Event::Synced { device, started, is_done } => {
                    self.devices[device].settle(started, is_done);
                    return true;
                }
                Event::Mark(label) => {
                    self.marks.push(label);
                    return true;
                }
            }
        }
        false
    }

    /// How many events were before the cut; names it in messages.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The marks before the cut.
    pub fn marks(&self) -> &[u64] {
        &self.marks
    }

    /// How many changes hang on the [`Loss`]; without any all losses leave the same.
    pub fn unsettled_count(&self) -> usize {
        self.devices.iter().map(|device| device.unsettled.len()).sum()
    }

    /// The last `count` events before the cut, for messages.
    pub fn recent(&self, count: usize) -> Vec<String> {
        let first = self.position.saturating_sub(count);
        let events = self.events[first..self.position].iter().enumerate();
        events.map(|(index, event)| format!("{}: {}", first + index, self.describe(event))).collect()
    }

    fn describe(&self, event: &Event) -> String {
        match event {
            Event::Changed { device, offset, change } => {
                let (bytes, action) = (change.bytes(), change.action());
                format!("device {device} {action} {bytes} bytes at {offset}")
            }
            Event::Returned { id } => format!("{id} returns"),
            Event::SyncStarted => "a sync starts".into(),
            Event::Synced { device, started, is_done: true } => {
                format!("device {device} is synced since {started}")
            }
            Event::Synced { device, started, is_done: false } => {
                format!("device {device} fails the sync since {started}")
            }
            Event::Mark(label) => format!("mark {label}"),
        }
    }

    /// The recorded devices as they are found after the cut, in the order in which their recording began.
    pub fn images(&self, loss: Loss, seed: u64) -> Vec<MemoryDevice> {
        let mut random = Random(seed ^ self.position as u64);
        self.devices
            .iter()
            .map(|device| {
                let pages = device.pages_after(loss, &mut random);
                MemoryDevice::image(&device.device, pages, device.changes, random.next())
            })
            .collect()
    }
}

impl CutDevice {
    fn new(device: Registered) -> Self {
        Self { changes: device.changes, durable: device.pages.clone(), unsettled: Vec::new(), device }
    }

    /// A sync that started at the event `started` has returned.
    fn settle(&mut self, started: usize, is_done: bool) {
        let mut left: Vec<Unsettled> = Vec::new();
        for mut change in std::mem::take(&mut self.unsettled) {
            let is_covered = !change.is_orphan && change.returned.is_some_and(|returned| returned < started);
            if is_covered && is_done {
                for older in &mut left {
                    older.replaced.push(change.offset..change.offset + change.change.bytes());
                }
                change.apply(&mut self.durable, |_| true);
            } else {
                change.is_orphan |= is_covered;
                left.push(change);
            }
        }
        self.unsettled = left;
    }

    fn pages_after(&self, loss: Loss, random: &mut Random) -> Pages {
        let mut pages = self.durable.clone();
        let torn = random.below(self.unsettled.len() as u64 + 1) as usize;
        for (index, change) in self.unsettled.iter().enumerate() {
            match loss {
                Loss::All => break,
                Loss::Tail if index > torn => break,
                Loss::Nothing => change.apply(&mut pages, |_| true),
                Loss::Tail if index < torn => change.apply(&mut pages, |_| true),
                Loss::Tail => {
                    let kept = change.offset + random.below(change.change.bytes() + 1);
                    change.apply(&mut pages, |at| at < kept);
                }
                Loss::Whole => {
                    let is_kept = random.coin();
                    change.apply(&mut pages, |_| is_kept);
                }
                Loss::Torn => change.apply(&mut pages, |_| random.coin()),
            }
        }
        pages
    }
}

impl Unsettled {
    /// Makes those sectors of the change that are `kept` (asked by their place), but for what is replaced.
    fn apply(&self, pages: &mut Pages, mut kept: impl FnMut(u64) -> bool) {
        for (at, range) in sectors(self.offset, self.change.bytes()) {
            if !kept(at) {
                continue;
            }
            let is_touched =
                |start, end| self.replaced.iter().any(|newer| newer.start < end && start < newer.end);
            if !is_touched(at, at + (range.end - range.start)) {
                self.change.apply(pages, at, range);
                continue;
            }
            for byte in range.filter(|byte| !is_touched(self.offset + byte, self.offset + byte + 1)) {
                self.change.apply(pages, self.offset + byte, byte..byte + 1);
            }
        }
    }
}
