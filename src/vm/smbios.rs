//! The machine's identity as the guest sees it: SMBIOS structures of the types 0 to 3, whose fields
//! QEMU and libvirt name alike.

use super::VmPlan;
use crate::inventory::Smbios;
use uuid::Uuid;

/// One structure.
pub(super) struct Structure<'a> {
    /// SMBIOS type, QEMU's name of it.
    pub(super) number: u8,
    /// libvirt's name of it.
    pub(super) element: &'static str,
    /// Names and values of the fields that are known; never empty.
    pub(super) fields: Vec<(&'static str, &'a str)>,
}

/// The structures of which anything is known.
pub(super) fn structures(plan: &VmPlan) -> Vec<Structure<'_>> {
    let smbios = &plan.smbios;
    let mut structures = vec![
        structure(
            0,
            "bios",
            &[
                ("vendor", &smbios.bios_vendor),
                ("version", &smbios.bios_version),
                ("date", &smbios.bios_date),
            ],
        ),
        structure(
            1,
            "system",
            &[
                ("manufacturer", &smbios.manufacturer),
                ("product", &smbios.product),
                ("version", &smbios.version),
                ("serial", &smbios.serial),
                // libvirt refuses any other than the domain's own.
                ("uuid", &plan.uuid),
                ("sku", &smbios.sku),
                ("family", &smbios.family),
            ],
        ),
        structure(
            2,
            "baseBoard",
            &[
                ("manufacturer", &smbios.board_manufacturer),
                ("product", &smbios.board_product),
                ("version", &smbios.board_version),
                ("serial", &smbios.board_serial),
            ],
        ),
        structure(
            3,
            "chassis",
            &[
                ("manufacturer", &smbios.chassis_manufacturer),
                ("serial", &smbios.chassis_serial),
                ("asset", &smbios.chassis_asset_tag),
            ],
        ),
    ];
    structures.retain(|structure| !structure.fields.is_empty());
    structures
}

fn structure<'a>(
    number: u8,
    element: &'static str,
    fields: &[(&'static str, &'a Option<String>)],
) -> Structure<'a> {
    Structure {
        number,
        element,
        fields: fields
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
            .collect(),
    }
}

/// UUIDs that identify no machine, because vendors left them in all boards of a kind. Sources:
/// `kPlaceholderHardwareUUIDList` of osquery (osquery/core/system.cpp) and `$invalidUuids` of the FOG Project
/// (hostmanager.class.php); both orders of bytes of each sample (SMBIOS 2.6 changed it), and the spaces that Dell's
/// boards have where the service tag belongs.
const GENERIC_UUIDS: [&str; 8] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "03020100-0504-0706-0809-0a0b0c0d0e0f",
    "00010203-0405-0607-0809-0a0b0c0d0e0f",
    "10000000-0000-8000-0040-000000000000",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "ffffff00-ffff-ffff-ffff-ffffffffffff",
    "4c4c4544-0000-2010-8020-80c04f202020",
];

/// The machine's UUID, lower case, if it is one of its own; else a random one with a sentence, where the inventory has one.
/// libvirt refuses a second domain of one UUID, so two such boards could not both be imported.
pub(super) fn uuid(smbios: &Smbios) -> (Option<String>, Option<String>) {
    let Some(uuid) = smbios
        .uuid
        .as_deref()
        .and_then(|text| Uuid::parse_str(text).ok())
    else {
        return (None, None);
    };
    let text = uuid.to_string();
    // All zeros, all ones, FEh.
    let one_byte = uuid
        .as_bytes()
        .windows(2)
        .all(|pair| pair.first() == pair.last());
    if one_byte || GENERIC_UUIDS.contains(&&*text) {
        let note = format!(
            "the machine's UUID {text} is one that vendors leave in many machines: the VM gets one of its own. A \
             licence that is bound to it asks again"
        );
        // Without any, QEMU's guests and Proxmox' have zeros.
        return (Some(Uuid::new_v4().to_string()), Some(note));
    }
    (Some(text), None)
}

/// Every string made printable, empty ones left out.
pub(super) fn printable(smbios: &Smbios) -> Smbios {
    let mut clean = smbios.clone();
    for text in [
        &mut clean.manufacturer,
        &mut clean.product,
        &mut clean.version,
        &mut clean.serial,
        &mut clean.sku,
        &mut clean.family,
        &mut clean.uuid,
        &mut clean.board_manufacturer,
        &mut clean.board_product,
        &mut clean.board_version,
        &mut clean.board_serial,
        &mut clean.chassis_manufacturer,
        &mut clean.chassis_serial,
        &mut clean.chassis_asset_tag,
        &mut clean.bios_vendor,
        &mut clean.bios_version,
        &mut clean.bios_date,
    ] {
        *text = text
            .take()
            .map(|text| super::printable(&text))
            .filter(|text| !text.is_empty());
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_that_many_machines_have_becomes_a_random_one_and_is_named() {
        for text in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "12345678-1234-5678-90AB-CDDEEFAABBCC",
        ] {
            let smbios = Smbios {
                uuid: Some(text.into()),
                ..Smbios::default()
            };
            let (uuid, note) = super::uuid(&smbios);
            let other = Uuid::parse_str(&uuid.unwrap()).unwrap();
            assert_ne!(other, Uuid::parse_str(text).unwrap());
            assert_eq!(other.get_version_num(), 4);
            assert!(note.unwrap().contains(&text.to_ascii_lowercase()), "{text}");
        }
    }

    #[test]
    fn a_uuid_of_its_own_stays_and_one_that_is_none_is_left_out() {
        for (text, kept) in [
            (
                Some("4C4C4544-0058-4B10-8033-B7C04F503532"),
                Some("4c4c4544-0058-4b10-8033-b7c04f503532"),
            ),
            (Some("not a UUID"), None),
            (None, None),
        ] {
            let smbios = Smbios {
                uuid: text.map(str::to_owned),
                ..Smbios::default()
            };
            assert_eq!(super::uuid(&smbios), (kept.map(str::to_owned), None));
        }
    }
}
