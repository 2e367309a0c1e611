use std::os::unix::net::UnixStream;

use super::*;
use crate::wire::Headers;

const DATA_BYTES: usize = 512;
const REPLY_BYTES: usize = 16 + DATA_BYTES;

fn ticket(cookie: u64) -> Ticket {
    Ticket {
        cookie,
        offset: 0,
        bytes: DATA_BYTES as u64,
        cost: DATA_BYTES as u64,
        context_ids: SmallVec::new(),
        is_one: false,
    }
}

/// An outbox that was asked for `requests`, corked, and the other end of its socket.
fn asked(requests: u64) -> (Outbox, UnixStream) {
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let style = Style { headers: Headers::Simple, size_bytes: 1 << 20 };
    let outbox =
        Outbox::new(Arc::new(here.into()), style, Limits::default(), true, Arc::default()).expect("a bell");
    for _ in 0..requests {
        assert_eq!(outbox.admit(DATA_BYTES as u64), Admission::Granted);
    }
    outbox.cork();
    (outbox, there)
}

fn answer(outbox: &Outbox, cookie: u64) {
    outbox.finish(&ticket(cookie), Ok(Answer::Data(vec![cookie as u8; DATA_BYTES].into())));
}

fn count(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

#[test]
fn what_ends_during_a_call_goes_together_with_the_next_and_never_beside_it() {
    let (outbox, mut there) = asked(4);
    answer(&outbox, 0);
    let mut calls = Vec::new();
    let pending = outbox.uncork(&mut |slices| {
        calls.push(count(slices));
        if calls.len() == 1 {
            (1..4).for_each(|cookie| answer(&outbox, cookie));
        }
        Ok(count(slices))
    });
    assert_eq!(calls, [REPLY_BYTES, 3 * REPLY_BYTES]);
    assert_eq!((pending.requests, pending.at_export, pending.has_replies), (0, 0, false));
    there.set_nonblocking(true).expect("a socket can");
    let seen = std::io::Read::read(&mut there, &mut [0; 1]).expect_err("nothing was sent");
    assert_eq!(seen.kind(), io::ErrorKind::WouldBlock, "an answer went past the call that was under way");
}

#[test]
fn bytes_keep_their_order_when_a_call_takes_a_part_and_others_end_meanwhile() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (outbox, _there) = asked(40);
    let (mut next, mut sent) = (0, Vec::new());
    while sent.len() < 40 * REPLY_BYTES {
        if next < 40 {
            outbox.cork();
            answer(&outbox, next);
            next += 1;
        }
        outbox.uncork(&mut |slices| {
            if next < 40 && random.bool() {
                answer(&outbox, next);
                next += 1;
            }
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = random.usize(..=bytes.len());
            sent.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        });
    }
    for (number, reply) in sent.chunks(REPLY_BYTES).enumerate() {
        assert_eq!(reply[8..16], (number as u64).to_be_bytes(), "seed {seed}");
        assert!(reply[16..].iter().all(|&byte| byte == number as u8), "seed {seed}");
    }
    assert_eq!(outbox.in_flight(), (0, 0), "seed {seed}");
}

#[test]
fn a_connection_that_breaks_during_a_call_counts_every_request_out_once() {
    let (outbox, _there) = asked(3);
    answer(&outbox, 0);
    answer(&outbox, 1);
    let pending = outbox.uncork(&mut |slices| {
        outbox.break_off();
        Ok(count(slices) / 2)
    });
    assert_eq!((pending.requests, pending.is_broken, pending.has_replies), (1, true, false));
    answer(&outbox, 2);
    assert_eq!(outbox.in_flight(), (0, 0));
}
