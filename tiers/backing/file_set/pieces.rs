//! A list of buffers cut into parts of given lengths, without copying what is in them.

use std::io::{IoSlice, IoSliceMut};

use crate::error::Result;

/// Calls `run` with the number and the buffers of each part in turn, until one fails. What the parts leave over at the
/// end is not used; the buffers hold at least what the parts ask for.
pub(super) fn cut(
    buffers: &[IoSlice<'_>],
    lengths: &[u64],
    mut run: impl FnMut(usize, &[IoSlice<'_>]) -> Result<()>,
) -> Result<()> {
    let mut rest = buffers.iter().map(|buffer| &**buffer);
    let mut begun: &[u8] = &[];
    let mut part = Vec::with_capacity(buffers.len());
    for (number, &length) in lengths.iter().enumerate() {
        part.clear();
        let mut missing = length;
        while missing > 0 {
            if begun.is_empty() {
                begun = rest.next().expect("the buffers hold all parts");
            }
            let count = missing.min(begun.len() as u64);
            let (taken, left) = begun.split_at(count as usize);
            part.push(IoSlice::new(taken));
            begun = left;
            missing -= count;
        }
        run(number, &part)?;
    }
    Ok(())
}

/// As [`cut`], for buffers that are to be filled.
pub(super) fn cut_mut(
    buffers: &mut [IoSliceMut<'_>],
    lengths: &[u64],
    mut run: impl FnMut(usize, &mut [IoSliceMut<'_>]) -> Result<()>,
) -> Result<()> {
    let mut rest = buffers.iter_mut().map(|buffer| &mut **buffer);
    let mut begun: &mut [u8] = &mut [];
    for (number, &length) in lengths.iter().enumerate() {
        let mut part = Vec::new();
        let mut missing = length;
        while missing > 0 {
            if begun.is_empty() {
                begun = rest.next().expect("the buffers hold all parts");
            }
            let count = missing.min(begun.len() as u64);
            let (taken, left) = std::mem::take(&mut begun).split_at_mut(count as usize);
            part.push(IoSliceMut::new(taken));
            begun = left;
            missing -= count;
        }
        run(number, &mut part)?;
    }
    Ok(())
}
