//! The clients that people use. A test whose client is not installed says so and ends; CI installs them all.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use terrace_nbd::{Limits, Listener, TlsMode};

use super::Served;
use super::disk::{Answers, Disk, content};
use super::tls::Keys;

const DISK_BYTES: u64 = 64 << 20;

/// Whether `program` is there; when CI is, it must be.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        println!("skipped: {program} is not installed");
    }
    found.status.success()
}

/// Runs a shell command, with the export as `$URI`; what it says.
fn run(uri: &str, command: &str) -> String {
    // Some leave files where they run.
    let folder = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).env("URI", uri).current_dir(&folder);
    let Output { status, stdout, stderr } = shell.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command}\n{stdout}{stderr}");
    stdout.into_owned()
}

fn uri(served: &Served) -> String {
    format!("nbd+unix:///disk?socket={}", served.path().display())
}

#[test]
fn nbdinfo_sees_every_feature() {
    if !has("nbdinfo") {
        return;
    }
    let served = Served::new(&Disk::new(DISK_BYTES, Answers::Elsewhere));
    let found = run(&uri(&served), "nbdinfo \"$URI\"");
    for feature in ["cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"] {
        assert!(found.contains(&format!("can_{feature}: true")), "{feature} in\n{found}");
    }
    for line in ["export-size: 67108864", "a disk for tests", "base:allocation", "x-terrace:tier"] {
        assert!(found.contains(line), "{line} in\n{found}");
    }
    assert!(found.contains("block_size_maximum: 33554432"));
    let list = format!("nbd+unix:///?socket={}", served.path().display());
    assert!(run(&list, "nbdinfo --list \"$URI\"").contains("export=\"disk\""));
    let map = run(&uri(&served), "nbdinfo --map=x-terrace:tier \"$URI\"");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "67108864", "5"]);
}

#[test]
fn nbdcopy_brings_back_what_it_took() {
    if !has("nbdcopy") {
        return;
    }
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        let disk = Disk::new(DISK_BYTES, answers);
        let served = Served::new(&disk);
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut bytes = content(99, DISK_BYTES as usize);
        bytes[10 << 20..30 << 20].fill(0);
        std::fs::write(&from, &bytes).unwrap();
        let copy = format!(
            "nbdcopy --connections=4 --requests=64 --flush {} \"$URI\"; nbdcopy --connections=4 \"$URI\" {}",
            from.display(),
            to.display()
        );
        run(&uri(&served), &copy);
        assert!(disk.bytes(0, DISK_BYTES as usize) == bytes, "what went in");
        assert!(std::fs::read(&to).unwrap() == bytes, "what came out");
    }
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    if !has("qemu-img") {
        return;
    }
    let disk = Disk::new(DISK_BYTES, Answers::Elsewhere);
    let served = Served::new(&disk);
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    let mut bytes = vec![0; DISK_BYTES as usize];
    bytes[1 << 20..9 << 20].copy_from_slice(&content(3, 8 << 20));
    std::fs::write(&from, &bytes).unwrap();
    let from = from.display();
    run(
        &uri(&served),
        &format!(
            "qemu-img convert -n -f raw -O raw {from} \"$URI\"; qemu-img compare -f raw -F raw {from} \"$URI\"; \
             qemu-img bench -f raw -c 2000 -d 32 -s 4096 \"$URI\"; \
             qemu-img compare -f raw -F raw {from} \"$URI\""
        ),
    );
    assert!(disk.bytes(0, DISK_BYTES as usize) == bytes);
    let map = run(&uri(&served), "qemu-img map -f raw --output=json \"$URI\"");
    assert!(map.contains("\"start\": 1048576, \"length\": 8388608"), "{map}");
}

#[test]
fn qemu_io_finds_its_patterns() {
    if !has("qemu-io") {
        return;
    }
    let served = Served::new(&Disk::new(DISK_BYTES, Answers::Elsewhere));
    let said = run(
        &uri(&served),
        "qemu-io -f raw -c 'write -P 0x5a 0 1M' -c 'write -f -P 0x11 512 512' -c 'write -z 64k 64k' \
         -c 'write -z -u 128k 64k' -c 'discard 256k 128k' -c flush -c 'read -P 0x5a 0 512' \
         -c 'read -P 0x11 512 512' -c 'read -P 0 64k 128k' -c 'read -P 0x5a 384k 640k' \
         -c 'write -P 7 4095 4098' -c 'read -P 7 4095 4098' -c 'read -P 0x5a 8193 100' \
         -c 'aio_write -P 9 2M 1M' -c 'aio_write -P 8 3M 1M' -c aio_flush -c 'read -P 8 3M 1M' \"$URI\"",
    );
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn nbdsh_gets_the_protocols_errors_and_64_bit_lengths() {
    // Debian's binding belongs to Debian's Python.
    if !has("nbdsh") || !has("/usr/bin/python3") {
        return;
    }
    let disk = Disk::new(8 << 30, Answers::Elsewhere);
    let served = Served::new(&disk);
    let script = r#"
import errno
def fails(call, *numbers):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum in numbers, error
        return
    assert False, "it succeeded"
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.add_meta_context("x-terrace:tier")
h.connect_uri(uri)
assert h.can_meta_context("x-terrace:tier") and h.can_multi_conn() and h.can_fua()
size = h.get_size()
h.pwrite(b"x" * 70000, 12345, nbd.CMD_FLAG_FUA)
assert h.pread(70000, 12345) == b"x" * 70000
fails(lambda: h.pread(512, size), errno.EINVAL)
fails(lambda: h.pwrite(b"x" * 512, size), errno.ENOSPC)
fails(lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE), errno.ENOTSUP, errno.EOPNOTSUPP)
h.zero(4096, 12345, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(4096, 12345) == bytes(4096)
h.trim(70000, 12345, nbd.CMD_FLAG_FUA)
h.cache(1 << 20, 0)
h.flush()
if hasattr(h, "get_extended_headers_negotiated") and h.get_extended_headers_negotiated():
    h.zero(5 << 30, 0)
    print("64 bits")
found = {}
def extents(context, offset, entries, error):
    found[context] = entries
h.block_status(1 << 20, 0, extents)
assert found["x-terrace:tier"][1] == 5 and found["base:allocation"][1] == 3, found
"#;
    let mut child = Command::new("/usr/bin/python3")
        .args(["-m", "nbd"])
        .args(["-c", &format!("uri = \"{}\"", uri(&served)), "-c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn fio_verifies_mixed_sizes_at_depth_32_over_four_connections() {
    if !has("fio") {
        return;
    }
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        let served = Served::new(&Disk::new(DISK_BYTES, answers));
        run(
            &uri(&served),
            "fio --name=verify --ioengine=nbd --uri=\"$URI\" --rw=randrw --bsrange=512-64k --bs_unaligned=1 \
             --size=16M --offset_increment=16M --numjobs=4 --iodepth=32 --verify=crc32c --verify_fatal=1 \
             --verify_state_save=0 --fsync=64 --group_reporting",
        );
    }
}

#[test]
fn clients_come_over_tcp_with_certificates() {
    if !has("nbdcopy") || !has("nbdinfo") {
        return;
    }
    let keys = Keys::new();
    let disk = Disk::filled(DISK_BYTES, Answers::Elsewhere);
    let served = Served::with(&disk, Limits::default(), TlsMode::Off);
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let port = listener.tcp_address().unwrap().port();
    served.server().listen(listener, TlsMode::Required(keys.tls(true))).unwrap();
    let uri = format!("nbds://localhost:{port}/disk?tls-certificates={}", keys.folder.path().display());
    let found = run(&uri, "nbdinfo \"$URI\"");
    assert!(found.contains("with TLS"), "{found}");
    let copied = keys.path("copied");
    run(&uri, &format!("nbdcopy --connections=4 \"$URI\" {}", copied.display()));
    assert!(std::fs::read(&copied).unwrap() == content(0, DISK_BYTES as usize));
    let in_the_clear = format!("nbd://localhost:{port}/disk");
    run(&in_the_clear, "! nbdinfo \"$URI\"");
    if has("qemu-img") {
        let options = format!(
            "qemu-img info --object tls-creds-x509,id=t,dir={},endpoint=client --image-opts \
             driver=nbd,host=localhost,port={port},export=disk,tls-creds=t",
            keys.folder.path().display()
        );
        assert!(run(&uri, &options).contains("64 MiB"));
    }
}
