//! A trace that can be opened again and again: a file, the files of a blktrace recording or of one that a cache made of
//! itself, standard input or another pipe.
//!
//! A pipe is copied to a temporary file first, because a trace is read at least twice: once to see how large the volumes are
//! and that every line can be read, before anything is made, and then for each pass.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ahead::Ahead;
use super::detect::{self, PREFIX_BYTES};
use super::formats::disksim;
use super::formats::recording::{self, RecordingReader};
use super::input::{Input, cannot_open};
use super::merge::{Mapping, Merged};
use super::place::Placed;
use super::unpack::Packing;
use super::{Format, Options, TraceReader};
use crate::failure::{Failure, Result};

/// Of a recording: what is shorter holds nothing yet.
const HEADER_BYTES: u64 = 16;

pub(crate) struct Source {
    name: String,
    /// One file, or those of the processors, or those that a cache recorded.
    paths: Vec<PathBuf>,
    /// The path is that of none of them, but of all: `PATH.1`, `PATH.2` and so on.
    is_numbered: bool,
    /// Holds what came in by a pipe, until the source goes.
    spooled: Option<tempfile::NamedTempFile>,
    options: Options,
    format: Format,
    /// In what it counts, as far as its content shows it.
    units: &'static str,
    packing: Packing,
    /// Of each file when it was opened: a cache that records itself goes on, and every pass must find the same.
    lengths: Vec<u64>,
    /// Of a recording of ours, which names them at its end.
    volume_names: Vec<String>,
}

impl Source {
    /// The trace at `path` (`-`: standard input), in the format that `options` name or that its content shows.
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "standard input".into() } else { path.display().to_string() };
        let spooled = match is_stdin {
            true => Some(spool(&mut io::stdin().lock(), &name)?),
            false if is_pipe(path) => {
                let mut pipe = std::fs::File::open(path).map_err(|error| cannot_open(&name, error))?;
                Some(spool(&mut pipe, &name)?)
            }
            false => None,
        };
        let path = spooled.as_ref().map_or(path, |file| file.path()).to_owned();
        let numbered = if path.exists() { Vec::new() } else { numbered(&path) };
        let (is_numbered, path) = (!numbered.is_empty(), numbered.first().cloned().unwrap_or(path));
        check_is_file(&path, &name)?;
        let mut input = Input::open(&path, &name, &Arc::default())?;
        let packing = input.packing();
        let prefix = input.prefix(PREFIX_BYTES)?;
        let format = match options.format {
            Some(format) => format,
            None => detect::detect(&prefix, &name, options)?,
        };
        let units = match (format, options.time_unit_ns) {
            (Format::DiskSim, None) => disksim::units(&prefix),
            _ => format.units(),
        };
        let paths = match format {
            Format::Terrace if is_numbered => numbered,
            Format::Blktrace => siblings(&path),
            _ => vec![path],
        };
        let length = |path: &PathBuf| check_is_file(path, &path.display().to_string());
        let lengths = paths.iter().map(length).collect::<Result<Vec<_>>>()?;
        let options = options.clone();
        let volume_names = Vec::new();
        let mut source = Self {
            name,
            paths,
            is_numbered,
            spooled,
            options,
            format,
            units,
            packing,
            lengths,
            volume_names,
        };
        if let Some(mut reader) = source.recording()? {
            let index = reader.index().map_err(|error| recording::explain(&source.name, error))?;
            source.volume_names = index.unwrap_or_default().volumes;
        }
        Ok(source)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn packing(&self) -> Packing {
        self.packing
    }

    /// In what addresses, sizes and times are counted, and what was said of them.
    pub(crate) fn units(&self) -> String {
        let mut text = self.units.to_string();
        if let Some(unit_ns) = self.options.time_unit_ns {
            text.push_str(&format!(", the unit of time taken as {unit_ns} ns"));
        }
        if let Some(bytes) = self.options.id_bytes {
            text.push_str(&format!(", an id {bytes} bytes"));
        }
        if self.options.shift_bytes > 0 {
            text.push_str(&format!(", moved up by {} bytes", self.options.shift_bytes));
        }
        text
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// How many files the trace is.
    pub(crate) fn files(&self) -> usize {
        self.paths.len()
    }

    /// The file a replay must not write to; none for a pipe.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.spooled.is_none().then_some(&self.paths[0])
    }

    /// The size of the trace as it is stored, packed or not.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// A reader from the trace's beginning, on a thread of its own, and how many of [`Self::file_bytes`] it has taken so
    /// far.
    pub(crate) fn reader(&self) -> Result<(Box<dyn TraceReader>, Arc<AtomicU64>)> {
        let position = Arc::default();
        Ok((Ahead::of(self.reader_counting(&position)?), position))
    }

    /// The same on the thread that asks for requests, counting in `position`.
    pub(super) fn reader_counting(&self, position: &Arc<AtomicU64>) -> Result<Box<dyn TraceReader>> {
        let mut readers = Vec::new();
        for (path, &length) in self.paths.iter().zip(&self.lengths) {
            let name = if self.paths.len() > 1 { path.display().to_string() } else { self.name.clone() };
            let length = if self.is_numbered { length } else { u64::MAX };
            let input = Input::open_up_to(path, &name, position, length)?;
            readers.push(match self.format {
                Format::Terrace if self.is_numbered => {
                    Box::new(RecordingReader::one_of_many(input)) as Box<dyn TraceReader>
                }
                Format::Terrace => {
                    Box::new(RecordingReader::new(input, self.volume_names.clone())) as Box<dyn TraceReader>
                }
                format => format.reader(input, &self.options),
            });
        }
        let reader = match readers.len() {
            1 => readers.remove(0),
            _ => Box::new(Merged::new(readers, Mapping::ByName)?),
        };
        Ok(Placed::around(reader, &self.options))
    }

    /// A recording of ours that can be entered anywhere; none when it is of another format, packed once more, or many files.
    pub(super) fn recording(&self) -> Result<Option<terrace_recording::Reader<std::fs::File>>> {
        let is_plain = self.packing == Packing::Plain && !self.is_numbered;
        if self.format != Format::Terrace || !is_plain {
            return Ok(None);
        }
        let file = std::fs::File::open(&self.paths[0]).map_err(|error| cannot_open(&self.name, error))?;
        let reader = terrace_recording::Reader::new(file);
        reader.map(Some).map_err(|error| recording::explain(&self.name, error))
    }
}

/// The bytes of the file at `path`.
fn check_is_file(path: &Path, name: &str) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(|error| cannot_open(name, error))?;
    if metadata.is_dir() {
        return Err(Failure::input(format!("{name} is a directory")).remedy("name a trace file in it"));
    }
    Ok(metadata.len())
}

/// All files of the recording that the one at `path` is of: blktrace names them `NAME.blktrace.PROCESSOR`.
fn siblings(path: &Path) -> Vec<PathBuf> {
    let alone = vec![path.to_owned()];
    let Some((stem, _)) = path.file_name().and_then(|name| processor(name.to_str()?)) else { return alone };
    let Ok(entries) = std::fs::read_dir(parent(path)) else { return alone };
    let is_sibling = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name();
        let (other, number) = processor(name.to_str()?)?;
        (other == stem).then(|| (number, entry.path()))
    };
    let mut found: Vec<(u32, PathBuf)> = entries.filter_map(is_sibling).collect();
    found.sort();
    if found.is_empty() { alone } else { found.into_iter().map(|(_, path)| path).collect() }
}

/// The recordings `PATH.1`, `PATH.2` and so on, the oldest first; without one that was just made and holds nothing.
fn numbered(path: &Path) -> Vec<PathBuf> {
    let is_recording = |entry: &std::fs::DirEntry| {
        let mut magic = [0; terrace_recording::MAGIC.len()];
        let file = std::fs::File::open(entry.path());
        file.and_then(|mut file| io::Read::read_exact(&mut file, &mut magic)).is_ok()
            && magic == terrace_recording::MAGIC
            && entry.metadata().is_ok_and(|metadata| metadata.len() >= HEADER_BYTES)
    };
    let stem = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = |name: &str| name.strip_prefix(stem)?.strip_prefix('.')?.parse::<u64>().ok();
    let entries = std::fs::read_dir(parent(path)).into_iter().flatten().filter_map(io::Result::ok);
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry)))
        .filter(|(_, entry)| is_recording(entry))
        .map(|(number, entry)| (number, entry.path()))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// `sda.blktrace.3.zst`: `sda`, 3.
fn processor(name: &str) -> Option<(&str, u32)> {
    let name = [".zst", ".gz", ".xz"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let (stem, number) = name.rsplit_once(".blktrace.")?;
    Some((stem, number.parse().ok()?))
}

/// What a shell's `<(command)` names, or `mkfifo` made.
fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn spool(pipe: &mut impl io::Read, name: &str) -> Result<tempfile::NamedTempFile> {
    let mut spool = || {
        let mut file = tempfile::NamedTempFile::with_prefix("terrace-trace-")?;
        io::copy(pipe, &mut file)?;
        Ok(file)
    };
    spool().map_err(|error: io::Error| {
        Failure::caused(format!("cannot copy {name} to a temporary file"), error)
            .remedy("name a trace file, or set TMPDIR to a directory with room")
    })
}

#[cfg(test)]
mod tests {
    use super::super::formats::blktrace::tests::{QUEUED_READ, event};
    use super::*;

    #[test]
    fn the_files_of_all_processors_are_one_trace_in_the_order_of_time() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, times: &[u64]| {
            let events: Vec<u8> =
                times.iter().flat_map(|&time| event(time, QUEUED_READ, time, 512, 0)).collect();
            std::fs::write(folder.path().join(name), events).expect("a file in our directory");
        };
        write("sda.blktrace.0", &[10, 40, 50]);
        write("sda.blktrace.1", &[20]);
        write("sda.blktrace.10", &[30, 60]);
        write("sdb.blktrace.0", &[5]);
        write("sda.blktrace.x", &[1]);
        let source = Source::open(&folder.path().join("sda.blktrace.1"), &Options::default()).expect("good");
        assert_eq!((source.format(), source.files()), (Format::Blktrace, 3));
        let (mut reader, position) = source.reader().expect("good");
        let mut times = Vec::new();
        while let Some(request) = reader.next_request().expect("good") {
            assert_eq!(request.volume, 0);
            times.extend(request.time_ns);
        }
        assert_eq!(times, [10, 20, 30, 40, 50, 60]);
        assert_eq!(reader.volume_names(), ["8,16"]);
        assert_eq!(position.load(std::sync::atomic::Ordering::Relaxed), source.file_bytes());
    }

    #[test]
    fn processors_are_told_from_names_packed_or_not() {
        assert_eq!(processor("sda.blktrace.3"), Some(("sda", 3)));
        assert_eq!(processor("a.b.blktrace.12.zst"), Some(("a.b", 12)));
        assert_eq!(processor("sda.blktrace"), None);
    }
}
