//! A disk for the tests: a real file, answered at once, on other threads, or when the test says so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use terrace_nbd::{
    Data, Done, ErrorCode, Export, ExportInfo, Extent, Failure, Parts, Payload, Result, StatusQuery, Zeroing,
};

/// When a disk answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answers {
    /// Before the call returns: reads by `try_read`, lent.
    AtOnce,
    /// On a thread of its own.
    Elsewhere,
    /// When [`Disk::release`] is called.
    WhenReleased,
}

/// A request that waits for its answer.
trait Held: Send {
    fn is_wanted(&self) -> bool;

    fn answer(self: Box<Self>);
}

struct Job<T, F> {
    done: Done<T>,
    work: F,
}

impl<T: Send, F: FnOnce() -> Result<T> + Send> Held for Job<T, F> {
    fn is_wanted(&self) -> bool {
        self.done.is_wanted()
    }

    fn answer(self: Box<Self>) {
        self.done.complete((self.work)());
    }
}

pub(crate) struct Disk {
    file: Arc<File>,
    pub(crate) info: Mutex<ExportInfo>,
    /// What the next question for it waits for, when it has said that it came.
    pub(crate) info_waits_for: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    answers: Answers,
    held: Mutex<Vec<Box<dyn Held>>>,
    came: Condvar,
    /// Every call but `info`.
    pub(crate) calls: AtomicUsize,
    /// Calls of `read_alone`.
    pub(crate) alone: AtomicUsize,
    /// What the next of them waits for.
    pub(crate) alone_waits_for: Mutex<Option<Receiver<()>>>,
    /// Bytes that readers hold.
    lent: Arc<Lent>,
    /// What every read answers in place of the file's bytes.
    pub(crate) fails_with: Mutex<Option<Failure>>,
}

#[derive(Default)]
struct Lent {
    count: Mutex<usize>,
    changed: Condvar,
}

/// A read in two pieces, counted while it lives.
struct TwoParts {
    bytes: Vec<u8>,
    lent: Arc<Lent>,
}

impl TwoParts {
    fn new(bytes: Vec<u8>, lent: &Arc<Lent>) -> Self {
        *lent.count.lock() += 1;
        Self { bytes, lent: lent.clone() }
    }
}

impl Parts for TwoParts {
    fn count(&self) -> usize {
        2
    }

    fn part(&self, index: usize) -> &[u8] {
        let (first, second) = self.bytes.split_at(self.bytes.len() / 3);
        [first, second][index]
    }
}

impl Drop for TwoParts {
    fn drop(&mut self) {
        *self.lent.count.lock() -= 1;
        self.lent.changed.notify_all();
    }
}

impl Disk {
    /// A file of `bytes` bytes, all of it a hole.
    pub(crate) fn new(bytes: u64, answers: Answers) -> Arc<Self> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        let mut info = ExportInfo::new(bytes);
        info.contexts.push("x-terrace:tier".into());
        info.description = "a disk for tests".into();
        Arc::new(Self {
            file: Arc::new(file),
            info: Mutex::new(info),
            info_waits_for: Mutex::default(),
            answers,
            held: Mutex::default(),
            came: Condvar::new(),
            calls: AtomicUsize::new(0),
            alone: AtomicUsize::new(0),
            alone_waits_for: Mutex::default(),
            lent: Arc::default(),
            fails_with: Mutex::default(),
        })
    }

    /// With bytes that tell where they are from.
    pub(crate) fn filled(bytes: u64, answers: Answers) -> Arc<Self> {
        let disk = Self::new(bytes, answers);
        disk.file.write_all_at(&content(0, bytes as usize), 0).unwrap();
        disk
    }

    pub(crate) fn bytes(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.file.read_exact_at(&mut buffer, offset).unwrap();
        buffer
    }

    /// Waits until so many requests are here that were not released.
    pub(crate) fn wait_for(&self, count: usize) {
        let mut held = self.held.lock();
        while held.len() < count {
            self.came.wait(&mut held);
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// Answers what is here, the last first.
    pub(crate) fn release(&self) {
        let held = std::mem::take(&mut *self.held.lock());
        held.into_iter().rev().for_each(|job| job.answer());
    }

    /// Of those that are here, how many someone waits for.
    pub(crate) fn wanted(&self) -> usize {
        self.held.lock().iter().filter(|job| job.is_wanted()).count()
    }

    /// Drops what is here unanswered.
    pub(crate) fn forget(&self) {
        self.held.lock().clear();
    }

    pub(crate) fn lent(&self) -> usize {
        *self.lent.count.lock()
    }

    pub(crate) fn wait_until_nothing_is_lent(&self) {
        let mut count = self.lent.count.lock();
        while *count > 0 {
            self.lent.changed.wait(&mut count);
        }
    }

    fn answer<T: Send + 'static>(
        &self,
        done: Done<T>,
        work: impl FnOnce(&File) -> Result<T> + Send + 'static,
    ) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let file = self.file.clone();
        let job = Box::new(Job { done, work: move || work(&file) });
        match self.answers {
            Answers::AtOnce => job.answer(),
            Answers::Elsewhere => drop(thread::spawn(move || job.answer())),
            Answers::WhenReleased => {
                self.held.lock().push(job);
                self.came.notify_all();
            }
        }
    }

    fn synced(file: &File, fua: bool) -> Result<()> {
        if fua { Ok(file.sync_data()?) } else { Ok(()) }
    }
}

/// What a filled disk has at `offset`.
pub(crate) fn content(offset: u64, bytes: usize) -> Vec<u8> {
    (offset..offset + bytes as u64).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn read(file: &File, offset: u64, bytes: u32) -> Result<Vec<u8>> {
    let mut buffer = vec![0; bytes as usize];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

impl Export for Disk {
    fn info(&self) -> ExportInfo {
        let waits_for = self.info_waits_for.lock().take();
        if let Some((came, waits_for)) = waits_for {
            came.send(()).unwrap();
            waits_for.recv().unwrap();
        }
        self.info.lock().clone()
    }

    fn try_read(&self, offset: u64, bytes: u32) -> Option<Result<Data>> {
        if self.answers != Answers::AtOnce {
            return None;
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(failure) = self.fails_with.lock().clone() {
            return Some(Err(failure));
        }
        let lend = |bytes| Data::Lent(Box::new(TwoParts::new(bytes, &self.lent)));
        Some(read(&self.file, offset, bytes).map(lend))
    }

    fn read(&self, offset: u64, bytes: u32, done: Done<Data>) {
        self.answer(done, move |file| read(file, offset, bytes).map(Data::from));
    }

    fn read_alone(&self, offset: u64, bytes: u32, done: Done<Data>) {
        self.alone.fetch_add(1, Ordering::SeqCst);
        let waits_for = self.alone_waits_for.lock().take();
        if let Some(waits_for) = waits_for {
            waits_for.recv().unwrap();
        }
        self.read(offset, bytes, done);
    }

    fn write(&self, offset: u64, data: Payload, fua: bool, done: Done<()>) {
        self.answer(done, move |file| {
            file.write_all_at(&data, offset)?;
            Self::synced(file, fua)
        });
    }

    fn flush(&self, done: Done<()>) {
        self.answer(done, |file| Self::synced(file, true));
    }

    fn trim(&self, offset: u64, bytes: u64, fua: bool, done: Done<()>) {
        self.write_zeroes(offset, bytes, Zeroing { fua, ..Zeroing::default() }, done);
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, how: Zeroing, done: Done<()>) {
        self.answer(done, move |file| {
            if !how.no_hole {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, hole, offset, bytes).map_err(std::io::Error::from)?;
            } else if how.fast {
                return Err(Failure::new(ErrorCode::NotSupported, "zeros are written here"));
            } else {
                file.write_all_at(&vec![0; bytes as usize], offset)?;
            }
            Self::synced(file, how.fua)
        });
    }

    fn cache(&self, _offset: u64, _bytes: u64, done: Done<()>) {
        self.answer(done, |_| Ok(()));
    }

    /// `base:allocation` as the file has it; of the other context the whole disk is alike.
    fn block_status(&self, query: &StatusQuery<'_>, done: Done<Vec<Vec<Extent>>>) {
        let (contexts, offset) = (query.contexts.to_vec(), query.offset);
        let (end, extents_max) = (query.offset + query.bytes, query.extents_max);
        let size_bytes = self.info.lock().size_bytes;
        self.answer(done, move |file| {
            let status = |&context: &usize| match context {
                0 => allocation(file, offset, end, extents_max),
                _ => vec![Extent { bytes: size_bytes - offset, flags: 5 }],
            };
            Ok(contexts.iter().map(status).collect())
        });
    }
}

fn allocation(file: &File, start: u64, end: u64, extents_max: usize) -> Vec<Extent> {
    let (mut extents, mut at) = (Vec::new(), start);
    while at < end && extents.len() < extents_max {
        // No data behind it is an error.
        let data = seek(file, SeekFrom::Data(at)).unwrap_or(end);
        let (to, flags) = if data > at {
            (data, Extent::HOLE | Extent::ZERO)
        } else {
            (seek(file, SeekFrom::Hole(at)).unwrap(), 0)
        };
        extents.push(Extent { bytes: to.min(end) - at, flags });
        at = to;
    }
    extents
}
