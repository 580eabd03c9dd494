//! The laboratory itself.

use haulier_testbed::lab::Lab;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(240);

/// One machine: its drivers, its tools, its disks, and that the host sees what was written.
#[test]
fn a_script_uses_drivers_tools_and_disks() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
    for path in &paths {
        fs::File::create(path).unwrap().set_len(64 << 20).unwrap();
    }
    let said = Lab::new()
        .tools(&["mdadm", "mkfs.vfat"])
        .module("raid1")
        .disk(&paths[0])
        .disk(&paths[1])
        .disk_4k(&paths[2])
        .script(
            "mdadm --create /dev/md0 --run --metadata=1.2 --level=1 --raid-devices=2 /dev/vda /dev/vdb
             mkfs.vfat /dev/md0
             mkdir /mnt/fat
             mount -t vfat /dev/md0 /mnt/fat
             echo hello >/mnt/fat/file
             umount /mnt/fat
             mdadm --stop /dev/md0
             echo sector $(cat /sys/block/vdc/queue/logical_block_size)
             echo Haulier | dd of=/dev/vdc conv=fsync",
        )
        .run(LONG)
        .unwrap();
    assert!(said.contains("sector 4096"), "{said}");
    let mut text = [0; 7];
    let disk = fs::File::open(&paths[2]).unwrap();
    disk.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"Haulier");
    let disk = fs::File::open(&paths[1]).unwrap();
    let mut magic = [0; 4];
    disk.read_exact_at(&mut magic, 4096).unwrap();
    assert_eq!(u32::from_le_bytes(magic), 0xA92B_4EFC);
}

#[test]
fn a_script_that_fails_is_an_error_with_its_words() {
    let error = Lab::new()
        .script("echo first; ls /no/such/folder; echo never")
        .run(LONG)
        .unwrap_err()
        .to_string();
    assert!(error.contains("ended with 1"), "{error}");
    assert!(error.contains("first\n"), "{error}");
    assert!(error.contains("/no/such/folder: No such file"), "{error}");
    assert!(!error.contains("never"), "{error}");
}
