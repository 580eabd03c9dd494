//! A running machine. Its sockets and logs live in a directory of its own; it dies with its owner.

use super::firmware::Firmware;
use super::machine::{Machine, Screen};
use super::qmp::Qmp;
use super::serial::Serial;
use crate::command::missing;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Set to a directory, every machine keeps its serial log there.
pub const LOGS: &str = "HAULIER_TESTBED_LOGS";

/// QEMU's name of the serial line that we listen to.
const SERIAL: &str = "chardev:serial";

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
        let directory = new_directory()?;
        let variables = match (&machine.variables, machine.firmware) {
            (_, Firmware::Bios) => None,
            (Some(given), _) => Some(given.clone()),
            (None, firmware) => {
                let fresh = directory.path().join("variables.fd");
                firmware.new_variables(&fresh)?;
                Some(fresh)
            }
        };
        let mut command = dying_with_us("qemu-system-x86_64");
        command.args(machine.arguments(variables.as_deref().unwrap_or(Path::new("")))?);
        if machine.screen != Screen::Window {
            command.args(["-display", "none"]);
        }
        match machine.screen {
            Screen::Terminal => command.args(["-serial", "mon:stdio"]),
            Screen::Hidden | Screen::Window => {
                command.stdin(Stdio::null()).args(["-serial", SERIAL])
            }
        };
        Self::launch(command, directory, variables, machine.screen)
    }

    /// Runs a script that ends in QEMU and hands its arguments on to it, as `haulier import
    /// --to qemu` writes them: its machine becomes one like any other.
    ///
    /// # Errors
    /// When the script fails before QEMU runs.
    pub fn script(script: &Path, screen: Screen) -> Result<Self> {
        let mut command = dying_with_us(script);
        command.env("QEMU_ACCEL", "tcg,thread=multi");
        match screen {
            Screen::Window => command.env("QEMU_DISPLAY", "gtk"),
            Screen::Hidden | Screen::Terminal => command.env("QEMU_DISPLAY", "none"),
        };
        match screen {
            Screen::Terminal => command.env("QEMU_SERIAL", "mon:stdio"),
            Screen::Hidden | Screen::Window => {
                command.stdin(Stdio::null()).env("QEMU_SERIAL", SERIAL)
            }
        };
        Self::launch(command, new_directory()?, None, screen)
    }

    /// Starts `command`, whose arguments lead to QEMU, and connects its serial line and QMP.
    fn launch(
        mut command: Command,
        directory: TempDir,
        variables: Option<PathBuf>,
        screen: Screen,
    ) -> Result<Self> {
        // We listen and QEMU connects: nothing that it says at the start is lost.
        let qmp = Listener::bind(directory.path().join("qmp"))?;
        command.args(["-chardev", &format!("socket,id=qmp,path={}", qmp.path())]);
        command.args(["-mon", "chardev=qmp,mode=control"]);
        let serial = match screen {
            Screen::Terminal => None,
            Screen::Hidden | Screen::Window => {
                let line = Listener::bind(directory.path().join("serial"))?;
                command.args([
                    "-chardev",
                    &format!("socket,id=serial,path={}", line.path()),
                ]);
                Some(line)
            }
        };
        let words = directory.path().join("qemu.log");
        command.stderr(File::create(&words).context("making QEMU's log")?);
        let mut child = command.spawn().with_context(|| missing(&command))?;

        match connect(&mut child, &qmp, serial.as_ref(), directory.path()) {
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

    /// The serial line's last lines, for messages.
    pub fn serial_tail(&self) -> String {
        self.serial.as_ref().map_or(String::new(), Serial::tail)
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
        let tail = self.serial_tail();
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

fn new_directory() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("haulier-machine-")
        .tempdir()
        .context("making a directory for the machine")
}

/// A command that is killed when we die, even by SIGKILL: no machine outlives its test.
fn dying_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn connect(
    child: &mut Child,
    qmp: &Listener,
    serial: Option<&Listener>,
    directory: &Path,
) -> Result<(Qmp, Option<Serial>)> {
    let qmp = qmp.accept(child)?;
    let log = match std::env::var_os(LOGS) {
        Some(logs) => tempfile::Builder::new()
            .prefix("machine-")
            .suffix(".serial.log")
            .tempfile_in(logs)
            .context("making a serial log")?
            .into_temp_path()
            .keep()?,
        None => directory.join("serial.log"),
    };
    let serial = match serial {
        Some(line) => Some(Serial::new(line.accept(child)?, &log)?),
        None => None,
    };
    Ok((Qmp::new(qmp)?, serial))
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
