//! `terrace inspect info`: what a cache file holds.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;
use terrace::tiers::device::Identity;
use terrace::tiers::ssd::{FileAtRest, FileInfo, VolumeInfo, Warmth};

use super::drain::parse_volume;
use super::keys::{self, Keys};
use super::marks::{self, GivenMark, MarkReport};
use crate::failure::Result;
use crate::table::{table, table_with_text};
use crate::units::{show_bytes, show_count};

/// What a cache file holds, by volume, and whether it is safe to unplug
#[derive(Args, Debug)]
#[command(after_long_help = keys::help(KEYS, "0, the file was read; 2, it cannot be."))]
pub(crate) struct InfoArgs {
    /// The cache file or device
    file: PathBuf,

    /// A volume and its mark, to be compared with what the file knows of it: `disk.img.terrace` beside the backing file
    /// `disk.img`, or where its cache was told to keep it. Once for each volume; a volume that never wrote back to an SSD
    /// has none
    #[arg(long = "mark", value_name = "NAME=PATH", value_parser = parse_volume)]
    marks: Vec<(String, PathBuf)>,

    /// One JSON object in place of the tables; its keys are at the end of --help
    #[arg(long)]
    json: bool,
}

const KEYS: Keys = &[
    ("file", "the path that was given"),
    ("format", "version of the format; one that this release does not know is refused"),
    ("file_id", "the identity of the file: 16 hexadecimal digits, new when it is made anew"),
    ("block_bytes", "bytes of a block"),
    ("file_bytes", "bytes that it takes"),
    ("capacity_blocks", "blocks that it caches"),
    ("segment_bytes", "bytes of a segment: what is emptied together"),
    ("segments", "how many there are of each kind"),
    ("segments.clean", "hold blocks that came from RAM"),
    ("segments.reinserted", "hold blocks that were worth keeping when another segment was emptied"),
    ("segments.dirty", "of the log of blocks that the backing store does not have"),
    ("segments.free", "hold nothing"),
    ("segments.unwritten", "of the free ones, those never written"),
    (
        "segments.forgotten",
        "of the free ones, those whose blocks are forgotten because the owner ended before they were listed",
    ),
    ("free_bytes", "bytes of the free segments"),
    (
        "closed_in_order",
        "whether its owner closed it; if not, clean copies of volumes in use are not believed",
    ),
    ("journal_entries", "entries that the next opening takes from the journal"),
    ("volumes", "one object for each volume that the file knows"),
    ("volumes.name", "as it was attached"),
    ("volumes.number", "its number in this file"),
    ("volumes.warm", "whether clean copies serve again when it is attached looking as recorded"),
    ("volumes.why", "why, or why not"),
    (
        "volumes.identity",
        "what its backing store looked like when it was left in order; null when it was not, or says nothing",
    ),
    ("volumes.identity.bytes", "its size"),
    (
        "volumes.identity.generation",
        "the number that its owner gave it in place of what follows; null without one",
    ),
    (
        "volumes.identity.modified_ns",
        "when it was changed last, in nanoseconds since 1970; null of one with a number",
    ),
    ("volumes.identity.inode", "its inode; null of one with a number"),
    ("volumes.identity.device", "the device that it is on; null of one with a number"),
    ("volumes.clean_blocks", "copies that the backing store has too"),
    ("volumes.dirty_blocks", "blocks that the backing store does not have"),
    ("volumes.dirty_bytes", "bytes of them that were written"),
    ("volumes.discarded_ranges", "ranges that were discarded, which the backing store was not told yet"),
    (
        "volumes.oldest_dirty_seconds",
        "age of the oldest dirty block; null without any, or when its clock was another one",
    ),
    ("volumes.mark_known", "serial number of its mark that the file knows; 0 for none"),
    ("volumes.mark", "the mark that --mark named; null without it"),
    ("volumes.mark.path", "where it is"),
    ("volumes.mark.serial", "its serial number; a file that knows a lower one is older than the mark"),
    (
        "volumes.mark.holder",
        "identity of the cache file that may have blocks newer than the backing store; null for none",
    ),
    ("volumes.mark.holder_is_this_file", "whether that is this file"),
    ("volumes.mark.file_is_older", "whether this file is older than the mark"),
    ("volumes.mark.verdict", "what attaching the volume with this file makes of that, in a sentence"),
    ("counters", "what is counted on from opening to opening"),
    ("counters.openings", "how often it was opened"),
    ("counters.checkpoints", "checkpoints made"),
    ("counters.superblock_sequence", "superblocks written"),
    ("counters.journal_last", "number of the last journal entry"),
    ("counters.next_generation", "the next use of a segment gets this number"),
    ("counters.next_sequence", "the next summary gets this number"),
    ("counters.next_volume", "the next new volume gets this number"),
    ("counters.next_record", "the next record of the log gets this number"),
    ("counters.records_synced", "every record up to this one is known to be durable"),
    ("safe_to_unplug", "whether nothing is lost with the file"),
    ("reason", "why, in a sentence"),
];

#[derive(Serialize)]
struct Report {
    file: String,
    format: u32,
    file_id: String,
    block_bytes: usize,
    file_bytes: u64,
    capacity_blocks: u64,
    segment_bytes: u64,
    segments: Segments,
    free_bytes: u64,
    closed_in_order: bool,
    journal_entries: u64,
    volumes: Vec<VolumeReport>,
    counters: Counters,
    safe_to_unplug: bool,
    reason: String,
}

#[derive(Serialize)]
struct Segments {
    clean: u32,
    reinserted: u32,
    dirty: u32,
    free: u32,
    unwritten: u32,
    forgotten: u32,
}

#[derive(Serialize)]
struct Counters {
    openings: u32,
    checkpoints: u64,
    superblock_sequence: u64,
    journal_last: u64,
    next_generation: u32,
    next_sequence: u64,
    next_volume: u32,
    next_record: u64,
    records_synced: u64,
}

#[derive(Serialize)]
struct VolumeReport {
    name: String,
    number: u32,
    warm: bool,
    why: &'static str,
    identity: Option<IdentityReport>,
    clean_blocks: u64,
    dirty_blocks: u64,
    dirty_bytes: u64,
    discarded_ranges: u64,
    oldest_dirty_seconds: Option<u64>,
    mark_known: u64,
    mark: Option<MarkReport>,
}

#[derive(Serialize)]
struct IdentityReport {
    bytes: u64,
    generation: Option<u64>,
    /// None beyond the year 2262.
    modified_ns: Option<i64>,
    inode: Option<u64>,
    device: Option<u64>,
}

pub(super) fn main(args: &InfoArgs, print: impl Fn(&str)) -> Result<()> {
    let device = super::open_file(&args.file)?;
    let info = FileAtRest::open(&device).and_then(|file| file.info());
    let info = info.map_err(|error| super::unreadable(&args.file, error))?;
    let marks = marks::load(&args.marks, &info)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let report = Report::new(args.file.display().to_string(), &info, &marks, now.as_secs());
    print(&if args.json { keys::json(&report) } else { show(&report) });
    Ok(())
}

impl Report {
    fn new(file: String, info: &FileInfo, marks: &[GivenMark], now_s: u64) -> Self {
        let FileInfo { geometry, segments, counters, .. } = info;
        let (safe_to_unplug, reason) = safety(&file, info);
        Self {
            file,
            format: info.format,
            file_id: format!("{:016x}", info.file_id),
            block_bytes: geometry.block_size.bytes(),
            file_bytes: geometry.file_bytes(),
            capacity_blocks: geometry.capacity_blocks(),
            segment_bytes: geometry.segment_bytes,
            segments: Segments {
                clean: segments.clean,
                reinserted: segments.reinserted,
                dirty: segments.dirty,
                free: segments.free,
                unwritten: segments.unwritten,
                forgotten: segments.forgotten,
            },
            free_bytes: u64::from(segments.free) * geometry.segment_bytes,
            closed_in_order: info.is_closed_in_order,
            journal_entries: info.journal_entries,
            volumes: info
                .volumes
                .iter()
                .map(|volume| VolumeReport::new(info, volume, marks, now_s))
                .collect(),
            counters: Counters {
                openings: counters.openings,
                checkpoints: counters.checkpoints,
                superblock_sequence: counters.superblock_sequence,
                journal_last: counters.journal_last,
                next_generation: counters.next_generation,
                next_sequence: counters.next_sequence,
                next_volume: counters.next_volume,
                next_record: counters.next_record,
                records_synced: counters.records_synced,
            },
            safe_to_unplug,
            reason,
        }
    }
}

impl VolumeReport {
    fn new(info: &FileInfo, volume: &VolumeInfo, marks: &[GivenMark], now_s: u64) -> Self {
        let why = match volume.warmth {
            Warmth::Warm => "it was left in order, and is warm if its backing store looks as it did",
            Warmth::ColdNotDetached => "it was in use when the file was left",
            Warmth::WarmIfExclusive => {
                "it was in use when the file was left, and comes back warm only if it is attached as exclusive"
            }
            Warmth::ColdNoIdentity => "its backing store does not say whether it changed",
        };
        Self {
            name: volume.name.clone(),
            number: volume.id.number(),
            warm: volume.warmth == Warmth::Warm,
            why,
            identity: volume.identity.map(|identity| IdentityReport::of(&identity)),
            clean_blocks: volume.clean_blocks,
            dirty_blocks: volume.dirty_blocks,
            dirty_bytes: volume.dirty_bytes,
            discarded_ranges: volume.discarded_ranges,
            oldest_dirty_seconds: volume
                .oldest_dirty_s
                .and_then(|written_s| now_s.checked_sub(written_s.into())),
            mark_known: volume.mark,
            mark: marks
                .iter()
                .find(|given| given.volume == volume.name)
                .map(|given| given.report(info.file_id, volume)),
        }
    }
}

impl IdentityReport {
    fn of(identity: &Identity) -> Self {
        let generation = identity.generation();
        let is_found = generation.is_none();
        Self {
            bytes: identity.bytes,
            generation,
            modified_ns: i64::try_from(identity.modified_ns).ok().filter(|_| is_found),
            inode: is_found.then_some(identity.inode),
            device: is_found.then_some(identity.device),
        }
    }
}

/// Whether the file may go, and why, in a sentence.
fn safety(file: &str, info: &FileInfo) -> (bool, String) {
    let dirty: Vec<&VolumeInfo> = info.volumes.iter().filter(|volume| volume.is_dirty()).collect();
    if dirty.is_empty() {
        let end = if info.is_closed_in_order {
            ""
        } else {
            "; it was not closed in order, and what its owner had in RAM alone is not in it either"
        };
        return (true, format!("no block in it is newer than its backing store{end}"));
    }
    let flags: Vec<String> = dirty.iter().map(|volume| format!("--volume {}=PATH", volume.name)).collect();
    let what = dirty.iter().map(|volume| format!("{} of {}", super::dirt(volume), volume.name));
    let reason = format!(
        "{} are nowhere else; `terrace inspect drain {file} {}` brings them to the backing store",
        what.collect::<Vec<_>>().join(", "),
        flags.join(" "),
    );
    (false, reason)
}

fn show(report: &Report) -> String {
    let closed = if report.closed_in_order {
        "closed in order".to_string()
    } else {
        format!("NOT closed in order, {} journal entries to take in", show_count(report.journal_entries))
    };
    let sizes = format!(
        "{}: format {}, identity {}, {closed}\n{} for {} blocks of {}, in segments of {}",
        report.file,
        report.format,
        report.file_id,
        show_bytes(report.file_bytes),
        show_count(report.capacity_blocks),
        show_bytes(report.block_bytes as u64),
        show_bytes(report.segment_bytes),
    );
    let unplug = if report.safe_to_unplug { "Safe to unplug" } else { "NOT safe to unplug" };
    format!(
        "{sizes}\n{}\n{}{}\n{}\n{unplug}: {}.",
        volumes(report),
        marks_of(report),
        segments(report),
        counters(&report.counters),
        report.reason
    )
}

fn volumes(report: &Report) -> String {
    let rows = report.volumes.iter().map(|volume| {
        let warm = if volume.warm { "warm" } else { "cold" };
        vec![
            volume.name.clone(),
            volume.number.to_string(),
            show_count(volume.clean_blocks),
            show_count(volume.dirty_blocks),
            show_bytes(volume.dirty_bytes),
            show_count(volume.discarded_ranges),
            volume.oldest_dirty_seconds.map_or("-".into(), show_age),
            format!("{warm}: {}", volume.why),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return "no volume".into();
    }
    let head =
        ["volume", "number", "clean blocks", "dirty blocks", "dirty", "discards", "oldest", "comes back"];
    table_with_text(&head, rows).to_string()
}

/// A line for each volume that has a mark, as far as is known.
fn marks_of(report: &Report) -> String {
    let line = |volume: &VolumeReport| {
        let VolumeReport { name, mark_known, .. } = volume;
        match &volume.mark {
            Some(mark) => format!("{}\n", mark.show(name, *mark_known)),
            None if *mark_known > 0 => {
                format!(
                    "mark of {name}: the file knows serial {mark_known}; --mark {name}=PATH compares it\n"
                )
            }
            None => String::new(),
        }
    };
    report.volumes.iter().map(line).collect()
}

fn segments(report: &Report) -> String {
    let Segments { clean, reinserted, dirty, free, unwritten, forgotten } = report.segments;
    let rows = [
        ("clean blocks from RAM", clean),
        ("clean blocks kept at a reclaim", reinserted),
        ("log of dirty blocks", dirty),
        ("free", free),
        ("  never written", unwritten),
        ("  not finished, forgotten", forgotten),
    ];
    let row = |(name, count): (&str, u32)| {
        let bytes = u64::from(count) * report.segment_bytes;
        vec![name.to_string(), show_count(count.into()), show_bytes(bytes)]
    };
    table(&["segments", "count", "bytes"], rows.into_iter().map(row).collect()).to_string()
}

fn counters(counters: &Counters) -> String {
    format!(
        "{} openings, {} checkpoints, {} journal entries; next: segment generation {}, summary {}, volume {}, log \
         record {} (durable up to {})",
        counters.openings,
        counters.checkpoints,
        counters.journal_last,
        counters.next_generation,
        counters.next_sequence,
        counters.next_volume,
        counters.next_record,
        counters.records_synced,
    )
}

/// Seconds for people: `40 s`, `12 min`, `3 h`, `2 days`.
fn show_age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use terrace::tiers::mark::Mark;
    use terrace::tiers::ssd::{FileCounters, Geometry, SegmentCounts};
    use terrace::{BlockSize, VolumeId};

    use super::*;

    fn info(dirty_blocks: u64) -> FileInfo {
        let volume = VolumeInfo {
            id: VolumeId::new(3),
            name: "disk".into(),
            identity: Some(Identity { bytes: 1, modified_ns: 2, inode: 3, device: 4 }),
            warmth: Warmth::Warm,
            clean_blocks: 5,
            dirty_blocks,
            dirty_bytes: dirty_blocks * 512,
            discarded_ranges: 0,
            oldest_dirty_s: Some(1),
            last_dirty_offset: None,
            mark: 4,
        };
        FileInfo {
            format: 1,
            file_id: 7,
            geometry: Geometry::for_blocks(BlockSize::DEFAULT, 100).expect("it fits"),
            is_closed_in_order: true,
            journal_entries: 0,
            volumes: vec![volume],
            segments: SegmentCounts::default(),
            counters: FileCounters {
                openings: 1,
                checkpoints: 2,
                superblock_sequence: 3,
                journal_last: 4,
                next_generation: 5,
                next_sequence: 6,
                next_volume: 7,
                next_record: 8,
                records_synced: 9,
            },
        }
    }

    #[test]
    fn every_key_that_is_printed_is_explained_and_every_explained_key_is_printed() {
        let (info, mark) = (info(1), Mark { serial: 4, holder: Some(7) });
        let given = GivenMark { volume: "disk".into(), path: "disk.terrace".into(), mark };
        keys::tests::assert_explained(&Report::new("f".into(), &info, &[given], 2), KEYS);
    }

    #[test]
    fn a_file_with_dirty_blocks_is_not_safe_and_says_how_to_make_it_so() {
        assert!(safety("f", &info(0)).0);
        let (is_safe, reason) = safety("f", &info(3));
        assert!(!is_safe && reason.contains("terrace inspect drain f --volume disk=PATH"), "{reason}");
    }

    #[test]
    fn a_file_that_has_a_discarded_range_and_no_dirty_block_is_not_safe() {
        let mut info = info(0);
        info.volumes[0].discarded_ranges = 2;
        let (is_safe, reason) = safety("f", &info);
        assert!(!is_safe && reason.starts_with("2 discarded ranges of disk are"), "{reason}");
    }

    #[test]
    fn a_dirty_block_from_the_future_has_no_age() {
        let age = |now_s| Report::new("f".into(), &info(1), &[], now_s).volumes[0].oldest_dirty_seconds;
        assert_eq!((age(8), age(0)), (Some(7), None));
    }
}
