//! Giving one module to the kernel, compressed as it was shipped: its signature covers the
//! decompressed bytes, which the kernel makes itself.

use super::index::Step;
use super::options::Options;
use anyhow::{Context, Result};
use rustix::io::Errno;
use std::ffi::c_int;
use std::fs::File;
use std::path::Path;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
const COMPRESSED: c_int = 4;

/// Loads one module. One that is there already, or that finds no hardware, is no error.
pub(super) fn load(step: &Step, options: &Options) -> Result<()> {
    if is_live(&step.name) || options.forbids(&step.name) {
        return Ok(());
    }
    let file =
        File::open(&step.file).with_context(|| format!("opening {}", step.file.display()))?;
    let plain = step
        .file
        .extension()
        .is_some_and(|extension| extension == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    match rustix::system::finit_module(&file, &options.of(&step.name), flags) {
        Ok(()) | Err(Errno::EXIST | Errno::NODEV) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("loading the module {}", step.name)),
    }
}

fn is_live(name: &str) -> bool {
    std::fs::read_to_string(Path::new("/sys/module").join(name).join("initstate"))
        .is_ok_and(|state| state.trim() == "live")
}
