//! How each change is made to a Linux system whose filesystems are mounted in a [`Session`].

use super::guestfish::Session;
use super::lvm;
use super::mounts::{Renamed, rename_arguments, rename_field};
use super::wanted::{Link, Wanted};
use crate::error::{Error, Kind, Result};
use crate::vm::printable;
use std::collections::BTreeMap;

/// Drivers without which a VM's disks are not found.
const DRIVERS: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_scsi"];

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
/// Folders of the Boot Loader Specification's entries.
const ENTRIES: [&str; 3] = [
    "/boot/loader/entries",
    "/boot/efi/loader/entries",
    "/efi/loader/entries",
];
/// Debian's program for its initramfs.
const UPDATE_INITRAMFS: &str = "/usr/sbin/update-initramfs";

/// Makes all changes; a sentence for each that was made.
///
/// # Errors
/// With libguestfs' words; nothing is to be kept then.
pub(super) fn change(session: &Session, wanted: &Wanted) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for link in &wanted.links {
        done.push(keep_name(session, link)?);
    }
    let stale = name_by_uuid(session, wanted, &mut done)?;
    if wanted.lvm_devices {
        done.extend(lvm::put_aside(session)?);
    }
    if wanted.virtio {
        add_drivers(session, &mut done)?;
    }
    let has_tool = session.is_file(UPDATE_INITRAMFS)? || is_dracut(session)?;
    if wanted.virtio || (stale && has_tool) {
        make_initramfs(session, wanted.virtio, &mut done)?;
    }
    if let Some(loader) = &wanted.fallback_of {
        done.push(copy_loader(session, loader)?);
    }
    Ok(done)
}

/// A card that keeps its name wherever it is: systemd.link(5).
fn keep_name(session: &Session, Link { mac, name }: &Link) -> Result<String> {
    let path = format!(
        "/etc/systemd/network/10-haulier-{}.link",
        mac.replace(':', "")
    );
    session.run(&["mkdir-p", "/etc/systemd/network"])?;
    // Bonds, bridges and VLANs have the address of the card below them, but no place on a bus. udev of
    // before 2018 knows a card's type by another word, the path all have.
    let file = format!(
        "# Written by haulier import: this card's name on the machine that this system comes from.\n\
         [Match]\nMACAddress={mac}\nPath=*pci-*\n\n[Link]\nName={name}\n"
    );
    session.write(&path, &file)?;
    Ok(format!(
        "{path}: the network card {mac} keeps its name {name}"
    ))
}

/// Puts UUIDs in place of names in all tables; returns whether the initramfs has one of them.
fn name_by_uuid(session: &Session, wanted: &Wanted, done: &mut Vec<String>) -> Result<bool> {
    let mut uuids: BTreeMap<&str, String> = BTreeMap::new();
    for (name, _) in &wanted.places {
        let Some(device) = wanted.device(name) else {
            continue;
        };
        let uuid = session.try_run(&["-vfs-uuid", &device])?.trim().to_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if uuid.is_empty() || !uuid.bytes().all(plain) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("what the system calls {} has no UUID", printable(name)),
            ));
        }
        uuids.insert(name, format!("UUID={uuid}"));
    }
    if uuids.is_empty() {
        return Ok(false);
    }
    let new = |name: &str| uuids.get(name).cloned();
    let mut files = Vec::new();
    let mut exchange = |path: &str, by: &dyn Fn(&str) -> Renamed| -> Result<bool> {
        let Some(text) = session.read(path)? else {
            return Ok(false);
        };
        let renamed = by(&text);
        if renamed.names.is_empty() {
            return Ok(false);
        }
        session.write(path, &renamed.text)?;
        for (name, uuid) in renamed.names {
            done.push(format!("{path}: {name} became {uuid}"));
        }
        files.push(path.to_owned());
        Ok(true)
    };
    exchange("/etc/fstab", &|text| rename_field(text, 0, new))?;
    let crypttab = exchange("/etc/crypttab", &|text| rename_field(text, 1, new))?;
    let loader = wanted.loader_file.as_deref();
    let others = loader.iter().filter(|path| !ARGUMENTS.contains(path));
    for path in ARGUMENTS.iter().chain(others) {
        exchange(path, &|text| rename_arguments(text, new))?;
    }
    for folder in ENTRIES {
        if session.run(&["is-dir", folder])?.trim() != "true" {
            continue;
        }
        for entry in session.run(&["ls", folder])?.lines() {
            let path = format!("{folder}/{entry}");
            if entry.ends_with(".conf") && loader != Some(&path) {
                exchange(&path, &|text| rename_arguments(text, new))?;
            }
        }
    }
    // Half of it done is worse than nothing.
    let changed = |name: &Option<String>| {
        name.as_ref()
            .is_some_and(|name| uuids.contains_key(&**name))
    };
    let told = loader.is_some_and(|path| files.iter().any(|file| file == path));
    if changed(&wanted.root_name) && !told {
        return Err(Error::new(
            Kind::Unsupported,
            "the kernel's command line with root= was not found where it was",
        ));
    }
    let baked = crypttab || changed(&wanted.resume_name);
    // dracut writes the command line into an initramfs that is for one machine.
    Ok(baked || (changed(&wanted.root_name) && is_dracut(session)?))
}

/// Tells what makes the initramfs to put the drivers in.
fn add_drivers(session: &Session, done: &mut Vec<String>) -> Result<()> {
    let list = DRIVERS.join(" ");
    if session.is_file(UPDATE_INITRAMFS)? {
        let path = "/etc/initramfs-tools/modules";
        let mut text = session.read(path)?.unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for driver in DRIVERS {
            if !text.lines().any(|line| line.trim() == driver) {
                text += &format!("{driver}\n");
            }
        }
        session.write(path, &text)?;
        done.push(format!("{path}: {list}"));
        return Ok(());
    }
    if is_dracut(session)? {
        let path = "/etc/dracut.conf.d/haulier.conf";
        session.run(&["mkdir-p", "/etc/dracut.conf.d"])?;
        let text = format!("# Written by haulier import.\nadd_drivers+=\" {list} \"\n");
        session.write(path, &text)?;
        done.push(format!("{path}: {list}"));
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        "this system has neither update-initramfs nor dracut to make its initramfs with",
    )
    .advise("Import with --profile faithful, which needs no other drivers"))
}

fn is_dracut(session: &Session) -> Result<bool> {
    Ok(session.is_file("/usr/bin/dracut")? || session.is_file("/sbin/dracut")?)
}

/// Makes the initramfs of each kernel anew with the system's own program; looks into it for virtio's drivers
/// where they are what it is made for.
fn make_initramfs(session: &Session, virtio: bool, done: &mut Vec<String>) -> Result<()> {
    // The machine that this runs in is not the one that it is for: nothing may be left out.
    let (name, make, list) = if session.is_file(UPDATE_INITRAMFS)? {
        let path = "/etc/initramfs-tools/conf.d/zz-haulier";
        session.run(&["mkdir-p", "/etc/initramfs-tools/conf.d"])?;
        session.write(path, "# Written by haulier import.\nMODULES=most\n")?;
        done.push(format!("{path}: MODULES=most"));
        let make = "update-initramfs -u -k \"$release\"";
        ("update-initramfs", make, "lsinitramfs")
    } else {
        // What was told to the initramfs of one machine is found by looking: dracut.cmdline(7), rd.auto.
        let make =
            "dracut --force --no-hostonly --kernel-cmdline rd.auto=1 \"$image\" \"$release\"";
        ("dracut", make, "lsinitrd")
    };
    let [_, disk, _] = DRIVERS;
    let satisfied = if virtio { "false" } else { "true" };
    let script = format!(
        "made=0
         for kernel in /lib/modules/*; do
             release=${{kernel##*/}}
             for image in /boot/initrd.img-$release /boot/initramfs-$release.img /boot/initrd-$release; do
                 [ -e \"$image\" ] || continue
                 {make} || exit 1
                 made=1
                 {satisfied} && continue
                 grep -q '/{disk}\\.ko' \"$kernel/modules.builtin\" && continue
                 {list} \"$image\" | grep -q '/{disk}\\.ko' && continue
                 echo \"$image has no driver {disk}\" >&2
                 exit 1
             done
         done
         [ $made = 1 ] || {{ echo 'no initramfs was found' >&2; exit 1; }}"
    );
    session.run(&["sh", &script])?;
    done.push(format!(
        "{name} made each kernel's initramfs anew{}",
        if virtio {
            ", and the drivers are in it"
        } else {
            ""
        }
    ));
    Ok(())
}

/// Copies a loader to where firmware looks by itself (UEFI 2.10, 3.5.1.1), with what it loads.
fn copy_loader(session: &Session, loader: &str) -> Result<String> {
    let mut esp = None;
    for folder in ["/boot/efi", "/efi", "/boot"] {
        let path = format!("{folder}{loader}");
        if session.is_file(&path)? {
            esp = Some(folder);
            break;
        }
    }
    let Some(esp) = esp else {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the EFI system partition with {loader} is not in the system's fstab"),
        ));
    };
    let to = format!("{esp}/EFI/BOOT");
    session.run(&["mkdir-p", &to])?;
    let from = loader.rsplit_once('/').map_or("", |(folder, _)| folder);
    session.run(&[
        "cp",
        &format!("{esp}{loader}"),
        &format!("{to}/BOOTX64.EFI"),
    ])?;
    let shim = loader.to_ascii_lowercase().ends_with("/shimx64.efi");
    // shim loads its second stage from its own folder; fbx64.efi would set up boot entries instead.
    for second in ["grubx64.efi", "mmx64.efi"] {
        let path = format!("{esp}{from}/{second}");
        if shim && session.is_file(&path)? {
            session.run(&["cp", &path, &format!("{to}/{second}")])?;
        }
    }
    Ok(format!("{to}/BOOTX64.EFI: a copy of {loader}"))
}
