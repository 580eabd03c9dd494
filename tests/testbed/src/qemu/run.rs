//! A running machine. Its sockets and logs live in a directory of its own; it dies with its owner.

use super::firmware::Firmware;
use super::machine::{Machine, Screen};
use super::qmp::Qmp;
use super::serial::Serial;
use crate::command::missing;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Set to a directory, every machine keeps its serial log there.
pub const LOGS: &str = "HAULIER_TESTBED_LOGS";

/// A machine that is switched on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    serial: Option<Serial>,
    qmp: Qmp,
    variables: Option<PathBuf>,
    directory: TempDir,
}

impl Running {
    pub(crate) fn start(machine: Machine) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("haulier-machine-")
            .tempdir()
            .context("making a directory for the machine")?;
        let variables = match (&machine.variables, machine.firmware) {
            (_, Firmware::Bios) => None,
            (Some(given), _) => Some(given.clone()),
            (None, firmware) => {
                let fresh = directory.path().join("variables.fd");
                firmware.new_variables(&fresh)?;
                Some(fresh)
            }
        };
        // We listen and QEMU connects: nothing that it says at the start is lost.
        let qmp = Listener::bind(directory.path().join("qmp"))?;
        let serial = match machine.screen {
            Screen::Terminal => None,
            Screen::Hidden | Screen::Window => {
                Some(Listener::bind(directory.path().join("serial"))?)
            }
        };

        // setpriv: if we are killed, even by SIGKILL, QEMU goes too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(machine.arguments(variables.as_deref().unwrap_or(Path::new("")))?);
        command.args(["-chardev", &format!("socket,id=qmp,path={}", qmp.path())]);
        command.args(["-mon", "chardev=qmp,mode=control"]);
        match (&serial, machine.screen) {
            (Some(listener), _) => {
                let path = listener.path();
                command.args(["-chardev", &format!("socket,id=serial,path={path}")]);
                command.args(["-serial", "chardev:serial"]);
                command.stdin(Stdio::null());
            }
            (None, _) => {
                command.args(["-serial", "mon:stdio"]);
            }
        }
        if machine.screen != Screen::Window {
            command.args(["-display", "none"]);
        }
        let words = directory.path().join("qemu.log");
        command.stderr(File::create(&words).context("making QEMU's log")?);
        let mut child = command.spawn().with_context(|| missing(&command))?;

        let connected = (|| {
            let qmp = qmp.accept(&mut child)?;
            let serial = serial
                .map(|listener| listener.accept(&mut child))
                .transpose()?;
            let log = match std::env::var_os(LOGS) {
                Some(logs) => tempfile::Builder::new()
                    .prefix(&format!("{}-", machine.firmware.name()))
                    .suffix(".serial.log")
                    .tempfile_in(logs)
                    .context("making a serial log")?
                    .into_temp_path()
                    .keep()?,
                None => directory.path().join("serial.log"),
            };
            let serial = serial.map(|line| Serial::new(line, &log)).transpose()?;
            Ok::<_, anyhow::Error>((Qmp::new(qmp)?, serial))
        })();
        match connected {
            Ok((qmp, serial)) => Ok(Self {
                child,
                serial,
                qmp,
                variables,
                directory,
            }),
            Err(error) => {
                // The outcome that matters is the first error; the child may be gone already.
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(&words).unwrap_or_default();
                Err(error.context(format!("starting QEMU, which said: {}", said.trim())))
            }
        }
    }

    /// The first serial line.
    ///
    /// # Panics
    /// When the machine was started with [`Screen::Terminal`]: the line is the person's.
    pub fn serial(&mut self) -> &mut Serial {
        self.serial
            .as_mut()
            .expect("the serial line of a machine on the terminal belongs to the person")
    }

    /// The machine protocol.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The file with the machine's UEFI variables; nothing for a BIOS.
    pub fn variables(&self) -> Option<&Path> {
        self.variables.as_deref()
    }

    /// The directory with the machine's sockets and logs, which goes with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until the guest has powered off (or, with `-no-reboot`, reset itself) while QEMU
    /// stays: only for machines that were told [`Machine::stays_after_shutdown`].
    ///
    /// # Errors
    /// When it does not within `timeout`, with the end of the serial log.
    pub fn wait_shutdown(&mut self, timeout: Duration) -> Result<()> {
        let waited = self.qmp.wait_event("SHUTDOWN", timeout);
        waited.map(drop).with_context(|| self.situation())
    }

    /// Waits until QEMU has ended because the guest powered off.
    ///
    /// # Errors
    /// When it does not within `timeout`, or ends badly; with the end of the serial log.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return self.check(status);
            }
            if Instant::now() >= deadline {
                bail!(
                    "the machine is still on after {} s. {}",
                    timeout.as_secs(),
                    self.situation()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits, as long as it takes, until QEMU has ended: for a person at the screen.
    ///
    /// # Errors
    /// When QEMU ends badly.
    pub fn wait_for_person(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        self.check(status)
    }

    /// Pulls the power plug.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("killing QEMU")?;
        self.child.wait().context("waiting for QEMU's end")?;
        Ok(())
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("QEMU ended with {status}. {}", self.situation());
        }
        Ok(())
    }

    /// What QEMU and the serial line said last.
    fn situation(&self) -> String {
        let said =
            std::fs::read_to_string(self.directory.path().join("qemu.log")).unwrap_or_default();
        let tail = self.serial.as_ref().map_or(String::new(), Serial::tail);
        format!(
            "QEMU said: {}; the serial line's end:\n{tail}",
            match said.trim() {
                "" => "nothing",
                said => said,
            }
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket that QEMU will connect to.
struct Listener {
    path: PathBuf,
    socket: UnixListener,
}

impl Listener {
    fn bind(path: PathBuf) -> Result<Self> {
        let socket = UnixListener::bind(&path)
            .with_context(|| format!("listening on {}", path.display()))?;
        socket.set_nonblocking(true)?;
        Ok(Self { path, socket })
    }

    fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Waits for QEMU, or for its early death.
    fn accept(&self, child: &mut Child) -> Result<UnixStream> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("waiting for QEMU to connect"),
            }
            if let Some(status) = child.try_wait()? {
                bail!("QEMU ended with {status} before it ran");
            }
            if Instant::now() >= deadline {
                bail!("QEMU did not connect to {}", self.path());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
