//! Our own format, which `terrace-recording` reads and writes; its head has the description.

use std::io::{self, Read};

use terrace_recording::{Error, Reader};

use super::super::input::Input;
use super::super::text::{VOLUMES_MAX, bytes, ids};
use super::super::{Kind, Lost, Request, Span, TraceReader};
use crate::failure::{Failure, Result};

pub(in super::super) struct RecordingReader {
    name: String,
    state: State,
    /// As far as they are known before the end.
    volume_names: Vec<String>,
    /// It ends where it is cut short.
    is_one_of_many: bool,
    /// Those read so far.
    requests: u64,
}

enum State {
    Before(Option<Box<Input>>),
    Reading(Box<Reader<InputBytes>>),
}

/// An input as those read who know only [`Read`].
struct InputBytes {
    input: Box<Input>,
}

impl Read for InputBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).map_err(|failure| io::Error::other(failure.to_string()))
    }
}

impl RecordingReader {
    pub(in super::super) fn new(input: Input, volume_names: Vec<String>) -> Self {
        let (name, state) = (input.name().into(), State::Before(Some(Box::new(input))));
        Self { name, state, volume_names, is_one_of_many: false, requests: 0 }
    }

    /// One of the files that a cache recorded: that it is being written, or that the cache was killed, is nothing to stop at.
    pub(in super::super) fn one_of_many(input: Input) -> Self {
        Self { is_one_of_many: true, ..Self::new(input, Vec::new()) }
    }
}

/// Whether a reader of another format could have given it: whoever takes requests relies on that.
fn is_possible(request: &Request) -> bool {
    let is_placed = match request.span {
        _ if request.kind == Kind::Flush => true,
        Span::Bytes { offset, bytes: length } => bytes(request.kind, offset, length).is_some(),
        Span::Ids { first, count } => ids(first, count).is_some(),
    };
    is_placed && (request.volume as usize) < VOLUMES_MAX
}

/// What to tell about `error` in the recording `name`.
pub(in super::super) fn explain(name: &str, error: Error) -> Failure {
    match error {
        Error::Io(error) => {
            Failure::caused(format!("cannot read {name}"), error).remedy("fetch or copy the file again")
        }
        error @ Error::NotARecording { .. } => Failure::caused(format!("{name} cannot be read"), error)
            .remedy("name another format with --format"),
        Error::CutShort { whole_requests, .. } => Failure::caused(format!("{name} is not whole"), error)
            .remedy(format!("take what is whole with `terrace trace cut --to-request {whole_requests}`")),
        error @ Error::Damaged { .. } => {
            Failure::caused(format!("{name} cannot be read on"), error).remedy("fetch or copy the file again")
        }
    }
}

impl TraceReader for RecordingReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        if let State::Before(input) = &mut self.state {
            let input =
                input.take().ok_or_else(|| Failure::input(format!("{} cannot be read", self.name)))?;
            let reader = Reader::new(InputBytes { input }).map_err(|error| explain(&self.name, error))?;
            self.state = State::Reading(Box::new(reader));
        }
        let State::Reading(reader) = &mut self.state else { return Ok(None) };
        let request = match reader.next_request() {
            Err(Error::CutShort { .. }) if self.is_one_of_many => None,
            next => next.map_err(|error| explain(&self.name, error))?,
        };
        self.requests += u64::from(request.is_some());
        match request {
            Some(request) if !is_possible(&request) => Err(Failure::input(format!(
                "{}, request {}: expected one of 65,536 volumes and a read or write below 4 GiB, found {request:?}",
                self.name, self.requests
            ))
            .remedy("the file is damaged or was made to look like a recording: fetch it again")),
            request => Ok(request),
        }
    }

    fn lost(&self) -> Lost {
        match &self.state {
            State::Reading(reader) => reader.lost(),
            State::Before(_) => Lost::default(),
        }
    }

    fn volume_names(&self) -> &[String] {
        match &self.state {
            State::Reading(reader) if !reader.volumes().is_empty() => reader.volumes(),
            State::Reading(_) | State::Before(_) => &self.volume_names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, read_all};
    use super::*;

    /// A recording with right checksums may have been made by hand: a volume of that number would be a table of as many
    /// volumes, and a read of that length a walk over as many blocks.
    #[test]
    fn a_volume_or_a_length_that_no_other_reader_would_give_is_refused_with_its_number() {
        let good = Request {
            volume: 65_535,
            kind: Kind::Read,
            span: Span::Bytes { offset: 0, bytes: (4 << 30) - 1 },
            time_ns: Some(7),
        };
        let long = Request { span: Span::Bytes { offset: 0, bytes: 4 << 30 }, ..good };
        let no_id = Request { span: Span::Ids { first: 0, count: 0 }, ..good };
        let discard = Request { kind: Kind::Discard, ..long };
        let read = |request: &Request| {
            let mut writer = terrace_recording::Writer::new(Vec::new()).expect("in memory");
            [&good, request].into_iter().for_each(|request| writer.write(request).expect("in memory"));
            read_all(Format::Terrace, &writer.finish(&[]).expect("in memory"))
        };
        assert_eq!(read(&discard), Ok(vec![good, discard]));
        for bad in [Request { volume: 65_536, ..good }, Request { volume: u32::MAX, ..good }, long, no_id] {
            let error = read(&bad).expect_err("it is refused");
            assert!(error.contains("request 2: expected one of 65,536 volumes"), "{error}");
        }
    }
}
