//! `terrace trace convert`, `cut` and `merge`: requests of traces, to another trace.

use std::sync::Arc;

use super::super::merge::{Mapping, Merged};
use super::super::write::Sink;
use super::super::{Request, Source, TraceReader};
use super::{ConvertArgs, CutArgs, MergeArgs, VolumesAre, pour, produce};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::trace::command::info::describe;
use crate::trace::formats::recording::explain;

pub(super) fn convert(args: &ConvertArgs, print: impl Fn(&str)) -> Result<()> {
    let source = Source::open(&args.trace, &args.input.options())?;
    print(&describe(&source));
    produce(&args.output.output, args.output.how, print, |sink| {
        let (mut reader, position) = source.reader()?;
        let progress = Progress::new("converting", source.file_bytes());
        pour(&mut *reader, sink, &progress, &position)
    })
}

pub(super) fn merge(args: &MergeArgs, print: impl Fn(&str)) -> Result<()> {
    let options = args.input.options();
    let sources: Vec<Source> =
        args.traces.iter().map(|path| Source::open(path, &options)).collect::<Result<_>>()?;
    sources.iter().for_each(|source| print(&describe(source)));
    let mapping = match args.volumes {
        _ if !args.map.is_empty() => Mapping::Given(args.map.clone()),
        VolumesAre::Apart => Mapping::Apart,
        VolumesAre::ByName => Mapping::ByName,
    };
    if let Some(line) = args.map.iter().find(|line| line.trace >= sources.len()) {
        let (trace, count) = (line.trace + 1, sources.len());
        return Err(Failure::input(format!("--map names trace {trace}, and there are {count}"))
            .remedy("count the traces from 1"));
    }
    produce(&args.output, args.how, print, |sink| {
        let position = Arc::default();
        let readers =
            sources.iter().map(|source| source.reader_counting(&position)).collect::<Result<_>>()?;
        let mut merged =
            if args.align { Merged::aligned(readers, mapping)? } else { Merged::new(readers, mapping)? };
        let progress = Progress::new("merging", sources.iter().map(Source::file_bytes).sum());
        pour(&mut merged, sink, &progress, &position)
    })
}

pub(super) fn cut(args: &CutArgs, print: impl Fn(&str)) -> Result<()> {
    let window = Window::of(args)?;
    let source = Source::open(&args.trace, &args.input.options())?;
    print(&describe(&source));
    produce(&args.output.output, args.output.how, print, |sink| {
        let volumes = match indexed(&source, &window)? {
            Some(mut part) => part.pour(&window, sink)?,
            None => {
                let (reader, position) = source.reader()?;
                let progress = Progress::new("cutting", source.file_bytes());
                let mut part = Part { reader, number: 0, first_ns: None };
                while let Some(request) = part.next(&window)? {
                    if part.number.is_multiple_of(4096) {
                        progress.show(&position);
                    }
                    if window.has(&request, part.number - 1, part.first_ns) {
                        sink.write(&request)?;
                    }
                }
                part.reader.volume_names().to_vec()
            }
        };
        if sink.written == 0 {
            return Err(Failure::input("no request is in the part that is to be cut out")
                .remedy("see times, requests and volumes with `terrace trace info`"));
        }
        Ok(volumes)
    })
}

/// What is to be cut out; times since the first request.
struct Window {
    from_ns: Option<u64>,
    to_ns: Option<u64>,
    from_request: u64,
    to_request: u64,
    volumes: Vec<u32>,
}

impl Window {
    fn of(args: &CutArgs) -> Result<Self> {
        let window = Self {
            from_ns: args.from,
            to_ns: args.to,
            from_request: args.from_request.unwrap_or(0),
            to_request: args.to_request.unwrap_or(u64::MAX),
            volumes: args.volumes.clone(),
        };
        let is_empty = window.from_request >= window.to_request
            || matches!((window.from_ns, window.to_ns), (Some(from), Some(to)) if from >= to);
        if is_empty {
            return Err(Failure::input("the part to be cut out ends before it begins")
                .remedy("give a --to after --from, a --to-request after --from-request"));
        }
        Ok(window)
    }

    fn needs_times(&self) -> bool {
        self.from_ns.is_some() || self.to_ns.is_some()
    }

    /// Whether the request `number`, from 0, of a trace whose first is stamped `first_ns`, is inside.
    fn has(&self, request: &Request, number: u64, first_ns: Option<u64>) -> bool {
        let since = request.time_ns.zip(first_ns).map_or(0, |(time, first)| time.saturating_sub(first));
        let is_timely =
            self.from_ns.is_none_or(|from| since >= from) && self.to_ns.is_none_or(|to| since < to);
        let is_counted = (self.from_request..self.to_request).contains(&number);
        is_timely && is_counted && (self.volumes.is_empty() || self.volumes.contains(&request.volume))
    }
}

/// A trace that is read up to the last request that may be inside.
struct Part {
    reader: Box<dyn TraceReader>,
    /// Of the next request, from 0.
    number: u64,
    first_ns: Option<u64>,
}

impl Part {
    /// The next request; none at the end, or where no more can be inside. By time alone there is no such place: traces
    /// are not always in its order.
    fn next(&mut self, window: &Window) -> Result<Option<Request>> {
        if self.number >= window.to_request {
            return Ok(None);
        }
        let Some(request) = self.reader.next_request()? else { return Ok(None) };
        if self.number == 0 {
            self.first_ns = request.time_ns;
        }
        check_times(window, &request)?;
        self.number += 1;
        Ok(Some(request))
    }
}

fn check_times(window: &Window, request: &Request) -> Result<()> {
    if window.needs_times() && request.time_ns.is_none() {
        return Err(
            Failure::input("the trace has no times").remedy("cut by --from-request and --to-request instead")
        );
    }
    Ok(())
}

/// The blocks of a recording of ours in which something may be inside.
struct Indexed<'a> {
    name: &'a str,
    reader: terrace_recording::Reader<std::fs::File>,
    blocks: Vec<terrace_recording::BlockEntry>,
    first_ns: Option<u64>,
    volumes: Vec<String>,
}

/// The part of `source` that its index leads to; none when it has none, or when addresses are to be changed.
fn indexed<'a>(source: &'a Source, window: &Window) -> Result<Option<Indexed<'a>>> {
    let options = source.options();
    if options.shift_bytes > 0 || options.id_bytes.is_some() {
        return Ok(None);
    }
    let Some(mut reader) = source.recording()? else { return Ok(None) };
    let failed = |error| explain(source.name(), error);
    let Some(index) = reader.index().map_err(failed)? else { return Ok(None) };
    let Some(first) = index.blocks.first() else { return Ok(None) };
    reader.go_to(first).map_err(failed)?;
    let first_ns = reader.next_request().map_err(failed)?.and_then(|request| request.time_ns);
    let may_have = |block: &terrace_recording::BlockEntry| {
        let end = block.requests_before + u64::from(block.requests);
        let since = |time: u64| time.saturating_sub(first_ns.unwrap_or(0));
        let is_timely = block.times_ns.is_none_or(|(earliest, latest)| {
            window.from_ns.is_none_or(|from| since(latest) >= from)
                && window.to_ns.is_none_or(|to| since(earliest) < to)
        });
        is_timely && end > window.from_request && block.requests_before < window.to_request
    };
    let blocks = index.blocks.into_iter().filter(may_have).collect();
    Ok(Some(Indexed { name: source.name(), reader, blocks, first_ns, volumes: index.volumes }))
}

impl Indexed<'_> {
    fn pour(&mut self, window: &Window, sink: &mut Sink) -> Result<Vec<String>> {
        let failed = |error| explain(self.name, error);
        for block in &self.blocks {
            self.reader.go_to(block).map_err(failed)?;
            for number in block.requests_before..block.requests_before + u64::from(block.requests) {
                let Some(request) = self.reader.next_request().map_err(failed)? else { break };
                check_times(window, &request)?;
                if window.has(&request, number, self.first_ns) {
                    sink.write(&request)?;
                }
            }
        }
        Ok(std::mem::take(&mut self.volumes))
    }
}
