//! LVM that looks only at disks of the metal. By its devices file it finds no physical volume whose disk has
//! another identifier now, and the volumes on it never appear: seen with lvm2 2.03.16 for `sys_wwid`,
//! `sys_serial` and `devname`. Without the file it looks at all disks, as it did before there was one.

use super::guest::Guest;
use super::images::is_dracut;
use super::wanted::Wanted;
use crate::error::Result;
use crate::inventory::System;
use crate::inventory::installed::LvmDevices;
use crate::vm::printable;

/// The file, and what it is called afterwards: LVM reads no other name.
const FILE: &str = "/etc/lvm/devices/system.devices";
const ASIDE: &str = "/etc/lvm/devices/system.devices.of-the-metal";

/// Says so where an initramfs has a copy of it.
const COPIES: &str = "for image in /boot/initramfs-*.img /boot/initrd-* /boot/initrd.img-* \
    /boot/*/*/initrd* /efi/*/*/initrd* /boot/efi/*/*/initrd*; do
    [ -f \"$image\" ] || continue
    lsinitrd \"$image\" | grep -q ' etc/lvm/devices/system.devices$' && echo stale
done
true";
const STALE: &str = "stale";

/// Identifiers that are in what the disks hold (lvmdevices(8)): the same everywhere.
const OF_CONTENT: [&str; 4] = ["md_uuid", "crypt_uuid", "lvmlv_uuid", "loop_file"];

/// What follows `/dev/` in a name that says where a disk is, or which one.
const PLACES: [&str; 8] = [
    "sd",
    "hd",
    "vd",
    "xvd",
    "nvme",
    "cciss",
    "disk/by-",
    "mapper/mpath",
];

/// Whether the devices file names disks by what they do not have in the VM.
pub(super) fn names_disks(system: &System) -> bool {
    let mut entries = system.lvm.iter().flat_map(|lvm| &lvm.entries);
    entries.any(|entry| !OF_CONTENT.contains(&entry.id_type.as_str()))
}

/// What to tell of filters, which are patterns that a person wrote: none is changed.
pub(super) fn note(system: &System) -> Option<String> {
    let LvmDevices { filters, .. } = system.lvm.as_ref()?;
    let rejects_the_rest = |pattern: &&String| {
        let pattern: String = pattern.chars().filter(|c| !"^$".contains(*c)).collect();
        let rest = pattern.strip_prefix('r').and_then(|rest| rest.get(1..));
        rest.is_some_and(|rest| {
            [".*", "/", "/dev/.*", "/dev/"]
                .iter()
                .any(|all| rest.starts_with(all))
        })
    };
    let by_place: Vec<String> = filters
        .iter()
        .filter(|pattern| pattern.starts_with('a'))
        .filter(|pattern| {
            let mut rest = pattern.split("/dev/").skip(1);
            rest.any(|rest| {
                PLACES
                    .iter()
                    .any(|place| rest.trim_start_matches('(').starts_with(place))
            })
        })
        .map(|pattern| printable(pattern))
        .collect();
    if by_place.is_empty() || !filters.iter().any(|pattern| rejects_the_rest(&pattern)) {
        return None;
    }
    Some(format!(
        "/etc/lvm/lvm.conf lets LVM look only at devices of certain names ({}), which the VM's disks may not have: \
         if it does not find its volumes, remove the filter there (and make the initramfs anew)",
        by_place.join(", ")
    ))
}

/// A devices file that is there.
#[derive(Debug)]
pub(super) struct Devices {
    /// Whether an initramfs has a copy of it.
    pub(super) stale: bool,
}

/// Looks for the file; writes nothing.
///
/// # Errors
/// With libguestfs' words.
pub(super) fn prepare(guest: &dyn Guest, wanted: &Wanted) -> Result<Option<Devices>> {
    if !guest.is_file(FILE)? {
        return Ok(None);
    }
    // update-initramfs copies it never, dracut (of some distributions) where the root lies on LVM. What is in a
    // unified image is not looked at.
    let stale = is_dracut(guest)?
        && (wanted.unified().is_some() || guest.run(&["sh", COPIES])?.contains(STALE));
    Ok(Some(Devices { stale }))
}

/// Puts the file aside; what was done.
///
/// # Errors
/// With libguestfs' words.
pub(super) fn put_aside(guest: &dyn Guest) -> Result<String> {
    guest.run(&["mv", FILE, ASIDE])?;
    Ok(format!(
        "{FILE} became {ASIDE}: LVM looks at all disks, whatever their identifiers are (vgimportdevices -a in the VM \
         makes a new one)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::installed::LvmDevice;

    fn system(types: &[&str], filters: &[&str]) -> System {
        System {
            lvm: Some(LvmDevices {
                entries: types
                    .iter()
                    .map(|id_type| LvmDevice {
                        id_type: (*id_type).into(),
                        ..LvmDevice::default()
                    })
                    .collect(),
                filters: filters.iter().map(|filter| (*filter).into()).collect(),
            }),
            ..System::default()
        }
    }

    #[test]
    fn a_disk_is_another_one_in_the_vm_and_an_array_is_not() {
        assert!(names_disks(&system(&["md_uuid", "sys_wwid"], &[])));
        for disk in ["sys_serial", "devname", "mpath_uuid", "of a later lvm"] {
            assert!(names_disks(&system(&[disk], &[])), "{disk}");
        }
        assert!(!names_disks(&system(&["md_uuid", "crypt_uuid"], &[])));
        assert!(!names_disks(&System::default()));
    }

    #[test]
    fn a_filter_is_told_of_where_it_lets_nothing_else_through() {
        for filters in [
            &["a|^/dev/sda2$|", "r|.*|"][..],
            &["a/dev/disk/by-id/x/", "a|/dev/disk/by-id/x|", "r/.*/"],
            &["a|/dev/(sda|sdb)|", "r|^/dev/.*|"],
        ] {
            let note = note(&system(&[], filters)).unwrap();
            assert!(note.contains(filters[filters.len() - 2]), "{note}");
        }
        for filters in [
            &["a|^/dev/sda2$|"][..],
            &["r|/dev/drbd.*|"],
            &["a|^/dev/md.*|", "r|.*|"],
            &["a|.*|"],
            &[],
        ] {
            assert_eq!(note(&system(&[], filters)), None, "{filters:?}");
        }
    }
}
