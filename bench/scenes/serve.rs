//! The service and servers of others, each in a process of its own, and fio as their client.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// What must be installed, by the names of the programs.
pub const PROGRAMS: [&str; 4] = ["fio", "nbdkit", "qemu-nbd", "qemu-storage-daemon"];

const COMMAND_MARK: &str = "TERRACE_BENCH_IS_THE_COMMAND";

/// A hard disk: requests and bytes a second.
const SLOW_IOPS: u32 = 150;
const SLOW_BYTES: u32 = 150_000_000;

/// Those of [`PROGRAMS`] that are not there.
pub fn missing() -> Vec<&'static str> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    PROGRAMS.into_iter().filter(|program| !is_there(program)).collect()
}

/// A server of one disk on a Unix socket; killed when it goes.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// The service. It is this very program, started once more: see [`is_the_command`].
    pub fn ours(folder: &Path, arguments: &[&str]) -> Self {
        let socket = folder.join("terrace");
        let mut command = ourselves();
        command.arg("serve").arg("--listen").arg(format!("unix:{}", socket.display()));
        Self::start(command.args(arguments).current_dir(folder), socket)
    }

    pub fn nbdkit(folder: &Path, arguments: &[&str]) -> Self {
        let socket = folder.join("nbdkit");
        let mut command = Command::new("nbdkit");
        // It would tell of the clients that only look whether it is there.
        command.args(["--foreground", "--log=null", "--unix"]).arg(&socket).args(arguments);
        // Where its filters have their files.
        Self::start(command.env("TMPDIR", folder), socket)
    }

    /// The file `name` of `folder`, read past the page cache.
    pub fn qemu_nbd(folder: &Path, name: &str) -> Self {
        let socket = folder.join("qemu-nbd");
        let mut command = Command::new("qemu-nbd");
        command.args(["--format=raw", "--persistent", "--shared=8", "--read-only"]);
        command.args(["--cache=none", "--aio=native", "--socket"]).arg(&socket).arg(folder.join(name));
        Self::start(&mut command, socket)
    }

    /// Waits until clients can come.
    fn start(command: &mut Command, socket: PathBuf) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it is installed");
        let mut server = Self { child, socket };
        while UnixStream::connect(&server.socket).is_err() {
            let ended = server.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Has fio put `load` on it.
    pub fn run(&self, load: &Load) -> Measured {
        let uri = format!("--uri=nbd+unix:///?socket={}", self.socket.display());
        let mut command = Command::new("fio");
        command.args(["--name=load", "--ioengine=nbd", "--output-format=json", &uri]);
        // Other places in each round: those of the last one are in somebody's RAM.
        command.args(["--norandommap", "--randrepeat=0"]);
        command.arg(format!("--rw={}", load.pattern)).arg(format!("--bs={}", load.request_bytes));
        command.arg(format!("--iodepth={}", load.depth));
        command.arg(format!("--offset={}", load.offset)).arg(format!("--size={}", load.bytes));
        match load.time {
            Some(time) => command.arg("--time_based").arg(format!("--runtime={}ms", time.as_millis())),
            None => command.arg("--end_fsync=1"),
        };
        // It may leave files where it runs.
        let folder = self.socket.parent().expect("a socket is in a folder");
        let output = command.current_dir(folder).output().expect("it is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        // A word about each connection comes first.
        let told: Value = serde_json::from_str(text.find('{').map_or("", |at| &text[at..])).expect("JSON");
        let side = if load.pattern.contains("write") { "write" } else { "read" };
        let job = &told["jobs"][0][side];
        Measured {
            iops: job["iops"].as_f64().unwrap_or(0.0),
            p99_us: job["clat_ns"]["percentile"]["99.000000"].as_f64().unwrap_or(0.0) / 1e3,
        }
    }

    /// What the service's control socket answers to `command`.
    fn control(&self, command: &str) -> Value {
        let mut ctl = ourselves();
        ctl.arg("ctl").arg("--socket").arg(self.socket.with_extension("control")).args(["--json", command]);
        let output = ctl.output().expect("we run");
        let (text, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {error}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Bytes of blocks that only the SSD has.
    pub fn dirty_bytes(&self, block_bytes: u64) -> u64 {
        self.control("stats")["now"]["ssd_dirty_blocks"].as_u64().unwrap_or(0) * block_bytes
    }

    /// Has everything go below, and comes back when it is there.
    pub fn drain(&self) {
        self.control("drain");
    }

    /// How many requests of each kind the service has answered, by the names in its stats.
    pub fn operations(&self) -> BTreeMap<String, u64> {
        let stats = self.control("stats");
        let operations = stats["exports"][0]["operations"].as_array().cloned().unwrap_or_default();
        let of = |operation: &Value| {
            Some((operation["operation"].as_str()?.to_owned(), operation["count"].as_u64()?))
        };
        operations.iter().filter_map(of).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it has is of no use to anybody.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this process was started to be the command `terrace`.
pub fn is_the_command() -> bool {
    env::var_os(COMMAND_MARK).is_some()
}

fn ourselves() -> Command {
    let mut command = Command::new(env::current_exe().expect("a program has a path"));
    command.env(COMMAND_MARK, "1");
    command
}

/// What fio does on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// As fio calls it: `randread`, `write`.
    pub pattern: &'static str,
    pub request_bytes: u64,
    pub depth: u32,
    /// The range of the disk that it goes over.
    pub offset: u64,
    pub bytes: u64,
    /// None: once over the range, and a flush at the end.
    pub time: Option<Duration>,
}

/// How that went.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub iops: f64,
    /// From when a request is sent until its answer is here.
    pub p99_us: f64,
}

/// A disk that is as slow as one with a head: a file by FUSE whose requests are throttled, `slow` in its folder.
pub struct SlowDisk {
    daemon: Child,
    mount: PathBuf,
}

impl SlowDisk {
    pub fn start(folder: &Path, bytes: u64) -> Self {
        let (image, mount) = (folder.join("slow.image"), folder.join("slow"));
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a file in our folder");
        File::create(&mount).expect("a file in our folder");
        let limits = format!("throttle-group,id=limits,x-iops-total={SLOW_IOPS},x-bps-total={SLOW_BYTES}");
        let file = format!("driver=file,filename={},node-name=file,aio=threads", image.display());
        let throttle = "driver=throttle,throttle-group=limits,file=file,node-name=disk";
        let export =
            format!("fuse,id=disk,node-name=disk,writable=on,mountpoint={},allow-other=off", mount.display());
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--object").arg(limits).arg("--blockdev").arg(file).arg("--blockdev").arg(throttle);
        let daemon =
            command.arg("--export").arg(export).stdin(Stdio::null()).spawn().expect("it is installed");
        let mut disk = Self { daemon, mount };
        while std::fs::metadata(&disk.mount).expect("it is there").len() != bytes {
            let ended = disk.daemon.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        disk
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // The mount outlives who serves it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
