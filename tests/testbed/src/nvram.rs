//! The variables in OVMF's store, to compare a store before and after.
//!
//! The store is a firmware volume; behind its header lies a variable store header, then the
//! variables one after the other (edk2, `MdeModulePkg/Include/Guid/VariableFormat.h`,
//! `AUTHENTICATED_VARIABLE_HEADER`). Only test code reads these trusted files: it stops at the
//! first thing that it does not understand.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// `EFI_FIRMWARE_VOLUME_HEADER.HeaderLength`.
const VOLUME_HEADER_LENGTH_AT: usize = 0x30;
/// The length of `VARIABLE_STORE_HEADER`.
const STORE_HEADER_LENGTH: usize = 28;
/// `VARIABLE_DATA`, the start of each variable.
const VARIABLE_MAGIC: u16 = 0x55AA;
/// The length of `AUTHENTICATED_VARIABLE_HEADER`.
const VARIABLE_HEADER_LENGTH: usize = 60;
/// `VAR_ADDED`: valid, not deleted, not being replaced.
const STATE_ADDED: u8 = 0x3F;

/// Name and vendor GUID (`Boot0001-8be4df61-…`) of every valid variable, and its bytes.
///
/// # Errors
/// When the file is not a variable store of OVMF.
pub fn variables(store: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let bytes = fs::read(store).with_context(|| format!("reading {}", store.display()))?;
    parse(&bytes).with_context(|| format!("reading the variables in {}", store.display()))
}

/// The names of variables that differ between two stores, are new or are gone.
pub fn changed(
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let mut names: Vec<String> = before
        .keys()
        .chain(after.keys())
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    if bytes.get(0x28..0x2C) != Some(b"_FVH") {
        bail!("there is no firmware volume");
    }
    let mut at = usize::from(u16_at(bytes, VOLUME_HEADER_LENGTH_AT)?) + STORE_HEADER_LENGTH;
    let mut found = BTreeMap::new();
    while u16_at(bytes, at)? == VARIABLE_MAGIC {
        let state = *bytes.get(at + 0x02).context("the store is cut short")?;
        let name_length = u32_at(bytes, at + 0x24)?;
        let data_length = u32_at(bytes, at + 0x28)?;
        let guid = slice(bytes, at + 0x2C, 16)?;
        let name_at = at + VARIABLE_HEADER_LENGTH;
        let name: Vec<u16> = slice(bytes, name_at, name_length)?
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|&unit| unit != 0)
            .collect();
        let data_at = name_at + name_length;
        if state == STATE_ADDED {
            found.insert(
                format!(
                    "{}-{}",
                    String::from_utf16_lossy(&name),
                    crate::digest::hex(guid)
                ),
                slice(bytes, data_at, data_length)?.to_vec(),
            );
        }
        // HEADER_ALIGNMENT
        at = (data_at + data_length).next_multiple_of(4);
    }
    Ok(found)
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    bytes
        .get(at..at + length)
        .with_context(|| format!("the store ends before byte {}", at + length))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let field = slice(bytes, at, 2)?;
    Ok(u16::from_le_bytes([field[0], field[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    let field = slice(bytes, at, 4)?;
    Ok(usize::try_from(u32::from_le_bytes(field.try_into()?))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Firmware;

    #[test]
    fn microsofts_keys_are_in_the_secure_boot_store_and_nothing_is_in_the_fresh_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        Firmware::SecureBoot.new_variables(file.path()).unwrap();
        let enrolled = variables(file.path()).unwrap();
        for name in ["PK-", "KEK-", "db-"] {
            assert!(
                enrolled.keys().any(|key| key.starts_with(name)),
                "{name} in {:?}",
                enrolled.keys()
            );
        }
        Firmware::Uefi.new_variables(file.path()).unwrap();
        let fresh = variables(file.path()).unwrap();
        assert!(!fresh.keys().any(|key| key.starts_with("PK-")));
        assert!(
            changed(&fresh, &enrolled)
                .iter()
                .any(|key| key.starts_with("PK-"))
        );
        assert!(changed(&fresh, &fresh).is_empty());
    }
}
