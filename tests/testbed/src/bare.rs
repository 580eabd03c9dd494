//! A server whose disk holds no system, so that a boot of the stick is all that a test costs: the disk
//! goes in as noise, and has to come out of the capture as it is.

use crate::command::run;
use crate::journey::DISK_SERIAL;
use crate::product::{Product, scratch};
use crate::qemu::{Bus, Drive, Firmware, Machine};
use crate::stick::Stick;
use anyhow::Result;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct BareServer {
    /// For whatever belongs to the test.
    pub folder: TempDir,
    /// What captures it.
    pub product: Product,
    /// Its only disk.
    pub disk: PathBuf,
}

impl BareServer {
    /// A server with a disk of `mib` MiB, of which seven of eight are noise: so much has its image.
    ///
    /// # Errors
    /// When the product was not built, or the disk cannot be written.
    pub fn new(mib: usize, seed: u64) -> Result<Self> {
        let folder = scratch()?;
        let disk = folder.path().join("disk.img");
        let mut rng = fastrand::Rng::with_seed(seed);
        let file = File::create(&disk)?;
        for at in 0..mib {
            let mut piece = vec![0; MIB];
            if at % 8 != 7 {
                rng.fill(&mut piece);
            }
            file.write_all_at(&piece, (at * MIB) as u64)?;
        }
        Ok(Self {
            product: Product::find()?,
            folder,
            disk,
        })
    }

    /// A stick of `bytes` with the image on it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn stick(&self, name: &str, bytes: u64) -> Result<Stick> {
        let path = self.folder.path().join(name);
        Stick::make(&self.product.image, &self.product.lock, &path, bytes)
    }

    /// The machine, without a stick.
    pub fn machine(&self) -> Machine {
        Machine::new(Firmware::Bios)
            .product("Dell Inc.", "PowerEdge R640", "7XK3P52")
            .disk(Drive::raw(&self.disk, Bus::Sata, DISK_SERIAL))
            .stays_after_shutdown()
    }

    /// The captures on the sticks are whole, and what is imported of them (`words` may pick one) is the
    /// disk as it is now.
    ///
    /// # Errors
    /// When they are not.
    pub fn prove(&self, sticks: &[&Path], words: &[&str]) -> Result<()> {
        run(self.product.command().arg("verify").args(sticks))?;
        let out = self.folder.path().join("vm");
        run(self
            .product
            .command()
            .arg("import")
            .args(sticks)
            .args(["--to", "qemu", "--out"])
            .arg(&out)
            .args(words))?;
        let image = out.join("disk-0.qcow2");
        run(Command::new("qemu-img").arg("check").arg(&image))?;
        run(Command::new("qemu-img")
            .arg("compare")
            .arg(&image)
            .arg(&self.disk))?;
        std::fs::remove_dir_all(out)?;
        Ok(())
    }
}
