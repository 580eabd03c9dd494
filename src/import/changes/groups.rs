//! The changes in groups, each of which is made whole or not at all, and of which one that cannot be made takes no
//! other along. Everything that a group needs is looked at before its first write; one that fails in spite of that
//! is left out of another attempt on new overlays.

use super::guest::{Guest, write_all};
use super::guestfish::Session;
use super::initramfs::Reason;
use super::wanted::Wanted;
use super::{images, initramfs, links, loader, lvm, tables};
use crate::error::{Error, Result};
use crate::vm::printable;
use std::path::PathBuf;

/// What is changed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// The loader that firmware falls back to.
    Loader,
    /// Drivers in a Windows.
    Windows,
    /// Network cards keep their names.
    Names,
    /// UUIDs in place of names by place, with the initramfs that has them.
    Tables,
    /// LVM finds its volumes whatever disks they lie on.
    Lvm,
    /// Drivers in the initramfs.
    Drivers,
}

impl Group {
    /// What it means that it was not done.
    pub(super) fn consequence(self) -> &'static str {
        match self {
            Self::Loader => {
                "a firmware without this machine's boot entries starts nothing from these disks"
            }
            Self::Names => "the VM's network may stay down: its cards have other names",
            Self::Tables => {
                "what the system knows by these names is not found in the VM (--profile faithful keeps most \
                 names)"
            }
            Self::Lvm => "LVM may not find its volumes in the VM",
            Self::Windows => {
                "without drivers the VM will not find its disks: import again with --profile faithful"
            }
            Self::Drivers => {
                "without drivers the VM will not find its disks: import again with --disk-bus and a kind that the \
                 system has a driver for, or with --profile faithful where virtio was asked for"
            }
        }
    }
}

/// A group that was not changed, and why.
pub(super) type Failed = Vec<(Group, String)>;

/// Puts drivers into the Windows on these overlays; a sentence for each change.
pub(super) type InWindows<'a> = dyn Fn(&[PathBuf]) -> Result<Vec<String>> + 'a;

/// What was changed.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// A sentence for each change.
    pub(super) lines: Vec<String>,
    /// What is to be known about them.
    pub(super) told: Vec<String>,
}

/// An attempt that came to nothing: without these groups another one may do better.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) groups: Vec<Group>,
    pub(super) why: String,
}

/// For errors of one group.
fn of(group: Group) -> impl Fn(Error) -> Failure {
    move |error| Failure {
        groups: vec![group],
        why: error.to_string(),
    }
}

/// Makes all of `groups` in the images; those that are seen not to be possible go to `failed`.
pub(super) fn attempt(
    images: &[PathBuf],
    wanted: &Wanted,
    groups: &[Group],
    keys: &[PathBuf],
    in_windows: &InWindows<'_>,
    failed: &mut Failed,
) -> Result<Done, Failure> {
    let all = |error: Error| Failure {
        groups: groups.to_vec(),
        why: error.to_string(),
    };
    let mut done = Done::default();
    if groups.contains(&Group::Windows) {
        done.lines = in_windows(images).map_err(of(Group::Windows))?;
    }
    if groups == [Group::Windows] {
        return Ok(done);
    }
    let mut session = Session::start(images).map_err(all)?;
    // First what needs no system, and takes no minutes.
    if let Some(fallback) = &wanted.fallback
        && groups.contains(&Group::Loader)
    {
        done.lines
            .push(loader::copy(&session, fallback).map_err(of(Group::Loader))?);
    }
    let others = groups
        .iter()
        .filter(|group| !matches!(group, Group::Loader | Group::Windows));
    let of_system: Vec<Group> = others.copied().collect();
    if !of_system.is_empty() {
        session
            .open_encrypted(keys, |uuid| wanted.luks_name(uuid))
            .and_then(|()| session.mount(wanted))
            .map_err(|error| Failure {
                groups: of_system.clone(),
                why: error.to_string(),
            })?;
        change(&session, wanted, &of_system, &mut done, failed)?;
    }
    session.finish().map_err(all)?;
    Ok(done)
}

/// Makes the groups of the mounted system.
fn change(
    guest: &dyn Guest,
    wanted: &Wanted,
    groups: &[Group],
    done: &mut Done,
    failed: &mut Failed,
) -> Result<(), Failure> {
    // What was looked at, if it can be done.
    let names = groups.contains(&Group::Names);
    let names = names.then(|| links::prepare(guest, &wanted.links));
    let names = possible(guest, Group::Names, names, failed)?;
    let tables = groups.contains(&Group::Tables);
    let tables = tables.then(|| tables::prepare(guest, wanted));
    let tables = possible(guest, Group::Tables, tables, failed)?;
    let devices = groups.contains(&Group::Lvm);
    let devices = devices.then(|| lvm::prepare(guest, wanted));
    let devices = possible(guest, Group::Lvm, devices, failed)?.flatten();
    let stale_tables = tables.as_ref().is_some_and(|tables| tables.stale);
    let is_stale = stale_tables || devices.as_ref().is_some_and(|devices| devices.stale);
    let drivers = groups.contains(&Group::Drivers);
    // Whatever goes wrong with an initramfs: first without the drivers.
    let blamed = if drivers {
        Group::Drivers
    } else if stale_tables {
        Group::Tables
    } else {
        Group::Lvm
    };
    let found = if drivers || is_stale {
        images::find(guest, wanted).map_err(of(blamed))?
    } else {
        None
    };
    let drivers = drivers.then(|| initramfs::prepare(guest, wanted, found.as_ref()));
    let drivers = possible(guest, Group::Drivers, drivers, failed)?;
    let found = found.filter(|images| !images.is_empty());
    if let (true, None, Some(path)) = (stale_tables, &found, wanted.unified()) {
        return Err(Failure {
            groups: vec![Group::Tables],
            why: format!(
                "the system starts from {}, which is made by neither update-initramfs nor dracut",
                printable(path)
            ),
        });
    }

    if let Some((files, lines)) = names {
        write_all(guest, &files).map_err(of(Group::Names))?;
        done.lines.extend(lines);
    }
    if let Some(tables) = &tables {
        write_all(guest, &tables.files).map_err(of(Group::Tables))?;
        done.lines.extend(tables.done.clone());
    }
    if devices.is_some() {
        done.lines
            .push(lvm::put_aside(guest).map_err(of(Group::Lvm))?);
    }
    if let Some(drivers) = &drivers {
        write_all(guest, &drivers.files).map_err(of(Group::Drivers))?;
        done.lines.extend(drivers.done.clone());
    }
    if drivers.is_none() && !is_stale {
        return Ok(());
    }
    match found {
        Some(images) => {
            let reason = Reason {
                drivers: drivers.as_ref(),
                is_stale,
                gone: tables.as_ref().map_or(&[], |tables| &tables.gone),
                secure_boot: wanted.secure_boot,
            };
            let made = initramfs::make(guest, &images, &reason).map_err(of(blamed))?;
            done.lines.extend(made.done);
            done.told.extend(made.told);
        }
        None => done.told.push(
            "an initramfs that is not made by update-initramfs or dracut is as it was, and may still have \
             the names that were changed"
                .into(),
        ),
    }
    Ok(())
}

/// The preparation of a group, if it succeeded. One that failed is noted; if the machine is gone with it, so is the
/// attempt.
fn possible<T>(
    guest: &dyn Guest,
    group: Group,
    prepared: Option<Result<T>>,
    failed: &mut Failed,
) -> Result<Option<T>, Failure> {
    match prepared {
        None => Ok(None),
        Some(Ok(prepared)) => Ok(Some(prepared)),
        Some(Err(error)) if guest.is_alive() => {
            failed.push((group, error.to_string()));
            Ok(None)
        }
        Some(Err(error)) => Err(of(group)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::guest::fake::{Fake, failing};
    use super::super::wanted::Link;
    use super::*;

    const MENU: &str =
        "menuentry 'x' {\n linux /vmlinuz root=/dev/nvme0n1p2\n initrd /initrd.img\n}\n";

    /// A system that needs everything.
    fn wanted() -> Wanted {
        Wanted {
            links: vec![Link {
                mac: "52:54:00:00:00:01".into(),
                name: "enp24s0".into(),
                pci_address: None,
                driver: None,
            }],
            places: vec![("/dev/nvme0n1p2".into(), 0)],
            root_name: Some("/dev/nvme0n1p2".into()),
            loader_file: Some("/boot/grub/grub.cfg".into()),
            drivers: vec!["virtio_pci", "virtio_blk"],
            ..Wanted::default()
        }
    }

    /// A Debian with one kernel that has these drivers, and with this on its partition.
    fn debian(drivers: &'static str, blkid: &'static str, make: bool) -> Fake {
        let files = [
            ("/usr/sbin/update-initramfs", ""),
            ("/boot/grub/grub.cfg", MENU),
        ];
        Fake::new(&files).answering(move |_, words| match words {
            ["-blkid", _] => Ok(blkid.into()),
            ["sh", script] if script.contains("modules.dep") => {
                Ok(format!("6.12.57 /boot/initrd.img-6.12.57 {drivers}\n"))
            }
            ["sh", script] if script.contains("update-initramfs") && !make => {
                Err(failing("No space left on device"))
            }
            _ => Ok(String::new()),
        })
    }

    const BOTH: &str = "virtio_pci=builtin virtio_blk=module";
    const LINK: &str = "/etc/systemd/network/0-haulier-525400000001.link";
    const ALL: [Group; 3] = [Group::Names, Group::Tables, Group::Drivers];

    fn run(guest: &Fake, groups: &[Group]) -> (Result<Done, Failure>, Failed) {
        let (mut done, mut failed) = (Done::default(), Failed::default());
        let result = change(guest, &wanted(), groups, &mut done, &mut failed);
        (result.map(|()| done), failed)
    }

    #[test]
    fn all_groups_are_made() {
        let guest = debian(BOTH, "UUID: aa\n", true);
        let (done, failed) = run(&guest, &ALL);
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(done.unwrap().lines.len(), 5);
        assert!(guest.text("/boot/grub/grub.cfg").contains("root=UUID=aa"));
        assert!(guest.text(LINK).contains("Name=enp24s0"));
        assert!(
            guest
                .text("/etc/initramfs-tools/modules")
                .contains("virtio_blk")
        );
    }

    #[test]
    fn a_kernel_without_drivers_takes_no_other_group_along() {
        let guest = debian("", "UUID: aa\n", true);
        let (done, failed) = run(&guest, &ALL);
        assert_eq!(failed.len(), 1);
        assert!(
            failed[0].0 == Group::Drivers && failed[0].1.contains("6.12.57"),
            "{failed:?}"
        );
        assert_eq!(done.unwrap().lines.len(), 2);
        assert_eq!(guest.text("/etc/initramfs-tools/modules"), "");
    }

    #[test]
    fn a_filesystem_without_a_uuid_takes_no_other_group_along() {
        let guest = debian(BOTH, "", true);
        let (done, failed) = run(&guest, &ALL);
        assert!(
            failed[0].0 == Group::Tables && failed.len() == 1,
            "{failed:?}"
        );
        assert_eq!(done.unwrap().lines.len(), 4);
        assert_eq!(guest.text("/boot/grub/grub.cfg"), MENU);
        assert!(guest.text(LINK).contains("Name=enp24s0"));
    }

    #[test]
    fn an_initramfs_that_cannot_be_made_ends_the_attempt_and_another_without_it_succeeds() {
        let (failure, failed) = run(&debian(BOTH, "UUID: aa\n", false), &ALL);
        let failure = failure.unwrap_err();
        assert_eq!(failure.groups, [Group::Drivers]);
        assert!(failure.why.contains("No space left"), "{}", failure.why);
        assert!(failed.is_empty());
        let guest = debian(BOTH, "UUID: aa\n", false);
        let (done, _) = run(&guest, &[Group::Names, Group::Tables]);
        assert_eq!(done.unwrap().lines.len(), 2);
    }

    const DEVICES: &str = "/etc/lvm/devices/system.devices";

    fn lvm(files: &[(&str, &str)], copies: &'static str) -> (Vec<String>, Vec<String>) {
        let guest = Fake::new(files).answering(move |_, words| match words {
            ["sh", script] if script.contains("system.devices") => Ok(copies.into()),
            ["sh", script] if script.contains("modules.dep") => {
                Ok("5.14.0 /boot/initramfs-5.14.0.img\n".into())
            }
            _ => Ok(String::new()),
        });
        let (done, failed) = run(&guest, &[Group::Lvm]);
        assert!(failed.is_empty(), "{failed:?}");
        let ran = guest.ran.borrow();
        let ran = ran
            .iter()
            .filter(|command| command.starts_with("mv ") || command.contains("dracut "));
        (done.unwrap().lines, ran.cloned().collect())
    }

    #[test]
    fn the_initramfs_that_has_a_copy_of_lvms_devices_file_is_made_anew_without_it() {
        let (lines, ran) = lvm(&[(DEVICES, "x"), ("/usr/bin/dracut", "")], "stale\n");
        assert!(lines[0].contains(".of-the-metal"), "{lines:?}");
        assert_eq!(ran.len(), 2, "{ran:?}");
        assert!(ran[0].starts_with(&format!("mv {DEVICES}")), "{ran:?}");
        assert!(ran[1].contains("/boot/initramfs-5.14.0.img"), "{ran:?}");
        // Others have none, and without the file nothing is to be done.
        for tool in ["/usr/bin/dracut", "/usr/sbin/update-initramfs"] {
            let (_, ran) = lvm(&[(DEVICES, "x"), (tool, "")], "");
            assert_eq!(ran.len(), 1, "{ran:?}");
        }
        assert_eq!(
            lvm(&[("/usr/bin/dracut", "")], ""),
            (Vec::new(), Vec::new())
        );
    }
}
