//! A file from its beginning to its end, for whatever decompresses it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::Content;
use std::io::{BufRead, Error, Read, Result};

/// Bytes that are read at once.
const AT_ONCE: usize = 256 << 10;

/// See the module.
pub(crate) struct Stream<'a> {
    content: &'a dyn Content,
    /// Of the file: the first byte behind `buffer`.
    at: u64,
    buffer: Vec<u8>,
    /// How many bytes of `buffer` were taken.
    taken: usize,
}

impl<'a> Stream<'a> {
    /// From byte `at` of a file on.
    pub(crate) fn from(content: &'a dyn Content, at: u64) -> Self {
        Self {
            content,
            at,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// The byte of the file that comes next.
    pub(crate) fn position(&self) -> u64 {
        let waiting = self.buffer.len().saturating_sub(self.taken);
        self.at
            .saturating_sub(u64::try_from(waiting).unwrap_or(u64::MAX))
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        if self.taken >= self.buffer.len() {
            let left = self.content.size().saturating_sub(self.at);
            let len = usize::try_from(left).unwrap_or(AT_ONCE).min(AT_ONCE);
            self.buffer.resize(len, 0);
            self.taken = 0;
            if let Err(refusal) = self.content.read(self.at, &mut self.buffer) {
                self.buffer.clear();
                return Err(Error::other(refusal.to_string()));
            }
            self.at = self
                .at
                .saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        Ok(self.buffer.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.taken = self.taken.saturating_add(amount).min(self.buffer.len());
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let waiting = self.fill_buf()?;
        let len = waiting.len().min(buf.len());
        if let (Some(from), Some(to)) = (waiting.get(..len), buf.get_mut(..len)) {
            to.copy_from_slice(from);
        }
        self.consume(len);
        Ok(len)
    }
}
