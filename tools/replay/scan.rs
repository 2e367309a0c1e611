//! One reading of the whole trace, before anything is made on disk: sizes, times, and whether every line can be read.

use terrace::{BlockId, BlockSize};

use super::blocks::Addressing;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::trace::{Alignment, Kind, Request, Source, Span, Window};

/// Ids are renumbered in order of appearance when a volume would be larger than this. Half of ext4's largest file.
const ID_VOLUME_BYTES_MAX: u64 = 8 << 40;

/// What it shows, of the requests inside the window.
#[derive(Clone, Default, Debug)]
pub(crate) struct Scan {
    pub(crate) requests: u64,
    /// Commands that neither move data nor order it, and discards where they are taken as nothing.
    pub(crate) skipped_commands: u64,
    /// Requests that whoever recorded the trace had no room for.
    pub(crate) lost_requests: u64,
    pub(crate) has_times: bool,
    /// The earliest and the latest time.
    pub(crate) times_ns: Option<(u64, u64)>,
    pub(crate) alignment: Alignment,
    /// For each volume of the trace, how many blocks it must have; none for one that no request is for.
    pub(crate) volume_blocks: Vec<Option<u64>>,
    /// Ids are too large for block numbers and are counted off instead.
    pub(crate) renumbers: bool,
    /// Where the last block ends, if there are ids.
    pub(crate) id_end: Option<u64>,
}

impl Scan {
    /// Reads what is inside `window` to its end.
    pub(crate) fn of(
        source: &Source,
        window: &Window,
        addressing: &Addressing,
        progress: &Progress,
    ) -> Result<Self> {
        Self::with(source, window, addressing, progress, |_| ())
    }

    /// The same, with `visit` called for each request.
    pub(crate) fn with(
        source: &Source,
        window: &Window,
        addressing: &Addressing,
        progress: &Progress,
        mut visit: impl FnMut(&Request),
    ) -> Result<Self> {
        let (reader, position) = source.reader()?;
        let mut reader = window.around(reader);
        let mut scan = Self::default();
        let (mut read, mut passed_over) = (0u64, 0);
        let (mut has_ids, mut moves_data) = (false, false);
        let mut highest = 0;
        while let Some(request) = reader.next_request()? {
            if read.is_multiple_of(4096) {
                progress.show(&position);
            }
            read += 1;
            visit(&request);
            let Some(kind) = addressing.kind(request.kind) else {
                passed_over += 1;
                continue;
            };
            let volume = scan.count(&request);
            if kind == Kind::Flush {
                continue;
            }
            moves_data |= kind != Kind::Discard;
            has_ids |= addressing.has_ids(request.span);
            let (first, count) = addressing.blocks(request.span);
            let end = first.saturating_add(count);
            highest = highest.max(end);
            *volume = end.max(*volume);
        }
        scan.skipped_commands = reader.skipped_commands() + passed_over;
        scan.lost_requests = reader.lost().requests;
        if !moves_data {
            return Err(nothing_in(source, window));
        }
        scan.id_end = has_ids.then_some(highest);
        scan.renumbers = scan.renumbers_for(addressing.block_size);
        if scan.renumbers {
            // As many as there can be; the backing file is sparse.
            let limit = ID_VOLUME_BYTES_MAX >> addressing.block_size.shift();
            scan.volume_blocks.iter_mut().flatten().for_each(|blocks| *blocks = (*blocks).min(limit));
        } else if highest > BlockId::NUMBER_LIMIT {
            return Err(Failure::input(format!(
                "the trace reaches block {}, and 2^40 is the limit",
                highest - 1
            ))
            .remedy("choose a larger --block-size"));
        }
        Ok(scan)
    }

    /// [`Self::renumbers`] with another size of blocks.
    pub(crate) fn renumbers_for(&self, block_size: BlockSize) -> bool {
        self.id_end.is_some_and(|end| end > ID_VOLUME_BYTES_MAX >> block_size.shift())
    }

    pub(crate) fn duration_ns(&self) -> Option<u64> {
        self.times_ns.map(|(earliest, latest)| latest - earliest)
    }

    /// Whether a request is for this volume of the trace.
    pub(crate) fn has_volume(&self, number: u32) -> bool {
        self.volume_blocks.get(number as usize).is_some_and(Option::is_some)
    }

    /// Volumes that some request is for.
    pub(crate) fn volumes(&self) -> usize {
        self.volume_blocks.iter().flatten().count()
    }

    /// Gives the length of the request's volume as it is known so far, in blocks.
    fn count(&mut self, request: &Request) -> &mut u64 {
        self.requests += 1;
        if let Some(time) = request.time_ns {
            self.has_times = true;
            let (earliest, latest) = self.times_ns.unwrap_or((time, time));
            self.times_ns = Some((earliest.min(time), latest.max(time)));
        }
        if let (Span::Bytes { offset, .. }, Kind::Read | Kind::Write) = (request.span, request.kind) {
            self.alignment.add(offset);
        }
        let volumes = self.volume_blocks.len().max(request.volume as usize + 1);
        self.volume_blocks.resize(volumes, None);
        self.volume_blocks[request.volume as usize].get_or_insert(0)
    }
}

fn nothing_in(source: &Source, window: &Window) -> Failure {
    let name = source.name();
    if window.is_all() {
        return Failure::input(format!("{name} holds no reads and no writes"))
            .remedy("name another trace, or its format with --format");
    }
    Failure::input(format!("the part of {name} that is asked for holds no reads and no writes"))
        .remedy("see its times, requests and volumes with `terrace trace info`")
}
