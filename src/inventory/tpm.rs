//! The trusted platform module, from the kernel's driver or the firmware's tables.

use super::sysroot::SysRoot;
use serde::{Deserialize, Serialize};

/// A trusted platform module. Its keys cannot be carried: what is sealed with it stays behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpm {
    /// `2.0` or `1.2`
    pub version: Option<String>,
}

pub(super) fn read(root: &SysRoot) -> Option<Tpm> {
    let table = |name: &str| {
        root.path(&format!("/sys/firmware/acpi/tables/{name}"))
            .exists()
    };
    // A kernel without the driver still has the firmware's word (TCG ACPI Specification 1.3, 7 and 8).
    let by_firmware = if table("TPM2") {
        Some("2.0")
    } else if table("TCPA") {
        Some("1.2")
    } else {
        None
    };
    let by_driver = root.path("/sys/class/tpm/tpm0").exists();
    if !by_driver && by_firmware.is_none() {
        return None;
    }
    let version = match root
        .text("/sys/class/tpm/tpm0/tpm_version_major")
        .as_deref()
    {
        Some("1") => Some("1.2".to_owned()),
        Some(major) => Some(format!("{major}.0")),
        None => by_firmware.map(str::to_owned),
    };
    Some(Tpm { version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn with(files: &[(&str, &str)]) -> Option<Tpm> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        read(&SysRoot::new(root.path()))
    }

    #[test]
    fn the_driver_or_the_firmware_gives_the_version() {
        let version = |files: &[(&str, &str)]| with(files).map(|tpm| tpm.version);
        assert_eq!(version(&[]), None);
        let driver = ("sys/class/tpm/tpm0/tpm_version_major", "2\n");
        assert_eq!(version(&[driver]), Some(Some("2.0".into())));
        let table = ("sys/firmware/acpi/tables/TCPA", "x");
        assert_eq!(version(&[table]), Some(Some("1.2".into())));
        // A kernel before 5.6 does not say.
        let old = ("sys/class/tpm/tpm0/dev", "10:224");
        assert_eq!(version(&[old]), Some(None));
    }
}
