//! What is found in one volume (a partition, or a whole disk): the identification and, where a
//! reader for the filesystem exists and trusts what it sees, the bytes in use.

use super::identify::{self, Signature};
use super::region::{RegionKind, State};
use super::{ext, swap};
use crate::device::ReadAt;
use crate::error::{Error, Kind, Result};
use crate::extent::ExtentList;
use crate::units::ByteLen;

/// The bytes in use, counted from the start of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsedBytes {
    /// How far the statement goes: what lies behind is not part of the filesystem.
    pub covers: ByteLen,
    /// The bytes in use, all inside `covers`.
    pub extents: ExtentList,
}

/// Why a reader gives no used bytes. Each text is a clause that says what was seen and, where it
/// helps, what the technician can do.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not shut down properly.
    Dirty(String),
    /// Contradicts itself.
    Damaged(String),
    /// A feature that we do not know.
    Unsupported(String),
    /// Could not be read.
    Unreadable(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.kind() {
            Kind::Corrupt => Self::Damaged(error.to_string()),
            Kind::Unsupported => Self::Unsupported(error.to_string()),
            _ => Self::Unreadable(error),
        }
    }
}

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
    fn unknown(reason: impl Into<String>) -> Self {
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

    fn of(signature: &Signature, reason: impl Into<String>) -> Self {
        Self {
            kind: signature.kind,
            filesystem: Some(signature.name.into()),
            ..Self::unknown(reason)
        }
    }

    fn refused(mut self, refusal: Refusal) -> Result<Self> {
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
        Ok(self)
    }
}

/// Looks into a volume.
///
/// # Errors
/// Only when the disk is gone. Anything else that cannot be read or understood is a reason to take
/// everything.
pub(super) fn look(volume: &dyn ReadAt) -> Result<Finding> {
    let signatures = match identify::identify(volume) {
        Ok(signatures) => signatures,
        Err(error) if error.kind() == Kind::Vanished => return Err(error),
        Err(error) => {
            let finding = Finding::unknown("");
            return finding.refused(Refusal::Unreadable(error));
        }
    };
    match signatures.as_slice() {
        [] => Ok(Finding::unknown("no known filesystem: copied except zeros")),
        [only] => look_closer(volume, only),
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

fn look_closer(volume: &dyn ReadAt, signature: &Signature) -> Result<Finding> {
    match signature.kind {
        RegionKind::Filesystem if signature.name == identify::EXT => ext_finding(volume, signature),
        RegionKind::Swap if signature.name == identify::SWAP => {
            let mut finding = Finding::of(
                signature,
                "swap space: only its header is taken, the rest means nothing after a shutdown",
            );
            match swap::used(volume) {
                Ok(swap) => {
                    finding.label = swap.label;
                    finding.uuid = swap.uuid;
                    finding.used = Some(swap.used);
                    Ok(finding)
                }
                Err(refusal) => finding.refused(refusal),
            }
        }
        RegionKind::Swap => Ok(Finding::of(
            signature,
            "holds a suspended system: copied except zeros",
        )),
        RegionKind::VolumeManager => Ok(Finding::of(
            signature,
            format!(
                "a member of {}, whose free space is not looked for: copied except zeros",
                signature.name
            ),
        )),
        RegionKind::Encrypted => Ok(Finding::of(
            signature,
            "encrypted: free space cannot be told from data, copied except zeros",
        )),
        _ => Ok(Finding::of(
            signature,
            format!(
                "the free space of {} is not looked for: copied except zeros",
                signature.name
            ),
        )),
    }
}

fn ext_finding(volume: &dyn ReadAt, signature: &Signature) -> Result<Finding> {
    let mut finding = Finding::of(signature, "");
    let superblock = match ext::Superblock::read(volume) {
        Ok(superblock) => superblock,
        Err(refusal) => return finding.refused(refusal),
    };
    finding.filesystem = Some(superblock.flavour().into());
    finding.label.clone_from(&superblock.label);
    finding.uuid = Some(superblock.uuid.hyphenated().to_string());
    match ext::used(volume, &superblock) {
        Ok(used) => {
            finding.state = Some(State::Clean);
            finding.reason = "clean: the blocks that its bitmaps call used are taken".into();
            finding.used = Some(used);
            Ok(finding)
        }
        Err(refusal) => finding.refused(refusal),
    }
}
