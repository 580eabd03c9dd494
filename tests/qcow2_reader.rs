//! What our reader reads: images that QEMU made, and images that somebody damaged.

mod qcow2_common;

use haulier::device::{MemDisk, ReadAt};
use haulier::error::Kind;
use haulier::qcow2::{Compression, Reader};
use haulier::store::FileReader;
use haulier::units::ByteOffset;
use proptest::prelude::*;
use qcow2_common::{Content, qemu_img, write_image};
use std::sync::OnceLock;

#[test]
fn images_of_qemu_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let content = Content::mixed((20 << 20) + 512, 40);
    content.write_raw(&raw);
    for options in [
        "compat=v3",
        "compat=v2",
        "cluster_size=512",
        "cluster_size=2M",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "preallocation=metadata",
        "compression_type=zstd",
    ] {
        for compress in [false, true] {
            let image = dir.path().join("disk.qcow2");
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            // It refuses to compress into what is preallocated.
            if compress && !options.contains("preallocation") {
                args.push("-c");
            }
            args.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
            qemu_img(&args);
            let reader = Reader::open(FileReader::open(&image).unwrap()).unwrap();
            content.compare(&reader);
            let clusters = reader.mapped().collect::<Result<Vec<_>, _>>().unwrap();
            assert!(!clusters.is_empty(), "{options}");
        }
    }
}

#[test]
fn images_that_need_more_than_themselves_are_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    qemu_img(&["create", "-q", "-f", "qcow2", &path("base"), "10M"]);
    let backing = format!("backing_file={},backing_fmt=qcow2", path("base"));
    let external = format!("data_file={}", path("data"));
    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    for (options, words) in [
        (&*backing, "backing file"),
        (&*external, "another file"),
        ("extended_l2=on", "extended L2"),
        (luks, "encrypted"),
    ] {
        let image = path("image");
        let secret = "secret,id=key,data=abc";
        let args = [
            "create", "-q", "--object", secret, "-f", "qcow2", "-o", options,
        ];
        qemu_img(&[&args[..], &[&image, "10M"]].concat());
        let error = Reader::open(FileReader::open(image.as_ref()).unwrap())
            .err()
            .unwrap();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    for bytes in [
        vec![],
        vec![0; 512],
        b"QFI\xfb".to_vec(),
        vec![0xff; 70_000],
    ] {
        let error = Reader::open(MemDisk(bytes)).err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }
}

/// Small images of every kind, and the disk that they are of.
fn images() -> &'static Vec<Vec<u8>> {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.qcow2");
        let raw = dir.path().join("disk.raw");
        let content = Content::mixed(3 << 20, 41);
        content.write_raw(&raw);
        let ours = [Compression::Zstd, Compression::Zlib, Compression::None].map(|compression| {
            write_image(&content, &image, compression);
            std::fs::read(&image).unwrap()
        });
        let qemus = ["cluster_size=512", "cluster_size=2M,compat=v2"].map(|options| {
            let (raw, image) = (raw.to_str().unwrap(), image.to_str().unwrap());
            qemu_img(&[
                "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, image,
            ]);
            std::fs::read(image).unwrap()
        });
        ours.into_iter().chain(qemus).collect()
    })
}

/// Reads all there is, within reason; errors are welcome.
fn read_everything(image: Vec<u8>) {
    let length = image.len() as u64;
    let Ok(reader) = Reader::open(MemDisk(image)) else {
        return;
    };
    let mapped = reader.mapped().count() as u64;
    assert!(mapped <= length / 8, "{mapped} clusters in {length} bytes");
    let size = reader.size().0;
    let mut bytes = vec![0; 64 << 10];
    for at in (0..64)
        .map(|n| n << 16)
        .chain([size.saturating_sub(64 << 10)])
    {
        let _ = reader.read_at(ByteOffset(at), &mut bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_damage_to_an_image_panics_or_hangs(
        which in 0_usize..5,
        // Where: the header, anywhere, or the tables, which are at the end of our images and at
        // the beginning of QEMU's. What: any bytes, or what is dangerous.
        damage in prop::collection::vec(
            (
                prop_oneof![
                    4 => 0_usize..112,
                    2 => (0_usize..262_144).prop_map(|back| usize::MAX - back),
                    2 => 0_usize..400_000,
                ],
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 1..9),
                    Just(vec![0xff; 8]),
                    Just(vec![0; 8]),
                    Just(vec![0x40, 0, 0, 0, 0, 1, 0, 0]),
                ],
            ),
            1..6,
        ),
        cut in prop_oneof![9 => Just(usize::MAX), 1 => 0_usize..400_000],
    ) {
        let mut image = images()[which].clone();
        for (at, bytes) in damage {
            let length = image.len();
            let at = if at > length { length.saturating_sub(usize::MAX - at) } else { at };
            for (byte, new) in image.iter_mut().skip(at).zip(bytes) {
                *byte = new;
            }
        }
        image.truncate(cut);
        read_everything(image);
    }
}
