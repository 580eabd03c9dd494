//! What an image is written to: a file, or in tests something that fails when told to.

use crate::device::AlignedBuf;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Takes bytes at offsets and can be told to make them durable.
pub trait Storage {
    /// Writes all of `bytes` at `offset`; a short write is an error.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`, and leaves an empty buffer of the same capacity in its place: what was
    /// put together there need not be copied once more.
    fn write_buffer(&mut self, bytes: &mut AlignedBuf, offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)?;
        bytes.set_len(0);
        Ok(())
    }

    /// Returns when all that was written is on the medium.
    fn sync(&mut self) -> io::Result<()>;

    /// Notes that a capture can go on from here: as soon as all that was written so far is on the
    /// medium, `note` is to be kept where it will be found. Need not wait for it.
    fn checkpoint(&mut self, note: Vec<u8>) -> io::Result<()>;
}

impl Storage for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    /// A mere file has no place for the note.
    fn checkpoint(&mut self, _: Vec<u8>) -> io::Result<()> {
        self.sync_data()
    }
}
