//! What is installed on disks, read without mounting them: filesystems are made and filled with the
//! distributions' own tools, and each fact has to come out as it was put in; what is in an initramfs, as
//! `lsinitramfs` sees it.

mod map_support;

#[path = "installed/scene.rs"]
mod scene;

use haulier::inventory::SystemKind;
use scene::{
    BOOT_UUID, Packing, ROOT_UUID, check, disk, ext4, look_at, modules_by_lsinitramfs, system,
};
use std::fs;

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
