//! What is installed on disks, read without mounting them: filesystems are made and filled with the
//! distributions' own tools, and each fact has to come out as it was put in; what is in an initramfs, as
//! `lsinitramfs` sees it.

mod map_support;

#[path = "installed/discoverable.rs"]
mod discoverable;
#[path = "installed/families.rs"]
mod families;
#[path = "installed/hostile.rs"]
mod hostile;
#[path = "installed/lvm.rs"]
mod lvm;
#[path = "installed/scene.rs"]
mod scene;
#[path = "installed/unified.rs"]
mod unified;
#[path = "installed/volumes.rs"]
mod volumes;
#[path = "installed/windows.rs"]
mod windows;

use haulier::inventory::SystemKind;
use map_support::mount::{Mounted, privileged};
use map_support::{arg, run};
use scene::{
    BOOT_UUID, Packing, ROOT_UUID, check, disk, ext4, look_at, modules_by_lsinitramfs, system,
};
use std::fs;
use std::path::Path;

#[test]
fn a_server_with_boot_on_a_partition_of_its_own_is_read_from_ext4() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir_all(path("boot")).unwrap();
    fs::create_dir_all(path("root/boot")).unwrap();
    let fstab = format!(
        "# x\nUUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\nUUID={BOOT_UUID} /boot ext4 defaults 0 2\n\
         /dev/sda9 none swap sw 0 0\n"
    );
    system(&path("root"), &path("boot"), &fstab);
    ext4(
        &path("boot"),
        &path("boot.img"),
        64,
        BOOT_UUID,
        &["-L", "boot"],
    );
    ext4(
        &path("root"),
        &path("root.img"),
        64,
        ROOT_UUID,
        &["-L", "root"],
    );
    disk(&path("disk.img"), &[&path("boot.img"), &path("root.img")]);
    let found = look_at(&[path("disk.img")]);
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.systems.len(), 1);
    let system = &found.systems[0];
    assert_eq!(system.kind, Some(SystemKind::Linux));
    check(system);
    assert_eq!(system.root.disks, [path("disk.img").display().to_string()]);
    assert_eq!(system.root.partition, Some(2));
    assert_eq!(system.root.filesystem, "ext4");
    assert_eq!(system.root.uuid.as_deref(), Some(ROOT_UUID));
    assert_eq!(system.root.label.as_deref(), Some("root"));
    assert!(!system.root.encrypted);
    let fstab = system.fstab.as_ref().unwrap();
    assert_eq!(fstab.len(), 3);
    assert_eq!(fstab[0].options, ["errors=remount-ro"]);
    assert_eq!(system.crypttab, None);
}

#[test]
fn each_packing_of_an_initramfs_has_the_modules_that_lsinitramfs_sees() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("boot")).unwrap();
    system(&root, &root.join("boot"), "");
    let boot = root.join(format!("boot/initrd.img-{}", scene::RELEASE));
    for early in [false, true] {
        for packing in Packing::ALL {
            fs::write(&boot, scene::initramfs(packing, early)).unwrap();
            let expected = modules_by_lsinitramfs(&boot);
            let image = scratch.path().join("image");
            let _ = fs::remove_file(&image);
            ext4(&root, &image, 64, ROOT_UUID, &[]);
            let found = look_at(&[image]);
            assert_eq!(found.notes, Vec::<String>::new(), "{packing:?} {early}");
            let kernels = found.systems[0].kernels.as_ref().unwrap();
            let drivers = kernels[0].initramfs_drivers.as_ref();
            assert_eq!(drivers, Some(&expected), "{packing:?} {early}");
        }
    }
}

#[test]
fn an_initramfs_that_is_cut_or_unknown_is_null_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("boot")).unwrap();
    system(&root, &root.join("boot"), "");
    let boot = root.join(format!("boot/initrd.img-{}", scene::RELEASE));
    let whole = scene::initramfs(Packing::Zstd, true);
    let cases: [(&str, Vec<u8>); 5] = [
        ("cut in the archive in front", whole[..3000].to_vec()),
        (
            "cut in the compressed one",
            whole[..whole.len() - 100].to_vec(),
        ),
        ("empty", Vec::new()),
        ("bzip2", b"BZh91AY&SY".to_vec()),
        ("something else", vec![0x77; 5000]),
    ];
    for (what, bytes) in cases {
        fs::write(&boot, bytes).unwrap();
        let image = scratch.path().join("image");
        let _ = fs::remove_file(&image);
        ext4(&root, &image, 64, ROOT_UUID, &[]);
        let found = look_at(&[image]);
        let kernels = found.systems[0].kernels.as_ref().unwrap();
        assert_eq!(kernels[0].initramfs_drivers, None, "{what}");
        assert_eq!(found.notes.len(), 1, "{what}: {:?}", found.notes);
        assert!(found.notes[0].contains("/boot/initrd.img-"), "{what}");
    }
}

/// A filesystem that this machine's kernel mounts and fills.
fn mounted(image: &Path, mib: u64, mkfs: &[&str], options: &str, fill: impl FnOnce(&Path)) {
    let file = fs::File::create(image).unwrap();
    file.set_len(mib * scene::MIB).unwrap();
    let (tool, args) = mkfs.split_first().unwrap();
    run(tool, &[args, &[arg(image)]].concat());
    let at = image.with_extension("mounted");
    let mount = Mounted::new(image, &at, options);
    fill(mount.path());
    mount.unmount();
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["-a", &format!("{}/.", arg(from)), arg(to)]);
}

/// The files of a server whose kernels lie on its root.
fn whole(root: &Path, fstab: &str) {
    fs::create_dir_all(root.join("boot")).unwrap();
    system(root, &root.join("boot"), fstab);
}

#[test]
fn a_server_on_xfs_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    whole(&root, "");
    for (name, block) in [("v5", "size=4096"), ("1k", "size=1024")] {
        let image = scratch.path().join(name);
        let mkfs = [
            "mkfs.xfs",
            "-q",
            "-L",
            "root",
            "-m",
            &format!("uuid={ROOT_UUID}"),
            "-b",
            block,
        ];
        mounted(&image, 320, &mkfs, "", |at| {
            copy(&root, at);
            // A directory in several blocks, a long link, a file in pieces with a hole.
            for nth in 0..600 {
                fs::write(
                    at.join(format!("etc/file-{nth:03}-with-a-rather-long-name")),
                    "x",
                )
                .unwrap();
            }
            let long = format!("{}etc/hostname.real", "./".repeat(400));
            fs::rename(at.join("etc/hostname"), at.join("etc/hostname.real")).unwrap();
            std::os::unix::fs::symlink(format!("/{long}"), at.join("etc/hostname")).unwrap();
        });
        let found = look_at(&[image]);
        assert_eq!(found.notes, Vec::<String>::new(), "{name}");
        assert_eq!(found.systems.len(), 1, "{name}");
        check(&found.systems[0]);
        assert_eq!(found.systems[0].root.filesystem, "xfs");
        assert_eq!(found.systems[0].root.uuid.as_deref(), Some(ROOT_UUID));
        assert_eq!(found.systems[0].root.label.as_deref(), Some("root"));
    }
}

#[test]
fn a_server_on_a_subvolume_of_btrfs_is_read_and_its_snapshots_are_not() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let fstab = "LABEL=root / btrfs subvol=@,compress=zstd 0 0\nLABEL=root /boot btrfs \
                 defaults,subvol=/@boot 0 0\n";
    let boot = scratch.path().join("boot");
    fs::create_dir_all(&boot).unwrap();
    fs::create_dir_all(root.join("boot")).unwrap();
    system(&root, &boot, fstab);
    // A text that packs well, and is larger than what is packed together.
    fs::write(
        root.join("etc/adjtime"),
        format!("0.0 0 0.0\n0\nLOCAL\n{}", "x y z\n".repeat(60_000)),
    )
    .unwrap();
    for compression in ["no", "zlib", "lzo", "zstd"] {
        let image = scratch.path().join(compression);
        let mkfs = ["mkfs.btrfs", "-q", "-L", "root"];
        mounted(
            &image,
            320,
            &mkfs,
            &format!("compress-force={compression}"),
            |at| {
                for name in ["@", "@boot", "@home"] {
                    run("btrfs", &["-q", "subvolume", "create", arg(&at.join(name))]);
                }
                copy(&root, &at.join("@"));
                copy(&boot, &at.join("@boot"));
                run(
                    "btrfs",
                    &[
                        "-q",
                        "subvolume",
                        "snapshot",
                        arg(&at.join("@")),
                        arg(&at.join("before")),
                    ],
                );
                // After it the snapshot's tree is its own, the other one shares blocks.
                fs::write(at.join("@/etc/later"), "x").unwrap();
                fs::write(at.join("before/etc/hostname"), "before\n").unwrap();
            },
        );
        let uuid = run("blkid", &["-o", "value", "-s", "UUID", arg(&image)]);
        let found = look_at(&[image]);
        assert_eq!(found.notes, Vec::<String>::new(), "{compression}");
        assert_eq!(found.systems.len(), 1, "{compression}");
        check(&found.systems[0]);
        let place = &found.systems[0].root;
        assert_eq!(place.filesystem, "btrfs");
        assert_eq!(place.subvolume.as_deref(), Some("@"));
        assert_eq!(place.uuid.as_deref(), Some(uuid.trim()));
    }
}

#[test]
fn a_snapshot_that_is_the_default_subvolume_on_two_devices_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    whole(&root, "UUID=x / btrfs defaults 0 0\n");
    let images = ["one", "two"].map(|name| scratch.path().join(name));
    for image in &images {
        fs::File::create(image)
            .unwrap()
            .set_len(320 * scene::MIB)
            .unwrap();
    }
    run(
        "mkfs.btrfs",
        &[
            "-q",
            "-d",
            "raid0",
            "-m",
            "raid1",
            arg(&images[0]),
            arg(&images[1]),
        ],
    );
    let second = privileged("losetup", &["--find", "--show", arg(&images[1])]);
    let at = scratch.path().join("mounted");
    let device = format!("device={}", second.trim());
    let mount = Mounted::new(&images[0], &at, &device);
    run("btrfs", &["-q", "subvolume", "create", arg(&at.join("@"))]);
    fs::create_dir_all(at.join("@/.snapshots/1")).unwrap();
    let deep = at.join("@/.snapshots/1/snapshot");
    run("btrfs", &["-q", "subvolume", "create", arg(&deep)]);
    copy(&root, &deep);
    run("btrfs", &["-q", "subvolume", "set-default", arg(&deep)]);
    mount.unmount();
    privileged("losetup", &["--detach", second.trim()]);
    let found = look_at(&images);
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.systems.len(), 1);
    check(&found.systems[0]);
    let place = &found.systems[0].root;
    assert_eq!(place.subvolume.as_deref(), Some("@/.snapshots/1/snapshot"));
    assert_eq!(place.disks.len(), 2);
}
