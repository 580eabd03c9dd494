//! The superblock of ext2/3/4 (`struct ext4_super_block` in `fs/ext4/ext4.h`; kernel documentation,
//! "ext4 Data Structures and Algorithms", 4.1): 1024 bytes, 1024 bytes into the volume.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::features::{self, Features};
use crate::bytes::{read_array, read_text, read_u8, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::crc::{crc32c, matches_checksum};
use crate::usedmap::finding::Refusal;
use uuid::Uuid;

/// Where it is, whatever the block size.
pub(crate) const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

const STATE_VALID: u16 = 0x1;
const STATE_ERROR: u16 = 0x2;

/// A superblock whose numbers fit together and fit the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Feature words.
    pub features: Features,
    /// `s_uuid`.
    pub uuid: Uuid,
    /// `s_volume_name`.
    pub label: Option<String>,
    /// Bytes a block: a power of two from 1024 to 65,536.
    pub(crate) block_size: u64,
    /// `s_first_data_block`: 1 with blocks of 1 KiB (but 0 with bigalloc), else 0.
    pub(crate) first_data_block: u64,
    /// `s_blocks_count`; all of them lie inside the volume.
    pub(crate) blocks_count: u64,
    /// `s_free_blocks_count`, in blocks even with bigalloc.
    pub(crate) free_blocks: u64,
    /// Blocks a cluster: 1 without bigalloc.
    pub(crate) blocks_per_cluster: u64,
    /// Clusters a group: a multiple of 8, at most the bits of a block.
    pub(crate) clusters_per_group: u64,
    /// Blocks a group.
    pub(crate) blocks_per_group: u64,
    /// How many groups.
    pub(crate) group_count: u64,
    /// Blocks that the inode table of a group occupies.
    pub(crate) inode_table_blocks: u64,
    /// Bytes a group descriptor: 32, or more with 64bit.
    pub(crate) desc_size: usize,
    /// `s_reserved_gdt_blocks`: room to grow behind the group descriptors.
    pub(crate) reserved_gdt_blocks: u64,
    /// `s_first_meta_bg`.
    pub(crate) first_meta_bg: u64,
    /// `s_backup_bgs`: the two groups with a backup under sparse_super2.
    pub(crate) backup_groups: [u64; 2],
    /// What the checksums of metadata start from.
    pub(crate) checksum_seed: u32,
    /// `s_mmp_block`, 0 if none.
    pub(crate) mmp_block: u64,
    /// `s_inodes_count`.
    pub(crate) inodes_count: u64,
    /// `s_inodes_per_group`, never 0.
    pub(crate) inodes_per_group: u64,
    /// Bytes an inode: a power of two, at most a block.
    pub(crate) inode_size: u64,
    /// Where its journal is.
    pub(crate) journal: JournalPlace,
    /// Inodes that have no name and no fixed number: the quota of projects (`s_prj_quota_inum`) and
    /// the list of orphans (`s_orphan_file_inum`); 0 if none.
    pub(crate) nameless_inodes: [u32; 2],
    state: u16,
}

/// Where a filesystem's journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JournalPlace {
    /// It has none.
    None,
    /// In a file of its own: `s_journal_inum`.
    Inode(u32),
    /// On another volume with this UUID: `s_journal_uuid`.
    Elsewhere(Uuid),
}

impl Superblock {
    /// Reads and validates the primary superblock of a volume.
    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        volume.read_at(ByteOffset(SUPERBLOCK_AT), &mut bytes)?;
        Self::parse(&bytes, volume.size().0)
    }

    fn parse(bytes: &[u8; SUPERBLOCK_BYTES], volume_size: u64) -> Result<Self, Refusal> {
        let s_inodes_count = read_u32le(bytes, 0x00);
        let s_blocks_count_lo = read_u32le(bytes, 0x04);
        let s_free_blocks_count_lo = read_u32le(bytes, 0x0C);
        let s_first_data_block = read_u32le(bytes, 0x14);
        let s_log_block_size = read_u32le(bytes, 0x18);
        let s_log_cluster_size = read_u32le(bytes, 0x1C);
        let s_blocks_per_group = read_u32le(bytes, 0x20);
        let s_clusters_per_group = read_u32le(bytes, 0x24);
        let s_inodes_per_group = read_u32le(bytes, 0x28);
        let s_state = read_u16le(bytes, 0x3A);
        let s_rev_level = read_u32le(bytes, 0x4C);
        let s_inode_size = read_u16le(bytes, 0x58);
        let s_uuid: [u8; 16] = read_array(bytes, 0x68);
        let s_reserved_gdt_blocks = read_u16le(bytes, 0xCE);
        let s_journal_uuid: [u8; 16] = read_array(bytes, 0xD0);
        let s_journal_inum = read_u32le(bytes, 0xE0);
        let s_desc_size = read_u16le(bytes, 0xFE);
        let s_first_meta_bg = read_u32le(bytes, 0x104);
        let s_blocks_count_hi = read_u32le(bytes, 0x150);
        let s_free_blocks_count_hi = read_u32le(bytes, 0x158);
        let s_mmp_block = read_u64le(bytes, 0x168);
        let s_checksum_type = read_u8(bytes, 0x175);
        let s_backup_bgs = [read_u32le(bytes, 0x24C), read_u32le(bytes, 0x250)];
        let s_checksum_seed = read_u32le(bytes, 0x270);
        let s_checksum = read_u32le(bytes, 0x3FC);
        let features = Features {
            compat: read_u32le(bytes, 0x5C),
            incompat: read_u32le(bytes, 0x60),
            ro_compat: read_u32le(bytes, 0x64),
        };

        if features.has_incompat(features::INCOMPAT_JOURNAL_DEV) {
            return Err(Refusal::Unsupported(format!(
                "the journal (UUID {}) of a filesystem that is on another disk: both have to be \
                 captured",
                Uuid::from_bytes(s_uuid)
            )));
        }
        // Before the checksum: an unknown feature may change what is checked how.
        if let Some(unknown) = features.unknown() {
            return Err(Refusal::Unsupported(format!(
                "uses features that this version does not know ({unknown})"
            )));
        }
        if features.has_ro_compat(features::RO_COMPAT_METADATA_CSUM) {
            if s_checksum_type != 1 {
                return Err(Refusal::Unsupported(format!(
                    "checksums of type {s_checksum_type}"
                )));
            }
            let covered = bytes.get(..0x3FC).unwrap_or_default();
            if !matches_checksum(crc32c(!0, [covered]), s_checksum) {
                return Err(Refusal::Damaged(
                    "the superblock does not match its checksum".into(),
                ));
            }
        }

        let odd = |what: String| Refusal::Damaged(format!("the superblock claims {what}"));
        if s_log_block_size > 6 {
            return Err(odd(format!("blocks of 2^{s_log_block_size} KiB")));
        }
        let block_size = 1024_u64.checked_shl(s_log_block_size).unwrap_or(1024);
        let bits_per_block = block_size.saturating_mul(8);
        let bigalloc = features.has_ro_compat(features::RO_COMPAT_BIGALLOC);
        let expected_first = u64::from(block_size == 1024 && !bigalloc);
        let first_data_block = u64::from(s_first_data_block);
        if first_data_block != expected_first {
            return Err(odd(format!(
                "that its first data block is {first_data_block}"
            )));
        }
        let wide = features.has_incompat(features::INCOMPAT_64BIT);
        let join = |lo: u32, hi: u32| {
            let hi = if wide { u64::from(hi) << 32 } else { 0 };
            hi | u64::from(lo)
        };
        let blocks_count = join(s_blocks_count_lo, s_blocks_count_hi);
        let free_blocks = join(s_free_blocks_count_lo, s_free_blocks_count_hi);
        let size = blocks_count.checked_mul(block_size);
        if size.is_none_or(|size| size > volume_size) {
            return Err(odd(format!(
                "{blocks_count} blocks of {block_size} bytes, but its partition has {volume_size} \
                 bytes"
            )));
        }
        if blocks_count <= first_data_block || free_blocks > blocks_count {
            return Err(odd(format!(
                "{blocks_count} blocks, {free_blocks} of them free"
            )));
        }

        let (blocks_per_cluster, clusters_per_group) = if bigalloc {
            let shift = s_log_cluster_size
                .checked_sub(s_log_block_size)
                .filter(|&shift| shift <= 20)
                .ok_or_else(|| odd(format!("clusters of 2^{s_log_cluster_size} KiB")))?;
            (
                1_u64.checked_shl(shift).unwrap_or(1),
                u64::from(s_clusters_per_group),
            )
        } else {
            (1, u64::from(s_blocks_per_group))
        };
        let blocks_per_group = u64::from(s_blocks_per_group);
        // mke2fs makes no group of less than 256 blocks; fewer would only be a way to keep us busy.
        if blocks_per_group < 256
            || clusters_per_group & 7 != 0
            || clusters_per_group > bits_per_block
            || clusters_per_group.checked_mul(blocks_per_cluster) != Some(blocks_per_group)
        {
            return Err(odd(format!(
                "groups of {blocks_per_group} blocks, {clusters_per_group} clusters"
            )));
        }
        let group_count = blocks_count
            .saturating_sub(first_data_block)
            .div_ceil(blocks_per_group);

        let inode_size = if s_rev_level == 0 {
            128
        } else {
            u64::from(s_inode_size)
        };
        let inodes_per_group = u64::from(s_inodes_per_group);
        if !inode_size.is_power_of_two()
            || !(128..=block_size).contains(&inode_size)
            || inodes_per_group == 0
            || inodes_per_group > bits_per_block
            || inodes_per_group.checked_mul(group_count) != Some(u64::from(s_inodes_count))
        {
            return Err(odd(format!(
                "{s_inodes_count} inodes of {inode_size} bytes, {inodes_per_group} in each of \
                 {group_count} groups"
            )));
        }
        let desc_size = if wide { s_desc_size } else { 32 };
        if wide && (!desc_size.is_power_of_two() || !(64..=1024).contains(&desc_size)) {
            return Err(odd(format!("group descriptors of {desc_size} bytes")));
        }
        let checksum_seed = if features.has_incompat(features::INCOMPAT_CSUM_SEED) {
            s_checksum_seed
        } else {
            crc32c(!0, [s_uuid.as_slice()])
        };
        Ok(Self {
            features,
            uuid: Uuid::from_bytes(s_uuid),
            label: read_text(bytes, 0x78, 16),
            block_size,
            first_data_block,
            blocks_count,
            free_blocks,
            blocks_per_cluster,
            clusters_per_group,
            blocks_per_group,
            group_count,
            inode_table_blocks: inodes_per_group
                .saturating_mul(inode_size)
                .div_ceil(block_size),
            desc_size: usize::from(desc_size),
            reserved_gdt_blocks: u64::from(s_reserved_gdt_blocks),
            first_meta_bg: u64::from(s_first_meta_bg),
            backup_groups: s_backup_bgs.map(u64::from),
            checksum_seed,
            mmp_block: if features.has_incompat(features::INCOMPAT_MMP) {
                s_mmp_block
            } else {
                0
            },
            inodes_count: u64::from(s_inodes_count),
            inodes_per_group,
            inode_size,
            journal: if !features.has_compat(features::COMPAT_HAS_JOURNAL) {
                JournalPlace::None
            } else if s_journal_inum == 0 {
                JournalPlace::Elsewhere(Uuid::from_bytes(s_journal_uuid))
            } else {
                JournalPlace::Inode(s_journal_inum)
            },
            nameless_inodes: [read_u32le(bytes, 0x26C), read_u32le(bytes, 0x280)],
            state: s_state,
        })
    }

    /// The name that people know it by, after the features that it uses.
    pub fn flavour(&self) -> &'static str {
        // What mke2fs turns on for ext4 and nothing older understands.
        const EXT4_INCOMPAT: u32 = !(0x0002
            | features::INCOMPAT_RECOVER
            | features::INCOMPAT_JOURNAL_DEV
            | features::INCOMPAT_META_BG);
        const EXT4_RO_COMPAT: u32 = !0x0007;
        if self.features.incompat & EXT4_INCOMPAT != 0
            || self.features.ro_compat & EXT4_RO_COMPAT != 0
        {
            "ext4"
        } else if self.features.has_compat(features::COMPAT_HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Whether its journal has to be replayed before anything else is true.
    pub(crate) fn needs_recovery(&self) -> bool {
        self.features.has_incompat(features::INCOMPAT_RECOVER)
    }

    /// Refuses a filesystem whose bitmaps may lag behind its content, unless its own journal says
    /// what is missing.
    pub(crate) fn refuse_unless_replayable(&self) -> Result<(), Refusal> {
        if self.needs_recovery() {
            match self.journal {
                JournalPlace::Inode(_) => {}
                JournalPlace::Elsewhere(uuid) => {
                    return Err(Refusal::Dirty(format!(
                        "its journal, which is on another disk (UUID {uuid}), holds writes that \
                         have not reached their places, because the server was not shut down (boot \
                         it once and power it off properly for a smaller copy)"
                    )));
                }
                JournalPlace::None => {
                    return Err(Refusal::Damaged(
                        "its superblock asks for a journal that it does not have".into(),
                    ));
                }
            }
        }
        if self.state & STATE_ERROR != 0 {
            return Err(Refusal::Dirty(
                "the filesystem has recorded errors (boot the server and let e2fsck repair it for \
                 a smaller copy)"
                    .into(),
            ));
        }
        // With a journal in use only its flag says whether it was unmounted.
        if self.state & STATE_VALID == 0 && !self.needs_recovery() {
            return Err(Refusal::Dirty(
                "it was not unmounted (boot the server once and power it off properly for a \
                 smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// The UUID of a volume that is only the journal of another filesystem, as that one names it.
pub(crate) fn uuid_of_journal_device(volume: &dyn ReadAt) -> Option<String> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    volume.read_at(ByteOffset(SUPERBLOCK_AT), &mut bytes).ok()?;
    let incompat = read_u32le(&bytes, 0x60);
    (incompat & features::INCOMPAT_JOURNAL_DEV != 0).then(|| {
        Uuid::from_bytes(read_array(&bytes, 0x68))
            .hyphenated()
            .to_string()
    })
}
