//! `terrace trace convert`, `cut` and `merge`: requests of traces, to another trace.

use std::ops::Range;
use std::sync::Arc;

use super::super::merge::{Mapping, Merged};
use super::super::window::Bounds;
use super::super::write::Sink;
use super::super::{Source, Window};
use super::{ConvertArgs, CutArgs, MergeArgs, VolumesAre, pour, produce};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::trace::command::info::describe;
use crate::trace::command::overview::overview;
use crate::trace::formats::recording::explain;

pub(super) fn convert(args: &ConvertArgs, print: impl Fn(&str)) -> Result<()> {
    let source = Source::open(&args.trace, &args.input.options())?;
    print(&overview(&source)?);
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
    sources.iter().try_for_each(|source| overview(source).map(|said| print(&said)))?;
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
    let window = Window {
        from: args.from,
        to: args.to,
        requests: args.from_request.unwrap_or(0)..args.to_request.unwrap_or(u64::MAX),
        volumes: args.volumes.clone(),
        ..Window::default()
    };
    window.check()?;
    let source = Source::open(&args.trace, &args.input.options())?;
    // It may be cut because it cannot be read to its end.
    print(&overview(&source).unwrap_or_else(|_| describe(&source)));
    produce(&args.output.output, args.output.how, print, |sink| {
        let volumes = match indexed(&source, &window)? {
            Some(mut part) => part.pour(sink)?,
            None => {
                let (reader, position) = source.reader()?;
                let progress = Progress::new("cutting", source.file_bytes());
                pour(&mut *window.around(reader), sink, &progress, &position)?
            }
        };
        if sink.written == 0 {
            return Err(Failure::input("no request is in the part that is to be cut out")
                .remedy("see times, requests and volumes with `terrace trace info`"));
        }
        Ok(volumes)
    })
}

/// The blocks of a recording of ours in which something may be inside.
struct Indexed<'a> {
    name: &'a str,
    reader: terrace_recording::Reader<std::fs::File>,
    blocks: Vec<terrace_recording::BlockEntry>,
    bounds: Bounds,
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
    let bounds = window.bounds(first_ns)?;
    let mut blocks = index.blocks;
    blocks.retain(|block| bounds.may_have(&numbers(block), block.times_ns));
    Ok(Some(Indexed { name: source.name(), reader, blocks, bounds, volumes: index.volumes }))
}

/// Of the requests in a block.
fn numbers(block: &terrace_recording::BlockEntry) -> Range<u64> {
    block.requests_before..block.requests_before + u64::from(block.requests)
}

impl Indexed<'_> {
    fn pour(&mut self, sink: &mut Sink) -> Result<Vec<String>> {
        let failed = |error| explain(self.name, error);
        for block in &self.blocks {
            self.reader.go_to(block).map_err(failed)?;
            for number in numbers(block) {
                let Some(request) = self.reader.next_request().map_err(failed)? else { break };
                if self.bounds.has(&request, number)? {
                    sink.write(&request)?;
                }
            }
        }
        Ok(std::mem::take(&mut self.volumes))
    }
}
