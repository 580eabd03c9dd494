//! Arrays and volume groups as Linux's own md and device-mapper wrote them, recorded by
//! `tests/volumes_recorded/record.sh`: each volume was filled with a pattern that names it and the
//! place, and what lies where on the members is what is read here.
//!
//! A member is recorded as runs: a pattern, bytes as they are, parity (the XOR of the other members
//! at the same place, found to be right when it was recorded), and what is neither (Q).

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

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
        let packed: &[u8] = include_bytes!("../../tests/volumes_recorded/images.json.zst");
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

#[test]
fn arrays_of_the_kernel_read_as_it_wrote_them() {
    let mut seen = BTreeSet::new();
    for set in recording().iter().filter(|set| set.kind == "md") {
        if SPECIAL.contains(&set.name.as_str()) {
            continue;
        }
        let disks = Disk::all(&set.members);
        let assembly = assemble("md", &disks, &[])
            .unwrap_or_else(|refusal| panic!("{}: {refusal:?}", set.name));
        check(&**volume(&assembly, ""), &set.volumes[0], &set.name);
        seen.insert(
            assembly.volumes[0]
                .layout
                .split(" of")
                .next()
                .unwrap()
                .to_owned(),
        );
    }
    let levels = [
        "RAID 0", "RAID 1", "RAID 10", "RAID 4", "RAID 5", "RAID 6", "linear",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), levels);
}

#[test]
fn a_missing_member_is_made_up_for_where_it_can_be() {
    for set in recording().iter().filter(|set| set.kind == "md") {
        let redundant = ["raid1_", "raid4", "raid5_", "raid6_", "raid10_"];
        let off = [
            "stale", "building", "rebuild", "replace", "reshape", "ppl", "spare",
        ];
        if !redundant.iter().any(|level| set.name.starts_with(level))
            || off.iter().any(|word| set.name.contains(word))
        {
            if set.name.starts_with("linear") || set.name.starts_with("raid0") {
                let disks = Disk::all(&set.members);
                assert!(assemble("md", &disks, &[1]).is_err(), "{}", set.name);
            }
            continue;
        }
        let disks = Disk::all(&set.members);
        for without in 0..disks.len() {
            // RAID 6 rows whose other parity is missing too are rebuilt by P alone.
            let assembly = assemble("md", &disks, &[without]).unwrap();
            assert!(
                assembly.reason.contains("runs without 1"),
                "{}",
                assembly.reason
            );
            check_every(3, &**volume(&assembly, ""), &set.volumes[0], &set.name);
        }
        if set.members.len() == 2 || set.name.starts_with("raid5") {
            let refused = assemble("md", &disks, &[0, 1]);
            assert!(refused.is_err(), "{}", set.name);
        }
    }
}

#[test]
fn an_array_that_cannot_be_trusted_is_refused_in_words() {
    let refusal = |name: &str, without: &[usize]| {
        let disks = Disk::all(&set(name).members);
        match assemble("md", &disks, without) {
            Ok(_) => panic!("{name} was assembled"),
            Err(refusal) => format!("{refusal:?}"),
        }
    };
    assert!(refusal("raid5_ppl", &[]).contains("partial parity log"));
    assert!(refusal("raid5_reshape", &[]).contains("reshape that has not finished"));
    // Its parity may be old: nothing can be rebuilt from it.
    assert!(refusal("raid5_building", &[0]).contains("give all disks"));
    assert!(refusal("raid0_1.2", &[2]).contains("number 2 is missing"));
    // Only what fell out is left of this slot.
    assert!(refusal("raid5_stale", &[0]).contains("0, 1 are missing"));
}

#[test]
fn a_member_that_fell_out_is_not_read_and_taken_whole() {
    for name in [
        "raid1_stale",
        "raid1_stale_090",
        "raid5_stale",
        "raid10_stale",
    ] {
        let set = set(name);
        let disks = Disk::all(&set.members);
        let assembly = assemble("md", &disks, &[]).unwrap();
        let whole: Vec<bool> = assembly
            .metadata
            .iter()
            .zip(&set.members)
            .map(|(metadata, member)| metadata.total().0 == member.size)
            .collect();
        assert_eq!(whole.iter().filter(|whole| **whole).count(), 1, "{name}");
        assert!(whole[1], "{name}: the second was made faulty");
        if name == "raid5_stale" {
            // Its parity could not be told when it was recorded.
            continue;
        }
        // From 1 MiB on, 2 MiB were written after it had fallen out, with another tag.
        let tag = set.volumes[0].tag.unwrap() + 100;
        let (mut got, mut wanted) = (vec![0; 2 << 20], vec![0; 2 << 20]);
        volume(&assembly, "")
            .read_at(ByteOffset(1 << 20), &mut got)
            .unwrap();
        pattern(tag, 1 << 20, &mut wanted);
        assert!(got == wanted, "{name}: stale data was read");
    }
}

#[test]
fn a_spare_gives_only_its_superblock_and_a_replacement_is_kept() {
    let set_spare = set("raid5_spare");
    let disks = Disk::all(&set_spare.members);
    let assembly = assemble("md", &disks, &[]).unwrap();
    let everything = traced(&**volume(&assembly, ""), 4, 0, set_spare.volumes[0].size);
    assert_eq!(everything.iter().filter(|list| list.is_empty()).count(), 1);
    assert!(assembly.reason.contains("of 1 spare only the superblock"));

    let set_replace = set("raid5_replace");
    let disks = Disk::all(&set_replace.members);
    let assembly = assemble("md", &disks, &[]).unwrap();
    let everything = traced(&**volume(&assembly, ""), 4, 0, set_replace.volumes[0].size);
    assert!(everything.iter().all(|list| !list.is_empty()));
}

#[test]
fn two_paths_to_one_member_are_noticed() {
    let mut members = set("raid1_1.2").members.clone();
    members[1] = members[0].clone();
    let disks = Disk::all(&members);
    let Err(refusal) = assemble("md", &disks, &[]) else {
        panic!("assembled");
    };
    assert!(format!("{refusal:?}").contains("two paths to one disk"));
    let mut members = set("plain").members.clone();
    members.push(members[0].clone());
    let disks = Disk::all(&members);
    let Err(refusal) = assemble("lvm", &disks, &[]) else {
        panic!("assembled");
    };
    assert!(format!("{refusal:?}").contains("two paths to one disk"));
}

#[test]
fn a_broken_superblock_is_damaged() {
    for name in ["raid1_0.90", "raid1_1.0", "raid1_1.1", "raid1_1.2"] {
        let mut members = set(name).members.clone();
        let runs = &mut members[0].runs;
        let magic = [0xFC, 0x4E, 0x2B, 0xA9];
        let superblock = runs.iter_mut().find_map(|run| match &mut run.what {
            What::Bytes(bytes) if bytes.starts_with(&magic) => Some(bytes),
            _ => None,
        });
        superblock.unwrap()[0x48] ^= 1;
        let disks = Disk::all(&members);
        let refusal = md::member(&disks[0]).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Damaged(ref why) if why.contains("checksum")),
            "{name}: {refusal:?}"
        );
    }
}

#[test]
fn logical_volumes_of_the_kernel_read_as_it_wrote_them() {
    let mut checked = BTreeSet::new();
    for set in recording()
        .iter()
        .filter(|set| set.kind == "lvm" && set.name != "wrap")
    {
        let disks = Disk::all(&set.members);
        let assembly = assemble("lvm", &disks, &[])
            .unwrap_or_else(|refusal| panic!("{}: {refusal:?}", set.name));
        for expected in &set.volumes {
            if set.name == "cache" || lacks_parity(&expected.name) {
                continue;
            }
            check(
                &**volume(&assembly, &expected.name),
                expected,
                &expected.name,
            );
            checked.insert(expected.name.clone());
        }
    }
    for name in [
        "plain/b",
        "plain/d",
        "mir/mm",
        "raids/r0",
        "raids/r0m",
        "raids/r1",
        "raids/r10",
        "thin/t1",
        "thin/s1",
        "ext/ex",
        "snap/sn",
        "snap/o",
    ] {
        assert!(checked.contains(name), "{name} was not checked");
    }
}

#[test]
fn what_is_not_understood_is_taken_whole() {
    let disks = Disk::all(&set("cache").members);
    let assembly = assemble("lvm", &disks, &[]).unwrap();
    for name in [
        "big_corig",
        "cp_cpool_cdata",
        "cp_cpool_cmeta",
        "wb_wcorig",
        "wc_cvol",
    ] {
        let name = format!("cache/{name}");
        let made = assembly.volumes.iter().filter(|made| made.name == name);
        let contents: Vec<_> = made
            .map(|made| matches!(made.content, Content::Whole(_)))
            .collect();
        assert_eq!(contents, [true], "{name}");
    }
    let disks = Disk::all(&set("snap").members);
    let assembly = assemble("lvm", &disks, &[]).unwrap();
    let invalid = assembly
        .volumes
        .iter()
        .find(|made| made.name == "snap/sinv")
        .unwrap();
    assert!(matches!(&invalid.content, Content::Whole(why) if why.contains("overflowed")));
}

#[test]
fn thin_volumes_take_only_what_they_map_and_the_pool_the_rest() {
    let disks = Disk::all(&set("thin").members);
    let assembly = assemble("lvm", &disks, &[]).unwrap();
    let total = |name: &str| -> u64 {
        let volume = volume(&assembly, name);
        let lists = traced(&**volume, disks.len(), 0, volume.size().0);
        lists.iter().map(|list| list.total().0).sum()
    };
    // 12 MiB written; of 6 MiB the first 3 given back.
    assert_eq!(total("thin/t1"), 12 << 20);
    assert_eq!(total("thin/t3"), 3 << 20);
    let data = assembly
        .volumes
        .iter()
        .find(|made| made.name == "thin/pool_tdata")
        .unwrap();
    let Content::Exactly(orphans, _) = &data.content else {
        panic!("the pool's data is not taken exactly");
    };
    // The pool's kept older state maps all of it too.
    assert_eq!(orphans.total().0, 16 << 20);
}

#[test]
fn a_missing_physical_volume_is_named() {
    let disks = Disk::all(&set("plain").members);
    let Err(refusal) = assemble("lvm", &disks, &[3]) else {
        panic!("assembled");
    };
    let uuid = lvm::member(&disks[3]).unwrap().uuid();
    let why = format!("{refusal:?}");
    assert!(why.contains("of the 4 physical volumes of plain"), "{why}");
    assert!(why.contains(&uuid), "{why}");
}

#[test]
fn a_text_that_goes_round_the_ring_is_read_and_one_without_metadata_says_so() {
    let disks = Disk::all(&set("wrap").members);
    let first = lvm::member(&disks[0]).unwrap();
    assert_eq!(first.set_name(), "volume group wrap");
    assert_eq!(first.set(), lvm::member(&disks[2]).unwrap().set());
    let Err(refusal) = lvm::member(&disks[1]) else {
        panic!("it has no metadata");
    };
    assert!(format!("{refusal:?}").contains("does not say to which volume group"));
}

/// What is kept of each disk when of every volume what its content says is kept.
fn kept(assembly: &Assembly<'_>, disks: &[Disk]) -> Vec<ExtentList> {
    let mut places = Places::new(disks.len());
    for (index, metadata) in assembly.metadata.iter().enumerate() {
        metadata
            .iter()
            .for_each(|extent| places.push(DiskIndex(index), extent));
    }
    for made in &assembly.volumes {
        let whole = Extent::new(ByteOffset(0), made.volume.size()).unwrap();
        match &made.content {
            Content::Exactly(list, _) => list
                .iter()
                .for_each(|run| made.volume.trace(run, &mut places)),
            Content::Look | Content::Whole(_) => made.volume.trace(whole, &mut places),
        }
    }
    places.finish()
}

#[test]
fn nothing_is_lost_with_all_that_is_not_kept() {
    for set in recording()
        .iter()
        .filter(|set| set.name != "wrap" && set.name != "raid5_ppl" && set.name != "raid5_reshape")
    {
        let mut disks = Disk::all(&set.members);
        let assembly = assemble(&set.kind, &disks, &[]).unwrap();
        let kept = kept(&assembly, &disks);
        let names: Vec<String> = assembly
            .volumes
            .iter()
            .map(|made| made.name.clone())
            .collect();
        drop(assembly);
        let total: u64 = kept.iter().map(|list| list.total().0).sum();
        let size: u64 = set.members.iter().map(|member| member.size).sum();
        if set.kind == "lvm" {
            assert!(
                total < size / 10 * 9,
                "{}: {total} of {size} kept",
                set.name
            );
        }
        for (disk, kept) in disks.iter_mut().zip(kept) {
            disk.kept = Some(kept);
        }
        let assembly = assemble(&set.kind, &disks, &[]).unwrap();
        let again: Vec<String> = assembly
            .volumes
            .iter()
            .map(|made| made.name.clone())
            .collect();
        assert_eq!(again, names);
        if SPECIAL.contains(&set.name.as_str()) || set.name == "cache" {
            continue;
        }
        for expected in set.volumes.iter().filter(|e| !lacks_parity(&e.name)) {
            check(&**volume(&assembly, &expected.name), expected, &set.name);
        }
    }
}

/// Only some runs of an array are kept, with their rows; then a member is lost, and the parity that
/// was kept gives them back.
#[test]
fn the_parity_of_what_is_kept_is_right() {
    let mut noise = 0x2545_F491_4F6C_DD1D_u64;
    let mut below = |bound: u64| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise % bound
    };
    let mut levels = 0;
    for set in recording().iter().filter(|set| set.kind == "md") {
        let off = [
            "stale", "building", "rebuild", "replace", "reshape", "ppl", "spare",
        ];
        let levels_with = ["raid4", "raid5_", "raid6_", "raid10_", "raid1_"];
        if off.iter().any(|word| set.name.contains(word))
            || !levels_with.iter().any(|level| set.name.starts_with(level))
        {
            continue;
        }
        levels += 1;
        let expected = &set.volumes[0];
        let runs: Vec<(u64, u64)> = (0..6)
            .map(|_| {
                let start = below(expected.size);
                (start, (start + 1 + below(300_000)).min(expected.size))
            })
            .collect();
        let mut disks = Disk::all(&set.members);
        let assembly = assemble("md", &disks, &[]).unwrap();
        let mut places = Places::new(disks.len());
        for (index, metadata) in assembly.metadata.iter().enumerate() {
            metadata
                .iter()
                .for_each(|extent| places.push(DiskIndex(index), extent));
        }
        for (start, end) in &runs {
            volume(&assembly, "").trace(Extent::between(*start, *end).unwrap(), &mut places);
        }
        drop(assembly);
        for (disk, kept) in disks.iter_mut().zip(places.finish()) {
            disk.kept = Some(kept);
        }
        for without in 0..disks.len() {
            let assembly = assemble("md", &disks, &[without]).unwrap();
            for (start, end) in &runs {
                let len = (end - start) as usize;
                let (mut got, mut wanted) = (vec![0; len], vec![0; len]);
                volume(&assembly, "")
                    .read_at(ByteOffset(*start), &mut got)
                    .unwrap();
                pattern(expected.tag.unwrap(), *start, &mut wanted);
                assert!(
                    got == wanted,
                    "{} without {without}, {start}..{end}",
                    set.name
                );
            }
        }
    }
    assert!(levels > 20, "only {levels} arrays");
}

/// Whatever single byte of the metadata is wrong: no panic, no endless loop, and never a volume
/// that reads differently without anybody noticing that the metadata is another.
#[test]
fn a_wrong_byte_in_the_metadata_never_moves_data() {
    for name in [
        "plain",
        "thin",
        "raid5_left-symmetric",
        "raid1_0.90",
        "snap",
    ] {
        let set = set(name);
        let places: Vec<(usize, usize, usize)> = set
            .members
            .iter()
            .enumerate()
            .flat_map(|(member, image)| {
                image
                    .runs
                    .iter()
                    .enumerate()
                    .filter_map(move |(index, run)| match &run.what {
                        What::Bytes(bytes) => Some((member, index, bytes.len())),
                        _ => None,
                    })
            })
            .collect();
        let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..24 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let (member, index, len) = places[(noise % places.len() as u64) as usize];
            let mut members = set.members.clone();
            if let What::Bytes(bytes) = &mut members[member].runs[index].what {
                bytes[((noise >> 20) % len as u64) as usize] ^= 1 << (noise >> 60 & 7);
            }
            let disks = Disk::all(&members);
            let Ok(assembly) = assemble(&set.kind, &disks, &[]) else {
                continue;
            };
            for made in &assembly.volumes {
                let size = made.volume.size().0;
                let lists = traced(&*made.volume, disks.len(), 0, size);
                for (list, image) in lists.iter().zip(&members) {
                    assert!(list.iter().all(|extent| extent.end() <= image.size));
                }
                // Snapshots' tables have no checksum.
                let expected = set
                    .volumes
                    .iter()
                    .find(|e| e.name.is_empty() || e.name == made.name);
                if let Some(expected) = expected.filter(|_| name != "snap") {
                    check_every(5, &*made.volume, expected, &made.name);
                }
            }
        }
    }
}
