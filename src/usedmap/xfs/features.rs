//! Feature words of XFS (`fs/xfs/libxfs/xfs_format.h`), and which of them a used map can live with.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// The words of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    /// `sb_versionnum`: the version in the low four bits, features of version 4 above.
    pub versionnum: u16,
    /// `sb_features2`, together with `sb_bad_features2` where machines once wrote it instead.
    pub features2: u32,
    /// `sb_features_ro_compat`, 0 before version 5.
    pub ro_compat: u32,
    /// `sb_features_incompat`, 0 before version 5.
    pub incompat: u32,
    /// `sb_features_log_incompat`, 0 before version 5.
    pub log_incompat: u32,
}

const VERSION_LOGV2: u16 = 0x0400;
const VERSION_EXTFLG: u16 = 0x1000;
const VERSION_DIRV2: u16 = 0x2000;
/// SHARED was never said what it means.
const VERSION_KNOWN: u16 = !0x0200;

const VERSION2_LAZYSBCOUNT: u32 = 0x0002;
/// LAZYSBCOUNT, ATTR2, PROJID32, CRC, FTYPE.
const VERSION2_KNOWN: u32 = VERSION2_LAZYSBCOUNT | 0x0008 | 0x0080 | 0x0100 | 0x0200;

const RO_COMPAT_RMAPBT: u32 = 0x2;
/// FINOBT, RMAPBT, REFLINK, INOBTCNT: more trees in the groups, whose blocks are not in the tree of
/// free space.
const RO_COMPAT_KNOWN: u32 = 0x1 | RO_COMPAT_RMAPBT | 0x4 | 0x8;

const INCOMPAT_META_UUID: u32 = 0x4;
const INCOMPAT_NEEDSREPAIR: u32 = 0x10;
/// FTYPE, SPINODES, META_UUID, BIGTIME, NEEDSREPAIR, NREXT64, EXCHRANGE, PARENT: they change what
/// inodes, names and attributes look like, not which blocks are in use. METADIR and ZONED are not
/// among them: they may put a realtime section behind the data on the same disk.
const INCOMPAT_KNOWN: u32 =
    0x1 | 0x2 | INCOMPAT_META_UUID | 0x8 | INCOMPAT_NEEDSREPAIR | 0x20 | 0x40 | 0x80;

/// XATTRS: attributes logged as intents. They matter to whoever replays the log.
const LOG_INCOMPAT_KNOWN: u32 = 0x1;

impl Features {
    pub(crate) fn version(self) -> u16 {
        self.versionnum & 0xF
    }

    /// Whether metadata has checksums.
    pub(crate) fn is_v5(self) -> bool {
        self.version() == 5
    }

    /// Whether log records may be longer than 32 KiB.
    pub(crate) fn has_logv2(self) -> bool {
        self.is_v5() || self.versionnum & VERSION_LOGV2 != 0
    }

    /// Whether the groups count the blocks of their trees.
    pub(crate) fn has_lazy_counters(self) -> bool {
        self.is_v5() || self.features2 & VERSION2_LAZYSBCOUNT != 0
    }

    pub(crate) fn has_rmapbt(self) -> bool {
        self.ro_compat & RO_COMPAT_RMAPBT != 0
    }

    pub(crate) fn has_meta_uuid(self) -> bool {
        self.incompat & INCOMPAT_META_UUID != 0
    }

    pub(crate) fn needs_repair(self) -> bool {
        self.incompat & INCOMPAT_NEEDSREPAIR != 0
    }

    /// What this reader does not know; `None` if it knows everything.
    pub(crate) fn unknown(self) -> Option<String> {
        let version = self.version();
        if !matches!(version, 4 | 5) {
            return Some(format!("version {version}"));
        }
        let mut unknown: Vec<String> = Vec::new();
        let mut bits = |word: &str, bits: u32| {
            if bits != 0 {
                unknown.push(format!("{word} {bits:#x}"));
            }
        };
        bits("versionnum", u32::from(self.versionnum & !VERSION_KNOWN));
        bits("features2", self.features2 & !VERSION2_KNOWN);
        bits("ro_compat", self.ro_compat & !RO_COMPAT_KNOWN);
        bits("incompat", self.incompat & !INCOMPAT_KNOWN);
        bits("log_incompat", self.log_incompat & !LOG_INCOMPAT_KNOWN);
        // What IRIX wrote without them, no Linux of today mounts.
        if version == 4 && self.versionnum & VERSION_DIRV2 == 0 {
            unknown.push("directories of version 1".into());
        }
        if version == 4 && self.versionnum & VERSION_EXTFLG == 0 {
            unknown.push("extents without a flag".into());
        }
        (!unknown.is_empty()).then(|| unknown.join(", "))
    }
}
