//! A part of a trace: a window of time or of requests, some of its volumes, no more than so many requests.

use std::ops::Range;

use super::moment::Moment;
use super::{Lost, Request, TraceReader};
use crate::failure::{Failure, Result};

/// Which requests are inside; by default all are.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) from: Option<Moment>,
    pub(crate) to: Option<Moment>,
    /// By their number in the trace, from 0.
    pub(crate) requests: Range<u64>,
    /// None named: all of them.
    pub(crate) volumes: Vec<u32>,
    /// No more than so many of those that are inside by everything else.
    pub(crate) count_max: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { from: None, to: None, requests: 0..u64::MAX, volumes: Vec::new(), count_max: u64::MAX }
    }
}

impl Window {
    /// Whether anything can be inside.
    ///
    /// # Errors
    /// When it ends before it begins.
    pub(crate) fn check(&self) -> Result<()> {
        let ends_early = match (self.from, self.to) {
            (Some(Moment::Since(from)), Some(Moment::Since(to)))
            | (Some(Moment::At(from)), Some(Moment::At(to))) => from >= to,
            _ => false,
        };
        if ends_early || self.requests.is_empty() {
            return Err(Failure::input("the part of the trace ends before it begins")
                .remedy("give a --to after --from, a --to-request after --from-request"));
        }
        Ok(())
    }

    pub(crate) fn is_all(&self) -> bool {
        let has_times = self.from.is_some() || self.to.is_some();
        !has_times && self.volumes.is_empty() && self.requests == (0..u64::MAX) && self.count_max == u64::MAX
    }

    /// What `reader` gives of it.
    pub(crate) fn around(&self, reader: Box<dyn TraceReader>) -> Box<dyn TraceReader> {
        if self.is_all() {
            return reader;
        }
        Box::new(Windowed { reader, window: self.clone(), bounds: None, number: 0, given: 0 })
    }

    /// The window on a trace whose first request is stamped `first_ns`.
    pub(super) fn bounds(&self, first_ns: Option<u64>) -> Result<Bounds> {
        let (mut from_ns, mut to_ns) = (0, u64::MAX);
        for (moment, bound, flag) in [(self.from, &mut from_ns, "--from"), (self.to, &mut to_ns, "--to")] {
            let Some(moment) = moment else { continue };
            let first_ns = first_ns.ok_or_else(no_times)?;
            *bound = moment.since(first_ns).ok_or_else(|| {
                Failure::input(format!("{flag} names a moment, and the trace's times are not a wall clock's"))
                    .remedy("give a time since its first request, such as 90s")
            })?;
        }
        let needs_times = self.from.is_some() || self.to.is_some();
        let (requests, volumes) = (self.requests.clone(), self.volumes.clone());
        Ok(Bounds { since_ns: from_ns..to_ns, first_ns, needs_times, requests, volumes })
    }
}

fn no_times() -> Failure {
    Failure::input("the trace has no times").remedy("leave --from and --to out, and count requests instead")
}

/// A window on one trace.
pub(super) struct Bounds {
    /// After the first request.
    since_ns: Range<u64>,
    first_ns: Option<u64>,
    needs_times: bool,
    requests: Range<u64>,
    volumes: Vec<u32>,
}

impl Bounds {
    /// Whether `request`, which has this number in the trace, is inside.
    pub(super) fn has(&self, request: &Request, number: u64) -> Result<bool> {
        if self.needs_times && request.time_ns.is_none() {
            return Err(no_times());
        }
        let is_timely = request.time_ns.is_none_or(|time| self.since_ns.contains(&self.since(time)));
        let is_counted = self.requests.contains(&number);
        Ok(is_timely && is_counted && (self.volumes.is_empty() || self.volumes.contains(&request.volume)))
    }

    /// Whether one with a number and a time out of these may be.
    pub(super) fn may_have(&self, numbers: &Range<u64>, times_ns: Option<(u64, u64)>) -> bool {
        let is_timely = times_ns.is_none_or(|(earliest, latest)| {
            self.since(latest) >= self.since_ns.start && self.since(earliest) < self.since_ns.end
        });
        is_timely && numbers.end > self.requests.start && numbers.start < self.requests.end
    }

    fn since(&self, time_ns: u64) -> u64 {
        time_ns.saturating_sub(self.first_ns.unwrap_or(0))
    }
}

/// The requests of a reader that are inside a window.
struct Windowed {
    reader: Box<dyn TraceReader>,
    window: Window,
    /// Known once the first request was read.
    bounds: Option<Bounds>,
    /// Of the next request, from 0.
    number: u64,
    given: u64,
}

impl TraceReader for Windowed {
    fn next_request(&mut self) -> Result<Option<Request>> {
        // By time alone there is no last one: traces are not always in its order.
        while self.number < self.window.requests.end && self.given < self.window.count_max {
            let Some(request) = self.reader.next_request()? else { return Ok(None) };
            let bounds = match &mut self.bounds {
                Some(bounds) => bounds,
                none => none.insert(self.window.bounds(request.time_ns)?),
            };
            let number = self.number;
            self.number += 1;
            if bounds.has(&request, number)? {
                self.given += 1;
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    fn skipped_commands(&self) -> u64 {
        self.reader.skipped_commands()
    }

    fn lost(&self) -> Lost {
        self.reader.lost()
    }

    fn volume_names(&self) -> &[String] {
        self.reader.volume_names()
    }
}

#[cfg(test)]
mod tests {
    use super::super::moment::parse_moment;
    use super::super::{Kind, Span};
    use super::*;

    struct Given(std::vec::IntoIter<Request>);

    impl TraceReader for Given {
        fn next_request(&mut self) -> Result<Option<Request>> {
            Ok(self.0.next())
        }
    }

    /// The offsets that `window` lets through of ten requests a second apart, from `first_s` on, by two volumes in turn.
    fn inside(window: &Window, first_s: Option<u64>) -> std::result::Result<Vec<u64>, String> {
        let request = |number: u64| Request {
            volume: (number % 2) as u32,
            kind: Kind::Read,
            span: Span::Bytes { offset: number, bytes: 1 },
            time_ns: first_s.map(|first| (first + number) * 1_000_000_000),
        };
        let requests: Vec<Request> = (0..10).map(request).collect();
        let mut reader = window.around(Box::new(Given(requests.into_iter())));
        let mut offsets = Vec::new();
        while let Some(request) = reader.next_request().map_err(|failure| failure.to_string())? {
            offsets.push(request.span.parts().0);
        }
        Ok(offsets)
    }

    fn moment(text: &str) -> Option<Moment> {
        Some(parse_moment(text).expect("good"))
    }

    #[test]
    fn times_numbers_volumes_and_the_limit_each_leave_out_what_is_outside() {
        let window = Window { from: moment("2s"), to: moment("6s"), ..Window::default() };
        assert_eq!(inside(&window, Some(5)), Ok(vec![2, 3, 4, 5]));
        let odd = Window { volumes: vec![1], ..window.clone() };
        assert_eq!(inside(&odd, Some(5)), Ok(vec![3, 5]));
        let first = Window { count_max: 1, ..odd };
        assert_eq!(inside(&first, Some(5)), Ok(vec![3]));
        let counted = Window { requests: 7..9, ..Window::default() };
        assert_eq!(inside(&counted, None), Ok(vec![7, 8]));
        assert_eq!(inside(&Window::default(), None).map(|all| all.len()), Ok(10));
    }

    #[test]
    fn a_moment_finds_its_place_in_a_wall_clock_and_is_refused_elsewhere() {
        let window = Window { from: moment("2020-01-01T00:00:03Z"), ..Window::default() };
        assert_eq!(inside(&window, Some(1_577_836_800)), Ok((3..10).collect()));
        assert!(inside(&window, Some(5)).expect_err("no wall clock").contains("wall clock"));
        assert!(inside(&window, None).expect_err("no times").contains("no times"));
    }

    #[test]
    fn a_window_that_ends_before_it_begins_is_refused() {
        for (from, to) in [("2s", "2s"), ("2020-01-02", "2020-01-01")] {
            let window = Window { from: moment(from), to: moment(to), ..Window::default() };
            assert!(window.check().is_err(), "{from} {to}");
        }
        let mixed = Window { from: moment("2s"), to: moment("1999-01-01"), ..Window::default() };
        assert!(mixed.check().is_ok(), "only the trace can tell");
    }
}
