//! What was agreed on with a client, and what a request may ask for under it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::export::{ErrorCode, Export, ExportInfo, Failure, Result, Zeroing};
use crate::wire::{Fields, Headers, Request, command, flag, transmission};

/// The outcome of a handshake.
pub(crate) struct Session {
    pub(crate) export: Arc<dyn Export>,
    pub(crate) name: String,
    pub(crate) info: ExportInfo,
    pub(crate) headers: Headers,
    /// The meta contexts that the client chose, as indices into [`ExportInfo::contexts`].
    pub(crate) contexts: Vec<usize>,
}

/// A request that may be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// It is about no bytes.
    Nothing,
    Read,
    Write {
        fua: bool,
    },
    Flush,
    Trim {
        fua: bool,
    },
    Zeroes(Zeroing),
    Cache,
    Status {
        contexts: SmallVec<[usize; 2]>,
        is_one: bool,
    },
    /// Its contexts and its range are in the payload: [`Session::plan_payload`].
    StatusOfPayload,
}

/// The client's name for a context.
pub(crate) fn context_id(index: usize) -> u32 {
    index as u32 + 1
}

fn invalid(message: &'static str) -> Failure {
    Failure::new(ErrorCode::Invalid, message)
}

/// The flags by which a client is told what it may ask for.
pub(crate) fn transmission_flags(info: &ExportInfo, headers: Headers, has_contexts: bool) -> u16 {
    let features = &info.features;
    let can_write = !features.read_only;
    [
        (true, transmission::HAS_FLAGS),
        (features.read_only, transmission::READ_ONLY),
        (features.flush, transmission::FLUSH),
        (features.fua, transmission::FUA),
        (features.rotational, transmission::ROTATIONAL),
        (can_write && features.trim, transmission::TRIM),
        (can_write && features.write_zeroes, transmission::WRITE_ZEROES),
        (headers != Headers::Simple, transmission::DF),
        (features.multi_conn, transmission::MULTI_CONN),
        (features.cache, transmission::CACHE),
        (can_write && features.write_zeroes && features.fast_zero, transmission::FAST_ZERO),
        (headers == Headers::Extended && has_contexts, transmission::STATUS_PAYLOAD),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .sum()
}

impl Session {
    /// How many bytes of payload come behind the head of `request`.
    pub(crate) fn payload_bytes(&self, request: &Request) -> u64 {
        // A write has one also without the flag that extended headers want: qemu 10 does not set it.
        let has_payload = request.command == command::WRITE
            || self.headers == Headers::Extended && request.flags & flag::PAYLOAD != 0;
        if has_payload { request.length } else { 0 }
    }

    /// Whether a client that sends such a payload is cut off. With compact heads any payload can be skipped and refused,
    /// as the length has 32 bits; an extended one above the largest size that was told is a breach.
    pub(crate) fn is_breach(&self, request: &Request) -> bool {
        self.headers == Headers::Extended
            && self.payload_bytes(request) > u64::from(self.info.block_sizes.maximum)
    }

    /// What `request` asks for, if it may.
    pub(crate) fn plan(&self, request: &Request) -> Result<Task> {
        self.check_flags(request)?;
        if self.info.features.read_only
            && matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES)
        {
            return Err(Failure::new(ErrorCode::NotPermitted, "the export is read-only"));
        }
        let fua = request.flags & flag::FUA != 0;
        match request.command {
            command::FLUSH if request.offset != 0 || request.length != 0 => {
                return Err(invalid("a flush has no range"));
            }
            command::FLUSH => return Ok(Task::Flush),
            command::BLOCK_STATUS if request.flags & flag::PAYLOAD != 0 && request.length == 0 => {
                return Err(invalid("a status by a payload that is empty"));
            }
            command::BLOCK_STATUS if request.flags & flag::PAYLOAD != 0 => return Ok(Task::StatusOfPayload),
            _ => self.check_range(request.command, request.offset, request.length)?,
        }
        let is_empty = request.length == 0;
        Ok(match request.command {
            command::BLOCK_STATUS if is_empty => return Err(invalid("a status of no bytes")),
            command::BLOCK_STATUS => self.status(self.contexts.iter().copied().collect(), request),
            command::READ => Task::Read,
            _ if is_empty => Task::Nothing,
            command::WRITE => Task::Write { fua },
            command::TRIM => Task::Trim { fua },
            command::CACHE => Task::Cache,
            _ => Task::Zeroes(Zeroing {
                fua,
                no_hole: request.flags & flag::NO_HOLE != 0,
                fast: request.flags & flag::FAST_ZERO != 0,
            }),
        })
    }

    /// The status that a payload asks for, and the bytes that it is about.
    pub(crate) fn plan_payload(&self, request: &Request, payload: &[u8]) -> Result<(Task, u64)> {
        let mut fields = Fields(payload);
        let bytes = fields.u64().ok_or(invalid("the payload has no length"))?;
        let mut contexts: SmallVec<[usize; 2]> = SmallVec::new();
        while let Some(id) = fields.u32() {
            let known = self.contexts.iter().copied().find(|&index| context_id(index) == id);
            let index = known.ok_or(invalid("a context that was not chosen"))?;
            if contexts.contains(&index) {
                return Err(invalid("a context is named twice"));
            }
            contexts.push(index);
        }
        if !fields.0.is_empty() || contexts.is_empty() || bytes == 0 {
            return Err(invalid("the payload is no length with contexts"));
        }
        self.check_range(request.command, request.offset, bytes)?;
        Ok((self.status(contexts, request), bytes))
    }

    fn status(&self, contexts: SmallVec<[usize; 2]>, request: &Request) -> Task {
        Task::Status { contexts, is_one: request.flags & flag::REQ_ONE != 0 }
    }

    /// Whether the command is offered, and its flags go with it.
    fn check_flags(&self, request: &Request) -> Result<()> {
        let features = &self.info.features;
        let is_extended = self.headers == Headers::Extended;
        let own = match request.command {
            command::READ if self.headers == Headers::Simple => 0,
            command::READ => flag::DF,
            command::WRITE if is_extended => flag::PAYLOAD,
            command::WRITE => 0,
            command::FLUSH if features.flush => 0,
            command::TRIM if features.trim => 0,
            command::CACHE if features.cache => 0,
            command::WRITE_ZEROES if features.write_zeroes && features.fast_zero => {
                flag::NO_HOLE | flag::FAST_ZERO
            }
            command::WRITE_ZEROES if features.write_zeroes => flag::NO_HOLE,
            command::BLOCK_STATUS if self.contexts.is_empty() => {
                return Err(invalid("no meta context was chosen"));
            }
            command::BLOCK_STATUS if is_extended => flag::REQ_ONE | flag::PAYLOAD,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => return Err(invalid("the command is not offered")),
        };
        // Clients are known to set it on every command.
        let fua = if features.fua { flag::FUA } else { 0 };
        if request.flags & !(own | fua) != 0 {
            return Err(invalid("a flag that does not go with the command"));
        }
        Ok(())
    }

    fn check_range(&self, kind: u16, offset: u64, bytes: u64) -> Result<()> {
        let is_inside = offset.checked_add(bytes).is_some_and(|end| end <= self.info.size_bytes);
        if !is_inside {
            let code = match kind {
                command::WRITE | command::WRITE_ZEROES => ErrorCode::NoSpace,
                _ => ErrorCode::Invalid,
            };
            return Err(Failure::new(code, "the range ends past the end of the export"));
        }
        let sizes = &self.info.block_sizes;
        if !(offset | bytes).is_multiple_of(sizes.minimum.into()) {
            return Err(invalid("the range is not of whole blocks of the minimum size"));
        }
        if bytes > sizes.maximum.into() && matches!(kind, command::READ | command::WRITE) {
            let code = match (kind, self.headers) {
                (command::READ, Headers::Structured | Headers::Extended) => ErrorCode::Overflow,
                _ => ErrorCode::Invalid,
            };
            return Err(Failure::new(code, "more than the largest payload"));
        }
        Ok(())
    }
}
