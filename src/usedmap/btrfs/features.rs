//! Feature words and flags of the superblock (`include/uapi/linux/btrfs.h`, `btrfs_tree.h`; the
//! flags from 1 << 34 on are btrfs-progs' own), and which of them a used map can live with.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::superblock::Superblock;
use crate::usedmap::finding::Refusal;

/// `BTRFS_FEATURE_INCOMPAT_METADATA_UUID`: tree blocks carry another UUID than the filesystem.
pub(super) const INCOMPAT_METADATA_UUID: u64 = 0x400;
const INCOMPAT_ZONED: u64 = 0x1000;

/// MIXED_BACKREF, DEFAULT_SUBVOL, MIXED_GROUPS, COMPRESS_LZO, COMPRESS_ZSTD, BIG_METADATA,
/// EXTENDED_IREF, RAID56, SKINNY_METADATA, NO_HOLES, METADATA_UUID, RAID1C34, SIMPLE_QUOTA (which
/// adds an owner to an extent item's references). Not: ZONED, EXTENT_TREE_V2, RAID_STRIPE_TREE,
/// ENCRYPT, REMAP_TREE.
const INCOMPAT_KNOWN: u64 = 0xBFF | INCOMPAT_METADATA_UUID | 0x1_0000;

const COMPAT_RO_BLOCK_GROUP_TREE: u64 = 0x8;
/// FREE_SPACE_TREE, FREE_SPACE_TREE_VALID, VERITY, BLOCK_GROUP_TREE.
const COMPAT_RO_KNOWN: u64 = 0x1 | 0x2 | 0x4 | COMPAT_RO_BLOCK_GROUP_TREE;

/// Errors were met while it was mounted.
const FLAG_ERROR: u64 = 1 << 2;
const FLAG_METADUMP: u64 = 1 << 33;
const FLAG_METADUMP_V2: u64 = 1 << 34;
const FLAG_CHANGING_FSID: u64 = 1 << 35;
const FLAG_CHANGING_FSID_V2: u64 = 1 << 36;
/// WRITTEN, RELOC, ERROR, SEEDING.
const FLAGS_KNOWN: u64 = 0x1 | 0x2 | FLAG_ERROR | 1 << 32;

impl Superblock {
    /// Whether block group items have their own tree instead of standing in the extent tree.
    pub(super) fn has_block_group_tree(&self) -> bool {
        self.compat_ro & COMPAT_RO_BLOCK_GROUP_TREE != 0
    }

    /// Whether errors were met while it was mounted.
    pub(super) fn has_errors(&self) -> bool {
        self.flags & FLAG_ERROR != 0
    }

    /// An unknown feature may change what any tree says, the chunk tree too. An unknown compat_ro
    /// one counts as well: BLOCK_GROUP_TREE is one, and whoever does not know it sees no block group.
    pub(super) fn refuse_unknown(&self) -> Result<(), Refusal> {
        let unsupported = |what: String| Err(Refusal::Unsupported(what));
        if self.incompat & INCOMPAT_ZONED != 0 {
            return unsupported(
                "it is made for zoned disks, which have to be copied in order".into(),
            );
        }
        let incompat = self.incompat & !INCOMPAT_KNOWN;
        if incompat != 0 {
            return unsupported(format!(
                "it uses features unknown here (incompat {incompat:#x})"
            ));
        }
        let compat_ro = self.compat_ro & !COMPAT_RO_KNOWN;
        if compat_ro != 0 {
            return unsupported(format!(
                "it uses features unknown here (compat_ro {compat_ro:#x})"
            ));
        }
        if self.flags & (FLAG_METADUMP | FLAG_METADUMP_V2) != 0 {
            return unsupported("it is a dump of metadata, not a filesystem".into());
        }
        if self.flags & (FLAG_CHANGING_FSID | FLAG_CHANGING_FSID_V2) != 0 {
            return Err(Refusal::Dirty(
                "its UUID was being changed (let btrfstune finish for a smaller copy)".into(),
            ));
        }
        let flags = self.flags & !FLAGS_KNOWN;
        if flags != 0 {
            return unsupported(format!(
                "its superblock has flags unknown here ({flags:#x}); btrfstune may have been \
                 changing it (let it finish for a smaller copy)"
            ));
        }
        Ok(())
    }
}
