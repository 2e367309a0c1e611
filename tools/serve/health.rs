//! What a service that nobody watches says in its log: that something fails, once, and that it is well again.
//!
//! Metrics and the page have all of it too, for those who look.

use terrace::{SsdFailure, Stats};

/// What was said last.
#[derive(Default)]
pub(super) struct Health {
    failing_volumes: u64,
    lost_blocks: u64,
    ssd_off_for: Option<SsdFailure>,
    corrupt_blocks: u64,
}

/// A line for the log.
#[derive(PartialEq, Eq, Debug)]
enum Change {
    Fails {
        exports: u64,
    },
    TakesAgain,
    SsdOff(SsdFailure),
    SsdOn,
    Lost {
        blocks: u64,
    },
    /// Since the last look.
    Corrupt {
        blocks: u64,
    },
}

impl Health {
    /// Says what has changed since the last look.
    pub(super) fn look(&mut self, stats: &Stats) {
        for change in self.changes(stats) {
            match change {
                Change::Fails { exports } => tracing::warn!(
                    exports,
                    "the disks of exports take nothing: what was written is kept and tried again, a flush says why"
                ),
                Change::TakesAgain => tracing::warn!("all disks take what is written again"),
                Change::SsdOff(reason) => tracing::warn!(?reason, "the SSD failed and is switched off"),
                Change::SsdOn => tracing::warn!("there is an SSD again"),
                Change::Lost { blocks } => {
                    tracing::error!(blocks, "blocks are lost: terrace ctl lost names them");
                }
                Change::Corrupt { blocks } => {
                    tracing::warn!(blocks, "blocks of the SSD were bad: clean ones come from the disks");
                }
            }
        }
    }

    fn changes(&mut self, stats: &Stats) -> Vec<Change> {
        let before = std::mem::replace(
            self,
            Self {
                failing_volumes: stats.failing_volumes,
                lost_blocks: stats.lost_blocks,
                ssd_off_for: stats.ssd_off_for,
                corrupt_blocks: stats.ssd.corrupt_blocks,
            },
        );
        let mut changes = Vec::new();
        match (before.failing_volumes, self.failing_volumes) {
            (before, 0) if before > 0 => changes.push(Change::TakesAgain),
            (before, exports) if exports > before => changes.push(Change::Fails { exports }),
            _ => {}
        }
        match (before.ssd_off_for, self.ssd_off_for) {
            (None, Some(reason)) => changes.push(Change::SsdOff(reason)),
            (Some(_), None) => changes.push(Change::SsdOn),
            _ => {}
        }
        if self.lost_blocks > before.lost_blocks {
            changes.push(Change::Lost { blocks: self.lost_blocks });
        }
        // Another SSD begins at 0.
        if self.corrupt_blocks > before.corrupt_blocks {
            changes.push(Change::Corrupt { blocks: self.corrupt_blocks - before.corrupt_blocks });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_said_once_and_so_is_its_end() {
        let mut health = Health::default();
        let well = Stats::default();
        let mut ill = well;
        (ill.failing_volumes, ill.lost_blocks) = (2, 3);
        (ill.ssd_off_for, ill.ssd.corrupt_blocks) = (Some(SsdFailure::Log), 5);
        let said = [
            Change::Fails { exports: 2 },
            Change::SsdOff(SsdFailure::Log),
            Change::Lost { blocks: 3 },
            Change::Corrupt { blocks: 5 },
        ];
        assert_eq!(health.changes(&well), []);
        assert_eq!(health.changes(&ill), said);
        assert_eq!(health.changes(&ill), []);
        let mut better = ill;
        (better.failing_volumes, better.lost_blocks) = (1, 1);
        assert_eq!(health.changes(&better), []);
        let (worse, more) = (Change::Fails { exports: 2 }, Change::Lost { blocks: 3 });
        assert_eq!(health.changes(&ill), [worse, more]);
        assert_eq!(health.changes(&well), [Change::TakesAgain, Change::SsdOn]);
    }
}
