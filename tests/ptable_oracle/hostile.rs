//! Damaged tables: whatever the bytes, what is read of them makes sense.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

fn bytes(image: &Image) -> Vec<u8> {
    fs::read(&image.path).unwrap()
}

static SOUND: LazyLock<[Vec<u8>; 2]> =
    LazyLock::new(|| [GPT, MBR].map(|script| bytes(&Image::sfdisk(32 * MIB, script))));

/// Where the structures are: MBR, headers, first entries; the EBRs of `MBR`.
const PLACES: [usize; 8] = [
    0x1B8,
    512,
    1024,
    32 * 1024 * 1024 - 512,
    8192 * 512 + 0x1BE,
    38912 * 512 + 0x1BE,
    18432 * 512 + 0x1BE,
    12288 * 512 + 0x1BE,
];

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u32>().prop_map(|word| word.to_le_bytes().to_vec()),
        Just(vec![0xFF; 8]),
        Just(vec![0; 8]),
        (0_u64..70_000).prop_map(|word| word.to_le_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_damage_makes_a_table_insane(
        which in 0_usize..2,
        wounds in prop::collection::vec((0_usize..8, 0_usize..0x60, value()), 1..6),
        heal in any::<bool>(),
        cut in prop_oneof![4 => Just(None), 1 => (0_usize..33_554_432).prop_map(Some)],
    ) {
        let mut disk = SOUND[which].clone();
        for (place, offset, value) in &wounds {
            let at = PLACES[*place] + offset;
            let end = (at + value.len()).min(disk.len());
            if at < end {
                disk[at..end].copy_from_slice(&value[..end - at]);
            }
        }
        if heal {
            // So that hostile fields get past the checksum.
            for at in [512, disk.len() - 512] {
                let header = &mut disk[at..at + 92];
                header[0x0C..0x10].copy_from_slice(&92_u32.to_le_bytes());
                header[0x10..0x14].fill(0);
                let crc = crc32fast::hash(header);
                header[0x10..0x14].copy_from_slice(&crc.to_le_bytes());
            }
        }
        if let Some(cut) = cut {
            disk.truncate(cut);
        }
        let disk = MemDisk(disk);
        for sector in [SectorSize::B512, SectorSize::B4096] {
            assert_sane(&PartitionTable::read(&disk, sector).unwrap(), &disk);
        }
    }
}
