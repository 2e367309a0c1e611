//! One call on a device as the calls of the system that it takes.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

use super::system;

/// The buffers of one call, either way.
pub(super) trait Pieces {
    /// How long the buffer `index` is; none past the last.
    fn length(&self, index: usize) -> Option<usize>;
    /// Moves what one call moves of the buffers from `index` on.
    fn run(&mut self, file: &File, index: usize, at: u64) -> io::Result<usize>;
    /// Moves some of the buffer `index`, of which `done` bytes are moved already.
    fn run_rest(&mut self, file: &File, index: usize, done: usize, at: u64) -> io::Result<usize>;
}

pub(super) struct Reads<'a, 'b>(pub(super) &'a mut [IoSliceMut<'b>]);

impl Pieces for Reads<'_, '_> {
    fn length(&self, index: usize) -> Option<usize> {
        self.0.get(index).map(|buffer| buffer.len())
    }

    fn run(&mut self, file: &File, index: usize, at: u64) -> io::Result<usize> {
        system::read_at(file, at, &mut self.0[index..])
    }

    fn run_rest(&mut self, file: &File, index: usize, done: usize, at: u64) -> io::Result<usize> {
        file.read_at(&mut self.0[index][done..], at)
    }
}

pub(super) struct Writes<'a, 'b>(pub(super) &'a [IoSlice<'b>]);

impl Pieces for Writes<'_, '_> {
    fn length(&self, index: usize) -> Option<usize> {
        self.0.get(index).map(|buffer| buffer.len())
    }

    fn run(&mut self, file: &File, index: usize, at: u64) -> io::Result<usize> {
        system::write_at(file, at, &self.0[index..])
    }

    fn run_rest(&mut self, file: &File, index: usize, done: usize, at: u64) -> io::Result<usize> {
        file.write_at(&self.0[index][done..], at)
    }
}

/// Repeats calls until all of `pieces` are moved: when there are more than one call takes, and after a short transfer.
///
/// A buffer that was cut short is finished on its own, and what follows a short transfer goes buffered, for it need
/// not be aligned; that way no list of buffers is ever copied or changed. A direct call that is refused as misaligned
/// goes buffered too.
pub(super) fn transfer(
    direct: Option<&File>,
    buffered: &File,
    offset: u64,
    pieces: &mut impl Pieces,
) -> io::Result<()> {
    let (mut direct, mut at, mut index, mut done) = (direct, offset, 0, 0);
    while let Some(length) = pieces.length(index) {
        if done >= length {
            (index, done) = (index + 1, done - length);
            continue;
        }
        let result = match done {
            0 => pieces.run(direct.unwrap_or(buffered), index, at),
            _ => pieces.run_rest(buffered, index, done, at),
        };
        match result {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends at {at}"))),
            Ok(moved) => (at, done) = (at + moved as u64, done + moved),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && direct.is_some() => direct = None,
            Err(error) => return Err(error),
        }
        // A call ends on a piece, unless it was cut short.
        if done > 0 && ends_inside(pieces, index, done) {
            direct = None;
        }
    }
    Ok(())
}

/// Whether `done` bytes from the start of the piece `index` end inside a piece.
fn ends_inside(pieces: &impl Pieces, mut index: usize, mut done: usize) -> bool {
    while let Some(length) = pieces.length(index) {
        if done < length {
            return done > 0;
        }
        (index, done) = (index + 1, done - length);
    }
    false
}
