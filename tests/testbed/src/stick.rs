//! The stick image on a "USB stick": a larger sparse file, with an answer file on its ESP.

use anyhow::{Context, Result};
use haulier_image::edit::Esp;
use haulier_image::packages::Lock;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The size of a stick in tests, in bytes: as small as sticks are sold.
pub const STICK_BYTES: u64 = 4 << 30;

/// A USB stick that carries the image.
#[derive(Debug)]
pub struct Stick {
    path: PathBuf,
    esp: Esp,
}

impl Stick {
    /// Makes a stick of `size_bytes` at `path`, as after writing `image` onto it; the boot menu
    /// does not wait.
    ///
    /// # Errors
    /// When the image cannot be read or is none, or the stick not written.
    pub fn make(image: &Path, lock: &Lock, path: &Path, size_bytes: u64) -> Result<Self> {
        let mut from = File::open(image).with_context(|| format!("opening {}", image.display()))?;
        let doing = || format!("writing the stick {}", path.display());
        let mut to = File::create(path).with_context(doing)?;
        std::io::copy(&mut from, &mut to).with_context(doing)?;
        to.set_len(size_bytes).with_context(doing)?;
        let stick = Self {
            path: path.to_owned(),
            esp: Esp::open(path, lock)?,
        };
        stick.esp.set_grub(&[("haulier_timeout", "0")])?;
        Ok(stick)
    }

    /// The stick's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `text` as `/haulier.toml` on the ESP, as a technician would.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn answer(&self, text: &str) -> Result<()> {
        self.put("haulier.toml", text.as_bytes())
    }

    /// Puts a file at the top of the ESP.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put(&self, path: &str, contents: &[u8]) -> Result<()> {
        self.esp.put(path, contents)
    }

    /// Adds `words` to the kernel command line, as a technician would in the boot menu.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn kernel_words(&self, words: &str) -> Result<()> {
        self.esp
            .set_grub(&[("haulier_timeout", "0"), ("haulier_args", words)])
    }
}
