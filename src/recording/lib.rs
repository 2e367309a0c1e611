//! Recordings: what a disk was asked for, and when, in a file that is small, checked and can be entered anywhere.
//!
//! ```text
//! | header | note | block | block | note | block | ... | index | tail |
//! ```
//!
//! A block is up to [`BLOCK_REQUESTS`] requests as columns (times, volumes, kinds, places, lengths), each the difference
//! from the row before, packed by zstd. The index says for each block where it lies, which requests it has and which
//! times; the tail says where the index lies. A note has what whoever records live must not keep for the end: names of
//! volumes, and how many requests were lost when. `format` has the byte tables, `encoding` the columns.
//!
//! Invariants, and their tests:
//! 1. What comes out is what went in, or an error: header, block and index have checksums
//!    (`whatever_is_written_is_read_again`, `no_changed_byte_goes_unnoticed`).
//! 2. A recording without its tail was not closed: it gives its whole blocks and then an error, never a silent end
//!    (`a_recording_cut_anywhere_gives_a_prefix_and_then_says_so`). It has the names of the volumes in that prefix, if they
//!    were noted (`names_and_losses_are_known_where_the_recording_is_cut`).
//! 3. No bytes make the reader panic, or take more memory than a block or an index may have
//!    (`no_bytes_make_the_reader_panic`).
//!
//! It knows no cache, no threads and no clock: whoever records says what the time was.

#![forbid(unsafe_code)]

mod encoding;
mod error;
mod format;
mod read;
mod request;
mod write;

pub use encoding::BLOCK_REQUESTS;
pub use error::{Error, Result};
pub use format::MAGIC;
pub use read::{BlockEntry, Index, Reader};
pub use request::{Kind, Lost, Request, Span};
pub use write::Writer;

#[cfg(test)]
mod tests;
