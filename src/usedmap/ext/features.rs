//! Feature words of ext2/3/4 (`fs/ext4/ext4.h`), and which of them a used map can live with.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// The three feature words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `s_feature_compat`: unknown ones may be ignored by design.
    pub compat: u32,
    /// `s_feature_incompat`: nobody who does not know one may touch the filesystem.
    pub incompat: u32,
    /// `s_feature_ro_compat`: nobody who does not know one may write.
    pub ro_compat: u32,
}

pub(crate) const COMPAT_HAS_JOURNAL: u32 = 0x0004;
pub(crate) const COMPAT_SPARSE_SUPER2: u32 = 0x0200;

pub(crate) const INCOMPAT_RECOVER: u32 = 0x0004;
pub(crate) const INCOMPAT_JOURNAL_DEV: u32 = 0x0008;
pub(crate) const INCOMPAT_META_BG: u32 = 0x0010;
pub(crate) const INCOMPAT_EXTENTS: u32 = 0x0040;
pub(crate) const INCOMPAT_64BIT: u32 = 0x0080;
pub(crate) const INCOMPAT_MMP: u32 = 0x0100;
pub(crate) const INCOMPAT_FLEX_BG: u32 = 0x0200;
pub(crate) const INCOMPAT_CSUM_SEED: u32 = 0x2000;

pub(crate) const RO_COMPAT_SPARSE_SUPER: u32 = 0x0001;
pub(crate) const RO_COMPAT_GDT_CSUM: u32 = 0x0010;
pub(crate) const RO_COMPAT_BIGALLOC: u32 = 0x0200;
pub(crate) const RO_COMPAT_METADATA_CSUM: u32 = 0x0400;

/// FILETYPE, RECOVER, META_BG, EXTENTS, 64BIT, MMP, FLEX_BG, EA_INODE, DIRDATA, CSUM_SEED,
/// LARGEDIR, INLINE_DATA, ENCRYPT, CASEFOLD: they change what blocks mean, not which are in use.
const INCOMPAT_KNOWN: u32 = 0x0002
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | INCOMPAT_EXTENTS
    | INCOMPAT_64BIT
    | INCOMPAT_MMP
    | INCOMPAT_FLEX_BG
    | 0x0400
    | 0x1000
    | INCOMPAT_CSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

/// SPARSE_SUPER, LARGE_FILE, BTREE_DIR, HUGE_FILE, GDT_CSUM, DIR_NLINK, EXTRA_ISIZE, QUOTA,
/// BIGALLOC, METADATA_CSUM, READONLY, PROJECT, SHARED_BLOCKS, VERITY, ORPHAN_PRESENT.
const RO_COMPAT_KNOWN: u32 = RO_COMPAT_SPARSE_SUPER
    | 0x0002
    | 0x0004
    | 0x0008
    | RO_COMPAT_GDT_CSUM
    | 0x0020
    | 0x0040
    | 0x0100
    | RO_COMPAT_BIGALLOC
    | RO_COMPAT_METADATA_CSUM
    | 0x1000
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000;

impl Features {
    pub(crate) fn has_compat(self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(crate) fn has_incompat(self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    pub(crate) fn has_ro_compat(self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    /// The bits that this reader does not know, as the words have them; `None` if it knows all.
    /// An unknown ro_compat feature may change what a bitmap says (Next3's snapshots did), so it
    /// counts as well.
    pub(crate) fn unknown(self) -> Option<String> {
        let incompat = self.incompat & !INCOMPAT_KNOWN;
        let ro_compat = self.ro_compat & !RO_COMPAT_KNOWN;
        match (incompat, ro_compat) {
            (0, 0) => None,
            (_, 0) => Some(format!("incompat {incompat:#x}")),
            (0, _) => Some(format!("ro_compat {ro_compat:#x}")),
            _ => Some(format!("incompat {incompat:#x}, ro_compat {ro_compat:#x}")),
        }
    }
}
