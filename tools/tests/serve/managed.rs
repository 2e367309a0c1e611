//! A service under a manager: what it tells it, and the unit of systemd.

use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::Playground;
use crate::harness::{MIB, Server, contents, have, make_disk, run};
use crate::raw::{Ask, Client, FLUSH};
use crate::slow_disk::SlowDisk;

/// The other end of NOTIFY_SOCKET.
struct Manager(UnixDatagram);

impl Manager {
    fn of(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        Self(socket)
    }

    fn told(&self) -> String {
        let mut buffer = [0; 1000];
        let bytes = self.0.recv(&mut buffer).expect("the service speaks");
        String::from_utf8_lossy(&buffer[..bytes]).into_owned()
    }

    /// The next that is no sign of life.
    fn news(&self) -> String {
        std::iter::repeat_with(|| self.told()).find(|told| told != "WATCHDOG=1").expect("there is no end")
    }
}

/// A service that does not let clients in yet; killed when it goes.
struct Opening(Child);

impl Opening {
    fn of(command: &mut Command) -> Self {
        Self(command.spawn().expect("the binary was built for this test"))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // It has ended when the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const CONFIG: &str = "listen = [\"unix:nbd\"]\n[[export]]\nbacking = \"disk\"\n";

#[test]
fn a_manager_is_told_when_clients_may_come_when_the_file_is_read_again_and_when_the_service_ends() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    ground.file("conf", CONFIG.as_bytes());
    let manager = Manager::of(UnixDatagram::bind(ground.path().join("notify")).expect("a socket"));
    let mut command = ground.command(&["serve", "--config", "conf"]);
    command.env("NOTIFY_SOCKET", ground.path().join("notify")).env("WATCHDOG_USEC", "30000");
    let server = Server::spawn(&mut command);
    assert!(manager.told().starts_with("READY=1\nSTATUS=ready at unix:"));
    assert_eq!(manager.told(), "WATCHDOG=1");
    ground.file("conf", CONFIG.replace("[[", "log = \"error\"\nstop-timeout = \"90s\"\n[[").as_bytes());
    let now_usec = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1000
    };
    let before = now_usec();
    server.signal(Signal::HUP);
    let reloading = manager.news();
    assert!(reloading.starts_with("RELOADING=1\nSTATUS="), "{reloading}");
    let since = reloading.split_once("\nMONOTONIC_USEC=").expect("it says when").1.parse().expect("a number");
    assert!((before..=now_usec()).contains(&since), "{reloading}");
    assert_eq!(manager.news(), "READY=1\nSTATUS=changed: log, stop-timeout");
    ground.file("conf", b"nonsense");
    server.signal(Signal::HUP);
    assert!(manager.news().starts_with("RELOADING=1"));
    let failed = manager.news();
    assert!(failed.starts_with("READY=1\nSTATUS=the file was not taken over: "), "it goes on: {failed}");
    assert_eq!(manager.told(), "WATCHDOG=1");
    server.signal(Signal::TERM);
    let last = manager.news();
    assert!(last.starts_with("STOPPING=1\n") && last.contains("\nEXTEND_TIMEOUT_USEC=95000000"), "{last}");
    assert_eq!(server.ended().code, Some(0));
}

#[test]
fn a_manager_behind_an_abstract_socket_that_wants_no_signs_of_life_gets_none() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let name = format!("terrace-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = Manager::of(UnixDatagram::bind_addr(&address).expect("a socket"));
    let mut command = ground.command(&["serve", "--backing", "disk", "--listen", "unix:nbd"]);
    // Of another process.
    command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let server = Server::spawn(&mut command);
    assert!(manager.told().starts_with("READY=1"));
    assert_eq!(server.stop().code, Some(0));
    assert!(manager.told().starts_with("STOPPING=1"), "nothing in between");
}

/// The disk takes two writes a second, and the SSD has forty for it. Left for another mode, it gets them before anybody is let
/// in: a manager that is not told would end the service, and a signal was not looked at.
#[test]
fn while_a_disk_gets_what_only_the_ssd_has_a_manager_waits_and_a_wish_to_end_does_not() {
    const BLOCKS: usize = 40;
    let ground = Playground::new();
    make_disk(&ground, "below", BLOCKS * MIB);
    let Some(disk) = SlowDisk::of(ground.path(), "below", "disk", 2) else { return };
    let manager = Manager::of(UnixDatagram::bind(ground.path().join("notify")).expect("a socket"));
    let arguments =
        ["serve", "--backing", "disk", "--listen", "unix:nbd", "--ssd-file", "ssd", "--ssd-size", "128MiB"];
    let server = Server::start(&ground, &[&arguments[..], &["--write", "back-ssd"]].concat());
    let mut client = Client::at(ground.path());
    for block in 0..BLOCKS {
        assert_eq!(client.write((block * MIB) as u64, &[7; 16 << 10], 0), Ok(vec![]));
    }
    assert_eq!(client.ask(&Ask { command: FLUSH, ..Ask::default() }, &[]), Ok(vec![]));
    server.kill();
    for (stop_timeout, signals) in [("3600s", 2), ("1s", 1)] {
        let mut command = ground.command(&[&arguments[..], &["--stop-timeout", stop_timeout]].concat());
        let mut opening = Opening::of(command.env("NOTIFY_SOCKET", ground.path().join("notify")));
        let mut lines = BufReader::new(opening.0.stderr.take().expect("it is a pipe")).lines();
        let mut said = || lines.next().expect("it says more").expect("text");
        for _ in 0..signals {
            assert_eq!(
                manager.told(),
                "STATUS=opening the cache and the disks\nEXTEND_TIMEOUT_USEC=30000000"
            );
        }
        if signals == 2 {
            assert!(said().starts_with("terrace: still opening: "));
        }
        for signal in 0..signals {
            kill_process(Pid::from_child(&opening.0), Signal::TERM).expect("it runs");
            if signal == 0 {
                assert!(said().starts_with("terrace: stopping once everything is open"));
            }
        }
        assert!(said().starts_with("terrace: ended before clients were let in; what only the SSD has "));
        assert_eq!(opening.0.wait().expect("it ends").code(), Some(2));
    }
    // Ready when the disk has everything.
    let server = Server::start(&ground, &arguments);
    server.kill();
    drop(disk);
    let stored = contents(&ground.path().join("below"));
    assert!(stored.chunks(MIB).all(|piece| piece[..16 << 10] == [7; 16 << 10]));
}

const UNIT: &str = include_str!("../../serve/terrace.service");

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let ground = Playground::new();
    // It looks whether the program is there.
    let unit = UNIT.replace("/usr/bin/terrace", env!("CARGO_BIN_EXE_terrace"));
    assert_ne!(unit, UNIT);
    ground.file("terrace.service", unit.as_bytes());
    let said = run(&ground, "systemd-analyze", &["verify", "--man=no", "./terrace.service"]);
    assert_eq!(said.trim(), "");
    ground.file("wrong.service", unit.replace("WatchdogSec=60", "WatchdogSecs=sixty").as_bytes());
    let wrong =
        crate::harness::try_run(&ground, "systemd-analyze", &["verify", "--man=no", "./wrong.service"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("WatchdogSecs"), "it looks at the file");
}

/// The file that the unit serves is the example with other disks: its folders are there, and may be written to.
#[test]
fn the_unit_makes_the_folders_that_the_example_names() {
    let example = include_str!("../../serve/terrace.toml");
    for (key, folder) in [
        ("RuntimeDirectory", "/run/terrace/"),
        ("CacheDirectory", "/var/cache/terrace/"),
        ("StateDirectory", "/var/lib/terrace/"),
    ] {
        assert!(example.contains(folder), "{folder}");
        assert!(UNIT.lines().any(|line| line == format!("{key}=terrace")), "{key}");
    }
}
