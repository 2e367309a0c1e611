//! The way back for an answer.

use std::fmt;
use std::sync::Arc;

use crate::export::{Data, ErrorCode, Extent, Failure, Result};
use crate::outbox::Outbox;
use crate::reply::{Answer, Ticket};

/// Takes the answer of one request, on any thread, without waiting for the client. Dropped without one it answers with
/// an input/output error, so no request is ever stuck.
pub struct Done<T> {
    way: Option<Way<T>>,
}

enum Way<T> {
    Reply { outbox: Arc<Outbox>, ticket: Ticket, answer: fn(T) -> Answer },
    Call { call: Box<dyn FnOnce(Result<T>) + Send>, is_wanted: Box<dyn Fn() -> bool + Send + Sync> },
}

impl<T> Done<T> {
    /// An answer that `call` takes: for exports that put others to work, and for tests of an export.
    pub fn call(call: impl FnOnce(Result<T>) + Send + 'static) -> Self {
        Self::call_while(|| true, call)
    }

    /// As [`Self::call`], for as long as it `is_wanted`.
    pub fn call_while(
        is_wanted: impl Fn() -> bool + Send + Sync + 'static,
        call: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Self {
        Self { way: Some(Way::Call { call: Box::new(call), is_wanted: Box::new(is_wanted) }) }
    }

    /// Whether anybody waits for the answer: not when the client hung up or is cut off. What is done in many parts asks
    /// before each, and gives the rest up. One that says that it leaves has all done that it asked for.
    pub fn is_wanted(&self) -> bool {
        match &self.way {
            Some(Way::Reply { outbox, .. }) => outbox.is_wanted(),
            Some(Way::Call { is_wanted, .. }) => is_wanted(),
            None => false,
        }
    }

    pub fn complete(mut self, result: Result<T>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<T>) {
        match self.way.take() {
            Some(Way::Reply { outbox, ticket, answer }) => outbox.finish(&ticket, result.map(answer)),
            Some(Way::Call { call, .. }) => call(result),
            None => {}
        }
    }
}

impl Done<()> {
    pub(crate) fn of_nothing(outbox: Arc<Outbox>, ticket: Ticket) -> Self {
        Self { way: Some(Way::Reply { outbox, ticket, answer: |()| Answer::Nothing }) }
    }
}

impl Done<Data> {
    pub(crate) fn of_read(outbox: Arc<Outbox>, ticket: Ticket) -> Self {
        Self { way: Some(Way::Reply { outbox, ticket, answer: Answer::Data }) }
    }
}

impl Done<Vec<Vec<Extent>>> {
    pub(crate) fn of_status(outbox: Arc<Outbox>, ticket: Ticket) -> Self {
        Self { way: Some(Way::Reply { outbox, ticket, answer: Answer::Status }) }
    }
}

impl<T> Drop for Done<T> {
    fn drop(&mut self) {
        self.finish(Err(Failure::new(ErrorCode::Io, "the export gave no answer")));
    }
}

impl<T> fmt::Debug for Done<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}
