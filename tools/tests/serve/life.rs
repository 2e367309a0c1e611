//! How a service begins and ends.

use std::fs;

use rustix::process::Signal;

use crate::common::Playground;
use crate::harness::{
    MIB, Server, contents, have, make_disk, nbdsh, noise, number, run, stats, stats_when_read, uri,
};
use crate::raw::{Client, FUA, Place};

#[test]
fn a_wish_to_end_makes_durable_what_nobody_flushed_while_a_client_is_connected() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    let disk = make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    assert!(server.ready.contains("ready at unix:"), "{}", server.ready);
    nbdsh(
        &ground,
        &r#"
import os, signal
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([number + 1]) * 4096), number * 4096) for number in range(200)]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(h.aio_command_completed(cookie) for cookie in cookies)
os.kill(PID, signal.SIGTERM)
# The server closes the connection; nothing that is asked from now on is answered as if it were done.
try:
    while True:
        h.pwrite(b"late", 1 << 20)
except nbd.Error:
    pass
"#
        .replace("PID", &server.pid().to_string()),
    );
    let ended = server.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopped; everything is durable"), "{}", ended.stderr);
    let stored = contents(&disk);
    assert!(
        (0..200).all(|number| stored[number * 4096..][..4096]
            .iter()
            .all(|&byte| usize::from(byte) == number + 1))
    );
    let left: Vec<_> = ground
        .listing()
        .into_keys()
        .filter(|path| path.ends_with("nbd") || path.ends_with("nbd.control"))
        .collect();
    assert!(left.is_empty(), "sockets are left: {left:?}");
}

#[test]
fn an_interrupt_from_a_keyboard_is_a_wish_to_end_too() {
    let ground = Playground::new();
    let disk = make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    let data = noise(2, MIB);
    assert_eq!(Client::at(ground.path()).write(MIB as u64, &data, 0), Ok(vec![]));
    server.signal(Signal::INT);
    let ended = server.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(contents(&disk)[MIB..2 * MIB] == data, "what was acknowledged is lost");
}

#[test]
fn copies_on_the_ssd_outlive_a_restart() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let ground = Playground::new();
    ground.file("disk", &noise(1, 32 * MIB));
    let ssd = ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--ram-size", "16MiB"];
    let arguments = [&["serve", "--backing", "disk", "--listen", "unix:nbd"][..], &ssd].concat();
    let (address, server) = (uri(&ground, ""), Server::start(&ground, &arguments));
    let read_all = || run(&ground, "nbdcopy", &["--requests=2", &address, "null:"]);
    read_all();
    assert_eq!(server.stop().code, Some(0));
    let server = Server::start(&ground, &arguments);
    let before = stats_when_read(&ground);
    // How many, the speeds of the disk and of the SSD decide.
    let cached = number(&before["now"]["ssd_cached_blocks"]);
    assert!(cached > 0, "{before}");
    read_all();
    let after = stats(&ground);
    assert_eq!(number(&after["counters"]["ssd_hits"]), cached, "every block is read once: {after}");
    assert_eq!(server.stop().code, Some(0));
}

/// The disk looks changed each time, which the number has the last word on.
#[test]
fn copies_on_the_ssd_outlive_a_restart_with_the_number_of_before_and_no_other() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for (number_now, is_warm) in [("1", true), ("2", false)] {
        let ground = Playground::new();
        ground.file("disk", &noise(1, 32 * MIB));
        let ssd = ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--generation"];
        let start =
            |number| Server::of_disk_on(&ground, &[&ssd[..], &[number, "--ram-size", "16MiB"]].concat());
        let read_all = || run(&ground, "nbdcopy", &["--requests=2", &uri(&ground, ""), "null:"]);
        let server = start("1");
        read_all();
        assert_eq!(server.stop().code, Some(0));
        let disk = fs::File::options().write(true).open(ground.path().join("disk")).expect("it is ours");
        disk.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("the time can be set");
        let server = start(number_now);
        stats_when_read(&ground);
        read_all();
        let after = stats(&ground);
        assert_eq!(number(&after["counters"]["ssd_hits"]) > 0, is_warm, "{after}");
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn an_ordered_service_writes_below_what_each_flush_left() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let ssd = ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--write", "back-ssd", "--ordered"];
    let server = Server::of_disk(&ground, &ssd);
    let mut client = Client::at(ground.path());
    for number in 0..200u8 {
        assert_eq!(client.write(0, &[number; 4096], FUA), Ok(vec![]));
    }
    let drained = ground.terrace(&["ctl", "--socket", "nbd.control", "drain"]);
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    let written = number(&stats(&ground)["counters"]["disk_write_bytes"]);
    assert_eq!(written, 200 * 4096, "one page, 200 flushes");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn an_abandoned_socket_is_replaced_and_one_that_is_served_is_not() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    make_disk(&ground, "other", MIB);
    Server::of_disk(&ground, &[]).kill();
    assert!(ground.path().join("nbd").exists() && ground.path().join("nbd.control").exists());
    let server = Server::of_disk(&ground, &[]);
    for socket in [&["--listen", "unix:nbd"][..], &["--listen", "unix:another", "--control", "nbd.control"]] {
        let second = ground.terrace(&[&["serve", "--backing", "other"], socket].concat());
        assert_eq!(second.code, Some(2), "{}", second.stderr);
        assert!(second.stderr.contains("name another path"), "{}", second.stderr);
    }
    let control = fs::metadata(ground.path().join("nbd.control")).expect("the first one's");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(control.permissions().mode() & 0o777, 0o600);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_socket_is_its_owners_alone_unless_the_group_is_to_come_in_and_what_controls_it_always_is() {
    use std::os::unix::fs::PermissionsExt;
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let mode = |socket: &str| {
        let found = fs::metadata(ground.path().join(socket)).expect("it is there");
        found.permissions().mode() & 0o777
    };
    for (more, wanted) in [(&[][..], 0o600), (&["--socket-mode", "0660"], 0o660)] {
        let server = Server::of_disk(&ground, more);
        assert_eq!((mode("nbd"), mode("nbd.control")), (wanted, 0o600), "{more:?}");
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn a_server_takes_the_sockets_that_it_is_started_with() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    ground.file("disk", &noise(7, MIB));
    let script = r#"
h.connect_systemd_socket_activation(["TERRACE", "serve", "--backing", "disk"])
assert h.get_size() == 1 << 20
assert h.pread(1 << 20, 0) == open("disk", "rb").read()
"#;
    run(&ground, "nbdsh", &["-c", &script.replace("TERRACE", env!("CARGO_BIN_EXE_terrace"))]);
}

#[test]
fn who_comes_again_and_again_while_there_is_no_room_does_not_fill_the_log() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let server = Server::of_disk(&ground, &["--connections", "1"]);
    let _first = Client::at(ground.path());
    let nbd = Place::Unix(ground.path().join("nbd"));
    for _ in 0..100 {
        Client::silent(&nbd).expect("it listens").wait_for_end();
    }
    assert_eq!(stats(&ground)["clients"]["turned_away"], 100);
    let ended = server.stop();
    let told = ended.stderr.lines().filter(|line| line.contains("turned away")).count();
    assert_eq!(told, 1, "{}", ended.stderr);
}
