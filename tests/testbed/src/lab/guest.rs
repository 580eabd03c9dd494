//! A laboratory that runs: what its script says can be read while it does, and its power can be cut.

use super::tail;
use crate::qemu::Running;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// From power-on to the script; 10 s on a quiet machine.
const BEGIN: Duration = Duration::from_secs(300);

/// A machine whose script runs.
#[derive(Debug)]
pub struct Guest {
    pub(super) machine: Running,
    /// Holds the initramfs and the two files below.
    pub(super) folder: TempDir,
}

impl Guest {
    pub(super) fn output_path(folder: &TempDir) -> PathBuf {
        folder.path().join("output")
    }

    pub(super) fn status_path(folder: &TempDir) -> PathBuf {
        folder.path().join("status")
    }

    /// Waits for the script to begin, or for whatever else ends the waiting; false if it never will.
    pub(super) fn begins(&mut self) -> bool {
        let words = ["lab: ", "kthread timer wakeup didn't happen"];
        let heard = self.machine.serial().wait_for_any(&words, BEGIN);
        !matches!(heard, Ok(1))
    }

    /// What the script has said so far, standard output and standard error.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn output(&self) -> Result<String> {
        let bytes = fs::read(Self::output_path(&self.folder)).context("reading what a lab said")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until the script has said `text`.
    ///
    /// # Errors
    /// When it does not within `timeout`, with what it said.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.output()?.contains(text) {
            let ended = !fs::read(Self::status_path(&self.folder))?.is_empty();
            if ended || Instant::now() >= deadline {
                bail!("the lab did not say \"{text}\". {}", self.situation());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the script has ended well and the machine is off; returns what it said.
    ///
    /// # Errors
    /// When the script ended with another code than 0, or not within `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Result<String> {
        let waited = self.machine.wait_exit(timeout);
        waited.with_context(|| self.situation())?;
        let status = fs::read_to_string(Self::status_path(&self.folder))?;
        match status.trim() {
            "ended with 0" => self.output(),
            "" => bail!(
                "the lab went off before its script ended. {}",
                self.situation()
            ),
            status => bail!("the lab's script {status}. {}", self.situation()),
        }
    }

    /// Cuts the power: QEMU is killed, which loses the requests that it had not completed. Returns
    /// what the script had said.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub fn cut_power(self) -> Result<String> {
        let output = self.output()?;
        self.machine.kill()?;
        Ok(output)
    }

    fn situation(&self) -> String {
        format!(
            "It said:\n{}\nIts kernel said:\n{}",
            tail(&self.output().unwrap_or_default()),
            self.machine.serial_tail()
        )
    }
}
