//! What the boot loader starts: GRUB's menu (`grub.cfg`, `menu.lst`), or the entries of the Boot Loader
//! Specification.
//!
//! GRUB's menu is a script. It is not run: the entries that are written in it are taken in their order,
//! and the default that is set last.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::reading::{Reading, assignments};
use super::specification;

/// Entries of a menu that are read.
const MOST: usize = 256;
/// Characters of a command line: the kernel takes 2048 on most architectures.
const LONGEST: usize = 4096;

/// An entry of a menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// What the menu shows.
    pub title: String,
    /// What it is called by.
    pub id: Option<String>,
    /// Its place in the menu, and in the submenu in it.
    pub(super) place: (usize, Option<usize>),
    /// Path of the kernel, by the loader's own root.
    pub kernel: String,
    /// Paths of what is unpacked into its initramfs.
    pub initramfs: Vec<String>,
    /// The kernel's command line.
    pub options: String,
    /// `version` of the Boot Loader Specification.
    pub release: Option<String>,
    /// The file of its own that it stands in, if it has one.
    pub file: Option<String>,
    /// The unified kernel image that it is.
    pub unified: Option<String>,
}

/// A menu.
#[derive(Debug, Default)]
pub(super) struct Menu {
    /// The file that it stands in.
    pub file: String,
    pub entries: Vec<Entry>,
    /// Which entry starts, as the menu says it.
    pub(super) default: Option<String>,
}

/// Where GRUB's menus are.
const MENUS: [&str; 6] = [
    "/boot/grub2/grub.cfg",
    "/boot/grub/grub.cfg",
    "/boot/efi/EFI/redhat/grub.cfg",
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/boot/efi/EFI/redhat/grub.conf",
];
/// The menu of a system; `None` if none is found.
pub(super) fn menu(reading: &Reading<'_>) -> Option<Menu> {
    let written = MENUS
        .iter()
        .find_map(|path| Some((*path, reading.text(path)?)));
    let environment = ["/boot/grub2/grubenv", "/boot/grub/grubenv"]
        .iter()
        .find_map(|path| reading.text(path))
        .unwrap_or_default();
    let mut menu = match &written {
        Some((path, text)) if path.ends_with("grub.cfg") => grub(path, text),
        Some((path, text)) => legacy(path, text),
        None => Menu::default(),
    };
    // `blscfg` puts them into GRUB's menu, in front of what is written behind it.
    let has_entries = written
        .as_ref()
        .is_none_or(|(_, text)| text.contains("blscfg"));
    if has_entries {
        // GRUB lists no unified images.
        let found = specification::entries(reading, written.is_none());
        if !found.entries.is_empty() {
            menu.file = found.file;
            menu.default = menu.default.or(found.default);
            menu.entries = found.entries.into_iter().chain(menu.entries).collect();
        }
    }
    let saved = assignments(&environment)
        .find(|(key, _)| *key == "saved_entry")
        .map(|(_, value)| value);
    let asks = menu.default.as_deref();
    if asks.is_none_or(|default| default.contains("saved_entry")) {
        menu.default = saved.filter(|saved| !saved.is_empty());
    }
    (!menu.entries.is_empty()).then_some(menu)
}

impl Menu {
    /// The entry that starts: the first one where the menu names none that it has.
    pub(super) fn first(&self) -> Option<&Entry> {
        let first = self.entries.first();
        let Some(default) = self.default.as_deref() else {
            return first;
        };
        let (top, below) = match default.split_once('>') {
            Some((top, below)) => (top, Some(below)),
            None => (default, None),
        };
        let by_name = |name: &str| {
            let mut entries = self.entries.iter();
            entries.find(|entry| {
                entry.id.as_deref() == Some(name)
                    || entry.title == name
                    || entry.id.as_deref().and_then(|id| id.strip_suffix(".conf")) == Some(name)
                    || is_meant(name, entry)
            })
        };
        let by_place = || {
            let top: usize = top.parse().ok()?;
            let below = match below {
                Some(below) => Some(below.parse().ok()?),
                None => None,
            };
            let mut entries = self.entries.iter();
            entries.find(|entry| entry.place == (top, below))
        };
        by_name(below.unwrap_or(top)).or_else(by_place).or(first)
    }
}

/// Whether a pattern of `loader.conf` means this entry (loader.conf(5), `default`): a star stands for anything
/// at the end of the ones that are written there.
fn is_meant(pattern: &str, entry: &Entry) -> bool {
    let stem = pattern.strip_suffix('*').filter(|_| entry.file.is_some());
    let Some((stem, id)) = stem.zip(entry.id.as_deref()) else {
        return false;
    };
    !stem.contains(['*', '?', '[']) && id.starts_with(stem)
}

/// The words of a line of GRUB's script, without their quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn grub(path: &str, text: &str) -> Menu {
    let mut menu = Menu {
        file: path.to_owned(),
        ..Menu::default()
    };
    let mut top: usize = 0;
    // Entries of the submenu that is open.
    let mut below: Option<usize> = None;
    let mut open: Option<Entry> = None;
    for line in text.lines() {
        let words = words(line);
        let Some((command, arguments)) = words.split_first() else {
            continue;
        };
        match command.as_str() {
            "set" => {
                let value = arguments.first().and_then(|a| a.strip_prefix("default="));
                if let Some(value) = value.filter(|value| !value.contains("next_entry")) {
                    menu.default = Some(value.to_owned());
                }
            }
            "menuentry" => {
                let mut options = arguments.iter();
                let id = options.find(|a| {
                    ["--id", "$menuentry_id_option", "${menuentry_id_option}"].contains(&a.as_str())
                });
                let id = id.and_then(|_| options.next());
                open = Some(Entry {
                    title: arguments.first().cloned().unwrap_or_default(),
                    id: id.cloned(),
                    place: (top, below),
                    ..Entry::default()
                });
            }
            "submenu" => below = Some(0),
            "linux" | "linuxefi" | "linux16" | "multiboot" | "module" | "module2" => {
                let Some(entry) = &mut open else { continue };
                // Under Xen the kernel is the first module.
                if let Some((kernel, options)) = arguments.split_first()
                    && (entry.kernel.is_empty() || command.starts_with("linux"))
                    && command != "multiboot"
                {
                    entry.kernel.clone_from(kernel);
                    entry.options = options.join(" ");
                }
            }
            "initrd" | "initrdefi" | "initrd16" => {
                if let Some(entry) = &mut open {
                    entry.initramfs = arguments.to_vec();
                }
            }
            "}" => match (open.take(), below) {
                (Some(entry), _) => {
                    match &mut below {
                        Some(nth) => *nth = nth.saturating_add(1),
                        None => top = top.saturating_add(1),
                    }
                    if !entry.kernel.is_empty() && menu.entries.len() < MOST {
                        menu.entries.push(entry);
                    }
                }
                (None, Some(_)) => {
                    below = None;
                    top = top.saturating_add(1);
                }
                (None, None) => {}
            },
            _ => {}
        }
    }
    menu
}

/// The menu of GRUB 0.97.
fn legacy(path: &str, text: &str) -> Menu {
    let mut menu = Menu {
        file: path.to_owned(),
        ..Menu::default()
    };
    let mut titles: usize = 0;
    let mut open: Option<Entry> = None;
    let close = |menu: &mut Menu, open: &mut Option<Entry>| {
        let done = open.take().filter(|entry| !entry.kernel.is_empty());
        if menu.entries.len() < MOST {
            menu.entries.extend(done);
        }
    };
    for line in text.lines() {
        let line = line.trim();
        let (command, rest) = line
            .split_once(|c: char| c.is_whitespace() || c == '=')
            .unwrap_or((line, ""));
        let rest = rest.trim();
        let arguments: Vec<&str> = rest.split_whitespace().collect();
        match command {
            "default" => menu.default = Some(rest.to_owned()),
            "title" => {
                close(&mut menu, &mut open);
                open = Some(Entry {
                    title: rest.to_owned(),
                    place: (titles, None),
                    ..Entry::default()
                });
                titles = titles.saturating_add(1);
            }
            "kernel" | "module" => {
                if let Some(entry) = &mut open
                    && let Some((kernel, options)) = arguments.split_first()
                    && !kernel.contains("xen")
                    && entry.kernel.is_empty()
                {
                    entry.kernel = (*kernel).to_owned();
                    entry.options = options.join(" ");
                }
            }
            "initrd" => {
                if let Some(entry) = &mut open {
                    entry.initramfs = arguments.iter().map(|a| (*a).to_owned()).collect();
                }
            }
            _ => {}
        }
    }
    close(&mut menu, &mut open);
    menu
}

/// The numbers in a release: `6.12.0-55.9.1.el10` is newer than `6.12.0-5`.
pub(super) fn version_key(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect()
}

/// A command line as it is told.
pub(super) fn shown(options: &str) -> Option<String> {
    let text: String = options
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRUB: &str = r#"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="1>2"
fi
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-6f0a' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	linux	/boot/vmlinuz-6.12.57 root=UUID=6f0a ro  quiet "video=a b"
	initrd	/boot/intel.img /boot/initrd.img-6.12.57
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-6f0a' {
	menuentry 'Linux 6.12.57' --id 'a' {
		linux	/boot/vmlinuz-6.12.57 root=UUID=6f0a
	}
	menuentry 'Linux 6.12.57 (recovery)' --id 'b' {
		linux	/boot/vmlinuz-6.12.57 root=UUID=6f0a single
	}
	menuentry 'Linux 6.1.0' --id 'c' {
		linux	/boot/vmlinuz-6.1.0 root=UUID=6f0a
	}
}
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
	fwsetup
}
menuentry 'Last' { 
	linux /vmlinuz
}
"#;

    #[test]
    fn the_default_of_a_menu_is_found_by_place_name_and_title() {
        let mut menu = grub("x", GRUB);
        assert_eq!(menu.entries.len(), 5);
        assert_eq!(menu.first().unwrap().kernel, "/boot/vmlinuz-6.1.0");
        for (default, title) in [
            (Some("0"), "Debian GNU/Linux"),
            (Some("3"), "Last"),
            (Some("gnulinux-advanced-6f0a>b"), "Linux 6.12.57 (recovery)"),
            (Some("Linux 6.1.0"), "Linux 6.1.0"),
            (Some("99"), "Debian GNU/Linux"),
            (Some("99999999999999999999>x"), "Debian GNU/Linux"),
            (None, "Debian GNU/Linux"),
        ] {
            menu.default = default.map(str::to_owned);
            assert_eq!(menu.first().unwrap().title, title, "{default:?}");
        }
        let first = &menu.entries[0];
        assert_eq!(first.options, "root=UUID=6f0a ro quiet video=a b");
        let initramfs = ["/boot/intel.img", "/boot/initrd.img-6.12.57"];
        assert_eq!(first.initramfs, initramfs);
    }

    #[test]
    fn an_old_menu_counts_its_titles() {
        let text = "default=1\ntimeout=5\ntitle Windows\n\trootnoverify (hd0,0)\ntitle CentOS 6\n\
                    \troot (hd0,0)\n\tkernel /vmlinuz-2.6.32 ro root=/dev/vg/root\n\
                    \tinitrd /initramfs-2.6.32.img\n";
        let menu = legacy("x", text);
        let default = menu.first().unwrap();
        assert_eq!(default.options, "ro root=/dev/vg/root");
        assert_eq!(default.initramfs, ["/initramfs-2.6.32.img"]);
    }

    proptest! {
        #[test]
        fn no_script_makes_it_crash(text in "([a-z ={}'\"\\\\$#>\n]|menuentry |submenu |linux |set default=|title |kernel ){0,60}") {
            for menu in [grub("x", &text), legacy("x", &text)] {
                let _ = menu.first();
            }
        }
    }

    #[test]
    fn newer_releases_come_first() {
        let key = version_key;
        assert!(key("6.12.0-55.9.1.el10") > key("6.12.0-5.el10"));
        assert!(key("6.2.0") < key("6.12.0"));
        assert!(key("99999999999999999999999.1") > key("6.12"));
    }
}
