//! Answers as bytes.
//!
//! Invariants of a reply, each with a test below:
//! 1. A reply is whole before its first byte is queued, so a failure never comes after a promise of data.
//! 2. Data is exactly as long as what was asked for, or it is an error.
//! 3. Extents: at least one, none empty, none past the end of the disk, none after the range is covered; one of at most
//!    the range's length where one was asked for; none over 32 bits where the reply has no room for more.
//! 4. A message of an error is at most 4096 bytes.

use smallvec::SmallVec;

use crate::export::{Data, ErrorCode, Extent, Failure, Result};
use crate::wire::{Head, Headers, chunk, cut_to_string};

/// The longest extent that 32 bits hold and that ends on any block size.
const COMPACT_EXTENT_MAX: u64 = 0xffff_0000;

/// What an export answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Nothing,
    Data(Data),
    /// One list for each context of the ticket.
    Status(Vec<Vec<Extent>>),
}

/// What must be known of a request to reply to it.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// What the connection is charged for it until the reply has gone.
    pub(crate) cost: u64,
    /// Of a status: the client's names for the contexts, and whether one extent of each is enough.
    pub(crate) context_ids: SmallVec<[u32; 2]>,
    pub(crate) is_one: bool,
}

/// How replies look on a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) headers: Headers,
    pub(crate) size_bytes: u64,
}

/// The bytes of one reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: Head,
    pub(crate) body: Option<Data>,
    pub(crate) cost: u64,
}

impl Style {
    pub(crate) fn reply(self, ticket: &Ticket, result: Result<Answer>) -> Reply {
        let (head, body) = match result {
            Ok(Answer::Nothing) => (self.success(ticket), None),
            Ok(Answer::Data(data)) if data.len_bytes() as u64 == ticket.bytes => self.data(ticket, data),
            Ok(Answer::Data(data)) => {
                let message = format!("the export gave {} bytes for {}", data.len_bytes(), ticket.bytes);
                self.failure(ticket, &Failure::new(ErrorCode::Io, message))
            }
            Ok(Answer::Status(lists)) => self.status(ticket, &lists),
            Err(failure) => self.failure(ticket, &failure),
        };
        Reply { head, body, cost: ticket.cost }
    }

    fn success(self, ticket: &Ticket) -> Head {
        match self.headers {
            Headers::Simple => Head::simple(ticket.cookie, 0),
            _ => self.chunk(ticket, chunk::DONE, chunk::NONE, 0),
        }
    }

    /// The head of a piece of a structured reply.
    fn chunk(self, ticket: &Ticket, flags: u16, kind: u16, payload_bytes: u32) -> Head {
        match self.headers {
            Headers::Extended => {
                Head::extended(ticket.cookie, ticket.offset, flags, kind, payload_bytes.into())
            }
            _ => Head::structured(ticket.cookie, flags, kind, payload_bytes),
        }
    }

    fn data(self, ticket: &Ticket, data: Data) -> (Head, Option<Data>) {
        if self.headers == Headers::Simple || ticket.bytes == 0 {
            return (self.success(ticket), Some(data));
        }
        // `BlockSizes` bound it.
        let payload_bytes = (ticket.bytes + 8) as u32;
        let head = self.chunk(ticket, chunk::DONE, chunk::DATA, payload_bytes).put_u64(ticket.offset);
        (head, Some(data))
    }

    fn failure(self, ticket: &Ticket, failure: &Failure) -> (Head, Option<Data>) {
        let code = failure.code as u32;
        if self.headers == Headers::Simple {
            return (Head::simple(ticket.cookie, code), None);
        }
        let message = cut_to_string(&failure.message);
        let mut payload = Vec::with_capacity(6 + message.len());
        payload.extend(code.to_be_bytes());
        payload.extend((message.len() as u16).to_be_bytes());
        payload.extend(message.as_bytes());
        (self.chunk(ticket, chunk::DONE, chunk::ERROR, payload.len() as u32), Some(payload.into()))
    }

    /// One piece for each context.
    fn status(self, ticket: &Ticket, lists: &[Vec<Extent>]) -> (Head, Option<Data>) {
        let mut bytes = Vec::new();
        for (index, &id) in ticket.context_ids.iter().enumerate() {
            let is_last = index + 1 == ticket.context_ids.len();
            let extents = self.settle(ticket, lists.get(index).map_or(&[], Vec::as_slice));
            let flags = if is_last { chunk::DONE } else { 0 };
            if self.headers == Headers::Extended {
                let payload_bytes = 8 + 16 * extents.len() as u32;
                let head = self.chunk(ticket, flags, chunk::STATUS_EXTENDED, payload_bytes);
                bytes.extend(head.as_slice());
                bytes.extend(id.to_be_bytes());
                bytes.extend((extents.len() as u32).to_be_bytes());
                for extent in extents {
                    bytes.extend(extent.bytes.to_be_bytes());
                    bytes.extend(u64::from(extent.flags).to_be_bytes());
                }
            } else {
                let payload_bytes = 4 + 8 * extents.len() as u32;
                bytes.extend(self.chunk(ticket, flags, chunk::STATUS, payload_bytes).as_slice());
                bytes.extend(id.to_be_bytes());
                for extent in extents {
                    bytes.extend((extent.bytes as u32).to_be_bytes());
                    bytes.extend(extent.flags.to_be_bytes());
                }
            }
        }
        (Head::empty(), Some(bytes.into()))
    }

    /// `extents` as the protocol wants them. What an export says nothing about is data, which is always safe to say.
    fn settle(self, ticket: &Ticket, extents: &[Extent]) -> Vec<Extent> {
        let mut settled: Vec<Extent> = Vec::new();
        let mut covered = 0;
        let disk_left = self.size_bytes - ticket.offset;
        for extent in extents {
            let bytes = extent.bytes.min(disk_left - covered);
            match settled.last_mut() {
                _ if bytes == 0 => continue,
                Some(last) if last.flags == extent.flags => last.bytes += bytes,
                _ if covered >= ticket.bytes => break,
                _ => settled.push(Extent { bytes, flags: extent.flags }),
            }
            covered += bytes;
        }
        if settled.is_empty() {
            settled.push(Extent { bytes: ticket.bytes, flags: 0 });
        }
        if ticket.is_one {
            settled.truncate(1);
            settled[0].bytes = settled[0].bytes.min(ticket.bytes);
        }
        if self.headers != Headers::Extended
            && let Some(long) = settled.iter().position(|extent| extent.bytes > COMPACT_EXTENT_MAX)
        {
            // The client asks again from where this ends.
            settled.truncate(long + 1);
            settled[long].bytes = COMPACT_EXTENT_MAX;
        }
        settled
    }
}
