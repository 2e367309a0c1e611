//! `terrace inspect drain`: what only the cache file has goes to the backing stores, and the file is left clean.
//!
//! The blocks go the way that they always go: a cache is opened on the file, each volume is attached in a mode that
//! keeps nothing in the log, which destages all of it, and the cache is closed. Before that everything is looked at
//! that could make it the wrong thing to do, so that a refusal changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use terrace::tiers::backing::file::FileBacking;
use terrace::tiers::file_device::FileOptions;
use terrace::tiers::ssd::{FileAtRest, FileInfo, VolumeInfo};
use terrace::{Cache, Config, Device, RamSize, SsdConfig, SsdSize, WriteMode};

use crate::failure::{Failure, Result};
use crate::progress::Progress;

/// Blocks of RAM for the cache that does it: what a run of neighbours needs, and no more.
const RAM_BLOCKS: u64 = 64;

/// Bring what only the cache file has to the backing stores, and leave the file clean
#[derive(Args, Debug)]
#[command(
    after_long_help = "Exit codes: 0, the file is clean; 1, some blocks could not be brought below and are \
                             still in it; 2, nothing was done."
)]
pub(crate) struct DrainArgs {
    /// The cache file or device
    file: PathBuf,

    /// A volume and the file or device that is its backing store; once for each volume that has dirty blocks
    #[arg(long = "volume", value_name = "NAME=PATH", value_parser = parse_volume)]
    volumes: Vec<(String, PathBuf)>,

    /// Write to a backing store that is not as it was left. WHAT WAS WRITTEN TO IT SINCE IS OVERWRITTEN where the cache
    /// file has the same blocks; clean copies of the volume are dropped
    #[arg(long)]
    insist: bool,
}

/// A name and a path with `=` in between.
pub(super) fn parse_volume(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("expected NAME=PATH".into()),
    }
}

/// A volume to drain and its backing store.
struct Drained<'a> {
    volume: &'a VolumeInfo,
    backing: Arc<FileBacking>,
    is_as_left: bool,
}

pub(super) fn main(args: &DrainArgs, print: impl Fn(&str)) -> Result<()> {
    let info = look(args)?;
    let drained = choose(args, &info)?;
    let cache = open_cache(args, &info)?;
    let outcome = drain(&cache, &drained);
    drop(cache);
    let left = look(args)?;
    let left: Vec<&VolumeInfo> = left.volumes.iter().filter(|volume| volume.is_dirty()).collect();
    let shown = args.file.display();
    match outcome {
        Ok(()) if left.is_empty() => {
            for Drained { volume, backing, .. } in &drained {
                print(&format!("volume {}: {} went to {}", volume.name, super::dirt(volume), backing.name()));
            }
            print(&format!("{shown} is clean."));
            Ok(())
        }
        Err(error) if left.is_empty() => {
            Err(Failure::caused(format!("{shown} has nothing that is dirty, but is not closed"), error)
                .remedy("open it with its cache, or drain it once more"))
        }
        outcome => {
            let what = left.iter().map(|volume| format!("{} of {}", super::dirt(volume), volume.name));
            let what = format!("{shown} still has {}", what.collect::<Vec<_>>().join(", "));
            let cause = outcome.err().map(|error| Failure::caused(&what, error).to_string());
            Err(Failure::Damaged(cause.unwrap_or(what)))
        }
    }
}

fn look(args: &DrainArgs) -> Result<FileInfo> {
    let device = super::open_file(&args.file)?;
    let info = FileAtRest::open(&device).and_then(|file| file.info());
    info.map_err(|error| super::unreadable(&args.file, error))
}

/// The volumes that are to be drained, each with a backing store that may be written to.
fn choose<'a>(args: &DrainArgs, info: &'a FileInfo) -> Result<Vec<Drained<'a>>> {
    for (at, (name, _)) in args.volumes.iter().enumerate() {
        if !info.volumes.iter().any(|volume| volume.name == *name) {
            let known: Vec<&str> = info.volumes.iter().map(|volume| volume.name.as_str()).collect();
            return Err(Failure::input(format!("the file knows no volume {name}"))
                .remedy(format!("it knows {}", known.join(", "))));
        }
        if args.volumes[..at].iter().any(|(other, _)| other == name) {
            return Err(Failure::input(format!("volume {name} is named twice"))
                .remedy("name one backing store for each"));
        }
    }
    let dirty = info.volumes.iter().filter(|volume| volume.is_dirty());
    dirty.map(|volume| choose_one(args, volume)).collect()
}

fn choose_one<'a>(args: &DrainArgs, volume: &'a VolumeInfo) -> Result<Drained<'a>> {
    let name = &volume.name;
    let Some((_, path)) = args.volumes.iter().find(|(given, _)| given == name) else {
        let dirt = super::dirt(volume);
        return Err(Failure::input(format!("volume {name} has {dirt} to bring below and no backing store"))
            .remedy(format!("add --volume {name}=PATH")));
    };
    let options = FileOptions { lock: true, ..FileOptions::new(path) };
    let backing = FileBacking::with_options(&options).map_err(|error| {
        Failure::caused(format!("the backing store of volume {name} cannot be opened"), error)
            .remedy("name the file or device that the volume was attached with")
    })?;
    let shown = path.display();
    // A block at the end of a volume may reach past it.
    if volume.last_dirty_offset.is_some_and(|offset| offset >= backing.len_bytes()) {
        let bytes = backing.len_bytes();
        return Err(Failure::input(format!(
            "{shown} ends at {bytes}, before the last dirty block of {name}"
        ))
        .remedy("name the backing store that the volume was attached with"));
    }
    let is_as_left = volume.identity.is_none() || volume.identity == backing.identity();
    if let Some(number) = volume.identity.and_then(|identity| identity.generation())
        && !args.insist
    {
        return Err(Failure::input(format!(
            "volume {name} was left with generation {number}, and nothing tells whether {shown} is still that"
        ))
        .remedy("add --insist if nobody changed it since"));
    }
    if !is_as_left && !args.insist {
        return Err(Failure::input(format!(
            "{shown} was changed since volume {name} was left, or is another file"
        ))
        .remedy("name the right one, or add --insist to write over what it has"));
    }
    Ok(Drained { volume, backing: Arc::new(backing), is_as_left })
}

fn open_cache(args: &DrainArgs, info: &FileInfo) -> Result<Cache> {
    let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
    config.block_size = info.geometry.block_size;
    let ssd = SsdConfig { prepare: false, ..SsdConfig::new(&args.file, SsdSize::AsFound) };
    config.ssd = Some(ssd);
    Cache::open(&config).map_err(|error| {
        Failure::caused(format!("{} cannot be opened for writing", args.file.display()), error)
            .remedy("nothing was done; see to it that nobody else has it open and that you may write to it")
    })
}

fn drain(cache: &Cache, drained: &[Drained<'_>]) -> terrace::Result<()> {
    let result = watched(cache, || {
        drained.iter().try_for_each(|Drained { volume, backing, is_as_left }| {
            if !is_as_left {
                cache.forget_identity(&volume.name)?;
            }
            // In this mode the log of a volume is destaged before it is attached.
            cache.attach(&volume.name, backing.clone(), WriteMode::Through).map(drop)
        })
    });
    // Also after a failure: what went below must not go there again over something newer.
    let closed = cache.close();
    result.and(closed)
}

/// Runs `work`, with a bar of the dirty blocks that are gone.
fn watched<T>(cache: &Cache, work: impl FnOnce() -> T) -> T {
    let all = cache.stats().ssd.dirty_blocks;
    let progress = Progress::counted("drain", all);
    if progress.is_hidden() {
        return work();
    }
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !has_ended.load(Ordering::Relaxed) {
                let left = cache.stats().ssd.dirty_blocks;
                progress.show(&AtomicU64::new(all.saturating_sub(left)));
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        let result = work();
        has_ended.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_name_and_a_path_which_may_have_more_signs_of_equality() {
        assert_eq!(parse_volume("disk=/a=b"), Ok(("disk".into(), "/a=b".into())));
        for text in ["disk", "=path", "disk=", ""] {
            assert!(parse_volume(text).is_err(), "{text}");
        }
    }
}
