//! How the disks are made: each round three filesystems, each round in another way.

use super::proof::Kind;

/// XFS takes no less than 300 MiB.
pub(crate) const DISK_BYTES: u64 = 320 << 20;

/// One disk of a guest.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Its row in the report.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The program and its arguments before the image.
    pub(crate) mkfs: &'static [&'static str],
    /// How the guest mounts it.
    pub(crate) options: &'static str,
}

/// What the guests of a campaign get, in turn.
pub(crate) const ROUNDS: [[Disk; 3]; 3] = [
    [
        Disk {
            name: "ext4",
            kind: Kind::Ext,
            mkfs: &["mke2fs", "-q", "-t", "ext4"],
            options: "rw",
        },
        Disk {
            name: "xfs",
            kind: Kind::Xfs,
            mkfs: &["mkfs.xfs", "-q"],
            options: "rw",
        },
        Disk {
            name: "btrfs",
            kind: Kind::Btrfs,
            mkfs: &["mkfs.btrfs", "-q"],
            options: "rw",
        },
    ],
    [
        Disk {
            name: "ext4 (1 KiB, data=journal)",
            kind: Kind::Ext,
            mkfs: &["mke2fs", "-q", "-t", "ext4", "-b", "1024", "-J", "size=8"],
            options: "data=journal",
        },
        Disk {
            name: "xfs (1 KiB, rmapbt)",
            kind: Kind::Xfs,
            mkfs: &["mkfs.xfs", "-q", "-b", "size=1024", "-m", "rmapbt=1"],
            options: "rw",
        },
        Disk {
            name: "btrfs (single, zstd)",
            kind: Kind::Btrfs,
            mkfs: &["mkfs.btrfs", "-q", "-m", "single"],
            options: "compress-force=zstd,discard=async",
        },
    ],
    [
        Disk {
            name: "ext3",
            kind: Kind::Ext,
            mkfs: &["mke2fs", "-q", "-t", "ext3"],
            options: "discard",
        },
        Disk {
            name: "xfs (no reflink, no finobt)",
            kind: Kind::Xfs,
            mkfs: &[
                "mkfs.xfs",
                "-q",
                "-i",
                "size=1024",
                "-m",
                "reflink=0,finobt=0",
            ],
            options: "discard,logbsize=256k",
        },
        Disk {
            name: "btrfs (mixed)",
            kind: Kind::Btrfs,
            mkfs: &["mkfs.btrfs", "-q", "--mixed"],
            options: "rw",
        },
    ],
];
