//! Disk contents and the tools that judge images of them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test binaries that use parts of it"
)]

use haulier::device::ReadAt;
use haulier::qcow2::{CLUSTER_BYTES, Compression, Encoder, Finished, GuestCluster, Writer};
use haulier::units::{ByteLen, ByteOffset};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// What a disk holds: its size and the clusters that are not zero.
pub struct Content {
    size: u64,
    clusters: BTreeMap<u64, Vec<u8>>,
}

/// xorshift64*: the same bytes on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn noise(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }

    fn text(&mut self, bytes: &mut [u8]) {
        const WORDS: [&str; 8] = [
            "kernel: ", "sshd[", "session ", "opened ", "for ", "user ", "root ", "\n",
        ];
        let mut line = Vec::with_capacity(bytes.len() + 16);
        while line.len() < bytes.len() {
            line.extend_from_slice(WORDS[self.below(8) as usize].as_bytes());
            line.extend_from_slice(self.below(1000).to_string().as_bytes());
        }
        bytes.copy_from_slice(&line[..bytes.len()]);
    }
}

impl Content {
    pub fn empty(size: u64) -> Self {
        Self {
            size,
            clusters: BTreeMap::new(),
        }
    }

    /// Runs of text, noise and nothing, from one cluster to many, in every order.
    pub fn mixed(size: u64, seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut content = Self::empty(size);
        let count = size.div_ceil(CLUSTER_BYTES as u64);
        let mut cluster = 0;
        while cluster < count {
            let longest = if random.below(4) == 0 { 40 } else { 3 };
            let run = 1 + random.below(longest);
            let kind = random.below(5);
            for at in cluster..(cluster + run).min(count) {
                match kind {
                    0 | 1 => content.set(at, |bytes| random.text(bytes)),
                    2 | 3 => content.set(at, |bytes| random.noise(bytes)),
                    _ => {}
                }
            }
            cluster += run;
        }
        content.set(count - 1, |bytes| random.text(bytes));
        content
    }

    /// Text alone.
    pub fn text(size: u64) -> Self {
        let mut random = Random(55);
        let mut content = Self::empty(size);
        for at in 0..size.div_ceil(CLUSTER_BYTES as u64) {
            content.set(at, |bytes| random.text(bytes));
        }
        content
    }

    /// Text and noise in turns.
    pub fn alternating(size: u64) -> Self {
        let mut random = Random(99);
        let mut content = Self::empty(size);
        for at in 0..size.div_ceil(CLUSTER_BYTES as u64) {
            match at % 2 {
                0 => content.set(at, |bytes| random.text(bytes)),
                _ => content.set(at, |bytes| random.noise(bytes)),
            }
        }
        content
    }

    /// Data in the first, a middle and the last cluster of a large disk.
    pub fn sparse(size: u64) -> Self {
        let mut random = Random(77);
        let mut content = Self::empty(size);
        let count = size.div_ceil(CLUSTER_BYTES as u64);
        for at in [0, 1, 8191, 8192, count / 2, count - 1] {
            content.set(at, |bytes| random.text(bytes));
        }
        content
    }

    fn set(&mut self, cluster: u64, fill: impl FnOnce(&mut [u8])) {
        let start = cluster * CLUSTER_BYTES as u64;
        let mut bytes = vec![0; (self.size - start).min(CLUSTER_BYTES as u64) as usize];
        fill(&mut bytes);
        self.clusters.insert(cluster, bytes);
    }

    pub fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    /// The clusters that are not zero, in order.
    pub fn clusters(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.clusters
            .iter()
            .map(|(at, bytes)| (*at, bytes.as_slice()))
    }

    /// The whole, for small ones.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.size as usize];
        for (at, bytes) in &self.clusters {
            let start = *at as usize * CLUSTER_BYTES;
            all[start..start + bytes.len()].copy_from_slice(bytes);
        }
        all
    }

    pub fn write_raw(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (at, bytes) in &self.clusters {
            file.write_all_at(bytes, at * CLUSTER_BYTES as u64).unwrap();
        }
    }

    /// Panics unless `disk` holds exactly this, read in pieces that respect no cluster border.
    pub fn compare(&self, disk: &dyn ReadAt) {
        let expected = self.bytes();
        assert_eq!(disk.size(), self.size());
        let mut at = 0;
        let mut piece = 1;
        while at < expected.len() {
            let length = piece.min(expected.len() - at);
            let mut bytes = vec![0; length];
            disk.read_at(ByteOffset(at as u64), &mut bytes).unwrap();
            assert!(
                bytes == expected[at..at + length],
                "{length} bytes at {at} differ"
            );
            at += length;
            piece = (piece * 3 + 7) % 3_000_001;
        }
    }
}

/// Writes an image of `content`, which QEMU calls clean and the same.
pub fn write_image(content: &Content, path: &Path, compression: Compression) -> Finished {
    let file = File::create(path).unwrap();
    let mut writer = Writer::create(file, content.size(), compression).unwrap();
    let mut encoder = Encoder::new(compression).unwrap();
    for (at, bytes) in content.clusters() {
        writer
            .append(GuestCluster(at), encoder.encode(bytes))
            .unwrap();
    }
    let finished = writer.finish().unwrap();
    let image = path.to_str().unwrap();
    qemu_img(&["check", "-q", "-f", "qcow2", image]);
    // Filesystems have no files as large as the largest disks.
    if content.size <= 1 << 40 {
        let raw = tempfile::NamedTempFile::new().unwrap();
        content.write_raw(raw.path());
        let raw = raw.path().to_str().unwrap();
        qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", image, raw]);
    }
    finished
}

/// Runs qemu-img; panics with its words when it is missing or says no.
pub fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img")
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("qemu-img (package qemu-utils) is needed for this test: {e}"));
    assert!(
        output.status.success(),
        "qemu-img {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
