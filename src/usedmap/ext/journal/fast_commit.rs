//! Fast commits (`fs/ext4/fast_commit.h`): small changes since the last full commit, as tags with a
//! length, little-endian, in the blocks behind the log. They say what to do to inodes, not what
//! blocks shall hold, so replaying them would mean to be the filesystem; whether there are any is
//! all that is asked.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::bytes::{read_u16le, read_u32le};

/// Whether a block of the fast commit area starts a fast commit that belongs to `sequence`, the
/// transaction behind the last one in the log. `ext4_fc_replay_scan` stops at anything else, but a
/// head with features that we do not know counts: what it means is not known either.
pub(super) fn starts_fast_commit(block: &[u8], sequence: u32) -> bool {
    /// `EXT4_FC_TAG_HEAD`, and behind tag and length `struct ext4_fc_head`.
    const HEAD: u16 = 9;
    let fc_tag = read_u16le(block, 0x0);
    let fc_features = read_u32le(block, 0x4);
    let fc_tid = read_u32le(block, 0x8);
    fc_tag == HEAD && (fc_tid == sequence || fc_features != 0)
}
