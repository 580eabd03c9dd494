//! `cargo xtask image`: the program and the stick image.

use crate::say;
use anyhow::{Context, Result};
use haulier_image::{lock_path, relock};
use haulier_testbed::product::{Product, default_image, workspace};
use haulier_testbed::setup::{self, Purpose};
use std::path::PathBuf;

/// Makes the image; `relocked` first asks the archive for the newest packages.
pub(crate) fn run(relocked: bool, out: Option<PathBuf>) -> Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Image], &say)?;
    if relocked {
        let path = lock_path(&workspace());
        let lock = relock(&path)?;
        println!(
            "{} packages fixed in {}",
            lock.packages.len(),
            path.display()
        );
    }
    build(out)?;
    Ok(())
}

/// Builds and says what came out.
pub(crate) fn build(out: Option<PathBuf>) -> Result<Product> {
    let out = out.unwrap_or_else(default_image);
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let (product, summary) = Product::build(&out)?;
    println!(
        "{}: {} MiB, Linux {}, SHA-256 {}",
        summary.image.display(),
        summary.size >> 20,
        summary.kernel,
        summary.sha256
    );
    Ok(product)
}
