//! Libvirt for tests: a host with it as its administrator runs it: the system's daemons, the network `default`, serial
//! lines on pseudo-terminals. Domains start as they were defined, without an edit. It lives in namespaces of
//! its own (mounts, network, processes), so that this machine's libvirt is neither needed nor touched, and all
//! of it is gone with it. Needs root.

use crate::command::{missing, run, tool};
use crate::qemu::serial::Serial;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
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

/// What runs in the namespaces as their first process. `/dev` is this machine's: serial lines are found there.
const INIT: &str = r#"
for folder in /etc/libvirt /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p "$folder"
    mount -t tmpfs tmpfs "$folder"
done
mkdir -p /var/lib/libvirt/images
# Emulation gives the same result everywhere; some machines' KVM runs no stock kernel.
if [ -e /dev/kvm ]; then
    mount --bind /dev/null /dev/kvm
fi
cp "$1" /etc/libvirt/qemu.conf
virtlogd --daemon
libvirtd --daemon
echo begun
# While it waits, the shell reaps whatever has lost its parent: libvirt waits for a domain to be gone. Where systemd runs
# the daemon, it starts one that has crashed anew (Restart=on-failure): libvirt 9.0 was seen to, in the thread of a
# domain that was just being destroyed.
while sleep 0.2; do
    kill -0 "$(cat /run/libvirtd.pid)" || libvirtd --daemon || true
done
"#;

/// Nothing but cards on a wire: the guests have addresses of their own, and no DHCP server is needed.
const NETWORK: &str = "<network><name>default</name><bridge name='virbr0'/></network>";

/// From the daemons' start to their first answer; they ask QEMU what it can do.
const BEGIN: Duration = Duration::from_secs(180);

/// See the module.
#[derive(Debug)]
pub struct Host {
    init: Child,
    /// The first process's number here.
    pid: u32,
    folder: PathBuf,
}

impl Host {
    /// Starts it, with what it writes down for itself in `folder`.
    ///
    /// # Errors
    /// When a program is missing, the namespaces cannot be made, or libvirt does not answer.
    pub fn start(folder: &Path) -> Result<Self> {
        let doing = || format!("setting up a libvirt host in {}", folder.display());
        fs::create_dir_all(folder).with_context(doing)?;
        let configuration = folder.join("qemu.conf");
        fs::write(&configuration, CONFIGURATION).with_context(doing)?;
        let mut command = tool("unshare");
        command
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-euc", INIT, "init"])
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("host.log")).with_context(doing)?);
        let init = command.spawn().with_context(|| missing(&command))?;
        // From here on its processes end with it.
        let mut host = Self {
            init,
            pid: 0,
            folder: folder.to_owned(),
        };
        let mut line = String::new();
        let out = host.init.stdout.take();
        let out = out.context("the host's standard output")?;
        let mut out = BufReader::new(out);
        while line.trim() != "begun" {
            line.clear();
            if out.read_line(&mut line).with_context(doing)? == 0 {
                let said = fs::read_to_string(folder.join("host.log")).unwrap_or_default();
                bail!("{}: {said}", doing());
            }
        }
        let children = format!("/proc/{0}/task/{0}/children", host.init.id());
        host.pid = fs::read_to_string(&children)
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .with_context(doing)?;
        host.ready()?;
        let network = folder.join("default.xml");
        fs::write(&network, NETWORK).with_context(doing)?;
        run(host.virsh().arg("net-define").arg(&network))?;
        run(host.virsh().args(["net-start", "default"]))?;
        Ok(host)
    }

    fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + BEGIN;
        loop {
            match run(self.virsh().arg("uri")) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Runs `command` on this host, with its arguments and environment.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = tool("nsenter");
        inside
            .arg(format!("--target={}", self.pid))
            .args(["--mount", "--net", "--pid", "--wdns=/"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(name, value);
            }
        }
        inside
    }

    /// `virsh` on this host.
    pub fn virsh(&self) -> Command {
        let mut virsh = tool("virsh");
        virsh.args(["--quiet", "-c", "qemu:///system"]);
        self.command(&virsh)
    }

    /// Starts a defined domain as it is.
    ///
    /// # Errors
    /// When libvirt refuses it.
    pub fn boot(&self, domain: &str) -> Result<Domain<'_>> {
        // Held until somebody listens: a pseudo-terminal without a reader drops what is said.
        run(self.virsh().args(["start", "--paused", domain]))?;
        let started = Started {
            host: self,
            name: domain.to_owned(),
        };
        let line = run(self.virsh().args(["ttyconsole", domain]))?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(line.trim(), flags, Mode::empty())
            .with_context(|| format!("opening the serial line {}", line.trim()))?;
        let serial = Serial::new(terminal, &self.folder.join(format!("{domain}.serial.log")))?;
        run(self.virsh().args(["resume", domain]))?;
        Ok(Domain { serial, started })
    }
}

/// A domain that runs; switched off when dropped.
#[derive(Debug)]
pub struct Domain<'a> {
    serial: Serial,
    started: Started<'a>,
}

impl Domain<'_> {
    /// Its first serial line.
    pub fn serial(&mut self) -> &mut Serial {
        &mut self.serial
    }

    /// Its name in libvirt.
    pub fn name(&self) -> &str {
        &self.started.name
    }
}

#[derive(Debug)]
struct Started<'a> {
    host: &'a Host,
    name: String,
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        // One that has ended by itself is refused, which is as well.
        let _ = run(self.host.virsh().args(["destroy", &self.name]));
        // Whoever comes next finds a daemon that answers.
        let _ = self.host.ready();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // All processes of the namespace end with its first one.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_crashed_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::start(folder.path()).unwrap();
        let daemon = || run(&mut host.command(tool("cat").arg("/run/libvirtd.pid"))).unwrap();
        let before = daemon();
        run(&mut host.command(tool("kill").args(["-SEGV", before.trim()]))).unwrap();
        let deadline = Instant::now() + BEGIN;
        while daemon() == before && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_ne!(daemon(), before);
        host.ready().unwrap();
        let networks = run(host.virsh().args(["net-list", "--name"])).unwrap();
        assert_eq!(networks.trim(), "default");
    }
}
