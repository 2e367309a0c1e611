//! Our own format, which `terrace-recording` reads and writes; its head has the description.

use std::io::{self, Read};

use terrace_recording::{Error, Reader};

use super::super::input::Input;
use super::super::{Lost, Request, TraceReader};
use crate::failure::{Failure, Result};

pub(in super::super) struct RecordingReader {
    name: String,
    state: State,
    /// As far as they are known before the end.
    volume_names: Vec<String>,
    /// It ends where it is cut short.
    is_one_of_many: bool,
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
        Self { name, state, volume_names, is_one_of_many: false }
    }

    /// One of the files that a cache recorded: that it is being written, or that the cache was killed, is nothing to stop at.
    pub(in super::super) fn one_of_many(input: Input) -> Self {
        Self { is_one_of_many: true, ..Self::new(input, Vec::new()) }
    }
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
        match &mut self.state {
            State::Reading(reader) => match reader.next_request() {
                Err(Error::CutShort { .. }) if self.is_one_of_many => Ok(None),
                next => next.map_err(|error| explain(&self.name, error)),
            },
            State::Before(_) => Ok(None),
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
