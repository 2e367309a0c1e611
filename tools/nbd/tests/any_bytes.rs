//! Any bytes in place of a client's, without a fuzzer: the corpus, and mutations of scripts that make sense.
//!
//! With TERRACE_SLOW=1 it takes a hundred times as many.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by it, and says its seed")]

use std::path::Path;

use terrace_nbd::fuzz::{connection, valid};

const CASES: usize = 1000;

/// Numbers at which sizes and counters end.
const EDGES: [u64; 12] =
    [0, 1, 2, 255, 4097, 65536, 1 << 25, 1 << 31, u32::MAX as u64, 1 << 40, u64::MAX - 1, u64::MAX];

fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    let at = random.usize(..=bytes.len());
    let left = bytes.len() - at;
    match random.u8(..8) {
        0 if left > 0 => bytes[at] ^= 1 << random.u8(..8),
        1 if left > 0 => bytes[at] = random.u8(..),
        2..5 => {
            let length = [1, 2, 4, 8][random.usize(..4)].min(left);
            let edge = EDGES[random.usize(..EDGES.len())].to_be_bytes();
            bytes[at..at + length].copy_from_slice(&edge[8 - length..]);
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(at..at + random.usize(..=left.min(40)))),
        _ => {
            let piece = bytes[at..at + random.usize(..=left.min(60))].to_vec();
            let to = random.usize(..=bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}

#[test]
fn what_is_in_the_corpus_ends_without_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/nbd");
    let mut answered = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        answered += usize::from(connection(&bytes) > 18);
    }
    assert!(answered >= 16, "{answered} got past the greeting");
}

#[test]
fn mutated_scripts_end_without_harm() {
    let seed = std::env::var("TERRACE_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("TERRACE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cases = if std::env::var_os("TERRACE_SLOW").is_some() { 100 * CASES } else { CASES };
    for _ in 0..cases {
        let mut bytes = valid(&mut random);
        for _ in 0..random.usize(..4) {
            mutate(&mut random, &mut bytes);
        }
        connection(&bytes);
    }
}
