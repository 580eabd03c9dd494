//! libvirt without its daemon: a private one inside `virsh` (`qemu:///embed`), below a folder of
//! its own, so that tests neither need nor touch the machine's libvirt.

mod host;

pub use host::{Domain as HostDomain, Host};

use crate::command::{missing, run, shown, tool};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No daemon that keeps logs, no user of its own, nothing that needs the machine's own libvirt.
const CONFIGURATION: &str = "stdio_handler = \"file\"
user = \"+0\"
group = \"+0\"
dynamic_ownership = 0
security_driver = \"none\"
namespaces = []
cgroup_controllers = []
";

/// A private libvirt.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    root: PathBuf,
}

impl Libvirt {
    /// Below `root`, a folder with an absolute path; made if it is not there.
    ///
    /// # Errors
    /// When the folder or libvirt's configuration in it cannot be written.
    pub fn new(root: &Path) -> Result<Self> {
        let folder = root.join("etc");
        let doing = || format!("setting up a private libvirt in {}", root.display());
        fs::create_dir_all(&folder).with_context(doing)?;
        fs::write(folder.join("qemu.conf"), CONFIGURATION).with_context(doing)?;
        Ok(Self {
            uri: format!("qemu:///embed?root={}", root.display()),
            root: root.to_owned(),
        })
    }

    /// For `--connect`.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The definition of a domain.
    ///
    /// # Errors
    /// When there is no such domain.
    pub fn definition(&self, domain: &str) -> Result<String> {
        run(self.virsh().args(["dumpxml", "--inactive", domain]))
    }

    /// Starts a defined domain with its serial line going to a file, its network cards leading
    /// nowhere (a private libvirt has no networks), and emulated: tests give the same result with
    /// and without KVM.
    ///
    /// # Errors
    /// When libvirt refuses the domain.
    pub fn start(&self, domain: &str) -> Result<Domain> {
        let log = self.root.join("serial.log");
        let definition = with_serial_file(&self.definition(domain)?, &log)?;
        let definition = emulated(&without_networks(&definition));
        let file = self.root.join("with-serial-file.xml");
        fs::write(&file, definition).with_context(|| format!("writing {}", file.display()))?;
        let mut command = self.virsh();
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // The machine lives as long as this virsh, which waits for the next command.
        let said = self.root.join("virsh.log");
        command.stderr(fs::File::create(&said).context("making virsh's log")?);
        let mut child = command.spawn().with_context(|| missing(&command))?;
        let mut stdin = child.stdin.take().context("virsh's standard input")?;
        writeln!(stdin, "define {}\nstart {domain}", file.display())
            .with_context(|| format!("speaking to {}", shown(&command)))?;
        Ok(Domain {
            child,
            stdin,
            name: domain.to_owned(),
            log,
            said,
        })
    }

    fn virsh(&self) -> Command {
        let mut command = tool("virsh");
        command.args(["--quiet", "-c", &self.uri]);
        command
    }
}

/// A running domain; switched off when dropped.
#[derive(Debug)]
pub struct Domain {
    child: Child,
    stdin: std::process::ChildStdin,
    name: String,
    log: PathBuf,
    said: PathBuf,
}

impl Domain {
    /// Waits until `text` stands in what the domain said on its serial line; returns all of it.
    ///
    /// # Errors
    /// When it does not within `timeout`, or virsh refused to start the domain.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let bytes = fs::read(&self.log).unwrap_or_default();
            let heard = String::from_utf8_lossy(&strip_ansi_escapes::strip(bytes)).into_owned();
            if heard.contains(text) {
                return Ok(heard);
            }
            let said = fs::read_to_string(&self.said).unwrap_or_default();
            if said.contains("error:") || Instant::now() >= deadline {
                bail!(
                    "waiting for \"{text}\" from the libvirt domain {}; virsh said: {}; the \
                     serial line's end:\n{}",
                    self.name,
                    said.trim(),
                    heard.lines().rev().take(30).collect::<Vec<_>>().join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // A virsh that has ended has taken its domain with it.
        let _ = writeln!(self.stdin, "destroy {}\nquit", self.name);
        let _ = self.child.wait();
    }
}

/// The definition with its serial line, a pseudo-terminal, sent to a file instead.
fn with_serial_file(definition: &str, log: &Path) -> Result<String> {
    const PTY: &str = "<serial type='pty'>";
    ensure!(
        definition.matches(PTY).count() == 1,
        "the domain has not exactly one serial line on a pseudo-terminal:\n{definition}"
    );
    let file = format!("<serial type='file'><source path='{}'/>", log.display());
    // The console is the serial line's second name and must be of the same kind: libvirt adds it.
    let mut text = definition.replace(PTY, &file);
    if let (Some(start), Some(end)) = (text.find("<console "), text.find("</console>")) {
        text.replace_range(start..end + "</console>".len(), "");
    }
    Ok(text)
}

/// The definition with each network card on QEMU's own user network.
fn without_networks(definition: &str) -> String {
    definition
        .replace("<interface type='network'>", "<interface type='user'>")
        .lines()
        .filter(|line| !line.trim_start().starts_with("<source network="))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The definition with QEMU's own emulation in place of KVM.
fn emulated(definition: &str) -> String {
    definition
        .replace("<domain type='kvm'", "<domain type='qemu'")
        .replace(
            "<cpu mode='host-model' check='partial'>",
            "<cpu mode='maximum'>",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain>
  <interface type='network'>
    <mac address='52:54:00:7a:3c:01'/>
    <source network='default'/>
  </interface>
  <serial type='pty'>
    <target port='0'/>
  </serial>
  <console type='pty'>
    <target type='serial' port='0'/>
  </console>
</domain>";

    #[test]
    fn only_the_serial_line_and_the_network_are_replaced() {
        let text = with_serial_file(&without_networks(DOMAIN), Path::new("/x/log")).unwrap();
        assert_eq!(
            text,
            "<domain>
  <interface type='user'>
    <mac address='52:54:00:7a:3c:01'/>
  </interface>
  <serial type='file'><source path='/x/log'/>
    <target port='0'/>
  </serial>
  \n</domain>"
        );
        let error = with_serial_file("<domain/>", Path::new("/x/log")).unwrap_err();
        assert!(error.to_string().contains("serial line"), "{error}");
    }
}
