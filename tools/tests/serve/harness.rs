//! A server that runs, and clients of it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Playground, Run};

pub(crate) const MIB: usize = 1 << 20;

/// A server in a playground; killed when it goes.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// The line in which it said that it is ready.
    pub(crate) ready: String,
}

impl Server {
    /// Serves the file `disk`, with `more` arguments, at the socket `nbd`.
    pub(crate) fn of_disk(ground: &Playground, more: &[&str]) -> Self {
        let arguments = ["serve", "--backing", "disk", "--listen", "unix:nbd", "--ram-size", "32MiB"];
        Self::start(ground, &[&arguments, more].concat())
    }

    /// The same with the arguments that size its tiers.
    pub(crate) fn of_disk_on(ground: &Playground, tiers: &[&str]) -> Self {
        Self::start(ground, &[&["serve", "--backing", "disk", "--listen", "unix:nbd"], tiers].concat())
    }

    pub(crate) fn start(ground: &Playground, arguments: &[&str]) -> Self {
        Self::spawn(&mut ground.command(arguments))
    }

    /// Waits until it is ready.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary was built for this test");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).expect("it is text");
        if !ready.starts_with("ready at ") {
            let output = child.wait_with_output().expect("it ends");
            panic!("it is not ready: {ready}{}", String::from_utf8_lossy(&output.stderr));
        }
        Self { child, stdout, ready }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it still runs");
    }

    /// Ends it in order, and gives what it said.
    pub(crate) fn stop(self) -> Run {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// As it is when the machine's power is cut, but for what the system's page cache has.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    pub(crate) fn ended(mut self) -> Run {
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).expect("text");
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut stderr).expect("text");
        }
        let status = self.child.wait().expect("it ends");
        Run { code: status.code(), stdout, stderr }
    }

    /// The next line of its standard error.
    pub(crate) fn next_line(&mut self) -> String {
        let mut line = Vec::new();
        let stderr = self.child.stderr.as_mut().expect("it is a pipe");
        // A byte at a time: what comes behind the line stays for others to read.
        let mut byte = [0];
        while stderr.read(&mut byte).expect("it can be read") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended when the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of the socket `nbd`, of one export or of the only one.
pub(crate) fn uri(ground: &Playground, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", ground.path().join("nbd").display())
}

/// Whether all of `programs` are there, with a word about it where they are not.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
pub(crate) fn have(programs: &[&str]) -> bool {
    let found = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let Some(missing) = programs.iter().find(|program| !found(program)) else { return true };
    assert!(std::env::var_os("CI").is_none(), "{missing} is not installed");
    println!("skipped: {missing} is not installed");
    false
}

/// Runs a client in the playground; it must succeed, and what it printed comes back.
pub(crate) fn run(ground: &Playground, program: &str, arguments: &[&str]) -> String {
    let output = try_run(ground, program, arguments);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {stdout}{stderr}");
    stdout.into_owned()
}

pub(crate) fn try_run(ground: &Playground, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    // nbdsh is a module of the Python that it was packaged with, not of any that comes first.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    command.args(arguments).current_dir(ground.path()).stdin(Stdio::null()).env("PATH", path);
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What `terrace ctl stats` says.
pub(crate) fn stats(ground: &Playground) -> Value {
    let control = ["ctl", "--socket", "nbd.control", "--json", "stats"];
    let stats = run(ground, env!("CARGO_BIN_EXE_terrace"), &control);
    serde_json::from_str(&stats).expect("JSON")
}

/// The same once all copies on the SSD that the service found at its start are known.
pub(crate) fn stats_when_read(ground: &Playground) -> Value {
    loop {
        let stats = stats(ground);
        if number(&stats["now"]["ssd_segments_unread"]) == 0 {
            return stats;
        }
        std::thread::yield_now();
    }
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Runs a script of Python in nbdsh, whose handle `h` is connected to the socket `nbd`.
pub(crate) fn nbdsh(ground: &Playground, script: &str) -> String {
    run(ground, "nbdsh", &["-u", &uri(ground, ""), "-c", script])
}

/// A disk of so many zeros, sparse.
pub(crate) fn make_disk(ground: &Playground, name: &str, bytes: usize) -> PathBuf {
    let path = ground.path().join(name);
    let file = std::fs::File::create(&path).expect("a file in our directory");
    file.set_len(bytes as u64).expect("a sparse file");
    path
}

/// Bytes that no part of is like another.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut noise = vec![0; bytes];
    random.fill(&mut noise);
    noise
}

pub(crate) fn contents(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a file that is there")
}

/// A seed that varies, or the one in `TERRACE_SEED`; printed, and so shown when the test fails.
#[expect(clippy::print_stdout, reason = "a failing test names its seed")]
pub(crate) fn seed() -> u64 {
    let chosen = std::env::var("TERRACE_SEED").map(|seed| seed.parse().expect("TERRACE_SEED is a number"));
    let seed = chosen.unwrap_or_else(|_| fastrand::u64(..));
    println!("seed {seed}");
    seed
}
