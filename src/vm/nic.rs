//! The network cards of the VM: those of the machine that have an Ethernet address of their own.

use super::printable;
use crate::inventory::NicInfo;

/// A network card of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNic {
    /// Six pairs of hexadecimal digits with colons, lower case; unicast.
    pub mac: String,
    /// QEMU's and libvirt's name of the model.
    pub model: NicModel,
}

/// An emulated network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicModel {
    /// Intel 82574L, for all systems of the last fifteen years.
    E1000e,
    /// Intel 82540EM, for PCI machines.
    E1000,
    /// virtio-net
    Virtio,
}

impl NicModel {
    /// libvirt's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::E1000e => "e1000e",
            Self::E1000 => "e1000",
            Self::Virtio => "virtio",
        }
    }

    /// QEMU's name of it.
    pub(super) fn qemu(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            other => other.name(),
        }
    }
}

/// The cards, and a sentence for each that the VM does not have.
pub(super) fn planned(nics: &[NicInfo]) -> (Vec<PlannedNic>, Vec<String>) {
    let mut cards: Vec<PlannedNic> = Vec::new();
    let mut notes = Vec::new();
    for nic in nics {
        let card = address(nic).and_then(|mac| {
            if cards.iter().any(|card| card.mac == mac) {
                return Err(format!("another card has its MAC address {mac}"));
            }
            let model = match nic.driver.as_deref() {
                Some("virtio_net") => NicModel::Virtio,
                _ => NicModel::E1000e,
            };
            Ok(PlannedNic { mac, model })
        });
        match card {
            Ok(card) => cards.push(card),
            Err(why) => notes.push(printable(&format!(
                "the VM is without the network card {} ({}): {why}",
                nic.name,
                nic.driver.as_deref().unwrap_or("no driver")
            ))),
        }
    }
    (cards, notes)
}

/// The card's address as the VM has it, or why no card can have it.
fn address(nic: &NicInfo) -> Result<String, String> {
    let Some(mac) = &nic.mac else {
        return Err("its MAC address is not known".into());
    };
    let mac = mac.to_ascii_lowercase();
    let bytes: Option<Vec<u8>> = mac
        .split(':')
        .map(|pair| {
            let hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(pair, 16).ok())?
        })
        .collect();
    match bytes.as_deref() {
        Some([0, 0, 0, 0, 0, 0]) => Err(format!("its MAC address is {mac}, which is none")),
        // Bit 0 of the first byte marks group addresses, which no card has (IEEE 802, 8.2).
        Some([first, _, _, _, _, _]) if first & 1 != 0 => {
            Err(format!("its MAC address {mac} is that of a group"))
        }
        Some([_, _, _, _, _, _]) => Ok(mac),
        // InfiniBand's have 20 bytes.
        _ => Err("it has no Ethernet address".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_card_that_is_left_out_is_named_with_the_reason() {
        let nic = |name: &str, mac: Option<&str>, driver: Option<&str>| NicInfo {
            name: name.into(),
            mac: mac.map(str::to_owned),
            driver: driver.map(str::to_owned),
            ..NicInfo::default()
        };
        let (cards, notes) = planned(&[
            nic("eth0", Some("B0:26:28:AA:BB:01"), Some("tg3")),
            nic("eth1", Some("b0:26:28:aa:bb:01"), Some("tg3")),
            nic("eth2", Some("00:00:00:00:00:00"), Some("bnx2x")),
            nic("eth3", Some("01:00:5e:00:00:01"), Some("tg3")),
            nic("eth4", None, None),
            nic("ib0", Some(&["80"; 20].join(":")), Some("mlx5_core")),
            nic("eth5", Some("b0:26:28:aa:bb:02"), Some("virtio_net")),
        ]);
        let kept: Vec<_> = cards.iter().map(|card| (&*card.mac, card.model)).collect();
        assert_eq!(
            kept,
            [
                ("b0:26:28:aa:bb:01", NicModel::E1000e),
                ("b0:26:28:aa:bb:02", NicModel::Virtio)
            ]
        );
        let without = "the VM is without the network card";
        assert_eq!(
            notes,
            [
                format!("{without} eth1 (tg3): another card has its MAC address b0:26:28:aa:bb:01"),
                format!(
                    "{without} eth2 (bnx2x): its MAC address is 00:00:00:00:00:00, which is none"
                ),
                format!(
                    "{without} eth3 (tg3): its MAC address 01:00:5e:00:00:01 is that of a group"
                ),
                format!("{without} eth4 (no driver): its MAC address is not known"),
                format!("{without} ib0 (mlx5_core): it has no Ethernet address"),
            ]
        );
    }
}
