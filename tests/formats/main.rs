//! Cache files that were stored when their format was new: each opens, holds what was put into it, and is whole.
//!
//! `FORMAT-NAME.zst` beside this file is a cache file as it was left by [`make`]; what it holds is told by
//! [`EXPECTED`]. A file is stored once, when its format is released, and never made anew: a change of the code that
//! does not read it any more fails here. `TERRACE_STORE_FORMATS` set to a folder makes files of the present format
//! there, for a format that is not released yet.

#[path = "../common/mod.rs"]
mod common;

use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{BLOCK, bytes_of, content, small, ssd_bytes, stored};
use terrace::tiers::device::Identity;
use terrace::tiers::ssd::{FileAtRest, Finding, Structure, Watcher, verify};
use terrace::tiers::testing::MemoryDevice;
use terrace::tiers::{self, Error as TierError};
use terrace::{Background, Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode};

const SSD_BLOCKS: u64 = 64;
const DISK_BLOCKS: u64 = 256;

/// A backing store that always looks the same, whatever is in it.
struct Store(MemoryDevice);

impl Device for Store {
    fn name(&self) -> String {
        "store".into()
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> tiers::Result<()> {
        self.0.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> tiers::Result<()> {
        self.0.write(offset, buffers)
    }

    fn sync(&self) -> tiers::Result<()> {
        self.0.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> tiers::Result<()> {
        self.0.discard(offset, bytes)
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity { bytes: DISK_BLOCKS * BLOCK as u64, modified_ns: -1, inode: 2, device: 3 })
    }
}

fn store() -> Arc<Store> {
    Arc::new(Store(MemoryDevice::new(DISK_BLOCKS * BLOCK as u64)))
}

/// A cache on `ssd` that does nothing by itself, so that what it writes is the same every time.
fn open(ssd: &Arc<MemoryDevice>, size: SsdSize) -> terrace::Result<Cache> {
    let ssd = SsdConfig::on_device(ssd.clone(), size);
    Cache::open(&Config { ssd: Some(ssd), background: Background::OnSettle, ..small(16) })
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    format: u32,
    is_closed_in_order: bool,
    /// Structures that `verify` finds, in the order of its rows.
    checked: [u64; 7],
    /// Clean copies of the volume `clean`.
    clean_blocks: u64,
    /// Blocks of the volume `dirty`, and bytes of them, that only the file has.
    dirty_blocks: u64,
    dirty_bytes: u64,
}

const EXPECTED: [(&str, Held); 3] = [
    (
        "1-closed",
        Held {
            format: 1,
            is_closed_in_order: true,
            checked: [2, 1, 8, 8, 57, 3, 13],
            clean_blocks: 57,
            dirty_blocks: 10,
            dirty_bytes: 37888,
        },
    ),
    (
        "1-killed",
        Held {
            format: 1,
            is_closed_in_order: false,
            checked: [2, 1, 10, 8, 49, 4, 20],
            clean_blocks: 49,
            dirty_blocks: 15,
            dirty_bytes: 58368,
        },
    ),
    // Its records are of format 2.
    (
        "1-chains",
        Held {
            format: 1,
            is_closed_in_order: false,
            checked: [2, 1, 9, 8, 57, 7, 17],
            clean_blocks: 57,
            dirty_blocks: 10,
            dirty_bytes: 37888,
        },
    ),
];

/// Makes a file of this name in the present format.
fn make(name: &str) -> Vec<u8> {
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)));
    let cache = open(&ssd, SsdSize::Blocks(SSD_BLOCKS)).expect("a new file");
    let (clean, dirty) = (store(), store());
    fill(&cache, &clean, &dirty);
    cache.close().expect("it closes");
    let image = || stored(&*ssd, 0, ssd.len_bytes() as usize);
    if name.ends_with("closed") {
        return image();
    }
    let cache = open(&ssd, SsdSize::AsFound).expect("it opens again");
    if name.ends_with("chains") {
        let _clean = cache.attach("clean", clean, WriteMode::Through).expect("attaches");
        let _dirty = write_parts(&cache, &dirty);
        return image();
    }
    let (_clean, _dirty) = use_more(&cache, &clean, &dirty);
    image()
}

/// Blocks 0 to 99 of `clean` are written and read until some are on the SSD; in `dirty` 10 blocks are newer than the
/// backing store, one of them in two sectors alone.
fn fill(cache: &Cache, clean: &Arc<Store>, dirty: &Arc<Store>) {
    let clean = cache.attach("clean", clean.clone(), WriteMode::Through).expect("attaches");
    for round in 0..3 {
        for block in 0..100 {
            if round == 0 {
                write(&clean, block, 1);
            }
            bytes_of(&clean, block * BLOCK as u64, BLOCK);
        }
        cache.settle().expect("nothing fails");
    }
    let dirty = cache.attach("dirty", dirty.clone(), WriteMode::BackSsd).expect("attaches");
    (0..9).for_each(|block| write(&dirty, block, 1));
    dirty.write(9 * BLOCK as u64 + 512, &[9; 1024]).expect("two sectors");
    dirty.flush().expect("nothing fails");
    (0..3).for_each(|block| write(&dirty, block, 2));
    dirty.flush().expect("nothing fails");
}

/// Voids of some clean copies, more dirty blocks, and a volume that was not there before.
fn use_more(cache: &Cache, clean: &Arc<Store>, dirty: &Arc<Store>) -> (Volume, Volume) {
    let clean = cache.attach("clean", clean.clone(), WriteMode::Back).expect("attaches");
    (60..64).for_each(|block| write(&clean, block, 3));
    clean.discard(64 * BLOCK as u64, 8 * BLOCK as u64).expect("in range");
    clean.flush().expect("nothing fails");
    let dirty = cache.attach("dirty", dirty.clone(), WriteMode::BackSsd).expect("attaches");
    (2..4).for_each(|block| write(&dirty, block, 3));
    (20..25).for_each(|block| write(&dirty, block, 3));
    dirty.flush().expect("nothing fails");
    (clean, dirty)
}

/// The log has two more copies of block 0 and two of block 1, each with a part of the block.
fn write_parts(cache: &Cache, dirty: &Arc<Store>) -> Volume {
    let dirty = cache.attach("dirty", dirty.clone(), WriteMode::BackSsd).expect("attaches");
    for (block, part) in PARTS {
        let (start, bytes) = part_of(part);
        dirty.write(block * BLOCK as u64 + start as u64, &bytes).expect("a write succeeds");
        dirty.flush().expect("nothing fails");
    }
    dirty
}

/// Blocks and parts of them, in the order in which they are written.
const PARTS: [(u64, usize); 4] = [(0, 0), (1, 0), (0, 1), (1, 2)];

/// Where part number `part` lies in a block, and its bytes; neighbours overlap.
fn part_of(part: usize) -> (usize, Vec<u8>) {
    (512 * part, vec![part as u8 + 100; 1024])
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK as u64, &content(block, number)).expect("a write succeeds");
}

/// What is newest of a block of `dirty`, over a backing store of zeros.
fn newest(block: u64, name: &str) -> Vec<u8> {
    let again = name.ends_with("killed");
    let mut bytes = match block {
        2 | 3 | 20..=24 if again => content(block, 3),
        0..=2 => content(block, 2),
        3..=8 => content(block, 1),
        9 => [vec![0; 512], vec![9; 1024], vec![0; BLOCK - 1536]].concat(),
        _ => vec![0; BLOCK],
    };
    let has_parts = name.ends_with("chains");
    for (_, part) in PARTS.iter().filter(|(of, _)| has_parts && *of == block) {
        let (start, part) = part_of(*part);
        bytes[start..start + part.len()].copy_from_slice(&part);
    }
    bytes
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

/// The stored file of this name, in a device of its own.
fn load(name: &str) -> Arc<MemoryDevice> {
    let packed = std::fs::read(folder().join(format!("{name}.zst"))).expect("it is stored");
    device_of(&zstd::decode_all(&packed[..]).expect("it is whole"))
}

fn device_of(bytes: &[u8]) -> Arc<MemoryDevice> {
    let device = MemoryDevice::new(bytes.len() as u64);
    device.write(0, &[IoSlice::new(bytes)]).expect("it fits");
    Arc::new(device)
}

/// Demands that there is nothing to tell.
struct Whole;

impl Watcher for Whole {
    fn at(&mut self, _: u64) {}

    fn found(&mut self, finding: Finding) {
        panic!("{finding:?}");
    }
}

/// What the file on `device` holds; it must be whole.
fn look(device: &MemoryDevice) -> Held {
    let info = FileAtRest::open(device).and_then(|file| file.info()).expect("it opens");
    let rows = verify(device, &mut Whole).expect("it can be read");
    let volume =
        |wanted: &str| info.volumes.iter().find(|volume| volume.name == wanted).expect("it is known");
    let dirty = volume("dirty");
    assert!(dirty.oldest_dirty_s.is_some_and(|written_s| written_s > 1_700_000_000), "{dirty:?}");
    Held {
        format: info.format,
        is_closed_in_order: info.is_closed_in_order,
        checked: rows.map(|row| row.checked),
        clean_blocks: volume("clean").clean_blocks,
        dirty_blocks: dirty.dirty_blocks,
        dirty_bytes: dirty.dirty_bytes,
    }
}

/// Opens a cache on the file, which must have what was written into it, and closes that in order.
fn check_content(device: &Arc<MemoryDevice>, name: &str, held: &Held) {
    let cache = open(device, SsdSize::AsFound).expect("it opens");
    let dirty = cache.attach("dirty", store(), WriteMode::BackSsd).expect("it attaches");
    for block in 0..40 {
        let found = bytes_of(&dirty, block * BLOCK as u64, BLOCK);
        assert!(found == newest(block, name), "{name}: block {block}");
    }
    // The backing store is empty now: what is read as it was comes from the SSD.
    let clean = cache.attach("clean", store(), WriteMode::Back).expect("it attaches");
    cache.settle().expect("all summaries are read");
    let mut served = 0;
    for block in 0..100 {
        let found = bytes_of(&clean, block * BLOCK as u64, BLOCK);
        served += u64::from(found == content(block, 1));
        assert!(found == content(block, 1) || found == [0; BLOCK], "{name}: block {block}");
    }
    let wanted = if held.is_closed_in_order { held.clean_blocks } else { 0 };
    assert_eq!(served, wanted, "{name}: a volume that was not left in order is cold");
    drop((clean, dirty));
    cache.settle().expect("the log is destaged");
    cache.close().expect("it closes");
}

#[test]
fn every_stored_file_is_whole_opens_and_holds_what_was_put_into_it() {
    for (name, held) in &EXPECTED {
        let device = load(name);
        assert_eq!(look(&device), *held, "{name}");
        check_content(&device, name, held);
    }
}

/// So that there is something to store when the next format is released.
#[test]
#[expect(clippy::print_stdout, reason = "what was made goes into the list above")]
fn files_of_the_present_format_can_be_made() {
    for (name, expected) in &EXPECTED {
        let made = make(name);
        let held = look(&device_of(&made));
        if let Some(folder) = std::env::var_os("TERRACE_STORE_FORMATS") {
            let packed = zstd::encode_all(&made[..], 19).expect("in memory");
            std::fs::write(Path::new(&folder).join(format!("{name}.zst")), packed)
                .expect("the folder is there");
            println!("{name}: {held:?}");
        }
        assert_eq!(held.is_closed_in_order, expected.is_closed_in_order, "{name}");
        check_content(&device_of(&made), name, &held);
    }
}

#[test]
fn an_older_and_a_newer_format_are_refused_with_the_field_that_differs() {
    for format in [b'0', b'2', b'9'] {
        let device = load("1-closed");
        for copy in 0..2 {
            device.write(copy * 4096 + 7, &[IoSlice::new(&[format])]).expect("in range");
        }
        let Err(Error::Tier(error)) = open(&device, SsdSize::AsFound) else { panic!("it opens") };
        let TierError::Mismatch { field, in_file, wanted, .. } = &*error else { panic!("{error}") };
        assert_eq!(
            (*field, in_file.as_str(), wanted.as_str()),
            ("format", &*char::from(format).to_string(), "1")
        );
    }
}

#[test]
fn the_stored_files_have_every_structure() {
    let kinds = [
        Structure::Superblock,
        Structure::Checkpoint,
        Structure::JournalFrame,
        Structure::Summary,
        Structure::CleanBlock,
        Structure::Record,
        Structure::DirtyBlock,
    ];
    for (at, kind) in kinds.iter().enumerate() {
        assert!(EXPECTED.iter().any(|(_, held)| held.checked[at] > 0), "{kind:?}");
    }
}
