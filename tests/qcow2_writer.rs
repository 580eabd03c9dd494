//! What our writer writes, in the eyes of others: `qemu-img check`, `qemu-img compare`, the crate
//! `imago`, and our own reader.

mod qcow2_common;

use haulier::device::ReadAt;
use haulier::qcow2::{
    CLUSTER_BYTES, Compression, Encoded, Encoder, GuestCluster, Reader, Storage, Writer,
};
use haulier::store::FileReader;
use haulier::units::ByteLen;
use qcow2_common::{Content, Random, qemu_img, write_image};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Command;

const ALL: [Compression; 3] = [Compression::Zstd, Compression::Zlib, Compression::None];

#[test]
fn qemu_finds_nothing_wrong_and_the_same_bytes() {
    for compression in ALL {
        for content in [
            Content::mixed(96 << 20, 1),
            // Ends within a cluster, and within a sector of 4 KiB.
            Content::mixed((40 << 20) + 512, 2),
            // One sector in all.
            Content::mixed(512, 3),
            Content::empty(10 << 20),
            // Full L2 tables, and a gap of several.
            Content::sparse(3 << 30),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("disk.qcow2");
            // With qemu-img's check and comparison.
            let finished = write_image(&content, &image, compression);
            assert_eq!(finished.file_bytes.0, image.metadata().unwrap().len());
        }
    }
}

#[test]
fn our_reader_reads_the_same_bytes() {
    for compression in ALL {
        let content = Content::mixed((40 << 20) + 512, 4);
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.qcow2");
        write_image(&content, &image, compression);
        let reader = Reader::open(FileReader::open(&image).unwrap()).unwrap();
        assert_eq!(reader.size(), content.size());
        content.compare(&reader);
    }
}

#[test]
fn plain_clusters_between_compressed_ones_cost_little() {
    for compression in [Compression::Zstd, Compression::Zlib] {
        // Text and noise in turns: the worst case for clusters that must be aligned.
        let content = Content::alternating(64 << 20);
        let mut encoder = Encoder::new(compression).unwrap();
        let (mut least, mut compressed) = (0, 0);
        for (_, bytes) in content.clusters() {
            match encoder.encode(bytes) {
                Encoded::Zero | Encoded::Zeroed => {}
                Encoded::Compressed(stream) => {
                    least += stream.len();
                    compressed += 1;
                }
                Encoded::Plain(bytes) => least += bytes.len(),
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let finished = write_image(&content, file.path(), compression);
        assert_eq!(finished.compressed_clusters, compressed);
        assert_eq!(compressed * 2, finished.data_clusters);
        let most = least as u64 * 105 / 100;
        assert!(
            finished.file_bytes.0 < most,
            "{finished:?}, {least} at the least"
        );
    }
}

#[test]
fn imago_reads_the_same_bytes() {
    use imago::file::File;
    use imago::qcow2::Qcow2;
    use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

    // It knows no zstd.
    for compression in [Compression::Zlib, Compression::None] {
        let content = Content::mixed((30 << 20) + 512, 6);
        let image = tempfile::NamedTempFile::new().unwrap();
        write_image(&content, image.path(), compression);
        let qcow2 = Qcow2::<File>::builder_path(image.path())
            .open(PermissiveImplicitOpenGate::default())
            .unwrap();
        let disk = FormatAccess::new(qcow2);
        assert_eq!(disk.size(), content.size().0);
        let mut bytes = vec![0; content.size().0 as usize];
        disk.read(bytes.as_mut_slice(), 0).unwrap();
        assert!(bytes == content.bytes(), "{compression:?}");
    }
}

/// A file in which clusters of the one filler are holes: tables of large images without their
/// data.
struct WithoutFiller(File);

const FILLER: u8 = 0xaa;

impl Storage for WithoutFiller {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        for (at, cluster) in (offset..)
            .step_by(CLUSTER_BYTES)
            .zip(bytes.chunks(CLUSTER_BYTES))
        {
            if cluster.iter().any(|byte| *byte != FILLER) {
                FileExt::write_all_at(&self.0, cluster, at)?;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn checkpoint(&mut self, _: Vec<u8>) -> io::Result<()> {
        self.sync()
    }
}

#[test]
fn tables_between_the_data_and_many_refcount_blocks_are_right() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let size = 64_u64 << 40;
    let storage = WithoutFiller(file.reopen().unwrap());
    let mut writer = Writer::create(storage, ByteLen(size), Compression::Zstd).unwrap();
    let clusters = size / CLUSTER_BYTES as u64;
    // 5 GiB in one place, then a little in each of 600 places: both kinds of table are written
    // between the data more than once. Then the end of a 64 TiB disk.
    let dense = 0..(5_u64 << 30) / CLUSTER_BYTES as u64;
    let scattered = (1..=600).map(|n| n * 150_000);
    let mut expected = 0;
    for at in dense.chain(scattered).chain([clusters - 1]) {
        let plain = Encoded::Plain(vec![FILLER; CLUSTER_BYTES]);
        writer.append(GuestCluster(at), plain).unwrap();
        expected += 1;
    }
    let finished = writer.finish().unwrap();
    assert_eq!(finished.data_clusters, expected);
    let path = file.path().to_str().unwrap();
    let check = qemu_img(&["check", "-f", "qcow2", path]);
    assert!(check.contains("No errors were found"), "{check}");
    assert!(
        check.contains(&format!("{expected}/{clusters} =")),
        "{check}"
    );
    let reader = Reader::open(FileReader::open(file.path()).unwrap()).unwrap();
    let mapped = reader.mapped().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(mapped.len() as u64, expected);
    assert!(
        mapped
            .windows(2)
            .all(|pair| pair[0].cluster < pair[1].cluster)
    );
}

#[test]
fn qemu_meets_an_error_and_not_other_bytes_where_a_bit_of_a_compressed_cluster_flipped() {
    let dir = tempfile::tempdir().unwrap();
    let [image, raw, out] = ["disk.qcow2", "disk.raw", "out.raw"].map(|name| dir.path().join(name));
    let content = Content::text(4 << 20);
    content.write_raw(&raw);
    let finished = write_image(&content, &image, Compression::Zstd);
    assert_eq!(finished.compressed_clusters, finished.data_clusters);
    let whole = std::fs::read(&image).unwrap();
    // The streams lie from the first cluster on, without gaps.
    let mut random = Random(5);
    let mut errors = 0;
    for _ in 0..12 {
        let bit = (CLUSTER_BYTES as u64 * 8) + random.below(150_000 * 8);
        let mut damaged = whole.clone();
        damaged[bit as usize / 8] ^= 1 << (bit % 8);
        std::fs::write(&image, &damaged).unwrap();
        let convert = Command::new("qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .args([&image, &out])
            .output()
            .unwrap();
        if convert.status.success() {
            assert!(std::fs::read(&out).unwrap() == content.bytes(), "bit {bit}");
        } else {
            errors += 1;
        }
    }
    assert!(errors > 6, "{errors}");
}
