//! Files of NTFS, as they are on the disk: what waits in its journal is not looked at. Records, streams
//! and indexes are those that the map and `lost` read too. Names are the same in whatever case (of ASCII
//! letters: enough for those that Windows itself has).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mapped::check_inside;
use super::{Content, Kind, Node, Tree};
use crate::bytes::{read_u8, read_u16le};
use crate::device::ReadAt;
use crate::lost::ntfs::index;
use crate::refusal::Refusal;
use crate::usedmap::ntfs::boot::Boot;
use crate::usedmap::ntfs::mft::Mft;
use crate::usedmap::ntfs::record::{DATA, Record, VOLUME_NAME, record_number};
use crate::usedmap::ntfs::stream::Stream;

const VOLUME: u64 = 3;
const ROOT: u64 = 5;
/// `FILE_NAME_DOS`: the short name that a file has beside its own.
const DOS: u8 = 2;
/// Blocks of one index that are read: 64 MiB of them at 4 KiB.
const MAX_INDEX: u64 = 1 << 14;

/// See the module.
pub(super) struct Ntfs<'a> {
    volume: &'a dyn ReadAt,
    boot: Boot,
    label: Option<String>,
}

impl<'a> Ntfs<'a> {
    pub(super) fn open(volume: &'a dyn ReadAt) -> Result<Self, Refusal> {
        let boot = Boot::read(volume)?;
        let mft = Mft::open(volume, &boot)?;
        let mut block = mft.block(VOLUME)?;
        let label = match mft.attribute(&block.record()?, VOLUME_NAME, &[])? {
            Some(Stream::Resident(name)) => Some(text(&name)).filter(|name| !name.is_empty()),
            _ => None,
        };
        Ok(Self {
            volume,
            boot,
            label,
        })
    }
}

impl Ntfs<'_> {
    /// Calls `look` with the table and a base record in use.
    fn record<T>(
        &self,
        node: Node,
        look: impl FnOnce(&Mft<'_>, &Record<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mft = Mft::open(self.volume, &self.boot)?;
        let mut block = mft.block(node.number)?;
        let record = block.record()?;
        if record.base() != node.number {
            return Err(Refusal::Damaged(format!(
                "file record {} continues another one",
                node.number
            )));
        }
        look(&mft, &record)
    }
}

fn text(utf16: &[u8]) -> String {
    let units = utf16.chunks_exact(2).map(|unit| read_u16le(unit, 0));
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

impl Tree for Ntfs<'_> {
    fn filesystem(&self) -> &str {
        "ntfs"
    }

    fn uuid(&self) -> Option<String> {
        Some(format!("{:016X}", self.boot.serial))
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn root(&self) -> Node {
        Node {
            tree: 0,
            number: ROOT,
        }
    }

    fn kind(&self, node: Node) -> Result<Kind, Refusal> {
        self.record(node, |_, record| {
            Ok(match record.is_directory() {
                true => Kind::Directory,
                false => Kind::File,
            })
        })
    }

    fn entries(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node)) -> Result<(), Refusal> {
        self.record(directory, |mft, record| {
            let mut left = MAX_INDEX;
            index::entries(mft, record, &mut left, &mut |reference, key| {
                let len = usize::from(read_u8(key, 0x40)).saturating_mul(2);
                let name = key.get(0x42..).and_then(|rest| rest.get(..len));
                if let Some(name) = name.filter(|_| read_u8(key, 0x41) != DOS) {
                    let number = record_number(reference);
                    each(text(name).as_bytes(), Node { tree: 0, number });
                }
            });
            Ok(())
        })
    }

    fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal> {
        let number = file.number;
        self.record(file, |mft, record| {
            let first = record.attribute(DATA, &[], 0)?;
            if first.is_some_and(|first| first.compressed_clusters().is_some()) {
                return Err(Refusal::Unsupported(format!(
                    "file record {number} is compressed"
                )));
            }
            let stream = mft.attribute(record, DATA, &[])?;
            let stream = stream
                .ok_or_else(|| Refusal::Damaged(format!("file record {number} has no content")))?;
            let content: Box<dyn Content> = Box::new(File {
                volume: self.volume,
                boot: self.boot,
                stream,
            });
            Ok(content)
        })
    }

    fn target(&self, link: Node) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::Unsupported(format!(
            "file record {} is a link",
            link.number
        )))
    }

    fn folds_case(&self) -> bool {
        true
    }
}

/// The unnamed stream of a file.
struct File<'a> {
    volume: &'a dyn ReadAt,
    boot: Boot,
    stream: Stream,
}

impl Content for File<'_> {
    fn size(&self) -> u64 {
        self.stream.size()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        check_inside(self.size(), at, buf)?;
        // What was never written reads as zeros.
        let left = self.stream.initialized().saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let (written, rest) = buf.split_at_mut(len);
        rest.fill(0);
        self.stream
            .read(self.volume, &self.boot, at, written, "a file")
    }
}
