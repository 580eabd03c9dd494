//! Names of devices in the tables of an installed Linux: `fstab`, `crypttab` and what GRUB tells the
//! kernel. Names that follow from the place of a disk (`/dev/sda2`, `/dev/disk/by-path/…`) mean nothing in
//! the VM; the UUID of what lies on the partition does (fstab(5), crypttab(5)).

/// A name that follows from a disk's place, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlaceName {
    /// The disk: `/dev/sda`, `/dev/disk/by-path/pci-0000:00:1f.2-ata-1`.
    pub(super) disk: String,
    /// The partition's number; `None` for the whole disk.
    pub(super) partition: Option<u32>,
}

/// Prefixes of the kernel's names of disks, and what stands before a partition's number.
const KERNEL_NAMES: [(&str, &str); 9] = [
    ("sd", ""),
    ("hd", ""),
    ("vd", ""),
    ("xvd", ""),
    ("nvme", "p"),
    ("mmcblk", "p"),
    ("cciss/c", "p"),
    ("ida/c", "p"),
    ("rd/c", "p"),
];

/// Takes `name` apart if it follows from a disk's place.
pub(super) fn place_name(name: &str) -> Option<PlaceName> {
    let short = name.strip_prefix("/dev/")?;
    // By the place on its bus, or by what the disk calls itself there: the model is part of it.
    if short.starts_with("disk/by-path/") || short.starts_with("disk/by-id/") {
        let parts = name.rsplit_once("-part").map(|(disk, n)| (disk, n.parse()));
        return Some(match parts {
            Some((disk, Ok(number))) => PlaceName {
                disk: disk.to_owned(),
                partition: Some(number),
            },
            _ => PlaceName {
                disk: name.to_owned(),
                partition: None,
            },
        });
    }
    let (_, infix) = KERNEL_NAMES
        .into_iter()
        .find(|(prefix, _)| short.starts_with(prefix))?;
    let stem = short.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = short.get(stem.len()..)?.parse().ok();
    let of_partition = |disk: &str| PlaceName {
        disk: format!("/dev/{disk}"),
        partition: number,
    };
    let whole = PlaceName {
        disk: name.to_owned(),
        partition: None,
    };
    Some(match (infix, number) {
        (_, None) => whole,
        ("", Some(_)) => of_partition(stem),
        // `nvme0n1` is a whole disk, `nvme0n1p2` a partition.
        (infix, Some(_)) => match stem.strip_suffix(infix) {
            Some(disk) if disk.ends_with(|c: char| c.is_ascii_digit()) => of_partition(disk),
            _ => whole,
        },
    })
}

/// A table with the names exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renamed {
    /// The whole table.
    pub(super) text: String,
    /// What became of what, in the table's order.
    pub(super) names: Vec<(String, String)>,
}

/// Exchanges names in one field (from 0) of each entry of a table like fstab; all else stays as it is,
/// blanks and comments too.
pub(super) fn rename_field(
    table: &str,
    field: usize,
    new: impl Fn(&str) -> Option<String>,
) -> Renamed {
    let mut names = Vec::new();
    let mut text = String::with_capacity(table.len());
    for line in table.split_inclusive('\n') {
        let found = if line.trim_start().starts_with('#') {
            None
        } else {
            nth_field(line, field)
        };
        let exchanged = found.and_then(|at| {
            let name = line.get(at.clone())?;
            Some((at, name, new(name)?))
        });
        match exchanged {
            Some((at, name, new)) => {
                text += line.get(..at.start).unwrap_or_default();
                text += &new;
                text += line.get(at.end..).unwrap_or_default();
                names.push((name.to_owned(), new));
            }
            None => text += line,
        }
    }
    Renamed { text, names }
}

/// What begins an entry of a menu: of GRUB, of GRUB 0.97, of extlinux.
const BEGINNINGS: [&str; 4] = ["menuentry", "submenu", "title", "label"];
/// What names a kernel in an entry.
const KERNELS: [&str; 4] = ["linux", "linuxefi", "linux16", "kernel"];

/// Exchanges names in a boot loader's menu, or in what one is made of. `new` is also asked whether the kernel is
/// started without an initramfs; of a text without kernels `is_bare` says it.
pub(super) fn rename_menu(
    config: &str,
    is_bare: bool,
    new: impl Fn(&str, bool) -> Option<String>,
) -> Renamed {
    let mut all = Renamed {
        text: String::with_capacity(config.len()),
        names: Vec::new(),
    };
    for entry in menu_entries(config) {
        let is_bare = entry_is_bare(entry).unwrap_or(is_bare);
        let renamed = rename_arguments(entry, |name| new(name, is_bare));
        all.text += &renamed.text;
        all.names.extend(renamed.names);
    }
    all
}

/// The same in an entry of the Boot Loader Specification, which is a file.
pub(super) fn rename_entry(text: &str, new: impl Fn(&str, bool) -> Option<String>) -> Renamed {
    let is_bare = entry_is_bare(text).unwrap_or(false);
    rename_arguments(text, |name| new(name, is_bare))
}

/// Whether a menu starts a kernel without an initramfs, and tells it this root.
pub(super) fn menu_is_bare(menu: &str, root: &str) -> bool {
    menu_entries(menu).into_iter().any(|entry| {
        entry_is_bare(entry) == Some(true)
            && entry
                .split_whitespace()
                .any(|word| word.trim_matches(['"', '\'']) == format!("root={root}"))
    })
}

/// A menu cut where its entries begin.
fn menu_entries(menu: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let (mut begins, mut at) = (0_usize, 0_usize);
    for line in menu.split_inclusive('\n') {
        if BEGINNINGS.contains(&&*first_word(line)) {
            entries.extend(menu.get(begins..at));
            begins = at;
        }
        at = at.saturating_add(line.len());
    }
    entries.extend(menu.get(begins..));
    entries
}

/// Whether an entry starts its kernel without an initramfs; `None` where it starts none.
fn entry_is_bare(entry: &str) -> Option<bool> {
    let has = |is_it: &dyn Fn(&str) -> bool| entry.lines().any(|line| is_it(&first_word(line)));
    // Under Xen both are modules.
    let has_modules = has(&|word| word.starts_with("module"));
    if !has_modules && !has(&|word| KERNELS.contains(&word)) {
        return None;
    }
    let mut words = entry.split_whitespace();
    let has_initramfs = has_modules
        || has(&|word| word.starts_with("initrd"))
        || words.any(|word| word.starts_with("initrd="));
    Some(!has_initramfs)
}

/// extlinux takes its words in both cases.
fn first_word(line: &str) -> String {
    let word = line.split_whitespace().next().unwrap_or_default();
    word.to_ascii_lowercase()
}

/// `new` as long as `old`, where both are GRUB's environment: what is free is `#`. `None` if it does not fit.
pub(super) fn same_length(old: &str, new: &str) -> Option<String> {
    let used = new.trim_end_matches('#');
    let free = old.len().checked_sub(used.len())?;
    Some(format!("{used}{}", "#".repeat(free)))
}

/// Exchanges what stands behind `root=` and `resume=` wherever the kernel is told so, and `RESUME=`, which
/// is initramfs-tools' word for it.
fn rename_arguments(config: &str, new: impl Fn(&str) -> Option<String>) -> Renamed {
    let mut names = Vec::new();
    let mut text = String::with_capacity(config.len());
    let mut rest = config;
    loop {
        let next = ["root=", "resume=", "RESUME="]
            .iter()
            .filter_map(|key| rest.find(key).map(|at| (at, key.len())))
            .min();
        let Some((at, length)) = next else {
            text += rest;
            return Renamed { text, names };
        };
        let (before, after) = rest.split_at(at.saturating_add(length));
        text += before;
        let end = after
            .find(|c: char| c.is_whitespace() || "\"'".contains(c))
            .unwrap_or(after.len());
        let (value, tail) = after.split_at(end);
        // `set root=` is GRUB's own, and names no file in /dev.
        match new(value) {
            Some(new) => {
                text += &new;
                names.push((value.to_owned(), new));
            }
            None => text += value,
        }
        rest = tail;
    }
}

/// Where the `n`th field of a line stands.
fn nth_field(line: &str, n: usize) -> Option<std::ops::Range<usize>> {
    let mut at = 0_usize;
    for index in 0..=n {
        let rest = line.get(at..)?;
        let start = at.checked_add(rest.find(|c: char| !c.is_whitespace())?)?;
        let tail = line.get(start..)?;
        let length = tail.find(char::is_whitespace).unwrap_or(tail.len());
        let end = start.checked_add(length)?;
        if index == n {
            return Some(start..end);
        }
        at = end;
    }
    None
}

/// A name that is harmless in a command and a path.
pub(super) fn is_mapper_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_places_are_taken_apart() {
        for (name, disk, partition) in [
            ("/dev/sda2", "/dev/sda", Some(2)),
            ("/dev/sdab11", "/dev/sdab", Some(11)),
            ("/dev/sda", "/dev/sda", None),
            ("/dev/nvme0n1p3", "/dev/nvme0n1", Some(3)),
            ("/dev/nvme0n1", "/dev/nvme0n1", None),
            ("/dev/mmcblk0p1", "/dev/mmcblk0", Some(1)),
            ("/dev/cciss/c0d0p5", "/dev/cciss/c0d0", Some(5)),
            (
                "/dev/disk/by-path/pci-0000:00:1f.2-ata-1.0-part2",
                "/dev/disk/by-path/pci-0000:00:1f.2-ata-1.0",
                Some(2),
            ),
        ] {
            let found = place_name(name).unwrap();
            assert_eq!((found.disk.as_str(), found.partition), (disk, partition));
        }
        for name in [
            "UUID=6f0ab5a4-57d9-4c0c-9a0d-2f8d4f8a1c11",
            "/dev/mapper/vg0-root",
            "/dev/disk/by-uuid/6f0ab5a4",
            "/dev/md0",
            "tmpfs",
            "LABEL=root",
            "",
        ] {
            assert_eq!(place_name(name), None, "{name}");
        }
    }

    #[test]
    fn only_the_names_in_a_table_change() {
        let table = "# /dev/sda1 was here\n\n/dev/sda2\t/  ext4 errors=remount-ro 0 1\n  /dev/sda3 none swap sw 0 0\n/dev/sdb1 /data xfs";
        let new = |name: &str| match name {
            "/dev/sda2" => Some("UUID=aa".to_owned()),
            "/dev/sda3" => Some("UUID=bb".to_owned()),
            _ => None,
        };
        let renamed = rename_field(table, 0, new);
        assert_eq!(
            renamed.text,
            "# /dev/sda1 was here\n\nUUID=aa\t/  ext4 errors=remount-ro 0 1\n  UUID=bb none swap sw 0 0\n/dev/sdb1 /data xfs"
        );
        assert_eq!(renamed.names.len(), 2);
        let keys = rename_field("root /dev/sda3 none luks\n", 1, new);
        assert_eq!(keys.text, "root UUID=bb none luks\n");
    }

    #[test]
    fn kernel_arguments_change_and_what_grub_calls_root_does_not() {
        let config = "set root='hd0,gpt2'\nlinux /vmlinuz root=/dev/sda2 ro resume=/dev/sda3\nGRUB_CMDLINE_LINUX=\"root=/dev/sda2\"\n";
        let renamed = rename_arguments(config, |name| {
            place_name(name).map(|name| format!("UUID={}", name.partition.unwrap_or(0)))
        });
        assert_eq!(
            renamed.text,
            "set root='hd0,gpt2'\nlinux /vmlinuz root=UUID=2 ro resume=UUID=3\nGRUB_CMDLINE_LINUX=\"root=UUID=2\"\n"
        );
        assert_eq!(renamed.names.len(), 3);
    }

    #[test]
    fn a_kernel_without_an_initramfs_is_told_from_others() {
        let name = |_: &str, is_bare: bool| Some(if is_bare { "bare" } else { "with" }.to_owned());
        for (menu, expected) in [
            (
                "menuentry 'a' {\n\tlinux /a root=x\n\tinitrd /b\n}\nmenuentry 'b' {\n\tlinux /a root=x\n}\n",
                "with bare",
            ),
            (
                "title a\n kernel /a root=x\ntitle b\n kernel /a root=x\n initrd /b\n",
                "bare with",
            ),
            (
                "title a\n kernel /xen.gz\n module /a root=x\n module /b\n",
                "with",
            ),
            (
                "menuentry 'a' {\n multiboot2 /xen\n module2 /a root=x\n module2 /b\n}\n",
                "with",
            ),
            (
                "DEFAULT a\nLABEL a\n  KERNEL /a\n  APPEND initrd=/b root=x\nLABEL b\n LINUX /a\n APPEND root=x\n",
                "with bare",
            ),
            ("GRUB_CMDLINE_LINUX=\"root=x\"\n", "bare"),
        ] {
            let renamed = rename_menu(menu, true, name);
            let found: Vec<&str> = renamed.names.iter().map(|(_, new)| new.as_str()).collect();
            assert_eq!(found.join(" "), expected, "{menu}");
            let back = rename_menu(&renamed.text, true, |_, _| Some("x".into()));
            assert_eq!(back.text, menu);
            let has_bare = expected.contains("bare") && !menu.starts_with("GRUB_");
            assert_eq!(menu_is_bare(menu, "x"), has_bare, "{menu}");
        }
        let entry = "initrd /b\ntitle a\nlinux /a\noptions root=x\n";
        assert_eq!(rename_entry(entry, name).names[0].1, "with");
    }

    #[test]
    fn what_does_not_fit_into_grubs_environment_is_not_written() {
        assert_eq!(
            same_length("a=b\n###", "a=bcd\n###").as_deref(),
            Some("a=bcd\n#")
        );
        assert_eq!(same_length("a=b\n#", "a=bcd\n#"), None);
    }

    proptest! {
        #[test]
        fn a_table_without_such_names_stays_as_it_is(text in "(.|\n|[ \t#/=]){0,80}") {
            prop_assert_eq!(&rename_field(&text, 0, |_| None).text, &text);
            prop_assert_eq!(&rename_menu(&text, false, |_, _| None).text, &text);
            // Whatever it is: no panic.
            let _ = place_name(&text);
        }
    }
}
