//! Addresses as people write them, as `ADDRESS/PREFIX`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use std::net::{IpAddr, Ipv4Addr};

/// An address with the length of its network's prefix, which `mask` gives (`24`, `255.255.255.0`) where
/// the address itself does not. `None` if it is none.
pub(super) fn cidr(address: &str, mask: Option<&str>) -> Option<String> {
    let (address, prefix) = match address.trim().split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (address.trim(), mask),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix.map(str::trim).filter(|p| !p.is_empty()) {
        Some(prefix) => prefix_length(prefix).filter(|&bits| bits <= most)?,
        None => return Some(address.to_string()),
    };
    Some(format!("{address}/{prefix}"))
}

fn prefix_length(text: &str) -> Option<u32> {
    if let Ok(bits) = text.parse() {
        return Some(bits);
    }
    let mask = text.parse::<Ipv4Addr>().ok()?.to_bits();
    let bits = mask.leading_ones();
    // Ones, then zeros.
    let rest = mask.checked_shl(bits).unwrap_or(0);
    (rest == 0).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_become_prefixes() {
        let mask = Some("255.255.254.0");
        assert_eq!(cidr("192.0.2.7", mask).unwrap(), "192.0.2.7/23");
        assert_eq!(cidr("192.0.2.7/24", mask).unwrap(), "192.0.2.7/24");
        assert_eq!(cidr("2001:db8::7", Some("64")).unwrap(), "2001:db8::7/64");
        assert_eq!(cidr("192.0.2.7", None).unwrap(), "192.0.2.7");
        assert_eq!(cidr("192.0.2.7", Some("0.0.0.0")).unwrap(), "192.0.2.7/0");
        for (address, mask) in [
            ("x", None),
            ("192.0.2.7", Some("255.0.255.0")),
            ("192.0.2.7/33", None),
            ("192.0.2.300", None),
        ] {
            assert_eq!(cidr(address, mask), None, "{address} {mask:?}");
        }
    }
}
