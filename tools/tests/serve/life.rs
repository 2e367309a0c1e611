//! How a service begins and ends, and what it takes over while it runs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::Playground;
use crate::harness::{MIB, Server, contents, have, make_disk, nbdsh, noise, run, try_run, uri};

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
    let stats = || {
        let control = ["ctl", "--socket", "nbd.control", "--json", "stats"];
        let stats = run(&ground, env!("CARGO_BIN_EXE_terrace"), &control);
        serde_json::from_str::<Value>(&stats).expect("JSON")
    };
    let number = |value: &Value| value.as_u64().expect("a number");
    read_all();
    assert_eq!(server.stop().code, Some(0));
    let server = Server::start(&ground, &arguments);
    let mut before = stats();
    while number(&before["now"]["ssd_segments_unread"]) > 0 {
        std::thread::yield_now();
        before = stats();
    }
    // How many, the speeds of the disk and of the SSD decide.
    let cached = number(&before["now"]["ssd_cached_blocks"]);
    assert!(cached > 0, "{before}");
    read_all();
    let after = stats();
    assert_eq!(number(&after["counters"]["ssd_hits"]), cached, "every block is read once: {after}");
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
fn a_service_manager_is_told_when_clients_may_come_and_when_the_service_ends() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let manager = UnixDatagram::bind(ground.path().join("notify")).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let told = || {
        let mut buffer = [0; 1000];
        let bytes = manager.recv(&mut buffer).expect("the service speaks");
        String::from_utf8_lossy(&buffer[..bytes]).into_owned()
    };
    let mut command = ground.command(&["serve", "--backing", "disk", "--listen", "unix:nbd"]);
    command.env("NOTIFY_SOCKET", ground.path().join("notify")).env("WATCHDOG_USEC", "30000");
    let server = Server::spawn(&mut command);
    assert!(told().starts_with("READY=1\nSTATUS=ready at unix:"));
    assert_eq!(told(), "WATCHDOG=1");
    server.signal(Signal::TERM);
    let last = std::iter::repeat_with(told).find(|told| told != "WATCHDOG=1").expect("there is no end");
    assert!(last.starts_with("STOPPING=1"), "{last}");
    assert_eq!(server.ended().code, Some(0));
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

const CONFIG: &str = r#"
listen = ["unix:nbd"]
[cache]
ram-size = "32MiB"
[[export]]
name = "one"
backing = "one.img"
"#;

#[test]
fn a_hangup_takes_over_what_can_change_and_names_what_cannot() {
    if !have(&["nbdinfo", "nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    for name in ["one.img", "two.img"] {
        make_disk(&ground, name, MIB);
    }
    ground.file("conf", CONFIG.as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    let changed = CONFIG.replace("32MiB", "64MiB")
        + "write = \"back\"\n[[export]]\nname = \"two\"\nbacking = \"two.img\"\n";
    ground.file("conf", (changed.clone() + "[limits]\nconnections = 5\n").as_bytes());
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert_eq!(line, "terrace: changed: mode of one, ram-size, two is new; waits for the next start: limits");
    assert_eq!(run(&ground, "nbdinfo", &["--size", &uri(&ground, "two")]).trim(), MIB.to_string());
    ground.file("conf", b"nonsense");
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert!(line.contains("the file was not taken over: ") && line.contains("line 1"), "{line}");
    ground.file("conf", changed.replace("\"one\"", "\"two\"").as_bytes());
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert!(line.contains("two exports are named two"), "{line}");
    ground.file("conf", CONFIG.as_bytes());
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert_eq!(line, "terrace: changed: two is gone, mode of one, ram-size");
    assert!(!try_run(&ground, "nbdinfo", &["--size", &uri(&ground, "two")]).status.success());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: the file says what is in force");
    assert_eq!(server.stop().code, Some(0));
}
