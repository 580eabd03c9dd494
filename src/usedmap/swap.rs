//! Swap space (`union swap_header` in `include/linux/swap.h`): its first page names it and lists its
//! bad pages; the rest means nothing once the machine is off, unless a suspended system is in it,
//! which has another signature (see `identify`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::finding::{Filesystem, Mapped, Refusal, UsedBytes};
use super::identify::{SWAP_PAGE_SIZES, swap_magic_at};
use super::region::State;
use crate::bytes::{has_magic, read_array, read_text, read_u32le};
use crate::device::ReadAt;
use crate::extent::{Extent, ExtentList};
use crate::units::{ByteLen, ByteOffset};
use uuid::Uuid;

/// Reads what a volume with the signature of swap space holds.
pub(super) fn look(volume: &dyn ReadAt) -> Filesystem {
    match used(volume) {
        Ok(swap) => Filesystem {
            name: None,
            label: swap.label,
            uuid: swap.uuid,
            used_if_clean: None,
            verdict: Ok(Mapped {
                state: State::Clean,
                reason: "swap space: only its header is taken, the rest means nothing after a \
                         shutdown"
                    .into(),
                used: swap.used,
            }),
        },
        Err(refusal) => Filesystem::refused(refusal),
    }
}

/// Swap space that a system can use after the capture.
struct Swap {
    label: Option<String>,
    uuid: Option<String>,
    used: UsedBytes,
}

/// The header page, and how far the swap space goes.
fn used(volume: &dyn ReadAt) -> Result<Swap, Refusal> {
    let mut header = [0; 2048];
    volume.read_at(ByteOffset(0), &mut header)?;
    let version = read_u32le(&header, 0x400);
    let last_page = u64::from(read_u32le(&header, 0x404));
    if version != 1 {
        return Err(Refusal::Unsupported(format!(
            "swap space of version {version}"
        )));
    }
    for page_size in SWAP_PAGE_SIZES {
        let Some(at) = swap_magic_at(page_size).filter(|at| at.0 < volume.size().0) else {
            continue;
        };
        let mut magic = [0; 10];
        volume.read_at(at, &mut magic)?;
        if !has_magic(&magic, 0, b"SWAPSPACE2") {
            continue;
        }
        let covers = last_page
            .checked_add(1)
            .and_then(|pages| pages.checked_mul(page_size))
            .filter(|&bytes| bytes <= volume.size().0)
            .ok_or_else(|| {
                Refusal::Damaged(format!(
                    "swap space of {last_page} pages does not fit its partition"
                ))
            })?;
        let uuid = Uuid::from_bytes(read_array(&header, 0x40C));
        let header_page = Extent::between(0, page_size.min(covers));
        return Ok(Swap {
            label: read_text(&header, 0x41C, 16),
            uuid: (!uuid.is_nil()).then(|| uuid.hyphenated().to_string()),
            used: UsedBytes {
                covers: ByteLen(covers),
                extents: header_page.into_iter().collect::<ExtentList>(),
            },
        });
    }
    Err(Refusal::Damaged("its signature is gone".into()))
}
