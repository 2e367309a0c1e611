//! Whatever the bytes of a cache file are: no panic, no hang, and no more memory than the file's sizes allow.
//!
//! The entries are those of the fuzz targets in `tests/fuzz`, and so is the corpus. With `TERRACE_STORE_CORPUS` set the
//! corpus is made anew: valid inputs, and a mutation of each.

mod common;
#[path = "common/measuring.rs"]
mod measuring;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{seed, without_hanging};
use measuring::{Memory, measured};
use terrace::tiers::ssd::fuzz::{TARGETS, Target, Valid, geometry, valid};

/// What one run may have allocated at a time, in lengths of the file: one is the device itself, two are copies of the
/// input, and the rest is what recovery makes of the metadata.
const FILES_AT_ONCE_MAX: u64 = 8;

/// Runs `target` on `bytes`, and fails when that takes too much memory; whether they were believed.
fn run(target: Target, bytes: &[u8]) -> (bool, Memory) {
    let (is_believed, memory) = measured(|| target(bytes));
    // A target copies its input, which may be longer than the file.
    let file_bytes = geometry().file_bytes().max(bytes.len() as u64);
    assert!(memory.largest <= 2 * file_bytes, "{memory:?} for {file_bytes} bytes");
    assert!(memory.held_max <= FILES_AT_ONCE_MAX * file_bytes, "{memory:?} for {file_bytes} bytes");
    (is_believed, memory)
}

/// Numbers at which sizes and counters end.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    8,
    63,
    64,
    255,
    4095,
    4096,
    65536,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    1 << 62,
    u64::MAX - 1,
    u64::MAX,
];

/// Anywhere in `bytes`, but every other time in the first bytes of a structure, where sizes and counts are.
fn place(random: &mut fastrand::Rng, bytes: &[u8]) -> usize {
    let anywhere = random.usize(..=bytes.len());
    let structure = bytes.windows(4).skip(anywhere).position(|magic| magic == b"TERR");
    match structure {
        Some(skipped) if random.bool() => (anywhere + skipped + random.usize(..128)).min(bytes.len()),
        _ => anywhere,
    }
}

/// One change of `bytes`, of which `others` may lend some; of the first `kinds`, five of which keep all in its place.
fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[Valid], kinds: u8) {
    let at = place(random, bytes);
    let left = bytes.len() - at;
    match random.u8(..kinds) {
        0 if left > 0 => bytes[at] ^= 1 << random.u8(..8),
        1 if left > 0 => bytes[at] = random.u8(..),
        2..5 => {
            let edge = EDGES[random.usize(..EDGES.len())].to_le_bytes();
            let length = [1, 2, 4, 8][random.usize(..4)].min(left);
            bytes[at..at + length].copy_from_slice(&edge[..length]);
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(at..at + random.usize(..=left.min(64)))),
        _ => {
            let from = &others[random.usize(..others.len())].bytes;
            let start = random.usize(..from.len());
            let end = from.len().min(start + random.usize(1..200));
            let is_insertion = random.bool();
            let replaced = if is_insertion { at..at } else { at..bytes.len().min(at + end - start) };
            bytes.splice(replaced, from[start..end].iter().copied());
        }
    }
}

fn mutated(random: &mut fastrand::Rng, input: &Valid, others: &[Valid]) -> Vec<u8> {
    let mut bytes = input.bytes.clone();
    // Every other time a field or two, all else in its place: what is behind the first checks must be reached.
    let (changes, kinds) = if random.bool() { (1..=2, 5) } else { (1..=6, 8) };
    (0..random.u32(changes)).for_each(|_| mutate(random, &mut bytes, others, kinds));
    bytes
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn store_corpus() {
    let inputs = valid();
    let mut random = fastrand::Rng::with_seed(1);
    for (number, input) in inputs.iter().enumerate() {
        let folder = corpus(input.target);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let store = |kind: &str, bytes: &[u8]| {
            std::fs::write(folder.join(format!("{number:02}-{}-{kind}", input.name)), bytes)
                .expect("it is stored");
        };
        store("valid", &input.bytes);
        store("mutated", &mutated(&mut random, input, &inputs));
    }
}

#[test]
fn valid_inputs_are_believed() {
    let inputs = valid();
    for (name, target) in TARGETS {
        assert!(inputs.iter().any(|input| input.target == name), "{name} has no valid input");
        for input in inputs.iter().filter(|input| input.target == name) {
            assert!(run(target, &input.bytes).0, "{name} {}", input.name);
        }
    }
}

#[test]
fn stored_inputs_do_no_harm() {
    if std::env::var_os("TERRACE_STORE_CORPUS").is_some() {
        store_corpus();
    }
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus(name)).expect("every target has a corpus") {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
            without_hanging(move || run(target, &bytes));
            count += 1;
        }
        assert!(count > 1, "{name} has {count} inputs");
    }
}

/// Rounds under one limit of time: few, so that what hangs is told from a machine that is slow.
const ROUNDS_AT_ONCE: u32 = 500;

/// What mutations of a target's valid inputs came to.
#[derive(Clone, Copy, Default)]
struct Outcome {
    believed: u32,
    memory: Memory,
}

impl Outcome {
    fn and(self, other: Self) -> Self {
        let memory = Memory {
            held_max: self.memory.held_max.max(other.memory.held_max),
            largest: self.memory.largest.max(other.memory.largest),
        };
        Self { believed: self.believed + other.believed, memory }
    }
}

/// Runs `ROUNDS_AT_ONCE` mutations of the valid inputs of a target.
fn run_mutations(name: &str, target: Target, inputs: &[Valid], seed: u64) -> Outcome {
    let own: Vec<&Valid> = inputs.iter().filter(|input| input.target == name).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    (0..ROUNDS_AT_ONCE)
        .map(|_| {
            let input = own[random.usize(..own.len())];
            let (is_believed, memory) = run(target, &mutated(&mut random, input, inputs));
            Outcome { believed: is_believed.into(), memory }
        })
        .fold(Outcome::default(), Outcome::and)
}

/// Runs `parts` of a target's mutations, each under its own limit of time and with its own seed.
fn run_parts(
    name: &'static str,
    target: Target,
    inputs: &Arc<Vec<Valid>>,
    seed: u64,
    parts: impl Iterator<Item = u32>,
) -> Outcome {
    parts
        .map(|part| {
            let inputs = Arc::clone(inputs);
            without_hanging(move || run_mutations(name, target, &inputs, seed.wrapping_add(part.into())))
        })
        .fold(Outcome::default(), Outcome::and)
}

#[test]
#[expect(clippy::print_stdout, reason = "what was done is the result")]
fn mutations_of_valid_inputs_do_no_harm() {
    let seed = seed();
    let parts = if std::env::var_os("TERRACE_SLOW").is_some() { 100 } else { 4 };
    let rounds = parts * ROUNDS_AT_ONCE;
    let inputs = Arc::new(valid());
    for (name, target) in TARGETS {
        let Outcome { believed, memory } = std::thread::scope(|scope| {
            let odd = scope.spawn(|| run_parts(name, target, &inputs, seed, (1..parts).step_by(2)));
            let even = run_parts(name, target, &inputs, seed, (0..parts).step_by(2));
            even.and(odd.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        println!("{name}: {rounds} mutations, {believed} believed, {memory:?}");
        assert!(believed > 0 && believed < rounds, "seed {seed}: the mutations of {name} are of one kind");
    }
}
