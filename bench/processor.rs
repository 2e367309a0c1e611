//! How long threads have had a processor.

use std::path::Path;
use std::time::{Duration, Instant};

const THIS_THREAD: &str = "/proc/thread-self";

/// Nanoseconds that the calling thread has had a processor; 0 where the system does not tell.
pub fn thread_nanoseconds() -> f64 {
    on_processor(Path::new(THIS_THREAD)).map_or(0.0, |time| time.as_nanos() as f64)
}

/// Seconds that all threads of this process have had a processor, also those that ended.
pub fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and has room for what is written, and nothing of it is kept.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every process has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds that the threads of this process with this name have had a processor; those that ended do not count.
pub fn processor_seconds_of(name: &str) -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let its_name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        if its_name.trim_end() == name { on_processor(&thread.path()) } else { None }
    });
    times.sum::<Duration>().as_secs_f64()
}

/// How long this thread is on a processor while it runs `work` so many times: what others have of the machine does not
/// count, as in time by the clock it would.
pub fn time_on_processor(times: u64, mut work: impl FnMut()) -> Duration {
    let clock = Instant::now();
    let before = on_processor(Path::new(THIS_THREAD));
    (0..times).for_each(|_| work());
    before.zip(on_processor(Path::new(THIS_THREAD))).map_or(clock.elapsed(), |(before, after)| after - before)
}

/// Of the thread with this folder, so far; none where the system does not tell.
fn on_processor(thread: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
