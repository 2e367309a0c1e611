//! When requests are made: as fast as answers come, or when the trace says.
//!
//! In an open loop a request is due so long after the first as it was recorded, divided by the speed. Threads take
//! requests in the trace's order, each sleeps until its own is due, and makes it, whoever else still waits for answers:
//!
//! ```text
//!   recorded      r1        r2 r3              r4
//!   thread 1      r1 ═══════════════╗ waits for r4 │
//!   thread 2      waits for │r2 ════════════╗
//!   thread 3      waits for    │r3 ═══════════════════
//! ```
//!
//! 1. Deadlines are absolute: a request that is late makes no later one late.
//! 2. No request is made before it is due.
//! 3. There is a thread for a request that is due unless as many as may be are under way. If so the loop is not open then,
//!    and the request is *held back* and counted.
//!
//! `lateness` is from the deadline to the submission: late wake-ups, requests that were held back, and writes that had to
//! wait for an overlapping one.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How fast the trace goes by.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Speed {
    /// A closed loop.
    Max,
    /// So many times as fast as it was recorded, in an open loop.
    Times(f64),
}

/// A year in half a minute: beyond, no clock of a thread keeps up.
const SPEED_MAX: f64 = 1e6;

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.strip_suffix('x').and_then(|times| times.parse::<f64>().ok());
        let times = times.filter(|times| (1.0 / SPEED_MAX..=SPEED_MAX).contains(times));
        times.map(Self::Times).ok_or_else(|| "expected max, or a speed such as 1x, 60x or 0.5x".into())
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// So many threads, each its next request when its last is answered.
    Closed {
        threads: u32,
    },
    Open {
        speed: f64,
        in_flight_max: u32,
    },
}

impl Pace {
    pub(crate) fn threads(self) -> u32 {
        match self {
            Self::Closed { threads } => threads,
            Self::Open { in_flight_max, .. } => in_flight_max,
        }
    }
}

/// Requests that were due while as many as may be were under way.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct HeldBack {
    pub(crate) requests: u64,
    /// So long into the run the first of them was due.
    pub(crate) first_ns: Option<u64>,
}

impl HeldBack {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, first_ns: self.first_ns.or(other.first_ns) }
    }
}

/// What the threads of an open loop share.
pub(super) struct OpenLoop {
    speed: f64,
    in_flight_max: u32,
    in_flight: AtomicU32,
    /// The last moment at which as many as may be were under way, from when it began; none yet: 0.
    full_at_ns: AtomicU64,
    held_back: Mutex<HeldBack>,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Default)]
struct Phase {
    /// When the first request was due.
    begun: Option<Instant>,
    is_over: bool,
}

impl OpenLoop {
    pub(super) fn new(speed: f64, in_flight_max: u32) -> Self {
        Self {
            speed,
            in_flight_max,
            in_flight: AtomicU32::new(0),
            full_at_ns: AtomicU64::new(0),
            held_back: Mutex::default(),
            phase: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// All threads are there: the first request is due now.
    pub(super) fn begin(&self) {
        self.phase().begun = Some(Instant::now());
        self.changed.notify_all();
    }

    /// Wakes all that wait; nothing more is due.
    pub(super) fn end(&self) {
        self.phase().is_over = true;
        self.changed.notify_all();
    }

    pub(super) fn held_back(&self) -> HeldBack {
        *self.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request is due that the trace has `due_ns` after its first, and counts it as under way; its
    /// deadline. None when all is over.
    pub(super) fn wait_until_due(&self, due_ns: u64) -> Option<Instant> {
        let after = Duration::from_secs_f64(due_ns as f64 / 1e9 / self.speed);
        let mut phase = self.phase();
        let mut has_slept = false;
        let (begun, due) = loop {
            let left = match phase.begun {
                _ if phase.is_over => return None,
                None => Duration::MAX,
                Some(begun) => match (begun + after).saturating_duration_since(Instant::now()) {
                    Duration::ZERO => break (begun, begun + after),
                    left => left,
                },
            };
            has_slept = true;
            phase = self.changed.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(phase);
        if !has_slept {
            self.note_if_held_back(nanoseconds(due - begun));
        }
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(due)
    }

    /// A request that was under way is answered, and its thread goes for the next.
    pub(super) fn answered(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == self.in_flight_max
            && let Some(begun) = self.phase().begun
        {
            self.full_at_ns.fetch_max(nanoseconds(begun.elapsed()), Ordering::AcqRel);
        }
    }

    /// A request is taken after it was due: if nobody was free to take it at any moment since, it was held back.
    fn note_if_held_back(&self, due_ns: u64) {
        let full_at_ns = self.full_at_ns.load(Ordering::Acquire);
        if full_at_ns > 0 && full_at_ns >= due_ns {
            let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
            held_back.requests += 1;
            held_back.first_ns.get_or_insert(due_ns);
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_max_or_a_number_of_times() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("60x".parse(), Ok(Speed::Times(60.0)));
        assert_eq!("0.5x".parse(), Ok(Speed::Times(0.5)));
        for text in ["60", "x", "0x", "-1x", "infx", "NaNx", "1e9x", "fast"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_request_is_made_before_it_is_due_and_a_late_one_makes_no_other_late() {
        let open = OpenLoop::new(1000.0, 1);
        open.begin();
        let begun = open.phase().begun.expect("it began");
        // A second of the trace is a millisecond here.
        let first = open.wait_until_due(1_000_000_000).expect("not over");
        assert!(first == begun + Duration::from_millis(1) && Instant::now() >= first);
        open.answered();
        // The next was due long ago: its deadline is where it always was.
        assert_eq!(open.wait_until_due(2_000_000), Some(begun + Duration::from_micros(2)));
        open.answered();
        let last = open.wait_until_due(3_000_000_000).expect("not over");
        assert!(last == begun + Duration::from_millis(3) && Instant::now() >= last);
    }

    #[test]
    fn only_what_was_due_while_all_were_under_way_is_held_back() {
        let open = OpenLoop::new(1.0, 2);
        open.begin();
        // Late, but one was free all the time.
        open.wait_until_due(0).expect("not over");
        open.wait_until_due(0).expect("not over");
        assert_eq!(open.held_back().requests, 0);
        open.answered();
        let full_at_ns = open.full_at_ns.load(Ordering::Relaxed);
        assert!(full_at_ns > 0, "both were under way");
        open.note_if_held_back(full_at_ns + 1);
        assert_eq!(open.held_back().requests, 0, "due when one was free again");
        open.wait_until_due(full_at_ns).expect("not over");
        assert_eq!(open.held_back(), HeldBack { requests: 1, first_ns: Some(full_at_ns) });
    }

    #[test]
    fn whoever_waits_is_woken_when_all_is_over() {
        let open = OpenLoop::new(1.0, 1);
        open.begin();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| open.wait_until_due(u64::MAX / 2));
            open.end();
            assert_eq!(waiting.join().expect("no panic"), None);
        });
    }
}
