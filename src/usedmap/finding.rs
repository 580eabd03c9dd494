//! What is found in one volume (a partition, a logical volume, a whole disk): the identification
//! and, where a reader for the filesystem exists and trusts what it sees, the bytes in use.

use super::identify::{self, Signature};
use super::region::{RegionKind, State};
use super::{apfs, btrfs, exfat, ext, f2fs, fat, hfsplus, jfs, ntfs, reiserfs, swap, xfs};
use crate::device::ReadAt;
use crate::error::{Kind, Result};
use crate::extent::ExtentList;
pub(super) use crate::refusal::Refusal;
use crate::units::ByteLen;

/// The bytes in use, counted from the start of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsedBytes {
    /// How far the statement goes: what lies behind is not part of the filesystem.
    pub covers: ByteLen,
    /// The bytes in use, all inside `covers`.
    pub extents: ExtentList,
}

/// What a reader trusts.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Clean, or dirty where what is missing was found another way (a journal replayed in memory).
    pub state: State,
    /// A clause for people: "clean: the blocks that its bitmaps call used are taken".
    pub reason: String,
    /// The bytes in use.
    pub used: UsedBytes,
}

/// What a reader says of a filesystem. However damaged it is, the names that can be read are told.
#[derive(Debug)]
pub(super) struct Filesystem {
    /// More exact than the signature where that helps: `ext3`, `fat32`. `None`: as the signature.
    pub name: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID or serial number, as blkid writes it.
    pub uuid: Option<String>,
    /// Where it was refused: what the map would roughly have if it had been shut down properly, for
    /// "a full copy: 412 GB instead of 37 GB".
    pub used_if_clean: Option<ByteLen>,
    /// Its map, or why there is none.
    pub verdict: Result<Mapped, Refusal>,
}

impl Filesystem {
    /// Nothing could be read of it.
    pub(super) fn refused(refusal: impl Into<Refusal>) -> Self {
        Self {
            name: None,
            label: None,
            uuid: None,
            used_if_clean: None,
            verdict: Err(refusal.into()),
        }
    }
}

/// Looks into a volume whose signature it is.
type Reader = fn(&dyn ReadAt) -> Filesystem;

/// Who reads which signature (the names are those of `identify`).
const READERS: &[(&str, Reader)] = &[
    (identify::EXT, ext::look),
    (identify::XFS, xfs::look),
    (identify::BTRFS, btrfs::look),
    ("ntfs", ntfs::look),
    ("fat", fat::look),
    ("exfat", exfat::look),
    ("f2fs", f2fs::look),
    ("hfs+", hfsplus::look),
    ("apfs", apfs::look),
    ("reiserfs", reiserfs::look),
    ("jfs", jfs::look),
    (identify::SWAP, swap::look),
];

/// What is in a volume.
#[derive(Debug)]
pub(super) struct Finding {
    pub kind: RegionKind,
    pub filesystem: Option<String>,
    pub label: Option<String>,
    pub uuid: Option<String>,
    pub state: Option<State>,
    pub reason: String,
    /// `None`: everything that is not zero has to be taken.
    pub used: Option<UsedBytes>,
}

impl Finding {
    /// Nothing that is known: everything that is not zero has to be taken.
    pub(super) fn unknown(reason: impl Into<String>) -> Self {
        Self {
            kind: RegionKind::Unknown,
            filesystem: None,
            label: None,
            uuid: None,
            state: None,
            reason: reason.into(),
            used: None,
        }
    }

    /// Of these bytes of a volume of `size` it is certain that they are all.
    pub(super) fn exactly(self, extents: ExtentList, size: ByteLen, reason: String) -> Self {
        Self {
            reason,
            used: Some(UsedBytes {
                covers: size,
                extents,
            }),
            ..self
        }
    }

    fn of(signature: &Signature, reason: impl Into<String>) -> Self {
        Self {
            kind: signature.kind,
            filesystem: Some(signature.name.into()),
            ..Self::unknown(reason)
        }
    }

    /// What a reader said of a volume of `size` bytes.
    pub(super) fn read(
        signature: &Signature,
        filesystem: Filesystem,
        size: ByteLen,
    ) -> Result<Self> {
        let mut finding = Self::of(signature, "");
        if let Some(name) = filesystem.name {
            finding.filesystem = Some(name);
        }
        finding.label = filesystem.label;
        finding.uuid = filesystem.uuid;
        match filesystem.verdict {
            Ok(mapped) => {
                finding.state = Some(mapped.state);
                finding.reason = mapped.reason;
                finding.used = Some(mapped.used);
                Ok(finding)
            }
            Err(refusal) => finding.refused(refusal, size, filesystem.used_if_clean),
        }
    }

    /// The same without used bytes, with the state and the reason that keep them from being known.
    pub(super) fn refused(
        mut self,
        refusal: Refusal,
        size: ByteLen,
        used_if_clean: Option<ByteLen>,
    ) -> Result<Self> {
        let (state, why) = match refusal {
            Refusal::Dirty(why) => (State::Dirty, why),
            Refusal::Damaged(why) => (State::Damaged, format!("damaged: {why}")),
            Refusal::Unsupported(why) => (State::Unsupported, why),
            // A disk that is gone will not be read by the capture either.
            Refusal::Unreadable(error) if error.kind() == Kind::Vanished => return Err(error),
            Refusal::Unreadable(error) => (
                State::Unreadable,
                format!("its map is not readable: {error}"),
            ),
        };
        self.state = Some(state);
        self.reason = format!("{why}; so everything is copied except zeros");
        if let Some(clean) = used_if_clean {
            self.reason = format!("{}: up to {size} instead of about {clean}", self.reason);
        }
        Ok(self)
    }
}

/// What is in a volume with these signatures, as far as it is a filesystem or swap space of its own.
///
/// # Errors
/// Only when the disk is gone. Anything else that cannot be read or understood is a reason to take
/// everything.
pub(super) fn of_signatures(volume: &dyn ReadAt, signatures: &[Signature]) -> Result<Finding> {
    match signatures {
        [] => Ok(Finding::unknown("no known filesystem: copied except zeros")),
        [only] => {
            let reader = READERS
                .iter()
                .find(|(name, _)| *name == only.name)
                .map(|(_, reader)| reader);
            match reader {
                Some(reader) => Finding::read(only, reader(volume), volume.size()),
                None => Ok(of_unknown_inside(only)),
            }
        }
        [first, ..] => {
            let names: Vec<_> = signatures.iter().map(|signature| signature.name).collect();
            Ok(Finding::of(
                first,
                format!(
                    "has the signatures of {}: one of them is stale, so everything is copied \
                     except zeros",
                    names.join(" and ")
                ),
            ))
        }
    }
}

/// What is in a volume with these signatures, without looking into it.
pub(super) fn of_names(signatures: &[Signature]) -> Finding {
    match signatures {
        [] => Finding::unknown(""),
        [only] => Finding::of(only, ""),
        [first, ..] => Finding {
            filesystem: None,
            ..Finding::of(first, "")
        },
    }
}

/// What has a signature, but nobody to look into it.
pub(super) fn of_unknown_inside(signature: &Signature) -> Finding {
    let reason = match signature.kind {
        RegionKind::Swap => "holds a suspended system: copied except zeros".into(),
        RegionKind::VolumeManager => format!(
            "a member of {}, whose free space is not looked for: copied except zeros",
            signature.name
        ),
        RegionKind::Encrypted => {
            "encrypted: free space cannot be told from data, copied except zeros".into()
        }
        _ => format!(
            "the free space of {} is not looked for: copied except zeros",
            signature.name
        ),
    };
    Finding::of(signature, reason)
}
