//! QEMU's machine protocol: one JSON object a line over a socket.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// QEMU answers at once, unless the host is very busy.
const ANSWER: Duration = Duration::from_secs(60);

/// What QEMU itself counted on one drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockStats {
    /// Read requests of the guest.
    pub reads: u64,
    /// Bytes that the guest read.
    pub read_bytes: u64,
    /// Write requests of the guest, failed ones included.
    pub writes: u64,
    /// Bytes that the guest wrote.
    pub written_bytes: u64,
    /// Discard requests of the guest.
    pub unmaps: u64,
}

/// A conversation with QEMU.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    partial: String,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Greets QEMU at the other end of `stream`.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let mut qmp = Self {
            reader: BufReader::new(stream),
            partial: String::new(),
            events: VecDeque::new(),
        };
        qmp.message(Instant::now() + ANSWER)?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// QEMU's own words when it refuses; when it is gone or silent.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        self.reader
            .get_mut()
            .write_all(line.as_bytes())
            .with_context(|| format!("sending {command} to QEMU"))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let mut message = self
                .message(deadline)
                .with_context(|| format!("waiting for QEMU's answer to {command}"))?;
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {command}: {}", error["desc"]);
            }
            if message.get("return").is_some() {
                return Ok(message["return"].take());
            }
            self.events.push_back(message);
        }
    }

    /// Waits for an event (`SHUTDOWN`, `DEVICE_DELETED`), also one that came already.
    ///
    /// # Errors
    /// When it does not come within `timeout`, or QEMU goes away.
    pub fn wait_event(&mut self, name: &str, timeout: Duration) -> Result<Value> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event["event"] == name {
                    return Ok(event);
                }
            }
            let message = self
                .message(deadline)
                .with_context(|| format!("waiting for QEMU's event {name}"))?;
            self.events.push_back(message);
        }
    }

    /// What QEMU counted on the drive `id` (`disk0`, `stick0`).
    ///
    /// # Errors
    /// When there is no such drive.
    pub fn block_stats(&mut self, id: &str) -> Result<BlockStats> {
        let all = self.execute("query-blockstats", json!({}))?;
        let node = format!("{id}-node");
        let drive = all
            .as_array()
            .into_iter()
            .flatten()
            .find(|drive| drive["node-name"] == node.as_str())
            .with_context(|| format!("QEMU has no statistics of {id}: {all}"))?;
        let count = |name: &str| {
            drive["stats"][name]
                .as_u64()
                .with_context(|| format!("QEMU's statistics of {id} have no {name}"))
        };
        Ok(BlockStats {
            reads: count("rd_operations")?,
            read_bytes: count("rd_bytes")?,
            writes: count("wr_operations")? + count("failed_wr_operations")?,
            written_bytes: count("wr_bytes")?,
            unmaps: count("unmap_operations")?,
        })
    }

    /// Pulls the device `id` out of the running machine and waits until it is gone.
    ///
    /// # Errors
    /// When QEMU cannot unplug it, or the guest does not let go of it.
    pub fn unplug(&mut self, id: &str) -> Result<()> {
        self.execute("device_del", json!({"id": id}))?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait_event("DEVICE_DELETED", left)?["data"]["device"] == id {
                return Ok(());
            }
        }
    }

    /// Puts the stick `id` (`stick0`) back that was pulled out.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug_stick(&mut self, id: &str, serial: &str) -> Result<()> {
        self.execute(
            "device_add",
            json!({
                "driver": "usb-storage",
                "id": id,
                "bus": "xhci.0",
                "drive": format!("{id}-node"),
                "serial": serial,
                "removable": true,
            }),
        )?;
        Ok(())
    }

    /// The machine's screen as a PNG.
    ///
    /// # Errors
    /// When QEMU cannot write the file.
    pub fn screenshot(&mut self, png: &Path) -> Result<()> {
        self.execute("screendump", json!({"filename": png, "format": "png"}))?;
        Ok(())
    }

    /// The next message of QEMU.
    fn message(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("QEMU did not answer in time");
            }
            self.reader.get_mut().set_read_timeout(Some(left))?;
            // A line that the timeout cuts short stays in `partial` and goes on next time.
            match self.reader.read_line(&mut self.partial) {
                Ok(0) => bail!("QEMU closed the connection"),
                Ok(_) if self.partial.ends_with('\n') => {
                    let message = serde_json::from_str(&self.partial)
                        .with_context(|| format!("QEMU said {:?}", self.partial))?;
                    self.partial.clear();
                    return Ok(message);
                }
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("listening to QEMU"),
            }
        }
    }
}
