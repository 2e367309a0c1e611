//! What the tests of the whole cache share.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::PathBuf;

use terrace::tiers::backing::file::FileBacking;

/// A folder for one test: a backing file and a cache file, gone when it ends.
pub(crate) struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub(crate) fn ssd(&self) -> PathBuf {
        self.folder.path().join("ssd")
    }

    /// The backing file, made with `bytes` zeros when it is not there.
    pub(crate) fn backing(&self, bytes: u64) -> FileBacking {
        if !self.disk().exists() {
            return FileBacking::create(self.disk(), bytes).expect("the backing file can be made");
        }
        FileBacking::open(self.disk()).expect("the backing file can be opened")
    }
}

/// A seed that varies from run to run, or the one in `TERRACE_SEED`; printed, and so shown when the test fails.
#[expect(clippy::print_stdout, reason = "a failing test names its seed")]
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("TERRACE_SEED") {
        Ok(seed) => seed.parse().expect("TERRACE_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("seed {seed}");
    seed
}
