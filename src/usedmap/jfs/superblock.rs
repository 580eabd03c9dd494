//! The superblock of JFS (`struct jfs_superblock` in `fs/jfs/jfs_superblock.h` of Linux): 32 KiB
//! into the volume, and once more at 60 KiB.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{has_magic, read_array, read_text, read_u16le, read_u32le, read_u64le};
use crate::device::ReadAt;
use crate::units::ByteOffset;
use crate::usedmap::finding::Refusal;
use uuid::Uuid;

/// Bytes a block; Linux knows no other.
pub(super) const BLOCK: u64 = 4096;

const SUPERBLOCK_AT: u64 = 0x8000;
const SUPERBLOCK_BYTES: usize = 184;

/// `JFS_LINUX`, `JFS_OS2`, `JFS_INLINELOG`.
const LINUX: u32 = 0x1000_0000;
const OS2: u32 = 0x4000_0000;
const INLINE_LOG: u32 = 0x0000_0800;
/// Beside those: UNICODE, COMMIT (0xF00), SPARSE, DASD_ENABLED, DASD_PRIME, DIR_INDEX. Not among
/// them: AIX and DFS (another layout), SWAP_BYTES, BAD_SAIT (a copy of the inode table is damaged).
const HARMLESS: u32 =
    0x0000_0001 | 0x0000_0F00 | 0x0002_0000 | 0x0004_0000 | 0x0008_0000 | 0x0020_0000;

/// Blocks from the first up to, not including, the second.
pub(super) type Run = (u64, u64);

/// A superblock whose areas fit the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub uuid: Option<String>,
    pub label: Option<String>,
    /// `s_size`, in blocks: what the map of blocks speaks of.
    pub blocks: u64,
    /// `s_fsckpxd`: room for the checker, behind what the map speaks of.
    pub checker: Run,
    /// `s_logpxd`: the log, behind that.
    pub log: Run,
    state: u32,
}

impl Superblock {
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, Refusal> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        volume.read_at(ByteOffset(SUPERBLOCK_AT), &mut bytes)?;
        Self::parse(&bytes, volume.size().0)
    }

    fn parse(bytes: &[u8; SUPERBLOCK_BYTES], volume_size: u64) -> Result<Self, Refusal> {
        let version = read_u32le(bytes, 4);
        let size = read_u64le(bytes, 8);
        let block_size = read_u32le(bytes, 16);
        let l2bfactor = read_u16le(bytes, 22);
        let hardware_block_size = u64::from(read_u32le(bytes, 24));
        let flag = read_u32le(bytes, 36);
        if !has_magic(bytes, 0, b"JFS1") || version > 2 {
            return Err(Refusal::Unsupported(format!("of version {version}")));
        }
        let unknown = flag & !(LINUX | OS2 | INLINE_LOG | HARMLESS);
        if unknown != 0 || flag & (LINUX | OS2) == 0 || u64::from(block_size) != BLOCK {
            return Err(Refusal::Unsupported(format!(
                "of a kind that this version does not know (blocks of {block_size} bytes, flags \
                 {flag:#x})"
            )));
        }
        if flag & INLINE_LOG == 0 {
            return Err(Refusal::Unsupported("its log is on another disk".into()));
        }
        let odd = |what: &str| Refusal::Damaged(format!("the superblock claims {what}"));
        let factor = 1_u64.checked_shl(u32::from(l2bfactor)).unwrap_or(0);
        let blocks = size.checked_div(factor).unwrap_or(0);
        if hardware_block_size.saturating_mul(factor) != BLOCK || blocks < 64 {
            return Err(odd("a size that does not fit its blocks"));
        }
        let checker = extent(bytes, 80);
        let log = extent(bytes, 72);
        let end = blocks.max(checker.1).max(log.1);
        if end.checked_mul(BLOCK).is_none_or(|end| end > volume_size)
            || checker.0 < blocks
            || log.0 < blocks
            || log.1.saturating_sub(log.0) < 2
        {
            return Err(odd("areas that do not fit its partition"));
        }
        let uuid = Uuid::from_bytes(read_array(bytes, 136));
        Ok(Self {
            uuid: (!uuid.is_nil()).then(|| uuid.hyphenated().to_string()),
            label: read_text(bytes, 152, 16),
            blocks,
            checker,
            log,
            state: read_u32le(bytes, 40),
        })
    }

    /// Refuses a filesystem whose map of blocks may lag behind its content.
    pub(super) fn refuse_unless_clean(&self, volume: &dyn ReadAt) -> Result<(), Refusal> {
        /// `FM_CLEAN` and `FM_MOUNT`.
        const CLEAN: u32 = 0;
        const MOUNTED: u32 = 1;
        match self.state {
            CLEAN => self.refuse_open_log(volume),
            MOUNTED => Err(Refusal::Dirty(
                "it was not unmounted (boot the server once and power it off properly for a \
                 smaller copy)"
                    .into(),
            )),
            state => Err(Refusal::Dirty(format!(
                "the filesystem has recorded errors (state {state:#x}; boot the server and let \
                 fsck.jfs repair it for a smaller copy)"
            ))),
        }
    }

    /// The log's own superblock (`struct logsuper`), in its second block, must agree.
    fn refuse_open_log(&self, volume: &dyn ReadAt) -> Result<(), Refusal> {
        /// `LOGMAGIC` and `LOGREDONE`.
        const MAGIC: u32 = 0x8765_4321;
        const REDONE: u32 = 1;
        let mut bytes = [0; 32];
        let at = self.log.0.saturating_add(1).saturating_mul(BLOCK);
        volume.read_at(ByteOffset(at), &mut bytes)?;
        if read_u32le(&bytes, 0) != MAGIC {
            return Err(Refusal::Damaged("its log has no superblock".into()));
        }
        if read_u32le(&bytes, 28) != REDONE {
            return Err(Refusal::Dirty(
                "its log was not closed (boot the server once and power it off properly for a \
                 smaller copy)"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// A run of blocks (`pxd_t`): 24 bits of length, 40 of address.
pub(super) fn extent(bytes: &[u8], at: usize) -> Run {
    let len_addr = read_u32le(bytes, at);
    let low = at.saturating_add(4);
    let start = u64::from(len_addr >> 24) << 32 | u64::from(read_u32le(bytes, low));
    (
        start,
        start.saturating_add(u64::from(len_addr & 0x00FF_FFFF)),
    )
}
