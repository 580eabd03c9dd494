//! The files of an ext4 filesystem that nobody mounted: a stick, as it was pulled out.
//!
//! The crate `ext4-view` finds them, and replays a dirty journal in memory. It is bound to one
//! thread and one position in the file, so each open file has a thread of its own.

use super::files::{CaptureFiles, FileEntry, check_name};
use super::medium::DATA_LABEL;
use crate::device::{ReadAt, read::check_range};
use crate::error::{Error, Kind, Result};
use crate::units::{ByteLen, ByteOffset};
use ext4_view::{Ext4, Ext4Error, Ext4Read, File};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Forward gaps up to this are read over: going to a place means to count the file's blocks from
/// its beginning.
const GAP_MAX: u64 = 1 << 20;

/// A directory of the filesystem.
pub(super) struct Ext4Files {
    device: Arc<dyn ReadAt>,
    /// How people know the device.
    stick: String,
    /// Absolute, without a slash at the end: the root is empty.
    path: String,
}

struct Device(Arc<dyn ReadAt>);

impl Ext4Read for Device {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_at(ByteOffset(start_byte), dst)?)
    }
}

fn load(device: &Arc<dyn ReadAt>) -> Result<Ext4, Ext4Error> {
    Ext4::load(Box::new(Device(Arc::clone(device))))
}

fn error(doing: String, error: Ext4Error) -> Error {
    let kind = match &error {
        Ext4Error::Incompatible(_) => Kind::Unsupported,
        Ext4Error::Corrupt(_) => Kind::Corrupt,
        Ext4Error::Io(cause) => cause.downcast_ref::<Error>().map_or(Kind::Io, Error::kind),
        _ => Kind::Io,
    };
    Error::new(kind, doing).because(error)
}

impl Ext4Files {
    /// The root of the filesystem on `device`; people know the stick as `stick`.
    ///
    /// # Errors
    /// When there is no ext4, or not one of ours.
    pub(super) fn open(device: Arc<dyn ReadAt>, stick: String) -> Result<Self> {
        let fs = load(&device).map_err(|e| {
            error(format!("reading the filesystem of {stick}"), e).advise(
                "A stick has an ext4 filesystem on its data partition: if this is one, let e2fsck \
                 look at it",
            )
        })?;
        if fs.label().to_str() != Ok(DATA_LABEL) {
            return Err(Error::refused(format!(
                "the filesystem of {stick} is not labelled {DATA_LABEL}: it is not that of a \
                 Haulier stick"
            )));
        }
        Ok(Self {
            device,
            stick,
            path: String::new(),
        })
    }

    fn path_of(&self, name: &str) -> Result<String> {
        check_name(name)?;
        Ok(format!("{}/{name}", self.path))
    }
}

impl CaptureFiles for Ext4Files {
    fn name(&self) -> String {
        format!("{}:{}/", self.stick, self.path)
            .trim_end_matches('/')
            .to_owned()
    }

    fn list(&self) -> Result<Vec<FileEntry>> {
        let listing = |e| error(format!("listing {}", self.name()), e);
        let fs = load(&self.device).map_err(listing)?;
        let mut entries = Vec::new();
        for entry in fs.read_dir(&*format!("{}/", self.path)).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            let name = entry.file_name().display().to_string();
            if name == "." || name == ".." {
                continue;
            }
            let metadata = entry.metadata().map_err(listing)?;
            let is_file = metadata.file_type().is_regular_file();
            entries.push(FileEntry {
                name,
                bytes: ByteLen(if is_file { metadata.len() } else { 0 }),
                is_dir: metadata.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, name: &str) -> Result<Box<dyn ReadAt>> {
        let path = self.path_of(name)?;
        let shown = format!("{}:{path}", self.stick);
        Ok(Box::new(Ext4File::open(
            Arc::clone(&self.device),
            path,
            shown,
        )?))
    }

    fn dir(&self, name: &str) -> Result<Box<dyn CaptureFiles>> {
        Ok(Box::new(Self {
            device: Arc::clone(&self.device),
            stick: self.stick.clone(),
            path: self.path_of(name)?,
        }))
    }

    fn sibling(&self, name: &str) -> Result<Box<dyn CaptureFiles>> {
        let parent = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let beside = Self {
            device: Arc::clone(&self.device),
            stick: self.stick.clone(),
            path: parent.to_owned(),
        };
        if !beside.list()?.iter().any(|entry| entry.name == name) {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            let name = format!("{}/{name}", beside.name());
            return Err(Error::io(format!("opening {name}"), error));
        }
        beside.dir(name)
    }
}

/// A read that the file's thread is asked for.
struct Request {
    offset: u64,
    length: usize,
    reply: SyncSender<Result<Vec<u8>, Ext4Error>>,
}

/// An open file. Its thread ends with it.
struct Ext4File {
    size: ByteLen,
    name: String,
    requests: Sender<Request>,
}

impl Ext4File {
    fn open(device: Arc<dyn ReadAt>, path: String, name: String) -> Result<Self> {
        let (opened_in, opened_out) = sync_channel(1);
        let (requests, requests_out) = channel();
        std::thread::Builder::new()
            .name("ext4".into())
            .spawn(move || serve(&device, &path, &opened_in, &requests_out))
            .map_err(|e| Error::io(format!("starting a thread to read {name}"), e))?;
        let opening = || format!("opening {name}");
        let size = opened_out
            .recv()
            .map_err(|_| Error::corrupt(opening()))?
            .map_err(|e| error(opening(), e))?;
        Ok(Self {
            size: ByteLen(size),
            name,
            requests,
        })
    }
}

impl ReadAt for Ext4File {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.size, offset, buf.len())?;
        let (reply, answer) = sync_channel(1);
        let request = Request {
            offset: offset.0,
            length: buf.len(),
            reply,
        };
        let reading = || format!("reading {} bytes of {}", buf.len(), self.name);
        // Without the thread the answer says so.
        let _ = self.requests.send(request);
        let bytes = answer
            .recv()
            .map_err(|_| Error::corrupt(reading()).at(offset.0))?
            .map_err(|e| error(reading(), e).at(offset.0))?;
        buf.copy_from_slice(&bytes);
        Ok(())
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// The thread of an open file.
fn serve(
    device: &Arc<dyn ReadAt>,
    path: &str,
    opened: &SyncSender<Result<u64, Ext4Error>>,
    requests: &Receiver<Request>,
) {
    let mut cursors = match Cursors::open(device, path) {
        Ok(cursors) => cursors,
        Err(error) => {
            // Whoever opens waits for this.
            let _ = opened.send(Err(error));
            return;
        }
    };
    let _ = opened.send(Ok(cursors.latest.metadata().len()));
    for request in requests {
        let answer = cursors.read(request.offset, request.length);
        // Nobody waits any more when the asking thread panicked.
        let _ = request.reply.send(answer);
    }
}

/// Two positions in the file: one that goes through the data, one that visits the tables.
struct Cursors {
    latest: File,
    other: File,
}

impl Cursors {
    fn open(device: &Arc<dyn ReadAt>, path: &str) -> Result<Self, Ext4Error> {
        // Each with a filesystem of its own, and so with a cache of its own.
        Ok(Self {
            latest: load(device)?.open(path)?,
            other: load(device)?.open(path)?,
        })
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Ext4Error> {
        let near = |file: &File| {
            let gap = offset.checked_sub(file.position());
            gap.filter(|gap| *gap <= GAP_MAX)
        };
        if near(&self.latest).is_none() {
            std::mem::swap(&mut self.latest, &mut self.other);
        }
        let gap = match near(&self.latest) {
            Some(gap) => gap,
            None => {
                self.latest.seek_to(offset)?;
                0
            }
        };
        let mut bytes = vec![0; length.max(usize::try_from(gap).unwrap_or(0))];
        fill(
            &mut self.latest,
            &mut bytes[..usize::try_from(gap).unwrap_or(0)],
        )?;
        bytes.resize(length, 0);
        fill(&mut self.latest, &mut bytes)?;
        Ok(bytes)
    }
}

fn fill(file: &mut File, mut bytes: &mut [u8]) -> Result<(), Ext4Error> {
    while !bytes.is_empty() {
        let count = file.read_bytes(bytes)?;
        if count == 0 {
            let ended: Box<dyn std::error::Error + Send + Sync> = "the file ends too early".into();
            return Err(Ext4Error::Io(ended));
        }
        bytes = &mut bytes[count..];
    }
    Ok(())
}
