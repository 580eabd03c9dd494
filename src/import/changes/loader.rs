//! The loader that firmware falls back to, on an EFI system partition of which only the disk and the number are
//! known: no system has to be mounted for it, so it works for an encrypted one and for Windows, too.

use super::guest::Guest;
use super::wanted::Fallback;
use crate::error::{Error, Kind, Result};
use crate::vm::printable;

/// Where firmware looks by itself (UEFI 2.10, 3.5.1.1).
const FOLDER: &str = "/EFI/BOOT";
/// The file that it starts there on x86-64.
pub(super) const FALLBACK: &str = "/EFI/BOOT/BOOTX64.EFI";

/// Copies the loader to where firmware looks by itself, with what it loads. Nothing is mounted before and
/// behind it.
///
/// # Errors
/// With libguestfs' words.
pub(super) fn copy(guest: &dyn Guest, fallback: &Fallback) -> Result<String> {
    let Fallback { loader, .. } = fallback;
    guest.run(&["mount", &fallback.device(), "/"])?;
    if !guest.is_file(loader)? {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{} is not on the EFI system partition any more",
                printable(loader)
            ),
        ));
    }
    guest.run(&["mkdir-p", FOLDER])?;
    let (from, name) = loader.rsplit_once('/').unwrap_or(("", loader));
    guest.run(&["cp", loader, FALLBACK])?;
    // shim loads its second stage from its own folder; fbx64.efi would set up boot entries instead. Windows'
    // loader finds its store below \EFI\Microsoft, wherever it lies itself.
    if name.eq_ignore_ascii_case("shimx64.efi") {
        for second in ["grubx64.efi", "mmx64.efi"] {
            let path = format!("{from}/{second}");
            if guest.is_file(&path)? {
                guest.run(&["cp", &path, &format!("{FOLDER}/{second}")])?;
            }
        }
    }
    guest.run(&["umount-all"])?;
    Ok(format!(
        "EFI system partition (partition {} of disk {}): {FALLBACK}: a copy of {loader}",
        fallback.partition, fallback.disk
    ))
}

#[cfg(test)]
mod tests {
    use super::super::guest::fake::Fake;
    use super::*;

    fn fallback(loader: &str) -> Fallback {
        Fallback {
            disk: 1,
            partition: 2,
            loader: loader.into(),
        }
    }

    #[test]
    fn shim_is_copied_with_what_it_loads() {
        let shim = "/EFI/debian/shimx64.efi";
        let guest = Fake::new(&[(shim, "shim"), ("/EFI/debian/grubx64.efi", "grub")]);
        let said = copy(&guest, &fallback(shim)).unwrap();
        assert!(
            said.ends_with("BOOTX64.EFI: a copy of /EFI/debian/shimx64.efi"),
            "{said}"
        );
        assert_eq!(guest.text("/EFI/BOOT/BOOTX64.EFI"), "shim");
        assert_eq!(guest.text("/EFI/BOOT/grubx64.efi"), "grub");
        let ran = guest.ran.borrow();
        assert_eq!(ran.first().unwrap(), "mount /dev/sdb2 /");
        assert_eq!(ran.last().unwrap(), "umount-all");
    }

    #[test]
    fn the_loader_of_windows_is_copied_alone() {
        let loader = "/EFI/Microsoft/Boot/bootmgfw.efi";
        let guest = Fake::new(&[(loader, "windows"), ("/EFI/Microsoft/Boot/BCD", "store")]);
        copy(&guest, &fallback(loader)).unwrap();
        assert_eq!(guest.text("/EFI/BOOT/BOOTX64.EFI"), "windows");
        assert_eq!(guest.files.borrow().len(), 3);
    }

    #[test]
    fn a_loader_that_is_not_there_is_an_error() {
        let error = copy(&Fake::new(&[]), &fallback("/EFI/x/shimx64.efi")).unwrap_err();
        assert!(error.to_string().contains("/EFI/x/shimx64.efi"), "{error}");
    }
}
