//! Ids become places where someone says how large an id is, and places move where they are not aligned.
//!
//! A partition that starts at sector 63 puts every page of its file system across two blocks. Moved by what is missing
//! to the next block, requests touch the blocks that they would in an aligned partition.

use super::text::bytes;
use super::{Kind, Lost, Options, Request, Span, TraceReader};
use crate::failure::{Failure, Result};

pub(super) struct Placed {
    reader: Box<dyn TraceReader>,
    id_bytes: Option<u64>,
    shift_bytes: u64,
    requests: u64,
}

impl Placed {
    /// The requests of `reader` where `options` put them.
    pub(super) fn around(reader: Box<dyn TraceReader>, options: &Options) -> Box<dyn TraceReader> {
        if options.id_bytes.is_none() && options.shift_bytes == 0 {
            return reader;
        }
        let (id_bytes, shift_bytes) = (options.id_bytes, options.shift_bytes);
        Box::new(Self { reader, id_bytes, shift_bytes, requests: 0 })
    }

    fn place(&self, kind: Kind, span: Span) -> Option<Span> {
        match (span, self.id_bytes) {
            _ if kind == Kind::Flush => Some(span),
            (Span::Ids { first, count }, Some(unit)) => {
                let offset = first.checked_mul(unit)?.checked_add(self.shift_bytes)?;
                bytes(kind, offset, count.checked_mul(unit)?)
            }
            (Span::Ids { .. }, None) => Some(span),
            (Span::Bytes { offset, bytes: length }, _) => {
                bytes(kind, offset.checked_add(self.shift_bytes)?, length)
            }
        }
    }
}

impl TraceReader for Placed {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let Some(request) = self.reader.next_request()? else { return Ok(None) };
        self.requests += 1;
        let Some(span) = self.place(request.kind, request.span) else {
            let (number, (start, _)) = (self.requests, request.span.parts());
            return Err(Failure::input(format!(
                "request {number} begins at {start}, which is no place below 2^64 with this --id-size and --shift"
            ))
            .remedy("leave them out, or choose smaller ones"));
        };
        Ok(Some(Request { span, ..request }))
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
    use super::super::{Format, read_all_with};
    use super::*;

    #[test]
    fn ids_become_bytes_and_everything_moves_but_flushes() {
        let options = Options { id_bytes: Some(512), shift_bytes: 512, ..Options::default() };
        let spans = |format, text: &[u8]| -> Vec<(u64, u64)> {
            let requests = read_all_with(format, &options, text).expect("good");
            requests.iter().map(|request| request.span.parts()).collect()
        };
        assert_eq!(spans(Format::Arc, b"7 2 0 0\n"), [(4096, 1024)]);
        let fio = b"fio version 3 iolog\n1 f read 3584 4096\n2 f sync\n";
        assert_eq!(spans(Format::Fio, fio), [(4096, 4096), (0, 0)]);
    }

    #[test]
    fn an_id_too_large_for_its_size_is_named_by_its_request() {
        let options = Options { id_bytes: Some(512), ..Options::default() };
        let error = read_all_with(Format::Ids, &options, b"1\n18446744073709551615\n").expect_err("too far");
        assert!(error.contains("request 2") && error.contains("--id-size"), "{error}");
    }
}
