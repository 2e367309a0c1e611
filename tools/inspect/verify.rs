//! `terrace inspect verify`: is every byte of a cache file that counts what was written?

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde::Serialize;
use terrace::Device;
use terrace::tiers::ssd::{self, Finding, Row, Severity, Structure, Watcher};

use super::keys::{self, Keys};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::table::table;
use crate::units::{show_bytes, show_count};

/// Findings that are named; of more, only the number is told.
const NAMED_MAX: usize = 1000;

/// Check every superblock, checkpoint, journal frame, summary, record and block of a cache file
#[derive(Args, Debug)]
#[command(after_long_help = keys::help(KEYS, "0, the file is whole; 1, there is damage; 2, it cannot be read."))]
pub(crate) struct VerifyArgs {
    /// The cache file or device
    file: PathBuf,

    /// One JSON object in place of the text; its keys are at the end of --help
    #[arg(long)]
    json: bool,
}

const KEYS: Keys = &[
    ("file", "the path that was given"),
    ("whole", "whether there is no damage"),
    ("damaged", "how much of it there is"),
    ("unfinished", "what a crash left half done: nobody was promised it, and it is no damage"),
    ("checked", "one object for each kind of structure"),
    (
        "checked.structure",
        "superblocks, checkpoints, journal frames, summaries, clean blocks, log records, dirty blocks",
    ),
    ("checked.checked", "how many were looked at"),
    ("checked.bytes", "their bytes"),
    ("checked.damaged", "how many are damaged, or missing"),
    ("checked.unfinished", "how many are unfinished"),
    ("findings", "one object for each, the first 1000"),
    ("findings.severity", "damage or unfinished"),
    ("findings.structure", "as in checked"),
    ("findings.place", "where it is"),
    ("findings.what", "what is wrong"),
    ("findings.consequence", "what recovery will do about it"),
];

#[derive(Serialize)]
struct Report {
    file: String,
    whole: bool,
    damaged: u64,
    unfinished: u64,
    checked: Vec<RowReport>,
    findings: Vec<FindingReport>,
}

#[derive(Serialize)]
struct RowReport {
    structure: &'static str,
    checked: u64,
    bytes: u64,
    damaged: u64,
    unfinished: u64,
}

#[derive(Serialize)]
struct FindingReport {
    severity: &'static str,
    structure: &'static str,
    place: String,
    what: String,
    consequence: String,
}

/// Shows how far it is, and keeps what is found.
struct Listener {
    progress: Progress,
    position: AtomicU64,
    findings: Vec<Finding>,
}

impl Watcher for Listener {
    fn at(&mut self, bytes: u64) {
        self.position.store(bytes, Ordering::Relaxed);
        self.progress.show(&self.position);
    }

    fn found(&mut self, finding: Finding) {
        if self.findings.len() < NAMED_MAX {
            self.findings.push(finding);
        }
    }
}

pub(super) fn main(args: &VerifyArgs, print: impl Fn(&str)) -> Result<()> {
    let device = super::open_file(&args.file)?;
    let progress = Progress::new("verify", device.len_bytes());
    let mut listener = Listener { progress, position: AtomicU64::new(0), findings: Vec::new() };
    let rows = ssd::verify(&device, &mut listener);
    let rows = rows.map_err(|error| super::unreadable(&args.file, error))?;
    let Listener { progress, findings, .. } = listener;
    drop(progress);
    let report = Report::new(args.file.display().to_string(), &rows, &findings);
    print(&if args.json { keys::json(&report) } else { show(&report) });
    if report.whole {
        return Ok(());
    }
    let damaged = show_count(report.damaged);
    Err(Failure::Damaged(format!("{}: {damaged} damaged", report.file)))
}

fn name_of(structure: Structure) -> &'static str {
    match structure {
        Structure::Superblock => "superblocks",
        Structure::Checkpoint => "checkpoints",
        Structure::JournalFrame => "journal frames",
        Structure::Summary => "summaries",
        Structure::CleanBlock => "clean blocks",
        Structure::Record => "log records",
        Structure::DirtyBlock => "dirty blocks",
    }
}

impl Report {
    fn new(file: String, rows: &[Row], findings: &[Finding]) -> Self {
        let damaged = rows.iter().map(|row| row.damaged).sum();
        let row = |row: &Row| RowReport {
            structure: name_of(row.structure),
            checked: row.checked,
            bytes: row.bytes,
            damaged: row.damaged,
            unfinished: row.unfinished,
        };
        let finding = |finding: &Finding| FindingReport {
            severity: match finding.severity {
                Severity::Damage => "damage",
                Severity::Unfinished => "unfinished",
            },
            structure: name_of(finding.structure),
            place: finding.place.clone(),
            what: finding.what.clone(),
            consequence: finding.consequence.clone(),
        };
        Self {
            file,
            whole: damaged == 0,
            damaged,
            unfinished: rows.iter().map(|row| row.unfinished).sum(),
            checked: rows.iter().map(row).collect(),
            findings: findings.iter().map(finding).collect(),
        }
    }
}

fn show(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let FindingReport { severity, structure, place, what, consequence } = finding;
        text.push_str(&format!("{severity} in {structure}: {place}: {what}\n    {consequence}\n"));
    }
    let left_out = report.damaged + report.unfinished - report.findings.len() as u64;
    if left_out > 0 {
        text.push_str(&format!("and {} more\n", show_count(left_out)));
    }
    let row = |row: &RowReport| {
        vec![
            row.structure.to_string(),
            show_count(row.checked),
            show_bytes(row.bytes),
            show_count(row.damaged),
            show_count(row.unfinished),
        ]
    };
    let head = ["", "checked", "bytes", "damaged", "unfinished"];
    let rows = table(&head, report.checked.iter().map(row).collect());
    let outcome = match (report.whole, report.unfinished) {
        (true, 0) => "whole".to_string(),
        (true, _) => "whole; what is unfinished was promised to nobody".to_string(),
        (false, _) => format!("{} damaged", show_count(report.damaged)),
    };
    format!("{text}{rows}\n{}: {outcome}.", report.file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_printed_is_explained_and_every_explained_key_is_printed() {
        let row = Row { structure: Structure::Record, checked: 1, bytes: 2, damaged: 1, unfinished: 0 };
        let finding = Finding {
            severity: Severity::Damage,
            structure: Structure::Record,
            place: "here".into(),
            what: "bad".into(),
            consequence: "none".into(),
        };
        keys::tests::assert_explained(&Report::new("f".into(), &[row], &[finding]), KEYS);
    }
}
