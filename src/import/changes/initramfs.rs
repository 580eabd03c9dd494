//! The initramfs of each kernel, made anew by the system's own program: with the drivers of the VM's disks,
//! and with what its tables say now.

use super::guest::{Guest, NewFile, write_all};
use super::wanted::Wanted;
use crate::error::{Error, Kind, Result};
use crate::vm::printable;

/// Debian's program for its initramfs.
const UPDATE_INITRAMFS: &str = "/usr/sbin/update-initramfs";
/// Drivers that are put in where the kernel has them as modules: whatever virtio disk the VM has one day.
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"];
/// What a command says that may fail.
const FAILED: &str = "haulier-failed";

/// What makes an initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    UpdateInitramfs,
    Dracut,
}

impl Maker {
    fn name(self) -> &'static str {
        match self {
            Self::UpdateInitramfs => "update-initramfs",
            Self::Dracut => "dracut",
        }
    }
}

/// A kernel and its initramfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Image {
    release: String,
    path: String,
    /// Drivers that it has as modules.
    modules: Vec<String>,
    /// Drivers that are in the kernel itself.
    builtin: Vec<String>,
}

impl Image {
    fn lacks<'a>(&self, drivers: &[&'a str]) -> Vec<&'a str> {
        let has = |driver: &str| {
            self.modules
                .iter()
                .chain(&self.builtin)
                .any(|d| d == driver)
        };
        drivers
            .iter()
            .copied()
            .filter(|driver| !has(driver))
            .collect()
    }
}

/// The kernels of a system, with what makes their initramfs.
#[derive(Debug)]
pub(super) struct Images {
    maker: Maker,
    /// The kernel that starts comes first.
    all: Vec<Image>,
}

impl Images {
    /// Whether no kernel has an initramfs.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// Whether dracut makes this system's initramfs.
pub(super) fn is_dracut(guest: &dyn Guest) -> Result<bool> {
    Ok(!guest.is_file(UPDATE_INITRAMFS)?
        && (guest.is_file("/usr/bin/dracut")? || guest.is_file("/sbin/dracut")?))
}

/// Looks for the kernels that have an initramfs; `None` where nothing known makes them.
///
/// # Errors
/// With libguestfs' words.
pub(super) fn find(guest: &dyn Guest, wanted: &Wanted) -> Result<Option<Images>> {
    let maker = if guest.is_file(UPDATE_INITRAMFS)? {
        Maker::UpdateInitramfs
    } else if is_dracut(guest)? {
        Maker::Dracut
    } else {
        return Ok(None);
    };
    let known: String = wanted
        .kernels
        .iter()
        .filter_map(|kernel| Some((kernel.release.as_str(), kernel.initramfs.as_deref()?)))
        .filter(|(release, path)| maker == Maker::Dracut && is_plain(release) && is_plain(path))
        .map(|(release, path)| format!("[ \"$kernel\" = {release} ] && known={path}\n"))
        .collect();
    let script = format!(
        "for kernel in $(ls -1vr /lib/modules); do
             known=
             {known}
             for image in $known /boot/initrd.img-$kernel /boot/initramfs-$kernel.img /boot/initrd-$kernel; do
                 [ -f \"$image\" ] || continue
                 line=\"$kernel $image\"
                 for driver in {}; do
                     if grep -qs \"/$driver\\.ko\" \"/lib/modules/$kernel/modules.builtin\"; then
                         line=\"$line $driver=builtin\"
                     elif grep -qs \"/$driver\\.ko\" \"/lib/modules/$kernel/modules.dep\"; then
                         line=\"$line $driver=module\"
                     fi
                 done
                 echo \"$line\"
                 break
             done
         done",
        DRIVERS.join(" ")
    );
    let mut all: Vec<Image> = guest
        .run(&["sh", &script])?
        .lines()
        .filter_map(image)
        .collect();
    // Which one starts is known, or it is taken to be the newest.
    let first = wanted.kernels.first().map(|kernel| kernel.release.as_str());
    all.sort_by_key(|image| Some(image.release.as_str()) != first);
    Ok(Some(Images { maker, all }))
}

/// A line of the script above.
fn image(line: &str) -> Option<Image> {
    let mut words = line.split_whitespace();
    let mut image = Image {
        release: words.next().filter(|word| is_plain(word))?.to_owned(),
        path: words.next().filter(|word| is_plain(word))?.to_owned(),
        ..Image::default()
    };
    for word in words {
        match word.split_once('=') {
            Some((driver, "module")) => image.modules.push(driver.to_owned()),
            Some((driver, "builtin")) => image.builtin.push(driver.to_owned()),
            _ => {}
        }
    }
    Some(image)
}

/// A word that means nothing to a shell.
fn is_plain(word: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+~-".contains(&b);
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(plain)
}

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
    let list: Vec<&str> = DRIVERS
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

/// Makes the initramfs of each kernel anew, and looks into it for the drivers, where some are to be in it. The
/// kernel that starts must succeed; of the others it is told. Without `is_stale` there is no other reason than
/// the drivers.
///
/// # Errors
/// With the program's own words.
pub(super) fn make(
    guest: &dyn Guest,
    images: &Images,
    drivers: Option<&Drivers>,
    is_stale: bool,
) -> Result<Made> {
    let mut made = Made::default();
    if images.maker == Maker::UpdateInitramfs {
        // The machine that this runs in is not the one that it is for: nothing may be left out.
        let path = "/etc/initramfs-tools/conf.d/zz-haulier";
        let content = "# Written by haulier import.\nMODULES=most\n".to_owned();
        let path = path.to_owned();
        made.done.push(format!("{path}: MODULES=most"));
        write_all(guest, &[NewFile { path, content }])?;
    }
    let needed = drivers.map_or(&[][..], |drivers| &drivers.needed);
    let mut releases = Vec::new();
    for (nth, image) in images.all.iter().enumerate() {
        let Image { release, path, .. } = image;
        let lacks = image.lacks(needed);
        if !lacks.is_empty() {
            made.told.push(format!(
                "the kernel {release}, which is not the one that starts, has no driver {} and does not start \
                 in this VM",
                lacks.join(", ")
            ));
            if !is_stale {
                continue;
            }
        }
        let command = match images.maker {
            Maker::UpdateInitramfs => format!("update-initramfs -u -k {release}"),
            // What was told to the initramfs of one machine is found by looking: dracut.cmdline(7), rd.auto.
            Maker::Dracut => {
                format!("dracut --force --no-hostonly --kernel-cmdline rd.auto=1 {path} {release}")
            }
        };
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
        let missing = missing(guest, images.maker, image, needed)?;
        if !missing.is_empty() && nth == 0 {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{} made {path}, and {} is not in it",
                    images.maker.name(),
                    missing.join(", ")
                ),
            ));
        }
        if !missing.is_empty() && lacks.is_empty() {
            made.told.push(format!(
                "{path} of the kernel {release}, which is not the one that starts, has no driver {}",
                missing.join(", ")
            ));
        }
        releases.push(release.as_str());
    }
    let (name, releases) = (images.maker.name(), releases.join(", "));
    made.done.push(match needed {
        [] => format!("{name} made the initramfs of {releases} anew"),
        _ => format!("{name} made the initramfs of {releases} anew, with the drivers"),
    });
    Ok(made)
}

/// The drivers that are in neither an initramfs nor its kernel.
fn missing<'a>(
    guest: &dyn Guest,
    maker: Maker,
    image: &Image,
    needed: &[&'a str],
) -> Result<Vec<&'a str>> {
    let modules = needed
        .iter()
        .filter(|driver| !image.builtin.iter().any(|b| b == *driver));
    let modules: Vec<&str> = modules.copied().collect();
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
    use super::super::wanted::KernelImage;
    use super::*;

    const NEW: &str =
        "6.12.57 /boot/initrd.img-6.12.57 virtio_pci=builtin virtio_blk=module sd_mod=module";
    const OLD: &str = "2.6.18 /boot/initrd.img-2.6.18 sd_mod=module";

    fn wanted(starts: Option<&str>) -> Wanted {
        let kernel = |release: &str| KernelImage {
            release: release.into(),
            initramfs: None,
        };
        Wanted {
            drivers: vec!["virtio_pci", "virtio_blk"],
            kernels: starts.map(kernel).into_iter().collect(),
            ..Wanted::default()
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
        let made = make(&guest, &images, Some(&drivers), false).unwrap();
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
            match make(&guest, &images, Some(&drivers), false) {
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
        let error = make(&guest, &images, None, true).unwrap_err().to_string();
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
        make(&guest, &images, Some(&drivers), false).unwrap();
        let ran = guest.ran.borrow();
        let dracut = "sh dracut --force --no-hostonly --kernel-cmdline rd.auto=1 /efi/id/6.12.1/initrd 6.12.1";
        assert!(ran.iter().any(|command| command == dracut), "{ran:?}");
    }
}
