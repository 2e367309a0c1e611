//! Requests and replies of a client that keeps to the rules, or to most of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use terrace_nbd::{ErrorCode, Failure};

use super::Served;
use super::client::{
    ALL_HEADS, Ask, CACHE, Chunk, Client, DF, DISC, EINVAL, EIO, ENOSPC, ENOTSUP, EOVERFLOW, EPERM, FAST,
    FLUSH, FUA, Heads, NO_HOLE, PAYLOAD, READ, STATUS, TRIM, WRITE, ZEROES,
};
use super::disk::{Answers, Disk, content};

const DISK_BYTES: u64 = 1 << 20;
const CONNECTIONS: usize = 3;
const IN_FLIGHT_MAX: usize = 24;

/// A request under way, and what its answer must be.
struct Expected {
    command: u16,
    range: std::ops::Range<usize>,
    /// Of a read: the bytes when it was sent.
    bytes: Vec<u8>,
}

/// Sends requests that do not overlap any that is under way, and checks every reply against a model.
struct Run {
    clients: Vec<Client>,
    under_way: Vec<HashMap<u64, Expected>>,
    model: Vec<u8>,
    random: fastrand::Rng,
    next_cookie: u64,
}

impl Run {
    fn send_one(&mut self) {
        let random = &mut self.random;
        let length = [1, 512, 4096, random.usize(1..70_000)][random.usize(..4)];
        let start = random.usize(..=self.model.len() - length);
        let range = start..start + length;
        let overlaps = |other: &Expected| other.range.start < range.end && range.start < other.range.end;
        if self.under_way.iter().flat_map(HashMap::values).any(overlaps) {
            return;
        }
        let which = random.usize(..self.clients.len());
        let command = [READ, READ, WRITE, WRITE, ZEROES, TRIM, FLUSH, CACHE][random.usize(..8)];
        let data: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        let mut flags = if random.bool() { FUA } else { 0 };
        let mut ask = Ask { command, cookie: self.next_cookie, offset: start as u64, ..Ask::default() };
        ask.length = length as u64;
        let client = &mut self.clients[which];
        match command {
            WRITE => {
                ask.payload = &data;
                flags |= if client.heads == Heads::Extended { PAYLOAD } else { 0 };
                self.model[range.clone()].copy_from_slice(&data);
            }
            ZEROES | TRIM => self.model[range.clone()].fill(0),
            FLUSH => (ask.offset, ask.length) = (0, 0),
            READ if client.heads != Heads::Simple && random.bool() => flags |= DF,
            _ => {}
        }
        if command == ZEROES && random.bool() {
            flags |= NO_HOLE;
        }
        ask.flags = flags;
        client.send_request(ask);
        let bytes = if command == READ { self.model[range.clone()].to_vec() } else { Vec::new() };
        self.under_way[which].insert(self.next_cookie, Expected { command, range, bytes });
        self.next_cookie = self.next_cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }

    fn take_one(&mut self, which: usize) {
        let client = &mut self.clients[which];
        let mut chunk = if client.heads == Heads::Simple { self.simple(which) } else { client.chunk(0) };
        assert!(chunk.is_last, "{chunk:?}");
        assert_eq!(chunk.error(), None);
        let expected = self.under_way[which].remove(&chunk.cookie).unwrap();
        if expected.command == READ && chunk.kind == 1 {
            let data = chunk.payload.split_off(8);
            assert_eq!(chunk.payload, (expected.range.start as u64).to_be_bytes());
            chunk.payload = data;
        }
        assert_eq!(chunk.payload, expected.bytes);
    }

    /// A simple reply: how long it is, only its cookie tells.
    fn simple(&mut self, which: usize) -> Chunk {
        let client = &mut self.clients[which];
        assert_eq!((client.u32(), client.u32()), (0x6744_6698, 0));
        let cookie = client.u64();
        let payload = client.bytes(self.under_way[which][&cookie].bytes.len());
        Chunk { is_last: true, kind: 0, cookie, payload }
    }

    fn go(&mut self, requests: usize) {
        for _ in 0..requests {
            self.send_one();
            let which = self.random.usize(..self.clients.len());
            // A long queue now and then, so that many requests come in one piece.
            if self.under_way[which].len() > self.random.usize(..IN_FLIGHT_MAX) {
                self.take_one(which);
            }
        }
        for which in 0..self.clients.len() {
            while !self.under_way[which].is_empty() {
                self.take_one(which);
            }
        }
    }
}

#[test]
fn every_reply_of_a_random_run_is_what_a_model_says() {
    let seed = std::env::var("TERRACE_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("TERRACE_SEED={seed}");
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        for heads in ALL_HEADS {
            let disk = Disk::filled(DISK_BYTES, answers);
            let served = Served::new(&disk);
            let mut run = Run {
                clients: (0..CONNECTIONS).map(|_| Client::ready(served.path(), heads)).collect(),
                under_way: (0..CONNECTIONS).map(|_| HashMap::new()).collect(),
                model: content(0, DISK_BYTES as usize),
                random: fastrand::Rng::with_seed(seed),
                next_cookie: 1,
            };
            run.go(1500);
            assert!(
                disk.bytes(0, DISK_BYTES as usize) == run.model,
                "the disk, of {answers:?} and {heads:?}"
            );
        }
    }
}

#[test]
fn a_request_that_breaks_a_rule_gets_the_protocols_own_error() {
    for heads in ALL_HEADS {
        let served = Served::new(&Disk::filled(DISK_BYTES, Answers::AtOnce));
        let mut client = Client::ready(served.path(), heads);
        let too_long = if heads == Heads::Simple { EINVAL } else { EOVERFLOW };
        let end = DISK_BYTES;
        for (command, flags, offset, length, error) in [
            (READ, 0, end - 1, 2, EINVAL),
            (READ, 0, end + 1, 0, EINVAL),
            (READ, 0, u64::MAX, 1, EINVAL),
            (READ, 0, u64::MAX - 3, 4, EINVAL),
            (READ, NO_HOLE, 0, 512, EINVAL),
            (READ, FAST, 0, 512, EINVAL),
            (READ, 1 << 15, 0, 512, EINVAL),
            (TRIM, 0, end, 1, EINVAL),
            (TRIM, DF, 0, 1, EINVAL),
            (CACHE, 0, end, 1, EINVAL),
            (CACHE, NO_HOLE, 0, 1, EINVAL),
            (ZEROES, 0, end, 1, ENOSPC),
            (ZEROES, DF, 0, 1, EINVAL),
            (ZEROES, FAST | NO_HOLE, 0, 512, ENOTSUP),
            (FLUSH, 0, 1, 0, EINVAL),
            (FLUSH, 0, 0, 1, EINVAL),
            (FLUSH, NO_HOLE, 0, 0, EINVAL),
            (STATUS, DF, 0, 512, EINVAL),
            (STATUS, 0, end, 512, EINVAL),
            (8, 0, 0, 512, EINVAL),
            (0xffff, 0, 0, 0, EINVAL),
        ] {
            let ask = Ask { command, flags, offset, length, cookie: 77, ..Ask::default() };
            assert_eq!(client.ask(ask), Err(error), "{ask:?} with {heads:?}");
        }
        if heads == Heads::Simple {
            assert_eq!(client.ask(Ask { flags: DF, length: 512, ..Ask::default() }), Err(EINVAL));
        }
        served.exports.insert("disk", Disk::new(1 << 40, Answers::AtOnce));
        let mut client = Client::ready(served.path(), heads);
        assert_eq!(client.read(0, (32 << 20) + 1), Err(too_long));
        assert_eq!(client.read(0, 32 << 20).map(|data| data.len()), Ok(32 << 20));
    }
}

#[test]
fn a_request_of_no_bytes_does_nothing_and_succeeds() {
    for heads in ALL_HEADS {
        let served = Served::new(&Disk::filled(DISK_BYTES, Answers::AtOnce));
        let mut client = Client::ready(served.path(), heads);
        for command in [READ, TRIM, CACHE, ZEROES] {
            for offset in [0, 7, DISK_BYTES] {
                assert_eq!(client.ask(Ask { command, offset, ..Ask::default() }), Ok(vec![]));
            }
        }
        assert_eq!(client.write(5, &[]), Ok(vec![]));
    }
}

#[test]
fn a_refused_write_is_read_to_its_end() {
    for heads in ALL_HEADS {
        let disk = Disk::new(64 << 20, Answers::AtOnce);
        let served = Served::new(&disk);
        let mut client = Client::ready(served.path(), heads);
        // What looks like requests inside the payload is data.
        let inner = client.request(Ask { command: DISC, ..Ask::default() });
        let payload = inner.repeat(5000);
        assert_eq!(client.write((64 << 20) - 1, &payload), Err(ENOSPC));
        let mut ask = client.write_of(0, &payload);
        ask.flags |= NO_HOLE;
        assert_eq!(client.ask(ask), Err(EINVAL));
        if heads != Heads::Extended {
            let payload = vec![1; (32 << 20) + 1];
            assert_eq!(client.write(0, &payload), Err(EINVAL), "over the largest payload");
        }
        assert_eq!(client.read(0, 100), Ok(vec![0; 100]));
    }
}

#[test]
fn a_payload_that_no_command_wants_is_read_to_its_end() {
    let served = Served::new(&Disk::filled(DISK_BYTES, Answers::AtOnce));
    let mut client = Client::ready(served.path(), Heads::Extended);
    for command in [READ, FLUSH, TRIM, CACHE, ZEROES, 99] {
        let ask = Ask { flags: PAYLOAD, command, length: 40, payload: &[7; 40], ..Ask::default() };
        assert_eq!(client.ask(ask), Err(EINVAL));
    }
    assert_eq!(client.read(0, 100), Ok(content(0, 100)));
}

/// The client of qemu 10 agrees on extended headers and leaves the flag out that writes must have there.
#[test]
fn a_write_has_its_payload_also_without_the_flag_for_it() {
    let served = Served::new(&Disk::filled(DISK_BYTES, Answers::AtOnce));
    let mut client = Client::ready(served.path(), Heads::Extended);
    let ask = Ask { flags: FUA, command: WRITE, length: 40, payload: &[7; 40], ..Ask::default() };
    assert_eq!(client.ask(ask), Ok(vec![]));
    assert_eq!(client.read(0, 40), Ok(vec![7; 40]));
}

#[test]
fn a_read_only_export_refuses_whatever_changes_it() {
    for heads in ALL_HEADS {
        let disk = Disk::filled(DISK_BYTES, Answers::AtOnce);
        disk.info.lock().features.read_only = true;
        let served = Served::new(&disk);
        let mut client = Client::ready(served.path(), heads);
        assert_eq!(client.write(0, &[1, 2, 3]), Err(EPERM));
        for command in [TRIM, ZEROES] {
            assert_eq!(client.ask(Ask { command, length: 512, ..Ask::default() }), Err(EPERM));
        }
        assert_eq!(client.read(0, 100), Ok(content(0, 100)));
        assert_eq!(client.ask(Ask { command: FLUSH, ..Ask::default() }), Ok(vec![]));
    }
}

#[test]
fn what_an_export_does_not_offer_is_refused() {
    let disk = Disk::filled(DISK_BYTES, Answers::AtOnce);
    let mut info = disk.info.lock();
    let features = &mut info.features;
    (features.flush, features.fua, features.trim, features.write_zeroes) = (false, false, false, false);
    (features.cache, features.multi_conn) = (false, false);
    info.block_sizes.minimum = 512;
    drop(info);
    let served = Served::new(&disk);
    let mut client = Client::connect(served.path());
    assert_eq!(client.go("disk"), (DISK_BYTES, 1));
    for command in [FLUSH, TRIM, ZEROES, CACHE] {
        assert_eq!(client.ask(Ask { command, ..Ask::default() }), Err(EINVAL));
    }
    assert_eq!(client.ask(Ask { command: READ, flags: FUA, length: 512, ..Ask::default() }), Err(EINVAL));
    assert_eq!(client.read(1, 512), Err(EINVAL), "between the smallest blocks");
    assert_eq!(client.read(0, 511), Err(EINVAL));
    assert_eq!(client.read(512, 512), Ok(content(512, 512)));
}

#[test]
fn fast_zeroes_are_refused_where_they_are_not_offered() {
    let disk = Disk::filled(DISK_BYTES, Answers::AtOnce);
    disk.info.lock().features.fast_zero = false;
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Structured);
    let ask = Ask { command: ZEROES, flags: FAST, length: 512, ..Ask::default() };
    assert_eq!(client.ask(ask), Err(EINVAL));
    assert_eq!(client.read(0, 512), Ok(content(0, 512)), "and nothing was changed");
}

#[test]
fn replies_come_in_the_order_of_the_answers() {
    let disk = Disk::filled(DISK_BYTES, Answers::WhenReleased);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Structured);
    for offset in 0..5 {
        client.send_request(Ask { command: READ, offset, length: 1, cookie: offset, ..Ask::default() });
    }
    disk.wait_for(5);
    disk.release();
    let cookies: Vec<u64> = (0..5).map(|_| client.chunk(1).cookie).collect();
    assert_eq!(cookies, [4, 3, 2, 1, 0]);
}

#[test]
fn a_read_is_done_here_when_nothing_else_is_asked() {
    let disk = Disk::filled(DISK_BYTES, Answers::WhenReleased);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Simple);
    let alone = || disk.alone.load(Ordering::SeqCst);
    let ask = Ask { command: READ, length: 512, ..Ask::default() };
    let release = |client: &mut Client, count| {
        disk.wait_for(count);
        disk.release();
        (0..count).for_each(|_| assert_eq!(client.reply(ask), Ok(content(0, 512))));
    };
    for count in 1..=3 {
        client.send_request(ask);
        release(&mut client, 1);
        assert_eq!(alone(), count);
    }
    client.send(&client.request(ask).repeat(2));
    release(&mut client, 2);
    assert_eq!(alone(), 3, "they came together");
    client.send_request(ask);
    disk.wait_for(1);
    client.send_request(ask);
    release(&mut client, 2);
    assert_eq!(alone(), 4, "the second came while the first was under way");
    client.send_request(Ask { command: FLUSH, ..Ask::default() });
    disk.wait_for(1);
    client.send_request(ask);
    disk.wait_for(2);
    assert_eq!(alone(), 4, "a flush was under way");
}

#[test]
fn a_client_that_asks_meanwhile_is_not_taken_for_alone_again_soon() {
    let disk = Disk::filled(DISK_BYTES, Answers::Elsewhere);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Simple);
    let (go_on, waits) = channel();
    *disk.alone_waits_for.lock() = Some(waits);
    let ask = Ask { command: READ, length: 512, ..Ask::default() };
    let alone = || disk.alone.load(Ordering::SeqCst);
    client.send_request(ask);
    while alone() == 0 {
        std::thread::yield_now();
    }
    client.send_request(ask);
    go_on.send(()).unwrap();
    (0..2).for_each(|_| assert_eq!(client.reply(ask), Ok(content(0, 512))));
    for _ in 1..64 {
        assert_eq!(client.read(0, 512), Ok(content(0, 512)));
        assert_eq!(alone(), 1);
    }
    assert_eq!(client.read(0, 512), Ok(content(0, 512)));
    assert_eq!(alone(), 2, "it asks for one thing after the other now");
}

#[test]
fn a_client_that_leaves_while_its_read_is_done_here_is_answered_if_it_listens_and_holds_nobody_up() {
    let disk = Disk::filled(DISK_BYTES, Answers::Elsewhere);
    let served = Served::new(&disk);
    let mut other = Client::ready(served.path(), Heads::Simple);
    let ask = Ask { command: READ, length: 512, ..Ask::default() };
    for listens in [false, true] {
        let (go_on, waits) = channel();
        *disk.alone_waits_for.lock() = Some(waits);
        let mut client = Client::ready(served.path(), Heads::Simple);
        client.send_request(ask);
        while disk.alone_waits_for.lock().is_some() {
            std::thread::yield_now();
        }
        client.stop_sending();
        let client = listens.then_some(client);
        assert_eq!(other.read(5, 512), Ok(content(5, 512)));
        // What was sent is counted out after it.
        while served.server().stats().requests_in_flight != 1 {
            std::thread::yield_now();
        }
        go_on.send(()).unwrap();
        if let Some(mut client) = client {
            assert_eq!(client.reply(ask), Ok(content(0, 512)));
            client.expect_end();
        }
        served.wait_for_connections(1);
    }
}

#[test]
fn a_request_whose_answer_is_dropped_fails() {
    for heads in ALL_HEADS {
        let disk = Disk::filled(DISK_BYTES, Answers::WhenReleased);
        let served = Served::new(&disk);
        let mut client = Client::ready(served.path(), heads);
        for command in [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES] {
            let mut ask = Ask { command, length: 512, ..Ask::default() };
            if command == WRITE {
                ask = client.write_of(0, &[1; 512]);
            }
            if command == FLUSH {
                ask.length = 0;
            }
            client.send_request(ask);
            disk.wait_for(1);
            disk.forget();
            assert_eq!(client.reply(ask), Err(EIO));
        }
    }
}

/// CVE-2020-10761: a server that fell over an error whose text was longer than strings may be.
#[test]
fn a_long_message_of_an_error_is_cut_between_characters() {
    let disk = Disk::filled(DISK_BYTES, Answers::AtOnce);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Structured);
    for (message, kept) in [("ü".repeat(5000), 4096), (format!("x{}", "ü".repeat(5000)), 4095)] {
        *disk.fails_with.lock() = Some(Failure::new(ErrorCode::NoSpace, message.clone()));
        client.send_request(Ask { command: READ, length: 512, ..Ask::default() });
        let chunk = client.chunk(0);
        assert_eq!(chunk.error(), Some(ENOSPC));
        assert_eq!(chunk.message(), &message[..kept]);
    }
    *disk.fails_with.lock() = None;
    assert_eq!(client.read(0, 3), Ok(content(0, 3)));
}

#[test]
fn a_client_that_says_goodbye_gets_the_replies_that_are_due() {
    let disk = Disk::filled(DISK_BYTES, Answers::WhenReleased);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Simple);
    client.send_request(client.write_of(0, b"last words"));
    client.send_request(Ask { command: DISC, ..Ask::default() });
    // Nothing is listened to after that.
    client.send_request(client.write_of(0, b"afterwards"));
    disk.wait_for(1);
    disk.release();
    assert_eq!(client.chunk(0).error(), None);
    client.expect_end();
    assert_eq!(disk.bytes(0, 10), b"last words");
    served.wait_for_connections(0);
}

#[test]
fn a_client_that_stops_sending_gets_the_replies_that_are_due() {
    let disk = Disk::filled(DISK_BYTES, Answers::WhenReleased);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Extended);
    let ask = Ask { command: READ, length: 100_000, ..Ask::default() };
    client.send_request(ask);
    client.stop_sending();
    disk.wait_for(1);
    disk.release();
    assert_eq!(client.reply(ask), Ok(content(0, 100_000)));
    client.expect_end();
}

#[test]
fn what_one_connection_wrote_another_reads() {
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        let disk = Disk::filled(DISK_BYTES, answers);
        let served = Served::new(&disk);
        let mut clients = ALL_HEADS.map(|heads| Client::ready(served.path(), heads));
        for round in 0..30u8 {
            let writer = usize::from(round) % 3;
            clients[writer].write(1000, &[round; 5000]).unwrap();
            for client in &mut clients {
                assert_eq!(client.read(1000, 5000), Ok(vec![round; 5000]));
            }
        }
        assert_eq!(Arc::strong_count(&disk), 2 + clients.len(), "each has it, and the list, and this test");
    }
}
