//! Whatever the bytes of a trace are: no panic, no hang, and no more memory than the heads of the readers say.
//!
//! The entries are those of the fuzz targets in `tests/fuzz`, and so is the corpus. With `TERRACE_STORE_CORPUS` set the
//! corpus is made anew: valid traces, and a mutation of each.

mod common;
#[path = "../../tests/common/hanging.rs"]
mod hanging;
#[path = "../../tests/common/measuring.rs"]
mod measuring;

use std::io::Write;
use std::path::{Path, PathBuf};

use common::seed;
use hanging::without_hanging;
use measuring::{Memory, measured};
use terrace_tools::fuzz::{self, CHOICE_BYTES, DETECTED, Valid, targets};

/// A reader's buffer, and copies of the input: once by the test, names of volumes twice.
const PLAIN_BYTES_MAX: u64 = 2 << 20;
const COPIES_MAX: u64 = 8;
/// What a packed trace may ask for: xz the most, a dictionary of 128 MiB. A recording's block is packed too.
const PACKED_BYTES_MAX: u64 = 160 << 20;

/// What a trace of these bytes may take.
fn memory_max(target: &str, bytes: &[u8]) -> u64 {
    let trace = if target == DETECTED { bytes } else { bytes.get(CHOICE_BYTES..).unwrap_or_default() };
    let packings: [&[u8]; 4] = [b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\xfd7zXZ\0", b"TerraceR"];
    let is_packed = packings.iter().any(|magic| trace.starts_with(magic));
    let fixed = if is_packed { PACKED_BYTES_MAX } else { PLAIN_BYTES_MAX };
    fixed + COPIES_MAX * bytes.len() as u64
}

/// Runs the target on `bytes`, and fails when that takes too much memory; whether they were read to their end.
fn run(target: &str, bytes: &[u8]) -> (bool, Memory) {
    let (is_read, memory) = measured(|| fuzz::run(target, bytes));
    assert!(memory.held_max <= memory_max(target, bytes), "{target}: {memory:?} for {} bytes", bytes.len());
    assert!(memory.largest <= memory.held_max, "{memory:?}");
    (is_read, memory)
}

/// The valid inputs of a target: plain ones, and packed ones where it looks for packings.
fn valid(target: &str) -> Vec<Valid> {
    let own: Vec<Valid> = fuzz::valid().into_iter().filter(|input| input.target == target).collect();
    let packed = own.iter().filter(|input| target == DETECTED && input.name == "msr").flat_map(|input| {
        let gzip = {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(&input.bytes).expect("in memory");
            packer.finish().expect("in memory")
        };
        let xz = {
            let options = lzma_rust2::XzOptions::with_preset(0);
            let mut packer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("in memory");
            packer.write_all(&input.bytes).expect("in memory");
            packer.finish().expect("in memory")
        };
        let zstd = zstd::encode_all(&input.bytes[..], 1).expect("in memory");
        [("zstd", zstd), ("gzip", gzip), ("xz", xz)]
    });
    let packed: Vec<Valid> =
        packed.map(|(name, bytes)| Valid { target: DETECTED.into(), name: name.into(), bytes }).collect();
    own.into_iter().chain(packed).collect()
}

/// One change of `bytes`, of which `others` may lend some.
fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[Valid]) {
    const EDGES: [u64; 10] =
        [0, 1, 255, 4096, 1 << 31, u32::MAX as u64, 1 << 40, 1 << 63, u64::MAX - 1, u64::MAX];
    let at = random.usize(..=bytes.len());
    let left = bytes.len() - at;
    let edge = EDGES[random.usize(..EDGES.len())];
    match random.u8(..8) {
        0 if left > 0 => bytes[at] = random.u8(..),
        1 if left > 0 => bytes[at] ^= 1 << random.u8(..8),
        2 if left > 0 => drop(bytes.remove(at)),
        3 => bytes.insert(at, b"0,. \n-9\xff\0\""[random.usize(..10)]),
        // A number at an edge: of a record, and in place of digits.
        4 => {
            let length = [1, 2, 4, 8][random.usize(..4)].min(left);
            bytes[at..at + length].copy_from_slice(&edge.to_le_bytes()[..length]);
        }
        5 => {
            let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(at..at + digits, edge.to_string().into_bytes());
        }
        6 => bytes.truncate(at),
        _ => {
            let from = &others[random.usize(..others.len())].bytes;
            let start = random.usize(..from.len());
            let end = from.len().min(start + random.usize(1..100));
            let replaced = if random.bool() { 0 } else { left.min(end - start) };
            bytes.splice(at..at + replaced, from[start..end].iter().copied());
        }
    }
}

fn mutated(random: &mut fastrand::Rng, input: &Valid, others: &[Valid]) -> Vec<u8> {
    let mut bytes = input.bytes.clone();
    // The choice of a reader's options may change too.
    if input.target != DETECTED && random.bool() {
        bytes[0] = random.u8(..);
    }
    (0..random.u32(1..=6)).for_each(|_| mutate(random, &mut bytes, others));
    bytes
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target)
}

fn store_corpus() {
    let mut random = fastrand::Rng::with_seed(1);
    let others = fuzz::valid();
    for target in targets() {
        std::fs::create_dir_all(corpus(&target)).expect("the folder can be made");
        for input in &valid(&target) {
            let store = |kind: &str, bytes: &[u8]| {
                let path = corpus(&target).join(format!("{}-{kind}", input.name));
                std::fs::write(path, bytes).expect("it is stored");
            };
            store("valid", &input.bytes);
            store("mutated", &mutated(&mut random, input, &others));
        }
    }
}

#[test]
fn every_reader_has_a_fuzz_target_of_its_name() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("the fuzz targets have a manifest");
    let named: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    for target in targets() {
        assert!(named.contains(&target.as_str()), "{target} is missing in tests/fuzz/Cargo.toml");
    }
    let gone = named.iter().find(|name| name.starts_with("trace-") && !targets().contains(&name.to_string()));
    assert_eq!(gone, None, "no reader is called so");
}

#[test]
fn valid_traces_are_read_to_their_end_by_their_reader_and_when_nothing_is_known_of_them() {
    assert!(targets().len() > 22, "a format has no target");
    for target in targets() {
        let inputs = valid(&target);
        assert!(!inputs.is_empty(), "{target} has no valid input");
        for input in inputs {
            assert!(run(&target, &input.bytes).0, "{target} {}", input.name);
        }
    }
}

#[test]
fn stored_inputs_do_no_harm() {
    if std::env::var_os("TERRACE_STORE_CORPUS").is_some() {
        store_corpus();
    }
    for target in targets() {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus(&target)).expect("every target has a corpus") {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
            let target = target.clone();
            without_hanging(move || run(&target, &bytes));
            count += 1;
        }
        assert!(count >= 2 * valid(&target).len(), "{target} has {count} inputs");
    }
}

/// Runs `rounds` mutations of one input, and as much noise; how many were read to their end, and the most memory.
fn run_mutations(input: &Valid, others: &[Valid], rounds: u32, random: &mut fastrand::Rng) -> (u32, u64) {
    let (mut read, mut held_max) = (0, 0);
    for _ in 0..rounds {
        let choice = input.bytes[..CHOICE_BYTES].iter().copied();
        let noise: Vec<u8> = choice.chain((0..random.usize(..200)).map(|_| random.u8(..))).collect();
        for bytes in [mutated(random, input, others), noise] {
            let (is_read, memory) = run(&input.target, &bytes);
            read += u32::from(is_read);
            held_max = held_max.max(memory.held_max);
        }
    }
    (read, held_max)
}

#[test]
#[expect(clippy::print_stdout, reason = "what was done is the result")]
fn mutations_of_valid_traces_do_no_harm_to_any_reader() {
    let seed = seed();
    let rounds = if std::env::var_os("TERRACE_SLOW").is_some() { 20_000 } else { 300 };
    let others = fuzz::valid();
    for target in targets() {
        for (number, input) in valid(&target).into_iter().enumerate() {
            let mut random = fastrand::Rng::with_seed(seed ^ number as u64);
            let (format, others) = (input.name.clone(), others.clone());
            let run = move || run_mutations(&input, &others, rounds, &mut random);
            let (read, held_max) = without_hanging(run);
            println!(
                "{target} {format}: {rounds} mutations, {read} inputs read, at most {held_max} bytes held"
            );
            assert!(read < 2 * rounds, "seed {seed}: no mutation of {format} is refused");
        }
    }
}
