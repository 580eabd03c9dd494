//! The stick image on a "USB stick": a larger sparse file, with an answer file on its ESP.

use crate::command::run;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Where the image's ESP begins: partition 1 at 1 MiB.
const ESP_OFFSET: &str = "1M";

/// Makes `stick` a USB stick of `size_bytes` that carries the image, as after `dd`.
///
/// # Errors
/// When the image cannot be read, or the stick not written.
pub fn make(image: &Path, stick: &Path, size_bytes: u64) -> Result<()> {
    let mut from = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let doing = || format!("writing the stick {}", stick.display());
    let mut to = File::create(stick).with_context(doing)?;
    std::io::copy(&mut from, &mut to).with_context(doing)?;
    to.set_len(size_bytes).with_context(doing)
}

/// Puts `text` as `/haulier.toml` on the stick's ESP, as a technician would.
///
/// # Errors
/// When mtools is missing or the ESP is not one.
pub fn answer(stick: &Path, text: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new().context("making the answer file")?;
    std::fs::write(file.path(), text).context("writing the answer file")?;
    run(Command::new("mcopy")
        .arg("-o")
        .arg("-i")
        .arg(format!("{}@@{ESP_OFFSET}", stick.display()))
        .arg(file.path())
        .arg("::/haulier.toml"))?;
    Ok(())
}
