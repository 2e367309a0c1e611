//! Recorded traces: what each request asked for, streamed from any of the formats we read, and `terrace trace`.
//!
//! ```text
//! file ──> unpack ──> input ──> buffer (lines, records) ──> formats/ ──> merge ──> place ──> ahead ──> requests
//!                                                              ▲
//!                                                            detect, from the first 64 KiB
//! ```
//!
//! A reader holds one buffer, or a block of a recording, and some batches of requests (`ahead`, which reads on a thread of
//! its own), whatever the trace's length; only the names of volumes add to it, and there is a bound to those (`text`). `Format` has a line for each format; a new one is a file in `formats`, a
//! variant there, and its place in `detect`.
//!
//! No bytes make a reader panic, loop or eat memory: `fuzz`, `tests/any_bytes.rs`.

mod ahead;
#[cfg(feature = "fuzz")]
pub mod bench;
mod buffer;
pub(crate) mod command;
mod detect;
mod formats;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod input;
mod merge;
mod moment;
mod options;
mod place;
mod profile;
mod source;
mod text;
mod unpack;
mod window;
mod write;

use crate::failure::Result;
use formats::{
    arc, biosnoop, blkparse, blktrace, clouds, csv, disksim, etw, fio, fiu, ids, lcs, msr, oracle_general,
    recording, spc, systor, vscsi,
};
use text::{LineParser, TextReader};

pub(crate) use moment::{Moment, parse_moment};
pub(crate) use options::{InputArgs, Options};
pub(crate) use profile::{Alignment, Touched};
pub(crate) use source::Source;
pub(crate) use terrace_recording::{Kind, Lost, Request, Span};
pub(crate) use window::Window;

/// A stream of requests.
pub(crate) trait TraceReader: Send {
    /// The next request, or none at the end.
    fn next_request(&mut self) -> Result<Option<Request>>;

    /// Commands so far that neither move data nor order it, and were passed over.
    fn skipped_commands(&self) -> u64 {
        0
    }

    /// Requests up to here that whoever recorded the trace knows to be missing.
    fn lost(&self) -> Lost {
        Lost::default()
    }

    /// What the volumes met so far are called; empty where they have no names.
    fn volume_names(&self) -> &[String] {
        &[]
    }
}

/// Every format: its name, its units, and what it is.
macro_rules! formats {
    ($($format:ident $name:literal $units:literal $text:literal)+) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
        pub(crate) enum Format {
            $(
                #[doc = $text]
                #[value(name = $name)]
                #[serde(rename = $name)]
                $format,
            )+
        }

        impl Format {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$format => $name,)+ }
            }

            /// In what addresses, sizes and times are counted.
            pub(crate) fn units(self) -> &'static str {
                match self { $(Self::$format => $units,)+ }
            }
        }
    };
}

formats! {
    Alibaba "alibaba" "bytes, times in us" "Alibaba block traces of 2020, CSV: device, R or W, offset, length, time"
    Arc "arc" "ids, no times" "The ARC paper's traces: `start count ignored sequence`, a run of ids a line"
    Biosnoop "biosnoop" "512-byte sectors and bytes, times in s" "What bcc's biosnoop prints"
    Blkparse "blkparse" "512-byte sectors, times in s" "What blkparse prints; queued requests count"
    Blktrace "blktrace" "512-byte sectors and bytes, times in ns"
        "blktrace's recording; NAME.blktrace.0 takes the files of all processors"
    Csv "csv" "as its columns say" "A table: --columns says what its columns are, or a known heading does"
    DiskSim "disksim" "512-byte sectors, times in ns (whole numbers) or ms (fractions)"
        "DiskSim, SSDSim, MQSim: `time device sector sectors flag`, 1 a read"
    Etw "etw" "bytes, times in us" "Microsoft enterprise traces: events of Windows as text"
    Fio "fio" "bytes, times in us" "fio's I/O logs, versions 2 and 3"
    Fiu "fiu" "512-byte sectors, times in ns" "FIU: `ns pid process lba size R or W major minor md5`"
    Ids "ids" "ids, no times" "One id a line; `*` and empty lines are passed over (LIRS traces)"
    K5cloud "k5cloud" "bytes, times in s" "K5cloud, CSV: volume, time, R or W, offset, size"
    Lcs "lcs" "ids, times in s" "libCacheSim lcs, versions 1 to 8: taken as ids; see --id-size"
    Msr "msr" "bytes, times in 100 ns" "MSR Cambridge CSV: time, host, disk, Read or Write, offset, size, response time"
    OracleGeneral "oracleGeneral" "ids, times in s"
        "libCacheSim oracleGeneral: taken as ids, all of them reads; see --id-size"
    Spc "spc" "512-byte sectors and bytes, times in s" "UMass traces, in the format of SPC: ASU, LBA, size, r or w, time"
    Systor "systor" "bytes, times in s" "SYSTOR '17, CSV: time, response, R or W, LUN, offset, size"
    Tencent "tencent" "512-byte sectors, times in s" "Tencent CBS, CSV: time, offset, size, 0 (read) or 1, volume"
    Terrace "terrace" "bytes or ids, times in ns" "Our own recordings: packed, checked, with an index; PATH takes all files that a cache recorded as PATH.1 and so on"
    TraceRar "tracerar" "bytes, times in ms" "TraceRAR: `time device offset size op`, 1 a read"
    Vscsi "vscsi" "512-byte sectors and bytes, times in us" "CloudPhysics vscsi version 1, 32 bytes a request"
    Vscsi2 "vscsi2" "512-byte sectors and bytes, times in us" "CloudPhysics vscsi version 2, 40 bytes a request"
}

impl Format {
    /// What reads lines of this format; none for a binary one.
    fn parser(self, options: &Options) -> Option<Box<dyn LineParser>> {
        Some(match self {
            Self::Alibaba => Box::new(clouds::ALIBABA),
            Self::Arc => Box::new(arc::PARSER),
            Self::Biosnoop => Box::new(biosnoop::BiosnoopParser),
            Self::Blkparse => Box::new(blkparse::BlkparseParser::default()),
            Self::Csv => Box::new(csv::CsvParser::new(options.columns.clone(), options.separator)),
            Self::DiskSim => Box::new(disksim::DiskSimParser::new(options.time_unit_ns)),
            Self::Etw => Box::new(etw::EtwParser::default()),
            Self::Fio => Box::new(fio::FioParser::default()),
            Self::Fiu => Box::new(fiu::PARSER),
            Self::Ids => Box::new(ids::IdsParser),
            Self::K5cloud => Box::new(clouds::K5CLOUD),
            Self::Msr => Box::new(msr::PARSER),
            Self::Spc => Box::new(spc::PARSER),
            Self::Systor => Box::new(systor::SystorParser),
            Self::Tencent => Box::new(clouds::TENCENT),
            Self::TraceRar => Box::new(disksim::TRACERAR),
            Self::Blktrace | Self::Lcs | Self::OracleGeneral | Self::Terrace | Self::Vscsi | Self::Vscsi2 => {
                return None;
            }
        })
    }

    fn reader(self, input: input::Input, options: &Options) -> Box<dyn TraceReader> {
        if let Some(parser) = self.parser(options) {
            return Box::new(TextReader::new(input, parser));
        }
        match self {
            Self::Blktrace => Box::new(blktrace::BlktraceReader::new(input)),
            Self::Lcs => Box::new(lcs::LcsReader::new(input, options.id_bytes)),
            Self::OracleGeneral => {
                Box::new(oracle_general::OracleGeneralReader::new(input, options.id_bytes))
            }
            Self::Terrace => Box::new(recording::RecordingReader::new(input, Vec::new())),
            Self::Vscsi => Box::new(vscsi::VscsiReader::new(input, vscsi::Version::One)),
            Self::Vscsi2 => Box::new(vscsi::VscsiReader::new(input, vscsi::Version::Two)),
            _ => unreachable!("all others are formats of lines"),
        }
    }
}

/// What the readers' tests share: every request of hand-made bytes, or the error as the user sees it.
#[cfg(test)]
fn read_all(format: Format, bytes: &[u8]) -> std::result::Result<Vec<Request>, String> {
    read_all_with(format, &Options::default(), bytes)
}

/// A request of bytes at a time.
#[cfg(test)]
fn request(volume: u32, kind: Kind, offset: u64, bytes: u64, time_ns: u64) -> Request {
    Request { volume, kind, span: Span::Bytes { offset, bytes }, time_ns: Some(time_ns) }
}

#[cfg(test)]
fn read_all_with(
    format: Format,
    options: &Options,
    bytes: &[u8],
) -> std::result::Result<Vec<Request>, String> {
    let reader = format.reader(input::Input::from_bytes(bytes), options);
    let mut reader = place::Placed::around(reader, options);
    let mut requests = Vec::new();
    loop {
        match reader.next_request() {
            Ok(Some(request)) => requests.push(request),
            Ok(None) => return Ok(requests),
            Err(failure) => return Err(failure.to_string()),
        }
    }
}

#[cfg(test)]
#[test]
fn the_readme_lists_every_format() {
    use clap::ValueEnum;
    let readme = include_str!("../../README.md");
    for format in Format::value_variants() {
        assert!(readme.contains(&format!("\n| `{}`", format.name())), "{}", format.name());
    }
}

/// After a `first` line that is good, each of `bad` is refused with its number, what was `expected`, and itself.
#[cfg(test)]
fn bad_lines_are_named(format: Format, first: &str, expected: &str, bad: &[&str]) {
    for bad in bad {
        let error = read_all(format, format!("{first}\n{bad}\n{first}\n").as_bytes()).expect_err(bad);
        assert!(error.contains(&format!("line 2: {expected}")), "{error}");
        let begin: String = bad.chars().take(60).collect();
        assert!(error.contains(&format!("found `{begin}")), "{error}");
    }
}
