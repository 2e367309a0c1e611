//! The marks beside backing stores, next to what a cache file knows of them: which file a mark names, and whether this
//! one is older than it. What follows from that is the table at the head of `src/cache/mark.rs`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use terrace::tiers::Error;
use terrace::tiers::mark::{FileMark, Mark, MarkPlace};
use terrace::tiers::ssd::{FileInfo, VolumeInfo};

use crate::failure::{Failure, Result};

/// A mark that was named, and the volume that it is of.
pub(super) struct GivenMark {
    pub(super) volume: String,
    pub(super) path: PathBuf,
    pub(super) mark: Mark,
}

#[derive(Serialize)]
pub(super) struct MarkReport {
    path: String,
    serial: u64,
    holder: Option<String>,
    holder_is_this_file: bool,
    file_is_older: bool,
    verdict: &'static str,
}

/// Loads the marks at these paths, each of a volume that the file knows.
pub(super) fn load(named: &[(String, PathBuf)], info: &FileInfo) -> Result<Vec<GivenMark>> {
    let load = |(volume, path): &(String, PathBuf)| {
        if !info.volumes.iter().any(|known| known.name == *volume) {
            let known: Vec<&str> = info.volumes.iter().map(|volume| volume.name.as_str()).collect();
            return Err(Failure::input(format!("the file knows no volume {volume}"))
                .remedy(format!("it knows {}", known.join(", "))));
        }
        let mark = load_one(path)?;
        Ok(GivenMark { volume: volume.clone(), path: path.clone(), mark })
    };
    named.iter().map(load).collect()
}

fn load_one(path: &Path) -> Result<Mark> {
    let shown = path.display();
    match FileMark::new(path).load() {
        Ok(Some(mark)) => Ok(mark),
        Ok(None) => Err(Failure::input(format!("there is no mark {shown}"))
            .remedy("name the one beside the backing store, or leave --mark out for a volume that has none")),
        Err(error @ Error::Damaged { .. }) => {
            Err(Failure::caused("a mark that does not say anything", error)
                .remedy("name the right file; for a backing file that is its name and .terrace"))
        }
        Err(error) => {
            Err(Failure::caused("a mark cannot be read", error).remedy("name one that you may read"))
        }
    }
}

impl GivenMark {
    pub(super) fn report(&self, file_id: u64, volume: &VolumeInfo) -> MarkReport {
        let Mark { serial, holder } = self.mark;
        let holder_is_this_file = holder == Some(file_id);
        let file_is_older = volume.mark < serial;
        let verdict = match (holder, file_is_older) {
            (Some(_), _) if !holder_is_this_file => {
                "another cache file may have newer blocks: without that one, attaching the volume is refused"
            }
            (_, true) if holder_is_this_file || volume.is_dirty() => {
                "this file is older than the mark: attaching the volume is refused until its owner chooses"
            }
            (_, true) => "this file is older than the mark: what it has of the volume is dropped",
            (_, false) => "this file is as new as the mark, and is believed",
        };
        MarkReport {
            path: self.path.display().to_string(),
            serial,
            holder: holder.map(|holder| format!("{holder:016x}")),
            holder_is_this_file,
            file_is_older,
            verdict,
        }
    }
}

impl MarkReport {
    /// A line for people.
    pub(super) fn show(&self, volume: &str, known: u64) -> String {
        let Self { path, serial, holder, holder_is_this_file, verdict, .. } = self;
        let holder = match holder {
            Some(_) if *holder_is_this_file => "names this file".into(),
            Some(holder) => format!("names the cache file {holder}"),
            None => "names no cache file".to_string(),
        };
        format!("mark of {volume} ({path}): {holder}, serial {serial}, the file knows {known}: {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use terrace::VolumeId;
    use terrace::tiers::ssd::Warmth;

    use super::*;

    const FILE: u64 = 7;

    fn volume(mark: u64, dirty_blocks: u64) -> VolumeInfo {
        VolumeInfo {
            id: VolumeId::new(3),
            name: "disk".into(),
            identity: None,
            warmth: Warmth::Warm,
            clean_blocks: 5,
            dirty_blocks,
            dirty_bytes: 0,
            discarded_ranges: 0,
            oldest_dirty_s: None,
            last_dirty_offset: None,
            mark,
        }
    }

    #[test]
    fn a_mark_tells_whose_blocks_are_newer_and_whether_this_file_is_older() {
        let verdict = |serial, holder, known, dirty_blocks| {
            let given = GivenMark { volume: "disk".into(), path: "p".into(), mark: Mark { serial, holder } };
            let report = given.report(FILE, &volume(known, dirty_blocks));
            (report.holder_is_this_file, report.file_is_older, report.verdict.split(':').next().unwrap_or(""))
        };
        let older = "this file is older than the mark";
        let believed = "this file is as new as the mark, and is believed";
        assert_eq!(verdict(4, Some(FILE), 4, 1), (true, false, believed));
        assert_eq!(verdict(4, None, 4, 0), (false, false, believed));
        assert_eq!(verdict(4, None, 3, 0), (false, true, older));
        assert_eq!(verdict(4, Some(FILE), 3, 0), (true, true, older));
        assert_eq!(verdict(4, Some(8), 4, 0), (false, false, "another cache file may have newer blocks"));
        // With nothing dirty it is cold, and nobody is asked.
        let sentence = |dirty_blocks| {
            let mark = Mark { serial: 4, holder: None };
            let given = GivenMark { volume: "disk".into(), path: "p".into(), mark };
            given.report(FILE, &volume(3, dirty_blocks)).verdict
        };
        assert!(sentence(0).ends_with("is dropped") && sentence(1).contains("refused until"));
    }
}
