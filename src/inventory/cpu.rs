//! The processors, from `/proc/cpuinfo`.

use super::sysroot::SysRoot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the processors are and how they are arranged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// `GenuineIntel`, `AuthenticAMD`
    pub vendor: Option<String>,
    /// `Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz`
    pub model: Option<String>,
    /// Packages; 0: not known.
    pub sockets: u32,
    /// Cores a socket; 0: not known.
    pub cores_per_socket: u32,
    /// Hardware threads a core; 0: not known.
    pub threads_per_core: u32,
    /// The x86-64 microarchitecture level of the psABI, 1 to 4: what distributions require of it.
    pub x86_64_level: Option<u32>,
    /// The kernel's names of its features.
    pub flags: Vec<String>,
}

/// Features that each level adds, by the kernel's names (x86-64 psABI 1.0, table 3.1).
const LEVELS: [(u32, &[&str]); 3] = [
    (
        2,
        &[
            "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3",
        ],
    ),
    (
        3,
        &[
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
        ],
    ),
    (
        4,
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ),
];

impl Cpu {
    pub(super) fn read(root: &SysRoot) -> Self {
        Self::parse(&root.lines("/proc/cpuinfo").unwrap_or_default())
    }

    /// The level of the machine that this runs on, of [`Cpu::x86_64_level`].
    pub(crate) fn level_here() -> Option<u32> {
        Self::read(&SysRoot::new(std::path::Path::new("/"))).x86_64_level
    }

    fn parse(cpuinfo: &str) -> Self {
        let mut cpu = Self::default();
        let mut sockets = BTreeSet::new();
        let mut cores = BTreeSet::new();
        let mut threads = 0_u32;
        for processor in cpuinfo.split("\n\n") {
            let field = |name: &str| {
                processor.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    (key.trim() == name).then(|| value.trim().to_owned())
                })
            };
            if field("processor").is_none() {
                continue;
            }
            threads = threads.saturating_add(1);
            // A kernel without SMP support says neither.
            let socket = field("physical id").unwrap_or_default();
            let core = field("core id").unwrap_or_else(|| threads.to_string());
            cores.insert((socket.clone(), core));
            sockets.insert(socket);
            if cpu.flags.is_empty() {
                cpu.vendor = field("vendor_id");
                cpu.model = field("model name")
                    .map(|model| model.split_whitespace().collect::<Vec<_>>().join(" "));
                cpu.flags = field("flags")
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect();
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        cpu.sockets = count(sockets.len());
        // Division rounds down where a core is switched off in one socket only: a VM needs a
        // rectangle, and `vcpus` keeps the number of threads right.
        cpu.cores_per_socket = (count(cores.len()) / cpu.sockets).max(1);
        cpu.threads_per_core = (threads / count(cores.len())).max(1);
        cpu.x86_64_level = level(&cpu.flags);
        cpu
    }

    /// Hardware threads in all.
    pub fn threads(&self) -> u32 {
        self.sockets
            .max(1)
            .saturating_mul(self.cores_per_socket.max(1))
            .saturating_mul(self.threads_per_core.max(1))
    }
}

fn level(flags: &[String]) -> Option<u32> {
    let has = |name: &&str| flags.iter().any(|flag| flag == name);
    if !has(&"lm") {
        return None;
    }
    Some(
        LEVELS
            .iter()
            .take_while(|(_, needed)| needed.iter().all(has))
            .map(|(level, _)| *level)
            .last()
            .unwrap_or(1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(sockets: u32, cores: u32, threads: u32, flags: &str) -> String {
        let mut text = String::new();
        let mut number = 0;
        for _ in 0..threads {
            for socket in 0..sockets {
                for core in 0..cores {
                    text += &format!(
                        "processor\t: {number}\nvendor_id\t: GenuineIntel\n\
                         model name\t: Intel(R)  Xeon(R)\nphysical id\t: {socket}\n\
                         core id\t\t: {core}\nflags\t\t: {flags}\n\n"
                    );
                    number += 1;
                }
            }
        }
        text
    }

    #[test]
    fn topology_is_counted_not_believed() {
        let cpu = Cpu::parse(&cpuinfo(2, 16, 2, "lm cx16"));
        assert_eq!(
            (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core),
            (2, 16, 2)
        );
        assert_eq!(cpu.threads(), 64);
        assert_eq!(cpu.model.as_deref(), Some("Intel(R) Xeon(R)"));
    }

    #[test]
    fn no_cpuinfo_is_one_processor() {
        assert_eq!(Cpu::parse("").threads(), 1);
    }

    #[test]
    fn a_level_needs_all_features_of_the_levels_below() {
        let v2 = "lm cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
        let v3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
        let level = |flags: &str| Cpu::parse(&cpuinfo(1, 1, 1, flags)).x86_64_level;
        assert_eq!(level("fpu"), None);
        assert_eq!(level("lm"), Some(1));
        assert_eq!(level(v2), Some(2));
        assert_eq!(level(&format!("lm {v3}")), Some(1));
        assert_eq!(level(&format!("{v2} {v3}")), Some(3));
    }
}
