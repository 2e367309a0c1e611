//! Clients that do what they should not, and what that costs others: nothing.

use std::time::Duration;

use terrace_nbd::{Limits, Listener, TlsMode};

use super::Served;
use super::client::{ALL_HEADS, Ask, Client, DISC, Heads, PAYLOAD, READ, WRITE, ZEROES};
use super::disk::{Answers, Disk, content};

/// So long that no test waits for it.
const NEVER: Duration = Duration::from_secs(3600);

fn patient() -> Limits {
    Limits { write_timeout: NEVER, lend_time: NEVER, ..Limits::default() }
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let served = Served::new(&Disk::filled(1 << 20, Answers::AtOnce));
    for heads in ALL_HEADS {
        let mut client = Client::ready(served.path(), heads);
        let mut request = client.request(Ask { command: READ, length: 512, ..Ask::default() });
        request[3] ^= 1;
        client.send(&request);
        client.expect_end();
    }
    // A request of the other size.
    let mut client = Client::ready(served.path(), Heads::Extended);
    client.heads = Heads::Simple;
    let request = client.request(Ask::default());
    client.send(&[&request[..], &[0; 4]].concat());
    client.expect_end();
    assert_eq!(served.server().stats().breaches, 4);
}

#[test]
fn a_payload_above_the_largest_that_was_told_ends_the_connection() {
    let served = Served::new(&Disk::filled(1 << 20, Answers::AtOnce));
    for length in [(32 << 20) + 1, 1 << 32, u64::MAX] {
        let mut client = Client::ready(served.path(), Heads::Extended);
        client.send_request(Ask { flags: PAYLOAD, command: WRITE, length, ..Ask::default() });
        client.expect_end();
    }
}

#[test]
fn a_handshake_that_is_never_finished_ends() {
    let limits = Limits { handshake_time: Duration::from_secs(1), ..Limits::default() };
    let served = Served::with(&Disk::new(4096, Answers::AtOnce), limits, TlsMode::Off);
    let mut silent = Client::silent(served.path());
    let mut half = Client::connect(served.path());
    half.send(b"IHAVEOPT\0\0");
    assert_eq!(silent.bytes(18).len(), 18);
    silent.expect_end();
    half.expect_end();
    assert_eq!(served.server().stats().handshakes_failed, 2);
}

/// CVE-2024-7409: a server that let any number of clients in.
#[test]
fn one_client_too_many_is_turned_away_until_another_leaves() {
    let limits = Limits { connections_max: 3, handshake_time: NEVER, ..Limits::default() };
    let served = Served::with(&Disk::filled(4096, Answers::AtOnce), limits, TlsMode::Off);
    let _in_handshake = Client::connect(served.path());
    let mut others = [Heads::Simple, Heads::Extended].map(|heads| Client::ready(served.path(), heads));
    for _ in 0..5 {
        Client::silent(served.path()).expect_end();
    }
    assert_eq!(others[0].read(0, 10), Ok(content(0, 10)), "who is here does not notice");
    let [first, _second] = others;
    drop(first);
    served.wait_for_connections(2);
    assert_eq!(Client::ready(served.path(), Heads::Simple).read(0, 10), Ok(content(0, 10)));
    assert_eq!(served.server().stats().turned_away, 5);
}

/// Clients that connected and said nothing took all the room there was, for ten seconds, and then others like them.
#[test]
fn clients_that_stay_in_their_handshake_make_room_for_others() {
    let limits = Limits { connections_max: 3, ..patient() };
    let slow = limits.handshake_time / 10;
    let served = Served::with(&Disk::filled(4096, Answers::AtOnce), limits, TlsMode::Off);
    let mut staying = Client::ready(served.path(), Heads::Simple);
    let mut silent = Client::silent(served.path());
    served.wait_for_connections(2);
    let mut half = Client::connect(served.path());
    half.send(b"IHAVEOPT\0\0");
    std::thread::sleep(slow);
    let mut coming = Client::ready(served.path(), Heads::Simple);
    assert_eq!(silent.bytes(18).len(), 18);
    silent.expect_end();
    let _another = Client::ready(served.path(), Heads::Simple);
    half.expect_end();
    Client::silent(served.path()).expect_end();
    for client in [&mut staying, &mut coming] {
        assert_eq!(client.read(0, 10), Ok(content(0, 10)), "who has chosen does not notice");
    }
    let stats = served.server().stats();
    assert_eq!((stats.connections, stats.turned_away), (3, 1));
}

#[test]
fn requests_in_flight_are_bounded() {
    let disk = Disk::filled(1 << 20, Answers::WhenReleased);
    let limits = Limits { requests_max: 10, ..patient() };
    let served = Served::with(&disk, limits, TlsMode::Off);
    let mut client = Client::ready(served.path(), Heads::Simple);
    let ask = Ask { command: READ, length: 512, ..Ask::default() };
    client.send(&client.request(ask).repeat(100));
    for _ in 0..10 {
        disk.wait_for(10);
        // Whatever it read ahead, it did not begin an eleventh: the one after this answers comes only then.
        assert_eq!(disk.held(), 10);
        assert_eq!(served.server().stats().requests_in_flight, 10);
        assert_eq!(served.server().connections()[0].requests_in_flight, 10);
        disk.release();
        for _ in 0..10 {
            assert_eq!(client.reply(ask), Ok(content(0, 512)));
        }
    }
}

#[test]
fn bytes_in_flight_are_bounded_but_for_a_single_request() {
    let disk = Disk::filled(8 << 20, Answers::WhenReleased);
    let limits = Limits { bytes_max: 3 << 20, ..patient() };
    let served = Served::with(&disk, limits, TlsMode::Off);
    let mut client = Client::ready(served.path(), Heads::Simple);
    let read = |length| Ask { command: READ, length, ..Ask::default() };
    for length in [1 << 20, 1 << 20, 1 << 20, 8 << 20, 100] {
        client.send_request(read(length));
    }
    // Two of one MiB and what belongs to them; the third would be too much.
    for (count, replies) in
        [(2, vec![1 << 20, 1 << 20]), (1, vec![1 << 20]), (1, vec![8 << 20]), (1, vec![100])]
    {
        disk.wait_for(count);
        assert_eq!(disk.held(), count);
        disk.release();
        for length in replies {
            assert_eq!(client.reply(read(length)).map(|data| data.len() as u64), Ok(length));
        }
    }
}

#[test]
fn a_client_that_never_reads_holds_up_nobody_else() {
    let disk = Disk::filled(8 << 20, Answers::WhenReleased);
    let served = Served::with(&disk, patient(), TlsMode::Off);
    let mut deaf = Client::ready(served.path(), Heads::Structured);
    let mut other = Client::ready(served.path(), Heads::Simple);
    for _ in 0..7 {
        deaf.send_request(Ask { command: READ, length: 8 << 20, ..Ask::default() });
    }
    disk.wait_for(7);
    let ask = Ask { command: READ, length: 4096, ..Ask::default() };
    other.send_request(ask);
    disk.wait_for(8);
    // This thread answers all, and is not held up by 56 MiB that nobody takes.
    disk.release();
    assert_eq!(other.reply(ask), Ok(content(0, 4096)));
    // Should it change its mind, nothing is lost.
    for _ in 0..7 {
        assert_eq!(deaf.chunk(0).payload[8..], content(0, 8 << 20));
    }
}

#[test]
fn a_client_that_never_reads_gives_lent_bytes_back() {
    let disk = Disk::filled(8 << 20, Answers::AtOnce);
    let limits = Limits { lend_time: Duration::from_millis(20), ..patient() };
    let served = Served::with(&disk, limits, TlsMode::Off);
    let mut deaf = Client::ready(served.path(), Heads::Structured);
    let ask = Ask { command: READ, length: 1 << 20, ..Ask::default() };
    for _ in 0..20 {
        deaf.send_request(ask);
    }
    // The first bytes say that it is under way.
    deaf.bytes(4);
    disk.wait_until_nothing_is_lent();
    let rest = deaf.bytes((1 << 20) + 28 - 4);
    assert_eq!(rest[24..], content(0, 1 << 20), "a copy is as good");
    for _ in 1..20 {
        assert_eq!(deaf.reply(ask), Ok(content(0, 1 << 20)));
    }
    disk.wait_until_nothing_is_lent();
}

#[test]
fn a_client_that_never_reads_is_cut_off_in_the_end() {
    let disk = Disk::filled(8 << 20, Answers::AtOnce);
    let limits = Limits { write_timeout: Duration::from_millis(50), ..Limits::default() };
    let served = Served::with(&disk, limits, TlsMode::Off);
    let mut deaf = Client::ready(served.path(), Heads::Simple);
    deaf.send_request(Ask { command: READ, length: 8 << 20, ..Ask::default() });
    served.wait_for_connections(0);
    assert_eq!(disk.lent(), 0);
}

#[test]
fn a_client_that_leaves_is_counted_until_its_requests_end() {
    let disk = Disk::filled(1 << 20, Answers::WhenReleased);
    let limits = Limits { connections_max: 1, ..patient() };
    let served = Served::with(&disk, limits, TlsMode::Off);
    for heads in ALL_HEADS {
        let mut client = Client::ready(served.path(), heads);
        client.send_request(Ask { command: READ, length: 512, ..Ask::default() });
        client.send_request(client.write_of(0, &content(0, 512)));
        disk.wait_for(2);
        drop(client);
        // Otherwise one could have any number of requests at the export by coming and going.
        Client::silent(served.path()).expect_end();
        disk.release();
        served.wait_for_connections(0);
    }
}

#[test]
fn an_export_can_see_that_nobody_waits_for_it_any_more() {
    let disk = Disk::filled(1 << 20, Answers::WhenReleased);
    let served = Served::new(&disk);
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let address = listener.tcp_address().unwrap();
    served.server().listen(listener, TlsMode::Off).unwrap();
    let zeroes = Ask { command: ZEROES, length: 4096, ..Ask::default() };
    // Over TCP a client that is gone looks like one that only stopped sending.
    let mut remote = Client::connect_tcp(address);
    remote.go("disk");
    let hang_up = |client: Client| {
        client.stop_sending();
        Some(client)
    };
    for leaves in [|_| None, hang_up] as [fn(Client) -> Option<Client>; 2] {
        let mut client = Client::ready(served.path(), Heads::Extended);
        client.send_request(zeroes);
        disk.wait_for(1);
        assert_eq!(disk.wanted(), 1);
        let _left = leaves(client);
        while disk.wanted() > 0 {
            std::thread::yield_now();
        }
        disk.release();
    }
    remote.send_request(zeroes);
    disk.wait_for(1);
    assert_eq!(disk.wanted(), 1);
    drop(remote);
    while disk.wanted() > 0 {
        std::thread::yield_now();
    }
    disk.release();
    served.wait_for_connections(0);
}

#[test]
fn who_says_that_it_leaves_has_all_done_that_it_asked_for() {
    let disk = Disk::filled(1 << 20, Answers::WhenReleased);
    let served = Served::new(&disk);
    for heads in ALL_HEADS {
        let mut client = Client::ready(served.path(), heads);
        let ask = Ask { command: ZEROES, length: 4096, ..Ask::default() };
        client.send_request(ask);
        client.send_request(Ask { command: DISC, ..Ask::default() });
        client.stop_sending();
        disk.wait_for(1);
        // Another client comes and goes meanwhile.
        drop(Client::ready(served.path(), heads));
        served.wait_for_connections(1);
        assert_eq!(disk.wanted(), 1);
        disk.release();
        assert_eq!(client.reply(ask), Ok(vec![]));
        client.expect_end();
    }
}

#[test]
fn clients_that_leave_anywhere_leave_nothing_behind() {
    let seed = std::env::var("TERRACE_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("TERRACE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        let disk = Disk::filled(1 << 20, answers);
        let served = Served::new(&disk);
        let mut steady = Client::ready(served.path(), Heads::Structured);
        for _ in 0..150 {
            let heads = ALL_HEADS[random.usize(..3)];
            let client = Client::ready(served.path(), heads);
            let mut script = Vec::new();
            for _ in 0..random.usize(1..20) {
                let offset = random.u64(..900_000);
                let length = random.usize(1..100_000);
                // Nothing but what is there already is written, so that every read is known.
                let payload = content(offset, length);
                script.extend(client.request(if random.bool() {
                    client.write_of(offset, &payload)
                } else {
                    Ask { command: READ, offset, length: length as u64, ..Ask::default() }
                }));
            }
            script.truncate(random.usize(..=script.len()));
            // It may be cut off by then, as nobody takes the replies.
            let mut socket = &client.socket;
            socket.set_nonblocking(true).unwrap();
            let _ = std::io::Write::write_all(&mut socket, &script);
            drop(client);
            let (offset, length) = (random.u64(..900_000), random.usize(1..100_000));
            assert_eq!(steady.read(offset, length as u64), Ok(content(offset, length)));
        }
        served.wait_for_connections(1);
        disk.wait_until_nothing_is_lent();
        assert!(disk.bytes(0, 1 << 20) == content(0, 1 << 20));
    }
}
