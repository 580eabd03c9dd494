//! What this machine lacks for building and testing, and how it gets it.
//!
//! In comes a list of purposes; out comes a machine that has every program they need. Whoever has
//! everything sees nothing. Otherwise what is missing is said first, with the reason, and then
//! installed with apt-get, through sudo where we are not root.
//!
//! * [`needs`]: the packages, what they are for, and the file that shows that they are there.
//! * [`apt`]: installing, and the one trap: QEMU's parts from different suites.

pub mod apt;
pub mod needs;

pub use needs::{Need, Purpose};

use anyhow::{Result, bail};
use std::path::Path;

/// Installs what is missing for `purposes`; `say` gets each line for the person.
///
/// # Errors
/// When the machine has no apt-get, or the installation fails; the error names the packages.
pub fn ensure(purposes: &[Purpose], say: &dyn Fn(&str)) -> Result<()> {
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    say("This machine lacks some packages. They will be installed with apt-get:");
    for need in &missing {
        say(&format!("  {:<28} {}", need.package, need.why));
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "this machine has no apt-get: install what corresponds to Debian's packages {}",
            packages.join(" ")
        );
    }
    apt::install(&packages, say)?;
    let still: Vec<&str> = self::missing(purposes)
        .iter()
        .map(|need| need.package)
        .collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(" "));
    }
    Ok(())
}

/// What is missing for `purposes`, in the order of [`needs::ALL`].
fn missing(purposes: &[Purpose]) -> Vec<&'static Need> {
    needs::ALL
        .iter()
        .filter(|need| purposes.contains(&need.purpose) && need.applies() && !need.is_met())
        .collect()
}
