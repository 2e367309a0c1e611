//! What a trace is, in a line that is said before anything is made of it: whoever mistook its unit sees that here and not
//! after hours.

use std::collections::BTreeSet;

use super::super::Source;
use super::info::describe;
use crate::failure::Result;
use crate::progress::Progress;
use crate::trace::formats::recording::explain;
use crate::units::{show_count, show_seconds};

/// How many requests there are, how long they took, and for how many volumes they are.
#[derive(Default, Debug, PartialEq)]
struct Overview {
    requests: u64,
    times_ns: Option<(u64, u64)>,
    volumes: usize,
}

/// `t.csv.gz: msr, gzip; bytes, times in 100 ns; 12,345 requests, 2 h 3 min, 3 volumes`. Reads the trace, unless it has an
/// index.
pub(super) fn overview(source: &Source) -> Result<String> {
    let found = match of_index(source)? {
        Some(found) => found,
        None => of_requests(source)?,
    };
    let span = found.times_ns.map(|(first, last)| show_seconds((last - first) as f64 / 1e9));
    let volumes = if found.volumes == 1 { "volume" } else { "volumes" };
    Ok(format!(
        "{}; {} requests, {}, {} {volumes}",
        describe(source),
        show_count(found.requests),
        span.unwrap_or_else(|| "no times".into()),
        found.volumes
    ))
}

fn of_index(source: &Source) -> Result<Option<Overview>> {
    let Some(mut reader) = source.recording()? else { return Ok(None) };
    let index = reader.index().map_err(|error| explain(source.name(), error))?;
    // Volumes without names it does not count.
    let Some(index) = index.filter(|index| !index.volumes.is_empty()) else { return Ok(None) };
    let times = || index.blocks.iter().filter_map(|block| block.times_ns);
    let first = times().map(|(first, _)| first).min();
    Ok(Some(Overview {
        requests: index.blocks.iter().map(|block| u64::from(block.requests)).sum(),
        times_ns: first.zip(times().map(|(_, last)| last).max()),
        volumes: index.volumes.len(),
    }))
}

fn of_requests(source: &Source) -> Result<Overview> {
    let (mut reader, position) = source.reader()?;
    let progress = Progress::new("looking", source.file_bytes());
    let (mut found, mut volumes) = (Overview::default(), BTreeSet::new());
    let mut volume = None;
    while let Some(request) = reader.next_request()? {
        if found.requests.is_multiple_of(4096) {
            progress.show(&position);
        }
        found.requests += 1;
        if let Some(time) = request.time_ns {
            let (first, last) = found.times_ns.unwrap_or((time, time));
            found.times_ns = Some((first.min(time), last.max(time)));
        }
        if volume.replace(request.volume) != Some(request.volume) {
            volumes.insert(request.volume);
        }
    }
    found.volumes = volumes.len();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Options;
    use crate::trace::write::{Sink, Target};
    use crate::trace::{Kind, Request, Span};

    #[test]
    fn a_trace_says_its_units_its_duration_and_its_volumes_whether_it_is_read_or_has_an_index() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let open = |name: &str| Source::open(&folder.path().join(name), &Options::default()).expect("good");
        let text = "0,0,4096,r,1\n0,8,4096,w,2\n2,8,4096,w,7201\n";
        std::fs::write(folder.path().join("t"), text).expect("a file in our directory");
        let said = overview(&open("t")).expect("good");
        assert!(
            said.ends_with("spc; 512-byte sectors and bytes, times in s; 3 requests, 2 h 0 min, 2 volumes"),
            "{said}"
        );
        let mut sink = Sink::create(&folder.path().join("r"), Target::Terrace, 512).expect("room for it");
        for (volume, time_ns) in [(0, 10), (1, 5_000_000_010), (0, 7_000_000_010)] {
            let span = Span::Bytes { offset: 0, bytes: 512 };
            sink.write(&Request { volume, kind: Kind::Read, span, time_ns: Some(time_ns) }).expect("room");
        }
        sink.finish(&["a".into(), "b".into()]).expect("room");
        let source = open("r");
        let by_index = of_index(&source).expect("good").expect("it has one");
        assert_eq!(by_index, of_requests(&source).expect("good"));
        let wanted = Overview { requests: 3, times_ns: Some((10, 7_000_000_010)), volumes: 2 };
        assert_eq!(by_index, wanted);
    }
}
