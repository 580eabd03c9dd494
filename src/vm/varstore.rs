//! The variable store of OVMF (`VARS.fd`), 4 MiB build: a firmware volume that holds an
//! authenticated variable store, an event log, and the fault tolerant write's working block and
//! spare area.
//!
//! Layout: UEFI PI 1.8 volume 3, 3.2.1 (firmware volume header); edk2
//! `MdeModulePkg/Include/Guid/VariableFormat.h` (store and variable headers) and
//! `SystemNvDataGuid.h` (working block); sizes from `OvmfPkg/Include/Fdf/VarStore.fdf.inc`.
//! An empty store is byte for byte the template that distributions ship.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use crate::error::{Error, Kind, Result};
use crate::inventory::EfiVariable;
use uuid::Uuid;

/// The whole file.
const FILE_BYTES: usize = 0x8_4000;
/// Its block size.
const BLOCK_BYTES: u32 = 0x1000;
/// `EFI_FIRMWARE_VOLUME_HEADER` with a block map of one run.
const VOLUME_HEADER_BYTES: usize = 0x48;
/// From the file's start to the end of the variables.
const VARIABLES_END: usize = 0x4_0000;
/// `VARIABLE_STORE_HEADER`
const STORE_HEADER_BYTES: usize = 0x1c;
/// Where the fault tolerant write's working block begins.
const WORKING_BLOCK: usize = 0x4_1000;
/// `gEfiSystemNvDataFvGuid`
const SYSTEM_NV_DATA: Uuid = Uuid::from_u128(0xfff12b8d_7696_4c8b_a985_2747075b4f50);
/// `gEfiAuthenticatedVariableGuid`
const AUTHENTICATED_VARIABLE: Uuid = Uuid::from_u128(0xaaf32c78_947b_439a_a180_2e144ec37792);
/// `gEdkiiWorkingBlockSignatureGuid`
const WORKING_BLOCK_SIGNATURE: Uuid = Uuid::from_u128(0x9e58292b_7c68_497d_a0ce_6500fd9f1b95);
/// `EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS`
const TIME_BASED_AUTH: u32 = 0x20;
/// The largest variable of OVMF's 4 MiB build with its header, authenticated or not
/// (`PcdMaxAuthVariableSize` and `PcdMaxVariableSize` of `OvmfPkg/OvmfPkgX64.dsc`). The store's format
/// counts in 32 bits and would hold longer ones, but they make the firmware take the whole store as damaged.
const LARGEST_VARIABLE: usize = 0x8400;
/// `AUTHENTICATED_VARIABLE_HEADER`. It counts: edk2's `VariableServiceSetVariable`
/// (`MdeModulePkg/Universal/Variable/RuntimeDxe/Variable.c`) takes it off the limit.
const HEADER_BYTES: usize = 60;

/// Whether the VM's firmware takes a variable of this size.
pub(super) fn takes(variable: &EfiVariable) -> bool {
    // UTF-16 with its end.
    let name = variable.name.encode_utf16().count().saturating_add(1);
    let bytes = name.saturating_mul(2).saturating_add(variable.data.len());
    bytes <= LARGEST_VARIABLE.saturating_sub(HEADER_BYTES)
}

/// A store with these variables and nothing else.
///
/// # Errors
/// When they do not fit, or one has a GUID that is none.
pub fn build(variables: &[EfiVariable]) -> Result<Vec<u8>> {
    let mut file = volume_header();
    file.extend_from_slice(&store_header());
    for variable in variables {
        let record = record(variable)?;
        if file.len().saturating_add(record.len()) > VARIABLES_END {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the UEFI variables do not fit the VM's store ({})",
                    variable.name
                ),
            ));
        }
        file.extend_from_slice(&record);
        // Headers are aligned to 4 bytes; flash that was never written is FFh.
        file.resize(file.len().next_multiple_of(4), 0xff);
    }
    file.resize(WORKING_BLOCK, 0xff);
    file.extend_from_slice(&working_block());
    file.resize(FILE_BYTES, 0xff);
    Ok(file)
}

/// `EFI_FIRMWARE_VOLUME_HEADER`
fn volume_header() -> Vec<u8> {
    let blocks = u32::try_from(FILE_BYTES)
        .unwrap_or(0)
        .checked_div(BLOCK_BYTES)
        .unwrap_or(0);
    let header = |checksum: u16| {
        let mut header = vec![0_u8; 16]; // ZeroVector
        header.extend(SYSTEM_NV_DATA.to_bytes_le()); // FileSystemGuid
        header.extend(u64::try_from(FILE_BYTES).unwrap_or(0).to_le_bytes()); // FvLength
        header.extend(b"_FVH"); // Signature
        // Attributes: readable, writable, lockable, sticky, erased to ones, aligned to 16.
        header.extend(0x0004_feff_u32.to_le_bytes());
        header.extend(
            u16::try_from(VOLUME_HEADER_BYTES)
                .unwrap_or(0)
                .to_le_bytes(),
        );
        header.extend(checksum.to_le_bytes());
        header.extend([0, 0, 0, 2]); // ExtHeaderOffset, Reserved, Revision
        header.extend(blocks.to_le_bytes()); // BlockMap
        header.extend(BLOCK_BYTES.to_le_bytes());
        header.extend([0; 8]);
        header
    };
    // All 16-bit words of the header add up to 0.
    let sum = header(0)
        .chunks_exact(2)
        .filter_map(|pair| pair.first_chunk())
        .fold(0_u16, |sum, pair| {
            sum.wrapping_add(u16::from_le_bytes(*pair))
        });
    header(sum.wrapping_neg())
}

/// `VARIABLE_STORE_HEADER`: signature, size, `VARIABLE_STORE_FORMATTED`, `VARIABLE_STORE_HEALTHY`.
fn store_header() -> Vec<u8> {
    let size = VARIABLES_END.saturating_sub(VOLUME_HEADER_BYTES);
    let mut header = AUTHENTICATED_VARIABLE.to_bytes_le().to_vec();
    header.extend(u32::try_from(size).unwrap_or(0).to_le_bytes());
    header.extend([0x5a, 0xfe]);
    header.resize(STORE_HEADER_BYTES, 0);
    header
}

/// `EFI_FAULT_TOLERANT_WORKING_BLOCK_HEADER`: the signature, its CRC over a header whose flags
/// are still erased, a valid flag, and the size of the write queue.
fn working_block() -> Vec<u8> {
    const HEADER_BYTES: u64 = 0x20;
    let queue = u64::from(BLOCK_BYTES).saturating_sub(HEADER_BYTES);
    let header = |crc: u32, flags: u8| {
        let mut header = WORKING_BLOCK_SIGNATURE.to_bytes_le().to_vec();
        header.extend(crc.to_le_bytes());
        header.extend([flags, 0xff, 0xff, 0xff]);
        header.extend(queue.to_le_bytes());
        header
    };
    let crc = crc32fast::hash(&header(u32::MAX, 0xff));
    header(crc, 0xfe)
}

/// `AUTHENTICATED_VARIABLE_HEADER`, the name and the data.
fn record(variable: &EfiVariable) -> Result<Vec<u8>> {
    let broken = |what: &str| {
        Error::corrupt(format!(
            "the recorded UEFI variable {:?} {what}",
            variable.name
        ))
    };
    let guid = Uuid::parse_str(&variable.guid).map_err(|e| broken("has no GUID").because(e))?;
    let mut name: Vec<u8> = variable
        .name
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    name.extend([0, 0]);
    if !takes(variable) {
        return Err(broken("is larger than the VM's firmware takes"));
    }
    let length = |bytes: usize| u32::try_from(bytes).map_err(|_| broken("is too large"));
    let mut record = vec![0xaa, 0x55]; // StartId
    record.push(0x3f); // State: VAR_ADDED
    record.push(0); // Reserved
    record.extend(variable.attributes.to_le_bytes());
    record.extend([0; 8]); // MonotonicCount
    record.extend(timestamp(variable.attributes)); // TimeStamp
    record.extend([0; 4]); // PubKeyIndex
    record.extend(length(name.len())?.to_le_bytes());
    record.extend(length(variable.data.len())?.to_le_bytes());
    record.extend(guid.to_bytes_le());
    record.extend(name);
    record.extend(&variable.data);
    Ok(record)
}

/// `EFI_TIME` of a key list: any update must be newer. Early enough for the vendors' own updates,
/// and not zero, which is no date.
fn timestamp(attributes: u32) -> [u8; 16] {
    let mut time = [0_u8; 16];
    if attributes & TIME_BASED_AUTH != 0 {
        let [low, high] = 2010_u16.to_le_bytes();
        // Year, month, day.
        time = [low, high, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, bytes: usize) -> EfiVariable {
        EfiVariable {
            name: name.into(),
            guid: crate::inventory::GLOBAL.into(),
            attributes: 7,
            data: vec![1; bytes],
        }
    }

    #[test]
    fn an_empty_store_is_the_distributions_template() {
        let template = std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd")
            .expect("/usr/share/OVMF/OVMF_VARS_4M.fd: install the package ovmf");
        assert!(build(&[]).unwrap() == template, "the two files differ");
    }

    #[test]
    fn a_variable_that_does_not_fit_is_an_error() {
        assert!(build(&[variable("dbx", LARGEST_VARIABLE)]).is_err());
        let many: Vec<_> = (0..9).map(|_| variable("db", 0x8000)).collect();
        assert_eq!(build(&many).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn a_guid_that_is_none_is_an_error() {
        let mut broken = variable("Boot0000", 1);
        broken.guid = "global".into();
        assert_eq!(build(&[broken]).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_store_takes_a_variable_of_the_largest_size() {
        // The name is four characters with its end.
        let largest = LARGEST_VARIABLE - HEADER_BYTES - 8;
        assert!(build(&[variable("dbx", largest)]).is_ok());
        assert!(build(&[variable("dbx", largest + 1)]).is_err());
    }
}
