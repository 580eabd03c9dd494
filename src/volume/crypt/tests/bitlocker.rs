//! BitLocker volumes that Windows made (cryptsetup's own test images, with the digests of their
//! plaintext), and dislocker as a second reader of what we keep.

use super::*;
use crate::volume::crypt::{Header, header};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The unpacked images, which are sparse.
struct Images {
    dir: TempDir,
    /// By image and field: passphrase `PW`, recovery key `RP`, digest `SHA256SUM`.
    fields: HashMap<(String, String), String>,
}

impl Images {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("bitlk-images").join(name)
    }

    fn disk(&self, name: &str) -> Disk {
        disk_of(&self.path(&format!("{name}.img")))
    }

    fn field(&self, image: &str, field: &str) -> &str {
        self.fields
            .get(&(image.into(), field.into()))
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| panic!("images.conf has no {field} of {image}"))
    }
}

fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/bitlocker_images/bitlk-images.tar.xz");
        run(
            "tar",
            &[
                "-xJSf",
                arg(&archive),
                "--no-same-owner",
                "-C",
                arg(dir.path()),
            ],
        );
        let conf = fs::read_to_string(dir.path().join("bitlk-images/images.conf")).unwrap();
        let mut image = String::new();
        let mut fields = HashMap::new();
        for line in conf.lines() {
            if let Some(name) = line.strip_prefix('[') {
                image = name.trim_end_matches(']').into();
            } else if let Some((name, value)) = line.split_once('=') {
                fields.insert((image.clone(), name.into()), value.into());
            }
        }
        Images { dir, fields }
    })
}

/// All of the plaintext has the digest that Windows' volume had, by this secret of the file.
fn reads_as_in_windows(image: &str, secret: &str) {
    let images = images();
    let disk = images.disk(image);
    let secrets = Secrets::from_passphrase(images.field(image, secret));
    let unlocked = opened(&disk, &secrets);
    assert_eq!(unlocked.volume.size(), disk.size());
    assert_eq!(
        digest(&unlocked.volume, 0, disk.size().0),
        images.field(image, "SHA256SUM")
    );
}

macro_rules! reads {
    ($($name:ident $image:literal $secret:literal)*) => {
        mod reads_as_in_windows {
            $(
                #[test]
                fn $name() {
                    super::reads_as_in_windows($image, $secret);
                }
            )*
        }
    };
}

reads! {
    aes_cbc_128_by_passphrase "bitlk-aes-cbc-128" "PW"
    aes_cbc_256_by_recovery_key "bitlk-aes-cbc-256" "RP"
    aes_cbc_128_elephant_by_recovery_key "bitlk-aes-cbc-elephant-128" "RP"
    aes_cbc_256_elephant_by_passphrase "bitlk-aes-cbc-elephant-256" "PW"
    aes_xts_128_by_recovery_key "bitlk-aes-xts-128" "RP"
    aes_xts_256_by_passphrase "bitlk-aes-xts-256" "PW"
    aes_xts_128_with_another_entry "bitlk-aes-xts-128-new-entry" "PW"
    aes_cbc_128_in_sectors_of_4096 "bitlk-aes-cbc-128-4k" "PW"
    aes_xts_128_in_sectors_of_4096 "bitlk-aes-xts-128-4k" "PW"
    to_go_aes_cbc_128 "bitlk-togo-aes-cbc-128" "PW"
    to_go_aes_xts_128 "bitlk-togo-aes-xts-128" "RP"
    beside_a_smart_card "bitlk-aes-xts-128-smart-card" "RP"
    beside_a_startup_key "bitlk-aes-xts-128-startup-key-win11" "RP"
}

/// A key file of a stick.
#[test]
fn a_startup_key_opens() {
    for (image, file) in [
        (
            "bitlk-aes-xts-128-startup-key",
            "4381F759-C4F8-4DE0-BB61-FC33A831BDA5.BEK",
        ),
        (
            "bitlk-aes-xts-128-startup-key-win11",
            "AA80A52B-9B66-47AE-B097-33F536FFBB07.BEK",
        ),
    ] {
        let disk = images().disk(image);
        let secrets = Secrets::from_key_file(&images().path(file)).unwrap();
        let mut sector = [0; 512];
        opened(&disk, &secrets)
            .volume
            .read_at(ByteOffset(0), &mut sector)
            .unwrap();
        assert_eq!(&sector[3..11], b"NTFS    ");
        // Another one does not.
        let wrong = if file.starts_with('4') {
            "AA80A52B-9B66-47AE-B097-33F536FFBB07.BEK"
        } else {
            "4381F759-C4F8-4DE0-BB61-FC33A831BDA5.BEK"
        };
        let wrong = Secrets::from_key_file(&images().path(wrong)).unwrap();
        assert!(matches!(closed(&disk, &wrong), Locked::WrongSecret));
    }
}

#[test]
fn a_wrong_secret_is_told_from_none() {
    let disk = images().disk("bitlk-aes-xts-128");
    let other = images().field("bitlk-aes-xts-256", "RP");
    let mut wrong = Secrets::from_passphrase("Anaconda");
    wrong.append(Secrets::from_passphrase(other));
    assert!(matches!(closed(&disk, &wrong), Locked::WrongSecret));
    assert!(matches!(closed(&disk, &Secrets::new()), Locked::NoSecret));
}

#[test]
fn the_header_tells_what_opens_it() {
    let header = |image| header(&images().disk(image)).unwrap();
    assert_eq!(
        header("bitlk-aes-xts-128"),
        Header {
            name: "BitLocker",
            uuid: None,
            label: Some("DESKTOP-NPM7RCA H: 7/4/2019".into()),
            cipher: "AES-XTS 128".into(),
            opened_by: "its recovery key of 48 digits or its passphrase".into(),
            opens_by_itself: false,
        }
    );
    let smart_card = header("bitlk-aes-xts-128-smart-card");
    assert_eq!(smart_card.opened_by, "its recovery key of 48 digits");
    let startup = header("bitlk-aes-xts-128-startup-key");
    assert!(startup.opened_by.ends_with("its startup key (a .BEK file)"));
    let elephant = header("bitlk-aes-cbc-elephant-128");
    assert_eq!(elephant.cipher, "AES-CBC 128 with Elephant diffuser");
}

#[test]
fn a_volume_that_is_encrypted_as_it_is_written_is_refused() {
    for image in ["bitlk-aes-xts-128-eow", "bitlk-clearkey-aes-cbc-128"] {
        let secrets = Secrets::from_passphrase("anaconda");
        let why = refused(closed(&images().disk(image), &secrets));
        assert!(why.contains("parts of it are still plain"), "{why}");
    }
}

/// A copy of an image whose three metadata blocks were changed, with right checksums.
fn changed(image: &str, dir: &Path, change: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let path = dir.join("changed.img");
    run(
        "cp",
        &[
            "--sparse=always",
            arg(&images().path(&format!("{image}.img"))),
            arg(&path),
        ],
    );
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    for at in blocks(&file) {
        let mut block = vec![0; 64 << 10];
        file.read_exact_at(&mut block, at).unwrap();
        change(&mut block);
        let size = usize::from(u16::from_le_bytes([block[8], block[9]])) * 16;
        let crc = crc32fast::hash(&block[..size]);
        block[size + 4..size + 8].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&block, at).unwrap();
    }
    path
}

fn blocks(file: &fs::File) -> [u64; 3] {
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    [0xB0, 0xB8, 0xC0].map(|at| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap()))
}

#[test]
fn metadata_that_is_not_understood_is_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change); 7] = [
        ("converting it (state 5", |block| block[0x0C] = 5),
        ("on the way to 1", |block| block[0x0E] = 1),
        ("method 0x8006", |block| block[0x64] = 6),
        ("is for method 0x8004", |block| block[0x64] = 2),
        ("larger than its partition", |block| block[0x13] = 0x7F),
        ("version 3", |block| block[0x0A] = 3),
        ("contradict each other about the boot sectors", |block| {
            block[0x39] ^= 0x10
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (told, change) in cases {
        let path = changed("bitlk-aes-xts-128", dir.path(), change);
        let why = refused(closed(
            &disk_of(&path),
            &Secrets::from_passphrase("anaconda"),
        ));
        assert!(why.contains(told), "{told}: {why}");
    }
}

#[test]
fn one_sound_copy_of_the_metadata_is_enough_and_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed("bitlk-aes-xts-128", dir.path(), |_| {});
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let blocks = blocks(&file);
    let secrets = Secrets::from_passphrase("anaconda");
    for at in &blocks[..2] {
        file.write_all_at(&[0xFF], at + 0x90).unwrap();
        opened(&disk_of(&path), &secrets);
    }
    file.write_all_at(&[0xFF], blocks[2] + 0x90).unwrap();
    let why = refused(closed(&disk_of(&path), &secrets));
    assert!(why.contains("checksum does not match"), "{why}");
}

/// Protection that is suspended: the key of the volume master key lies beside it, and no secret is
/// needed. dislocker (`--clearkey`) reads the same.
#[test]
fn suspended_protection_opens_by_itself() {
    use aes::Aes256;
    use ccm::Ccm;
    use ccm::aead::{Aead, KeyInit};
    use ccm::consts::{U12, U16};
    // Wraps the real volume master key anew, as Windows does when protection is suspended.
    let image = "bitlk-aes-xts-128";
    let [vmk, _] = super::super::bitlocker::keys_of(
        &images().disk(image),
        &Secrets::from_passphrase("anaconda"),
    );
    let entry = |kind: u16, value: u16, data: &[u8]| {
        let size = u16::try_from(data.len() + 8).unwrap();
        let mut entry = Vec::new();
        for field in [size, kind, value, 1] {
            entry.extend(field.to_le_bytes());
        }
        entry.extend(data);
        entry
    };
    let key_data = |method: u32, key: &[u8]| [&method.to_le_bytes(), key].concat();
    let clear = [0x42; 32];
    let nonce = [7; 12];
    let inner = entry(0, 1, &key_data(0x2003, &vmk));
    let mut sealed = Ccm::<Aes256, U16, U12>::new_from_slice(&clear)
        .unwrap()
        .encrypt(&nonce.into(), inner.as_slice())
        .unwrap();
    let tag = sealed.split_off(sealed.len() - 16);
    let wrapped = [&nonce[..], &tag, &sealed].concat();
    let mut data = vec![0x11; 26];
    data.extend(0_u16.to_le_bytes());
    data.extend(entry(0, 1, &key_data(0x2000, &clear)));
    data.extend(entry(0, 5, &wrapped));
    let vmk_entry = entry(2, 8, &data);

    let dir = tempfile::tempdir().unwrap();
    let path = changed(image, dir.path(), |block| {
        let size = usize::from(u16::from_le_bytes([block[8], block[9]])) * 16;
        let validation = block[size..].to_vec();
        let dataset = u32::from_le_bytes(block[0x40..0x44].try_into().unwrap());
        let end = 0x40 + usize::try_from(dataset).unwrap();
        block.truncate(end);
        block.extend(&vmk_entry);
        let dataset = u32::try_from(block.len() - 0x40).unwrap();
        block[0x40..0x44].copy_from_slice(&dataset.to_le_bytes());
        block[0x4C..0x50].copy_from_slice(&dataset.to_le_bytes());
        let padded = block.len().next_multiple_of(16);
        block.resize(padded, 0);
        block[8..10].copy_from_slice(&u16::try_from(padded / 16).unwrap().to_le_bytes());
        block.extend(validation);
        block.truncate(64 << 10);
    });
    let disk = disk_of(&path);
    assert!(header(&disk).unwrap().opens_by_itself);
    let unlocked = opened(&disk, &Secrets::new());
    let expected = images().field(image, "SHA256SUM");
    assert_eq!(digest(&unlocked.volume, 0, disk.size().0), expected);
    let theirs = dir.path().join("theirs.img");
    run(
        "dislocker-file",
        &["-V", arg(&path), "-c", "--", arg(&theirs)],
    );
    let theirs = disk_of(&theirs);
    assert_eq!(digest(&theirs, 0, theirs.size().0), expected);
}

/// NTFS inside: after every byte that the map does not keep was overwritten, dislocker still
/// decrypts a filesystem that is whole.
#[test]
fn ntfs_survives_in_aes_xts_256() {
    ntfs_survives("bitlk-aes-xts-256");
}

#[test]
fn ntfs_survives_in_aes_cbc_128() {
    ntfs_survives("bitlk-aes-cbc-128");
}

fn ntfs_survives(image: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (plain, files) = ntfs(dir.path());
    let used = used_by_partclone(&plain, &dir.path().join("domain"));
    let volume = encrypt(image, &plain, &used, dir.path());
    let password = images().field(image, "PW");
    let decrypt = |to: &Path| {
        let password = format!("-u{password}");
        run(
            "dislocker-file",
            &["-V", arg(&volume), &password, "--", arg(to)],
        );
    };

    // What is made here is a BitLocker volume to others, and ours reads it as they do.
    let theirs = dir.path().join("theirs.img");
    decrypt(&theirs);
    let disk = disk_of(&volume);
    let secrets = Secrets::from_passphrase(password);
    let unlocked = opened(&disk, &secrets);
    let size = disk.size().0;
    assert_eq!(
        digest(&unlocked.volume, 0, size),
        digest(&disk_of(&theirs), 0, size)
    );
    assert_eq!(read_ntfs(&theirs), files);

    let kept = kept_by_map(&disk, &secrets);
    let metadata = unlocked.metadata.total().0;
    let (taken, own) = (kept.total().0, used.total().0 + metadata);
    println!(
        "| NTFS in {image} | {taken} | {} by partclone + {metadata} of metadata | {:.4} |",
        used.total().0,
        taken as f64 / own as f64
    );
    assert!(taken * 100 <= own * 101, "{taken} of {own}");

    punch(&volume, &kept);
    let after = dir.path().join("after.img");
    decrypt(&after);
    run("ntfsfix", &["-n", arg(&after)]);
    assert_eq!(read_ntfs(&after), files);
    let (theirs, after) = (disk_of(&theirs), disk_of(&after));
    for extent in used.iter() {
        let (start, end) = (extent.start().0, extent.end());
        assert_eq!(
            digest(&after, start, end),
            digest(&theirs, start, end),
            "{extent:?}"
        );
    }
}

const NTFS_SIZE: usize = 100 << 20;

/// NTFS on soiled ground, and its files.
fn ntfs(dir: &Path) -> (PathBuf, Vec<Vec<u8>>) {
    let image = dir.join("ntfs.img");
    fs::write(&image, vec![0xC3; NTFS_SIZE]).unwrap();
    run(
        "mkntfs",
        &[
            "-F",
            "-q",
            "-Q",
            "-s",
            "512",
            "-c",
            "4096",
            "-L",
            "C",
            arg(&image),
        ],
    );
    let mut files = Vec::new();
    for number in 0..20_u32 {
        let content: Vec<u8> = (0..number * 40_000)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2])
            .collect();
        let file = dir.join("file");
        fs::write(&file, &content).unwrap();
        run(
            "ntfscp",
            &["-q", arg(&image), arg(&file), &format!("f{number}")],
        );
        files.push(content);
    }
    (image, files)
}

fn read_ntfs(image: &Path) -> Vec<Vec<u8>> {
    (0..20)
        .map(|number| {
            let output = try_run("ntfscat", &["-q", arg(image), &format!("f{number}")]);
            assert!(output.status.success(), "{output:?}");
            output.stdout
        })
        .collect()
}

/// Encrypts a filesystem with the keys and the metadata of a volume that Windows made, the metadata
/// being moved to where the filesystem has nothing, as Windows keeps it.
fn encrypt(image: &str, plain: &Path, used: &ExtentList, dir: &Path) -> PathBuf {
    const SECTOR: usize = 512;
    let disk = images().disk(image);
    let secrets = Secrets::from_passphrase(images().field(image, "PW"));
    let [_, fvek] = super::super::bitlocker::keys_of(&disk, &secrets);
    let sector_cipher = encryptor(&fvek);
    let source = fs::read(images().path(&format!("{image}.img"))).unwrap();
    let read_u64 = |at: usize| u64::from_le_bytes(source[at..at + 8].try_into().unwrap());

    // Room of 64 KiB for each of three blocks and for the boot sectors, far from each other.
    let all: ExtentList = Extent::between(0, NTFS_SIZE as u64).into_iter().collect();
    let free = all.subtract(used);
    let room: Vec<u64> = (0..4)
        .map(|part| {
            let from = (part * NTFS_SIZE as u64) / 4 + (1 << 20);
            let window = Extent::between(from, from + (20 << 20)).unwrap();
            let run = free.within(window).find(|run| run.len().0 >= 128 << 10);
            run.unwrap().start().0.next_multiple_of(4096)
        })
        .collect();
    let (header_at, header_len) = (room[3] as usize, 8192);

    let text = fs::read(plain).unwrap();
    let mut volume = text.clone();
    for (number, sector) in volume.chunks_exact_mut(SECTOR).enumerate() {
        sector_cipher((number * SECTOR) as u64, sector);
    }
    volume[header_at..header_at + header_len].copy_from_slice(&text[..header_len]);
    for (number, sector) in volume[header_at..header_at + header_len]
        .chunks_exact_mut(SECTOR)
        .enumerate()
    {
        sector_cipher((header_at + number * SECTOR) as u64, sector);
    }
    volume[..header_len].copy_from_slice(&source[..header_len]);
    let mut block = source[read_u64(0xB0) as usize..][..64 << 10].to_vec();
    for index in 0..3 {
        volume[0xB0 + 8 * index..][..8].copy_from_slice(&room[index].to_le_bytes());
        block[0x20 + 8 * index..][..8].copy_from_slice(&room[index].to_le_bytes());
    }
    let old = block[0x38..0x40].to_vec();
    let size = usize::from(u16::from_le_bytes([block[8], block[9]])) * 16;
    // The field and the entry.
    let places: Vec<usize> = (0..size - 8)
        .filter(|&at| block[at..at + 8] == old[..])
        .collect();
    assert_eq!(places.len(), 2);
    for at in places {
        block[at..at + 8].copy_from_slice(&room[3].to_le_bytes());
    }
    let crc = crc32fast::hash(&block[..size]);
    block[size + 4..size + 8].copy_from_slice(&crc.to_le_bytes());
    for &at in &room[..3] {
        volume[at as usize..][..64 << 10].copy_from_slice(&block);
    }
    let path = dir.join("volume.img");
    fs::write(&path, volume).unwrap();
    path
}

/// Encrypts the sector at an offset in bytes.
type Encryptor = Box<dyn Fn(u64, &mut [u8])>;

/// AES-XTS 256 for a key of 64 bytes, AES-CBC 128 for one of 16.
fn encryptor(key: &[u8]) -> Encryptor {
    use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
    use aes::{Aes128, Aes256};
    if key.len() == 64 {
        let half = |key: &[u8]| Aes256::new_from_slice(key).unwrap();
        let xts = xts_mode::Xts128::new(half(&key[..32]), half(&key[32..]));
        return Box::new(move |offset, sector| {
            xts.encrypt_sector(sector, Array(u128::from(offset / 512).to_le_bytes()));
        });
    }
    let cipher = Aes128::new_from_slice(key).unwrap();
    Box::new(move |offset, sector| {
        let mut before: [u8; 16] = u128::from(offset).to_le_bytes();
        cipher.encrypt_block(Array::cast_from_core_mut(&mut before));
        for block in sector.as_chunks_mut::<16>().0 {
            for (byte, mask) in block.iter_mut().zip(before) {
                *byte ^= mask;
            }
            cipher.encrypt_block(Array::cast_from_core_mut(block));
            before = *block;
        }
    })
}

/// What partclone calls used in NTFS.
fn used_by_partclone(image: &Path, domain: &Path) -> ExtentList {
    run(
        "partclone.ntfs",
        &["-D", "-s", arg(image), "-o", arg(domain), "-L", "/dev/null"],
    );
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let text = fs::read_to_string(domain).unwrap();
    let used: ExtentList = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() == 3 && fields[2] == "+")
        .filter_map(|fields| {
            let start = number(fields[0]);
            Extent::between(start, start + number(fields[1]))
        })
        .collect();
    assert!(used.total().0 > 1 << 20, "partclone found next to nothing");
    used
}
