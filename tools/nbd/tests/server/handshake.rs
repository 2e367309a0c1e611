//! The handshake, up to the choice of an export.

use std::sync::atomic::Ordering;

use super::Served;
use super::client::{
    ACK, ALL_HEADS, Ask, Client, ERROR, Heads, INFO, READ, SERVER, info_request, queries, size_and_flags,
    string,
};
use super::disk::{Answers, Disk, content};

const UNSUPPORTED: u32 = ERROR + 1;
const POLICY: u32 = ERROR + 2;
const INVALID: u32 = ERROR + 3;
const UNKNOWN: u32 = ERROR + 6;
const TOO_BIG: u32 = ERROR + 9;
const EXTENDED_REQUIRED: u32 = ERROR + 10;

/// Flush, FUA, trim, zeroes, many connections, cache, fast zeroes.
const PLAIN_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
const DF_FLAG: u16 = 1 << 7;
const STATUS_PAYLOAD: u16 = 1 << 12;

fn served() -> Served {
    Served::new(&Disk::filled(1 << 20, Answers::AtOnce))
}

#[test]
fn an_old_client_gets_zeroes_behind_the_flags_and_a_newer_one_does_not() {
    let served = served();
    for (flags, zeroes) in [(0, 124), (1, 124), (2, 0), (3, 0)] {
        let mut client = Client::with_flags(served.path(), flags);
        client.send_option(1, b"disk");
        let reply = client.bytes(10 + zeroes);
        assert_eq!(size_and_flags(&reply[..10]), (1 << 20, PLAIN_FLAGS));
        assert!(reply[10..].iter().all(|&byte| byte == 0));
        assert_eq!(client.read(100, 5), Ok(content(100, 5)));
    }
}

#[test]
fn a_name_that_nobody_has_ends_an_old_clients_connection() {
    let served = served();
    for name in [&b"other"[..], b"\xff\xfe", b"di\0sk", &[b'x'; 4097]] {
        let mut client = Client::connect(served.path());
        client.send_option(1, name);
        client.expect_end();
    }
}

#[test]
fn flags_that_were_not_offered_end_the_connection() {
    let served = served();
    let mut client = Client::with_flags(served.path(), 7);
    client.expect_end();
}

#[test]
fn a_client_that_knows_no_options_may_only_choose() {
    let served = served();
    let mut client = Client::with_flags(served.path(), 0);
    client.send_option(3, &[]);
    client.expect_end();
}

#[test]
fn what_an_export_can_do_depends_on_the_replies_that_were_agreed_on() {
    let disk = Disk::filled(1 << 20, Answers::AtOnce);
    let served = Served::new(&disk);
    let mut seen = Vec::new();
    for heads in ALL_HEADS {
        for has_contexts in [false, true] {
            let mut client = Client::connect(served.path());
            client.agree_on(heads);
            if has_contexts && heads != Heads::Simple {
                client.set_contexts("disk", &["base:allocation"]);
            }
            seen.push(client.go("disk").1);
        }
    }
    let structured = PLAIN_FLAGS | DF_FLAG;
    let with_payload = structured | STATUS_PAYLOAD;
    assert_eq!(seen, [PLAIN_FLAGS, PLAIN_FLAGS, structured, structured, structured, with_payload]);

    disk.info.lock().features.read_only = true;
    disk.info.lock().features.rotational = true;
    let flags = Client::connect(served.path()).go("disk").1;
    assert_eq!(flags, 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 10, "nothing that writes");
}

#[test]
fn the_list_has_every_export_with_its_description() {
    let served = served();
    served.exports.insert("", Disk::new(4096, Answers::AtOnce));
    let mut client = Client::connect(served.path());
    let answers = client.ask_option(3, &[]);
    let entry = |name: &str| (SERVER, [string(name), b"a disk for tests".to_vec()].concat());
    assert_eq!(answers, [entry(""), entry("disk"), (ACK, vec![])]);
    assert_eq!(client.ask_for_one(3, b"x"), INVALID, "it has no data");
}

#[test]
fn only_what_was_asked_for_is_told_and_once() {
    let served = served();
    let mut client = Client::connect(served.path());
    let export = [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &PLAIN_FLAGS.to_be_bytes()].concat();
    let name = b"\0\x01disk".to_vec();
    let description = b"\0\x02a disk for tests".to_vec();
    let sizes =
        [&[0, 3][..], &1u32.to_be_bytes(), &4096u32.to_be_bytes(), &(32u32 << 20).to_be_bytes()].concat();
    let only_export = vec![(INFO, export.clone()), (ACK, vec![])];
    assert_eq!(client.ask_option(6, &info_request("disk", &[])), only_export);
    assert_eq!(client.ask_option(6, &info_request("disk", &[0, 77, 0xffff])), only_export);
    let items = [3, 1, 2, 1, 3, 3, 2, 99];
    let all = [export, name, description, sizes].map(|item| (INFO, item)).to_vec();
    let answers = client.ask_option(6, &info_request("disk", &items));
    assert_eq!(answers[..4], all);
    assert_eq!(answers[4..], [(ACK, vec![])]);
    assert_eq!(client.ask_option(7, &info_request("disk", &items)), answers, "go says what info said");
    assert_eq!(client.read(7, 9), Ok(content(7, 9)));
}

#[test]
fn the_empty_name_is_the_only_exports() {
    let served = served();
    let mut client = Client::connect(served.path());
    let answers = client.ask_option(6, &info_request("", &[1]));
    assert_eq!(answers[1], (INFO, b"\0\x01disk".to_vec()), "it tells its name");
    served.exports.insert("second", Disk::new(4096, Answers::AtOnce));
    assert_eq!(client.ask_for_one(6, &info_request("", &[])), UNKNOWN);
    served.exports.remove("disk");
    assert_eq!(client.go(""), (4096, PLAIN_FLAGS));
}

#[test]
fn a_refused_option_leaves_the_stream_in_step() {
    let served = served();
    let mut client = Client::connect(served.path());
    for kind in [0, 4, 12, 1000, u32::MAX] {
        assert_eq!(client.ask_for_one(kind, b"whatever it has for data"), UNSUPPORTED);
    }
    assert_eq!(client.ask_for_one(5, &[]), POLICY, "there is no TLS here");
    assert_eq!(client.ask_for_one(8, b"x"), INVALID);
    assert_eq!(client.ask_for_one(11, b"x"), INVALID);
    assert_eq!(client.ask_for_one(6, &info_request("other", &[])), UNKNOWN);
    assert_eq!(client.ask_for_one(7, &info_request("other", &[])), UNKNOWN);
    for bytes in [(16 << 10) + 1, 1 << 20] {
        assert_eq!(client.ask_for_one(10, &vec![0; bytes]), TOO_BIG);
    }
    client.go("disk");
    assert_eq!(client.read(0, 16), Ok(content(0, 16)));
}

#[test]
fn lengths_inside_an_option_that_do_not_fit_are_refused() {
    let served = served();
    let mut client = Client::connect(served.path());
    client.agree_on(Heads::Structured);
    let good = info_request("disk", &[1, 3]);
    // Also a name of 0xffffffff bytes, and one that is longer than any string.
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|bytes| good[..bytes].to_vec()).collect();
    bad.push([&good[..], &[0]].concat());
    bad.push([&[0xff; 4], &good[4..]].concat());
    bad.push(info_request(&"x".repeat(4097), &[]));
    bad.push(info_request("a\0b", &[]));
    bad.push([&4u32.to_be_bytes()[..], &[0xff; 4], &[0, 0]].concat());
    for kind in [6, 7] {
        for data in &bad {
            assert_eq!(client.ask_for_one(kind, data), INVALID, "{data:?}");
        }
    }
    let good = queries("disk", &["base:allocation", "x:"]);
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|bytes| good[..bytes].to_vec()).collect();
    bad.push([&good[..], &[0]].concat());
    bad.push([&good[..8], &[0xff; 4], &good[12..]].concat());
    bad.push([&good[..12], &[0xff; 4], &good[16..]].concat());
    for kind in [9, 10] {
        for data in &bad {
            assert_eq!(client.ask_for_one(kind, data), INVALID, "{data:?}");
        }
    }
    assert_eq!(client.ask_option(6, &info_request("disk", &[])).len(), 2, "still in step");
}

/// CVE-2017-15119: a server that reads through whatever length an option claims is kept busy for gigabytes.
/// CVE-2022-26495 and CVE-2022-26496: one that believes the length of a name writes past its memory.
#[test]
fn an_option_that_claims_gigabytes_ends_the_connection_at_once() {
    let served = served();
    for kind in [1, 6, 7, 10, 77] {
        for length in [(1 << 20) + 1, 0x8000_0000, u32::MAX] {
            let mut client = Client::connect(served.path());
            client.send(&[b"IHAVEOPT", &u32::to_be_bytes(kind)[..], &length.to_be_bytes()].concat());
            client.expect_end();
        }
    }
    assert_eq!(served.server().stats().breaches, 15);
}

#[test]
fn what_is_no_option_ends_the_connection() {
    let served = served();
    let mut client = Client::connect(served.path());
    client.send(b"IHAVEOPS\0\0\0\x03\0\0\0\0");
    client.expect_end();
}

#[test]
fn an_abort_is_acknowledged_and_ends_the_connection() {
    let served = served();
    for data in [&[][..], b"bye"] {
        let mut client = Client::connect(served.path());
        assert_eq!(client.ask_option(2, data), [(ACK, vec![])]);
        client.expect_end();
    }
    served.wait_for_connections(0);
    assert_eq!(served.server().stats().breaches, 0);
}

#[test]
fn extended_headers_take_precedence_and_shut_old_options_out() {
    let served = served();
    let mut client = Client::connect(served.path());
    client.agree_on(Heads::Structured);
    client.agree_on(Heads::Extended);
    assert_eq!(client.ask_for_one(8, &[]), EXTENDED_REQUIRED);
    client.send_option(1, b"disk");
    client.expect_end();
}

/// CVE-2019-14850 and CVE-2019-14851: a server that opened its disk before the handshake was through, and one that took
/// commands before that.
#[test]
fn a_command_before_the_choice_of_an_export_reaches_no_export() {
    let disk = Disk::filled(1 << 20, Answers::AtOnce);
    let served = Served::new(&disk);
    for heads in ALL_HEADS {
        let mut client = Client::connect(served.path());
        client.agree_on(heads);
        client.ask_option(3, &[]);
        client.ask_option(6, &info_request("disk", &[0, 1, 2, 3]));
        client.send_request(Ask { command: READ, length: 512, ..Ask::default() });
        client.expect_end();
    }
    assert_eq!(disk.calls.load(Ordering::SeqCst), 0);
}

/// CVE-2017-9524 and CVE-2013-7441: servers that fell over clients which left in the middle.
#[test]
fn a_client_may_leave_at_every_byte_of_the_handshake() {
    let served = served();
    let mut script = 3u32.to_be_bytes().to_vec();
    for (kind, data) in [(8u32, vec![]), (10, queries("disk", &["base:"])), (7, info_request("disk", &[3]))] {
        script.extend(b"IHAVEOPT");
        script.extend(kind.to_be_bytes());
        script.extend((data.len() as u32).to_be_bytes());
        script.extend(data);
    }
    for bytes in 0..=script.len() {
        let mut client = Client::silent(served.path());
        client.send(&script[..bytes]);
        // Half of them do not even take the greeting.
        if bytes % 2 == 0 {
            client.bytes(18);
            client.stop_sending();
        }
    }
    served.wait_for_connections(0);
    let stats = served.server().stats();
    assert_eq!((stats.accepted, stats.turned_away, stats.breaches), (script.len() as u64 + 1, 0, 0));
    assert_eq!(Client::ready(served.path(), Heads::Structured).read(0, 3), Ok(content(0, 3)));
}
