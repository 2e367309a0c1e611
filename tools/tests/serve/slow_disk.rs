//! A disk that is slow, or stands still: a file behind another process, by FUSE.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::have;

pub(crate) struct SlowDisk {
    process: Child,
    path: PathBuf,
}

impl SlowDisk {
    /// The file `below`, which is there, as the file `name` too, with so many operations a second; none where that cannot
    /// be had.
    pub(crate) fn of(folder: &Path, below: &str, name: &str, operations: u32) -> Option<Self> {
        if !have(&["qemu-storage-daemon", "fusermount3"]) {
            return None;
        }
        let path = folder.join(name);
        fs::write(&path, b"").expect("a file in our directory");
        let plain = fs::metadata(&path).expect("it is there").len();
        let disk = format!("driver=file,node-name=disk,filename={}", folder.join(below).display());
        let export = format!("fuse,id=slow,node-name=slow,mountpoint={},writable=on", path.display());
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &disk]);
        command.args(["--object", &format!("throttle-group,id=group,x-iops-total={operations}")]);
        command.args(["--blockdev", "driver=throttle,node-name=slow,throttle-group=group,file=disk"]);
        command.args(["--export", &export]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect("it is installed");
        while fs::metadata(&path).map_or(plain, |found| found.len()) == plain {
            let ended = process.try_wait().expect("it is ours");
            assert!(ended.is_none(), "no file by FUSE: {ended:?}");
            std::thread::yield_now();
        }
        Some(Self { process, path })
    }

    /// From now on nothing is answered.
    pub(crate) fn stand_still(&self) {
        kill_process(Pid::from_child(&self.process), Signal::STOP).expect("it runs");
    }

    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(&self.process), Signal::CONT).expect("it runs");
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // In a test that failed it may have ended, or stand still.
        let pid = Pid::from_child(&self.process);
        let _ = kill_process(pid, Signal::CONT).and_then(|()| kill_process(pid, Signal::TERM));
        let _ = Command::new("fusermount3").args(["-uz"]).arg(&self.path).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}
