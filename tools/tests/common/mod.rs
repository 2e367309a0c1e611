//! A directory to run the real binary in.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Playground(tempfile::TempDir);

pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Playground {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).expect("a file in our directory");
    }

    /// Runs the command in this directory, which is also its place for temporary files.
    pub(crate) fn terrace(&self, arguments: &[&str]) -> Run {
        self.terrace_reading(arguments, b"")
    }

    /// The same with something on standard input.
    pub(crate) fn terrace_reading(&self, arguments: &[&str], stdin: &[u8]) -> Run {
        let mut command = self.command(arguments);
        let mut child = command.spawn().expect("the binary was built for this test");
        // A command that fails early does not read it all.
        let _ = child.stdin.take().expect("it is a pipe").write_all(stdin);
        let output = child.wait_with_output().expect("it ends");
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
        command.args(arguments).current_dir(self.path()).env("TMPDIR", self.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Everything in the directory: paths, and of files a hash of their content.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.path().to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    found.insert(path.clone(), 0);
                    waiting.push(path);
                } else {
                    let mut hash = DefaultHasher::new();
                    hash.write(&fs::read(&path).expect("readable"));
                    found.insert(path, hash.finish());
                }
            }
        }
        found
    }
}

/// The JSON object a run printed.
pub(crate) fn json(run: &Run) -> serde_json::Value {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).expect("one JSON object")
}

/// A recorded trace; none, and a word about it, where there are none. Where `CI` is set there must be.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
pub(crate) fn recorded(file: &str) -> Option<String> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let path = std::env::var_os("TERRACE_TRACES").map_or(beside, PathBuf::from).join(file);
    if path.is_file() {
        return Some(path.to_str().expect("a path of text").to_string());
    }
    assert!(std::env::var_os("CI").is_none(), "no recorded trace {}", path.display());
    println!("skipped: no recorded trace {}", path.display());
    None
}

/// Whether checks that take minutes are asked for, with a word about it where they are not.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
pub(crate) fn is_slow_run() -> bool {
    let is_slow = std::env::var_os("TERRACE_SLOW").is_some();
    if !is_slow {
        println!("skipped: takes minutes; set TERRACE_SLOW=1");
    }
    is_slow
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

/// A text of ids, one a line, with some reuse.
pub(crate) fn many_ids(lines: u64) -> Vec<u8> {
    let id = |line: u64| line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    (0..lines).flat_map(|line| format!("{}\n", id(line)).into_bytes()).collect()
}
