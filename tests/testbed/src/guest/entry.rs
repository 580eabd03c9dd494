//! The boot entry that a server's firmware has for its system, as an installer leaves it
//! (UEFI 2.10, 3.1.3 and 10.3.5).

use super::recipe::{Boot, Recipe};
use anyhow::{Context, Result};

/// `LOAD_OPTION_ACTIVE`
const ACTIVE: u32 = 1;
/// Of shim and of systemd-boot.
const LOADERS: [&str; 2] = [
    r"\EFI\debian\shimx64.efi",
    r"\EFI\systemd\systemd-bootx64.efi",
];

impl Recipe {
    /// The content of `Boot####`: the ESP of the first disk by its GUID, and the loader on it.
    ///
    /// # Errors
    /// When the server does not start by UEFI.
    pub fn load_option(&self) -> Result<Vec<u8>> {
        let esp = self.layout().loader.filter(|_| self.boot == Boot::Uefi);
        let (start, length) = esp.context("this server has no ESP")?;
        let mut path = vec![4, 1, 42, 0];
        path.extend(1_u32.to_le_bytes());
        path.extend((start / 512).to_le_bytes());
        path.extend((length / 512).to_le_bytes());
        path.extend(esp_guid());
        path.extend([2, 2]);
        let (loader, name) = match self.flavor.has_systemd_boot() {
            false => (LOADERS[0], "debian"),
            true => (LOADERS[1], "Linux Boot Manager"),
        };
        let file = utf16(loader);
        path.extend([4, 4]);
        path.extend(u16::try_from(file.len() + 4)?.to_le_bytes());
        path.extend(file);
        path.extend([0x7f, 0xff, 4, 0]);
        let mut option = ACTIVE.to_le_bytes().to_vec();
        option.extend(u16::try_from(path.len())?.to_le_bytes());
        option.extend(utf16(name));
        option.extend(path);
        Ok(option)
    }
}

/// The GUID of the first partition in [`Recipe::table`], as it lies in memory: the first three parts are
/// little-endian.
fn esp_guid() -> [u8; 16] {
    [
        0x1a, 0x9b, 0x4c, 0x0e, 0x3b, 0x6d, 0x43, 0x4c, 0x9e, 0x1b, 0x7a, 0x5d, 0x12, 0xc0, 0xf0,
        0x02,
    ]
}

fn utf16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}
