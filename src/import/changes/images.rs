//! The kernels of a system with the files that they start with: what makes those, and what of them a loader loads.

use super::guest::Guest;
use super::wanted::{KernelImage, Wanted};
use crate::error::Result;

/// Debian's program for its initramfs.
pub(super) const UPDATE_INITRAMFS: &str = "/usr/sbin/update-initramfs";
/// What comes along with any of virtio: whatever virtio disk the VM has one day.
const VIRTIO: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_scsi"];
/// What comes along with all: the driver of disks that most controllers have.
const DISKS: &str = "sd_mod";

/// What makes an initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    UpdateInitramfs,
    Dracut,
}

impl Maker {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::UpdateInitramfs => "update-initramfs",
            Self::Dracut => "dracut",
        }
    }
}

/// The file that a boot loader loads, where it is not the one that the system's own program makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) path: String,
    /// Whether it is a unified kernel image.
    pub(super) is_unified: bool,
}

/// A kernel and its initramfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) release: String,
    /// The initramfs that the system's own program makes.
    pub(super) path: String,
    /// What is made out of it: a copy on the ESP, a unified kernel image.
    pub(super) loaded: Option<Loaded>,
    /// Drivers that it has as modules.
    pub(super) modules: Vec<String>,
    /// Drivers that are in the kernel itself.
    pub(super) builtin: Vec<String>,
}

impl Image {
    /// Whether it starts from a unified kernel image.
    pub(super) fn is_unified(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.is_unified)
    }

    /// The file that the loader loads.
    pub(super) fn file(&self) -> &str {
        let loaded = self.loaded.as_ref();
        loaded.map_or(&self.path, |loaded| &loaded.path)
    }

    pub(super) fn lacks<'a>(&self, drivers: &[&'a str]) -> Vec<&'a str> {
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
    pub(super) maker: Maker,
    /// The kernel that starts comes first.
    pub(super) all: Vec<Image>,
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
        .filter_map(|kernel| Some((kernel.release.as_str(), kernel.file()?)))
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
        asked(wanted).join(" ")
    );
    let mut all: Vec<Image> = guest
        .run(&["sh", &script])?
        .lines()
        .filter_map(|line| {
            let mut image = image(line)?;
            let mut kernels = wanted.kernels.iter();
            let kernel = kernels.find(|kernel| kernel.release == image.release);
            image.loaded = kernel.and_then(|kernel| loaded(kernel, &image));
            Some(image)
        })
        .collect();
    // Which one starts is known, or it is taken to be the newest.
    let first = wanted.kernels.first().map(|kernel| kernel.release.as_str());
    all.sort_by_key(|image| Some(image.release.as_str()) != first);
    Ok(Some(Images { maker, all }))
}

/// The drivers that are put in where the kernel has them as modules.
pub(super) fn asked(wanted: &Wanted) -> Vec<&'static str> {
    let is_virtio = wanted.drivers.iter().any(|driver| VIRTIO.contains(driver));
    let others = wanted
        .drivers
        .iter()
        .filter(|driver| !VIRTIO.contains(driver));
    let virtio = VIRTIO.iter().filter(|_| is_virtio);
    virtio.chain(others).copied().chain([DISKS]).collect()
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

/// What a loader loads with this kernel, where it is not the initramfs that was found.
fn loaded(kernel: &KernelImage, found: &Image) -> Option<Loaded> {
    let is_unified = kernel.unified.is_some();
    let path = kernel.file()?;
    (is_unified || path != found.path).then(|| Loaded {
        path: path.to_owned(),
        is_unified,
    })
}

/// A word that means nothing to a shell.
fn is_plain(word: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+~-".contains(&b);
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(plain)
}
