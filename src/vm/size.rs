//! How many processors and how much memory the VM has: the machine's, within reason. A `machine.json` may
//! be a stranger's, and no hypervisor starts a VM with 2^64 bytes.

use super::VmPlan;
use crate::inventory::Machine;

/// Memory for a machine whose own amount is unknown, in KiB.
const UNKNOWN_MEMORY_KIB: u64 = 2 * 1024 * 1024;
/// The least memory that counts as a machine's, in bytes: less than any x86-64 system starts in.
const LEAST_MEMORY: u64 = 64 << 20;
/// The most, in bytes: 46 bits, what x86-64 Linux addressed before it had page tables of five levels
/// (Documentation/arch/x86/x86_64/mm.rst).
const MOST_MEMORY: u64 = 64 << 40;
/// The most processors: `max_cpus` of QEMU's q35 (hw/i386/pc_q35.c, since QEMU 9.0).
const MOST_PROCESSORS: u32 = 4096;

/// From how much memory on the addresses do not fit into 40 bits for sure, in KiB: 900 GiB, with room for the holes
/// that devices have. 40 bits is what QEMU's processor models have unless told otherwise, and all that its software
/// emulation has (`TCG_PHYS_ADDR_BITS` of target/i386/cpu.h).
const MANY_ADDRESSES_KIB: u64 = 900 << 20;

/// Processor packages, cores a package and threads a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Processors {
    pub(super) sockets: u32,
    pub(super) cores: u32,
    pub(super) threads: u32,
}

impl Processors {
    /// Those of the machine.
    pub(super) fn of(machine: &Machine, notes: &mut Vec<String>) -> Self {
        let cpu = &machine.cpu;
        let known = Self {
            sockets: cpu.sockets.max(1),
            cores: cpu.cores_per_socket.max(1),
            threads: cpu.threads_per_core.max(1),
        };
        let count = known.count();
        if count > MOST_PROCESSORS {
            notes.push(format!(
                "machine.json says that the machine has {} sockets with {} cores with {} threads, more than any \
                 has: the VM has one processor",
                known.sockets, known.cores, known.threads
            ));
            return Self {
                sockets: 1,
                cores: 1,
                threads: 1,
            };
        }
        if [cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core].contains(&0) {
            notes.push(format!(
                "the number of the machine's processors is unknown: the VM has {count}"
            ));
        }
        known
    }

    /// Threads in all.
    pub(super) fn count(self) -> u32 {
        self.sockets
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
    }

    /// As many of them as `most` allows, in one package.
    pub(super) fn at_most(self, most: u32) -> Self {
        if self.count() <= most {
            return self;
        }
        let threads = self.threads.min(most).max(1);
        Self {
            sockets: 1,
            cores: (most / threads).max(1),
            threads,
        }
    }
}

impl VmPlan {
    /// Whether its memory needs more than 40 bits of address: the host's own processor then has to lend its
    /// number of bits.
    pub(crate) fn needs_many_addresses(&self) -> bool {
        self.memory_kib > MANY_ADDRESSES_KIB
    }
}

/// The machine's memory in KiB.
pub(super) fn memory_kib(machine: &Machine, notes: &mut Vec<String>) -> u64 {
    let memory = &machine.memory;
    let mut told = [memory.installed_bytes, memory.usable_bytes]
        .into_iter()
        .flatten();
    let Some(first) = told.next() else {
        notes.push("the machine's memory is unknown: the VM has 2 GiB".into());
        return UNKNOWN_MEMORY_KIB;
    };
    let within = |bytes: &u64| (LEAST_MEMORY..=MOST_MEMORY).contains(bytes);
    if within(&first) {
        return first / 1024;
    }
    let other = told.find(within).map(|bytes| bytes / 1024);
    let kib = other.unwrap_or(UNKNOWN_MEMORY_KIB);
    notes.push(format!(
        "machine.json says that the machine has {first} bytes of memory, which no such machine has: the VM has \
         {} MiB",
        kib.div_ceil(1024)
    ));
    kib
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(rest: &str) -> Machine {
        let json = format!(r#"{{"version": 2, "name": "m", {rest}}}"#);
        Machine::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn processors_beyond_reason_are_one_and_unknown_ones_too() {
        for (cpu, count, said) in [
            ("[2, 16, 2]", 64, None),
            ("[16, 128, 2]", 4096, None),
            (
                "[4294967295, 4294967295, 2]",
                1,
                Some("4294967295 sockets with 4294967295 cores with 2 threads"),
            ),
            ("[null, null, null]", 1, Some("is unknown: the VM has 1")),
            ("[null, 8, 2]", 16, Some("is unknown: the VM has 16")),
        ] {
            let numbers: [Option<u32>; 3] = serde_json::from_str(cpu).unwrap();
            let cpu = serde_json::json!({
                "sockets": numbers[0], "cores_per_socket": numbers[1], "threads_per_core": numbers[2],
            });
            let mut notes = Vec::new();
            let processors = Processors::of(&machine(&format!(r#""cpu": {cpu}"#)), &mut notes);
            assert_eq!(processors.count(), count, "{cpu}");
            assert_eq!(notes.len(), usize::from(said.is_some()), "{cpu}");
            assert!(
                notes.iter().all(|note| note.contains(said.unwrap())),
                "{notes:?}"
            );
        }
    }

    #[test]
    fn what_is_too_many_for_a_machine_keeps_its_threads() {
        let all = Processors {
            sockets: 2,
            cores: 64,
            threads: 2,
        };
        assert_eq!(all.at_most(256), all);
        let fewer = all.at_most(255);
        assert_eq!((fewer.sockets, fewer.cores, fewer.threads), (1, 127, 2));
    }

    #[test]
    fn memory_beyond_reason_is_what_the_kernel_saw_or_2_gib() {
        let gib: u64 = 1 << 30;
        for (installed, usable, kib, said) in [
            (Some(256 * gib), None, 256 << 20, None),
            (Some(1), None, 2 << 20, Some("has 1 bytes of memory")),
            (Some(u64::MAX), None, 2 << 20, Some("18446744073709551615")),
            (
                Some(u64::MAX),
                Some(3 * gib),
                3 << 20,
                Some("the VM has 3072 MiB"),
            ),
            (None, None, 2 << 20, Some("is unknown: the VM has 2 GiB")),
        ] {
            let memory = serde_json::json!({"installed_bytes": installed, "usable_bytes": usable});
            let mut notes = Vec::new();
            assert_eq!(
                memory_kib(&machine(&format!(r#""memory": {memory}"#)), &mut notes),
                kib,
                "{memory}"
            );
            assert_eq!(notes.len(), usize::from(said.is_some()), "{memory}");
            assert!(
                notes.iter().all(|note| note.contains(said.unwrap())),
                "{notes:?}"
            );
        }
    }
}
