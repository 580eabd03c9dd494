//! The kernels of a Linux, and the drivers in each and in its initramfs.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::loader::{Entry, Menu, shown, version_key};
use super::reading::{Reading, assignments};
use super::system::{CommandLine, Kernel};
use super::unified::Unified;
use super::{drivers, initramfs};
use std::collections::BTreeSet;

/// Kernels that are told.
const MOST: usize = 16;
/// Initramfs that are read: unpacking each takes a second or so.
const MOST_READ: usize = 3;
/// What stands in front of the release in the name of a kernel.
const IMAGES: [&str; 5] = ["vmlinuz-", "vmlinux-", "kernel-", "linux-", "bzImage-"];

/// The kernels, the one that starts first, then the newest.
pub(super) fn kernels(reading: &Reading<'_>, menu: Option<&Menu>) -> Option<Vec<Kernel>> {
    let default = menu.and_then(Menu::first);
    let mut starts = default.and_then(|entry| release_of(reading, entry));
    let mut images: BTreeSet<String> = reading
        .list("/boot")
        .iter()
        .filter(|entry| !entry.is_directory)
        .filter_map(|entry| release_in(&entry.name))
        .collect();
    let unified = menu.iter().flat_map(|menu| &menu.entries);
    images.extend(
        unified
            .filter(|entry| entry.unified.is_some())
            .filter_map(|entry| release_of(reading, entry)),
    );
    let modules: BTreeSet<String> = reading
        .list("/lib/modules")
        .into_iter()
        .filter(|entry| entry.is_directory)
        .map(|entry| entry.name)
        .filter(|name| is_release(name))
        .collect();
    // Folders of modules stay behind when a kernel is removed, so those with an image come before them.
    let mut releases: Vec<&String> = images.iter().filter(|r| modules.contains(*r)).collect();
    if releases.is_empty() {
        releases = images.union(&modules).collect();
    }
    // Arch and Alpine call their kernels by other names than their releases.
    if let ([only], None, Some(_)) = (releases.as_slice(), &starts, default) {
        starts = Some((*only).clone());
    }
    if let Some(starts) = &starts
        && !releases.contains(&starts)
    {
        releases.push(starts);
    }
    releases.sort_by_key(|release| {
        let is_first = starts.as_ref() == Some(*release);
        (is_first, version_key(release))
    });
    let kernels: Vec<Kernel> = releases
        .into_iter()
        .rev()
        .take(MOST)
        .enumerate()
        .map(|(nth, release)| {
            let entry = match default.filter(|_| starts.as_ref() == Some(release)) {
                Some(default) => Some(default),
                None => entry_of(reading, menu, release),
            };
            let unified = entry.and_then(|entry| entry.unified.clone());
            let path = match unified {
                Some(_) => None,
                None => initramfs_of(reading, release, entry),
            };
            let read = unified.as_deref().or(path.as_deref());
            Kernel {
                default: starts.as_ref().map(|starts| starts == release),
                initramfs_drivers: read
                    .filter(|_| nth < MOST_READ)
                    .and_then(|path| drivers_in(reading, path, unified.is_some())),
                builtin_drivers: reading
                    .text(&format!("/lib/modules/{release}/modules.builtin"))
                    .map(|text| drivers::built_in(&text)),
                initramfs: path,
                unified_image: unified,
                release: release.clone(),
            }
        })
        .collect();
    (!kernels.is_empty()).then_some(kernels)
}

/// Letters, digits and `+-._~`: what a kernel's makefile lets through.
pub(super) fn is_release(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-._~".contains(&byte))
}

/// The release in the name of a kernel's image.
fn release_in(name: &str) -> Option<String> {
    let mut images = IMAGES.iter();
    let release = images.find_map(|image| name.strip_prefix(image))?;
    is_release(release).then(|| release.to_owned())
}

/// The release of the kernel that an entry starts. Its path may be a link (`/vmlinuz`), and its root
/// may be another than that of the system.
fn release_of(reading: &Reading<'_>, entry: &Entry) -> Option<String> {
    if let Some(release) = entry.release.as_deref().filter(|r| is_release(r)) {
        return Some(release.to_owned());
    }
    let file = entry.kernel.rsplit('/').next()?;
    release_in(file).or_else(|| {
        let path = places(&entry.kernel)
            .into_iter()
            .find(|path| reading.exists(path))?;
        let real = reading.files.real_path(&path).ok()??;
        release_in(real.rsplit('/').next()?)
    })
}

/// The first entry that starts this kernel.
fn entry_of<'m>(reading: &Reading<'_>, menu: Option<&'m Menu>, release: &str) -> Option<&'m Entry> {
    let mut entries = menu?.entries.iter();
    entries.find(|entry| release_of(reading, entry).as_deref() == Some(release))
}

/// Where a path of a boot loader may be in the system: it counts from the filesystem that it reads.
fn places(path: &str) -> Vec<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let below = path.trim_start_matches("($root)").trim_start_matches('/');
    vec![
        format!("/boot/{below}"),
        format!("/boot/{file}"),
        format!("/{below}"),
        format!("/efi/{below}"),
        format!("/boot/efi/{below}"),
    ]
}

fn initramfs_of(reading: &Reading<'_>, release: &str, entry: Option<&Entry>) -> Option<String> {
    let is_there =
        |path: &String| matches!(reading.files.kind(path), Ok(Some(crate::files::Kind::File)));
    // Microcode comes in front of it.
    let of_entry = entry.and_then(|entry| entry.initramfs.last());
    let by_entry = of_entry.map(|path| places(path)).unwrap_or_default();
    let by_name = [
        format!("/boot/initrd.img-{release}"),
        format!("/boot/initramfs-{release}.img"),
        format!("/boot/initrd-{release}"),
        format!("/boot/initrd-{release}.img"),
        format!("/boot/initramfs-{release}"),
        format!("/lib/modules/{release}/initrd"),
    ];
    let path = by_entry.into_iter().chain(by_name).find(is_there)?;
    // `/initrd.img` leads to the one of the release.
    reading.files.real_path(&path).ok()?
}

fn drivers_in(reading: &Reading<'_>, path: &str, is_unified: bool) -> Option<Vec<String>> {
    let content = reading.open(path)?;
    let drivers = match is_unified {
        true => Unified::read(&*content).and_then(|unified| unified.drivers(&*content)),
        false => initramfs::drivers(&*content),
    };
    match drivers {
        Ok(drivers) => Some(drivers),
        Err(why) => {
            reading.note(path, why);
            None
        }
    }
}

/// The command line of the kernel that starts, or what the next menu will be made of.
pub(super) fn command_line(reading: &Reading<'_>, menu: Option<&Menu>) -> Option<CommandLine> {
    let of_menu = menu.and_then(|menu| {
        let first = menu.first()?;
        let file = first.file.as_ref().unwrap_or(&menu.file);
        Some((first.options.clone(), file.clone()))
    });
    let (options, file) = of_menu
        .or_else(|| {
            let path = "/etc/kernel/cmdline";
            Some((reading.text(path)?.replace('\n', " "), path.to_owned()))
        })
        .or_else(|| {
            let path = "/etc/default/grub";
            let text = reading.text(path)?;
            let value = |wanted: &str| {
                let mut all = assignments(&text);
                all.find(|(key, _)| *key == wanted).map(|(_, value)| value)
            };
            let both = [
                value("GRUB_CMDLINE_LINUX"),
                value("GRUB_CMDLINE_LINUX_DEFAULT"),
            ];
            let both: Vec<String> = both.into_iter().flatten().collect();
            Some((both.join(" "), path.to_owned()))
        })?;
    let text = shown(&options)?;
    let word = |key: &str| {
        let mut words = text.split_whitespace().rev();
        let value = words.find_map(|word| word.strip_prefix(key))?;
        Some(value.trim_matches('"').to_owned())
    };
    Some(CommandLine {
        root: word("root="),
        resume: word("resume="),
        text,
        file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_from_other_names() {
        assert_eq!(
            release_in("vmlinuz-6.12.57+deb13-amd64").unwrap(),
            "6.12.57+deb13-amd64"
        );
        for name in [
            "vmlinuz",
            "vmlinuz-linux",
            "vmlinuz-0-rescue-../../x",
            "vmlinuz-6\n",
            "config-6.12.57",
        ] {
            assert_eq!(release_in(name), None, "{name}");
        }
    }
}
