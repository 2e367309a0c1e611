//! What a user can say about a trace that its content does not say.

use crate::trace::Format;
use crate::trace::formats::csv::{Columns, time_unit};
use crate::units::parse_size;

/// How to read a trace, on the command line.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Trace")]
pub(crate) struct InputArgs {
    /// Format of the trace; needed only when its content does not show it
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,

    /// What the columns of a table are, in their order, e.g. `time:ms,-,op,offset:512,size`. Names: time (units s, ms,
    /// us, 100ns, ns), volume, op (R and W; or `op:scsi`, `op:r0`, `op:r1` for codes, a read being 0 or 1), offset and
    /// size (units as 512 or 4KiB), id, flush, and - for what does not count
    #[arg(long, value_name = "COLUMNS")]
    columns: Option<Columns>,

    /// What stands between the columns: one character, `tab`, or `space` for any white space
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = separator, requires = "columns")]
    separator: u8,

    /// Unit of time of a trace that does not fix it (disksim): s, ms, us, 100ns or ns
    #[arg(long, value_name = "UNIT", value_parser = time_unit)]
    time_unit: Option<u64>,

    /// Bytes of an id, where ids are addresses: 512 for the pages of ARC traces and the sectors in oracleGeneral
    #[arg(long, value_name = "SIZE", value_parser = id_size)]
    id_size: Option<u64>,

    /// Moves every address up. `terrace trace info` says when that aligns requests with blocks, and by how much
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    shift: u64,
}

/// The same, as readers take it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) format: Option<Format>,
    pub(crate) columns: Option<Columns>,
    pub(crate) separator: u8,
    pub(crate) time_unit_ns: Option<u64>,
    pub(crate) id_bytes: Option<u64>,
    pub(crate) shift_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: None,
            columns: None,
            separator: b',',
            time_unit_ns: None,
            id_bytes: None,
            shift_bytes: 0,
        }
    }
}

impl InputArgs {
    pub(crate) fn options(&self) -> Options {
        Options {
            format: self.format,
            columns: self.columns.clone(),
            separator: self.separator,
            time_unit_ns: self.time_unit,
            id_bytes: self.id_size,
            shift_bytes: self.shift,
        }
    }
}

fn separator(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" => Ok(b'\t'),
        b"space" => Ok(b' '),
        [byte] if !byte.is_ascii_alphanumeric() && *byte != b'"' => Ok(*byte),
        _ => Err("expected one character that is no letter, digit or quote, or `tab`, or `space`".into()),
    }
}

fn id_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes == 0 { Err("an id of 0 bytes has no place".into()) } else { Ok(bytes) }
}
