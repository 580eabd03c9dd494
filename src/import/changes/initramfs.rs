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
mod tests;
