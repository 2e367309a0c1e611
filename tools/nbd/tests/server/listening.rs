//! Sockets of all kinds.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::Arc;

use terrace_nbd::{Exports, Limits, Listener, Server, TlsMode};

use super::Served;
use super::client::{Ask, Client, Heads, READ};
use super::disk::{Answers, Disk, content};

#[test]
fn a_unix_socket_has_its_permissions_and_replaces_only_an_abandoned_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // Closed without being removed, as a process that is killed leaves it.
    drop(UnixListener::bind(&path).unwrap());
    let listener = Listener::unix(&path, 0o640).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(listener.name(), format!("unix:{}", path.display()));
    assert!(listener.is_local());
    let error = Listener::unix(&path, 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "someone listens");
    drop(listener);
    assert!(!path.exists());
    fs::write(&path, "a file of someone's").unwrap();
    let error = Listener::unix(&path, 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "and it is no socket");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file of someone's");
}

#[test]
fn a_client_over_tcp_gets_the_same() {
    let served = Served::new(&Disk::filled(1 << 20, Answers::Elsewhere));
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let address = listener.tcp_address().unwrap();
    assert_eq!((listener.is_local(), listener.name()), (true, address.to_string()));
    served.server().listen(listener, TlsMode::Off).unwrap();
    let mut client = Client::connect_tcp(address);
    client.agree_on(Heads::Structured);
    client.go("disk");
    assert_eq!(client.read(3, 200_000), Ok(content(3, 200_000)));
    let peers: Vec<String> = served.server().connections().into_iter().map(|who| who.peer).collect();
    assert!(peers.iter().any(|peer| peer.starts_with("127.0.0.1:")), "{peers:?}");
}

#[test]
fn a_listener_closes_alone_and_who_came_through_it_stays() {
    let disk = Disk::filled(4096, Answers::AtOnce);
    let served = Served::new(&disk);
    let other = served.path().with_file_name("other");
    let id = served.server().listen(Listener::unix(&other, 0o600).unwrap(), TlsMode::Off).unwrap();
    let mut through_other = Client::ready(&other, Heads::Structured);
    served.server().stop_listening(id);
    assert!(!other.exists(), "its file is gone when the call returns");
    assert_eq!(through_other.read(0, 9), Ok(content(0, 9)));
    let mut through_first = Client::ready(served.path(), Heads::Structured);
    assert_eq!(through_first.read(0, 9), Ok(content(0, 9)));
    served.server().stop_listening(id);
    // The address is free for another one.
    let again = served.server().listen(Listener::unix(&other, 0o600).unwrap(), TlsMode::Off).unwrap();
    assert_ne!(again, id);
    assert_eq!(Client::ready(&other, Heads::Simple).read(0, 9), Ok(content(0, 9)));
}

#[test]
fn other_limits_count_for_those_who_come_then() {
    let disk = Disk::filled(1 << 20, Answers::WhenReleased);
    let served = Served::with(&disk, Limits { requests_max: 3, ..Limits::default() }, TlsMode::Off);
    let mut early = Client::ready(served.path(), Heads::Structured);
    served.server().set_limits(Limits { connections_max: 2, requests_max: 1, ..Limits::default() });
    let mut late = Client::ready(served.path(), Heads::Structured);
    for client in [&mut early, &mut late] {
        for cookie in 0..5 {
            let ask = Ask { command: READ, length: 512, cookie, ..Ask::default() };
            client.send_request(ask);
        }
    }
    disk.wait_for(4);
    let in_flight =
        || served.server().connections().iter().map(|who| who.requests_in_flight).collect::<Vec<_>>();
    assert_eq!(in_flight(), [3, 1]);
    let stats = served.server().stats();
    assert_eq!(stats.requests_in_flight, 4);
    assert!(stats.bytes_in_flight >= 4 * 512, "{stats:?}");
    Client::silent(served.path()).expect_end();
    assert_eq!(served.server().stats().turned_away, 1, "there are two already");
    disk.release();
}

#[test]
fn an_address_for_everyone_is_not_local() {
    assert!(!Listener::tcp("0.0.0.0:0").unwrap().is_local());
}

/// The other side of the test below.
#[test]
fn a_process_started_with_a_socket_serves_on_it() {
    if std::env::var_os("TERRACE_TEST_ACTIVATED").is_some() {
        return serve_what_was_passed();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let socket: OwnedFd = UnixListener::bind(&path).unwrap().into();
    // As systemd does it: the socket is descriptor 3, and the variables name the process.
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --exact --nocapture \
                  listening::a_process_started_with_a_socket_serves_on_it";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("TERRACE_TEST_ACTIVATED", "1")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = Client::ready(&path, Heads::Extended);
    assert_eq!(client.read(0, 50), Ok(content(0, 50)));
    drop(client);
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
}

fn serve_what_was_passed() {
    let exports = Arc::new(Exports::default());
    exports.insert("disk", Disk::filled(4096, Answers::AtOnce));
    let server = Server::new(exports, Limits::default());
    let mut listeners = Listener::activated().unwrap();
    assert_eq!(listeners.len(), 1);
    assert!(Listener::activated().unwrap().is_empty(), "they are given once");
    server.listen(listeners.remove(0), TlsMode::Off).unwrap();
    while server.stats().accepted == 0 || server.stats().connections > 0 {
        std::thread::yield_now();
    }
}
