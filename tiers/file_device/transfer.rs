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

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers of these lengths in a row, and a system that moves as much of them as it likes.
    struct Fickle {
        lengths: Vec<usize>,
        /// Where each byte that was moved came to lie, in their order.
        moved: Vec<u64>,
        random: u64,
        /// A call ended inside a buffer.
        was_cut: bool,
        refuses_direct: bool,
        direct_calls: usize,
    }

    impl Fickle {
        fn random(&mut self) -> usize {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (self.random >> 33) as usize
        }

        /// Up to `most` bytes go to `at`; they must be those that come next.
        fn take(&mut self, index: usize, done: usize, at: u64, most: usize) -> io::Result<usize> {
            let before: usize = self.lengths[..index].iter().sum();
            assert_eq!(before + done, self.moved.len(), "no byte twice, and none left out");
            if self.random().is_multiple_of(5) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = 1 + self.random() % most;
            self.moved.extend(at..at + count as u64);
            let mut ends = self.lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            self.was_cut |= ends.all(|end| end != self.moved.len());
            Ok(count)
        }
    }

    impl Pieces for Fickle {
        fn length(&self, index: usize) -> Option<usize> {
            self.lengths.get(index).copied()
        }

        fn run(&mut self, file: &File, index: usize, at: u64) -> io::Result<usize> {
            if file.metadata()?.is_dir() {
                self.direct_calls += 1;
                assert!(!self.was_cut, "it need not be aligned any more");
                if self.refuses_direct {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
            }
            let most = self.lengths[index..].iter().sum();
            self.take(index, 0, at, most)
        }

        fn run_rest(&mut self, file: &File, index: usize, done: usize, at: u64) -> io::Result<usize> {
            assert!(!file.metadata()?.is_dir(), "the rest of a buffer need not be aligned");
            let most = self.lengths[index] - done;
            self.take(index, done, at, most)
        }
    }

    #[test]
    fn transfers_that_are_cut_short_interrupted_or_refused_as_misaligned_move_each_byte_once() {
        // A folder stands for the file that is open for direct I/O.
        let (direct, buffered) = (File::open("/dev").expect("it is there"), File::open("/dev/null"));
        let buffered = buffered.expect("it is there");
        for seed in 0..2000 {
            let lengths = vec![8 * (1 + seed as usize % 3), 16, 8, 8 * (1 + seed as usize % 5)];
            let bytes: usize = lengths.iter().sum();
            let refuses_direct = seed % 4 == 0;
            let (moved, was_cut, direct_calls) = (vec![], false, 0);
            let mut fickle = Fickle { lengths, moved, random: seed, was_cut, refuses_direct, direct_calls };
            transfer(Some(&direct), &buffered, 4096, &mut fickle).expect("it gets there");
            assert!(fickle.moved.iter().copied().eq(4096..4096 + bytes as u64), "seed {seed}");
            assert!(fickle.direct_calls == 1 || !refuses_direct, "seed {seed}");
        }
    }
}
