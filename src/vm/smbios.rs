//! The machine's identity as the guest sees it: SMBIOS structures of the types 0 to 3, whose fields
//! QEMU and libvirt name alike.

use super::VmPlan;
use crate::inventory::Smbios;

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
