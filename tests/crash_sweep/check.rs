//! Opens a cache on what a crash left, and judges what it reads.

use std::io::IoSliceMut;
use std::panic::{AssertUnwindSafe, catch_unwind};

use terrace::Device;
use terrace::tiers::testing::MemoryDevice;

use super::actor::{BLOCK_SECTORS, Opened, Stage, THREADS};
use super::content::Found;
use super::history::{Known, Life, Marks};
use super::script::Script;

/// What a cache that came back holds.
pub(crate) struct Survivor {
    pub(crate) stage: Stage,
    pub(crate) opened: Opened,
    pub(crate) found: Vec<Vec<Found>>,
    /// Blocks that it had on the SSD.
    pub(crate) ssd_blocks: u64,
}

/// Opens a cache on `images`, which a crash of `life` left when that was `known`, and reads everything. What is done
/// goes into the journal of `marks`, if there are any.
///
/// # Errors
/// What is wrong.
pub(crate) fn recover(
    script: &Script,
    images: Vec<MemoryDevice>,
    life: &Life,
    known: &Known,
    marks: Option<&Marks>,
) -> Result<Survivor, String> {
    let below = judge_below(script, &images, life, known)?;
    let stage = Stage::of(images, marks);
    // Threads take most of the time of an opening that only reads.
    let threads = marks.map_or(1, |_| THREADS);
    let (opened, found, ssd_blocks) = without_panic(|| {
        let opened =
            Opened::new(script, &stage, threads).map_err(|error| format!("it does not open: {error}"))?;
        let (found, ssd_blocks) =
            opened.read_all(script).map_err(|error| format!("it does not read: {error}"))?;
        Ok((opened, found, ssd_blocks))
    })?;
    judge_all(life, known, &found, "of the cache")?;
    for volume in (0..script.modes.len()).filter(|&volume| script.is_logged(volume)) {
        let blocks = (0..).step_by(BLOCK_SECTORS as usize).zip(found[volume].chunks(BLOCK_SECTORS as usize));
        for (sector, block) in blocks {
            life.judge_block(known, volume, sector, block)?;
        }
    }
    for (volume, mode) in script.modes.iter().enumerate().filter(|(volume, _)| script.is_whole_below(*volume))
    {
        let differs = found[volume].iter().zip(&below[volume]).position(|(above, below)| above != below);
        if let Some(sector) = differs {
            let (above, below) = (found[volume][sector], below[volume][sector]);
            return Err(format!(
                "sector {sector} of volume {volume} ({mode:?}) reads as {above:?}, from a clean copy that is not what \
                 the backing store holds, {below:?}"
            ));
        }
    }
    Ok(Survivor { stage, opened, found, ssd_blocks })
}

/// What the backing stores hold; where a mode says so it must be right without the SSD.
fn judge_below(
    script: &Script,
    images: &[MemoryDevice],
    life: &Life,
    known: &Known,
) -> Result<Vec<Vec<Found>>, String> {
    let found: Vec<Vec<Found>> = images[1..=script.modes.len()]
        .iter()
        .map(|disk| script.read_all(|offset, bytes| disk.read(offset, &mut [IoSliceMut::new(bytes)])))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("what is below cannot be read: {error}"))?;
    for volume in (0..script.modes.len()).filter(|&volume| script.is_whole_below(volume)) {
        judge_volume(life, known, volume, &found[volume], "of the backing store")?;
    }
    for (volume, found) in found.iter().enumerate().filter(|_| script.ordered) {
        life.judge_epoch(known, volume, found)?;
    }
    Ok(found)
}

fn judge_all(life: &Life, known: &Known, found: &[Vec<Found>], of_what: &str) -> Result<(), String> {
    found.iter().enumerate().try_for_each(|(volume, found)| judge_volume(life, known, volume, found, of_what))
}

fn judge_volume(
    life: &Life,
    known: &Known,
    volume: usize,
    found: &[Found],
    of_what: &str,
) -> Result<(), String> {
    for (sector, &found) in (0..).zip(found) {
        life.judge(known, volume, sector, found).map_err(|why| {
            let block = sector / BLOCK_SECTORS;
            format!("sector {sector} (in block {block}) of volume {volume} {of_what} holds {why}")
        })?;
    }
    Ok(())
}

/// Runs `work`; a panic is an error like others.
pub(crate) fn without_panic<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Err(format!("it panics: {}", text.unwrap_or("without a message")))
    })
}
