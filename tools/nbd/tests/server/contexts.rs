//! Meta contexts: which there are, which are chosen, and what they say.

use super::Served;
use super::client::{ACK, Ask, Client, EINVAL, ERROR, Heads, META, PAYLOAD, READ, REQ_ONE, STATUS, queries};
use super::disk::{Answers, Disk, content};

const INVALID: u32 = ERROR + 3;
const UNKNOWN: u32 = ERROR + 6;

const HOLE: u64 = 3;

fn served() -> Served {
    Served::new(&Disk::new(1 << 20, Answers::AtOnce))
}

fn names(answers: &[(u32, Vec<u8>)]) -> Vec<(u32, &str)> {
    let (last, found) = answers.split_last().unwrap();
    assert_eq!(*last, (ACK, vec![]));
    let one = |(kind, data): &'_ (u32, Vec<u8>)| {
        assert_eq!(*kind, META);
        u32::from_be_bytes(data[..4].try_into().unwrap())
    };
    found.iter().map(|answer| (one(answer), std::str::from_utf8(&answer.1[4..]).unwrap())).collect()
}

#[test]
fn contexts_are_listed_by_name_and_by_namespace_but_chosen_by_name_only() {
    let served = served();
    let mut client = Client::connect(served.path());
    client.agree_on(Heads::Structured);
    let (base, tier) = ("base:allocation", "x-terrace:tier");
    let cases: [(&[&str], &[&str], &[&str]); 7] = [
        (&[], &[base, tier], &[]),
        (&["base:"], &[base], &[]),
        (&["x-terrace:"], &[tier], &[]),
        (&[base], &[base], &[base]),
        (&[tier, base, tier, "base:"], &[base, tier], &[base, tier]),
        (&["base:other", "qemu:dirty-bitmap:x", "y:", "nothing", ""], &[], &[]),
        (&["base:alloc", "base", ":"], &[], &[]),
    ];
    for (asked, listed, chosen) in cases {
        let answers = client.ask_option(9, &queries("disk", asked));
        let expected: Vec<_> = listed.iter().map(|&name| (0, name)).collect();
        assert_eq!(names(&answers), expected, "listed for {asked:?}");
        let answers = client.set_contexts("disk", asked);
        let id = |name: &str| if name == base { 1 } else { 2 };
        let expected: Vec<_> = chosen.iter().map(|&name| (id(name), name)).collect();
        assert_eq!(names(&answers), expected, "chosen for {asked:?}");
    }
    assert_eq!(client.ask_for_one(9, &queries("other", &[])), UNKNOWN);
    assert_eq!(client.ask_for_one(10, &queries("other", &[])), UNKNOWN);
}

#[test]
fn contexts_need_structured_replies() {
    let served = served();
    let mut client = Client::connect(served.path());
    for kind in [9, 10] {
        assert_eq!(client.ask_for_one(kind, &queries("disk", &["base:allocation"])), INVALID);
    }
}

/// For each context, by its number, its extents: lengths and flags.
type Status = Vec<(u32, Vec<(u64, u64)>)>;

fn status(client: &mut Client, flags: u16, length: u64) -> Result<Status, u32> {
    ask_status(client, Ask { flags, command: STATUS, length, ..Ask::default() })
}

fn ask_status(client: &mut Client, ask: Ask<'_>) -> Result<Status, u32> {
    client.send_request(ask);
    let mut found = Vec::new();
    loop {
        let chunk = client.chunk(0);
        if let Some(error) = chunk.error() {
            assert!(chunk.is_last);
            return Err(error);
        }
        let words: Vec<u32> =
            chunk.payload.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        let wide = |words: &[u32]| u64::from(words[0]) << 32 | u64::from(words[1]);
        let extents: Vec<(u64, u64)> = if client.heads == Heads::Extended {
            assert_eq!((chunk.kind, words[1] as usize), (6, (words.len() - 2) / 4));
            words[2..].chunks(4).map(|pair| (wide(&pair[..2]), wide(&pair[2..]))).collect()
        } else {
            assert_eq!(chunk.kind, 5);
            words[1..].chunks(2).map(|pair| (pair[0].into(), pair[1].into())).collect()
        };
        found.push((words[0], extents));
        if chunk.is_last {
            return Ok(found);
        }
    }
}

#[test]
fn a_status_says_what_each_chosen_context_knows() {
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        let disk = Disk::new(1 << 20, answers);
        let served = Served::new(&disk);
        for heads in [Heads::Structured, Heads::Extended] {
            let mut client = Client::ready(served.path(), heads);
            client.write(128 << 10, &content(0, 64 << 10)).unwrap();
            let allocation = vec![(128 << 10, HOLE), (64 << 10, 0), (832 << 10, HOLE)];
            let tier = vec![(1 << 20, 5)];
            assert_eq!(status(&mut client, 0, 1 << 20), Ok(vec![(1, allocation), (2, tier.clone())]));
            // The tier's extent reaches further than was asked for, which a client takes unless it asked for one.
            let first = vec![(4096, HOLE)];
            assert_eq!(status(&mut client, 0, 4096), Ok(vec![(1, first.clone()), (2, tier)]));
            assert_eq!(status(&mut client, REQ_ONE, 4096), Ok(vec![(1, first), (2, vec![(4096, 5)])]));
            assert_eq!(status(&mut client, REQ_ONE, 1 << 20).unwrap()[0].1, [(128 << 10, HOLE)]);
            assert_eq!(status(&mut client, 0, 0), Err(EINVAL));
            assert_eq!(status(&mut client, 0, (1 << 20) + 1), Err(EINVAL));
            assert_eq!(client.read(128 << 10, 3), Ok(content(0, 3)), "still in step");
        }
    }
}

#[test]
fn a_status_without_a_chosen_context_is_refused() {
    let served = served();
    served.exports.insert("other", Disk::new(4096, Answers::AtOnce));
    let ask = Ask { command: STATUS, length: 4096, ..Ask::default() };
    for heads in [Heads::Structured, Heads::Extended] {
        // None chosen; chosen for another export; chosen, and then given up by a query that failed.
        for case in 0..3 {
            let mut client = Client::connect(served.path());
            client.agree_on(heads);
            if case > 0 {
                client.set_contexts(["", "other", "disk"][case], &["base:allocation"]);
            }
            if case == 2 {
                assert_eq!(client.ask_for_one(10, b"x"), INVALID);
            }
            client.go("disk");
            assert_eq!(client.ask(ask), Err(EINVAL));
        }
    }
}

#[test]
fn a_payload_narrows_a_status_down_to_some_contexts() {
    let served = served();
    let mut client = Client::ready(served.path(), Heads::Extended);
    let payload = |bytes: u64, ids: &[u32]| {
        let mut payload = bytes.to_be_bytes().to_vec();
        ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
        payload
    };
    let mut ask = |payload: &[u8], flags: u16| {
        let ask = Ask {
            flags: flags | PAYLOAD,
            command: STATUS,
            length: payload.len() as u64,
            payload,
            ..Ask::default()
        };
        ask_status(&mut client, ask)
    };
    let (allocation, tier) = ((1, vec![(8192, HOLE)]), (2, vec![(1 << 20, 5)]));
    assert_eq!(ask(&payload(8192, &[2]), 0), Ok(vec![tier.clone()]));
    assert_eq!(ask(&payload(8192, &[2, 1]), 0), Ok(vec![tier, allocation.clone()]));
    assert_eq!(ask(&payload(8192, &[1]), REQ_ONE), Ok(vec![allocation]));
    for refused in [
        payload(8192, &[]),
        payload(8192, &[3]),
        payload(8192, &[1, 1]),
        payload(0, &[1]),
        payload((1 << 20) + 1, &[1]),
        payload(u64::MAX, &[1]),
        payload(8192, &[1])[..11].to_vec(),
        vec![],
        vec![1; 3],
        vec![0; 100_000],
    ] {
        assert_eq!(ask(&refused, 0), Err(EINVAL), "{refused:?}");
    }
    assert_eq!(client.read(0, 3), Ok(vec![0; 3]), "still in step");
}

/// CVE-2025-47711 and CVE-2025-47712: statuses of four gigabytes, where a reply of 32 bits counts on.
#[test]
fn a_status_of_more_than_32_bits_is_cut_where_the_reply_has_no_room() {
    let disk = Disk::new(1 << 40, Answers::AtOnce);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Structured);
    for length in [0xffff_ffff, 0xffff_0000, 0xffff_ff00] {
        let found = status(&mut client, 0, length).unwrap();
        assert_eq!(found[0].1, [(length.min(0xffff_0000), HOLE)]);
        assert_eq!(found[1].1, [(0xffff_0000, 5)]);
        assert_eq!(status(&mut client, REQ_ONE, length).unwrap()[1].1, [(length.min(0xffff_0000), 5)]);
    }
    let mut client = Client::ready(served.path(), Heads::Extended);
    let found = status(&mut client, 0, 1 << 40).unwrap();
    assert_eq!(found, [(1, vec![(1 << 40, HOLE)]), (2, vec![(1 << 40, 5)])]);
    assert_eq!(client.ask(Ask { command: READ, length: 1 << 40, ..Ask::default() }), Err(75));
}

#[test]
fn a_disk_in_many_pieces_is_told_in_parts() {
    let disk = Disk::new(256 << 20, Answers::AtOnce);
    let served = Served::new(&disk);
    let mut client = Client::ready(served.path(), Heads::Structured);
    let pieces = 20_000u64;
    for piece in 0..pieces {
        client.write(piece * 8192, &[1]).unwrap();
    }
    let (mut at, mut seen) = (0, 0);
    while at < pieces * 8192 {
        let ask = Ask { command: STATUS, offset: at, length: pieces * 8192 - at, ..Ask::default() };
        let extents = ask_status(&mut client, ask).unwrap().remove(0).1;
        assert!(extents.len() <= 16 << 10);
        seen += extents.len() as u64;
        at += extents.iter().map(|extent| extent.0).sum::<u64>();
    }
    assert_eq!(seen, 2 * pieces);
}
