use super::super::guest::fake::{Fake, failing};
use super::super::images::{UPDATE_INITRAMFS, find};
use super::super::wanted::KernelImage;
use super::*;
use crate::inventory::installed::{newc, unified_image};

const NEW: &str =
    "6.12.57 /boot/initrd.img-6.12.57 virtio_pci=builtin virtio_blk=module sd_mod=module";
const OLD: &str = "2.6.18 /boot/initrd.img-2.6.18 sd_mod=module";

fn wanted(starts: Option<&str>) -> Wanted {
    let kernel = |release: &str| KernelImage {
        release: release.into(),
        initramfs: None,
        unified: None,
    };
    Wanted {
        drivers: vec!["virtio_pci", "virtio_blk"],
        kernels: starts.map(kernel).into_iter().collect(),
        ..Wanted::default()
    }
}

fn with(drivers: &Drivers) -> Reason<'_> {
    Reason {
        drivers: Some(drivers),
        ..Reason::default()
    }
}

/// A Debian whose kernels are these; its programs do what `program` says.
fn debian(
    kernels: &'static [&'static str],
    program: impl Fn(&str) -> Result<String> + 'static,
) -> Fake {
    let files = [
        (UPDATE_INITRAMFS, ""),
        ("/etc/initramfs-tools/modules", "ahci"),
    ];
    Fake::new(&files).answering(move |_, words| match words {
        ["sh", script] if script.contains("modules.dep") => Ok(kernels.join("\n")),
        ["sh", script] => program(script),
        _ => Ok(String::new()),
    })
}

#[test]
fn the_kernel_that_starts_gets_the_drivers_and_an_old_one_is_told_of() {
    let guest = debian(&[NEW, OLD], |_| Ok(String::new()));
    let wanted = wanted(None);
    let images = find(&guest, &wanted).unwrap().unwrap();
    let drivers = prepare(&guest, &wanted, Some(&images)).unwrap();
    // virtio_pci is in the kernel, virtio_scsi is nowhere.
    assert_eq!(drivers.files[0].content, "ahci\nvirtio_blk\nsd_mod\n");
    let made = make(&guest, &images, &with(&drivers)).unwrap();
    assert_eq!(made.told.len(), 1, "{:?}", made.told);
    assert!(made.told[0].contains("2.6.18") && made.told[0].contains("virtio_blk"));
    let ran = guest.ran.borrow();
    assert!(
        ran.contains(&"sh update-initramfs -u -k 6.12.57".to_owned()),
        "{ran:?}"
    );
    assert!(
        !ran.iter().any(|command| command.contains("-k 2.6.18")),
        "{ran:?}"
    );
    assert_eq!(
        guest
            .text("/etc/initramfs-tools/conf.d/zz-haulier")
            .lines()
            .nth(1),
        Some("MODULES=most")
    );
}

#[test]
fn the_old_kernel_has_to_have_them_where_it_starts() {
    let guest = debian(&[NEW, OLD], |_| Ok(String::new()));
    let wanted = wanted(Some("2.6.18"));
    let images = find(&guest, &wanted).unwrap().unwrap();
    let error = prepare(&guest, &wanted, Some(&images))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2.6.18") && error.contains("virtio_pci, virtio_blk"),
        "{error}"
    );
}

#[test]
fn a_kernel_that_starts_and_has_no_initramfs_is_not_taken_for_another() {
    let guest = debian(&[NEW], |_| Ok(String::new()));
    let wanted = wanted(Some("6.12.99"));
    let images = find(&guest, &wanted).unwrap().unwrap();
    let error = prepare(&guest, &wanted, Some(&images))
        .unwrap_err()
        .to_string();
    assert!(error.contains("6.12.99"), "{error}");
}

#[test]
fn an_initramfs_without_the_drivers_in_the_end_is_an_error_and_of_another_kernel_none() {
    let other = "6.1.0 /boot/initrd.img-6.1.0 virtio_pci=builtin virtio_blk=module";
    let kernels = Box::leak(Box::new([NEW, other]));
    for (path, is_error) in [("initrd.img-6.12.57)", true), ("initrd.img-6.1.0)", false)] {
        let guest = debian(kernels, move |script| {
            let lacks = script.contains("lsinitramfs") && script.contains(path);
            Ok(if lacks {
                "missing virtio_blk\n".into()
            } else {
                String::new()
            })
        });
        let wanted = wanted(Some("6.12.57"));
        let images = find(&guest, &wanted).unwrap().unwrap();
        let drivers = prepare(&guest, &wanted, Some(&images)).unwrap();
        match make(&guest, &images, &with(&drivers)) {
            Err(error) => assert!(
                is_error && error.to_string().contains("virtio_blk"),
                "{error}"
            ),
            Ok(made) => assert!(!is_error && made.told.len() == 1, "{:?}", made.told),
        }
    }
}

#[test]
fn the_programs_own_words_are_the_error() {
    let guest = debian(&[NEW], |_| Err(failing("No space left on device")));
    let wanted = wanted(None);
    let images = find(&guest, &wanted).unwrap().unwrap();
    let error = make(
        &guest,
        &images,
        &Reason {
            is_stale: true,
            ..Reason::default()
        },
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("No space left"), "{error}");
}

#[test]
fn dracut_makes_the_file_that_the_loader_names_and_strange_names_are_left_out() {
    let guest = Fake::new(&[("/usr/bin/dracut", "")]).answering(|_, words| match words {
        ["sh", script] if script.contains("modules.dep") => {
            assert!(script.contains("[ \"$kernel\" = 6.12.1 ] && known=/efi/id/6.12.1/initrd"));
            assert!(!script.contains("reboot"));
            Ok(
                "6.12.1 /efi/id/6.12.1/initrd virtio_blk=module virtio_pci=module\n6$(reboot) /x\n"
                    .into(),
            )
        }
        _ => Ok(String::new()),
    });
    let kernel = |release: &str, path: &str| KernelImage {
        release: release.into(),
        initramfs: Some(path.into()),
        unified: None,
    };
    let wanted = Wanted {
        kernels: vec![
            kernel("6.12.1", "/efi/id/6.12.1/initrd"),
            kernel("6.1", "/$(reboot)"),
        ],
        ..wanted(None)
    };
    let images = find(&guest, &wanted).unwrap().unwrap();
    assert_eq!(images.all.len(), 1);
    let drivers = prepare(&guest, &wanted, Some(&images)).unwrap();
    make(&guest, &images, &with(&drivers)).unwrap();
    let ran = guest.ran.borrow();
    let dracut =
        "sh dracut --force --no-hostonly --kernel-cmdline rd.auto=1 /efi/id/6.12.1/initrd 6.12.1";
    assert!(ran.iter().any(|command| command == dracut), "{ran:?}");
}

const UKI: &str = "/efi/EFI/Linux/debian-6.12.57.efi";

/// A system that starts from a unified kernel image, which `after` replaces when it is made anew.
fn unified(before: &[u8], after: &[u8], folder: &std::path::Path) -> Fake {
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (before, after) = (file("before", before), file("after", after));
    let files = [("/usr/bin/dracut", ""), (UKI, &*before)];
    Fake::new(&files).answering(move |guest, words| match words {
        ["sh", script] if script.contains("modules.dep") => {
            assert!(script.contains(&format!("known={UKI}")), "{script}");
            Ok(format!(
                "6.12.57 {UKI} virtio_pci=builtin virtio_blk=module\n"
            ))
        }
        ["sh", script] => {
            assert!(script.contains("kernel-install add 6.12.57"), "{script}");
            assert!(script.contains("BOOT_ROOT=/efi"), "{script}");
            guest
                .files
                .borrow_mut()
                .insert(UKI.to_owned(), after.clone());
            Ok(String::new())
        }
        _ => Ok(String::new()),
    })
}

#[test]
fn a_unified_image_is_made_anew_and_believed_when_it_is_seen_to_be_right() {
    let wanted = Wanted {
        kernels: vec![KernelImage {
            release: "6.12.57".into(),
            initramfs: None,
            unified: Some(UKI.into()),
        }],
        ..wanted(None)
    };
    let gone = ["/dev/sda2".to_owned()];
    let (old, new) = ("root=/dev/sda2", "root=UUID=6f0a");
    let before = unified_image(old, &[], true);
    for (after, secure_boot, fault) in [
        (unified_image(new, &["virtio_blk"], true), true, None),
        (unified_image(new, &["virtio_blk"], false), false, None),
        (
            unified_image(new, &[], true),
            true,
            Some("virtio_blk is not in it"),
        ),
        (
            unified_image(old, &["virtio_blk"], true),
            true,
            Some("root=/dev/sda2"),
        ),
        (
            unified_image(new, &["virtio_blk"], false),
            true,
            Some("not signed"),
        ),
        (b"MZ".to_vec(), false, Some("no program of UEFI")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let guest = unified(&before, &after, folder.path());
        let images = find(&guest, &wanted).unwrap().unwrap();
        let drivers = prepare(&guest, &wanted, Some(&images)).unwrap();
        let reason = Reason {
            is_stale: true,
            gone: &gone,
            secure_boot,
            ..with(&drivers)
        };
        match (make(&guest, &images, &reason), fault) {
            (Ok(made), None) => {
                assert!(
                    made.done.iter().any(|line| line.contains("unified")),
                    "{:?}",
                    made.done
                );
            }
            (Err(error), Some(fault)) => {
                assert!(error.to_string().contains(fault), "{error}");
            }
            (result, fault) => panic!("{result:?} instead of {fault:?}"),
        }
        let conf = guest.text("/etc/dracut.conf.d/zz-haulier.conf");
        assert!(conf.contains("hostonly=\"no\""), "{conf}");
    }
}

#[test]
fn the_copy_that_the_loader_loads_is_looked_into() {
    let copy = "/boot/efi/debian/6.12.57/initrd.img-6.12.57";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initrd");
    for (module, is_there) in [("virtio_blk", true), ("ahci", false)] {
        let bytes = newc(&[(
            &format!("lib/modules/6/kernel/drivers/block/{module}.ko"),
            b"x",
        )]);
        std::fs::write(&path, bytes).unwrap();
        let guest = debian(&[NEW], |_| Ok(String::new()));
        let mut files = guest.files.borrow_mut();
        files.insert(copy.to_owned(), path.to_str().unwrap().to_owned());
        drop(files);
        let wanted = Wanted {
            kernels: vec![KernelImage {
                release: "6.12.57".into(),
                initramfs: Some(copy.into()),
                unified: None,
            }],
            ..wanted(None)
        };
        let images = find(&guest, &wanted).unwrap().unwrap();
        let drivers = prepare(&guest, &wanted, Some(&images)).unwrap();
        let made = make(&guest, &images, &with(&drivers));
        assert_eq!(made.is_ok(), is_there, "{made:?}");
        let ran = guest.ran.borrow();
        let is_copied = |command: &String| {
            command.contains("update-initramfs -u -k 6.12.57")
                && command.contains("BOOT_ROOT=/boot/efi")
        };
        assert!(ran.iter().any(is_copied), "{ran:?}");
    }
}
