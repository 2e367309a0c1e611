//! What benchmarks measure of the readers.

use std::path::Path;

use clap::ValueEnum;
use terrace::BlockId;
use terrace::simulate::DenseTrace;

use super::input::Input;
use super::{Format, Options, Source, TraceReader};

/// Reads `bytes` as a trace of the format with this name; how many requests there are.
///
/// # Panics
/// When there is no such format, or the trace cannot be read.
pub fn count_requests(format: &str, bytes: &[u8]) -> u64 {
    let format = Format::from_str(format, false).expect("a known format");
    let mut reader = format.reader(Input::from_bytes(bytes), &Options::default());
    let mut requests = 0;
    each_span(&mut *reader, |_, _| requests += 1);
    requests
}

/// The ids of the trace at `path`, one volume, numbered off.
///
/// # Panics
/// When it cannot be read.
pub fn dense_ids(path: &Path) -> DenseTrace {
    let source = Source::open(path, &Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
    let (mut reader, _) = source.reader().unwrap_or_else(|failure| panic!("{failure}"));
    let mut trace = DenseTrace::default();
    each_span(&mut *reader, |first, count| {
        (first..first + count).for_each(|id| trace.push(BlockId::from_u64(id)));
    });
    trace.finished()
}

fn each_span(reader: &mut dyn TraceReader, mut each: impl FnMut(u64, u64)) {
    while let Some(request) = reader.next_request().unwrap_or_else(|failure| panic!("{failure}")) {
        let (first, count) = request.span.parts();
        each(first, count);
    }
}
