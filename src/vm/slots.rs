//! Places on QEMU's PCI bus. By itself QEMU gives each device a slot of its own, of which a bus has 32, and
//! ends with "PCI: no slot/function available for ... all in use" on a server with 24 NVMe disks. So where there
//! are many, disks and network cards are functions of one slot, eight in each, as on a card with several
//! ports.
//!
//! Not behind `pcie-root-port`s: `pc` has none, and a port with an Intel card behind it takes a window of
//! 4 KiB of I/O space: with 16 of them SeaBIOS 1.16.3 ends ("PCI: out of I/O address space").

use super::VmPlan;

/// From how many disks and cards on they share slots. QEMU's own devices and controllers of disks
/// take at most ten of the 32.
const MANY: usize = 20;
/// Functions of a slot (PCI Local Bus 3.0, 3.2.2.3.4).
const FUNCTIONS: usize = 8;
/// The first slot that is shared; the next ones lie below it, and QEMU gives the others away from below. 31 is the
/// ICH9's.
const TOP: usize = 30;

/// Gives places to disks and cards, in the order in which it is asked.
pub(super) struct Slots {
    shared: bool,
    next: usize,
}

impl Slots {
    pub(super) fn new(plan: &VmPlan) -> Self {
        let disks = plan.disks.iter().filter(|disk| disk.bus.is_pci()).count();
        Self {
            shared: disks.saturating_add(plan.nics.len()) > MANY,
            next: 0,
        }
    }

    /// The end of the next device's properties: nothing where QEMU finds a slot itself.
    pub(super) fn next(&mut self) -> String {
        if !self.shared {
            return String::new();
        }
        let (above, function) = (self.next / FUNCTIONS, self.next % FUNCTIONS);
        self.next = self.next.saturating_add(1);
        let slot = TOP.saturating_sub(above);
        let first = if function == 0 {
            ",multifunction=on"
        } else {
            ""
        };
        format!(",addr=0x{slot:x}.{function}{first}")
    }
}
