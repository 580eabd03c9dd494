//! Captures to verify, made by the same parts that make real ones.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test binaries that use parts of it"
)]

use crate::qcow2_common::{Content, write_image};
use haulier::device::DiskIdentity;
use haulier::extent::{Extent, ExtentList};
use haulier::qcow2::{CLUSTER_BYTES, Compression};
use haulier::report::Quiet;
use haulier::store::{
    CHUNK_BYTES, CaptureDir, ChunkList, DiskRecord, Manifest, chunk_digest, manifest, seal,
};
use haulier::units::{ByteLen, ByteOffset, SectorSize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const STARTED: &str = "2026-11-22T10:15:00Z";

pub fn identity(size_bytes: u64) -> DiskIdentity {
    DiskIdentity {
        path: "/dev/sda".into(),
        model: Some("SAMSUNG MZ7LH480".into()),
        serial: Some("S45NNA0M123456".into()),
        wwn: None,
        size_bytes,
        logical_sector_bytes: SectorSize::B512,
        physical_sector_bytes: SectorSize::B4096,
    }
}

/// The record of an image in `dir`, not sealed.
pub fn image(dir: &Path, file: &str, content: &Content, compression: Compression) -> DiskRecord {
    let finished = write_image(content, &dir.join(file), compression);
    let mut chunks: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut extents = ExtentList::new();
    for (at, bytes) in content.clusters() {
        let start = at * CLUSTER_BYTES as u64;
        let index = start / CHUNK_BYTES;
        let within = (start % CHUNK_BYTES) as usize;
        let chunk_bytes = CHUNK_BYTES.min(content.size().0 - index * CHUNK_BYTES) as usize;
        let chunk = chunks.entry(index).or_insert_with(|| vec![0; chunk_bytes]);
        chunk[within..within + bytes.len()].copy_from_slice(bytes);
        extents.insert(Extent::new(ByteOffset(start), ByteLen(bytes.len() as u64)).unwrap());
    }
    let mut digests = ChunkList::default();
    for (index, chunk) in &chunks {
        if let Some(digest) = chunk_digest(chunk) {
            digests.push(*index, digest).unwrap();
        }
    }
    DiskRecord {
        file: file.into(),
        file_bytes: finished.file_bytes.0,
        sha256: None,
        blake3: None,
        virtual_size_bytes: content.size().0,
        source: identity(content.size().0),
        compression,
        chunk_bytes: CHUNK_BYTES,
        chunks: digests,
        extents,
        bad_ranges: ExtentList::new(),
        regions: Vec::new(),
        since: None,
        range: None,
    }
}

/// A whole capture of these disks in `store`.
pub fn capture(store: &Path, machine: &str, disks: &[(Content, Compression)]) -> PathBuf {
    let started = STARTED.parse().unwrap();
    let dir = CaptureDir::begin(store, machine, started).unwrap();
    dir.write("machine.json", br#"{"version":1,"product":"R640"}"#)
        .unwrap();
    dir.write("domain.xml", b"<domain type='kvm'/>\n").unwrap();
    dir.write("capture.log", b"captured\n").unwrap();
    let disks = disks
        .iter()
        .enumerate()
        .map(|(number, (content, compression))| {
            let mut record = image(
                dir.path(),
                &haulier::store::layout::disk_file(number),
                content,
                *compression,
            );
            record.sha256 = Some(seal(dir.path(), &record, true, &Quiet).unwrap());
            record
        });
    let manifest = Manifest {
        version: manifest::VERSION,
        tool_version: "0.1.0".into(),
        machine: dir.machine().into(),
        started,
        finished: started,
        disks: disks.collect(),
        part: None,
        files: Vec::new(),
    };
    dir.commit(manifest).unwrap()
}
