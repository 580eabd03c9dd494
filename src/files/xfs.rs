//! Files of XFS, as they are on the disk: what waits in the log of a filesystem that was not shut down
//! is not looked at, so that the last seconds of its changes are missing. Inodes, maps and directories
//! are those that `lost` reads too.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::mapped::{MAX_RUNS, Mapped, Run};
use super::{Content, Kind, LONGEST_TARGET, Node, Tree};
use crate::bytes::{has_magic, read_u32be};
use crate::device::ReadAt;
use crate::lost::xfs::fork::Mapped as Found;
use crate::lost::xfs::inode::{self, Inode};
use crate::lost::xfs::shape::Shape;
use crate::lost::xfs::{Budget, Filesystem, directory};
use crate::refusal::Refusal;
use crate::usedmap::xfs::superblock::{Names, Superblock, read_sector};

/// Blocks of maps and of directories that are read for one file.
const MAX_BLOCKS: u64 = 1 << 14;
/// `struct xfs_dsymlink_hdr`: before each block of a target in version 5.
const LINK_HEADER: usize = 56;

/// See the module.
pub(super) struct Xfs<'a> {
    volume: &'a dyn ReadAt,
    sb: Superblock,
    shape: Shape,
    names: Names,
}

impl<'a> Xfs<'a> {
    pub(super) fn open(volume: &'a dyn ReadAt) -> Result<Self, Refusal> {
        let sector = read_sector(volume)?;
        let sb = Superblock::parse(&sector, volume.size().0)?;
        let shape = Shape::parse(&sector, &sb)?;
        Ok(Self {
            volume,
            shape,
            names: Names::parse(&sector),
            sb,
        })
    }
}

impl Xfs<'_> {
    fn filesystem(&self) -> Filesystem<'_> {
        Filesystem {
            volume: self.volume,
            sb: &self.sb,
            shape: &self.shape,
        }
    }

    /// Calls `look` with an inode in use.
    fn inode<T>(
        &self,
        node: Node,
        mut look: impl FnMut(&Inode<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut answer = None;
        inode::read(self.filesystem(), node.number, &mut |inode| {
            answer = Some(look(&inode));
        });
        answer.ok_or_else(|| Refusal::Damaged(format!("inode {} cannot be read", node.number)))?
    }

    /// The runs of an inode's content.
    fn runs(&self, inode: &Inode<'_>) -> Result<Vec<Run>, Refusal> {
        let fs = self.filesystem();
        let number = inode.number;
        let fork = inode.data_fork(fs);
        if !matches!(fork.format, 2 | 3) {
            return Err(Refusal::Unsupported(format!(
                "inode {number} has its content elsewhere"
            )));
        }
        let mut budget = Budget(MAX_BLOCKS);
        let mut runs = Vec::new();
        let mut outside = false;
        let gap = fork.each(fs, &mut budget, &mut |found| {
            let Found::Run(run) = found else { return };
            if !run.written || runs.len() >= MAX_RUNS {
                return;
            }
            match self.shape.bytes_of(&self.sb, run.start, run.len) {
                Some(extent) => runs.push(Run {
                    at: run.file_block.saturating_mul(self.sb.block_size),
                    len: extent.len().0,
                    place: extent.start().0,
                }),
                None => outside = true,
            }
        });
        if let Some(gap) = gap {
            return Err(Refusal::Damaged(format!(
                "the map of inode {number}: {gap}"
            )));
        }
        if outside {
            return Err(Refusal::Damaged(format!(
                "inode {number} has blocks outside the filesystem"
            )));
        }
        if budget.0 == 0 || runs.len() >= MAX_RUNS {
            return Err(Refusal::Unsupported(format!(
                "inode {number} is in too many pieces"
            )));
        }
        Ok(runs)
    }

    /// A target that does not fit the inode: in blocks, each with a header in version 5.
    fn remote_target(&self, inode: &Inode<'_>) -> Result<Vec<u8>, Refusal> {
        let damaged = || Refusal::Damaged(format!("the target of link {}", inode.number));
        let mut runs = self.runs(inode)?;
        runs.sort_unstable_by_key(|run| run.at);
        let block = usize::try_from(self.sb.block_size).unwrap_or(0);
        let size = usize::try_from(inode.size.min(LONGEST_TARGET)).unwrap_or(0);
        let mut target = Vec::new();
        for run in runs {
            let mut bytes = vec![0; usize::try_from(run.len.min(1 << 20)).unwrap_or(0)];
            self.volume
                .read_at(crate::units::ByteOffset(run.place), &mut bytes)?;
            for block in bytes.chunks(block.max(1)) {
                if !self.sb.features.is_v5() {
                    target.extend_from_slice(block);
                    continue;
                }
                // `sl_magic`, `sl_offset`, `sl_bytes`.
                let len = usize::try_from(read_u32be(block, 8)).unwrap_or(usize::MAX);
                if !has_magic(block, 0, b"XSLM") {
                    return Err(damaged());
                }
                let text = block.get(LINK_HEADER..).and_then(|rest| rest.get(..len));
                target.extend_from_slice(text.ok_or_else(damaged)?);
            }
            if target.len() >= size {
                break;
            }
        }
        if target.len() < size {
            return Err(damaged());
        }
        target.truncate(size);
        Ok(target)
    }
}

impl Tree for Xfs<'_> {
    fn filesystem(&self) -> &str {
        "xfs"
    }

    fn uuid(&self) -> Option<String> {
        Some(self.names.uuid?.hyphenated().to_string())
    }

    fn label(&self) -> Option<String> {
        self.names.label.clone()
    }

    fn root(&self) -> Node {
        Node {
            tree: 0,
            number: self.shape.root_inode,
        }
    }

    fn kind(&self, node: Node) -> Result<Kind, Refusal> {
        self.inode(node, |inode| {
            Ok(match inode.kind {
                inode::Kind::Directory => Kind::Directory,
                inode::Kind::Link => Kind::Link,
                inode::Kind::Other if inode.is_regular() => Kind::File,
                inode::Kind::Other => Kind::Other,
            })
        })
    }

    fn entries(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node)) -> Result<(), Refusal> {
        let fs = self.filesystem();
        self.inode(directory, |inode| {
            if inode.kind != inode::Kind::Directory {
                return Err(Refusal::Damaged(format!(
                    "inode {} is not a directory",
                    inode.number
                )));
            }
            let mut budget = Budget(MAX_BLOCKS);
            directory::entries(fs, inode, &mut budget, &mut |entry| {
                let number = entry.inode;
                each(entry.name, Node { tree: 0, number });
            });
            Ok(())
        })
    }

    fn open(&self, file: Node) -> Result<Box<dyn Content + '_>, Refusal> {
        self.inode(file, |inode| {
            let runs = self.runs(inode)?;
            let content: Box<dyn Content> = Box::new(Mapped::new(self.volume, inode.size, runs));
            Ok(content)
        })
    }

    fn target(&self, link: Node) -> Result<Vec<u8>, Refusal> {
        let fs = self.filesystem();
        self.inode(link, |inode| {
            let Some(local) = inode.data_fork(fs).local() else {
                return self.remote_target(inode);
            };
            let len = usize::try_from(inode.size).unwrap_or(usize::MAX);
            let target = local.get(..len).ok_or_else(|| {
                Refusal::Damaged(format!(
                    "the target of link {} ends too early",
                    inode.number
                ))
            })?;
            Ok(target.to_vec())
        })
    }
}
