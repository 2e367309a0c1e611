//! A service under a manager: what it tells it, and the unit of systemd.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::process::Signal;

use crate::common::Playground;
use crate::harness::{MIB, Server, have, make_disk, run};

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
    server.signal(Signal::HUP);
    assert!(manager.news().starts_with("RELOADING=1\nSTATUS="));
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
