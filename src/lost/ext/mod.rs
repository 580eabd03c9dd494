//! ext2, ext3 and ext4: whose blocks were lost.
//!
//! In: a volume, and which of its bytes were lost. Out: what lay there. A filesystem that was not shut
//! down is read as its next mount will find it, with its journal replayed in memory.
//!
//! `fixed` is what the format puts at places of its own, `inodes` goes through the inode tables,
//! `blocks` follows a file's map, `directory` and `inline` read the entries of a directory.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

pub(crate) mod blocks;
pub(crate) mod directory;
mod fixed;
pub(crate) mod inline;
pub(crate) mod inodes;

use super::claims::{Claims, Owner};
use super::loss::What;
use super::names::{Directories, Names};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::units::ByteOffset;
use crate::usedmap::ext::inode::Inode;
use crate::usedmap::ext::superblock::JournalPlace;
use crate::usedmap::ext::{Superblock, as_mounted};
use blocks::{Blocks, Budget};
use inodes::{Kind, Numbered};
use std::cell::Cell;

/// What lay in `lost`.
pub(super) fn name(volume: &dyn ReadAt, lost: &ExtentList) -> Vec<(Extent, What)> {
    let on_disk = match fixed::superblock(volume) {
        Ok(sb) => sb,
        Err(refusal) => {
            let why = What::unknown(format!("the superblock cannot be used: {refusal}"));
            return super::all(lost, &why);
        }
    };
    let overlay = as_mounted(volume, &on_disk);
    match &overlay {
        Some(overlay) => {
            let sb = Superblock::read(overlay).unwrap_or(on_disk);
            Walk::new(overlay, &sb, lost).run()
        }
        None => Walk::new(volume, &on_disk, lost).run(),
    }
}

/// One walk over all inodes.
struct Walk<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    claims: Claims<'a>,
    /// What could not be looked at, for people.
    gaps: Vec<String>,
    /// Groups whose tables have directories.
    directories: Vec<u64>,
}

/// Gaps that are told.
const MAX_GAPS: usize = 8;

impl<'a> Walk<'a> {
    fn new(volume: &'a dyn ReadAt, sb: &'a Superblock, lost: &'a ExtentList) -> Self {
        Self {
            volume,
            sb,
            claims: Claims::new(lost),
            gaps: Vec::new(),
            directories: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<(Extent, What)> {
        let (volume, sb) = (self.volume, self.sb);
        fixed::claim(sb, &mut self.claims);
        let mut budget = Budget::new(sb);
        fixed::each_group(volume, sb, &mut |group, desc| match desc {
            Ok(desc) => {
                fixed::claim_group(sb, group, &desc, &mut self.claims);
                let mut has_directories = false;
                let read = inodes::of_group(volume, sb, group, &desc, &mut |inode| {
                    has_directories |= inode.kind() == Kind::Directory;
                    self.inode(&inode, &mut budget);
                });
                if has_directories {
                    self.directories.push(group);
                }
                for why in read {
                    self.gap(why);
                }
            }
            Err(why) => self.gap(why),
        });
        if budget.is_spent() {
            self.gap("the maps of its files have more blocks than there are".into());
        }
        self.rest();
        let dirs = Dirs {
            volume,
            sb,
            groups: &self.directories,
            left: Cell::new(sb.blocks_count.saturating_mul(TIMES)),
        };
        let names = Names::find(&dirs, "inode", self.claims.wanted());
        self.claims.into_words(&names)
    }

    fn gap(&mut self, why: String) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(why);
        }
    }

    fn inode(&mut self, numbered: &Numbered<'_>, budget: &mut Budget) {
        let sb = self.sb;
        let number = u64::from(numbered.number);
        let inode: &Inode = &numbered.inode;
        let special = special(sb, numbered);
        if inode.attribute_block != 0 {
            let block = sb.bytes_of(fixed::run(inode.attribute_block, 1));
            self.claims.claim(block, |_| Owner::About {
                inode: number,
                what: "extended attributes",
            });
        }
        let kind = numbered.kind();
        if !numbered.has_map() {
            return;
        }
        let mut blocks = Blocks::new(self.volume, sb, inode, budget);
        let claims = &mut self.claims;
        blocks.each(&mut |found| match found {
            blocks::Found::Map(block) => {
                claims.claim(sb.bytes_of(fixed::run(block, 1)), |_| match &special {
                    Some(what) => Owner::Nobody(what.clone()),
                    None => Owner::About {
                        inode: number,
                        what: "map of the blocks",
                    },
                });
            }
            blocks::Found::Run {
                file_block,
                start,
                len,
                written,
            } => {
                let extent = sb.bytes_of(fixed::run(start, len));
                let offset = file_block.saturating_mul(sb.block_size);
                match (&special, kind) {
                    (Some(what), _) => claims.nobody(extent, what),
                    (None, Kind::Directory) => claims.claim(extent, |_| Owner::Directory(number)),
                    (None, Kind::Link) => claims.claim(extent, |_| Owner::About {
                        inode: number,
                        what: "target of the symbolic link",
                    }),
                    (None, _) if !written => {
                        claims.nobody(
                            extent,
                            &What::outside("set aside for a file, but never written"),
                        );
                    }
                    (None, _) => claims.content(extent, number, offset, inode.size),
                }
            }
        });
        for why in blocks.into_gaps() {
            self.gap(format!("the map of inode {number}: {why}"));
        }
    }

    /// What no inode has: free by the bitmap, or of a file that could not be looked at.
    fn rest(&mut self) {
        let sb = self.sb;
        let owner = if self.claims.overflowed() {
            What::too_much()
        } else if self.gaps.is_empty() {
            What::outside("in use by what the bitmap says, but by no file")
        } else {
            What::unknown(format!(
                "no file that could be looked at has it; what could not: {}",
                self.gaps.join("; ")
            ))
        };
        let unclaimed = self.claims.unclaimed();
        let end = sb.blocks_count.saturating_mul(sb.block_size);
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
        for group in 0..sb.group_count {
            let Some(window) = sb.bytes_of(sb.group_blocks(group)) else {
                continue;
            };
            if unclaimed.within(window).next().is_none() {
                continue;
            }
            let here: ExtentList = unclaimed.within(window).collect();
            match fixed::used_in(self.volume, sb, group) {
                Some(used) => {
                    for part in here.subtract(&used).iter() {
                        self.claims.nobody(Some(part), &What::FreeSpace);
                    }
                    for part in here.intersect(&used).iter() {
                        self.claims.nobody(Some(part), &owner);
                    }
                }
                // Without its bitmap: of no file is all that can be said.
                None if self.gaps.is_empty() && !self.claims.overflowed() => {
                    let what = What::outside("of no file");
                    here.iter()
                        .for_each(|part| self.claims.nobody(Some(part), &what));
                }
                None => here
                    .iter()
                    .for_each(|part| self.claims.nobody(Some(part), &owner)),
            }
        }
        let first = Extent::between(0, sb.first_data_block.saturating_mul(sb.block_size));
        let boot: Vec<Extent> = first
            .into_iter()
            .flat_map(|f| unclaimed.within(f))
            .collect();
        for part in boot {
            self.claims
                .nobody(Some(part), &What::outside("the boot block"));
        }
    }
}

/// What an inode is that has no name because the filesystem keeps it for itself.
fn special(sb: &Superblock, numbered: &Numbered<'_>) -> Option<What> {
    /// `EXT4_EA_INODE_FL`: the value of an extended attribute of some other inode.
    const EA_INODE: u32 = 0x20_0000;
    let number = numbered.number;
    let [projects, orphans] = sb.nameless_inodes;
    let which = match number {
        1 => {
            return Some(What::outside(
                "a block that the filesystem itself lists as bad",
            ));
        }
        3 | 4 => "quota",
        5 => "boot loader",
        7 => "room for more group descriptors",
        8 => "journal",
        _ if JournalPlace::Inode(number) == sb.journal => "journal",
        _ if number == projects => "quota",
        _ if number == orphans => "list of files that were being deleted",
        _ if numbered.inode.flags & EA_INODE != 0 => "value of an extended attribute",
        _ => return None,
    };
    Some(What::metadata(which))
}

/// The directories of one filesystem.
struct Dirs<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    groups: &'a [u64],
    /// Blocks of directories that may still be read: enough for the few times that each is, if no two
    /// of them claim the same blocks.
    left: Cell<u64>,
}

/// How often all blocks may be read as directories.
const TIMES: u64 = 8;

impl Directories for Dirs<'_> {
    fn root(&self) -> u64 {
        2
    }

    fn every_entry(&self, each: &mut dyn FnMut(u64, super::names::Entry<'_>)) {
        let mut budget = Budget::new(self.sb);
        for &group in self.groups {
            let Ok(desc) = fixed::descriptor(self.volume, self.sb, group) else {
                continue;
            };
            // What cannot be read was told when the tables were gone through before.
            let _ = inodes::of_group(self.volume, self.sb, group, &desc, &mut |inode| {
                if inode.kind() == Kind::Directory {
                    let number = u64::from(inode.number);
                    let (volume, sb, left) = (self.volume, self.sb, &self.left);
                    directory::entries(volume, sb, &inode, &mut budget, left, &mut |entry| {
                        each(number, entry);
                    });
                }
            });
        }
    }

    fn entries_of(&self, number: u64, each: &mut dyn FnMut(super::names::Entry<'_>)) {
        let Ok(number) = u32::try_from(number) else {
            return;
        };
        let mut budget = Budget::new(self.sb);
        let _ = inodes::one(self.volume, self.sb, number, &mut |inode| {
            if inode.kind() == Kind::Directory {
                let (volume, sb, left) = (self.volume, self.sb, &self.left);
                directory::entries(volume, sb, &inode, &mut budget, left, each);
            }
        });
    }
}

/// Reads whole blocks.
fn read_block(volume: &dyn ReadAt, sb: &Superblock, block: u64) -> Result<Vec<u8>, String> {
    if block >= sb.blocks_count {
        return Err(format!("block {block} is outside the filesystem"));
    }
    let mut bytes = vec![0; usize::try_from(sb.block_size).unwrap_or(0)];
    let at = ByteOffset(block.saturating_mul(sb.block_size));
    volume
        .read_at(at, &mut bytes)
        .map_err(|_| format!("block {block} cannot be read"))?;
    Ok(bytes)
}
