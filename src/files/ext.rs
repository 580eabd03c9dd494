//! Files of ext2, ext3 and ext4, as the next mount will find them: with a dirty journal replayed in
//! memory. Inodes, maps and directories are those that `lost` reads too.
//!
//! The crate `ext4-view` reads them as well (`store::ext4`), but needs a volume that lives for ever, and
//! knows nothing of journals with the old checksums or of what lies between a disk and a filesystem.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mapped::{Inline, MAX_RUNS, Mapped, Run};
use super::{Content, Kind, Node, Tree, target_of};
use crate::device::ReadAt;
use crate::lost::ext::blocks::{Blocks, Budget, Found};
use crate::lost::ext::inodes::{self, Numbered};
use crate::lost::ext::{directory, inline};
use crate::refusal::Refusal;
use crate::usedmap::ext::{Superblock, as_mounted};
use crate::usedmap::overlay::Overlay;
use std::cell::Cell;

const ROOT: u64 = 2;
/// Blocks of one directory that are read: 64 MiB of them.
const MAX_DIRECTORY: u64 = 1 << 14;
/// Blocks of the map of one file that are read.
const MAX_MAP: u64 = 1 << 12;
/// `EXT4_ENCRYPT_FL`: names and content are of no use.
const ENCRYPTED: u32 = 0x800;

/// See the module.
pub(super) struct Ext<'a> {
    source: Source<'a>,
    sb: Superblock,
}

enum Source<'a> {
    Clean(&'a dyn ReadAt),
    Replayed(Overlay<'a>),
}

impl<'a> Ext<'a> {
    pub(super) fn open(volume: &'a dyn ReadAt) -> Result<Self, Refusal> {
        let sb = Superblock::read(volume)?;
        Ok(match as_mounted(volume, &sb) {
            Some(overlay) => {
                let sb = Superblock::read(&overlay).unwrap_or(sb);
                let source = Source::Replayed(overlay);
                Self { source, sb }
            }
            None => Self {
                source: Source::Clean(volume),
                sb,
            },
        })
    }
}

impl Ext<'_> {
    fn volume(&self) -> &dyn ReadAt {
        match &self.source {
            Source::Clean(volume) => *volume,
            Source::Replayed(overlay) => overlay,
        }
    }

    /// Calls `look` with an inode in use.
    fn inode<T>(
        &self,
        node: Node,
        mut look: impl FnMut(&Numbered<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let damaged = |why: String| Refusal::Damaged(format!("inode {}: {why}", node.number));
        let number = u32::try_from(node.number).map_err(|_| damaged("there is none".into()))?;
        let mut answer = None;
        inodes::one(self.volume(), &self.sb, number, &mut |inode| {
            answer = Some(look(&inode));
        })
        .map_err(damaged)?;
        answer.ok_or_else(|| damaged("it is not in use".into()))?
    }

    fn content(&self, inode: &Numbered<'_>) -> Result<Box<dyn Content + '_>, Refusal> {
        let size = inode.inode.size;
        if inode.inode.flags & ENCRYPTED != 0 {
            return Err(Refusal::Unsupported(format!(
                "inode {} is encrypted",
                inode.number
            )));
        }
        if !inode.has_map() {
            let len = usize::try_from(size).unwrap_or(usize::MAX);
            let mut bytes = inode.inode.block.to_vec();
            if inode.is_inline() {
                bytes.extend_from_slice(inline::system_data(inode.raw).unwrap_or_default());
            }
            if len > bytes.len() {
                return Err(Refusal::Damaged(format!(
                    "inode {} has {size} bytes, of which {} are in it",
                    inode.number,
                    bytes.len()
                )));
            }
            bytes.truncate(len);
            return Ok(Box::new(Inline(bytes)));
        }
        let mut budget = Budget::of(MAX_MAP);
        let mut blocks = Blocks::new(self.volume(), &self.sb, &inode.inode, &mut budget);
        let mut runs = Vec::new();
        let block_size = self.sb.block_size;
        blocks.each(&mut |found| {
            if let Found::Run {
                file_block,
                start,
                len,
                written: true,
            } = found
                && runs.len() < MAX_RUNS
            {
                runs.push(Run {
                    at: file_block.saturating_mul(block_size),
                    len: len.saturating_mul(block_size),
                    place: start.saturating_mul(block_size),
                });
            }
        });
        if let Some(gap) = blocks.into_gaps().into_iter().next() {
            return Err(Refusal::Damaged(format!(
                "the map of inode {}: {gap}",
                inode.number
            )));
        }
        if budget.is_spent() || runs.len() >= MAX_RUNS {
            return Err(Refusal::Unsupported(format!(
                "inode {} is in too many pieces",
                inode.number
            )));
        }
        Ok(Box::new(Mapped::new(self.volume(), size, runs)))
    }
}

impl Tree for Ext<'_> {
    fn filesystem(&self) -> &str {
        self.sb.flavour()
    }

    fn uuid(&self) -> Option<String> {
        Some(self.sb.uuid.hyphenated().to_string())
    }

    fn label(&self) -> Option<String> {
        self.sb.label.clone()
    }

    fn root(&self) -> Node {
        Node {
            tree: 0,
            number: ROOT,
        }
    }

    fn kind(&self, node: Node) -> Result<Kind, Refusal> {
        self.inode(node, |inode| {
            Ok(match inode.kind() {
                inodes::Kind::Regular => Kind::File,
                inodes::Kind::Directory => Kind::Directory,
                inodes::Kind::Link => Kind::Link,
                inodes::Kind::Other => Kind::Other,
            })
        })
    }

    fn entries(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node)) -> Result<(), Refusal> {
        self.inode(directory, |inode| {
            if inode.kind() != inodes::Kind::Directory {
                return Err(Refusal::Damaged(format!(
                    "inode {} is not a directory",
                    inode.number
                )));
            }
            let mut budget = Budget::of(MAX_MAP);
            let left = Cell::new(MAX_DIRECTORY);
            let (volume, sb) = (self.volume(), &self.sb);
            directory::entries(volume, sb, inode, &mut budget, &left, &mut |entry| {
                let number = entry.inode;
                each(entry.name, Node { tree: 0, number });
            });
            Ok(())
        })
    }

    fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal> {
        self.inode(file, |inode| self.content(inode))
    }

    fn target(&self, link: Node) -> Result<Vec<u8>, Refusal> {
        self.inode(link, |inode| target_of(&*self.content(inode)?))
    }
}
