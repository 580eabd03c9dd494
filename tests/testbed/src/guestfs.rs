//! Libguestfs on a machine that has no KVM.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// QEMU with one processor whatever it is asked for: under emulation libguestfs' small machine hung with two, one
/// time in five.
const WRAPPER: &str = r#"#!/bin/bash
words=()
while [ $# -gt 0 ]; do
  case $1 in
    -smp) words+=(-smp 1); shift 2;;
    *) words+=("$1"); shift;;
  esac
done
exec qemu-system-x86_64 "${words[@]}"
"#;

/// Lets `import` use libguestfs without KVM, which runs no stock kernel on some machines. `folder` gets a
/// program.
///
/// # Errors
/// When it cannot be written.
pub fn emulated<'a>(import: &'a mut Command, folder: &Path) -> Result<&'a mut Command> {
    let wrapper = folder.join("qemu-with-one-processor");
    if !wrapper.exists() {
        fs::write(&wrapper, WRAPPER)
            .and_then(|()| fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", wrapper.display()))?;
    }
    Ok(import
        .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
        .env("LIBGUESTFS_HV", wrapper))
}
