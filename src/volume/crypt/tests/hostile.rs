//! Headers that a stranger wrote: whatever stands in them, opening them ends soon, without a panic,
//! and nothing that is taken lies outside the volume.

use super::super::header;
use super::*;
use crate::device::read::MemDisk;
use proptest::prelude::*;
use std::sync::OnceLock;

/// The beginning of a volume of each format, small enough to be held in memory.
fn volumes() -> &'static [Vec<u8>] {
    static VOLUMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    VOLUMES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, "secret").unwrap();
        ["luks1", "luks2"]
            .map(|kind| {
                let image = dir.path().join(kind);
                fs::write(&image, vec![0; 17 << 20]).unwrap();
                run(
                    "cryptsetup",
                    &[
                        "luksFormat",
                        "--batch-mode",
                        "--type",
                        kind,
                        "--key-file",
                        arg(&key),
                        "--pbkdf",
                        "pbkdf2",
                        "--pbkdf-force-iterations",
                        "1000",
                        arg(&image),
                    ],
                );
                fs::read(image).unwrap()
            })
            .into_iter()
            .chain([bitlocker_volume()])
            .collect()
    })
}

/// The smallest volume whose metadata is sound: nothing in it is encrypted with a real key.
fn bitlocker_volume() -> Vec<u8> {
    let mut volume = vec![0; 1 << 20];
    let blocks = [0x4_0000_u64, 0x6_0000, 0x8_0000];
    volume[..11].copy_from_slice(b"\xEB\x58\x90-FVE-FS-");
    volume[11..13].copy_from_slice(&512_u16.to_le_bytes());
    volume[0xA0..0xB0].copy_from_slice(&[
        0x3B, 0xD6, 0x67, 0x49, 0x29, 0x2E, 0xD8, 0x4A, 0x83, 0x99, 0xF6, 0xA3, 0x39, 0xE3, 0xD0,
        0x01,
    ]);
    let mut block = vec![0; 0x90];
    block[..8].copy_from_slice(b"-FVE-FS-");
    block[8] = 9;
    block[0x0A] = 2;
    block[0x0C] = 4;
    block[0x0E] = 4;
    block[0x10..0x18].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    block[0x1C] = 16;
    for (index, at) in blocks.iter().enumerate() {
        volume[0xB0 + 8 * index..][..8].copy_from_slice(&at.to_le_bytes());
        block[0x20 + 8 * index..][..8].copy_from_slice(&at.to_le_bytes());
    }
    block[0x38..0x40].copy_from_slice(&0x2_0000_u64.to_le_bytes());
    block[0x40] = 48 + 24;
    block[0x64..0x66].copy_from_slice(&0x8004_u16.to_le_bytes());
    let entry: Vec<u8> = [24_u16, 15, 15, 1]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect();
    block[0x70..0x78].copy_from_slice(&entry);
    block[0x78..0x80].copy_from_slice(&0x2_0000_u64.to_le_bytes());
    block[0x80..0x88].copy_from_slice(&0x2000_u64.to_le_bytes());
    for at in blocks {
        put_block(&mut volume, at, &block);
    }
    volume
}

fn put_block(volume: &mut [u8], at: u64, block: &[u8]) {
    let at = usize::try_from(at).unwrap();
    volume[at..at + block.len()].copy_from_slice(block);
    let crc = crc32fast::hash(block);
    volume[at + block.len() + 4..][..4].copy_from_slice(&crc.to_le_bytes());
}

fn end_soon(bytes: Vec<u8>) {
    let disk = MemDisk(bytes);
    let _ = header(&disk);
    for secrets in [Secrets::new(), Secrets::from_passphrase("secret")] {
        let Ok(unlocked) = unlock(whole(&disk), &secrets) else {
            continue;
        };
        let size = disk.size().0;
        assert!(unlocked.metadata.iter().all(|extent| extent.end() <= size));
        let mut places = Places::new(1);
        for extent in [
            Extent::between(0, u64::MAX),
            Extent::between(size / 2, size),
        ] {
            unlocked.volume.trace(extent.unwrap(), &mut places);
        }
        assert!(places.finish()[0].iter().all(|extent| extent.end() <= size));
        let mut sector = [0; 512];
        let end = unlocked.volume.size().0.saturating_sub(512);
        let _ = unlocked.volume.read_at(ByteOffset(end), &mut sector);
    }
}

#[test]
fn the_sound_volumes_are_as_they_should_be() {
    let [luks1, luks2, bitlocker] = volumes() else {
        panic!()
    };
    for volume in [luks1, luks2] {
        opened(
            &MemDisk(volume.clone()),
            &Secrets::from_passphrase("secret"),
        );
    }
    let disk = MemDisk(bitlocker.clone());
    assert!(matches!(
        closed(&disk, &Secrets::from_passphrase("x")),
        Locked::WrongSecret
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes of the fields themselves; checksums are mended where there are any.
    #[test]
    fn any_bytes_in_the_header_end_soon(
        which in 0_usize..3,
        changes in prop::collection::vec((0_usize..0x300, any::<u8>()), 1..6),
        mend in any::<bool>(),
    ) {
        let mut volume = volumes()[which].clone();
        for (at, byte) in changes {
            // Half of what is interesting of BitLocker is in its metadata blocks.
            let at = if which == 2 && at >= 0x200 { 0x4_0000 + at - 0x200 } else { at };
            volume[at] = byte;
        }
        if mend && which == 1 {
            volume[0x1C0..0x200].fill(0);
            let checksum = Sha256::digest(&volume[..0x4000]);
            volume[0x1C0..0x1E0].copy_from_slice(&checksum);
        }
        if mend && which == 2 {
            let block = volume[0x4_0000..0x4_0090].to_vec();
            for at in [0x4_0000, 0x6_0000, 0x8_0000] {
                put_block(&mut volume, at, &block);
            }
        }
        end_soon(volume);
    }
}

#[test]
fn a_volume_that_ends_too_soon_is_refused() {
    for volume in volumes() {
        for len in [0, 511, 512, 4096, 0x4000, 0x4_0000, 0x8_0000] {
            let disk = MemDisk(volume[..len.min(volume.len())].to_vec());
            if len > 0 {
                refused_or_unreadable(&disk);
            }
        }
    }
}

fn refused_or_unreadable(disk: &MemDisk) {
    let locked = closed(disk, &Secrets::from_passphrase("secret"));
    assert!(matches!(locked, Locked::Refusal(_)), "{locked:?}");
}
