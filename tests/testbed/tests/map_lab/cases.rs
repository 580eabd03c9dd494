//! The filesystems: a line for each variant that is to be read in place.

/// One filesystem on a disk of its own.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// As mount in the laboratory knows it.
    pub(crate) driver: &'static str,
    pub(crate) options: &'static str,
    pub(crate) mib: u64,
    /// This machine's program and its arguments before the image.
    pub(crate) mkfs: &'static [&'static str],
    /// The same of its checker, told to change nothing.
    pub(crate) check: &'static [&'static str],
}

/// All of them must be mapped by their used blocks.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "fat12",
        driver: "vfat",
        options: "",
        mib: 60,
        mkfs: &["mkfs.vfat", "-F", "12", "-s", "64"],
        check: &["fsck.vfat", "-n"],
    },
    Case {
        name: "fat16",
        driver: "vfat",
        options: "",
        mib: 64,
        mkfs: &["mkfs.vfat", "-F", "16"],
        check: &["fsck.vfat", "-n"],
    },
    Case {
        name: "fat32",
        driver: "vfat",
        options: "",
        mib: 64,
        mkfs: &["mkfs.vfat", "-F", "32", "-s", "1"],
        check: &["fsck.vfat", "-n"],
    },
    Case {
        name: "exfat",
        driver: "exfat",
        options: "",
        mib: 64,
        mkfs: &["mkfs.exfat"],
        check: &["fsck.exfat", "-n"],
    },
    Case {
        name: "ntfs",
        driver: "ntfs3",
        options: "",
        mib: 64,
        mkfs: &["mkfs.ntfs", "-Q", "-q", "-F"],
        check: &["ntfsfix", "-n"],
    },
    Case {
        name: "ntfs_clusters_of_512",
        driver: "ntfs3",
        options: "",
        mib: 64,
        mkfs: &["mkfs.ntfs", "-Q", "-q", "-F", "-c", "512"],
        check: &["ntfsfix", "-n"],
    },
    Case {
        name: "f2fs",
        driver: "f2fs",
        options: "",
        mib: 128,
        mkfs: &["mkfs.f2fs", "-q", "-f", "-t", "0"],
        check: &["fsck.f2fs", "-f", "--dry-run"],
    },
    Case {
        name: "jfs",
        driver: "jfs",
        options: "",
        mib: 96,
        mkfs: &["mkfs.jfs", "-q"],
        check: &["fsck.jfs", "-f", "-n"],
    },
    Case {
        name: "reiserfs",
        driver: "reiserfs",
        options: "",
        mib: 96,
        mkfs: &["mkreiserfs", "-q", "-f", "-f"],
        check: &["reiserfsck", "--check", "-q", "-y"],
    },
    Case {
        name: "hfsplus",
        driver: "hfsplus",
        options: "",
        mib: 64,
        mkfs: &["mkfs.hfsplus", "-v", "haulier"],
        check: &["fsck.hfsplus", "-n", "-f"],
    },
];
