//! XFS: whose blocks were lost.
//!
//! In: a volume, and which of its bytes were lost. Out: what lay there. It is read as it is on the disk:
//! what waits in the log of a filesystem that was not shut down is not looked at, so that the last
//! seconds of its changes are missing.
//!
//! Each file is one structure: `shape` (how inodes are numbered), `chunks` (the tree of inodes and the
//! chunks in it), `inode`, `fork` (where a file's blocks are), `directory`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod chunks;
pub(crate) mod directory;
pub(crate) mod fork;
pub(crate) mod inode;
pub(crate) mod shape;

use super::claims::{Claims, Owner};
use super::loss::What;
use super::names::{Directories, Entry, Names};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::usedmap::xfs::group::{self, BlockRun, HEADER_SECTORS};
use crate::usedmap::xfs::superblock::{Superblock, read_sector};
use fork::{Fork, Mapped};
use inode::{Inode, Kind};
use shape::Shape;
use std::cell::Cell;

/// What lay in `lost`.
pub(super) fn name(volume: &dyn ReadAt, lost: &ExtentList) -> Vec<(Extent, What)> {
    let parsed = read_sector(volume).and_then(|sector| {
        let sb = Superblock::parse(&sector, volume.size().0)?;
        let shape = Shape::parse(&sector, &sb)?;
        Ok((sb, shape))
    });
    match parsed {
        Ok((sb, shape)) => Walk::new(volume, &sb, &shape, lost).run(),
        Err(refusal) => {
            let why = What::unknown(format!("the superblock cannot be used: {refusal}"));
            super::all(lost, &why)
        }
    }
}

/// Everything that is needed to read one filesystem.
#[derive(Clone, Copy)]
pub(crate) struct Filesystem<'a> {
    pub volume: &'a dyn ReadAt,
    pub sb: &'a Superblock,
    pub shape: &'a Shape,
}

/// How many blocks of maps and directories may be read in one walk: as many as there are. Only what
/// points back into itself has more.
#[derive(Debug)]
pub(crate) struct Budget(pub u64);

impl Budget {
    fn take(&mut self) -> bool {
        match self.0.checked_sub(1) {
            Some(left) => self.0 = left,
            None => return false,
        }
        true
    }
}

struct Walk<'a> {
    fs: Filesystem<'a>,
    claims: Claims<'a>,
    /// What could not be looked at, for people.
    gaps: Vec<String>,
}

/// Gaps that are told.
const MAX_GAPS: usize = 8;

impl<'a> Walk<'a> {
    fn new(
        volume: &'a dyn ReadAt,
        sb: &'a Superblock,
        shape: &'a Shape,
        lost: &'a ExtentList,
    ) -> Self {
        Self {
            fs: Filesystem { volume, sb, shape },
            claims: Claims::new(lost),
            gaps: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<(Extent, What)> {
        self.fixed();
        let fs = self.fs;
        let mut budget = Budget(fs.sb.data_blocks);
        for group in 0..fs.sb.ag_count {
            let chunks = match chunks::of_group(fs, group) {
                Ok(chunks) => chunks,
                Err(why) => {
                    self.gap(why);
                    continue;
                }
            };
            let damaged = chunks.each(&mut |chunk| {
                chunk.claim(fs, &mut self.claims);
                let gap = chunk.inodes(fs, &mut |inode| self.inode(&inode, &mut budget));
                if let Some(why) = gap {
                    self.gap(why);
                }
            });
            if damaged > 0 {
                self.gap(format!(
                    "{damaged} blocks of the tree of inodes of group {group}"
                ));
            }
        }
        if budget.0 == 0 {
            self.gap("the maps of its files have more blocks than there are".into());
        }
        self.rest();
        let directories = All {
            fs,
            left: Cell::new(fs.sb.data_blocks.saturating_mul(TIMES)),
        };
        let names = Names::find(&directories, "inode", self.claims.wanted());
        self.claims.into_words(&names)
    }

    fn gap(&mut self, why: String) {
        if self.gaps.len() < MAX_GAPS && !self.gaps.contains(&why) {
            self.gaps.push(why);
        }
    }

    /// The headers of the groups, and the log.
    fn fixed(&mut self) {
        let sb = self.fs.sb;
        let headers = HEADER_SECTORS
            .saturating_mul(sb.sector_size)
            .div_ceil(sb.block_size);
        for group in 0..sb.ag_count {
            let run = BlockRun {
                start: 0,
                end: headers,
            };
            self.claims.claim(sb.bytes_of(group, run), |_| {
                let which = match group {
                    0 => "superblock and headers of group 0".to_owned(),
                    _ => format!("headers of group {group}"),
                };
                Owner::Nobody(What::metadata(which))
            });
        }
        if let Some(log) = sb.log {
            let run = BlockRun {
                start: log.group_block,
                end: log.group_block.saturating_add(log.blocks),
            };
            self.claims
                .nobody(sb.bytes_of(log.group, run), &What::metadata("log"));
        }
    }

    fn inode(&mut self, inode: &Inode<'_>, budget: &mut Budget) {
        let fs = self.fs;
        let number = inode.number;
        let special = fs.shape.special(number).map(What::metadata);
        for (fork, is_content) in [
            (inode.data_fork(fs), true),
            (inode.attribute_fork(fs), false),
        ] {
            let claims = &mut self.claims;
            let owner = |what| match &special {
                Some(what) => Owner::Nobody(what.clone()),
                None => Owner::About {
                    inode: number,
                    what,
                },
            };
            let gap = fork.each(fs, budget, &mut |mapped| match mapped {
                Mapped::Tree(block) => {
                    claims.claim(fs.shape.bytes_of(fs.sb, block, 1), |_| {
                        owner("map of the blocks")
                    });
                }
                Mapped::Run(run) => {
                    let extent = fs.shape.bytes_of(fs.sb, run.start, run.len);
                    let offset = run.file_block.saturating_mul(fs.sb.block_size);
                    match (&special, is_content, inode.kind) {
                        (Some(what), _, _) => claims.nobody(extent, what),
                        (None, false, _) => {
                            claims.claim(extent, |_| owner("extended attributes"));
                        }
                        (None, true, Kind::Directory) => {
                            claims.claim(extent, |_| Owner::Directory(number));
                        }
                        (None, true, Kind::Link) => {
                            claims.claim(extent, |_| owner("target of the symbolic link"));
                        }
                        (None, true, _) if !run.written => claims.nobody(
                            extent,
                            &What::outside("set aside for a file, but never written"),
                        ),
                        (None, true, _) => claims.content(extent, number, offset, inode.size),
                    }
                }
            });
            if let Some(why) = gap {
                self.gap(format!("the map of inode {number}: {why}"));
            }
        }
    }

    /// What no inode has.
    fn rest(&mut self) {
        let fs = self.fs;
        let sb = fs.sb;
        let unclaimed = self.claims.unclaimed();
        let whole = self.gaps.is_empty() && !self.claims.overflowed();
        let unknown = if self.claims.overflowed() {
            What::too_much()
        } else {
            What::unknown(format!(
                "no file that could be looked at has it; what could not: {}",
                self.gaps.join("; ")
            ))
        };
        for group in 0..sb.ag_count {
            let blocks = BlockRun {
                start: 0,
                end: sb.blocks_in(group),
            };
            let Some(window) = sb.bytes_of(group, blocks) else {
                continue;
            };
            if unclaimed.within(window).next().is_none() {
                continue;
            }
            let here: ExtentList = unclaimed.within(window).collect();
            let mut used = Vec::new();
            let walked = group::walk(fs.volume, sb, group, |run| {
                let extent = sb.bytes_of(group, run);
                let parts = extent.into_iter().flat_map(|extent| here.within(extent));
                used.extend(parts);
            });
            let used: ExtentList = match walked {
                Ok(_) => used.into_iter().collect(),
                Err(_) => here.clone(),
            };
            for part in here.subtract(&used).iter() {
                self.claims.nobody(Some(part), &What::FreeSpace);
            }
            let what = match (whole, walked.is_ok()) {
                (true, true) => What::metadata(format!("trees and free list of group {group}")),
                (true, false) => {
                    What::outside(format!("of no file: free, or a tree of group {group}"))
                }
                (false, _) => unknown.clone(),
            };
            for part in used.iter() {
                self.claims.nobody(Some(part), &what);
            }
        }
        let end = sb.data_blocks.saturating_mul(sb.block_size);
        let behind = Extent::between(end, u64::MAX);
        let behind: Vec<Extent> = behind
            .into_iter()
            .flat_map(|b| unclaimed.within(b))
            .collect();
        for part in behind {
            self.claims.nobody(
                Some(part),
                &What::outside("behind the end of the filesystem"),
            );
        }
    }
}

/// The directories of one filesystem.
struct All<'a> {
    fs: Filesystem<'a>,
    /// Blocks that may still be read: enough for the few times that each is, if no two directories
    /// claim the same blocks.
    left: Cell<u64>,
}

/// How often all blocks may be read as directories.
const TIMES: u64 = 8;

impl Directories for All<'_> {
    fn root(&self) -> u64 {
        self.fs.shape.root_inode
    }

    fn every_entry(&self, each: &mut dyn FnMut(u64, Entry<'_>)) {
        let fs = self.fs;
        let mut budget = Budget(self.left.get());
        for group in 0..fs.sb.ag_count {
            // What cannot be read was told when the inodes were gone through before.
            let Ok(chunks) = chunks::of_group(fs, group) else {
                continue;
            };
            chunks.each(&mut |chunk| {
                let _ = chunk.inodes(fs, &mut |inode| {
                    directory::entries(fs, &inode, &mut budget, &mut |entry| {
                        each(inode.number, entry);
                    });
                });
            });
        }
        self.left.set(budget.0);
    }

    fn entries_of(&self, directory: u64, each: &mut dyn FnMut(Entry<'_>)) {
        let fs = self.fs;
        let mut budget = Budget(self.left.get());
        inode::read(fs, directory, &mut |inode| {
            directory::entries(fs, &inode, &mut budget, each);
        });
        self.left.set(budget.0);
    }
}

impl<'a> Filesystem<'a> {
    /// Whole blocks, by their number in the filesystem.
    fn read_block(&self, block: u64) -> Option<Vec<u8>> {
        let extent = self.shape.bytes_of(self.sb, block, 1)?;
        let mut bytes = vec![0; usize::try_from(extent.len().0).ok()?];
        self.volume.read_at(extent.start(), &mut bytes).ok()?;
        Some(bytes)
    }

    /// One of the two forks of an inode.
    fn fork(&self, format: u8, bytes: &'a [u8], extents: u64) -> Fork<'a> {
        Fork {
            format,
            bytes,
            extents,
        }
    }
}
