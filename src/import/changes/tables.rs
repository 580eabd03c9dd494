//! Names of disks by their place become UUIDs: in fstab, crypttab and wherever the kernel is told its root.

use super::guest::{Guest, NewFile};
use super::images::is_dracut;
use super::mounts::{Renamed, menu_is_bare, rename_entry, rename_field, rename_menu, same_length};
use super::wanted::Wanted;
use crate::error::{Error, Kind, Result};
use crate::vm::printable;
use std::collections::BTreeMap;

/// Files with `root=` and `resume=`: GRUB's menu and its sources, other loaders, initramfs-tools.
const ARGUMENTS: [&str; 10] = [
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub/grub.conf",
    "/boot/grub/menu.lst",
    "/boot/extlinux/extlinux.conf",
    "/etc/default/grub",
    "/etc/grub2.cfg",
    "/etc/grub2-efi.cfg",
    "/etc/kernel/cmdline",
    "/etc/initramfs-tools/conf.d/resume",
];
/// GRUB's environment, where RHEL 8 has the command line (`kernelopts`).
const ENVIRONMENTS: [&str; 2] = ["/boot/grub2/grubenv", "/boot/grub/grubenv"];
/// Folders of the Boot Loader Specification's entries.
const ENTRIES: [&str; 3] = [
    "/boot/loader/entries",
    "/boot/efi/loader/entries",
    "/efi/loader/entries",
];

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) files: Vec<NewFile>,
    /// A sentence for each name.
    pub(super) done: Vec<String>,
    /// Whether an initramfs has one of the names in it.
    pub(super) stale: bool,
    /// The names behind `root=` and `resume=` that are others now.
    pub(super) gone: Vec<String>,
}

/// What a partition is known by wherever its disk is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Identity {
    /// Of what lies on it.
    uuid: Option<String>,
    /// Of the partition itself, which the kernel knows without an initramfs.
    partition: Option<String>,
}

impl Identity {
    /// For what is mounted or opened.
    fn spec(&self) -> Option<String> {
        let uuid = self.uuid.as_ref().map(|uuid| format!("UUID={uuid}"));
        uuid.or_else(|| self.part_uuid())
    }

    /// For a kernel without an initramfs.
    fn part_uuid(&self) -> Option<String> {
        Some(format!("PARTUUID={}", self.partition.as_ref()?))
    }
}

/// Reads everything that has to change; writes nothing.
///
/// # Errors
/// When one of the names cannot be changed: a half of it done is worse than nothing.
pub(super) fn prepare(guest: &dyn Guest, wanted: &Wanted) -> Result<Tables> {
    let ids = identities(guest, wanted)?;
    let spec = |name: &str| ids.get(name).and_then(Identity::spec);
    let argument = |name: &str, is_bare: bool| {
        let id = ids.get(name)?;
        if is_bare { id.part_uuid() } else { id.spec() }
    };
    let mut changes = Changes {
        guest,
        tables: Tables::default(),
        root: wanted.root_name.as_deref(),
        told: false,
    };
    changes.exchange("/etc/fstab", &|text| rename_field(text, 0, spec))?;
    let crypttab = changes.exchange("/etc/crypttab", &|text| {
        rename_field(text, 1, |name| {
            // What lies there is made anew at each start.
            if wanted.fleeting.iter().any(|fleeting| fleeting == name) {
                let partition = ids.get(name)?.partition.as_ref()?;
                return Some(format!("/dev/disk/by-partuuid/{partition}"));
            }
            spec(name)
        })
    })?;
    let loader = wanted.loader_file.as_deref();
    let entries = entries(guest, loader)?;
    let menu = match loader {
        Some(path) if !entries.iter().any(|entry| entry == path) => guest.read(path)?,
        _ => None,
    };
    // The sources of a menu do as the menu does.
    let is_bare = wanted
        .root_name
        .as_deref()
        .is_some_and(|root| menu.as_deref().is_some_and(|menu| menu_is_bare(menu, root)));
    if is_bare
        && let Some(root) = wanted
            .root_name
            .as_deref()
            .filter(|root| ids.contains_key(*root))
        && argument(root, true).is_none()
    {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "a kernel without an initramfs is told {}, which lies on no partition with a UUID",
                printable(root)
            ),
        ));
    }
    let others = loader
        .iter()
        .filter(|path| !ARGUMENTS.contains(path) && menu.is_some());
    let mut of_loader = false;
    for path in ARGUMENTS.iter().chain(others) {
        changes.told = false;
        changes.exchange(path, &|text| rename_menu(text, is_bare, argument))?;
        of_loader |= changes.told && loader == Some(path);
    }
    for path in &entries {
        changes.told = false;
        changes.exchange(path, &|text| rename_entry(text, argument))?;
        let folder = loader.is_some_and(|loader| path.starts_with(loader));
        of_loader |= changes.told && folder;
    }
    for path in ENVIRONMENTS {
        changes.told = false;
        changes.exchange(path, &|text| {
            let renamed = rename_menu(text, is_bare, argument);
            // GRUB reads and writes a block of one size.
            match same_length(text, &renamed.text) {
                Some(text) => Renamed { text, ..renamed },
                None => Renamed {
                    text: text.to_owned(),
                    names: Vec::new(),
                },
            }
        })?;
        of_loader |= changes.told;
    }
    let changed = |name: &Option<String>| name.as_ref().is_some_and(|name| ids.contains_key(name));
    if changed(&wanted.root_name) && !of_loader {
        return Err(Error::new(
            Kind::Unsupported,
            "the kernel's command line with root= was not found where it was",
        ));
    }
    let mut tables = changes.tables;
    let arguments = wanted.root_name.iter().chain(&wanted.resume_name);
    tables.gone = arguments
        .filter(|name| ids.contains_key(*name))
        .cloned()
        .collect();
    if tables.files.is_empty() {
        return Err(Error::new(
            Kind::Unsupported,
            "none of these names was found in the system's tables",
        ));
    }
    // dracut writes the command line into an initramfs that is for one machine, and a unified image has it.
    tables.stale = crypttab
        || changed(&wanted.resume_name)
        || (changed(&wanted.root_name) && (wanted.unified().is_some() || is_dracut(guest)?));
    Ok(tables)
}

/// What each name that is to change stands for.
fn identities(guest: &dyn Guest, wanted: &Wanted) -> Result<BTreeMap<String, Identity>> {
    let mut ids = BTreeMap::new();
    for (name, _) in &wanted.places {
        let Some(device) = wanted.device(name) else {
            continue;
        };
        // A partition that is not there is an error.
        let id = identity(&guest.run(&["-blkid", &device])?);
        if id == Identity::default() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("what the system calls {} has no UUID", printable(name)),
            ));
        }
        ids.insert(name.clone(), id);
    }
    Ok(ids)
}

/// Out of blkid's list.
fn identity(blkid: &str) -> Identity {
    let value = |key: &str| {
        let mut lines = blkid.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = lines.find(|(found, _)| *found == key)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let value = value.trim();
        (!value.is_empty() && value.bytes().all(plain)).then(|| value.to_owned())
    };
    Identity {
        uuid: value("UUID"),
        partition: value("PART_ENTRY_UUID").or_else(|| value("PARTUUID")),
    }
}

/// The entries of the Boot Loader Specification; `loader` may be their folder.
fn entries(guest: &dyn Guest, loader: Option<&str>) -> Result<Vec<String>> {
    let mut entries = Vec::new();
    let other = loader.filter(|path| !ENTRIES.contains(path) && path.ends_with("/entries"));
    for folder in ENTRIES.iter().copied().chain(other) {
        for name in guest.list(folder)? {
            if name.ends_with(".conf") {
                entries.push(format!("{folder}/{name}"));
            }
        }
    }
    Ok(entries)
}

struct Changes<'a> {
    guest: &'a dyn Guest,
    tables: Tables,
    /// The name behind `root=`.
    root: Option<&'a str>,
    /// Whether that name was changed in a file.
    told: bool,
}

impl Changes<'_> {
    /// Exchanges names in one file; whether there were any.
    fn exchange(&mut self, path: &str, by: &dyn Fn(&str) -> Renamed) -> Result<bool> {
        let Some(text) = self.guest.read(path)? else {
            return Ok(false);
        };
        let renamed = by(&text);
        if renamed.names.is_empty() {
            return Ok(false);
        }
        for (name, uuid) in renamed.names {
            self.told |= self.root == Some(&*name);
            self.tables
                .done
                .push(format!("{path}: {name} became {uuid}"));
        }
        self.tables.files.push(NewFile {
            path: path.to_owned(),
            content: renamed.text,
        });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::guest::fake::Fake;
    use super::*;

    /// Partition 2 of the only disk has an ext4 filesystem, partition 3 nothing.
    fn guest(files: &[(&str, &str)]) -> Fake {
        Fake::new(files).answering(|_, words| {
            Ok(match words {
                ["-blkid", "/dev/sda2"] => {
                    "UUID: aa-aa\nTYPE: ext4\nPART_ENTRY_UUID: 51a7c0de-02\n"
                }
                ["-blkid", "/dev/sda3"] => "PART_ENTRY_UUID: 51a7c0de-03\n",
                _ => "",
            }
            .to_owned())
        })
    }

    fn wanted(loader: &str) -> Wanted {
        Wanted {
            places: vec![("/dev/nvme0n1p2".into(), 0), ("/dev/nvme0n1p3".into(), 0)],
            root_name: Some("/dev/nvme0n1p2".into()),
            loader_file: Some(loader.into()),
            ..Wanted::default()
        }
    }

    fn text(tables: &Tables, path: &str) -> String {
        let mut files = tables.files.iter();
        let file = files.find(|file| file.path == path);
        file.unwrap_or_else(|| panic!("{path}: {:?}", tables.done))
            .content
            .clone()
    }

    const MENU: &str =
        "menuentry 'with' {\n linux /vmlinuz root=/dev/nvme0n1p2 ro\n initrd /initrd.img\n}\n";
    const BARE: &str =
        "menuentry 'own' {\n linux /bzImage root=/dev/nvme0n1p2 resume=/dev/nvme0n1p3\n}\n";

    #[test]
    fn a_kernel_without_an_initramfs_is_told_the_partition() {
        let menu = format!("set default=1\n{MENU}{BARE}");
        let guest = guest(&[
            ("/boot/grub/grub.cfg", &menu),
            (
                "/etc/default/grub",
                "GRUB_CMDLINE_LINUX=\"root=/dev/nvme0n1p2\"\n",
            ),
            (
                "/etc/fstab",
                "/dev/nvme0n1p2 / ext4 defaults 0 1\n/dev/nvme0n1p3 none swap sw 0 0\n",
            ),
        ]);
        let tables = prepare(&guest, &wanted("/boot/grub/grub.cfg")).unwrap();
        let menu = text(&tables, "/boot/grub/grub.cfg");
        assert!(menu.contains("root=UUID=aa-aa ro\n initrd"), "{menu}");
        assert!(
            menu.contains("root=PARTUUID=51a7c0de-02 resume=PARTUUID=51a7c0de-03\n}"),
            "{menu}"
        );
        // The next menu is made of it, for both.
        assert!(text(&tables, "/etc/default/grub").contains("root=PARTUUID=51a7c0de-02"));
        let table = text(&tables, "/etc/fstab");
        assert_eq!(
            table,
            "UUID=aa-aa / ext4 defaults 0 1\nPARTUUID=51a7c0de-03 none swap sw 0 0\n"
        );
        assert!(!tables.stale);
    }

    #[test]
    fn nothing_changes_where_a_name_has_neither_uuid() {
        let guest = guest(&[("/boot/grub/grub.cfg", MENU)]);
        let mut wanted = wanted("/boot/grub/grub.cfg");
        wanted.places.push(("/dev/nvme0n1p9".into(), 0));
        let error = prepare(&guest, &wanted).unwrap_err();
        assert!(
            error.to_string().contains("/dev/nvme0n1p9 has no UUID"),
            "{error}"
        );
        assert_eq!(guest.text("/boot/grub/grub.cfg"), MENU);
    }

    #[test]
    fn root_has_to_be_found_in_the_menu_that_starts() {
        let guest = guest(&[(
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"root=/dev/nvme0n1p2\"\n",
        )]);
        let error = prepare(&guest, &wanted("/boot/grub/grub.cfg")).unwrap_err();
        assert!(error.to_string().contains("root= was not found"), "{error}");
    }

    #[test]
    fn entries_of_the_boot_loader_specification_count_as_one_menu() {
        let entry = "options root=/dev/nvme0n1p2 ro\ntitle x\nlinux /vmlinuz\ninitrd /initrd\n";
        let guest = guest(&[("/boot/loader/entries/a.conf", entry)]);
        let tables = prepare(&guest, &wanted("/boot/loader/entries")).unwrap();
        assert!(
            text(&tables, "/boot/loader/entries/a.conf")
                .starts_with("options root=UUID=aa-aa ro\n")
        );
    }

    #[test]
    fn grubs_environment_keeps_its_length() {
        let mut block =
            String::from("# GRUB Environment Block\nkernelopts=root=/dev/nvme0n1p2 ro\n");
        block += &"#".repeat(1024 - block.len());
        let entry = "title x\nlinux /vmlinuz\ninitrd /initrd\noptions $kernelopts\n";
        let guest = guest(&[
            ("/boot/loader/entries/a.conf", entry),
            ("/boot/grub2/grubenv", &block),
        ]);
        let tables = prepare(&guest, &wanted("/boot/loader/entries")).unwrap();
        let block = text(&tables, "/boot/grub2/grubenv");
        assert!(
            block.contains("kernelopts=root=UUID=aa-aa ro\n#") && block.len() == 1024,
            "{block}"
        );
    }

    #[test]
    fn swap_with_a_new_key_each_time_is_named_by_its_partition() {
        let guest = guest(&[
            ("/boot/grub/grub.cfg", MENU),
            ("/etc/crypttab", "swap /dev/nvme0n1p3 /dev/urandom swap\n"),
        ]);
        let mut wanted = wanted("/boot/grub/grub.cfg");
        wanted.fleeting = vec!["/dev/nvme0n1p3".into()];
        let tables = prepare(&guest, &wanted).unwrap();
        let table = text(&tables, "/etc/crypttab");
        assert_eq!(
            table,
            "swap /dev/disk/by-partuuid/51a7c0de-03 /dev/urandom swap\n"
        );
        assert!(tables.stale);
    }
}
