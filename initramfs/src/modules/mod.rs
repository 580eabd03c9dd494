//! Kernel modules: which ones a device wants, in which order they are loaded, and loading them.
//!
//! In: a modalias or a module's name, and the text files of depmod(8) in
//! `/lib/modules/<release>`. Out: modules in the kernel. No kmod, no udev.

mod alias;
mod index;
mod load;
mod loader;
mod options;

pub(crate) mod modprobe;

pub(crate) use index::Index;
pub(crate) use loader::Loader;
pub(crate) use options::Options;

/// Modules that neither a device nor the kernel gets from us: they put block devices together from others, and
/// might write to those (an array's superblock, a log). Haulier reads such volumes by itself.
pub(crate) const NEVER: [&str; 4] = ["md_mod", "dm_mod", "bcache", "drbd"];

/// Module names are written with `-` or `_`; the kernel means the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}
