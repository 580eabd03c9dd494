//! The short name of a machine, used for its folder on the stick and for the VM.

use super::{NicInfo, Smbios};

/// Longest name: a DNS label, which the strictest of the clouds asks for.
const LONGEST: usize = 63;
/// What vendors put before the model's name.
const FAMILIES: [&str; 6] = [
    "PowerEdge ",
    "ProLiant ",
    "PRIMERGY ",
    "ThinkSystem ",
    "System x ",
    "Synergy ",
];

/// `R640-7XK3P52`: the model without the vendor's family, and what tells two of them apart: the
/// serial number, else the first network card's address, else the UUID.
pub(super) fn machine_name(smbios: &Smbios, nics: &[NicInfo]) -> String {
    let product = smbios.product.as_deref().map(|product| {
        FAMILIES
            .iter()
            .find_map(|family| product.strip_prefix(family))
            .unwrap_or(product)
    });
    let identity = smbios
        .serial
        .clone()
        .or_else(|| nics.iter().find_map(|nic| nic.mac.clone()))
        .or_else(|| smbios.uuid.clone())
        .map(|identity| slug(&identity.replace(':', "")));
    let product = slug(product.unwrap_or("machine"));
    let name = match identity {
        // The identity is kept whole: it is what must not be cut.
        Some(identity) => {
            let room = LONGEST.saturating_sub(identity.len().saturating_add(1));
            let product: String = product.chars().take(room).collect();
            format!("{}-{identity}", product.trim_end_matches('-'))
        }
        None => product,
    };
    slug(&name)
}

/// Only letters, digits, `.`, `_` and single `-`, beginning and ending with a letter or digit: safe
/// as a file name, a host name, an XML name and in a shell. Never empty.
pub(crate) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            slug.push(c);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug: String = slug
        .trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .chars()
        .take(LONGEST)
        .collect();
    let slug = slug.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    if slug.is_empty() {
        "machine".into()
    } else {
        slug.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(product: &str, serial: &str) -> String {
        let smbios = Smbios {
            product: Some(product.into()),
            serial: Some(serial.into()),
            ..Smbios::default()
        };
        machine_name(&smbios, &[])
    }

    #[test]
    fn the_vendors_family_is_dropped() {
        assert_eq!(named("PowerEdge R640", "7XK3P52"), "R640-7XK3P52");
        assert_eq!(named("ProLiant DL380 Gen10", "CZ1"), "DL380-Gen10-CZ1");
    }

    #[test]
    fn a_name_is_a_safe_file_name() {
        assert_eq!(named("../../etc", "$(reboot)\n"), "etc-reboot");
        assert_eq!(named("", ""), "machine-machine");
        assert_eq!(slug("---"), "machine");
    }

    #[test]
    fn the_serial_survives_a_long_product() {
        let name = named(&"x".repeat(100), "7XK3P52");
        assert!(
            name.len() <= LONGEST && name.ends_with("-7XK3P52"),
            "{name}"
        );
    }

    #[test]
    fn without_serial_the_first_card_tells_machines_apart() {
        let nic = NicInfo {
            mac: Some("52:54:00:12:34:56".into()),
            ..NicInfo::default()
        };
        let smbios = Smbios {
            product: Some("Standard PC (Q35 + ICH9, 2009)".into()),
            ..Smbios::default()
        };
        assert_eq!(
            machine_name(&smbios, &[nic]),
            "Standard-PC-Q35-ICH9-2009-525400123456"
        );
    }
}
