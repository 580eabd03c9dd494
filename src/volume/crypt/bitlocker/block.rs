//! FVE metadata blocks, three copies of 64 KiB each (libbde, "BitLocker Drive Encryption (BDE)
//! format", section 5; the checksum behind them: dislocker, `src/metadata/metadata.c`),
//! little-endian:
//!
//! | at | field |
//! | --- | --- |
//! | 0x00 | `-FVE-FS-` |
//! | 0x08 | size of all that follows here, in units of 16 bytes |
//! | 0x0A | version 2 (1: Vista) |
//! | 0x0C | state; 0x0E: the state that is worked towards. 4: encrypted |
//! | 0x10 | size of the encrypted volume, in bytes |
//! | 0x1C | relocated boot sectors, in sectors |
//! | 0x20 | byte offsets of the three blocks |
//! | 0x38 | byte offset of the relocated boot sectors |
//! | 0x40 | metadata header: size, version, header size (48), size again, 32 bits each |
//! | 0x50 | GUID of the volume |
//! | 0x60 | next nonce: grows with each change |
//! | 0x64 | encryption method, 16 bits |
//! | 0x70 | entries |
//!
//! Behind all of it: size (16 bits), version (16 bits), CRC-32 of all of it.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::boot::{Boot, SIGNATURE};
use super::datum::{self, Datum};
use crate::bytes::{has_magic, read_u16le, read_u32le, read_u64le};
use crate::checksum;
use crate::device::ReadAt;
use crate::error::{Error, Kind};
use crate::refusal::Refusal;
use crate::units::ByteOffset;

/// What a block may take, and is kept free of everything else, in bytes.
pub(super) const BLOCK: u64 = 64 << 10;
/// The metadata header's place.
const DATASET: usize = 0x40;
/// The metadata header's size.
const DATASET_HEADER: usize = 48;
/// The state of a volume that is encrypted as a whole.
const ENCRYPTED: u16 = 4;

/// Where what lies on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Of the encrypted part, from the start of the volume on, in bytes.
    pub encrypted_size: u64,
    /// Where the relocated boot sectors are, in bytes.
    pub header_at: u64,
    /// How long they are, in bytes.
    pub header_len: u64,
    /// Further areas that BitLocker uses, which are not documented: the log of a conversion, and one
    /// behind the boot sectors. Start and length, in bytes.
    pub further: Vec<(u64, u64)>,
    /// The encryption method.
    pub method: u16,
    state: (u16, u16),
    blocks: [u64; 3],
}

/// One block, its checksum proven.
pub(super) struct Block {
    pub layout: Layout,
    /// For people: which computer, which drive, when.
    pub description: Option<String>,
    nonce: u32,
    entries: Vec<u8>,
}

fn damaged(what: impl std::fmt::Display) -> Refusal {
    Refusal::Damaged(format!("its BitLocker metadata: {what}"))
}

impl Block {
    /// The newest of the sound copies. Where two of them disagree about the volume, none is
    /// believed.
    pub(super) fn newest(volume: &dyn ReadAt, boot: &Boot) -> Result<Self, Refusal> {
        let mut newest: Option<Self> = None;
        let mut first_wrong = None;
        for at in boot.blocks {
            match Self::read(volume, at, boot) {
                Ok(block) => match &newest {
                    Some(known) if known.layout != block.layout => {
                        return Err(damaged("its copies contradict each other"));
                    }
                    Some(known) if known.nonce >= block.nonce => {}
                    _ => newest = Some(block),
                },
                // The disk is gone, not damaged.
                Err(Refusal::Unreadable(error)) if error.kind() == Kind::Vanished => {
                    return Err(Refusal::Unreadable(error));
                }
                Err(refusal) => {
                    first_wrong.get_or_insert(refusal);
                }
            }
        }
        newest.ok_or_else(|| first_wrong.unwrap_or_else(|| damaged("there is none")))
    }

    fn read(volume: &dyn ReadAt, at: u64, boot: &Boot) -> Result<Self, Refusal> {
        let mut bytes = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
        volume
            .read_at(ByteOffset(at), &mut bytes)
            .map_err(|error: Error| match error.kind() {
                Kind::Corrupt => damaged("a copy does not lie inside the volume"),
                _ => Refusal::Unreadable(error),
            })?;
        if !has_magic(&bytes, 0, SIGNATURE) {
            return Err(damaged("its signature is gone"));
        }
        match read_u16le(&bytes, 0x0A) {
            2 => {}
            1 => {
                return Err(Refusal::Unsupported(
                    "BitLocker as Windows Vista wrote it, which is not known here".into(),
                ));
            }
            version => {
                return Err(Refusal::Unsupported(format!(
                    "BitLocker metadata of version {version}"
                )));
            }
        }
        let size = usize::from(read_u16le(&bytes, 0x08)).saturating_mul(16);
        let (Some((information, behind)), true) = (bytes.split_at_checked(size), size >= 0x70)
        else {
            return Err(damaged(format_args!("a size of {size} bytes")));
        };
        if behind.len() < 8
            || !checksum::matches(crc32fast::hash(information), read_u32le(behind, 4))
        {
            return Err(damaged("its checksum does not match"));
        }
        let dataset = usize::try_from(read_u32le(information, DATASET)).unwrap_or(usize::MAX);
        let entries = DATASET
            .checked_add(dataset)
            .and_then(|end| information.get(DATASET..end))
            .and_then(|dataset| dataset.get(DATASET_HEADER..))
            .ok_or_else(|| damaged("its entries do not fit it"))?;
        let blocks = [0x20, 0x28, 0x30].map(|at| read_u64le(information, at));
        if blocks != boot.blocks {
            return Err(damaged("its copies are not where the boot sector says"));
        }
        let mut layout = Layout {
            encrypted_size: read_u64le(information, 0x10),
            header_at: read_u64le(information, 0x38),
            header_len: u64::from(read_u32le(information, 0x1C)).saturating_mul(boot.sector_size),
            further: Vec::new(),
            method: read_u16le(information, 0x64),
            state: (read_u16le(information, 0x0C), read_u16le(information, 0x0E)),
            blocks,
        };
        let datums = datum::datums(entries)?;
        layout.check_volume_header(&datums)?;
        Ok(Self {
            layout,
            description: datums
                .iter()
                .find(|datum| datum.kind == datum::DESCRIPTION)
                .and_then(|datum| datum::text(datum.data)),
            nonce: read_u32le(information, 0x60),
            entries: entries.to_vec(),
        })
    }

    /// All entries.
    pub(super) fn datums(&self) -> Result<Vec<Datum<'_>>, Refusal> {
        datum::datums(&self.entries)
    }

    /// Whether all of it is encrypted, and will stay so.
    pub(super) fn check_state(&self) -> Result<(), Refusal> {
        let (now, next) = self.layout.state;
        if (now, next) == (ENCRYPTED, ENCRYPTED) {
            return Ok(());
        }
        Err(Refusal::Unsupported(format!(
            "BitLocker is converting it (state {now}, on the way to {next}), so that parts of it \
             are plain (let that finish for a smaller copy: manage-bde -status shows it)"
        )))
    }
}

impl Layout {
    /// The entry about the boot sectors says the same, and from Windows 8 on more: behind the two
    /// fields at 0x00 the size of what follows at 0x12, the log of a conversion at 0x20 (64 bits)
    /// and 0x28 (32 bits), and another area at 0x4C and 0x54 (64 bits each).
    fn check_volume_header(&mut self, datums: &[Datum<'_>]) -> Result<(), Refusal> {
        let data = datums
            .iter()
            .find(|datum| {
                datum.kind == datum::VOLUME_HEADER && datum.value == datum::OFFSET_AND_SIZE
            })
            .map(|datum| datum.data)
            .ok_or_else(|| damaged("no entry says where its boot sectors are"))?;
        if (read_u64le(data, 0), read_u64le(data, 8)) != (self.header_at, self.header_len) {
            return Err(damaged(
                "its fields contradict each other about the boot sectors",
            ));
        }
        if read_u16le(data, 0x12) >= 0x4C {
            self.further = vec![
                (read_u64le(data, 0x20), u64::from(read_u32le(data, 0x28))),
                (read_u64le(data, 0x4C), read_u64le(data, 0x54)),
            ];
            self.further.retain(|&(_, len)| len > 0);
        }
        Ok(())
    }
}
