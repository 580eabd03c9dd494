//! Arrays and volume groups as Linux's own md and device-mapper wrote them, recorded by
//! `tests/volumes_recorded/record.py`: each volume was filled with a pattern that names it and the
//! place, and what lies where on the members is what is read here.
//!
//! A member is recorded as runs: a pattern, bytes as they are, parity (the XOR of the other members
//! at the same place, found to be right when it was recorded), and what is neither (Q).

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

mod arrays;
mod groups;
mod kept;

use super::{Assembly, Content, DiskIndex, Places, SharedVolume, Slice, Volume, lvm, md};
use crate::device::ReadAt;
use crate::error::Result;
use crate::extent::{Extent, ExtentList};
use crate::refusal::Refusal;
use crate::units::{ByteLen, ByteOffset};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

#[derive(Deserialize)]
struct Recording {
    sets: Vec<Set>,
}

#[derive(Deserialize)]
pub(super) struct Set {
    name: String,
    kind: String,
    pub(super) members: Vec<Image>,
    pub(super) volumes: Vec<Expected>,
}

#[derive(Deserialize, Clone)]
pub(super) struct Image {
    size: u64,
    runs: Vec<Run>,
}

/// `[start, length, kind, ...]`.
#[derive(Deserialize, Clone)]
#[serde(from = "Vec<serde_json::Value>")]
struct Run {
    start: u64,
    len: u64,
    what: What,
}

#[derive(Clone)]
enum What {
    /// Of which volume, and from which byte of it on.
    Pattern(u64, u64),
    Bytes(Vec<u8>),
    Ones,
    Parity,
    Never,
}

impl From<Vec<serde_json::Value>> for Run {
    fn from(fields: Vec<serde_json::Value>) -> Self {
        let number = |index: usize| fields[index].as_u64().unwrap();
        let what = match fields[2].as_str().unwrap() {
            "p" => What::Pattern(number(3), number(4)),
            "b" => {
                let hex = fields[3].as_str().unwrap().as_bytes();
                let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
                What::Bytes(
                    hex.chunks(2)
                        .map(|d| digit(d[0]) << 4 | digit(d[1]))
                        .collect(),
                )
            }
            "f" => What::Ones,
            "x" => What::Parity,
            _ => What::Never,
        };
        Self {
            start: number(0),
            len: number(1),
            what,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Expected {
    pub(super) name: String,
    pub(super) size: u64,
    /// All of it is the pattern with this tag, or
    pub(super) tag: Option<u64>,
    /// it is this.
    runs: Option<Vec<Run>>,
}

fn recording() -> &'static [Set] {
    static RECORDING: OnceLock<Recording> = OnceLock::new();
    let recording = RECORDING.get_or_init(|| {
        let packed: &[u8] = include_bytes!("../../../tests/volumes_recorded/images.json.zst");
        serde_json::from_slice(&zstd::decode_all(packed).unwrap()).unwrap()
    });
    &recording.sets
}

pub(super) fn set(name: &str) -> &'static Set {
    recording()
        .iter()
        .find(|set| set.name == name)
        .unwrap_or_else(|| panic!("{name} is not recorded"))
}

/// A member as a disk.
pub(super) struct Disk {
    images: Arc<Vec<Image>>,
    index: usize,
    /// Everything else is overwritten.
    kept: Option<ExtentList>,
}

impl Disk {
    pub(super) fn all(images: &[Image]) -> Vec<Self> {
        let images = Arc::new(images.to_vec());
        (0..images.len())
            .map(|index| Self {
                images: images.clone(),
                index,
                kept: None,
            })
            .collect()
    }
}

fn pattern(tag: u64, from: u64, out: &mut [u8]) {
    let (mut at, mut rest) = (from, out);
    while !rest.is_empty() {
        let word = (at / 8 + 1 | tag << 48).to_le_bytes();
        let skip = (at % 8) as usize;
        let len = (8 - skip).min(rest.len());
        rest[..len].copy_from_slice(&word[skip..skip + len]);
        rest = &mut rest[len..];
        at += len as u64;
    }
}

/// Gives the parity from a place on.
type Parity<'a> = &'a dyn Fn(u64, &mut [u8]);

/// Fills `buf` with what the runs say; without `parity` that is data alone.
fn fill(runs: &[Run], offset: u64, buf: &mut [u8], parity: Option<Parity<'_>>) {
    buf.fill(0);
    let end = offset + buf.len() as u64;
    let first = runs.partition_point(|run| run.start + run.len <= offset);
    for run in &runs[first..] {
        if run.start >= end {
            break;
        }
        let (from, to) = (run.start.max(offset), (run.start + run.len).min(end));
        let out = &mut buf[(from - offset) as usize..(to - offset) as usize];
        let inside = from - run.start;
        match &run.what {
            What::Pattern(tag, at) => pattern(*tag, at + inside, out),
            What::Bytes(bytes) => out.copy_from_slice(&bytes[inside as usize..][..out.len()]),
            What::Ones => out.fill(0xFF),
            What::Parity => parity.into_iter().for_each(|parity| parity(from, out)),
            What::Never if parity.is_none() => {}
            What::Never => out.fill(0xEE),
        }
    }
}

impl ReadAt for Disk {
    fn size(&self) -> ByteLen {
        ByteLen(self.images[self.index].size)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let parity = |at: u64, out: &mut [u8]| {
            let mut one = vec![0; out.len()];
            for index in (0..self.images.len()).filter(|index| *index != self.index) {
                fill(&self.images[index].runs, at, &mut one, None);
                out.iter_mut().zip(&one).for_each(|(sum, one)| *sum ^= one);
            }
        };
        let runs = &self.images[self.index].runs;
        let Some(kept) = &self.kept else {
            fill(runs, offset.0, buf, Some(&parity));
            return Ok(());
        };
        buf.fill(0xA5);
        let window = Extent::new(offset, ByteLen(buf.len() as u64));
        for run in window.into_iter().flat_map(|window| kept.within(window)) {
            let at = (run.start().0 - offset.0) as usize;
            let out = &mut buf[at..at + run.len().0 as usize];
            fill(runs, run.start().0, out, Some(&parity));
        }
        Ok(())
    }

    fn name(&self) -> String {
        format!("member {}", self.index)
    }
}

/// Assembles the members that are given.
fn assemble<'a>(kind: &str, disks: &'a [Disk], without: &[usize]) -> Result<Assembly<'a>, Refusal> {
    let given = disks
        .iter()
        .enumerate()
        .filter(|(index, _)| !without.contains(index));
    let volumes = given.map(|(index, disk)| -> SharedVolume<'a> {
        let whole = Extent::new(ByteOffset(0), disk.size()).unwrap();
        Arc::new(Slice::new(disk, DiskIndex(index), whole).unwrap())
    });
    if kind == "md" {
        let members = volumes.map(|volume| Ok((md::member(&*volume)?, volume)));
        md::assemble(members.collect::<Result<_, Refusal>>()?)
    } else {
        let members = volumes.map(|volume| Ok((lvm::member(&*volume)?, volume)));
        lvm::assemble(members.collect::<Result<_, Refusal>>()?)
    }
}

fn volume<'a, 'b>(assembly: &'b Assembly<'a>, name: &str) -> &'b SharedVolume<'a> {
    let made = assembly.volumes.iter();
    let mut made = made.filter(|made| name.is_empty() || made.name == name);
    &made
        .next()
        .unwrap_or_else(|| panic!("{name} was not made"))
        .volume
}

/// Reads all of a volume, in pieces that do not fit its chunks, and compares.
fn check(volume: &dyn Volume, expected: &Expected, what: &str) {
    check_every(1, volume, expected, what);
}

/// Of so many pieces reads one.
fn check_every(nth: usize, volume: &dyn Volume, expected: &Expected, what: &str) {
    assert_eq!(volume.size().0, expected.size, "{what}");
    let step = 200_000;
    let (mut got, mut wanted) = (vec![0; step], vec![0; step]);
    for at in (0..expected.size).step_by(step * nth) {
        let len = step.min((expected.size - at) as usize);
        volume.read_at(ByteOffset(at), &mut got[..len]).unwrap();
        match (&expected.tag, &expected.runs) {
            (Some(tag), _) => pattern(*tag, at, &mut wanted[..len]),
            (None, runs) => {
                let runs = runs.as_deref().unwrap();
                fill(runs, at, &mut wanted[..len], None);
            }
        }
        if got[..len] == wanted[..len] {
            continue;
        }
        let differs = got.iter().zip(&wanted).position(|(a, b)| a != b);
        assert_eq!(differs.map(|inside| at + inside as u64), None, "{what}");
    }
}

/// The bytes on each disk that hold `extent` of a volume.
fn traced(volume: &dyn Volume, disks: usize, start: u64, end: u64) -> Vec<ExtentList> {
    let mut places = Places::new(disks);
    volume.trace(Extent::between(start, end).unwrap(), &mut places);
    places.finish()
}

/// Recordings that are refused, or that hold something else than one pattern.
const SPECIAL: &[&str] = &[
    "raid1_stale",
    "raid1_stale_090",
    "raid5_stale",
    "raid10_stale",
    "raid5_ppl",
    "raid5_reshape",
    // Half a spare among the data: what is parity could not be told when it was recorded.
    "raid5_rebuild",
    "raid5_replace",
];

/// Whether the parity of a logical volume, which reading holds against it, was not recorded.
fn lacks_parity(volume: &str) -> bool {
    ["raids/r4", "raids/r5", "raids/r6"]
        .iter()
        .any(|start| volume.starts_with(start))
}
