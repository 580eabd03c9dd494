//! What starts in the VM, in the words that clouds have for it.

use super::clock::Zone;
use super::guest::{SanPolicy, static_addresses};
use crate::inventory::{System, SystemKind};

/// A distribution's `ID` is a short word (os-release(5)).
const LONGEST_ID: usize = 32;

/// The system that starts in the VM, where the inventory knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Linux.
    Linux,
    /// Windows NT 5.0 and later.
    Windows,
}

/// See [`Family`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSystem {
    /// What it is.
    pub family: Family,
    /// `ID` of os-release: lower-case letters, digits, `.`, `_`, `-`.
    pub distribution: Option<String>,
    /// Windows: major and minor version, and the build.
    pub windows: Option<(u32, u32, u32)>,
    /// Windows for servers.
    pub server: bool,
    /// The zone of its local time.
    pub zone: Option<Zone>,
    /// Of a Windows that leaves disks offline.
    pub(super) san_policy: Option<SanPolicy>,
    /// What it gives its network cards by itself: `192.0.2.7/24`.
    pub static_addresses: Vec<String>,
}

impl GuestSystem {
    /// The first of the installed systems, if its kind is known.
    pub(super) fn of(installed: Option<&[System]>) -> Option<Self> {
        let system = installed?.first()?;
        let family = match system.kind? {
            SystemKind::Linux => Family::Linux,
            SystemKind::Windows => Family::Windows,
            SystemKind::Other => return None,
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let word = |id: &&String| !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(plain);
        let version = system.version.as_deref().and_then(version);
        Some(Self {
            family,
            distribution: system.id.as_ref().filter(word).cloned(),
            windows: version.filter(|_| family == Family::Windows),
            server: system
                .name
                .as_ref()
                .is_some_and(|name| name.contains("Server")),
            zone: Zone::of(system),
            san_policy: SanPolicy::of(system),
            static_addresses: static_addresses(system),
        })
    }

    /// Nova's `os_type`.
    pub(super) fn os_type(&self) -> &'static str {
        match self.family {
            Family::Linux => "linux",
            Family::Windows => "windows",
        }
    }

    /// Nova's `os_distro`.
    pub(super) fn os_distro(&self) -> Option<&str> {
        match self.family {
            Family::Linux => self.distribution.as_deref(),
            Family::Windows => Some("windows"),
        }
    }

    /// Proxmox VE's `ostype`.
    pub(super) fn proxmox(&self) -> &'static str {
        match (self.family, self.windows) {
            (Family::Linux, _) => "l26",
            // Server 2022 is build 20348, Windows 11 is 22000 and later.
            (_, Some((10, _, 20_348..))) => "win11",
            (_, Some((10, _, _))) => "win10",
            (_, Some((6, 2..=3, _))) => "win8",
            (_, Some((6, 1, _))) => "win7",
            (_, Some((6, 0, _))) if self.server => "w2k8",
            (_, Some((6, 0, _))) => "wvista",
            (_, Some((5, 2, _))) => "w2k3",
            (_, Some((5, 1, _))) => "wxp",
            (_, Some((5, 0, _))) => "w2k",
            (Family::Windows, _) => "win10",
        }
    }

    /// The number of `CIM_OperatingSystem.OSType`, and VMware's name.
    pub(super) fn ovf(&self) -> (&'static str, &'static str) {
        match (self.family, self.windows, self.server) {
            (Family::Linux, _, _) => ("101", "otherLinux64Guest"),
            (_, Some((6, 2..=3, _)), true) => ("102", "windows8Server64Guest"),
            (_, Some((6, 2..=3, _)), false) => ("102", "windows8_64Guest"),
            (_, Some((6, 1, _)), true) => ("102", "windows7Server64Guest"),
            (_, Some((6, 1, _)), false) => ("102", "windows7_64Guest"),
            (Family::Windows, _, true) => ("102", "windows9Server64Guest"),
            (Family::Windows, _, false) => ("102", "windows9_64Guest"),
        }
    }
}

/// `10.0.17763`
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((
        parts.next()??,
        parts.next()??,
        parts.next().flatten().unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(name: &str, version: &str) -> GuestSystem {
        let system = System {
            kind: Some(SystemKind::Windows),
            name: Some(name.into()),
            version: Some(version.into()),
            ..System::default()
        };
        GuestSystem::of(Some(&[system])).unwrap()
    }

    #[test]
    fn every_windows_has_its_names() {
        for (name, version, proxmox, vmware) in [
            ("Windows 11 Pro", "10.0.22631", "win11", "windows9_64Guest"),
            (
                "Windows Server 2022",
                "10.0.20348",
                "win11",
                "windows9Server64Guest",
            ),
            (
                "Windows Server 2019",
                "10.0.17763",
                "win10",
                "windows9Server64Guest",
            ),
            (
                "Windows Server 2012 R2",
                "6.3.9600",
                "win8",
                "windows8Server64Guest",
            ),
            ("Windows 7", "6.1.7601", "win7", "windows7_64Guest"),
            (
                "Windows Server 2008",
                "6.0.6002",
                "w2k8",
                "windows9Server64Guest",
            ),
            ("Windows", "?", "win10", "windows9_64Guest"),
        ] {
            let system = windows(name, version);
            assert_eq!(
                (system.proxmox(), system.ovf().1),
                (proxmox, vmware),
                "{name}"
            );
            assert_eq!(
                (system.os_type(), system.os_distro()),
                ("windows", Some("windows"))
            );
        }
    }

    #[test]
    fn a_distribution_that_is_no_word_is_none() {
        for (id, kept) in [
            ("debian", true),
            ("rhel", true),
            ("$(id)", false),
            ("", false),
        ] {
            let system = System {
                kind: Some(SystemKind::Linux),
                id: Some(id.into()),
                ..System::default()
            };
            let system = GuestSystem::of(Some(&[system])).unwrap();
            assert_eq!(system.os_distro().is_some(), kept, "{id}");
            assert_eq!(system.proxmox(), "l26");
        }
        assert_eq!(GuestSystem::of(Some(&[System::default()])), None);
        assert_eq!(GuestSystem::of(None), None);
    }
}
