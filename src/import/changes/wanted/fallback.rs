//! Which loader a firmware that knows nothing of the machine is to start.

use super::super::loader::FALLBACK;
use super::{Boots, Wanted};
use crate::vm::best_loader;

/// A loader that is to lie where firmware looks by itself, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Fallback {
    /// The disk's number in the VM.
    pub(in super::super) disk: usize,
    /// The number of its EFI system partition.
    pub(in super::super) partition: u32,
    /// The loader there: `/EFI/debian/shimx64.efi`.
    pub(in super::super) loader: String,
}

impl Fallback {
    /// The partition in libguestfs' machine, which has the disks in the VM's order.
    pub(in super::super) fn device(&self) -> String {
        // Past `z` nothing that is a device.
        let letter = ('a'..='z').nth(self.disk).unwrap_or('?');
        format!("/dev/sd{letter}{}", self.partition)
    }
}

impl Wanted {
    pub(super) fn fallback(&mut self, boots: Boots<'_>) {
        let loaders: Vec<Fallback> = boots
            .iter()
            .flat_map(|(disk, boot)| boot.esps.iter().map(move |esp| (*disk, esp)))
            .flat_map(|(disk, esp)| {
                esp.loaders.iter().flatten().map(move |loader| Fallback {
                    disk,
                    partition: esp.partition,
                    loader: loader.clone(),
                })
            })
            .collect();
        let paths: Vec<&str> = loaders.iter().map(|found| found.loader.as_str()).collect();
        if paths.iter().any(|path| path.eq_ignore_ascii_case(FALLBACK)) {
            return;
        }
        let best = best_loader(&paths);
        self.fallback = loaders
            .iter()
            .find(|found| best == Some(&*found.loader))
            .cloned();
        if self.fallback.is_none() {
            self.notes.push(
                "no loader that is known to start a system was found on an EFI system partition: there is \
                 nothing to put at the path that firmware falls back to"
                    .into(),
            );
        }
    }
}
