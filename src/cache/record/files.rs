//! The files of a recording: a ring of recordings that are each whole, `PATH.1`, `PATH.2` and so on.
//!
//! A file ends at an eighth of the bound, and the oldest go when one ended, so that three quarters of the bound are kept.
//! Numbers only rise, also from one recording to the next under the same path: nothing that was recorded is written over,
//! and the order of the files is that of time.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use terrace_recording::{BLOCK_REQUESTS, Error as RecordingError, Lost, Request, Span, Writer};
use terrace_tiers::Error as TierError;
use terrace_tiers::block::VolumeId;

use super::slots::Taken;
use crate::cache::index::FastHash;
use crate::config::RecordConfig;

/// A smaller bound has no room for what a file may have beyond its share.
pub(super) const BYTES_MAX_LEAST: u64 = 8 * FILE_EXCESS_MAX;
/// A block of the widest numbers (2.2 MB), and an index of as many blocks and names as there may be.
const FILE_EXCESS_MAX: u64 = 4 << 20;
/// Blocks of a file, whose index is held in RAM, 40 bytes a block. With a block every five seconds two days.
const BLOCKS_MAX: usize = 1 << 15;
/// Bytes of the names of volumes in a file.
const NAMES_BYTES_MAX: usize = 512 << 10;

pub(super) struct Files {
    path: PathBuf,
    bytes_max: u64,
    /// The oldest first.
    ended: VecDeque<Ended>,
    current: Current,
    /// In the whole blocks of this recording.
    whole_requests: u64,
}

struct Ended {
    number: u64,
    bytes: u64,
}

/// The file that is being written.
struct Current {
    number: u64,
    writer: Writer<File>,
    /// Volumes as this file numbers them, by id, and by name: one that was attached again is the same.
    by_id: HashMap<VolumeId, u32, FastHash>,
    by_name: HashMap<String, u32, FastHash>,
    names_bytes: usize,
    /// The volume of the last request, and its number: most often the next one's.
    latest: Option<(VolumeId, u32)>,
}

impl Files {
    /// Begins a file behind those that are there, and removes those that are too much.
    ///
    /// # Errors
    /// [`TierError::Path`].
    pub(super) fn begin(config: &RecordConfig) -> Result<Self, TierError> {
        let path = &config.path;
        let failed = |action| move |source| TierError::Path { action, path: path.clone(), source };
        let ended = list(path).map_err(failed("look for recordings beside"))?;
        let number = ended.back().map_or(1, |last| last.number + 1);
        let current = Current::begin(path, number).map_err(failed("begin a recording at"))?;
        let mut files =
            Self { path: path.clone(), bytes_max: config.bytes_max, ended, current, whole_requests: 0 };
        files.make_room().map_err(failed("remove an old recording at"))?;
        Ok(files)
    }

    /// How many, and all their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let ended: u64 = self.ended.iter().map(|file| file.bytes).sum();
        (self.ended.len() as u64 + 1, ended + self.current.writer.bytes())
    }

    /// Requests that wait for the end of their block.
    pub(super) fn unwritten_requests(&self) -> u64 {
        self.current.writer.unwritten() as u64
    }

    /// Requests in whole blocks: those that a kill now would leave.
    pub(super) fn whole_requests(&self) -> u64 {
        self.whole_requests
    }

    /// The next request; `name` tells what a volume is called.
    pub(super) fn write(&mut self, taken: &Taken, name: impl FnOnce(VolumeId) -> String) -> io::Result<()> {
        if self.current.writer.unwritten() == BLOCK_REQUESTS {
            self.end_block()?;
        }
        self.current.write(taken, name)
    }

    pub(super) fn lose(&mut self, lost: Lost) {
        self.current.writer.lose(lost);
    }

    /// Writes the block that is being filled; begins a new file when this one has its share.
    pub(super) fn end_block(&mut self) -> io::Result<()> {
        let unwritten = self.unwritten_requests();
        self.current.writer.end_block().map_err(io_error)?;
        self.whole_requests += unwritten;
        if !self.current.has_its_share(self.bytes_max / 8) {
            return Ok(());
        }
        let next = Current::begin(&self.path, self.current.number + 1)?;
        let ended = std::mem::replace(&mut self.current, next).finish()?;
        self.ended.push_back(ended);
        self.make_room()
    }

    /// Ends the recording, whose last block was ended before: how many files, and all their bytes.
    pub(super) fn finish(self) -> io::Result<(u64, u64)> {
        let bytes: u64 = self.ended.iter().map(|file| file.bytes).sum();
        let last = self.current.finish()?;
        Ok((self.ended.len() as u64 + 1, bytes + last.bytes))
    }

    /// Removes the oldest until a whole file fits beside them.
    fn make_room(&mut self) -> io::Result<()> {
        let keep_max = self.bytes_max - self.bytes_max / 8 - FILE_EXCESS_MAX;
        let mut bytes: u64 = self.ended.iter().map(|file| file.bytes).sum();
        while bytes > keep_max
            && let Some(oldest) = self.ended.pop_front()
        {
            match fs::remove_file(file_at(&self.path, oldest.number)) {
                // Whoever removed it meant to.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => bytes -= oldest.bytes,
            }
        }
        Ok(())
    }
}

impl Current {
    fn begin(path: &Path, number: u64) -> io::Result<Self> {
        let file = File::create_new(file_at(path, number))?;
        Ok(Self {
            number,
            writer: Writer::new(file).map_err(io_error)?,
            by_id: HashMap::default(),
            by_name: HashMap::default(),
            names_bytes: 0,
            latest: None,
        })
    }

    fn has_its_share(&self, bytes: u64) -> bool {
        self.writer.bytes() >= bytes
            || self.writer.blocks() >= BLOCKS_MAX
            || self.names_bytes >= NAMES_BYTES_MAX
    }

    fn write(&mut self, taken: &Taken, name: impl FnOnce(VolumeId) -> String) -> io::Result<()> {
        let volume = match self.latest {
            Some((id, number)) if id == taken.volume => number,
            _ => self.number_of(taken.volume, name),
        };
        let span = Span::Bytes { offset: taken.offset, bytes: taken.bytes };
        let request = Request { volume, kind: taken.kind, span, time_ns: Some(taken.time_ns) };
        self.writer.write(&request).map_err(io_error)
    }

    fn number_of(&mut self, volume: VolumeId, name: impl FnOnce(VolumeId) -> String) -> u32 {
        let known = self.by_id.get(&volume).copied();
        let number = known.unwrap_or_else(|| self.new_number(volume, name(volume)));
        self.latest = Some((volume, number));
        number
    }

    fn new_number(&mut self, volume: VolumeId, name: String) -> u32 {
        let next = self.by_name.len() as u32;
        let number = *self.by_name.entry(name.clone()).or_insert(next);
        if number == next {
            self.names_bytes += name.len();
            self.writer.name_volume(name);
        }
        self.by_id.insert(volume, number);
        number
    }

    fn finish(self) -> io::Result<Ended> {
        let file = self.writer.finish(&[]).map_err(io_error)?;
        Ok(Ended { number: self.number, bytes: file.metadata()?.len() })
    }
}

fn file_at(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The files that a recording at `path` has, or had.
fn list(path: &Path) -> io::Result<VecDeque<Ended>> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let Some(stem) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path ends without a name"));
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().zip(stem.to_str()).and_then(|(name, stem)| {
            // As they are written, so that no other file is taken for one of them: digits alone, the first no zero.
            let digits = name.strip_prefix(stem)?.strip_prefix('.')?;
            digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)
        });
        if let Some(number) = number {
            found.push(Ended { number, bytes: entry.metadata()?.len() });
        }
    }
    found.sort_unstable_by_key(|file| file.number);
    Ok(found.into())
}

fn io_error(error: RecordingError) -> io::Error {
    match error {
        RecordingError::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use terrace_recording::{Kind, Reader};

    use super::*;

    fn taken(random: &mut fastrand::Rng, time_ns: u64) -> Taken {
        // As wide as numbers get, and nothing that packs.
        let volume = VolumeId::new(random.u32(..3));
        let offset = random.u64(..1 << 56);
        Taken { time_ns, offset, bytes: random.u64(..1 << 40), volume, kind: Kind::Read }
    }

    fn config(folder: &tempfile::TempDir) -> RecordConfig {
        RecordConfig { bytes_max: BYTES_MAX_LEAST, ..RecordConfig::new(folder.path().join("record")) }
    }

    fn bytes_in(folder: &tempfile::TempDir) -> u64 {
        let entries = fs::read_dir(folder.path()).expect("our folder");
        entries.map(|entry| entry.expect("ours").metadata().expect("ours").len()).sum()
    }

    /// The times in all files, in the order of the files.
    fn times_in(folder: &tempfile::TempDir) -> Vec<u64> {
        let path = folder.path().join("record");
        let mut times = Vec::new();
        for ended in list(&path).expect("our folder") {
            let file = File::open(file_at(&path, ended.number)).expect("it is listed");
            let mut reader = Reader::new(io::BufReader::new(file)).expect("a recording");
            while let Some(request) = reader.next_request().expect("it is whole") {
                times.extend(request.time_ns);
                assert!(reader.volumes()[request.volume as usize].starts_with("volume "));
            }
        }
        times
    }

    #[test]
    fn the_oldest_files_go_and_the_bound_holds() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // What others have there stays.
        fs::write(folder.path().join("record.07"), [0; 100]).expect("our folder");
        let mut random = fastrand::Rng::with_seed(3);
        let mut files = Files::begin(&config(&folder)).expect("a folder with room");
        let mut time_ns = 0;
        for block in 0..40 {
            for _ in 0..BLOCK_REQUESTS {
                time_ns += 1;
                let taken = taken(&mut random, time_ns);
                files.write(&taken, |id| format!("volume {}", id.number())).expect("room");
            }
            files.end_block().expect("room");
            let bytes = bytes_in(&folder) - 100;
            assert!(bytes <= BYTES_MAX_LEAST, "block {block}: {bytes} bytes");
            assert_eq!(files.size().1, bytes);
        }
        assert_eq!(files.whole_requests(), time_ns);
        let (count, bytes) = files.finish().expect("room");
        assert_eq!(bytes + 100, bytes_in(&folder));
        assert!(bytes > BYTES_MAX_LEAST / 2, "{bytes} bytes are kept");
        fs::remove_file(folder.path().join("record.07")).expect("it stayed");
        assert_eq!(count, fs::read_dir(folder.path()).expect("our folder").count() as u64);
        let times = times_in(&folder);
        let first = time_ns + 1 - times.len() as u64;
        assert!(first > 1 && times.into_iter().eq(first..=time_ns), "the newest are kept, without a gap");
    }

    #[test]
    fn a_recording_goes_on_behind_an_earlier_one_and_volumes_that_return_are_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for life in 0..3 {
            let mut files = Files::begin(&config(&folder)).expect("a folder with room");
            for id in [5, 9] {
                let taken = Taken {
                    time_ns: life * 10 + id,
                    offset: 0,
                    bytes: 1,
                    volume: VolumeId::new(id as u32),
                    kind: Kind::Read,
                };
                files.write(&taken, |_| "volume of one name".into()).expect("room");
            }
            assert_eq!(files.current.by_name.len(), 1);
            files.finish().expect("room");
        }
        assert_eq!(times_in(&folder), [5, 9, 15, 19, 25, 29]);
    }
}
