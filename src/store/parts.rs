//! Captures that lie in several parts, each on a medium of its own. In: the manifests of the parts
//! that are at hand. Out: what is missing of the whole, and each disk as all parts together hold it.
//!
//! A part is a capture of its own whose images hold a range of bytes of each disk: all else of the
//! disk is in the other parts. The ranges of all parts cover every disk once, in the order of the
//! parts.

use super::digest::Digest;
use super::manifest::{DiskRecord, Manifest};
use crate::device::DiskIdentity;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// What makes a capture a part of a larger one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Random; the same in all parts of a capture.
    pub set: String,
    /// From 1 on.
    pub number: u32,
    /// Whether no other part follows.
    pub last: bool,
    /// All disks of the capture, in the order of their numbers.
    pub disks: Vec<PartDisk>,
    /// The parts before this one, in their order.
    pub earlier: Vec<EarlierPart>,
}

/// A disk of a capture in several parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartDisk {
    /// The name of its images, in every part.
    pub file: String,
    /// The disk.
    pub source: DiskIdentity,
    /// BLAKE3 of its used map.
    pub used: Digest,
}

/// What a part says of one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierPart {
    /// Its number.
    pub number: u32,
    /// How people knew the medium that it was written to.
    pub medium: String,
    /// `machine/capture`.
    pub capture: String,
    /// Of its manifest.
    pub manifest_sha256: Digest,
    /// What it holds.
    pub ranges: Vec<Held>,
}

/// Which bytes of a disk a part holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The name of the disk's image.
    pub file: String,
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one.
    pub end: u64,
}

/// A part that is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub name: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// The digest of that.
    pub manifest_sha256: Digest,
    part: Part,
}

impl Member {
    /// `None` of a capture that is whole by itself. `json` is the manifest as it is stored.
    pub fn new(name: String, manifest: &Manifest, json: &[u8]) -> Option<Self> {
        let part = manifest.part.clone()?;
        Some(Self {
            name,
            manifest: manifest.clone(),
            manifest_sha256: Digest(sha2::Sha256::digest(json).into()),
            part,
        })
    }

    /// Its place among the others.
    pub fn part(&self) -> &Part {
        &self.part
    }

    fn held(&self) -> Vec<Held> {
        held(&self.manifest)
    }
}

/// What a part holds, by its manifest.
pub fn held(manifest: &Manifest) -> Vec<Held> {
    let of = |disk: &DiskRecord| {
        let (start, end) = disk.range.unwrap_or((0, disk.virtual_size_bytes));
        Held {
            file: disk.file.clone(),
            start,
            end,
        }
    };
    manifest.disks.iter().map(of).collect()
}

/// Puts the parts of one set into their order, each once.
pub fn in_order(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by(|a, b| (a.part.number, &a.name).cmp(&(b.part.number, &b.name)));
    members
        .dedup_by(|a, b| (a.part.number, a.manifest_sha256) == (b.part.number, b.manifest_sha256));
    members
}

/// What keeps the parts of one set, in their order, from being the whole capture: a sentence each.
pub fn problems(members: &[Member]) -> Vec<String> {
    let Some(newest) = members.last() else {
        return vec!["there are no parts".into()];
    };
    let mut found = contradictions(members);
    let has = |number: u32| members.iter().any(|member| member.part.number == number);
    let all = match newest.part.last {
        true => format!(" of {}", newest.part.number),
        false => String::new(),
    };
    for earlier in &newest.part.earlier {
        if !has(earlier.number) {
            found.push(format!(
                "part {}{all} (holds {}) is missing: it was written to {} as {}",
                earlier.number,
                described(&earlier.ranges, &newest.part.disks),
                earlier.medium,
                earlier.capture
            ));
        }
    }
    if !newest.part.last {
        found.push(format!(
            "what follows part {} is missing: {}",
            newest.part.number,
            described(&rest(newest), &newest.part.disks)
        ));
    }
    if found.is_empty() {
        found.extend(gaps(members));
    }
    found
}

/// Parts that cannot be of one capture.
fn contradictions(members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    for (member, next) in members.iter().zip(members.iter().skip(1)) {
        if member.part.number == next.part.number {
            found.push(format!(
                "{} and {} both say that they are part {}",
                member.name, next.name, next.part.number
            ));
        }
        if member.part.disks != next.part.disks || member.part.last {
            found.push(format!(
                "{} and {} say different things of the same capture",
                member.name, next.name
            ));
        }
    }
    for member in members {
        for earlier in &member.part.earlier {
            let mut there = members.iter();
            let there = there.find(|there| there.part.number == earlier.number);
            if let Some(there) = there
                && there.manifest_sha256 != earlier.manifest_sha256
            {
                found.push(format!(
                    "{} is not the part {} that was written before {}: the digest of its manifest \
                     is another",
                    there.name, earlier.number, member.name
                ));
            }
        }
        for disk in &member.manifest.disks {
            let (start, end) = disk.range.unwrap_or((0, disk.virtual_size_bytes));
            let chunk = disk.chunk_bytes.max(1);
            let first = disk
                .chunks
                .iter()
                .next()
                .map_or(u64::MAX, |(first, _)| first);
            if first < start / chunk || disk.chunks.end() > end.div_ceil(chunk) {
                found.push(format!(
                    "{}: {} has chunks outside of the bytes {start} to {end} that it should hold",
                    member.name, disk.file
                ));
            }
        }
    }
    found
}

/// Where the ranges of all parts do not cover the disks once and in order.
fn gaps(members: &[Member]) -> Vec<String> {
    let Some(first) = members.first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for disk in &first.part.disks {
        let mut at = 0;
        for held in members.iter().flat_map(Member::held) {
            if held.file != disk.file {
                continue;
            }
            if held.start != at || held.end < at {
                found.push(format!(
                    "{} is held up to byte {at} and then from byte {} on",
                    disk.file, held.start
                ));
            }
            at = held.end;
        }
        if at != disk.source.size_bytes {
            found.push(format!(
                "{} is held up to byte {at} of {}",
                disk.file, disk.source.size_bytes
            ));
        }
    }
    found
}

/// What the parts behind this one hold.
fn rest(newest: &Member) -> Vec<Held> {
    let earlier = newest
        .part
        .earlier
        .iter()
        .flat_map(|part| part.ranges.clone());
    let all: Vec<Held> = earlier.chain(newest.held()).collect();
    let rest_of = |disk: &PartDisk| {
        let ends = all.iter().filter(|held| held.file == disk.file);
        let start = ends.map(|held| held.end).max().unwrap_or(0);
        (start < disk.source.size_bytes).then(|| Held {
            file: disk.file.clone(),
            start,
            end: disk.source.size_bytes,
        })
    };
    newest.part.disks.iter().filter_map(rest_of).collect()
}

fn described(ranges: &[Held], disks: &[PartDisk]) -> String {
    let words = |held: &Held| {
        let disk = disks.iter().find(|disk| disk.file == held.file);
        let disk = disk.map_or_else(|| held.file.clone(), |disk| disk.source.describe());
        format!("bytes {} to {} of {disk}", held.start, held.end)
    };
    ranges.iter().map(words).collect::<Vec<_>>().join(", ")
}
