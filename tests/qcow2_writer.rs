//! What our writer writes, in the eyes of others: `qemu-img check`, `qemu-img compare`, the crate
//! `imago`, and our own reader.

mod qcow2_common;

use haulier::device::ReadAt;
use haulier::qcow2::{Compression, Encoded, Encoder, Reader};
use haulier::store::FileReader;
use qcow2_common::{Content, qemu_img, write_image};

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
            let raw = dir.path().join("disk.raw");
            content.write_raw(&raw);
            let finished = write_image(&content, &image, compression);
            assert_eq!(finished.file_bytes.0, image.metadata().unwrap().len());
            qemu_img(&["check", "-q", "-f", "qcow2", image.to_str().unwrap()]);
            qemu_img(&[
                "compare",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                image.to_str().unwrap(),
                raw.to_str().unwrap(),
            ]);
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
                Encoded::Zero => {}
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
