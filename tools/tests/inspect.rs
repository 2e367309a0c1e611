//! `terrace inspect` on cache files that real caches made: closed, killed, damaged, of another release.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{Playground, Run, json};
use serde_json::Value;
use terrace::tiers::backing::file::FileBacking;
use terrace::{Background, BlockSize, Cache, Config, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK: usize = 4096;
const SSD_BLOCKS: u64 = 256;
const DISK_BLOCKS: u64 = 512;

/// A cache with its file in `folder` that brings nothing below by itself.
fn open(folder: &Path) -> Cache {
    let mut config = Config::new(RamSize::Blocks(64));
    config.block_size = BlockSize::new(BLOCK as u64).expect("a block size");
    config.background = Background::OnSettle;
    let ssd = SsdConfig::new(folder.join("cache"), SsdSize::Blocks(SSD_BLOCKS));
    config.ssd = Some(SsdConfig { prepare: false, ..ssd });
    Cache::open(&config).expect("the cache opens")
}

/// The volume `name`, on a file of that name.
fn attach(cache: &Cache, folder: &Path, name: &str, mode: WriteMode) -> Volume {
    let disk = FileBacking::create(folder.join(name), DISK_BLOCKS * BLOCK as u64).expect("a backing file");
    cache.attach(name, Arc::new(disk), mode).expect("the volume attaches")
}

fn content(block: u64, number: u64) -> Vec<u8> {
    (block << 32 | number).to_le_bytes().iter().copied().cycle().take(BLOCK).collect()
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK as u64, &content(block, number)).expect("a write succeeds");
}

/// What the backing file of `name` has in `block`.
fn below(ground: &Playground, name: &str, block: u64) -> Vec<u8> {
    let mut file = fs::File::open(ground.path().join(name)).expect("it is there");
    file.seek(SeekFrom::Start(block * BLOCK as u64)).expect("a file");
    let mut bytes = vec![0; BLOCK];
    file.read_exact(&mut bytes).expect("it is long enough");
    bytes
}

/// A closed file with 10 dirty blocks of `disk`, one of them written twice, and 5 of `other`.
fn closed_with_dirty(ground: &Playground) {
    let cache = open(ground.path());
    let disk = attach(&cache, ground.path(), "disk", WriteMode::BackSsd);
    let other = attach(&cache, ground.path(), "other", WriteMode::BackSsd);
    (0..10).for_each(|block| write(&disk, block, 1));
    disk.flush().expect("it goes to the log");
    write(&disk, 3, 2);
    (20..25).for_each(|block| write(&other, block, 1));
    drop((disk, other));
    cache.close().expect("it closes");
}

fn inspect(ground: &Playground, arguments: &[&str]) -> Run {
    ground.terrace(&[&["inspect"], arguments].concat())
}

/// Runs what must be refused: exit code 2, one line with a remedy, and nothing changed.
fn refused(ground: &Playground, arguments: &[&str]) -> String {
    let before = ground.listing();
    let run = inspect(ground, arguments);
    let (arguments, line) = (arguments.join(" "), run.stderr);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments}: {line}");
    assert!(line.lines().count() == 1 && line.contains("; "), "{arguments}: {line}");
    assert_eq!(ground.listing(), before, "{arguments} changed something");
    line
}

fn info(ground: &Playground) -> Value {
    json(&inspect(ground, &["info", "cache", "--json"]))
}

/// The entry of `name` in what `info` said.
fn volume<'a>(info: &'a Value, name: &str) -> &'a Value {
    let volumes = info["volumes"].as_array().expect("a list");
    volumes.iter().find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("no {name} in {info}"))
}

fn dirty(info: &Value, name: &str) -> u64 {
    volume(info, name)["dirty_blocks"].as_u64().expect("a number")
}

/// Where `bytes` begin in the cache file.
fn find(ground: &Playground, bytes: &[u8]) -> u64 {
    let file = fs::read(ground.path().join("cache")).expect("it is there");
    let mut blocks = file.chunks_exact(BLOCK);
    let at = blocks.position(|block| block.starts_with(bytes)).expect("the file has it");
    (at * BLOCK) as u64
}

fn flip(ground: &Playground, offset: u64) {
    let path = ground.path().join("cache");
    let mut file = fs::read(&path).expect("it is there");
    file[offset as usize] ^= 0x10;
    fs::write(path, file).expect("it is ours");
}

#[test]
fn a_closed_file_tells_its_volumes_and_is_safe_to_unplug_only_without_dirty_blocks() {
    let ground = Playground::new();
    closed_with_dirty(&ground);
    let before = ground.listing();
    let found = info(&ground);
    assert_eq!((&found["closed_in_order"], &found["safe_to_unplug"]), (&true.into(), &false.into()));
    assert_eq!((dirty(&found, "disk"), dirty(&found, "other")), (10, 5));
    let disk = volume(&found, "disk");
    assert_eq!((&disk["warm"], &disk["dirty_bytes"]), (&true.into(), &(10 * BLOCK).into()));
    assert!(disk["oldest_dirty_seconds"].as_u64().expect("there is one") < 3600);
    assert_eq!(disk["identity"]["bytes"], DISK_BLOCKS * BLOCK as u64);
    let text = inspect(&ground, &["info", "cache"]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    let last = text.stdout.lines().last().expect("there are some");
    assert!(
        last.starts_with("NOT safe to unplug: 10 dirty blocks (40 KiB) of disk, 5 dirty blocks (20 KiB) of other are nowhere else"),
        "{last}"
    );
    assert_eq!(inspect(&ground, &["verify", "cache"]).code, Some(0));
    inspect(&ground, &["explain", "cache", "disk", "3"]);
    assert_eq!(ground.listing(), before, "looking changes nothing");

    let arguments = ["drain", "cache", "--volume", "disk=disk", "--volume", "other=other"];
    let run = inspect(&ground, &arguments);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.ends_with("cache is clean.\n"), "{}", run.stdout);
    for block in 0..10 {
        assert_eq!(below(&ground, "disk", block), content(block, if block == 3 { 2 } else { 1 }));
    }
    assert_eq!(below(&ground, "other", 24), content(24, 1));
    let found = info(&ground);
    assert_eq!((&found["closed_in_order"], &found["safe_to_unplug"]), (&true.into(), &true.into()));
    assert_eq!((&volume(&found, "disk")["warm"], &found["segments"]["dirty"]), (&true.into(), &0.into()));
    let again = inspect(&ground, &["drain", "cache"]);
    assert_eq!(again.code, Some(0), "nothing to do: {}", again.stderr);
}

#[test]
fn a_mark_is_shown_with_the_file_that_it_names_and_whether_this_one_is_older() {
    let ground = Playground::new();
    closed_with_dirty(&ground);
    let old = fs::read(ground.path().join("cache")).expect("it is there");
    let marks = ["info", "cache", "--mark", "disk=disk.terrace", "--mark", "other=other.terrace"];
    let look = || {
        let run = inspect(&ground, &[&marks[..], &["--json"]].concat());
        let (found, text) = (json(&run), inspect(&ground, &marks).stdout);
        let disk = volume(&found, "disk").clone();
        let line = text.lines().find(|line| line.starts_with("mark of disk (disk.terrace)"));
        (disk["mark"].clone(), line.expect("it has a line").to_string(), found["file_id"].clone())
    };
    let (mark, line, file_id) = look();
    assert_eq!((&mark["holder"], &mark["holder_is_this_file"]), (&file_id, &true.into()));
    assert_eq!(mark["file_is_older"], false);
    assert!(line.contains("names this file") && line.ends_with("and is believed"), "{line}");
    let before = mark["serial"].as_u64().expect("a number");

    // Attached in that mode again the volume gets a newer mark, and then a copy of long ago comes back.
    let cache = open(ground.path());
    let disk = attach(&cache, ground.path(), "disk", WriteMode::BackSsd);
    write(&disk, 0, 3);
    drop(disk);
    cache.close().expect("it closes");
    drop(cache);
    assert_eq!(look().0["file_is_older"], false);
    fs::write(ground.path().join("cache"), old).expect("it is ours");
    let (mark, line, _) = look();
    assert!(mark["serial"].as_u64().expect("a number") > before);
    assert_eq!((&mark["file_is_older"], &mark["holder_is_this_file"]), (&true.into(), &true.into()));
    assert!(line.contains("is older than the mark: attaching the volume is refused"), "{line}");
    let without = inspect(&ground, &["info", "cache"]).stdout;
    assert!(without.contains("--mark disk=PATH compares it"), "{without}");

    refused(&ground, &["info", "cache", "--mark", "disk=missing"]);
    refused(&ground, &["info", "cache", "--mark", "disk=disk"]);
    refused(&ground, &["info", "cache", "--mark", "third=disk.terrace"]);
}

#[test]
fn a_file_in_use_is_refused_and_two_may_look_at_once() {
    let ground = Playground::new();
    let cache = open(ground.path());
    let disk = attach(&cache, ground.path(), "disk", WriteMode::BackSsd);
    for arguments in [&["info", "cache"][..], &["verify", "cache"], &["explain", "cache", "disk", "0"]] {
        assert!(refused(&ground, arguments).contains("in use"));
    }
    refused(&ground, &["drain", "cache", "--volume", "disk=disk"]);
    drop(disk);
    cache.close().expect("it closes");
    drop(cache);
    let file = fs::File::open(ground.path().join("cache")).expect("it is there");
    file.lock_shared().expect("nobody owns it");
    info(&ground);
    assert!(refused(&ground, &["drain", "cache"]).contains("in use by another process"));
}

/// The folder of the child that is killed.
const CHILD: &str = "TERRACE_INSPECT_CHILD";

/// Writes without end, and says after each flush how many blocks are kept.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn be_the_child(folder: &Path) -> ! {
    let cache = open(folder);
    let disk = attach(&cache, folder, "disk", WriteMode::BackSsd);
    for number in 0.. {
        write(&disk, number % 40, number);
        disk.flush().expect("it goes to the log");
        println!("\nkept {number}");
    }
    unreachable!("it is killed before")
}

/// Kills a child after its flush number `flushes`; gives the last that was acknowledged.
fn kill_a_writer(test: &str, folder: &Path, flushes: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test is a file"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let mut kept = 0;
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for line in lines.map_while(std::result::Result::ok) {
        let Some(number) = line.strip_prefix("kept ") else { continue };
        kept = number.parse().expect("a number");
        if kept == flushes {
            child.kill().expect("a child of ours");
        }
    }
    child.wait().expect("a child of ours");
    kept
}

#[test]
fn a_killed_owner_leaves_a_whole_file_whose_blocks_are_explained_and_drained() {
    if let Some(folder) = std::env::var_os(CHILD) {
        be_the_child(&PathBuf::from(folder));
    }
    let ground = Playground::new();
    let test = "a_killed_owner_leaves_a_whole_file_whose_blocks_are_explained_and_drained";
    let flushes = fastrand::u64(1..300);
    let kept = kill_a_writer(test, ground.path(), flushes);
    let found = info(&ground);
    assert_eq!(found["closed_in_order"], false, "{flushes} flushes");
    assert_eq!(volume(&found, "disk")["why"], "it was in use when the file was left");
    let verified = json(&inspect(&ground, &["verify", "cache", "--json"]));
    assert_eq!(verified["damaged"], 0, "{flushes} flushes: {verified}");

    let block = kept % 40;
    let explained = json(&inspect(&ground, &["explain", "cache", "disk", &block.to_string(), "--json"]));
    assert_eq!(explained["answered_by"], "log", "{flushes} flushes: {explained}");
    let copies = explained["copies"].as_array().expect("a list");
    assert_eq!((&copies[0]["wins"], &copies[0]["whole"]), (&true.into(), &true.into()));
    assert!(copies[1..].iter().all(|copy| copy["verdict"].as_str().expect("text").starts_with("loses: ")));
    let offset = format!("{}B", block * BLOCK as u64 + 5);
    let by_offset = json(&inspect(&ground, &["explain", "cache", "disk", &offset, "--json"]));
    assert_eq!(by_offset, explained);

    // A volume that was not left in order has no record of how it looked.
    let run = inspect(&ground, &["drain", "cache", "--volume", "disk=disk"]);
    assert_eq!(run.code, Some(0), "{flushes} flushes: {}", run.stderr);
    let last = kept.saturating_sub(39)..=kept;
    for number in last {
        let found = below(&ground, "disk", number % 40);
        let later = content(number % 40, number + 40);
        assert!(found == content(number % 40, number) || found == later, "{flushes} flushes, write {number}");
    }
    assert_eq!(info(&ground)["safe_to_unplug"], true);
}

#[test]
fn a_backing_store_that_is_not_as_it_was_left_is_written_to_only_when_told_to() {
    let ground = Playground::new();
    closed_with_dirty(&ground);
    let line = refused(&ground, &["drain", "cache", "--volume", "disk=disk"]);
    assert!(line.contains("add --volume other=PATH"), "{line}");
    refused(&ground, &["drain", "cache", "--volume", "disk=disk", "--volume", "what=disk"]);
    refused(&ground, &["drain", "cache", "--volume", "disk=disk", "--volume", "disk=other"]);
    refused(&ground, &["drain", "cache", "--volume", "disk=gone", "--volume", "other=other"]);
    refused(&ground, &["drain", "cache", "--volume", "disk"]);
    let short = fs::File::create(ground.path().join("short")).expect("a file");
    short.set_len(20 * BLOCK as u64).expect("a length");
    let line =
        refused(&ground, &["drain", "cache", "--volume", "disk=disk", "--volume", "other=short", "--insist"]);
    assert!(line.contains("before the last dirty block"), "{line}");

    let mut disk = fs::OpenOptions::new().write(true).open(ground.path().join("disk")).expect("it is there");
    disk.write_all(&[7; 3 * BLOCK]).expect("it is ours");
    disk.seek(SeekFrom::Start(40 * BLOCK as u64)).expect("a file");
    disk.write_all(&[9; BLOCK]).expect("it is ours");
    let arguments = ["drain", "cache", "--volume", "disk=disk", "--volume", "other=other"];
    let line = refused(&ground, &arguments);
    assert!(line.contains("was changed") && line.contains("--insist"), "{line}");
    let run = inspect(&ground, &[&arguments[..], &["--insist"]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(below(&ground, "disk", 0), content(0, 1));
    assert_eq!(below(&ground, "disk", 40), [9; BLOCK], "what the file does not have stays");
    assert_eq!(info(&ground)["safe_to_unplug"], true);
}

#[test]
fn a_discard_that_only_the_file_knows_is_not_safe_to_unplug_and_is_drained() {
    let ground = Playground::new();
    let cache = open(ground.path());
    let disk = attach(&cache, ground.path(), "disk", WriteMode::BackSsd);
    write(&disk, 7, 1);
    disk.flush().expect("it goes to the log");
    cache.settle().expect("it goes below");
    disk.discard(7 * BLOCK as u64, BLOCK as u64).expect("in range");
    disk.flush().expect("it goes to the journal");
    drop(disk);
    cache.close().expect("it closes");
    drop(cache);
    let found = info(&ground);
    assert_eq!((&found["safe_to_unplug"], dirty(&found, "disk")), (&false.into(), 0), "{found}");
    assert_eq!(volume(&found, "disk")["discarded_ranges"], 1);
    let explained = json(&inspect(&ground, &["explain", "cache", "disk", "7", "--json"]));
    assert_eq!(explained["answered_by"], "zeros", "{explained}");
    assert_eq!(below(&ground, "disk", 7), content(7, 1), "the backing store was not told");

    let run = inspect(&ground, &["drain", "cache", "--volume", "disk=disk"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("volume disk: 1 discarded ranges went to"), "{}", run.stdout);
    assert_eq!(info(&ground)["safe_to_unplug"], true);
    assert_eq!(below(&ground, "disk", 7), [0; BLOCK]);
}

#[test]
fn a_damaged_dirty_block_is_named_explained_and_left_behind_by_a_drain() {
    let ground = Playground::new();
    closed_with_dirty(&ground);
    flip(&ground, find(&ground, &content(7, 1)) + 100);
    let run = inspect(&ground, &["verify", "cache"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(
        run.stdout.contains("block 7 of volume disk") && run.stdout.contains("reads of it fail"),
        "{}",
        run.stdout
    );
    let explained = json(&inspect(&ground, &["explain", "cache", "disk", "7", "--json"]));
    assert_eq!(explained["answer"], "reads of it fail: the only copy of it is damaged");

    let run = inspect(&ground, &["drain", "cache", "--volume", "disk=disk", "--volume", "other=other"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("1 dirty block"), "{}", run.stderr);
    assert_eq!(below(&ground, "disk", 8), content(8, 1));
    assert_eq!(dirty(&info(&ground), "disk"), 1);
}

#[test]
fn damage_that_keeps_the_file_from_opening_is_told_by_verify_and_named_by_the_others() {
    let ground = Playground::new();
    closed_with_dirty(&ground);
    flip(&ground, find(&ground, b"TERRREC2") + 70);
    let run = inspect(&ground, &["verify", "cache", "--json"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).expect("one JSON object");
    assert_eq!(report["findings"][0]["structure"], "log records", "{report}");
    assert!(report["findings"][0]["consequence"].as_str().expect("text").contains("refused"));
    for arguments in [&["info", "cache"][..], &["explain", "cache", "disk", "1"], &["drain", "cache"]] {
        let line = refused(&ground, arguments);
        assert!(line.contains("damaged") && line.contains("inspect verify"), "{line}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_in_one_line() {
    let ground = Playground::new();
    ground.file("empty", b"");
    ground.file("foreign", &vec![0x5a; 1 << 20]);
    for file in ["missing", "empty", "foreign", "."] {
        refused(&ground, &["info", file]);
        refused(&ground, &["verify", file]);
        refused(&ground, &["explain", file, "disk", "1"]);
        refused(&ground, &["drain", file]);
    }
    closed_with_dirty(&ground);
    refused(&ground, &["explain", "cache", "nobody", "1"]);
    refused(&ground, &["explain", "cache", "disk", "many"]);
    refused(&ground, &["explain", "cache", "disk", "2000000000000"]);
    refused(&ground, &["info"]);
    let line = refused(&ground, &[]);
    assert!(line.contains("terrace inspect --help"), "{line}");
    let mut file = fs::read(ground.path().join("cache")).expect("it is there");
    (file[7], file[BLOCK + 7]) = (b'9', b'9');
    ground.file("newer", &file);
    let line = refused(&ground, &["info", "newer"]);
    assert!(line.contains("format 9, 1 was asked for"), "{line}");
}
