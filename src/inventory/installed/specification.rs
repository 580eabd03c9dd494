//! The entries of the Boot Loader Specification of the UAPI group: files of text (type 1, `loader/entries/*.conf`)
//! and unified kernel images (type 2, `EFI/Linux/*.efi`).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::kernels::is_release;
use super::loader::{Entry, Menu, version_key};
use super::reading::{Reading, plain};
use super::unified::Unified;

/// Where the partitions with entries are mounted: that of `/boot`, and the ESP.
const PLACES: [&str; 3] = ["/boot", "/efi", "/boot/efi"];
/// Entries that are read.
const MOST: usize = 256;

/// The entries, the one that a loader shows first in front; unified images among them only if asked for.
pub(super) fn entries(reading: &Reading<'_>, with_images: bool) -> Menu {
    let mut menu = Menu::default();
    let mut entries = Vec::new();
    let folders = PLACES.map(|place| format!("{place}/loader/entries"));
    if let Some(folder) = folders.iter().find(|folder| reading.exists(folder)) {
        let texts = reading.texts(folder, ".conf");
        entries.extend(texts.iter().filter_map(|(path, text)| entry(path, text)));
        menu.file.clone_from(folder);
    }
    let folders = PLACES.map(|place| format!("{place}/EFI/Linux"));
    let mut folders = folders.iter().filter(|_| with_images);
    if let Some(folder) = folders.find(|folder| reading.exists(folder)) {
        entries.extend(images(reading, folder));
        if menu.file.is_empty() {
            menu.file.clone_from(folder);
        }
    }
    // The newest first; a rescue entry, whose version has no digits in front, last.
    entries.sort_by_key(|entry| std::cmp::Reverse(by_version(entry)));
    for (nth, entry) in entries.iter_mut().enumerate() {
        entry.place = (nth, None);
        // `$kernelopts` of RHEL 8 stands in grubenv.
        if entry.options.contains("$kernelopts") {
            let kept = reading.text("/boot/grub2/grubenv").unwrap_or_default();
            // Not quoted there, and with blanks.
            let kept = kept
                .lines()
                .find_map(|line| line.strip_prefix("kernelopts="));
            entry.options = entry
                .options
                .replace("$kernelopts", kept.unwrap_or_default());
        }
    }
    let wishes = PLACES.map(|place| format!("{place}/loader/loader.conf"));
    let wish = wishes.iter().find(|path| reading.exists(path));
    menu.default = wish.and_then(|path| {
        let text = reading.text(path)?;
        let mut lines = text.lines();
        let wish = lines.find_map(|line| line.trim().strip_prefix("default "))?;
        Some(wish.trim().to_owned())
    });
    menu.entries = entries;
    menu
}

/// The release in the name of an image that does not tell it: dracut's `linux-6.12.57-<machine>.efi`, kernel-install's
/// `<token>-6.12.57.efi`.
fn release_in(file: &str, modules: &[String]) -> Option<String> {
    let named = modules
        .iter()
        .filter(|release| is_release(release) && file.contains(release.as_str()));
    named.max_by_key(|release| release.len()).cloned()
}

/// The unified kernel images of a folder; one that is damaged is told of.
fn images(reading: &Reading<'_>, folder: &str) -> Vec<Entry> {
    let modules: Vec<String> = reading
        .list("/lib/modules")
        .into_iter()
        .map(|folder| folder.name)
        .collect();
    let files = reading.list(folder).into_iter();
    files
        .filter(|file| !file.is_directory && file.name.to_ascii_lowercase().ends_with(".efi"))
        .take(MOST)
        .filter_map(|file| {
            let path = format!("{folder}/{}", file.name);
            let content = reading.open(&path)?;
            match Unified::read(&*content) {
                Ok(unified) => Some(Entry {
                    title: unified.title.unwrap_or_default(),
                    release: unified.release.or_else(|| release_in(&file.name, &modules)),
                    id: Some(file.name),
                    kernel: path.clone(),
                    options: unified.options,
                    file: Some(path.clone()),
                    unified: Some(path),
                    ..Entry::default()
                }),
                Err(why) => {
                    reading.note(&path, why);
                    None
                }
            }
        })
        .collect()
}

fn entry(path: &str, text: &str) -> Option<Entry> {
    let mut entry = Entry {
        id: path.rsplit('/').next().map(str::to_owned),
        file: Some(path.to_owned()),
        ..Entry::default()
    };
    let mut options: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else {
            continue;
        };
        let value = value.trim();
        match key {
            "title" => value.clone_into(&mut entry.title),
            "version" => entry.release = plain(value),
            "linux" => value.clone_into(&mut entry.kernel),
            // `$tuned_initrd` and its like are words of GRUB.
            "initrd" => entry.initramfs.extend(
                value
                    .split_whitespace()
                    .filter(|word| !word.starts_with('$'))
                    .map(str::to_owned),
            ),
            "options" => options.push(value),
            _ => {}
        }
    }
    entry.options = options.join(" ");
    (!entry.kernel.is_empty()).then_some(entry)
}

fn by_version(entry: &Entry) -> (bool, Vec<u64>) {
    let release = entry.release.as_deref().unwrap_or_default();
    let is_rescue = !release.starts_with(|c: char| c.is_ascii_digit());
    (!is_rescue, version_key(release))
}
