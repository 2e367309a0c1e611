//! The handshake: from the first byte to the choice of an export.
//!
//! Invariants, each held by a test in `tests/handshake.rs` or `tests/tls.rs`:
//! 1. The export is not asked for anything but what clients are told.
//! 2. A message that is understood or skipped leaves the stream at the next one; anything else ends the connection.
//! 3. No more than [`OPTION_BYTES_MAX`] of an option is kept, no more than [`SKIP_BYTES_MAX`] is skipped, and all ends
//!    at the deadline.
//! 4. Nothing that was agreed on, and not a byte that came, before TLS counts after it.
//! 5. Where TLS is required, nothing but how to start it is said without.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::export::{Export, ExportInfo};
use crate::exports::Exports;
use crate::input::Input;
use crate::session::{Session, context_id, transmission_flags};
use crate::socket::Interest;
use crate::stream::Stream;
use crate::tls::TlsMode;
use crate::wire::{
    Fields, GREETING, Headers, OPTION_MAGIC, OPTION_REPLY_MAGIC, STRING_BYTES_MAX, answer, as_string,
    cut_to_string, handshake, info, option,
};

/// More than any client sends: a name, and queries for contexts.
const OPTION_BYTES_MAX: usize = 16 << 10;
/// Above that it is an attack, not an option.
const SKIP_BYTES_MAX: usize = 1 << 20;

/// Why a connection ended before its time.
#[derive(Debug)]
pub(crate) enum End {
    Io(io::Error),
    /// The client broke a rule after which nothing can be said any more.
    Breach(&'static str),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a client meets.
pub(crate) struct Terms<'a> {
    pub(crate) exports: &'a Exports,
    pub(crate) tls: &'a TlsMode,
    pub(crate) deadline: Instant,
    pub(crate) is_draining: &'a AtomicBool,
}

/// Greets the client and answers its options; none, when it leaves without choosing an export.
pub(crate) fn negotiate(
    terms: &Terms<'_>,
    stream: &mut Stream,
    input: &mut Input,
) -> Result<Option<Session>, End> {
    let agreed = Agreed { headers: Headers::Simple, contexts: None };
    let mut handshake =
        Handshake { terms, stream, input, has_zeroes: true, is_fixed: false, agreed, replies: Vec::new() };
    handshake.greet()?;
    loop {
        match handshake.answer_option()? {
            Step::Next => {}
            Step::StartTls => handshake.start_tls()?,
            Step::Serve(session) => return Ok(Some(*session)),
            Step::Leave => return Ok(None),
        }
    }
}

enum Step {
    Next,
    StartTls,
    Serve(Box<Session>),
    Leave,
}

/// What options have changed so far.
struct Agreed {
    headers: Headers,
    /// The name of the export that they are for, and which.
    contexts: Option<(String, Vec<usize>)>,
}

struct Handshake<'a> {
    terms: &'a Terms<'a>,
    stream: &'a mut Stream,
    input: &'a mut Input,
    has_zeroes: bool,
    is_fixed: bool,
    agreed: Agreed,
    /// The answers to one option, sent together.
    replies: Vec<u8>,
}

impl Handshake<'_> {
    fn greet(&mut self) -> Result<(), End> {
        let flags = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        let mut greeting = Vec::with_capacity(18);
        greeting.extend(GREETING.to_be_bytes());
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend(flags.to_be_bytes());
        self.send(&greeting)?;
        let client_flags = Fields(&self.read(4)?).u32().expect("four bytes");
        if client_flags & !u32::from(flags) != 0 {
            return Err(End::Breach("flags that were not offered"));
        }
        self.has_zeroes = client_flags & u32::from(handshake::NO_ZEROES) == 0;
        self.is_fixed = client_flags & u32::from(handshake::FIXED_NEWSTYLE) != 0;
        Ok(())
    }

    fn answer_option(&mut self) -> Result<Step, End> {
        // A client that never has us wait for it has no longer than others.
        if Instant::now() >= self.terms.deadline {
            return Err(End::Io(io::ErrorKind::TimedOut.into()));
        }
        let head = self.read(16)?;
        let mut fields = Fields(&head);
        let magic = fields.u64().expect("16 bytes");
        let kind = fields.u32().expect("16 bytes");
        let bytes = fields.u32().expect("16 bytes") as usize;
        if magic != OPTION_MAGIC {
            return Err(End::Breach("no option where one must begin"));
        }
        if !self.is_fixed && kind != option::EXPORT_NAME {
            return Err(End::Breach("an option from a client that knows none"));
        }
        if kind == option::EXPORT_NAME && bytes > STRING_BYTES_MAX {
            return Err(End::Breach("a name that is too long"));
        }
        if bytes > SKIP_BYTES_MAX {
            return Err(End::Breach("an option that is too long"));
        }
        let step = if bytes > OPTION_BYTES_MAX {
            self.skip(bytes)?;
            self.refuse(kind, answer::TOO_BIG, "the option is too long");
            Step::Next
        } else {
            let data = self.read(bytes)?;
            self.decide(kind, &data)?
        };
        let replies = std::mem::take(&mut self.replies);
        self.send(&replies)?;
        Ok(step)
    }

    /// Answers an option that came whole.
    fn decide(&mut self, kind: u32, data: &[u8]) -> Result<Step, End> {
        let is_ending = self.terms.is_draining.load(Ordering::SeqCst);
        let needs_tls = matches!(self.terms.tls, TlsMode::Required(_)) && self.stream.is_plain();
        match kind {
            option::ABORT => {
                self.acknowledge(kind);
                return Ok(Step::Leave);
            }
            option::EXPORT_NAME if needs_tls || is_ending => {
                return Err(End::Breach("a name where nothing is served"));
            }
            option::EXPORT_NAME => return self.serve_by_name(data),
            option::STARTTLS => return Ok(self.decide_tls(data)),
            _ if needs_tls => self.refuse(kind, answer::TLS_REQUIRED, "start TLS first"),
            _ if is_ending => self.refuse(kind, answer::SHUTDOWN, "the server is shutting down"),
            option::LIST => self.list(data),
            option::INFO | option::GO => return Ok(self.inform(kind, data)),
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => self.set_headers(kind, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.answer_contexts(kind, data),
            _ => self.refuse(kind, answer::UNSUPPORTED, "the option is not known"),
        }
        Ok(Step::Next)
    }

    fn decide_tls(&mut self, data: &[u8]) -> Step {
        let kind = option::STARTTLS;
        match self.terms.tls {
            _ if !self.stream.is_plain() => self.refuse(kind, answer::INVALID, "TLS is in use"),
            _ if !data.is_empty() => self.refuse(kind, answer::INVALID, "the option has no data"),
            TlsMode::Off => self.refuse(kind, answer::POLICY, "TLS is not set up"),
            TlsMode::Offered(_) | TlsMode::Required(_) => {
                self.acknowledge(kind);
                return Step::StartTls;
            }
        }
        Step::Next
    }

    /// Changes over to TLS. Whatever was agreed on before, someone in between may have said.
    fn start_tls(&mut self) -> Result<(), End> {
        if !self.input.is_empty() {
            return Err(End::Breach("bytes in the clear after the option for TLS"));
        }
        self.agreed = Agreed { headers: Headers::Simple, contexts: None };
        let tls = self.terms.tls.tls().expect("it was acknowledged").connection()?;
        self.stream.start_tls(tls, self.terms.deadline)?;
        Ok(())
    }

    fn list(&mut self, data: &[u8]) {
        if !data.is_empty() {
            return self.refuse(option::LIST, answer::INVALID, "the option has no data");
        }
        for (name, export) in self.terms.exports.list() {
            let description = export.info().description;
            let mut reply = Vec::new();
            reply.extend((name.len() as u32).to_be_bytes());
            reply.extend(name.as_bytes());
            reply.extend(cut_to_string(&description).as_bytes());
            self.reply(option::LIST, answer::SERVER, &reply);
        }
        self.acknowledge(option::LIST);
    }

    fn set_headers(&mut self, kind: u32, data: &[u8]) {
        if !data.is_empty() {
            return self.refuse(kind, answer::INVALID, "the option has no data");
        }
        self.agreed.headers = match (kind, self.agreed.headers) {
            (option::EXTENDED_HEADERS, _) => Headers::Extended,
            (_, Headers::Extended) => {
                return self.refuse(kind, answer::EXTENDED_REQUIRED, "extended headers are agreed on");
            }
            _ => Headers::Structured,
        };
        self.acknowledge(kind);
    }

    fn answer_contexts(&mut self, kind: u32, data: &[u8]) {
        let sets = kind == option::SET_META_CONTEXT;
        if sets {
            self.agreed.contexts = None;
        }
        if self.agreed.headers == Headers::Simple {
            return self.refuse(kind, answer::INVALID, "structured replies must be agreed on first");
        }
        let Some((name, queries)) = parse_queries(data) else {
            return self.refuse(kind, answer::INVALID, "the queries are not as long as they say");
        };
        let Some((name, export)) = self.terms.exports.find(name) else {
            return self.refuse(kind, answer::UNKNOWN, "there is no such export");
        };
        let contexts = export.info().contexts;
        let is_asked = |context: &str| {
            let matches = |query: &&str| {
                context == *query || (!sets && query.ends_with(':') && context.starts_with(*query))
            };
            queries.iter().any(matches) || (!sets && queries.is_empty())
        };
        let found: Vec<usize> = (0..contexts.len()).filter(|&index| is_asked(&contexts[index])).collect();
        for &index in &found {
            let id = if sets { context_id(index) } else { 0 };
            let mut reply = id.to_be_bytes().to_vec();
            reply.extend(contexts[index].as_bytes());
            self.reply(kind, answer::META_CONTEXT, &reply);
        }
        if sets {
            self.agreed.contexts = Some((name, found));
        }
        self.acknowledge(kind);
    }

    fn inform(&mut self, kind: u32, data: &[u8]) -> Step {
        let Some((name, mut wanted)) = parse_info(data) else {
            self.refuse(kind, answer::INVALID, "the name or the list is not as long as it says");
            return Step::Next;
        };
        let Some((name, export)) = self.terms.exports.find(name) else {
            self.refuse(kind, answer::UNKNOWN, "there is no such export");
            return Step::Next;
        };
        let session = self.session(name, export);
        self.reply(
            kind,
            answer::INFO,
            &[&info::EXPORT.to_be_bytes()[..], &self.size_and_flags(&session)].concat(),
        );
        // However often a client asks for one, it gets it once: an answer is no longer than a few options.
        wanted.sort_unstable();
        wanted.dedup();
        for item in wanted {
            self.reply_info(kind, item, &session);
        }
        self.acknowledge(kind);
        if kind == option::GO { Step::Serve(Box::new(session)) } else { Step::Next }
    }

    fn reply_info(&mut self, kind: u32, item: u16, session: &Session) {
        let ExportInfo { description, block_sizes, .. } = &session.info;
        let mut reply = item.to_be_bytes().to_vec();
        match item {
            info::NAME => reply.extend(session.name.as_bytes()),
            info::DESCRIPTION if !description.is_empty() => {
                reply.extend(cut_to_string(description).as_bytes());
            }
            info::BLOCK_SIZE => {
                let sizes = [block_sizes.minimum, block_sizes.preferred, block_sizes.maximum];
                reply.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
            }
            _ => return,
        }
        self.reply(kind, answer::INFO, &reply);
    }

    fn serve_by_name(&mut self, data: &[u8]) -> Result<Step, End> {
        if self.agreed.headers == Headers::Extended {
            return Err(End::Breach("extended headers with the option for old clients"));
        }
        let found = as_string(data).and_then(|name| self.terms.exports.find(name));
        let (name, export) = found.ok_or(End::Breach("there is no such export"))?;
        let session = self.session(name, export);
        let reply = self.size_and_flags(&session);
        self.replies.extend(reply);
        if self.has_zeroes {
            self.replies.extend([0; 124]);
        }
        Ok(Step::Serve(Box::new(session)))
    }

    fn size_and_flags(&self, session: &Session) -> [u8; 10] {
        let flags = transmission_flags(&session.info, session.headers, !session.contexts.is_empty());
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&session.info.size_bytes.to_be_bytes());
        bytes[8..].copy_from_slice(&flags.to_be_bytes());
        bytes
    }

    /// What is agreed on if the client takes this export now. Contexts count only for the export they were set for.
    fn session(&self, name: String, export: Arc<dyn Export>) -> Session {
        let contexts = self.agreed.contexts.iter().find(|(of, _)| *of == name);
        let contexts = contexts.map(|(_, contexts)| contexts.clone()).unwrap_or_default();
        let info = export.info();
        Session { export, name, info, headers: self.agreed.headers, contexts }
    }

    fn acknowledge(&mut self, kind: u32) {
        self.reply(kind, answer::ACK, &[]);
    }

    fn refuse(&mut self, kind: u32, error: u32, why: &str) {
        self.reply(kind, error, why.as_bytes());
    }

    fn reply(&mut self, kind: u32, answer: u32, data: &[u8]) {
        self.replies.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.replies.extend(kind.to_be_bytes());
        self.replies.extend(answer.to_be_bytes());
        self.replies.extend((data.len() as u32).to_be_bytes());
        self.replies.extend(data);
    }

    /// The next `bytes` bytes, which are few.
    fn read(&mut self, bytes: usize) -> Result<Vec<u8>, End> {
        while self.input.peek(bytes).is_none() {
            self.receive()?;
        }
        Ok(self.input.take(bytes).to_vec())
    }

    fn skip(&mut self, bytes: usize) -> Result<(), End> {
        let mut left = bytes;
        loop {
            left -= self.input.take(left).len();
            if left == 0 {
                return Ok(());
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), End> {
        loop {
            match self.input.receive(self.stream, false) {
                Ok(0) => return Err(End::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let interest = Interest { readable: true, writable: false };
                    self.stream.wait_until(interest, self.terms.deadline)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends all, also what TLS keeps.
    fn send(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        loop {
            let sent = if bytes.is_empty() { Ok(0) } else { self.stream.send(&[IoSlice::new(bytes)]) };
            match sent {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if self.stream.push()? && bytes.is_empty() {
                return Ok(());
            }
            self.stream.wait_until(Interest { readable: false, writable: true }, self.terms.deadline)?;
        }
    }
}

/// The name and the queries of an option about meta contexts; none, when it is not what it says.
fn parse_queries(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()??;
    let count = fields.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.string()??);
    }
    fields.0.is_empty().then_some((name, queries))
}

/// The name and the wanted items of an option for an export.
fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()??;
    let count = fields.u16()?;
    let items = (0..count).map(|_| fields.u16()).collect::<Option<Vec<u16>>>()?;
    fields.0.is_empty().then_some((name, items))
}
