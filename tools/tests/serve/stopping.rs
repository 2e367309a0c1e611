//! Ends that are not as smooth as they should be: each takes a bounded time, and says what is lost.

use std::io::Write;
use std::time::Instant;

use rustix::process::Signal;

use crate::common::{Playground, Run};
use crate::harness::{MIB, Server, contents, make_disk, noise, stats};
use crate::http::{self, HTTP};
use crate::raw::{Ask, Client, FLUSH, Place, READ, STUCK, WRITE};
use crate::slow_disk::SlowDisk;

/// A client that asks for more than its socket holds and takes nothing.
fn deaf(ground: &Playground) -> Client {
    let mut client = Client::at(ground.path());
    for cookie in 0..8 {
        let ask = Ask { command: READ, cookie, length: MIB, ..Ask::default() };
        client.send(&ask, &[]).expect("the server takes them");
    }
    client
}

/// Bytes that are acknowledged, and not durable before the service ends.
fn write(ground: &Playground, offset: u64) -> Vec<u8> {
    // Whole sectors, so that nothing has to be read for them where the disk stands still.
    let data = noise(offset, 300_032);
    assert_eq!(Client::at(ground.path()).write(offset, &data, 0), Ok(vec![]));
    data
}

/// Bytes at 0 that are to be kept, whatever comes.
fn write_and_flush(ground: &Playground) -> Vec<u8> {
    let data = write(ground, 0);
    assert_eq!(Client::at(ground.path()).ask(&Ask { command: FLUSH, ..Ask::default() }, &[]), Ok(vec![]));
    data
}

fn check_in_place(ground: &Playground, file: &str, offset: u64, data: &[u8]) {
    let stored = contents(&ground.path().join(file));
    assert!(stored[offset as usize..][..data.len()] == *data, "what was acknowledged at {offset} is lost");
}

fn ended_in_order(ended: &Run) {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopped; everything is durable"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("without an answer"), "{}", ended.stderr);
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_and_nothing_is_lost() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back", "--stop-timeout", "4s"]);
    let deaf = deaf(&ground);
    let data = write(&ground, 1_000_001);
    let ended = server.stop();
    ended_in_order(&ended);
    assert!(ended.stderr.contains("1 clients did not finish and were cut off"), "{}", ended.stderr);
    check_in_place(&ground, "disk", 1_000_001, &data);
    deaf.wait_for_end();
}

#[test]
fn a_second_wish_to_end_waits_for_no_client_and_everything_is_still_made_durable() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    // By itself the client would be waited for for a minute, and then counted.
    let mut server = Server::of_disk(&ground, &["--write", "back", "--stop-timeout", "240s"]);
    // What its write lacks it could send at any time.
    let mut slow = Client::at(ground.path());
    let head = slow.head(&Ask { command: WRITE, length: MIB, ..Ask::default() });
    slow.socket.write_all(&head).expect("the server takes it");
    let data = write(&ground, 1_000_001);
    while stats(&ground)["clients"]["requests_in_flight"] != 1 {
        std::thread::yield_now();
    }
    server.signal(Signal::TERM);
    let line = server.next_line();
    assert!(line.starts_with("terrace: stopping: "), "{line}");
    let ended = server.stop();
    ended_in_order(&ended);
    assert!(ended.stderr.contains("terrace: clients are cut off; "), "{}", ended.stderr);
    assert!(!ended.stderr.contains("did not finish"), "{}", ended.stderr);
    check_in_place(&ground, "disk", 1_000_001, &data);
    slow.wait_for_end();
}

#[test]
fn a_service_that_ends_says_so_to_who_asks_for_its_health_and_lets_nobody_in() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let mut server = Server::of_disk(&ground, &[&HTTP[..], &["--stop-timeout", "3600s"]].concat());
    let address = http::address(&server).to_owned();
    let deaf = deaf(&ground);
    assert_eq!(http::get(&address, "/healthz"), "ok\n");
    server.signal(Signal::TERM);
    assert_eq!(server.next_line(), "terrace: stopping: 1 clients finish what they began");
    let health = http::ask(&address, "GET", "/healthz");
    assert_eq!((health.status, health.body.as_str()), (503, "stopping\n"));
    let nbd = Place::Unix(ground.path().join("nbd"));
    // The line comes before the sockets close.
    let since = Instant::now();
    while Client::silent(&nbd).is_ok() {
        assert!(since.elapsed() < STUCK, "a client is let in");
    }
    ended_in_order(&server.stop());
    deaf.wait_for_end();
}

#[test]
fn a_client_that_waits_for_the_disk_gets_its_answer_before_the_service_ends() {
    let ground = Playground::new();
    make_disk(&ground, "below", 4 * MIB);
    let Some(disk) = SlowDisk::of(ground.path(), "below", "disk", 100_000) else { return };
    let mut server = Server::of_disk(&ground, &["--stop-timeout", "3600s"]);
    // It goes before the server, which cannot end while it stands still.
    let disk = disk;
    let mut client = Client::at(ground.path());
    disk.stand_still();
    let ask = Ask { command: READ, cookie: 7, offset: 1 << 20, length: 4096, ..Ask::default() };
    client.send(&ask, &[]).expect("the server takes it");
    while stats(&ground)["clients"]["requests_in_flight"] != 1 {
        std::thread::yield_now();
    }
    server.signal(Signal::TERM);
    assert_eq!(server.next_line(), "terrace: stopping: 1 clients finish what they began");
    disk.go_on();
    assert_eq!(client.reply().expect("it is answered"), Some((7, Ok(vec![0; 4096]))));
    client.wait_for_end();
    let ended = server.ended();
    ended_in_order(&ended);
    assert!(!ended.stderr.contains("cut off"), "{}", ended.stderr);
}

/// A service over a disk that stands still, with bytes that were flushed at 0, and some that were not in 19 blocks at 1 MiB.
/// The disk goes before the server when a test fails: that cannot end while the disk stands still.
fn stuck(ground: &Playground, stop_timeout: &str) -> Option<(Server, SlowDisk, Vec<u8>)> {
    make_disk(ground, "below", 4 * MIB);
    let disk = SlowDisk::of(ground.path(), "below", "disk", 100_000)?;
    let server = Server::of_disk(ground, &["--write", "back", "--stop-timeout", stop_timeout]);
    let flushed = write_and_flush(ground);
    disk.stand_still();
    write(ground, 1 << 20);
    Some((server, disk, flushed))
}

#[test]
fn a_disk_that_stands_still_is_left_when_the_time_is_up_and_what_may_be_lost_is_said() {
    let ground = Playground::new();
    let Some((mut server, disk, flushed)) = stuck(&ground, "3s") else { return };
    server.signal(Signal::TERM);
    let lines = [server.next_line(), server.next_line(), server.next_line()];
    let said = "stopped after 3 s: 19 blocks that were not flushed may be lost; --stop-timeout gives it time";
    assert!(lines[2].contains(said), "{lines:?}");
    left(&ground, disk, server, &flushed);
}

/// The process is at its end, which the system keeps back until the disk lets go of the file.
fn left(ground: &Playground, disk: SlowDisk, server: Server, flushed: &[u8]) {
    disk.go_on();
    assert_eq!(server.ended().code, Some(1));
    drop(disk);
    check_in_place(ground, "below", 0, flushed);
}

#[test]
fn a_third_wish_to_end_is_granted_at_once_and_what_was_flushed_is_kept() {
    let ground = Playground::new();
    let Some((mut server, disk, flushed)) = stuck(&ground, "3600s") else { return };
    server.signal(Signal::TERM);
    assert!(server.next_line().starts_with("terrace: stopping: "));
    assert!(server.next_line().starts_with("terrace: making everything durable: 19 blocks "));
    server.signal(Signal::TERM);
    assert!(
        server.next_line().contains("19 blocks are yet to be made durable, which a third signal gives up")
    );
    server.signal(Signal::TERM);
    let line = server.next_line();
    assert!(line.contains("ended at once: what was flushed is kept, "), "{line}");
    left(&ground, disk, server, &flushed);
}

#[test]
fn a_disk_that_takes_no_writes_ends_the_service_with_what_is_lost() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    // Writes behind the first MiB of any file fail from the start.
    let arguments =
        ["serve", "--backing", "disk", "--listen", "unix:nbd", "--write", "back", "--ram-size", "32MiB"];
    let serve = ground.command(&arguments);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\""]).arg(serve.get_program());
    command.args(serve.get_args()).current_dir(ground.path());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let server = Server::spawn(&mut command);
    let kept = write_and_flush(&ground);
    write(&ground, 3_000_000);
    let ended = server.stop();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let lost = ended.stderr.lines().last().expect("it says why");
    assert!(
        lost.contains("not everything is durable: ") && lost.contains("blocks that were not flushed"),
        "{lost}"
    );
    check_in_place(&ground, "disk", 0, &kept);
}
