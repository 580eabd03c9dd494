//! Unified kernel images, put together by objcopy out of systemd's own stub as its manual page systemd-stub(7)
//! says, on an ESP of systemd-boot.

use crate::map_support::{arg, run};
use crate::scene::{
    Packing, ROOT_UUID, disk, esp_image, ext4, initramfs, look_at, modules_by_lsinitramfs,
};
use std::fs;
use std::path::Path;

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// An image with these sections, the way from file to section as objcopy wants it.
fn image(folder: &Path, sections: &[(&str, &[u8])], to: &Path) {
    let mut words: Vec<String> = Vec::new();
    // Behind the stub's own.
    let mut at = 0x1000_0000_u64;
    for (name, content) in sections {
        let file = folder.join(name);
        fs::write(&file, content).unwrap();
        words.push(format!("--add-section=.{name}={}", arg(&file)));
        words.push(format!("--change-section-vma=.{name}={at:#x}"));
        at += u64::try_from(content.len())
            .unwrap()
            .next_multiple_of(0x1000);
    }
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.extend([STUB, arg(to)]);
    run("objcopy", &words);
}

#[test]
fn an_image_is_read_as_objcopy_made_it() {
    let (newer, older) = ("6.12.57-1-lts", "6.6.30-1-lts");
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for folder in [
        "root/etc",
        "root/efi",
        "esp/EFI/Linux",
        "esp/loader",
        "parts",
    ] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    fs::write(
        path("root/etc/os-release"),
        "ID=arch\nPRETTY_NAME=\"Arch Linux\"\n",
    )
    .unwrap();
    let fstab = format!("UUID={ROOT_UUID} / ext4 rw 0 1\nUUID=4A1D-7E33 /efi vfat rw 0 2\n");
    fs::write(path("root/etc/fstab"), fstab).unwrap();
    fs::write(path("initrd"), initramfs(Packing::Zstd, true)).unwrap();
    let packed = fs::read(path("initrd")).unwrap();
    for release in [newer, older] {
        fs::create_dir_all(path(&format!("root/lib/modules/{release}"))).unwrap();
        let options = format!("root=UUID={ROOT_UUID} rw\n");
        let mut sections: Vec<(&str, &[u8])> = vec![
            ("osrel", b"ID=arch\nPRETTY_NAME=\"Arch Linux\"\n"),
            ("cmdline", options.as_bytes()),
            ("initrd", &packed),
            ("linux", b"MZ"),
        ];
        // The older one is of a dracut that did not write it down.
        if release == newer {
            sections.push(("uname", release.as_bytes()));
        }
        let file = path(&format!("esp/EFI/Linux/arch-{release}.efi"));
        image(&path("parts"), &sections, &file);
    }
    fs::write(path("esp/EFI/Linux/broken.efi"), "MZ").unwrap();
    fs::copy(STUB, path("esp/EFI/Linux/stub.EFI")).unwrap();
    fs::write(
        path("esp/loader/loader.conf"),
        "timeout 3\ndefault arch-6.6*\n",
    )
    .unwrap();
    esp_image(&path("esp"), &path("esp.img"));
    ext4(&path("root"), &path("root.img"), 64, ROOT_UUID, &[]);
    disk(&path("disk"), &[&path("esp.img"), &path("root.img")]);

    let found = look_at(&[path("disk")]);
    assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
    assert!(found.notes[0].contains("/efi/EFI/Linux/broken.efi: it is no program of UEFI"));
    assert!(found.notes[1].contains("/efi/EFI/Linux/stub.EFI: it has no kernel in it"));
    let system = &found.systems[0];
    let kernels = system.kernels.as_ref().unwrap();
    let expected = modules_by_lsinitramfs(&path("initrd"));
    assert!(expected.len() > 3, "{expected:?}");
    for ((kernel, release), starts) in kernels.iter().zip([older, newer]).zip([true, false]) {
        assert_eq!((&*kernel.release, kernel.default), (release, Some(starts)));
        assert_eq!(kernel.initramfs, None);
        let file = format!("/efi/EFI/Linux/arch-{release}.efi");
        assert_eq!(kernel.unified_image.as_ref(), Some(&file));
        assert_eq!(kernel.initramfs_drivers.as_ref(), Some(&expected));
    }
    let line = system.command_line.as_ref().unwrap();
    assert_eq!(line.root.as_deref(), Some(&*format!("UUID={ROOT_UUID}")));
    assert_eq!(line.file, format!("/efi/EFI/Linux/arch-{older}.efi"));
}
