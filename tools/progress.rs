//! A bar on standard error while something long is done, when that is a terminal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar that is full when `bytes` bytes are done.
    pub(crate) fn new(what: &str, bytes: u64) -> Self {
        Self::styled(what, Some(bytes), "{msg:<12} {wide_bar} {bytes}/{total_bytes} {elapsed} (left: {eta})")
    }

    /// A bar that is full when `count` of something are done.
    pub(crate) fn counted(what: &str, count: u64) -> Self {
        Self::styled(
            what,
            Some(count),
            "{msg:<12} {wide_bar} {human_pos}/{human_len} {elapsed} (left: {eta})",
        )
    }

    /// A turning sign, where the end is a time and not a length.
    pub(crate) fn timed(what: &str) -> Self {
        Self::styled(what, None, "{spinner} {msg} {elapsed}")
    }

    fn styled(what: &str, length: Option<u64>, style: &str) -> Self {
        // Hidden by indicatif when standard error is no terminal.
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(5));
        bar.set_style(ProgressStyle::with_template(style).expect("the templates are fixed"));
        bar.set_message(what.to_string());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Self(bar)
    }

    pub(crate) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// So many more steps are done.
    pub(crate) fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    /// Whether nobody sees it.
    pub(crate) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    pub(crate) fn show(&self, position: &AtomicU64) {
        self.0.set_position(position.load(Ordering::Relaxed));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
