//! Where a trace's bytes come from: a file or standard input, plain or zstd.
//!
//! Standard input is copied to a temporary file first, because a replay reads its trace at least twice: once to see
//! how large the volumes are and that every line can be read, before anything is made on disk, and then for each pass.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::detect::{self, PREFIX_BYTES};
use super::{Format, TraceReader};
use crate::failure::{Failure, Result};

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A trace that can be opened again and again.
pub(crate) struct Source {
    name: String,
    path: PathBuf,
    /// Holds what came in on standard input, until the source goes.
    spooled: Option<tempfile::NamedTempFile>,
    format: Format,
    file_bytes: u64,
}

impl Source {
    /// The trace at `path` (`-`: standard input), in `format` or in the one its content shows.
    pub(crate) fn open(path: &Path, format: Option<Format>) -> Result<Self> {
        let mut source = if path == Path::new("-") {
            let file = spool_stdin().map_err(|error| {
                Failure::caused("cannot copy standard input to a temporary file", error)
                    .remedy("name a trace file, or set TMPDIR to a directory with room")
            })?;
            Self {
                name: "standard input".into(),
                path: file.path().to_owned(),
                spooled: Some(file),
                format: Format::Ids,
                file_bytes: 0,
            }
        } else {
            Self {
                name: path.display().to_string(),
                path: path.to_owned(),
                spooled: None,
                format: Format::Ids,
                file_bytes: 0,
            }
        };
        source.file_bytes = source.check_is_file()?;
        source.format = match format {
            Some(format) => format,
            None => detect::detect(&source.prefix()?, &source.name)?,
        };
        Ok(source)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The file a replay must not write to; none for standard input.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.spooled.is_none().then_some(&self.path)
    }

    /// The size of the trace as it is stored, compressed or not.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// A reader from the trace's beginning, and how many of [`Self::file_bytes`] it has taken so far.
    pub(crate) fn reader(&self) -> Result<(Box<dyn TraceReader>, Arc<AtomicU64>)> {
        let input = Input::open(&self.path, &self.name)?;
        let position = input.position.clone();
        Ok((self.format.reader(input), position))
    }

    fn check_is_file(&self) -> Result<u64> {
        let metadata = std::fs::metadata(&self.path).map_err(|error| cannot_open(&self.name, error))?;
        if metadata.is_dir() {
            return Err(
                Failure::input(format!("{} is a directory", self.name)).remedy("name a trace file in it")
            );
        }
        Ok(metadata.len())
    }

    fn prefix(&self) -> Result<Vec<u8>> {
        let mut input = Input::open(&self.path, &self.name)?;
        let mut prefix = vec![0; PREFIX_BYTES];
        let mut filled = 0;
        while filled < prefix.len() {
            match input.read(&mut prefix[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        prefix.truncate(filled);
        Ok(prefix)
    }
}

fn cannot_open(name: &str, error: io::Error) -> Failure {
    let failure = |error| Failure::caused(format!("cannot read the trace {name}"), error);
    match error.kind() {
        io::ErrorKind::NotFound => failure(error).remedy("check the path, or try `terrace replay --demo`"),
        _ => failure(error).remedy("name a file that you may read"),
    }
}

fn spool_stdin() -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::with_prefix("terrace-trace-")?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    Ok(file)
}

/// The decompressed bytes of a trace.
pub(super) struct Input {
    name: String,
    reader: Box<dyn Read + Send>,
    is_compressed: bool,
    /// Bytes taken from the file so far.
    position: Arc<AtomicU64>,
    bytes_out: u64,
}

impl Input {
    fn open(path: &Path, name: &str) -> Result<Self> {
        Self::try_open(path, name).map_err(|error| cannot_open(name, error))
    }

    fn try_open(path: &Path, name: &str) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic)?;
        file.rewind()?;
        Self::new(Box::new(file), magic == ZSTD_MAGIC, name)
    }

    fn new(reader: Box<dyn Read + Send>, is_compressed: bool, name: &str) -> io::Result<Self> {
        let position = Arc::new(AtomicU64::new(0));
        let counted = Counted { reader, position: position.clone() };
        let reader: Box<dyn Read + Send> =
            if is_compressed { Box::new(zstd::Decoder::new(counted)?) } else { Box::new(counted) };
        Ok(Self { name: name.into(), reader, is_compressed, position, bytes_out: 0 })
    }

    #[cfg(test)]
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let is_compressed = bytes.starts_with(&ZSTD_MAGIC);
        Self::new(Box::new(io::Cursor::new(bytes.to_vec())), is_compressed, "test").expect("no I/O can fail")
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Some bytes, or none at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(count) => {
                    self.bytes_out += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    fn explain(&self, error: io::Error) -> Failure {
        let (name, at, out) = (&self.name, self.position.load(Ordering::Relaxed), self.bytes_out);
        if !self.is_compressed {
            return Failure::caused(format!("cannot read {name} after byte {at}"), error);
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Failure::input(format!(
                "{name} is truncated: the zstd data end at byte {at} in the middle of a frame, {out} bytes into the \
                 trace"
            ))
            .remedy("fetch or copy the file again");
        }
        Failure::caused(format!("{name} cannot be decompressed near byte {at}"), error)
            .remedy("check it with `zstd -t` and fetch it again")
    }
}

/// Counts what is read through it.
struct Counted {
    reader: Box<dyn Read + Send>,
    position: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_all;
    use super::*;

    fn compressed(lines: u64) -> Vec<u8> {
        let text: String =
            (0..lines).map(|line| format!("{}\n", line.wrapping_mul(0x9e37_79b9) % 99_991)).collect();
        zstd::encode_all(text.as_bytes(), 1).expect("in memory")
    }

    #[test]
    fn a_zstd_trace_gives_the_requests_of_the_plain_one() {
        assert_eq!(read_all(Format::Ids, &compressed(5000)).map(|requests| requests.len()), Ok(5000));
    }

    #[test]
    fn a_zstd_trace_cut_anywhere_is_reported_as_truncated_with_the_byte() {
        let whole = compressed(5000);
        for kept in [5, 6, 20, whole.len() / 2, whole.len() - 1] {
            let error = read_all(Format::Ids, &whole[..kept]).expect_err("cut");
            assert!(
                error.contains("truncated") && error.contains(&format!("byte {kept} ")),
                "{kept}: {error}"
            );
        }
    }

    #[test]
    fn damaged_zstd_is_told_apart_from_a_truncated_one() {
        let mut damaged = compressed(5000);
        let middle = damaged.len() / 2;
        damaged[middle..middle + 8].fill(0xff);
        let error = read_all(Format::Ids, &damaged).expect_err("damaged");
        assert!(!error.contains("truncated"), "{error}");
    }
}
