//! The log: what `tracing` is told, as lines on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use super::plan::LogLevel;

/// Changes how much is logged.
pub(super) struct Log {
    level: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Begins to log; once in a process.
    pub(super) fn start(level: LogLevel) -> Self {
        let (filter, level) = reload::Layer::new(LevelFilter::from(level));
        // The journal has the time itself.
        let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let registry = tracing_subscriber::registry().with(filter);
        // A second start in one process keeps the first: there is one log.
        let _ = if is_journal {
            tracing::subscriber::set_global_default(registry.with(lines.without_time()))
        } else {
            tracing::subscriber::set_global_default(registry.with(lines))
        };
        Self { level }
    }

    pub(super) fn set(&self, level: LogLevel) {
        // It fails when nobody logs any more.
        let _ = self.level.reload(LevelFilter::from(level));
    }
}
