//! `terrace inspect explain`: where the copies of a block are, and why a read gets the one it gets.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use terrace::tiers::ssd::{CopyPlace, Explanation, FileAtRest, FileInfo, FoundCopy, Verdict, Warmth};
use terrace::{BlockId, BlockSize, VolumeId};

use super::keys::{self, Keys};
use crate::failure::{Failure, Result};
use crate::table::table_with_text;
use crate::units::parse_size;

/// Where the copies of one block are in a cache file, which one wins, and why the others lose
#[derive(Args, Debug)]
#[command(after_long_help = keys::help(KEYS, "0, the file was read; 2, it cannot be."))]
pub(crate) struct ExplainArgs {
    /// The cache file or device
    file: PathBuf,

    /// Name of the volume, as it was attached
    volume: String,

    /// Number of the block, or with a unit an offset in the volume: 17 is a block, 70000B and 1.5GiB are offsets
    #[arg(value_parser = parse_place)]
    block: Place,

    /// One JSON object in place of the table; its keys are at the end of --help
    #[arg(long)]
    json: bool,
}

const KEYS: Keys = &[
    ("file", "the path that was given"),
    ("volume", "name of the volume"),
    ("block", "number of the block"),
    ("offset", "where it starts in the volume, in bytes"),
    ("block_bytes", "its size"),
    (
        "answered_by",
        "log, slot, zeros or backing: where a read after the next opening gets it; the log's sectors go before others",
    ),
    ("answer", "the same in a sentence"),
    ("copies", "one object for each copy, the one that wins first, then from the newest on"),
    ("copies.place", "where it is"),
    ("copies.version", "its version: number of the opening and of the change in that opening"),
    ("copies.sectors", "how many sectors of 512 bytes it has"),
    ("copies.wins", "whether it is the one that counts"),
    ("copies.whole", "whether its bytes are what was written there"),
    ("copies.verdict", "why it wins or loses"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Block(u64),
    Offset(u64),
}

fn parse_place(text: &str) -> Result<Place, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return text.parse().map(Place::Block).map_err(|_| "a block number has at most 40 bits".into());
    }
    let offset =
        parse_size(text).map_err(|_| "expected a block number, or an offset such as 64KiB or 70000B")?;
    Ok(Place::Offset(offset))
}

impl Place {
    fn block(self, volume: VolumeId, size: BlockSize) -> Result<BlockId> {
        let number = match self {
            Self::Block(number) => number,
            Self::Offset(offset) => offset / size.bytes() as u64,
        };
        if number >= BlockId::NUMBER_LIMIT {
            return Err(Failure::input(format!("block {number} is beyond any volume's end"))
                .remedy("name one below 2^40"));
        }
        Ok(BlockId::new(volume, number))
    }
}

#[derive(Serialize)]
struct Report {
    file: String,
    volume: String,
    block: u64,
    offset: u64,
    block_bytes: usize,
    answered_by: &'static str,
    answer: &'static str,
    copies: Vec<CopyReport>,
}

#[derive(Serialize)]
struct CopyReport {
    place: String,
    version: String,
    sectors: usize,
    wins: bool,
    whole: bool,
    verdict: String,
}

pub(super) fn main(args: &ExplainArgs, print: impl Fn(&str)) -> Result<()> {
    let device = super::open_file(&args.file)?;
    let unreadable = |error| super::unreadable(&args.file, error);
    let file = FileAtRest::open(&device).map_err(unreadable)?;
    let info = file.info().map_err(unreadable)?;
    let Some(volume) = info.volumes.iter().find(|volume| volume.name == args.volume) else {
        return Err(unknown_volume(&args.volume, &info));
    };
    let size = info.geometry.block_size;
    let block = args.block.block(volume.id, size)?;
    let explanation = file.explain(block).map_err(unreadable)?;
    let (answered_by, answer) = answer(&explanation, volume.warmth);
    let report = Report {
        file: args.file.display().to_string(),
        volume: volume.name.clone(),
        block: block.number(),
        offset: block.byte_offset(size),
        block_bytes: size.bytes(),
        answered_by,
        answer,
        copies: explanation.copies.iter().map(|copy| CopyReport::new(copy, size)).collect(),
    };
    print(&if args.json { keys::json(&report) } else { show(&report) });
    Ok(())
}

fn unknown_volume(name: &str, info: &FileInfo) -> Failure {
    let known: Vec<&str> = info.volumes.iter().map(|volume| volume.name.as_str()).collect();
    let failure = Failure::input(format!("the file knows no volume {name}"));
    failure.remedy(if known.is_empty() {
        "it knows none at all".to_string()
    } else {
        format!("it knows {}", known.join(", "))
    })
}

/// Where a read gets the block after the next opening.
fn answer(explanation: &Explanation, warmth: Warmth) -> (&'static str, &'static str) {
    let Some(winner) = explanation.copies.first().filter(|copy| copy.verdict.wins()) else {
        return if explanation.is_buried {
            ("zeros", "reads get zeros: it was discarded, which the backing store was not told yet")
        } else {
            ("backing", "reads get it from the backing store: no copy here is valid")
        };
    };
    match (&winner.place, winner.is_whole) {
        (CopyPlace::Record { .. }, true) if winner.verdict == Verdict::WinsDestaged => {
            ("log", "reads get it from the log, and the backing store has it")
        }
        (CopyPlace::Record { .. }, false) if winner.verdict == Verdict::WinsDestaged => (
            "backing",
            "reads get it from the backing store: the copy is damaged, and dropped when it is read",
        ),
        (CopyPlace::Record { .. }, true) => {
            ("log", "reads get it from the log: the backing store does not have it")
        }
        (CopyPlace::Record { .. }, false) => ("log", "reads of it fail: the only copy of it is damaged"),
        (CopyPlace::Slot { .. }, true) if warmth == Warmth::WarmIfExclusive => {
            ("slot", "reads get it from its slot, if the volume is attached as exclusive")
        }
        (CopyPlace::Slot { .. }, true) if warmth != Warmth::Warm => (
            "backing",
            "reads get it from the backing store: the volume comes back cold, without its clean copies",
        ),
        (CopyPlace::Slot { .. }, true) => {
            ("slot", "reads get it from its slot, if the backing store looks as it was left")
        }
        (CopyPlace::Slot { .. }, false) => (
            "backing",
            "reads get it from the backing store: the copy is damaged, and dropped when it is read",
        ),
    }
}

impl CopyReport {
    fn new(copy: &FoundCopy, size: BlockSize) -> Self {
        let sectors = match &copy.place {
            CopyPlace::Slot { .. } => size.sectors(),
            CopyPlace::Record { sectors, .. } => sectors.iter().map(|word| word.count_ones() as usize).sum(),
        };
        let version = copy.version.as_u64();
        Self {
            place: copy.place.to_string(),
            version: format!("{}.{}", version >> 40, version & ((1 << 40) - 1)),
            sectors,
            wins: copy.verdict.wins(),
            whole: copy.is_whole,
            verdict: copy.verdict.to_string(),
        }
    }
}

fn show(report: &Report) -> String {
    let end = report.offset + report.block_bytes as u64;
    let head = format!(
        "block {} of volume {}, bytes {} to {end}: {}",
        report.block, report.volume, report.offset, report.answer
    );
    if report.copies.is_empty() {
        return format!("{head}.\nThere is no copy of it in the file.");
    }
    let rows = report.copies.iter().map(|copy| {
        let bytes = if copy.whole { "whole" } else { "damaged" };
        let sectors = copy.sectors.to_string();
        vec![copy.place.clone(), copy.version.clone(), sectors, bytes.to_string(), copy.verdict.clone()]
    });
    let rows = table_with_text(&["copy", "version", "sectors", "bytes", "verdict"], rows.collect());
    format!("{head}.\n{rows}")
}

#[cfg(test)]
mod tests {
    use terrace::tiers::block::Version;

    use super::*;

    #[test]
    fn every_key_that_is_printed_is_explained_and_every_explained_key_is_printed() {
        let copy = FoundCopy {
            place: CopyPlace::Slot { segment: 1, generation: 2, slot: 3 },
            version: Version::first_of_opening(2).next(),
            is_whole: true,
            verdict: Verdict::Wins,
        };
        let copy = CopyReport::new(&copy, BlockSize::DEFAULT);
        assert_eq!(copy.version, "2.1");
        let report = Report {
            file: "f".into(),
            volume: "disk".into(),
            block: 1,
            offset: 2,
            block_bytes: 3,
            answered_by: "slot",
            answer: "",
            copies: vec![copy],
        };
        keys::tests::assert_explained(&report, KEYS);
    }

    #[test]
    fn a_clean_copy_answers_where_its_volume_may_come_back_warm_and_the_copy_is_whole() {
        for (warmth, is_whole, answered_by) in [
            (Warmth::Warm, true, "slot"),
            (Warmth::WarmIfExclusive, true, "slot"),
            (Warmth::ColdNotDetached, true, "backing"),
            (Warmth::ColdNoIdentity, true, "backing"),
            (Warmth::Warm, false, "backing"),
            (Warmth::WarmIfExclusive, false, "backing"),
        ] {
            let place = CopyPlace::Slot { segment: 1, generation: 2, slot: 3 };
            let version = Version::first_of_opening(1);
            let copies = vec![FoundCopy { place, version, is_whole, verdict: Verdict::Wins }];
            let block = BlockId::new(VolumeId::new(0), 1);
            let explanation = Explanation { block, is_buried: false, copies };
            assert_eq!(answer(&explanation, warmth).0, answered_by, "{warmth:?} {is_whole}");
        }
    }

    #[test]
    fn a_number_is_a_block_and_a_size_with_a_unit_is_an_offset() {
        assert_eq!(parse_place("17"), Ok(Place::Block(17)));
        assert_eq!(parse_place("17B"), Ok(Place::Offset(17)));
        assert_eq!(parse_place("1.5KiB"), Ok(Place::Offset(1536)));
        for text in ["", "x", "-1", "99999999999999999999"] {
            assert!(parse_place(text).is_err(), "{text}");
        }
        let volume = VolumeId::new(0);
        let block = Place::Offset(40_000).block(volume, BlockSize::DEFAULT).expect("in range");
        assert_eq!(block.number(), 2);
        assert!(Place::Block(1 << 40).block(volume, BlockSize::DEFAULT).is_err());
    }
}
