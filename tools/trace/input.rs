//! The bytes of one file of a trace, unpacked.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::unpack::{Counted, MAGIC_BYTES, Packing};
use crate::failure::{Failure, Result};

/// The unpacked bytes of a trace.
pub(super) struct Input {
    name: String,
    reader: Box<dyn Read + Send>,
    packing: Packing,
    /// Bytes taken from this file so far.
    taken: Arc<AtomicU64>,
    bytes_out: u64,
}

impl Input {
    /// The file at `path`; what is taken from it is counted in `position` too.
    pub(super) fn open(path: &Path, name: &str, position: &Arc<AtomicU64>) -> Result<Self> {
        Self::open_up_to(path, name, position, u64::MAX)
    }

    /// The same of a file that may grow: its first `bytes` bytes.
    pub(super) fn open_up_to(path: &Path, name: &str, position: &Arc<AtomicU64>, bytes: u64) -> Result<Self> {
        Self::try_open(path, name, position, bytes).map_err(|error| cannot_open(name, error))
    }

    fn try_open(path: &Path, name: &str, position: &Arc<AtomicU64>, bytes: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = Vec::new();
        file.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
        file.rewind()?;
        Self::new(Box::new(file.take(bytes)), Packing::of(&magic), name, position)
    }

    fn new(
        reader: Box<dyn Read + Send>,
        packing: Packing,
        name: &str,
        position: &Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let taken = Arc::new(AtomicU64::new(0));
        let reader = packing.reader(Counted { reader, position: position.clone(), own: taken.clone() })?;
        Ok(Self { name: name.into(), reader, packing, taken, bytes_out: 0 })
    }

    #[cfg(feature = "fuzz")]
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let reader = Box::new(io::Cursor::new(bytes.to_vec()));
        Self::new(reader, Packing::of(bytes), "test", &Arc::default()).expect("no I/O can fail")
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn packing(&self) -> Packing {
        self.packing
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
                Err(error) => {
                    let taken = self.taken.load(Ordering::Relaxed);
                    return Err(self.packing.explain(&self.name, taken, self.bytes_out, error));
                }
            }
        }
    }

    /// The first bytes, as many as there are and at most `bytes`.
    pub(super) fn prefix(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut prefix = vec![0; bytes];
        let mut filled = 0;
        while filled < prefix.len() {
            match self.read(&mut prefix[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        prefix.truncate(filled);
        Ok(prefix)
    }
}

pub(super) fn cannot_open(name: &str, error: io::Error) -> Failure {
    let failure = |error| Failure::caused(format!("cannot read the trace {name}"), error);
    match error.kind() {
        io::ErrorKind::NotFound => failure(error).remedy("check the path, or try `terrace replay --demo`"),
        _ => failure(error).remedy("name a file that you may read"),
    }
}
