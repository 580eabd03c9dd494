//! Disks that grow to what a target rounds to, and raw disks: the copy is sound, the capture is untouched.

mod import_common;

use haulier::import::Target;
use haulier::inventory::{Bus, Machine};
use haulier::report::Level;
use import_common::{add_disk, capture, edit_manifest, import, names, options, server, tool};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// No whole number of MiB.
const SIZE: u64 = 64 * MIB + 7 * 512;

/// A GPT disk of [`SIZE`] with data at both ends of its partition, by sfdisk.
fn gpt_disk(dir: &Path) -> PathBuf {
    let path = dir.join("disk.img");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    tool(Command::new("sh").arg("-c").arg(format!(
        "printf 'label: gpt\\nstart=2048, name=root\\n' | sfdisk --quiet {}",
        path.display()
    )));
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"first", MIB).unwrap();
    // The last usable sector.
    file.write_all_at(b"last", SIZE - 34 * 512).unwrap();
    path
}

/// A machine with the disk, and its capture.
fn captured(dir: &Path, disk: PathBuf) -> (Machine, PathBuf) {
    let mut machine = server("bios");
    add_disk(&mut machine, Bus::Sata, "ahci", 512);
    machine.disks[0].size_bytes = fs::metadata(&disk).unwrap().len();
    let capture = capture(dir, &machine, &[disk]);
    (machine, capture)
}

fn sfdisk(path: &Path) -> String {
    let said = tool(Command::new("sfdisk").arg("--dump").arg(path));
    let said = String::from_utf8(said.stdout).unwrap();
    let lines = said
        .lines()
        .filter(|l| !l.starts_with("last-lba") && !l.starts_with("device"));
    let lines: Vec<&str> = lines.collect();
    lines
        .join("\n")
        .replace(&path.display().to_string(), "disk")
}

/// Holds a raw disk against the one that it came from: a sound table, the same partitions and bytes.
fn is_sound_copy(copy: &Path, original: &Path, size: u64) {
    assert_eq!(fs::metadata(copy).unwrap().len(), size);
    for (tool_name, words) in [
        ("sgdisk", "No problems found"),
        ("sfdisk", "No errors detected"),
    ] {
        let said = tool(Command::new(tool_name).arg("--verify").arg(copy));
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(sfdisk(copy), sfdisk(original));
    let mut bytes = vec![0; usize::try_from(SIZE - MIB - 33 * 512).unwrap()];
    let mut expected = bytes.clone();
    File::open(copy)
        .unwrap()
        .read_exact_at(&mut bytes, MIB)
        .unwrap();
    File::open(original)
        .unwrap()
        .read_exact_at(&mut expected, MIB)
        .unwrap();
    assert!(bytes == expected, "the partition has other bytes");
}

fn to_raw(image: &Path, raw: &Path) {
    tool(Command::new("qemu-img").args(["check", "-q"]).arg(image));
    tool(
        Command::new("qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .args([image, raw]),
    );
}

#[test]
fn a_raw_disk_grows_to_whole_mebibytes_with_a_sound_table() {
    let dir = tempfile::tempdir().unwrap();
    let disk = gpt_disk(dir.path());
    let (_, capture) = captured(dir.path(), disk.clone());
    let out = dir.path().join("vm");
    let said = import(&options(&capture, Target::Raw, &out)).unwrap();
    assert_eq!(names(&out), ["disk-0.raw"]);
    is_sound_copy(&out.join("disk-0.raw"), &disk, 65 * MIB);
    assert!(
        said.iter()
            .any(|(_, line)| line.contains("grows from 67112448 to 68157440 bytes"))
    );
    use std::os::unix::fs::MetadataExt;
    let blocks = fs::metadata(out.join("disk-0.raw")).unwrap().blocks() * 512;
    assert!(blocks < 2 * MIB, "{blocks} bytes are allocated");
}

#[test]
fn an_image_for_openstack_grows_to_whole_gibibytes_and_is_registered_so() {
    let dir = tempfile::tempdir().unwrap();
    let disk = gpt_disk(dir.path());
    let (_, capture) = captured(dir.path(), disk.clone());
    let before = fs::read(capture.join("disk-0.qcow2")).unwrap();
    let out = dir.path().join("vm");
    import(&options(&capture, Target::Openstack, &out)).unwrap();
    let raw = dir.path().join("back.raw");
    to_raw(&out.join("disk-0.qcow2"), &raw);
    is_sound_copy(&raw, &disk, GIB);
    let document = fs::read_to_string(out.join("image-0.json")).unwrap();
    assert!(document.contains("\"min_disk\": 1"), "{document}");
    assert!(
        before == fs::read(capture.join("disk-0.qcow2")).unwrap(),
        "the capture changed"
    );
}

#[test]
fn no_pad_leaves_the_size_and_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let disk = gpt_disk(dir.path());
    let (_, capture) = captured(dir.path(), disk.clone());
    let out = dir.path().join("vm");
    let mut asked = options(&capture, Target::Raw, &out);
    asked.pad = false;
    import(&asked).unwrap();
    assert!(fs::read(out.join("disk-0.raw")).unwrap() == fs::read(&disk).unwrap());
}

#[test]
fn an_mbr_disk_and_one_without_a_table_keep_their_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    let file = File::create(&disk).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"no table", 4096).unwrap();
    let (_, capture) = captured(dir.path(), disk.clone());
    let out = dir.path().join("vm");
    import(&options(&capture, Target::Raw, &out)).unwrap();
    assert!(fs::read(out.join("disk-0.raw")).unwrap() == fs::read(&disk).unwrap());
}

#[test]
fn a_damaged_backup_table_keeps_the_size_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let disk = gpt_disk(dir.path());
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(b"x", SIZE - 512).unwrap();
    let (_, capture) = captured(dir.path(), disk.clone());
    let out = dir.path().join("vm");
    let said = import(&options(&capture, Target::Raw, &out)).unwrap();
    assert!(fs::read(out.join("disk-0.raw")).unwrap() == fs::read(&disk).unwrap());
    let (level, line) = said
        .iter()
        .find(|(_, line)| line.contains("keeps its size"))
        .unwrap();
    assert!(
        *level == Level::Warn && line.contains("there is no GPT header"),
        "{line}"
    );
}

#[test]
fn a_chunk_that_is_not_what_was_read_is_found_and_leaves_nothing() {
    for to in [Target::Raw, Target::Proxmox] {
        let dir = tempfile::tempdir().unwrap();
        let disk = gpt_disk(dir.path());
        let (_, capture) = captured(dir.path(), disk);
        // Another disk's image under the digests of this one.
        edit_manifest(&capture, |manifest| {
            let record = &mut manifest.disks[0];
            let mut chunks: Vec<_> = record.chunks.iter().collect();
            let last = chunks.len() - 1;
            chunks[0].1 = chunks[last].1;
            record.chunks = Default::default();
            for (index, digest) in chunks {
                record.chunks.push(index, digest).unwrap();
            }
        });
        let out = dir.path().join("vm");
        let error = import(&options(&capture, to, &out)).unwrap_err();
        assert_eq!(error.kind(), haulier::Kind::Mismatch, "{error}");
        assert_eq!(names(dir.path()), ["disk.img", "store"]);
    }
}
