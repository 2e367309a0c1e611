//! What stock clients see and do.

use serde_json::Value;

use crate::common::Playground;
use crate::harness::{MIB, Server, contents, have, make_disk, nbdsh, noise, run, seed, uri};

#[test]
fn nbdinfo_is_told_the_size_and_all_that_can_be_done() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 3 * MIB + 512);
    let server = Server::of_disk(&ground, &[]);
    let told: Value =
        serde_json::from_str(&run(&ground, "nbdinfo", &["--json", &uri(&ground, "")])).expect("JSON");
    let export = &told["exports"][0];
    assert_eq!(export["export-size"], 3 * MIB + 512);
    assert_eq!(export["export-name"], "disk", "named after its file");
    for feature in ["flush", "fua", "trim", "zero", "fast_zero", "cache", "multi_conn", "df"] {
        let key = match feature {
            "multi_conn" => "can_multi_conn".into(),
            feature => format!("can_{feature}"),
        };
        assert_eq!(export[key.as_str()], true, "{feature} in {export}");
    }
    assert_eq!(export["is_read_only"], false);
    let contexts = export["contexts"].as_array().expect("a list");
    assert!(contexts.iter().any(|context| context == "base:allocation"), "{contexts:?}");
    assert!(contexts.iter().any(|context| context == "x-terrace:tier"), "{contexts:?}");
    let names = run(&ground, "nbdinfo", &["--list", "--json", &uri(&ground, "")]);
    assert!(names.contains("\"disk\""), "{names}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_nbdcopy_brings_in_on_four_connections_it_brings_out_again_and_the_disk_has_it() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let seed = seed();
    for mode in ["around", "through", "back", "back-ssd"] {
        let ground = Playground::new();
        make_disk(&ground, "disk", 48 * MIB + 1000);
        let data = noise(seed, 48 * MIB + 1000);
        ground.file("in", &data);
        let ssd = ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--write", mode];
        let server = Server::of_disk(&ground, &ssd);
        let address = uri(&ground, "disk");
        let connections = ["--connections=4", "--requests=32"];
        run(&ground, "nbdcopy", &[&connections[..], &["--flush", "in", address.as_str()]].concat());
        run(&ground, "nbdcopy", &[&connections[..], &[address.as_str(), "out"]].concat());
        assert!(contents(&ground.path().join("out")) == data, "{mode}: it came back changed");
        let ended = server.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        if mode == "back-ssd" {
            // The log keeps what it has over a stop; another life in another mode brings it below first.
            assert_eq!(Server::of_disk(&ground, &ssd[..4]).stop().code, Some(0));
        }
        assert!(contents(&ground.path().join("disk")) == data, "{mode}: the disk has something else");
    }
}

#[test]
fn qemu_img_converts_to_it_finds_it_equal_and_sees_its_holes() {
    if !have(&["qemu-img"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 16 * MIB);
    let mut data = vec![0; 16 * MIB];
    data[4 * MIB..6 * MIB].copy_from_slice(&noise(1, 2 * MIB));
    ground.file("in", &data);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    let address = uri(&ground, "");
    run(
        &ground,
        "qemu-img",
        &["convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw", "in", &address],
    );
    run(&ground, "qemu-img", &["compare", "-f", "raw", "-F", "raw", "in", &address]);
    let map = run(&ground, "qemu-img", &["map", "-f", "raw", "--output=json", &address]);
    let map: Vec<Value> = serde_json::from_str(&map).expect("JSON");
    let data_bytes = map.iter().filter(|piece| piece["data"] == true).map(|piece| piece["length"].as_u64());
    assert_eq!(data_bytes.sum::<Option<u64>>(), Some(2 * MIB as u64), "{map:?}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn qemu_io_reads_every_pattern_back_whatever_way_it_was_written() {
    if !have(&["qemu-io"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 16 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    let commands = [
        "write -P 0x5a 0 1M",
        "write -f -P 0x11 512 512",
        "write -P 0x33 100000 1000",
        "write -z 128k 64k",
        "write -z -u 256k 64k",
        "discard 512k 128k",
        "flush",
        "read -P 0x5a 0 512",
        "read -P 0x11 512 512",
        "read -P 0x5a 1024 98976",
        "read -P 0x33 100000 1000",
        "read -P 0 128k 64k",
        "read -P 0x5a 192k 64k",
        "read -P 0 256k 64k",
        "read -P 0 512k 128k",
        "read -P 0x5a 640k 384k",
        "read -P 0 1M 15M",
    ];
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    let address = uri(&ground, "");
    arguments.push(&address);
    let said = run(&ground, "qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn fio_verifies_sizes_and_places_of_any_kind_with_many_under_way_on_four_connections() {
    if !have(&["fio"]) {
        return;
    }
    let seed = format!("--randseed={}", seed() as u32);
    for mode in ["back", "back-ssd"] {
        let ground = Playground::new();
        make_disk(&ground, "disk", 64 * MIB);
        let tiers = ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--ram-size", "16MiB", "--write", mode];
        let server = Server::of_disk_on(&ground, &tiers);
        let address = format!("--uri={}", uri(&ground, ""));
        let job = |what: &[&str]| {
            let verified = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--iodepth=32"];
            run(&ground, "fio", &[&["--ioengine=nbd", &address, &seed][..], &verified, what].concat());
        };
        let sizes =
            ["--bsrange=512-64k", "--bs_unaligned=1", "--size=8M", "--offset_increment=8M", "--fsync=64"];
        job(&[&["--name=mixed", "--rw=randrw", "--numjobs=4"][..], &sizes].concat());
        // Each block is trimmed, then written; of two that overlap the second waits for the first.
        let one_by_one = ["--serialize_overlap=1", "--bsrange=4k-64k", "--size=16M", "--offset=40M"];
        job(&[&["--name=trims", "--rw=randtrimwrite"][..], &one_by_one].concat());
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn the_tier_map_shows_what_is_dirty_and_what_is_in_ram() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    let said = nbdsh(
        &ground,
        r#"
h2 = nbd.NBD()
h2.add_meta_context("x-terrace:tier")
h2.add_meta_context("base:allocation")
h2.connect_uri(h.get_uri())
def status():
    found = {}
    def extent(context, offset, entries, error):
        found[context] = list(entries)
    h2.block_status(65536, 0, extent)
    return found
print(status()["x-terrace:tier"])
h2.pread(16384, 0)
print(status()["x-terrace:tier"])
h2.pwrite(b"x" * 16384, 16384)
# What was written is data from now on, and dirty until it is flushed.
print(status()["base:allocation"])
h2.flush()
print(status()["x-terrace:tier"])
h2.trim(16384, 16384)
print(status()["base:allocation"])
"#,
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "[65536, 0]",
            "[16384, 1, 49152, 0]",
            "[16384, 3, 16384, 0, 32768, 3]",
            "[32768, 1, 32768, 0]",
            "[65536, 3]"
        ]
    );
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_one_connection_wrote_another_reads_and_its_flush_covers_it() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    let disk = make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    let script = r#"
import os, signal
assert h.can_multi_conn()
others = [nbd.NBD() for _ in range(3)]
for other in others:
    other.connect_uri(h.get_uri())
for number in range(64):
    data = bytes([number + 1]) * 5000
    h.pwrite(data, number * 7000)
    assert others[number % 3].pread(5000, number * 7000) == data
others[1].flush()
# At once: what write-back brings below by itself is no flush.
os.kill(PID, signal.SIGKILL)
"#;
    nbdsh(&ground, &script.replace("PID", &server.pid().to_string()));
    server.ended();
    let stored = contents(&disk);
    for number in 0..64 {
        let piece = &stored[number * 7000..][..5000];
        assert!(
            piece.iter().all(|&byte| usize::from(byte) == number + 1),
            "write {number} is not on the disk"
        );
    }
}

#[test]
fn zeros_that_keep_their_space_are_refused_as_fast_ones_and_written_otherwise() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    let disk = make_disk(&ground, "disk", 8 * MIB);
    let server = Server::of_disk(&ground, &["--write", "through"]);
    nbdsh(
        &ground,
        r#"
import errno
h.pwrite(b"x" * (5 << 20), 0)
try:
    h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
    raise SystemExit("it was not refused")
except nbd.Error as error:
    assert error.errnum == errno.ENOTSUP, error
assert h.pread(1, 0) == b"x", "a refused request changes nothing"
h.zero(5 << 20, 100, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(50, 0, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(100, 0) == bytes(50) + b"x" * 50
assert h.pread(5 << 20, 100) == bytes(5 << 20)
h.cache(8 << 20, 0)
"#,
    );
    server.kill();
    use std::os::unix::fs::MetadataExt;
    let taken = std::fs::metadata(&disk).expect("it is there").blocks() * 512;
    assert!(taken >= 5 * MIB as u64, "the space of the zeros was given back: {taken} bytes are left");
    assert!(contents(&disk)[100..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_read_only_export_takes_no_write_and_leaves_the_disk_as_it_is() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    let data = noise(seed(), MIB);
    ground.file("disk", &data);
    let server = Server::of_disk(&ground, &["--read-only"]);
    nbdsh(
        &ground,
        r#"
assert h.is_read_only() and not h.can_trim() and not h.can_zero()
h.set_strict_mode(0)
for change in [lambda: h.pwrite(b"x", 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)]:
    try:
        change()
        raise SystemExit("it was not refused")
    except nbd.Error:
        pass
assert len(h.pread(1 << 20, 0)) == 1 << 20
h.flush()
"#,
    );
    assert_eq!(server.stop().code, Some(0));
    assert!(contents(&ground.path().join("disk")) == data);
}
