//! Any bytes in place of a trace's: entries for fuzzing, and good traces of every format to start from.
//!
//! An entry takes any bytes and returns whether they were read to their end. It may not panic, not run on, and not take
//! memory beyond the bounds at the heads of the readers. A recording of ours is also read with its checksums made right:
//! they would keep nearly all bytes from the code behind them.
//!
//! What holds of every request that comes out, whatever went in, is asserted here: it ends at or before the last address,
//! none that reads or writes is endless, its volume is one that has a name where volumes have names, and lines and records
//! give one request each at the most.

use clap::ValueEnum;

use super::input::Input;
use super::text::{LENGTH_LIMIT, VOLUMES_MAX};
use super::{Format, Kind, Options, Request, detect, place};

mod samples;

pub use samples::{Valid, valid};

/// The entry for bytes of which nothing is known; each format has one of its own, `trace-NAME`.
pub const DETECTED: &str = "detected";

const OF_A_FORMAT: &str = "trace-";

/// The name of every entry.
pub fn targets() -> Vec<String> {
    let own = Format::value_variants().iter().map(|&format| target_of(format));
    own.chain([DETECTED.to_string()]).collect()
}

fn target_of(format: Format) -> String {
    format!("{OF_A_FORMAT}{}", format.name())
}

/// Runs an entry; whether the bytes were read to their end.
///
/// # Panics
/// When none is called so, and where a reader does harm.
pub fn run(target: &str, bytes: &[u8]) -> bool {
    if target == DETECTED {
        return detected(bytes);
    }
    let mut formats = Format::value_variants().iter();
    let format = formats.find(|&&format| target_of(format) == target);
    reader(*format.unwrap_or_else(|| panic!("no target is called {target}")), bytes)
}

/// Bytes that say how the others are read, of an entry that is a format's.
pub const CHOICE_BYTES: usize = 1;

/// Bytes as a trace of `format`, with the options that the first byte chooses.
fn reader(format: Format, bytes: &[u8]) -> bool {
    let Some((&options, trace)) = bytes.split_first() else { return false };
    let options = options_chosen(options);
    let is_read = read_all(format, &options, trace);
    if format != Format::Terrace {
        return is_read;
    }
    let mut repaired = trace.to_vec();
    terrace_recording::fuzz::repair(&mut repaired);
    read_all(format, &options, &repaired) || is_read
}

/// Bytes as a file, plain or packed, of which nothing is known: what its content shows is read.
fn detected(bytes: &[u8]) -> bool {
    let options = Options::default();
    let Ok(prefix) = Input::from_bytes(bytes).prefix(detect::PREFIX_BYTES) else { return false };
    match detect::detect(&prefix, "test", &options) {
        Ok(format) => read_all(format, &options, bytes),
        Err(_) => false,
    }
}

/// Columns, a unit of time and an id's size, each given or not.
fn options_chosen(choice: u8) -> Options {
    let is = |bit: u8| choice >> bit & 1 == 1;
    let columns = "volume,time,op:scsi,size,offset:512,flush";
    Options {
        columns: is(0).then(|| columns.parse().expect("they are good")),
        separator: if is(1) { b' ' } else { b',' },
        time_unit_ns: is(2).then_some(1_000_000_000),
        id_bytes: is(3).then_some(512),
        shift_bytes: if is(4) { 512 } else { 0 },
        ..Options::default()
    }
}

fn read_all(format: Format, options: &Options, bytes: &[u8]) -> bool {
    let input = Input::from_bytes(bytes);
    // Those that are packed may hold more requests than bytes.
    let is_packed = format == Format::Terrace || input.packing() != super::unpack::Packing::Plain;
    let mut reader = place::Placed::around(format.reader(input, options), options);
    let mut requests = 0;
    loop {
        match reader.next_request() {
            Ok(Some(request)) => {
                requests += 1;
                assert!(is_packed || requests <= bytes.len(), "{format:?}");
                check(&request, reader.volume_names().len(), format);
            }
            Ok(None) => return true,
            Err(failure) => {
                assert!(!failure.to_string().is_empty());
                return false;
            }
        }
    }
}

fn check(request: &Request, names: usize, format: Format) {
    let (start, length) = request.span.parts();
    assert!(start.checked_add(length.saturating_sub(1)).is_some(), "{format:?}: {request:?}");
    let is_short = length < LENGTH_LIMIT || !matches!(request.kind, Kind::Read | Kind::Write);
    assert!(is_short, "{format:?}: {request:?}");
    // A recording may have requests of volumes whose names were never noted.
    let volumes = if names == 0 || format == Format::Terrace { VOLUMES_MAX } else { names };
    assert!((request.volume as usize) < volumes, "{format:?}: {request:?}");
}
