//! What is tested: the stick image and the program, as `cargo xtask image` makes them.

use anyhow::{Context, Result, ensure};
use haulier_image::packages::Lock;
use haulier_image::{Inputs, Summary, lock_path, programs};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The built product.
#[derive(Debug)]
pub struct Product {
    /// The stick image.
    pub image: PathBuf,
    /// The program; the same that is in the image runs on this machine, being static.
    pub haulier: PathBuf,
    /// The packages that the image was made from.
    pub lock: Lock,
}

impl Product {
    /// Builds the programs and the image at `out`.
    ///
    /// # Errors
    /// When the build fails, or a package cannot be fetched.
    pub fn build(out: &Path) -> Result<(Self, Summary)> {
        let root = workspace();
        let lock = Lock::read(&lock_path(&root))?;
        let programs = programs::build(&root)?;
        let haulier = programs.haulier.clone();
        let summary = haulier_image::build(&Inputs {
            programs,
            lock: lock.clone(),
            out: out.to_owned(),
        })?;
        let product = Self {
            image: summary.image.clone(),
            haulier,
            lock,
        };
        Ok((product, summary))
    }

    /// The product that `cargo xtask image` left.
    ///
    /// # Errors
    /// When it was not built.
    pub fn find() -> Result<Self> {
        let product = Self {
            image: default_image(),
            haulier: target().join("appliance/x86_64-unknown-linux-gnu/release/haulier"),
            lock: Lock::read(&lock_path(&workspace()))?,
        };
        for file in [&product.image, &product.haulier] {
            ensure!(
                file.exists(),
                "{} is not there: build it with `cargo xtask image`",
                file.display()
            );
        }
        Ok(product)
    }

    /// A command of the program.
    pub fn command(&self) -> Command {
        Command::new(&self.haulier)
    }
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace().join("target"),
        |given| workspace().join(given),
    )
}

/// Where `cargo xtask image` puts the image.
pub fn default_image() -> PathBuf {
    target().join("haulier.img")
}

/// A folder for disks and sticks, below cargo's target folder: /tmp may be small.
///
/// # Errors
/// When it cannot be made.
pub fn scratch() -> Result<tempfile::TempDir> {
    let parent = target().join("testbed");
    std::fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
    tempfile::tempdir_in(&parent)
        .with_context(|| format!("making a folder in {}", parent.display()))
}
