//! A file that an image is appended to, on a thread of its own: who fills it does not wait for the
//! medium, unless the medium is what all wait for.
//!
//! ```text
//! writer --some pieces of 4 MiB--> thread --O_DIRECT--> file
//!        --notes of checkpoints-----> sync --> journal --> sync
//! ```
//!
//! Nothing gathers in the kernel's cache, so a stick never stalls for minutes at the end, and what
//! is called written has been taken by the medium. Filesystems without `O_DIRECT` get ordinary
//! writes, which the checkpoints keep from gathering.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::tree::TreeDigest;
use crate::device::AlignedBuf;
use crate::device::aligned::{ALIGNMENT, is_aligned};
use crate::error::{Error, Result};
use crate::qcow2::Storage;
use crate::units::ByteLen;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// The largest piece, in bytes: what the image's writer writes at a time.
const PIECE_BYTES: usize = 4 << 20;

/// How many pieces wait of an image that is written beside others: enough for the medium never to.
pub const PIECES: usize = 4;

/// How many wait where only one image is written: as much as all workers make while a checkpoint is
/// made durable, so that they need not wait for that.
pub const PIECES_ALONE: usize = 12;

enum Job {
    Write(AlignedBuf, u64),
    Checkpoint(Vec<u8>),
    Sync(SyncSender<io::Result<()>>),
}

/// What both sides know.
#[derive(Debug, Default)]
struct Shared {
    /// The end of what the medium has taken, in bytes.
    written: AtomicU64,
    /// Nanoseconds that the thread wrote or waited for the medium.
    busy: AtomicU64,
    /// The first error that the thread met.
    failed: Mutex<Option<i32>>,
}

impl Shared {
    fn check(&self) -> io::Result<()> {
        match *self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct AppendFile {
    jobs: Option<Sender<Job>>,
    empty: Receiver<AlignedBuf>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    digest: Option<TreeDigest>,
}

/// How far the medium is.
#[derive(Debug, Clone)]
pub struct Taken(Arc<Shared>);

impl Taken {
    /// The end of what the medium has taken, in bytes from the file's beginning.
    pub fn bytes(&self) -> ByteLen {
        ByteLen(self.0.written.load(Ordering::Relaxed))
    }

    /// Nanoseconds that were spent on writing so far.
    pub fn busy(&self) -> u64 {
        self.0.busy.load(Ordering::Relaxed)
    }
}

impl AppendFile {
    /// Appends to the file at `path`, which is there, from byte `end` on; what lies behind is cut
    /// off. Notes of checkpoints are appended to `journal`. Up to `pieces` of 4 MiB wait.
    ///
    /// # Errors
    /// When it cannot be opened or cut.
    pub fn open(path: &Path, end: ByteLen, journal: Option<File>, pieces: usize) -> Result<Self> {
        let opening = |e: io::Error| Error::io(format!("opening {}", path.display()), e);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let cached: File = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| opening(e.into()))?
            .into();
        cached.set_len(end.0).map_err(opening)?;
        // tmpfs and others refuse.
        let direct = rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()).ok();
        let (jobs, todo) = channel();
        let (back, empty) = channel();
        for _ in 0..pieces {
            let piece = AlignedBuf::new(PIECE_BYTES)
                .map_err(|e| Error::io("getting memory for an image", e))?;
            // The other end is at hand.
            let _ = back.send(piece);
        }
        let shared = Arc::new(Shared::default());
        shared.written.store(end.0, Ordering::Relaxed);
        let target = Target {
            cached,
            direct: direct.map(Into::into),
            journal,
        };
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("write".into())
            .spawn(move || target.work(&todo, &back, &for_thread))
            .map_err(|e| Error::io("starting the writing thread", e))?;
        Ok(Self {
            jobs: Some(jobs),
            empty,
            thread: Some(thread),
            shared,
            digest: None,
        })
    }

    /// Takes the digest of the file from now on, when it is still empty.
    pub fn digested(&mut self) -> TreeDigest {
        self.digest.get_or_insert_default().clone()
    }

    /// To ask from elsewhere how far the medium is.
    pub fn taken(&self) -> Taken {
        Taken(Arc::clone(&self.shared))
    }

    /// Waits for a buffer that the medium has taken.
    fn empty(&self) -> io::Result<AlignedBuf> {
        let mut buffer = self
            .empty
            .recv()
            .map_err(|_| io::Error::other("the writing thread ended unexpectedly"))?;
        buffer.set_len(0);
        Ok(buffer)
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.shared.check()?;
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok());
        if sent {
            return Ok(());
        }
        Err(io::Error::other("the writing thread ended unexpectedly"))
    }
}

impl Storage for AppendFile {
    /// Errors are those of this write or of one before.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(digest) = &self.digest {
            digest.write(bytes, offset);
        }
        let mut at = offset;
        for piece in bytes.chunks(PIECE_BYTES) {
            let mut buffer = self.empty()?;
            buffer.extend_from_slice(piece);
            self.send(Job::Write(buffer, at))?;
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
        }
        Ok(())
    }

    /// Errors are those of this write or of one before.
    fn write_buffer(&mut self, bytes: &mut AlignedBuf, offset: u64) -> io::Result<()> {
        if bytes.capacity() != PIECE_BYTES {
            return Err(io::Error::other("a buffer of another size than the others"));
        }
        if let Some(digest) = &self.digest {
            digest.write(bytes, offset);
        }
        let full = std::mem::replace(bytes, self.empty()?);
        self.send(Job::Write(full, offset))
    }

    fn sync(&mut self) -> io::Result<()> {
        let (done, wait) = sync_channel(1);
        self.send(Job::Sync(done))?;
        wait.recv()
            .map_err(|_| io::Error::other("the writing thread ended unexpectedly"))?
    }

    fn checkpoint(&mut self, note: Vec<u8>) -> io::Result<()> {
        self.send(Job::Checkpoint(note))
    }
}

impl Drop for AppendFile {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been seen as an error here.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Target {
    cached: File,
    direct: Option<File>,
    journal: Option<File>,
}

impl Target {
    fn work(mut self, todo: &Receiver<Job>, back: &Sender<AlignedBuf>, shared: &Shared) {
        for job in todo {
            let broken = shared.check();
            let start = Instant::now();
            match job {
                Job::Write(mut bytes, offset) => {
                    if broken.is_ok() {
                        let len = u64::try_from(bytes.len()).unwrap_or(0);
                        match self.write(&mut bytes, offset) {
                            Ok(()) => {
                                let end = offset.saturating_add(len);
                                shared.written.fetch_max(end, Ordering::Relaxed);
                            }
                            Err(error) => note(shared, &error),
                        }
                    }
                    // Nobody fills it any more when this fails.
                    let _ = back.send(bytes);
                }
                Job::Checkpoint(text) => {
                    if broken.is_ok()
                        && let Err(error) = self.checkpoint(&text)
                    {
                        note(shared, &error);
                    }
                }
                Job::Sync(done) => {
                    let synced = broken.and_then(|()| self.cached.sync_all());
                    let _ = done.send(synced);
                }
            }
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            shared.busy.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    fn write(&self, bytes: &mut AlignedBuf, offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            let len = bytes.len();
            // What is added is written over by what comes next, or cut off.
            bytes.set_len(len.next_multiple_of(ALIGNMENT));
            let padded = bytes.get_mut(len..).unwrap_or_default();
            padded.fill(0);
            if is_aligned(bytes, offset, ALIGNMENT) {
                match direct.write_all_at(bytes, offset) {
                    Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    }
                    done => return done,
                }
            }
            bytes.set_len(len);
        }
        self.cached.write_all_at(bytes, offset)
    }

    /// First the image, then what speaks of it.
    fn checkpoint(&mut self, text: &[u8]) -> io::Result<()> {
        self.cached.sync_data()?;
        if let Some(journal) = &mut self.journal {
            journal.write_all(text)?;
            journal.sync_data()?;
        }
        Ok(())
    }
}

fn note(shared: &Shared, error: &io::Error) {
    let mut failed = shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
    let code = error.raw_os_error();
    failed.get_or_insert(code.unwrap_or(rustix::io::Errno::IO.raw_os_error()));
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_length_arrive_and_the_file_goes_on_where_it_was_cut() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("image");
        File::create(&path).unwrap();
        let bytes: Vec<u8> = (0..9_000_001_u32).map(|at| (at % 251) as u8).collect();
        let journal = folder.path().join("journal");
        {
            let journal = File::create(&journal).unwrap();
            let mut file = AppendFile::open(&path, ByteLen(0), Some(journal), PIECES).unwrap();
            let taken = file.taken();
            file.write_all_at(&bytes[..5_000_000], 0).unwrap();
            file.checkpoint(b"one\n".to_vec()).unwrap();
            // As a whole write that was written in part before.
            file.write_all_at(&bytes[4 << 20..], 4 << 20).unwrap();
            file.sync().unwrap();
            assert_eq!(taken.bytes(), ByteLen(9_000_001));
            // What is put together in a buffer of the caller's, which gets another one for it.
            let mut buffer = AlignedBuf::new(PIECE_BYTES).unwrap();
            for at in [0, 4 << 20] {
                buffer.extend_from_slice(&bytes[at..at + PIECE_BYTES]);
                file.write_buffer(&mut buffer, at as u64).unwrap();
                assert_eq!((buffer.len(), buffer.capacity()), (0, PIECE_BYTES));
            }
            let mut other = AlignedBuf::new(4096).unwrap();
            file.write_buffer(&mut other, 0).unwrap_err();
        }
        let mut expected = bytes.clone();
        expected.resize(9_000_001_usize.next_multiple_of(ALIGNMENT), 0);
        let found = std::fs::read(&path).unwrap();
        assert!(found[..bytes.len()] == bytes && found.len() <= expected.len());
        assert_eq!(std::fs::read(&journal).unwrap(), b"one\n");

        let mut file = AppendFile::open(&path, ByteLen(4 << 20), None, PIECES).unwrap();
        assert_eq!(file.taken().bytes(), ByteLen(4 << 20));
        file.sync().unwrap();
        drop(file);
        assert!(std::fs::read(&path).unwrap() == bytes[..4 << 20]);
    }

    #[test]
    fn a_full_medium_is_told_at_the_next_write_or_sync() {
        let full = Path::new("/dev/full");
        let cached = File::options().write(true).open(full).unwrap();
        let shared = Shared::default();
        let target = Target {
            cached,
            direct: None,
            journal: None,
        };
        let mut bytes = AlignedBuf::new(4096).unwrap();
        bytes.set_len(100);
        let error = target.write(&mut bytes, 0).unwrap_err();
        note(&shared, &error);
        assert_eq!(
            shared.check().unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
    }
}
