//! What is replayed: a trace, the part of it that is asked for, and how its requests become blocks.

use super::args::ReplayArgs;
use super::blocks::Addressing;
use super::feeder::Feeder;
use super::scan::Scan;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::trace::{Source, Window};

pub(super) struct Job {
    pub(super) source: Source,
    window: Window,
    addressing: Addressing,
    pub(super) scan: Scan,
}

impl Job {
    /// Reads the trace that `args` name to its end.
    pub(super) fn of(args: &ReplayArgs) -> Result<Self> {
        let path = args.trace.as_deref().expect("clap asks for a trace or the demo");
        let source = Source::open(path, &args.input.options())?;
        let (window, addressing) = (args.window(), addressing(args));
        let progress = Progress::new("reading", source.file_bytes());
        let scan = Scan::of(&source, &window, &addressing, &progress)?;
        check_volumes(args, &source, &scan)?;
        Ok(Self { source, window, addressing, scan })
    }

    /// A bar over the whole trace.
    pub(super) fn progress(&self, title: &str) -> Progress {
        Progress::new(title, self.source.file_bytes())
    }

    /// Its pieces from the first on.
    pub(super) fn feeder<'a>(&self, progress: &'a Progress) -> Result<Feeder<'a>> {
        let (reader, position) = self.source.reader()?;
        let reader = self.window.around(reader);
        Ok(Feeder::new((reader, position), self.addressing, self.scan.renumbers, progress))
    }
}

fn addressing(args: &ReplayArgs) -> Addressing {
    Addressing { block_size: args.block_size, one_block_each: args.ids, writes_as_reads: args.as_reads }
}

/// Whether the trace has the volumes that `args` name.
fn check_volumes(args: &ReplayArgs, source: &Source, scan: &Scan) -> Result<()> {
    let asked = args.volumes.iter().map(|&number| ("--volume", number));
    let mapped = args.maps.iter().map(|&(number, _)| ("--map", number));
    for (flag, number) in asked.chain(mapped) {
        if !scan.has_volume(number) {
            let name = source.name();
            return Err(Failure::input(format!(
                "{flag} names volume {number}, and no request that is asked for in {name} is for it"
            ))
            .remedy("see its volumes with `terrace trace info`"));
        }
    }
    let is_twice = |at: usize| args.maps[..at].iter().any(|(number, _)| *number == args.maps[at].0);
    if let Some(at) = (0..args.maps.len()).find(|&at| is_twice(at)) {
        let number = args.maps[at].0;
        return Err(
            Failure::input(format!("--map names volume {number} twice")).remedy("give each volume one path")
        );
    }
    Ok(())
}
