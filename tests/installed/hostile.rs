//! Strangers' systems: files that lead in circles, texts that want to do harm, and filesystems with
//! damage. Nothing may crash, hang, or come out as something that it is not.

use crate::scene::{ROOT_UUID, ext4, look_at, system};
use haulier::device::{MemDisk, ReadAt};
use haulier::inventory::installed::look;
use haulier::units::SectorSize;
use haulier::usedmap::DiskInfo;
use haulier::volume::crypt::Secrets;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

fn made(change: impl FnOnce(&Path)) -> haulier::inventory::installed::Found {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("boot")).unwrap();
    system(&root, &root.join("boot"), "");
    change(&root);
    let image = scratch.path().join("image");
    ext4(&root, &image, 64, ROOT_UUID, &[]);
    look_at(&[image])
}

#[test]
fn links_in_circles_and_harmful_texts_are_null() {
    let found = made(|root| {
        for name in ["etc/hostname", "etc/fstab", "boot/grub/grub.cfg"] {
            fs::remove_file(root.join(name)).unwrap();
        }
        symlink("hostname", root.join("etc/hostname")).unwrap();
        symlink(
            "/boot/grub/../grub/grub.cfg",
            root.join("boot/grub/grub.cfg"),
        )
        .unwrap();
        fs::write(root.join("etc/fstab"), "\u{0}\n\\777 / \\\n".repeat(10_000)).unwrap();
        fs::write(
            root.join("usr/lib/os-release"),
            format!(
                "ID=\"a\tb\u{1b}[2J\"\nPRETTY_NAME=\"{}\"\nVERSION_ID='\n",
                "x\u{7}".repeat(5000)
            ),
        )
        .unwrap();
        fs::write(
            root.join("etc/network/interfaces"),
            format!(
                "iface {} inet dhcp\niface e$(id) inet static\n address ;reboot\n",
                "e".repeat(300)
            ),
        )
        .unwrap();
        // The system's own root in its root, over and over.
        symlink("..", root.join("usr/lib/modules/up")).unwrap();
    });
    let system = &found.systems[0];
    assert_eq!(system.hostname, None);
    assert_eq!((&system.id, &system.version), (&None, &None));
    let name = system.name.as_deref().unwrap();
    assert!(
        name.len() <= 512 && name.bytes().all(|byte| byte == b'x'),
        "{name}"
    );
    assert_eq!(system.command_line, None);
    let network = system.network.as_ref().unwrap();
    let names: Vec<_> = network
        .interfaces
        .iter()
        .map(|i| i.name.as_deref())
        .collect();
    assert_eq!(names, [Some("e$(id)")]);
    assert_eq!(network.interfaces[0].addresses, Vec::<String>::new());
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("symbolic links")),
        "{:?}",
        found.notes
    );
    assert!(system.fstab.as_ref().unwrap().len() <= 1024);
}

#[test]
fn a_host_name_with_a_line_break_or_of_300_letters_is_null() {
    for text in ["a\u{b}b\n", &"n".repeat(300), "../../etc", ""] {
        let found = made(|root| fs::write(root.join("etc/hostname"), text).unwrap());
        assert_eq!(found.systems[0].hostname, None, "{text:?}");
    }
}

/// The same numbers in every run (xorshift64).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_damaged_filesystem_without_checksums_ends_and_does_not_crash() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("boot")).unwrap();
    system(
        &root,
        &root.join("boot"),
        "LABEL=x / ext4 defaults\nLABEL=x /usr ext4 defaults\n",
    );
    for (name, options) in [
        ("extents", ["-O", "^metadata_csum,^has_journal", "-L", "x"]),
        (
            "lists",
            [
                "-O",
                "^metadata_csum,^extent,^64bit,^has_journal",
                "-L",
                "x",
            ],
        ),
    ] {
        let image = scratch.path().join(name);
        ext4(&root, &image, 16, ROOT_UUID, &options);
        let whole = fs::read(&image).unwrap();
        let mut state = 0x2545_F491_4F6C_DD1D;
        // Where something is: flipping zeros of free blocks shows nothing.
        let used: Vec<usize> = (0..whole.len() / 512)
            .filter(|nth| {
                whole[nth * 512..(nth + 1) * 512]
                    .iter()
                    .any(|byte| *byte != 0)
            })
            .collect();
        for round in 0..60 {
            let mut damaged = whole.clone();
            for _ in 0..24 {
                let sector = used[next(&mut state) as usize % used.len().min(400)];
                damaged[sector * 512 + next(&mut state) as usize % 512] = next(&mut state) as u8;
            }
            // The superblock's magic stays: without it nobody looks.
            damaged[1024..1024 + 256].copy_from_slice(&whole[1024..1024 + 256]);
            let begun = Instant::now();
            let info = DiskInfo {
                path: "image".into(),
                size_bytes: damaged.len() as u64,
                logical_sector_bytes: SectorSize::B512,
                physical_sector_bytes: SectorSize::B512,
            };
            let disk = MemDisk(damaged);
            let content: &dyn ReadAt = &disk;
            let found = look(&[(content, info)], &Secrets::default()).unwrap();
            assert!(found.systems.len() <= 1, "{name} {round}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{name} {round}");
        }
    }
}
