//! The end: of the server, and of an export.

use std::sync::mpsc::channel;
use std::time::Duration;

use terrace_nbd::Drained;

use super::Served;
use super::client::{ACK, ALL_HEADS, Ask, Client, ESHUTDOWN, Heads, READ, info_request};
use super::disk::{Answers, Disk, content};

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn what_was_begun_is_answered_and_what_comes_then_is_refused() {
    for heads in ALL_HEADS {
        let disk = Disk::filled(1 << 20, Answers::WhenReleased);
        let mut served = Served::new(&disk);
        let mut busy = Client::ready(served.path(), heads);
        let mut idle = Client::ready(served.path(), heads);
        let mut choosing = Client::connect(served.path());
        let ask = Ask { command: READ, offset: 5, length: 100_000, cookie: 1, ..Ask::default() };
        busy.send_request(ask);
        disk.wait_for(1);
        let server = served.server.take().unwrap();
        let drained = std::thread::spawn(move || server.shutdown(LONG));
        // When the idle one is sent away, all have been told.
        idle.expect_end();
        choosing.expect_end();
        let late = Ask { command: READ, length: 512, cookie: 2, ..Ask::default() };
        assert_eq!(busy.ask(late), Err(ESHUTDOWN));
        assert_eq!(busy.write(0, &[1; 70_000]), Err(ESHUTDOWN));
        disk.release();
        assert_eq!(busy.reply(ask), Ok(content(5, 100_000)));
        busy.expect_end();
        assert_eq!(drained.join().unwrap(), Drained { in_order: 3, cut: 0, stuck: 0 });
        assert!(!served.path().exists(), "the socket's file is gone too");
        assert_eq!(disk.bytes(0, 3), content(0, 3));
    }
}

#[test]
fn a_read_that_is_done_on_the_connections_thread_is_answered_before_the_end() {
    let disk = Disk::filled(1 << 20, Answers::WhenReleased);
    let mut served = Served::new(&disk);
    let (go_on, waits) = channel();
    *disk.alone_waits_for.lock() = Some(waits);
    let mut busy = Client::ready(served.path(), Heads::Simple);
    let mut idle = Client::ready(served.path(), Heads::Simple);
    let ask = Ask { command: READ, length: 512, cookie: 1, ..Ask::default() };
    busy.send_request(ask);
    while disk.alone_waits_for.lock().is_some() {
        std::thread::yield_now();
    }
    let server = served.server.take().unwrap();
    let drained = std::thread::spawn(move || server.shutdown(LONG));
    idle.expect_end();
    let late = Ask { cookie: 2, ..ask };
    busy.send_request(late);
    go_on.send(()).unwrap();
    assert_eq!(busy.reply(late), Err(ESHUTDOWN));
    disk.release();
    assert_eq!(busy.reply(ask), Ok(content(0, 512)));
    busy.expect_end();
    assert_eq!(drained.join().unwrap(), Drained { in_order: 2, cut: 0, stuck: 0 });
}

#[test]
fn who_is_not_done_in_time_is_cut_off() {
    let disk = Disk::filled(8 << 20, Answers::AtOnce);
    let held = Disk::filled(1 << 20, Answers::WhenReleased);
    let mut served = Served::new(&disk);
    served.exports.insert("held", held.clone());
    // One takes nothing, the other's disk gives nothing.
    let mut deaf = Client::ready(served.path(), Heads::Simple);
    deaf.send_request(Ask { command: READ, length: 8 << 20, ..Ask::default() });
    deaf.bytes(16);
    let mut waiting = Client::connect(served.path());
    waiting.go("held");
    waiting.send_request(Ask { command: READ, length: 512, ..Ask::default() });
    held.wait_for(1);
    let drained = served.server.take().unwrap().shutdown(Duration::from_secs(1));
    assert_eq!(drained, Drained { in_order: 0, cut: 2, stuck: 1 });
    waiting.expect_end();
    assert_eq!(disk.lent(), 0);
    // Its answer comes to nobody, and nothing breaks.
    held.release();
}

#[test]
fn the_clients_of_one_export_are_sent_away_and_others_stay() {
    let (first, second) = (Disk::filled(4096, Answers::AtOnce), Disk::filled(4096, Answers::AtOnce));
    let served = Served::new(&first);
    served.exports.insert("second", second);
    let mut leaving = Client::ready(served.path(), Heads::Structured);
    let mut staying = Client::connect(served.path());
    staying.go("second");
    served.exports.remove("disk");
    served.server().disconnect("disk");
    leaving.expect_end();
    assert_eq!(staying.read(0, 5), Ok(content(0, 5)));
    served.wait_for_connections(1);
    let who = &served.server().connections()[0];
    assert_eq!((who.export.as_deref(), who.has_tls), (Some("second"), false));
    assert_eq!((who.traffic.requests, who.traffic.failures), (1, 0));
}

/// The client had found the export before it was taken away, and chose it after the others had been sent away: it stayed, and
/// every request of it failed.
#[test]
fn who_chooses_an_export_while_that_is_taken_away_is_sent_away_too() {
    let disk = Disk::filled(4096, Answers::AtOnce);
    let served = Served::new(&disk);
    let mut choosing = Client::connect(served.path());
    let ((came, is_here), (go_on, waits_for)) = (channel(), channel());
    *disk.info_waits_for.lock() = Some((came, waits_for));
    choosing.send_option(7, &info_request("disk", &[]));
    is_here.recv().unwrap();
    served.exports.remove("disk");
    served.server().disconnect("disk");
    go_on.send(()).unwrap();
    assert_eq!(choosing.answers(7).last(), Some(&(ACK, vec![])));
    choosing.expect_end();
    served.wait_for_connections(0);
}

#[test]
fn a_server_that_is_dropped_closes_everything() {
    let mut served = Served::new(&Disk::filled(4096, Answers::AtOnce));
    let mut client = Client::ready(served.path(), Heads::Structured);
    drop(served.server.take());
    client.expect_end();
    assert!(!served.path().exists());
}
