//! The initramfs of each kernel, made anew by the system's own program: with the drivers of the VM's disks,
//! and with what its tables say now.

use super::guest::{Guest, NewFile, write_all};
use super::images::{Image, Images, Maker, asked};
use super::wanted::Wanted;
use crate::error::{Error, Kind, Result};
use crate::inventory::installed::Started;
use crate::vm::printable;

/// What a command says that may fail.
const FAILED: &str = "haulier-failed";
/// What takes a partition for the ESP although no udev has seen it (systemd's ENVIRONMENT.md).
const RELAXED: &str = "SYSTEMD_RELAX_ESP_CHECKS=1 SYSTEMD_RELAX_XBOOTLDR_CHECKS=1";
/// Where the partition with the kernels may be mounted.
const BOOT_ROOTS: [&str; 3] = ["/boot/efi", "/boot", "/efi"];

/// The drivers that are to go in.
#[derive(Debug, Default)]
pub(super) struct Drivers {
    pub(super) files: Vec<NewFile>,
    pub(super) done: Vec<String>,
    /// Those without which the VM's disks are not found.
    needed: Vec<&'static str>,
}

/// What tells the initramfs' program to put the drivers in; writes nothing.
///
/// # Errors
/// When the kernel that starts has no such drivers, or nothing makes its initramfs.
pub(super) fn prepare(
    guest: &dyn Guest,
    wanted: &Wanted,
    images: Option<&Images>,
) -> Result<Drivers> {
    let unsupported = |why: String| Error::new(Kind::Unsupported, why);
    let images = images.ok_or_else(|| {
        unsupported(
            "this system has neither update-initramfs nor dracut to make its initramfs with".into(),
        )
    })?;
    let starts = wanted.kernels.first().map(|kernel| kernel.release.as_str());
    let main = match (images.all.first(), starts) {
        (Some(main), None) => main,
        (Some(main), Some(starts)) if main.release == starts => main,
        (_, Some(starts)) => {
            return Err(unsupported(format!(
                "no initramfs of the kernel that starts, {}, was found",
                printable(starts)
            )));
        }
        (None, None) => return Err(unsupported("no kernel with an initramfs was found".into())),
    };
    let lacks = main.lacks(&wanted.drivers);
    if !lacks.is_empty() {
        return Err(unsupported(format!(
            "the kernel that starts, {}, has no driver {}",
            main.release,
            lacks.join(", ")
        )));
    }
    let list: Vec<&str> = asked(wanted)
        .into_iter()
        .filter(|driver| main.modules.iter().any(|module| module == driver))
        .collect();
    let (path, content) = match images.maker {
        Maker::UpdateInitramfs => {
            let path = "/etc/initramfs-tools/modules";
            let mut text = guest.read(path)?.unwrap_or_default();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            for driver in &list {
                if !text.lines().any(|line| line.trim() == *driver) {
                    text += &format!("{driver}\n");
                }
            }
            (path, text)
        }
        Maker::Dracut => {
            let list = list.join(" ");
            let text = format!("# Written by haulier import.\nadd_drivers+=\" {list} \"\n");
            ("/etc/dracut.conf.d/haulier.conf", text)
        }
    };
    Ok(Drivers {
        done: vec![format!("{path}: {}", list.join(" "))],
        files: vec![NewFile {
            path: path.to_owned(),
            content,
        }],
        needed: wanted.drivers.clone(),
    })
}

/// What was made, and what is to be told.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) done: Vec<String>,
    pub(super) told: Vec<String>,
}

/// Why they are made anew, and what has to hold afterwards.
#[derive(Debug, Default)]
pub(super) struct Reason<'a> {
    /// The drivers that have to be in them.
    pub(super) drivers: Option<&'a Drivers>,
    /// Whether something in them holds no more.
    pub(super) is_stale: bool,
    /// Names that no command line may have any more.
    pub(super) gone: &'a [String],
    /// Whether the firmware starts only what is signed.
    pub(super) secure_boot: bool,
}

/// Makes the initramfs of each kernel anew, and looks into it. The kernel that starts must succeed; of the others
/// it is told.
///
/// # Errors
/// With the program's own words.
pub(super) fn make(guest: &dyn Guest, images: &Images, reason: &Reason<'_>) -> Result<Made> {
    let mut made = Made::default();
    if images.maker == Maker::UpdateInitramfs {
        // The machine that this runs in is not the one that it is for: nothing may be left out.
        let path = "/etc/initramfs-tools/conf.d/zz-haulier";
        let content = "# Written by haulier import.\nMODULES=most\n".to_owned();
        let path = path.to_owned();
        made.done.push(format!("{path}: MODULES=most"));
        write_all(guest, &[NewFile { path, content }])?;
    }
    let is_unified = images.all.iter().any(Image::is_unified);
    if images.maker == Maker::Dracut && is_unified {
        let path = "/etc/dracut.conf.d/zz-haulier.conf";
        let content = "# Written by haulier import.\nhostonly=\"no\"\n".to_owned();
        let path = path.to_owned();
        made.done.push(format!("{path}: hostonly=no"));
        write_all(guest, &[NewFile { path, content }])?;
    }
    let needed = reason.drivers.map_or(&[][..], |drivers| &drivers.needed);
    let mut releases = Vec::new();
    for (nth, image) in images.all.iter().enumerate() {
        let Image { release, .. } = image;
        let lacks = image.lacks(needed);
        if !lacks.is_empty() {
            made.told.push(format!(
                "the kernel {release}, which is not the one that starts, has no driver {} and does not start \
                 in this VM",
                lacks.join(", ")
            ));
            if !reason.is_stale {
                continue;
            }
        }
        let is_signed = match &image.loaded {
            Some(loaded) if loaded.is_unified && reason.secure_boot => {
                let before = started(guest, image)?;
                before.unified.is_some_and(|unified| unified.is_signed)
            }
            _ => false,
        };
        let command = command(images.maker, image);
        if nth == 0 {
            guest.run(&["sh", &command])?;
        } else if guest
            .run(&["sh", &format!("{command} || echo {FAILED}")])?
            .contains(FAILED)
        {
            made.told.push(format!(
                "the initramfs of the kernel {release}, which is not the one that starts, could not be made \
                 anew and is as it was"
            ));
            continue;
        }
        let faults = faults(guest, images.maker, image, needed, reason, is_signed)?;
        if let Some(fault) = faults.first() {
            if nth == 0 {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{} made {}, and {fault}", images.maker.name(), image.file()),
                ));
            }
            if lacks.is_empty() {
                made.told.push(format!(
                    "{} of the kernel {release}, which is not the one that starts, was made anew, and {fault}",
                    image.file()
                ));
            }
        }
        releases.push(release.as_str());
    }
    let (name, releases) = (images.maker.name(), releases.join(", "));
    let what = match is_unified {
        true => "unified kernel image",
        false => "initramfs",
    };
    made.done.push(match needed {
        [] => format!("{name} made the {what} of {releases} anew"),
        _ => format!("{name} made the {what} of {releases} anew, with the drivers"),
    });
    Ok(made)
}

/// What makes the initramfs of a kernel anew, and brings it to where the loader takes it from.
fn command(maker: Maker, image: &Image) -> String {
    let Image { release, path, .. } = image;
    let mut roots = BOOT_ROOTS.iter();
    let root = roots.find(|root| image.file().starts_with(&format!("{root}/")));
    let settings = match root {
        Some(root) => format!("{RELAXED} BOOT_ROOT={root}"),
        None => RELAXED.to_owned(),
    };
    match (maker, &image.loaded) {
        (Maker::UpdateInitramfs, None) => format!("update-initramfs -u -k {release}"),
        // A hook of the package may do the second part, too, but not where it takes no loader for installed.
        (Maker::UpdateInitramfs, Some(_)) => format!(
            "export {settings}; update-initramfs -u -k {release} && kernel-install add {release} \
             /boot/vmlinuz-{release} {path}"
        ),
        (Maker::Dracut, Some(loaded)) if loaded.is_unified => format!(
            "export {settings}; for kernel in /lib/modules/{release}/vmlinuz /boot/vmlinuz-{release}; do \
             [ -e $kernel ] && break; done; kernel-install add {release} $kernel"
        ),
        // What was told to the initramfs of one machine is found by looking: dracut.cmdline(7), rd.auto.
        (Maker::Dracut, _) => {
            format!("dracut --force --no-hostonly --kernel-cmdline rd.auto=1 {path} {release}")
        }
    }
}

/// What the loader loads with a kernel.
fn started(guest: &dyn Guest, image: &Image) -> Result<Started> {
    let doing = || format!("looking into {}", image.file());
    let file = guest.fetch(image.file())?.ok_or_else(|| {
        Error::new(Kind::Unsupported, doing()).because("it is not there any more")
    })?;
    let is_unified = image.is_unified();
    Started::read(&file, is_unified)
        .map_err(|why| Error::new(Kind::Unsupported, doing()).because(why))
}

/// What is wrong with what was made, each half a sentence.
fn faults(
    guest: &dyn Guest,
    maker: Maker,
    image: &Image,
    needed: &[&str],
    reason: &Reason<'_>,
    is_signed: bool,
) -> Result<Vec<String>> {
    let modules = needed
        .iter()
        .filter(|driver| !image.builtin.iter().any(|b| b == *driver));
    let modules: Vec<&str> = modules.copied().collect();
    let mut faults = Vec::new();
    let missing = match &image.loaded {
        // The system's own program lists another file.
        Some(_) => {
            let started = started(guest, image)?;
            if let Some(unified) = &started.unified {
                let mut words = unified.options.split_whitespace();
                let is_gone = |word: &&str| {
                    let name = word.strip_prefix("root=").or(word.strip_prefix("resume="));
                    name.is_some_and(|name| reason.gone.iter().any(|gone| gone == name))
                };
                if let Some(word) = words.find(is_gone) {
                    faults.push(format!("its command line still has {}", printable(word)));
                }
                if is_signed && !unified.is_signed {
                    faults.push(
                        "it is not signed as the one before was, and Secure Boot is enabled".into(),
                    );
                }
            }
            let has = |driver: &&str| started.drivers.iter().any(|name| name == driver);
            modules.into_iter().filter(|driver| !has(driver)).collect()
        }
        None => missing(guest, maker, image, modules)?,
    };
    if !missing.is_empty() {
        faults.push(format!("{} is not in it", missing.join(", ")));
    }
    Ok(faults)
}

/// Those of the modules that are not in an initramfs, by the word of the system's own program.
fn missing<'a>(
    guest: &dyn Guest,
    maker: Maker,
    image: &Image,
    modules: Vec<&'a str>,
) -> Result<Vec<&'a str>> {
    if modules.is_empty() {
        return Ok(modules);
    }
    let list = match maker {
        Maker::UpdateInitramfs => "lsinitramfs",
        Maker::Dracut => "lsinitrd",
    };
    let script = format!(
        "list=$({list} {})
         for driver in {}; do echo \"$list\" | grep -q \"/$driver\\.ko\" || echo \"missing $driver\"; done",
        image.path,
        modules.join(" ")
    );
    let said = guest.run(&["sh", &script])?;
    let is_missing = |driver: &&str| {
        said.lines()
            .any(|line| line.trim() == format!("missing {driver}"))
    };
    Ok(modules.into_iter().filter(is_missing).collect())
}

#[cfg(test)]
mod tests {
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
                Ok("6.12.1 /efi/id/6.12.1/initrd virtio_blk=module virtio_pci=module\n6$(reboot) /x\n".into())
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
        let dracut = "sh dracut --force --no-hostonly --kernel-cmdline rd.auto=1 /efi/id/6.12.1/initrd 6.12.1";
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
}
