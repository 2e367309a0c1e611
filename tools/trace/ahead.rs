//! A reader on a thread of its own, some batches ahead of whoever takes its requests: so one processor parses while another
//! numbers off, simulates or writes.
//!
//! Invariants, tested below: requests, names and counts come out as without it, and an error after just those requests that
//! came before it; at most [`BATCHES_MAX`] batches wait, so that memory is bounded; the thread ends with this reader,
//! wherever that stops.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{Lost, Request, TraceReader};
use crate::failure::Result;

/// 192 KiB of them: to hand them over then costs nothing beside reading them.
const BATCH_REQUESTS: usize = 4096;
/// 3 MiB: on a busy machine each hand-over to a thread that sleeps waits for a turn of others, and so many share one.
const BATCHES_MAX: usize = 16;

pub(super) struct Ahead {
    /// None once the thread is to end.
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
    requests: std::vec::IntoIter<Request>,
    /// What comes behind `requests`; none as long as further batches do.
    end: Option<Result<()>>,
    skipped_commands: u64,
    lost: Lost,
    volume_names: Vec<String>,
}

/// What a reader gave since the last batch, and what it said of itself then.
struct Batch {
    requests: Vec<Request>,
    /// Those behind the names that were there before: readers only ever add some.
    new_names: Vec<String>,
    skipped_commands: u64,
    lost: Lost,
    end: Option<Result<()>>,
}

impl Ahead {
    pub(super) fn of(reader: Box<dyn TraceReader>) -> Box<dyn TraceReader> {
        let (sender, batches) = sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new().name("reader".into()).spawn(move || read(reader, &sender));
        Box::new(Self {
            batches: Some(batches),
            thread: Some(thread.expect("there is room for one more thread")),
            requests: Vec::new().into_iter(),
            end: None,
            skipped_commands: 0,
            lost: Lost::default(),
            volume_names: Vec::new(),
        })
    }

    fn take_batch(&mut self) {
        let received = self.batches.as_ref().map(Receiver::recv);
        let Some(Ok(batch)) = received else {
            // Only a thread that panicked sends no end.
            self.stop();
            unreachable!("it panicked, and so did this");
        };
        self.requests = batch.requests.into_iter();
        self.volume_names.extend(batch.new_names);
        (self.skipped_commands, self.lost, self.end) = (batch.skipped_commands, batch.lost, batch.end);
    }

    fn stop(&mut self) {
        self.batches = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Reads to the end, or until nobody takes batches any more.
fn read(mut reader: Box<dyn TraceReader>, batches: &SyncSender<Batch>) {
    let (mut names, mut is_at_end) = (0, false);
    while !is_at_end {
        let (mut requests, mut end) = (Vec::with_capacity(BATCH_REQUESTS), None);
        while requests.len() < BATCH_REQUESTS && end.is_none() {
            match reader.next_request() {
                Ok(Some(request)) => requests.push(request),
                other => end = Some(other.map(|_| ())),
            }
        }
        is_at_end = end.is_some();
        let new_names = reader.volume_names().get(names..).unwrap_or_default().to_vec();
        names += new_names.len();
        let (skipped_commands, lost) = (reader.skipped_commands(), reader.lost());
        let batch = Batch { requests, new_names, skipped_commands, lost, end };
        if batches.send(batch).is_err() {
            return;
        }
    }
}

impl TraceReader for Ahead {
    fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            if let Some(request) = self.requests.next() {
                return Ok(Some(request));
            }
            match self.end.take() {
                None => self.take_batch(),
                Some(end) => {
                    // Whoever asks again is told again that there is no more.
                    self.end = Some(Ok(()));
                    return end.map(|()| None);
                }
            }
        }
    }

    fn skipped_commands(&self) -> u64 {
        self.skipped_commands
    }

    fn lost(&self) -> Lost {
        self.lost
    }

    fn volume_names(&self) -> &[String] {
        &self.volume_names
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Kind, Span};
    use super::*;
    use crate::failure::Failure;

    /// Gives so many requests, a name for every tenth, and then fails or ends.
    struct Given {
        left: u64,
        fails: bool,
        names: Vec<String>,
        _alive: Arc<()>,
    }

    impl TraceReader for Given {
        fn next_request(&mut self) -> Result<Option<Request>> {
            if self.left == 0 {
                return if self.fails { Err(Failure::input("it fails")) } else { Ok(None) };
            }
            self.left -= 1;
            if self.left.is_multiple_of(10) {
                self.names.push(self.left.to_string());
            }
            let span = Span::Ids { first: self.left, count: 1 };
            Ok(Some(Request { volume: 0, kind: Kind::Read, span, time_ns: None }))
        }

        fn skipped_commands(&self) -> u64 {
            self.names.len() as u64
        }

        fn volume_names(&self) -> &[String] {
            &self.names
        }
    }

    fn given(left: u64, fails: bool, alive: &Arc<()>) -> Box<dyn TraceReader> {
        Box::new(Given { left, fails, names: Vec::new(), _alive: alive.clone() })
    }

    /// First ids of all requests, whether an error came behind them, and what is known then.
    fn all(reader: &mut dyn TraceReader) -> (Vec<u64>, bool, u64, Vec<String>) {
        let mut firsts = Vec::new();
        let has_failed = loop {
            match reader.next_request() {
                Ok(Some(request)) => firsts.push(request.span.parts().0),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(has_failed || reader.next_request().is_ok_and(|next| next.is_none()));
        (firsts, has_failed, reader.skipped_commands(), reader.volume_names().to_vec())
    }

    #[test]
    fn what_comes_out_is_what_went_in_and_an_error_comes_behind_it() {
        let alive = Arc::new(());
        let batch = BATCH_REQUESTS as u64;
        for count in [0, 1, batch - 1, batch, batch + 1, 5 * batch + 3] {
            for fails in [false, true] {
                let wanted = all(&mut *given(count, fails, &alive));
                assert_eq!(all(&mut *Ahead::of(given(count, fails, &alive))), wanted, "{count}, {fails}");
            }
        }
        assert_eq!(Arc::strong_count(&alive), 1, "a thread is left");
    }

    #[test]
    fn the_thread_ends_when_its_reader_is_dropped_anywhere() {
        let alive = Arc::new(());
        for taken in [0, 1, 2 * BATCH_REQUESTS] {
            let mut reader = Ahead::of(given(u64::MAX, false, &alive));
            (0..taken).for_each(|_| assert!(reader.next_request().is_ok()));
            drop(reader);
            assert_eq!(Arc::strong_count(&alive), 1, "after {taken} requests");
        }
    }
}
