//! Instructions that threads run, as the processor counts them: what something costs, whoever else has the machine.

use std::fs::File;
use std::io::{Error, Read, Result};
use std::os::fd::FromRawFd;

/// `struct perf_event_attr` of `linux/perf_event.h` as it was first; the system takes this length for ever.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    bytes: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config_1: u64,
}

const HARDWARE: u32 = 0;
const INSTRUCTIONS: u64 = 1;
/// How long the counter was wanted, and how long it had one of the processor's, which others may want too.
const WITH_TIMES: u64 = 1 | 2;
/// Threads that are started later count too; the system's own instructions do not.
const INHERIT: u64 = 1 << 1;
const WITHOUT_SYSTEM: u64 = 1 << 5 | 1 << 6;
/// A flag of the call.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// A counter of one thread and of all that it starts from then on, and those in turn.
pub struct Instructions {
    counter: File,
}

impl Instructions {
    /// Of the calling thread.
    ///
    /// # Errors
    /// When the processor, or whoever runs this as a guest, counts none, or this user may not ask
    /// (`/proc/sys/kernel/perf_event_paranoid` above 2).
    pub fn from_here() -> Result<Self> {
        Self::of(HARDWARE, INSTRUCTIONS)
    }

    fn of(kind: u32, config: u64) -> Result<Self> {
        let attributes = Attributes {
            kind,
            bytes: size_of::<Attributes>() as u32,
            config,
            read_format: WITH_TIMES,
            flags: INHERIT | WITHOUT_SYSTEM,
            ..Attributes::default()
        };
        let (this_thread, any_processor, no_group) = (0, -1, -1);
        // SAFETY: bounds   - the structure says its own length.
        //         no alias - the call only reads it.
        //         lifetime - it outlives the call, which keeps nothing of it.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                this_thread,
                any_processor,
                no_group,
                CLOSE_ON_EXEC,
            )
        };
        if descriptor < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: lifetime - the call has just made it, and nobody else has it.
        let counter = unsafe { File::from_raw_fd(descriptor as i32) };
        Ok(Self { counter })
    }

    /// So many so far; what went by while others had the processor's counter is put in as it was before and behind.
    pub fn count(&self) -> u64 {
        let mut bytes = [0; 24];
        (&self.counter).read_exact(&mut bytes).expect("a counter that was opened can be read");
        let [counted, wanted, had] =
            [0, 8, 16].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes")));
        if had == 0 { 0 } else { (u128::from(counted) * u128::from(wanted) / u128::from(had)) as u64 }
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn work(rounds: u64) {
        (0..rounds).for_each(|round| _ = black_box(round * 7));
    }

    /// Nearly every processor counts instructions, but not for every guest; time on a processor is counted everywhere.
    const SOFTWARE: u32 = 1;
    const TASK_CLOCK: u64 = 1;

    #[test]
    fn what_a_thread_that_was_started_later_does_counts_too() {
        let counter = match Instructions::from_here().or_else(|_| Instructions::of(SOFTWARE, TASK_CLOCK)) {
            Ok(counter) => counter,
            Err(error) => {
                println!("skipped: nothing may be counted here: {error}");
                return;
            }
        };
        let of = |run: &dyn Fn()| {
            let before = counter.count();
            run();
            counter.count() - before
        };
        let in_thread = |rounds| std::thread::scope(|scope| _ = scope.spawn(move || work(rounds)));
        let (none, own, other) = (of(&|| ()), of(&|| work(10_000_000)), of(&|| in_thread(10_000_000)));
        assert!(own > 20 * none.max(1) && other > own / 4, "{none}, {own}, {other}");
    }
}
