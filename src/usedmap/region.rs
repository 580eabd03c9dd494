//! A region of a disk with the decision on it, in the words of `haulier map --json`.

use crate::extent::Extent;
use crate::units::{ByteLen, ByteOffset};
use serde::{Deserialize, Serialize};

/// What a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionKind {
    /// Sectors of a partition table: MBR, EBR, either GPT copy.
    PartitionTable,
    /// From the first sector to the first partition: boot code lives there.
    BootGap,
    /// A filesystem.
    Filesystem,
    /// Swap space.
    Swap,
    /// A member of a volume manager: LVM, md, ZFS and the like.
    VolumeManager,
    /// Encrypted as a whole: free space cannot be told from data.
    Encrypted,
    /// Between or behind the partitions.
    Unpartitioned,
    /// Nothing that we know.
    Unknown,
}

/// What a capture does with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Only the blocks that are in use are read.
    UsedBlocks,
    /// Everything is read and kept.
    CopyAll,
    /// Everything is read, what is zero is not stored.
    CopyNonzero,
    /// Nothing is read.
    Skip,
}

/// In which state a filesystem was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Shut down properly, and consistent as far as we looked.
    Clean,
    /// Not shut down properly: its maps may lag behind its content.
    Dirty,
    /// Contradicts itself.
    Damaged,
    /// Could not be read.
    Unreadable,
    /// Uses a feature that we do not know.
    Unsupported,
}

/// A run of bytes of the disk with one decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The first byte.
    pub start_byte: u64,
    /// How many bytes.
    pub length_bytes: u64,
    /// What it is.
    pub kind: RegionKind,
    /// The partition that it is or belongs to, in the kernel's numbering.
    pub partition: Option<u32>,
    /// What the content calls itself: `ext4`, `ntfs`, `LVM2`, `LUKS`.
    pub filesystem: Option<String>,
    /// The filesystem's label.
    pub label: Option<String>,
    /// The filesystem's UUID.
    pub uuid: Option<String>,
    /// The filesystem's state, where it was looked at.
    pub state: Option<State>,
    /// What a capture does with it.
    pub policy: Policy,
    /// Why, for a person.
    pub reason: String,
    /// How many of its bytes a capture reads.
    pub used_bytes: u64,
}

impl Region {
    /// Where it lies.
    pub fn extent(&self) -> Option<Extent> {
        Extent::new(ByteOffset(self.start_byte), ByteLen(self.length_bytes))
    }
}
