//! File systems on an export: nbdfuse makes a file of it, a loop device a disk of that, and the kernel's ext4 and XFS are
//! its clients. They flush by what they know of disks, read back what they wrote, and say by fsck whether it is sound.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{Playground, is_slow_run};
use crate::harness::{MIB, Server, have, make_disk, noise, run, seed, try_run, uri};
use crate::refusals;

/// No XFS is smaller than 300 MiB.
const DISK_BYTES: usize = 512 * MIB;
/// A fraction of what is written, so that it goes through the SSD.
const TIERS: [&str; 6] = ["--ram-size", "16MiB", "--ssd-file", "ssd", "--ssd-size", "512MiB"];
const SOURCES: u64 = 60;

struct Kind {
    make: &'static [&'static str],
    /// Looks for damage and repairs none.
    check: &'static [&'static str],
}

const KINDS: [Kind; 2] = [
    Kind { make: &["mkfs.ext4", "-q", "-F"], check: &["e2fsck", "-f", "-n"] },
    Kind { make: &["mkfs.xfs", "-q", "-f"], check: &["xfs_repair", "-n"] },
];

/// Whether this can be run here, with a word about it where it cannot; where `CI` is set it must be.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
fn can_mount() -> bool {
    let programs =
        ["nbdfuse", "losetup", "mount", "mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair", "tar", "make", "cc"];
    if !is_slow_run() || !have(&programs) {
        return false;
    }
    let has_devices = ["/dev/fuse", "/dev/loop-control"].iter().all(|device| Path::new(device).exists());
    let can = has_devices && rustix::process::geteuid().is_root();
    assert!(can || std::env::var_os("CI").is_none(), "no rights to mount, or no loop devices");
    if !can {
        println!("skipped: no rights to mount, or no loop devices");
    }
    can
}

fn serve(ground: &Playground, mode: &str) -> Server {
    Server::of_disk_on(ground, &[&TIERS[..], &["--write", mode]].concat())
}

/// The export as a block device, with the folder that its file system is to be mounted at.
///
/// Dropping it takes all of it away, whatever state it is in: what the kernel holds would outlive the test.
struct Disk<'a> {
    ground: &'a Playground,
    nbdfuse: Child,
    device: String,
}

impl<'a> Disk<'a> {
    /// Attaches the export that is served at the socket `nbd`.
    fn attach(ground: &'a Playground) -> Self {
        for folder in ["fuse", "mounted"] {
            fs::create_dir_all(ground.path().join(folder)).expect("a folder in ours");
        }
        let mut command = Command::new("nbdfuse");
        // It writes its process's id when the file is there; when its server is killed it complains.
        command.args(["-P", "nbdfuse.pid", "fuse/disk", &uri(ground, "")]).current_dir(ground.path());
        let nbdfuse = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
        let mut disk = Self { ground, nbdfuse, device: String::new() };
        while !ground.path().join("nbdfuse.pid").exists() {
            let ended = disk.nbdfuse.try_wait().expect("it is ours");
            assert!(ended.is_none(), "nbdfuse ended: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        // Nothing but the file system itself keeps what it wrote.
        let loop_device = run(ground, "losetup", &["--find", "--show", "--direct-io=on", "fuse/disk"]);
        disk.device = loop_device.trim().to_owned();
        disk
    }

    fn format(&self, kind: &Kind) {
        self.run(kind.make);
    }

    fn check(&self, kind: &Kind) {
        self.run(kind.check);
    }

    /// Runs `command` on the device.
    fn run(&self, command: &[&str]) {
        run(self.ground, command[0], &[&command[1..], &[self.device.as_str()]].concat());
    }

    /// Mounts the file system; the folder.
    fn mount(&self) -> PathBuf {
        run(self.ground, "mount", &[&self.device, "mounted"]);
        self.ground.path().join("mounted")
    }

    fn unmount(&self) {
        unmount(self.ground, "mounted");
    }

    /// Takes the device away in order; nbdfuse has flushed when it ends.
    fn detach(mut self) {
        run(self.ground, "losetup", &["--detach", &self.device]);
        self.device.clear();
        unmount(self.ground, "fuse");
        assert!(self.nbdfuse.wait().expect("it is ours").success(), "nbdfuse");
        fs::remove_file(self.ground.path().join("nbdfuse.pid")).expect("it wrote it");
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // After `detach` there is nothing of it, and these say so to nobody.
        let attempt = |program, arguments: &[&str]| drop(try_run(self.ground, program, arguments));
        attempt("umount", &["mounted"]);
        if !self.device.is_empty() {
            attempt("losetup", &["--detach", &self.device]);
        }
        attempt("umount", &["--lazy", "fuse"]);
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
        let _ = fs::remove_file(self.ground.path().join("nbdfuse.pid"));
    }
}

#[test]
fn a_disk_that_is_mounted_is_neither_served_nor_replayed_on() {
    if !can_mount() {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 64 * MIB);
    ground.file("t", b"1\n2\n");
    let server = serve(&ground, "through");
    let disk = Disk::attach(&ground);
    disk.format(&KINDS[0]);
    let map = format!("0={}", disk.device);
    let again = ["--backing", &disk.device, "--listen", "unix:again"];
    let replay = ["replay", "t", "--map", &map, "--overwrite"];
    disk.mount();
    for run in [refusals::serve(&ground, &again), ground.terrace(&replay)] {
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains("mounted; end that"), "{}", run.stderr);
    }
    disk.unmount();
    disk.check(&KINDS[0]);
    assert!(refusals::serve(&ground, &again).stdout.starts_with("ready"));
    disk.detach();
    server.stop();
}

#[test]
fn what_is_unpacked_and_built_on_an_export_is_whole_after_an_unmount_and_after_a_restart() {
    if !can_mount() {
        return;
    }
    let seed = seed();
    for kind in &KINDS {
        for mode in ["through", "back-ssd"] {
            let ground = Playground::new();
            make_disk(&ground, "disk", DISK_BYTES);
            let sum = pack_sources(&ground, seed);
            let server = serve(&ground, mode);
            let disk = Disk::attach(&ground);
            disk.format(kind);
            let mounted = disk.mount();
            build_sources(&ground, &mounted, sum);
            let built = contents_of(&mounted);
            disk.unmount();
            disk.check(kind);
            disk.detach();
            assert_eq!(server.stop().code, Some(0));
            // The disk alone has it: a life in this mode begins with what the SSD has of it going below.
            assert_eq!(serve(&ground, "through").stop().code, Some(0));
            run(&ground, kind.check[0], &[&kind.check[1..], &["disk"]].concat());
            let server = serve(&ground, "through");
            let disk = Disk::attach(&ground);
            assert_same(&contents_of(&disk.mount()), &built);
            disk.unmount();
            disk.detach();
            assert_eq!(server.stop().code, Some(0));
        }
    }
}

#[test]
fn what_a_file_system_synced_is_there_after_a_kill_amidst_its_writes() {
    if !can_mount() {
        return;
    }
    let seed = seed();
    for (kind, life) in KINDS.iter().zip(0..) {
        let mut random = fastrand::Rng::with_seed(seed ^ life);
        let ground = Playground::new();
        make_disk(&ground, "disk", DISK_BYTES);
        let sum = pack_sources(&ground, random.u64(..));
        let server = serve(&ground, "back-ssd");
        let disk = Disk::attach(&ground);
        disk.format(kind);
        let mounted = disk.mount();
        build_sources(&ground, &mounted, sum);
        run(&ground, "sync", &["--file-system", "mounted"]);
        let mut synced = contents_of(&mounted);
        synced.append(&mut write_until_killed(&server, &mounted, &mut random));
        drop(disk);
        server.ended();
        let server = serve(&ground, "back-ssd");
        let disk = Disk::attach(&ground);
        // It replays the journal of the file system.
        let mut found = contents_of(&disk.mount());
        found.retain(|path, _| synced.contains_key(path));
        assert_same(&found, &synced);
        disk.unmount();
        disk.check(kind);
        disk.detach();
        assert_eq!(server.stop().code, Some(0));
    }
}

/// Has files written and synced one by one until the server is killed, which comes after a few of them; those whose sync
/// came back.
fn write_until_killed(
    server: &Server,
    mounted: &Path,
    random: &mut fastrand::Rng,
) -> BTreeMap<PathBuf, Vec<u8>> {
    let (told, tells) = channel();
    let (seed, until) = (random.u64(..), random.usize(3..20));
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_files(mounted, seed, &told));
        tells.iter().take(until).for_each(drop);
        server.signal(Signal::KILL);
        writer.join().expect("it ends with the first error")
    })
}

fn write_files(mounted: &Path, seed: u64, told: &Sender<()>) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut synced = BTreeMap::new();
    for number in 0.. {
        let name = PathBuf::from(format!("later-{number}"));
        let bytes = noise(seed ^ number, MIB + 100);
        let written = File::create(mounted.join(&name)).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        if written.is_err() {
            break;
        }
        synced.insert(name, bytes);
        // Nobody listens any more when it was enough.
        let _ = told.send(());
    }
    synced
}

/// Makes an archive `tree.tar` of C sources, and of noise that no compiler looks at; the number that the program prints
/// which they make.
fn pack_sources(ground: &Playground, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let tree = ground.path().join("tree");
    fs::create_dir_all(tree.join("parts")).expect("a folder in ours");
    let (mut declared, mut called, mut sum) = (String::new(), String::new(), 0);
    for part in 0..SOURCES {
        let numbers: Vec<u64> = (0..2000).map(|_| random.u64(..1 << 32)).collect();
        sum += numbers.iter().sum::<u64>();
        let listed: String = numbers.iter().map(|number| format!("{number}ull,\n")).collect();
        let source = format!(
            "static const unsigned long long numbers[] = {{\n{listed}}};\n\
             unsigned long long part{part}(void) {{\n    unsigned long long sum = 0;\n    \
             for (unsigned i = 0; i < {}; i++) sum += numbers[i];\n    return sum;\n}}\n",
            numbers.len()
        );
        fs::write(tree.join(format!("parts/part{part}.c")), source).expect("a file in ours");
        declared += &format!("unsigned long long part{part}(void);\n");
        called += &format!(" + part{part}()");
    }
    let main = format!(
        "#include <stdio.h>\n{declared}int main(void) {{ printf(\"%llu\\n\", 0{called}); return 0; }}\n"
    );
    fs::write(tree.join("main.c"), main).expect("a file in ours");
    fs::write(tree.join("Makefile"), MAKEFILE).expect("a file in ours");
    fs::write(tree.join("noise"), noise(seed, 40 * MIB)).expect("a file in ours");
    run(ground, "tar", &["--create", "--file=tree.tar", "tree"]);
    sum
}

const MAKEFILE: &str = "program: main.o $(patsubst %.c,%.o,$(wildcard parts/*.c))\n\t$(CC) -o $@ $^\n";

/// Unpacks the archive at `mounted`, builds what is in it and runs that; the noise must be as it was packed.
fn build_sources(ground: &Playground, mounted: &Path, sum: u64) {
    run(ground, "tar", &["--extract", "--file=tree.tar", "--directory=mounted"]);
    run(ground, "make", &["--silent", "--jobs=2", "--directory=mounted/tree"]);
    let program = mounted.join("tree/program");
    let printed = run(ground, program.to_str().expect("a path of text"), &[]);
    assert_eq!(printed.trim(), sum.to_string(), "the program that was built says something else");
    run(ground, "cmp", &["tree/noise", "mounted/tree/noise"]);
}

/// All files below `folder`, by their paths there, with what they have.
fn contents_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let below = path.strip_prefix(folder).expect("it is below").to_owned();
                found.insert(below, fs::read(&path).expect("it can be read"));
            }
        }
    }
    found
}

fn assert_same(found: &BTreeMap<PathBuf, Vec<u8>>, wanted: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in wanted {
        let what = match found.get(path) {
            None => "is missing",
            Some(other) if other != bytes => "is not what was written",
            Some(_) => continue,
        };
        panic!("{} {what}", path.display());
    }
    assert_eq!(found.len(), wanted.len(), "there is more than was written");
}

/// Programs that other tests start have the files that are open here until they are themselves, and hold the mount till then.
fn unmount(ground: &Playground, folder: &str) {
    for _ in 0..500 {
        let output = try_run(ground, "umount", &[folder]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return;
        }
        assert!(stderr.contains("target is busy"), "umount {folder}: {stderr}");
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{folder} stays busy");
}
