//! A volume of the cache as an export of the server.
//!
//! | request        | becomes                                             | answered on                                    |
//! |----------------|-----------------------------------------------------|------------------------------------------------|
//! | read, in RAM   | `Volume::try_read`: the frames go to the socket     | the connection's thread                        |
//! | read, not there| `Volume::read_with`                                 | the thread that brings the last block          |
//! | the only one   | `Volume::read_near_with`                            | the connection's thread, if the SSD has it     |
//! | read, long     | `Volume::read_with`, piece by piece                 | the thread that brings the last block          |
//! | write          | `Volume::write_with`, with FUA a flush behind it    | at once, or a thread of the cache              |
//! | flush          | `Volume::flush_with`                                | a thread of the cache                          |
//! | trim, zeroes   | `Volume::discard_with`                              | as a write                                     |
//! | zeroes, NO_HOLE| zeros written piece by piece                        | a helper, a piece at a time                    |
//! | cache          | `Volume::prefetch_with`, piece by piece             | the thread that brings the last                |
//! | block status   | `Volume::extents` and `Volume::places`              | a helper of its own                            |
//!
//! What holds:
//! 1. Several connections see one volume, and a flush of it covers what was acknowledged on any of them: that is what the
//!    volume promises whoever calls, so the export may offer multi-conn. A write with FUA is a write, then such a flush.
//! 2. No error says that the cache had no room at that moment: the callbacks of the cache never wait for a frame, so what
//!    they refuse is done once more on a helper, which does.
//! 3. A fast request for zeros is never a slow one: a discard costs what the blocks in RAM cost, however large its range,
//!    and zeros that must take space are refused as fast ones.
//! 4. What is done piece by piece ends when its client is gone.
//! 5. A read-only export never calls what changes a volume.
//! 6. Who has a disk written full of zeros holds up no question for its status, and no request to another disk: each export
//!    has its [`Workers`]. Test: zeros_that_wait_for_a_disk_hold_up_nobody_elses_questions.
//! 7. Who reads in long pieces holds up nobody who waits for a frame: such a read takes no helper while it waits for a disk.
//!    Test: a_long_read_needs_no_helper_wherever_its_blocks_are.

use std::sync::Arc;
use std::time::Instant;

use terrace::{Answer, Blocks, Volume};
use terrace_nbd::{
    BlockSizes, Data, Done, ErrorCode, Export, ExportInfo, Extent, Failure, Features, Parts, Payload, Result,
    StatusQuery, Zeroing,
};

use super::errors::failure_of;
use super::helpers::Helpers;
use super::meter::{Meter, Operation};
use super::status;

/// A read up to this size is answered from the cache's own frames. One of more is copied in pieces of this size: it would
/// keep as many frames from others until the client has taken them.
const LENT_BYTES_MAX: u32 = 4 << 20;

/// Zeros are written and blocks prefetched in pieces of so many bytes, between which others have their turn.
const PIECE_BYTES: u64 = 1 << 20;

/// Threads for calls that wait for a frame of the cache: few do, and not for long.
const PATIENT_THREADS: usize = 4;
/// Threads of each kind for calls that only take their time.
const SLOW_THREADS: usize = 2;

/// How often a call is made again that found no frame; each waits for `frame_wait_ms`, a second.
const TRIES: u32 = 60;

/// Blocks of the cache that go to a socket as they are.
struct Lent(Blocks);

impl Parts for Lent {
    fn count(&self) -> usize {
        self.0.parts().len()
    }

    fn part(&self, index: usize) -> &[u8] {
        &self.0.parts()[index]
    }
}

fn lent(blocks: Blocks) -> Data {
    Data::Lent(Box::new(Lent(blocks)))
}

/// What clients are told of an export, beside its size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct About {
    pub(super) description: String,
    pub(super) read_only: bool,
}

/// The threads of an export, for what its connections' do not wait for. They end with it.
pub(super) struct Workers {
    /// For calls that wait for a frame.
    patient: Helpers,
    /// For zeros that are written and blocks that are prefetched.
    slow: Helpers,
    /// For questions.
    status: Helpers,
}

impl Workers {
    /// # Errors
    /// When the system has no threads for them.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            patient: Helpers::new("terrace-patient", PATIENT_THREADS)?,
            slow: Helpers::new("terrace-slow", SLOW_THREADS)?,
            status: Helpers::new("terrace-status", SLOW_THREADS)?,
        })
    }
}

/// One volume, served.
pub(super) struct VolumeExport {
    volume: Volume,
    about: About,
    meter: Arc<Meter>,
    workers: Workers,
}

impl VolumeExport {
    pub(super) fn new(volume: Volume, about: About, workers: Workers) -> Self {
        Self { volume, about, meter: Arc::default(), workers }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    fn begin<T>(&self, operation: Operation, bytes: u64, done: Done<T>) -> Request<T> {
        Request { meter: self.meter.clone(), operation, bytes, since: Instant::now(), done }
    }

    /// Ends a request that changed something; with `fua`, once that is durable.
    fn finish(&self, request: Request<()>, fua: bool) -> impl FnOnce(terrace::Result<()>) + Send + 'static {
        let volume = self.volume.clone();
        move |result| request.end_change(&volume, fua, result)
    }
}

/// A request under way.
struct Request<T> {
    meter: Arc<Meter>,
    operation: Operation,
    bytes: u64,
    since: Instant,
    done: Done<T>,
}

impl Request<()> {
    fn end_change(self, volume: &Volume, fua: bool, result: terrace::Result<()>) {
        match result {
            Ok(()) if fua => volume.flush_with(|flushed| self.end(flushed)),
            result => self.end(result),
        }
    }

    /// Ends a request of many parts before its time, when nobody waits for it any more.
    fn while_wanted(self) -> Option<Self> {
        if self.done.is_wanted() {
            return Some(self);
        }
        self.complete(Err(Failure::new(ErrorCode::Shutdown, "the client is gone")));
        None
    }
}

impl<T> Request<T> {
    fn end(self, result: terrace::Result<T>) {
        self.complete(result.map_err(|error| failure_of(&error)));
    }

    fn complete(self, result: Result<T>) {
        self.meter.count(self.operation, self.since, self.bytes, result.is_ok());
        self.done.complete(result);
    }
}

impl Request<Data> {
    fn read(mut self, result: terrace::Result<(Answer, Data)>) {
        if let Ok((answer, _)) = &result {
            self.operation = match answer {
                Answer { disk_blocks: 1.., .. } => Operation::ReadDisk,
                Answer { ssd_blocks: 1.., .. } => Operation::ReadSsd,
                _ => Operation::ReadRam,
            };
        }
        self.end(result.map(|(_, data)| data));
    }
}

/// Calls `again` until it finds a frame.
fn patiently<T>(mut again: impl FnMut() -> terrace::Result<T>) -> terrace::Result<T> {
    for _ in 1..TRIES {
        match again() {
            Err(terrace::Error::WouldBlock) => {}
            result => return result,
        }
    }
    again()
}

/// Hands `result` to `finish`; if the cache had no room, that of `again` on a thread that may wait for it.
fn retried<T: 'static>(
    helpers: &Helpers,
    result: terrace::Result<T>,
    again: impl FnMut() -> terrace::Result<T> + Send + 'static,
    finish: impl FnOnce(terrace::Result<T>) + Send + 'static,
) {
    match result {
        Err(terrace::Error::WouldBlock) => helpers.run(move || finish(patiently(again))),
        result => finish(result),
    }
}

/// Bytes that a write and its second try share.
#[derive(Clone)]
struct Shared(Arc<Payload>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn read_copy(volume: &Volume, offset: u64, bytes: u32) -> terrace::Result<(Answer, Data)> {
    let mut buffer = vec![0; bytes as usize];
    let answer = volume.read(offset, &mut buffer)?;
    Ok((answer, buffer.into()))
}

impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        let can_write = !self.about.read_only;
        ExportInfo {
            description: self.about.description.clone(),
            block_sizes: BlockSizes::default(),
            features: Features {
                read_only: self.about.read_only,
                trim: can_write,
                write_zeroes: can_write,
                fast_zero: can_write,
                ..Features::default()
            },
            contexts: status::CONTEXTS.map(String::from).to_vec(),
            ..ExportInfo::new(self.volume.len_bytes())
        }
    }

    fn try_read(&self, offset: u64, bytes: u32) -> Option<Result<Data>> {
        if bytes > LENT_BYTES_MAX {
            return None;
        }
        let since = Instant::now();
        let blocks = self.volume.try_read(offset, bytes as usize)?;
        self.meter.count(Operation::ReadRam, since, bytes.into(), true);
        Some(Ok(lent(blocks)))
    }

    fn read(&self, offset: u64, bytes: u32, done: Done<Data>) {
        self.start_read(offset, bytes, done, |volume, end| volume.read_with(offset, bytes as usize, end));
    }

    fn read_alone(&self, offset: u64, bytes: u32, done: Done<Data>) {
        self.start_read(offset, bytes, done, |volume, end| {
            volume.read_near_with(offset, bytes as usize, end);
        });
    }

    fn write(&self, offset: u64, data: Payload, fua: bool, done: Done<()>) {
        let request = self.begin(Operation::Write, data.len() as u64, done);
        let (data, patient, volume) =
            (Shared(Arc::new(data)), self.workers.patient.clone(), self.volume.clone());
        let finish = self.finish(request, fua);
        let copy = data.clone();
        let again = move || volume.write(offset, copy.as_ref()).map(drop);
        self.volume
            .write_with(offset, data, move |result| retried(&patient, result.map(drop), again, finish));
    }

    fn flush(&self, done: Done<()>) {
        let request = self.begin(Operation::Flush, 0, done);
        if self.about.read_only {
            return request.end(Ok(()));
        }
        self.volume.flush_with(|result| request.end(result));
    }

    fn trim(&self, offset: u64, bytes: u64, fua: bool, done: Done<()>) {
        let request = self.begin(Operation::Trim, bytes, done);
        self.discard(offset, bytes, self.finish(request, fua));
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, how: Zeroing, done: Done<()>) {
        let request = self.begin(Operation::WriteZeroes, bytes, done);
        if !how.no_hole {
            return self.discard(offset, bytes, self.finish(request, how.fua));
        }
        if how.fast {
            let message = "zeros that keep their space are written like any others";
            return request.complete(Err(Failure::new(ErrorCode::NotSupported, message)));
        }
        let zeros = Zeros {
            volume: self.volume.clone(),
            helpers: self.workers.slow.clone(),
            at: offset,
            end: offset + bytes,
            fua: how.fua,
        };
        self.workers.slow.run(move || zeros.write_next(request));
    }

    fn cache(&self, offset: u64, bytes: u64, done: Done<()>) {
        let request = self.begin(Operation::Prefetch, bytes, done);
        let ahead = Prefetch {
            volume: self.volume.clone(),
            helpers: self.workers.slow.clone(),
            at: offset,
            end: offset + bytes,
        };
        self.workers.slow.run(move || ahead.bring_next(request));
    }

    fn block_status(&self, query: &StatusQuery<'_>, done: Done<Vec<Vec<Extent>>>) {
        let request = self.begin(Operation::BlockStatus, 0, done);
        let (volume, contexts) = (self.volume.clone(), query.contexts.to_vec());
        let (offset, bytes, extents_max) = (query.offset, query.bytes, query.extents_max);
        self.workers.status.run(move || {
            let contexts = contexts.into_iter();
            request.end(
                contexts.map(|context| status::of(&volume, context, offset, bytes, extents_max)).collect(),
            );
        });
    }
}

impl VolumeExport {
    /// Has `start` read what is not too long to be lent.
    fn start_read(
        &self,
        offset: u64,
        bytes: u32,
        done: Done<Data>,
        start: impl FnOnce(&Volume, Box<dyn FnOnce(terrace::Result<Blocks>) + Send>),
    ) {
        let request = self.begin(Operation::ReadDisk, bytes.into(), done);
        let (volume, patient) = (self.volume.clone(), self.workers.patient.clone());
        if bytes > LENT_BYTES_MAX {
            let buffer = vec![0; bytes as usize];
            let read =
                LongRead { volume, helpers: patient, offset, buffer, filled: 0, answer: Answer::default() };
            return read.bring_next(request);
        }
        let again = move || read_copy(&volume, offset, bytes);
        let end = move |result: terrace::Result<Blocks>| {
            let result = result.map(|blocks| (blocks.answer(), lent(blocks)));
            retried(&patient, result, again, |result| request.read(result));
        };
        start(&self.volume, Box::new(end));
    }

    fn discard(&self, offset: u64, bytes: u64, finish: impl FnOnce(terrace::Result<()>) + Send + 'static) {
        let (patient, volume) = (self.workers.patient.clone(), self.volume.clone());
        let again = move || volume.discard(offset, bytes);
        self.volume.discard_with(offset, bytes, move |result| retried(&patient, result, again, finish));
    }
}

/// A read that is too long to be lent.
struct LongRead {
    volume: Volume,
    helpers: Helpers,
    offset: u64,
    buffer: Vec<u8>,
    /// How much of it is here.
    filled: usize,
    answer: Answer,
}

impl LongRead {
    /// What is in RAM comes before this returns, with few calls one within the other: a client may ask for 32 MiB.
    fn bring_next(mut self, request: Request<Data>) {
        let (volume, at) = (self.volume.clone(), self.offset + self.filled as u64);
        let bytes = (self.buffer.len() - self.filled).min(LENT_BYTES_MAX as usize);
        volume.read_with(at, bytes, move |brought| match brought {
            Ok(blocks) => {
                blocks.copy_to(&mut self.buffer[self.filled..][..bytes]);
                self.filled += bytes;
                self.answer.add(blocks.answer());
                drop(blocks);
                if self.filled < self.buffer.len() {
                    return self.bring_next(request);
                }
                request.read(Ok((self.answer, self.buffer.into())));
            }
            Err(terrace::Error::WouldBlock) => {
                let helpers = self.helpers.clone();
                helpers.run(move || request.read(self.wait_for_rest()));
            }
            Err(error) => request.read(Err(error)),
        });
    }

    /// Needs no more frames at a time than there are.
    fn wait_for_rest(mut self) -> terrace::Result<(Answer, Data)> {
        let at = self.offset + self.filled as u64;
        let rest = patiently(|| self.volume.read(at, &mut self.buffer[self.filled..]))?;
        self.answer.add(rest);
        Ok((self.answer, self.buffer.into()))
    }
}

/// Zeros that are to be written.
struct Zeros {
    volume: Volume,
    helpers: Helpers,
    at: u64,
    end: u64,
    fua: bool,
}

impl Zeros {
    fn write_next(mut self, request: Request<()>) {
        let bytes = (self.end - self.at).min(PIECE_BYTES);
        let zeros = vec![0; bytes as usize];
        let written = patiently(|| self.volume.write(self.at, &zeros));
        self.at += bytes;
        if written.is_err() || self.at == self.end {
            return request.end_change(&self.volume, self.fua, written.map(drop));
        }
        let Some(request) = request.while_wanted() else { return };
        // Behind what others have to do.
        let helpers = self.helpers.clone();
        helpers.run(move || self.write_next(request));
    }
}

/// Blocks that are to be brought into RAM.
struct Prefetch {
    volume: Volume,
    helpers: Helpers,
    at: u64,
    end: u64,
}

impl Prefetch {
    /// It takes no helper while it waits: the next piece is planned when this one has come.
    fn bring_next(mut self, request: Request<()>) {
        let (at, bytes) = (self.at, (self.end - self.at).min(PIECE_BYTES));
        self.at += bytes;
        let (volume, helpers) = (self.volume.clone(), self.helpers.clone());
        volume.prefetch_with(at, bytes as usize, move |brought| match brought {
            Ok(()) if self.at < self.end => {
                if let Some(request) = request.while_wanted() {
                    helpers.run(move || self.bring_next(request));
                }
            }
            // It was a hint, and others need the frames more.
            Err(terrace::Error::WouldBlock) => request.end(Ok(())),
            brought => request.end(brought),
        });
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
