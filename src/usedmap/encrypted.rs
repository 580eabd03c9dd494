//! Encrypted volumes: without a secret they are copied as they are, with one their plaintext is
//! looked into, in memory only, and what is free in it is not copied. Either way the copy stays
//! encrypted.

use super::finding::{Finding, Refusal};
use super::identify::Signature;
use super::region::{RegionKind, State};
use crate::error::{Kind, Result};
use crate::units::ByteLen;
use crate::volume::SharedVolume;
use crate::volume::crypt::{self, Header, Locked, Secrets, Unlocked};
use std::sync::Arc;

/// What became of an encrypted volume.
pub(super) struct Opened<'a> {
    /// What is found in the volume itself.
    pub finding: Finding,
    /// Its name and its plaintext, where a secret opened it.
    pub plain: Option<(String, SharedVolume<'a>)>,
}

/// Opens an encrypted volume if one of the secrets does.
///
/// # Errors
/// Only when the disk is gone.
pub(super) fn open<'a>(
    volume: &SharedVolume<'a>,
    signature: &Signature,
    secrets: &Secrets,
) -> Result<Opened<'a>> {
    let size = volume.size();
    let closed = |finding: Finding| {
        Ok(Opened {
            finding,
            plain: None,
        })
    };
    let mut finding = Finding {
        kind: RegionKind::Encrypted,
        filesystem: Some(signature.name.into()),
        ..Finding::unknown("")
    };
    let header = match crypt::header(volume) {
        Ok(header) => header,
        Err(refusal) => return closed(finding.refused(refusal, size, None)?),
    };
    finding.filesystem = Some(header.name.into());
    finding.label.clone_from(&header.label);
    finding.uuid.clone_from(&header.uuid);
    match crypt::unlock(Arc::clone(volume), secrets) {
        Ok(Unlocked {
            volume: plain,
            metadata,
            name,
        }) => {
            finding.state = Some(State::Clean);
            let reason = format!(
                "{name}, opened in memory: only what is in use inside is taken, and it stays \
                 encrypted"
            );
            Ok(Opened {
                finding: finding.exactly(metadata, size, reason),
                plain: Some((inner_name(&header), plain)),
            })
        }
        Err(Locked::NoSecret) => closed(locked(finding, &header, size, "")),
        Err(Locked::WrongSecret) => closed(locked(
            finding,
            &header,
            size,
            "none of the secrets that were given opens it; ",
        )),
        Err(Locked::Refusal(Refusal::Unreadable(error))) if error.kind() == Kind::Vanished => {
            Err(error)
        }
        Err(Locked::Refusal(refusal)) => closed(finding.refused(refusal, size, None)?),
    }
}

/// Free space cannot be told from data, and the person learns what that costs.
fn locked(finding: Finding, header: &Header, size: ByteLen, why: &str) -> Finding {
    Finding {
        reason: format!(
            "encrypted ({}): {why}free space cannot be told from data, so all {size} are copied \
             (give {} for a smaller copy, which stays encrypted)",
            header.cipher, header.opened_by
        ),
        ..finding
    }
}

/// How the plaintext is called: by the label, or by the first part of the UUID.
fn inner_name(header: &Header) -> String {
    let short = |uuid: &String| uuid.split('-').next().unwrap_or_default().to_owned();
    let which = header.label.clone().or(header.uuid.as_ref().map(short));
    match which {
        Some(which) => format!("inside {} {which}", header.name),
        None => format!("inside {}", header.name),
    }
}
