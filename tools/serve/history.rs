//! What the service did lately, for whoever looks at it over HTTP.
//!
//! The thread of HTTP looks once a second; nothing is kept, and nobody looks, where `http` was not asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::metrics;
use super::service::{Service, Snapshot};

/// How often the service is looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Looks at a service.
pub(super) struct Watch {
    service: Arc<Service>,
    ages: Mutex<Ages>,
}

impl Watch {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service, ages: Mutex::default() }
    }

    /// Looks again; once in each [`PERIOD`].
    pub(super) fn look(&self) {
        self.ages.lock().note(&self.service.snapshot(), Instant::now());
    }

    /// The answer to a scrape.
    pub(super) fn metrics(&self) -> String {
        let (snapshot, now) = (self.service.snapshot(), Instant::now());
        let mut ages = self.ages.lock();
        ages.note(&snapshot, now);
        metrics::exposition(snapshot, ages.clone(), now)
    }

    /// Whether clients are let in. It takes every lock that requests take, as the watchdog does: where one is never let
    /// go there is no answer.
    pub(super) fn is_serving(&self) -> bool {
        self.service.cache.stats();
        !self.service.is_stopping()
    }
}

/// Since when each tier was not seen without a dirty block. Nothing that is dirty there became so more than one [`PERIOD`]
/// before that.
#[derive(Clone, Default, Debug)]
pub(super) struct Ages {
    ram: Option<Instant>,
    ssd: Option<Instant>,
}

impl Ages {
    fn note(&mut self, snapshot: &Snapshot, now: Instant) {
        let (ram_blocks, ssd_blocks) = (snapshot.stats.dirty_blocks, snapshot.stats.ssd.dirty_blocks);
        self.ram = (ram_blocks > 0).then(|| self.ram.unwrap_or(now));
        self.ssd = (ssd_blocks > 0).then(|| self.ssd.unwrap_or(now));
    }

    pub(super) fn ram(&self, now: Instant) -> Duration {
        age(self.ram, now)
    }

    pub(super) fn ssd(&self, now: Instant) -> Duration {
        age(self.ssd, now)
    }
}

fn age(since: Option<Instant>, now: Instant) -> Duration {
    since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
}
