//! Running `haulier` and a technician's shell, and collecting every process that ends.

use crate::console::Console;
use crate::power::{self, After};
use anyhow::{Context, Result};
use haulier::stick::cmdline::Cmdline;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HAULIER: &str = "/usr/bin/haulier";
const BUSYBOX: &str = "/bin/busybox";
/// What `haulier` wants to happen next.
const AFTER: &str = "/run/haulier/after";
const SHELL_SCREEN: &str = "/dev/tty2";
const PATH: &str = "/usr/bin:/usr/sbin:/bin:/sbin";
/// Between one end of `haulier` and its next start; more after each quick end.
const PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An end sooner than this is a quick one.
const QUICK: Duration = Duration::from_secs(20);

/// Keeps `haulier` running until it asks for power-off or restart; never returns but by an error.
pub(crate) fn run(cmdline: &Cmdline, console: &Arc<Console>) -> Result<std::convert::Infallible> {
    if !cmdline.has("debug") {
        Console::silence_kernel();
    }
    if cmdline.values("haulier.init").any(|value| value == "shell") {
        shell_first(console)?;
    }
    let mut shell = start_shell(SHELL_SCREEN);
    let mut pause = PAUSE;
    loop {
        if let Err(error) = std::fs::remove_file(AFTER)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            console.alert(&format!("{AFTER} could not be removed: {error}"));
        }
        let started = Instant::now();
        let ended = match start_haulier(console) {
            Ok(pid) => {
                console.hand_over(true);
                let status = wait_for(pid, &mut shell);
                console.hand_over(false);
                describe(status)
            }
            Err(error) => format!("could not be started: {error:#}"),
        };
        let text = std::fs::read_to_string(AFTER).unwrap_or_default();
        if let Some(after) = After::parse(&text) {
            // It would hold the stick if it stood in one of its folders.
            if let Some(pid) = shell.take() {
                let _ = kill_process(pid, Signal::KILL);
                collect(pid);
            }
            power::end(after, console);
        }
        pause = match started.elapsed() < QUICK {
            true => (pause * 2).min(LONGEST_PAUSE),
            false => PAUSE,
        };
        console.alert(&format!(
            "The program haulier {ended}. It starts again in {} seconds. Should this repeat, \
             restart the server from another stick; nothing was written to its disks.",
            pause.as_secs()
        ));
        std::thread::sleep(pause);
    }
}

fn start_haulier(console: &Arc<Console>) -> Result<Pid> {
    let mut command = Command::new(HAULIER);
    command.arg("appliance");
    for path in console.paths() {
        command.arg("--console").arg(path);
    }
    let mut child = command
        .env_clear()
        .envs([("PATH", PATH), ("TERM", "linux"), ("HOME", "/")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {HAULIER}"))?;
    let output = child
        .stdout
        .take()
        .map(|out| Box::new(out) as Box<dyn Read + Send>);
    let errors = child
        .stderr
        .take()
        .map(|err| Box::new(err) as Box<dyn Read + Send>);
    for stream in [output, errors].into_iter().flatten() {
        let console = console.clone();
        std::thread::Builder::new()
            .name("words of haulier".into())
            .spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    console.alert(&String::from_utf8_lossy(&line));
                }
            })
            .context("starting the thread that passes on what haulier says")?;
    }
    pid_of(&child)
}

fn pid_of(child: &std::process::Child) -> Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a process without a number")
}

/// A shell for technicians, if the image has one. All disks are read-only to it too.
fn start_shell(terminal: &str) -> Option<Pid> {
    if !Path::new(BUSYBOX).exists() || !Path::new(terminal).exists() {
        return None;
    }
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(terminal)
            .map(Stdio::from)
    };
    let child = Command::new(BUSYBOX)
        // A session of its own with this terminal, so that Ctrl-C works.
        .args(["setsid", "-c", BUSYBOX, "sh"])
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("TERM", "linux"),
            ("HOME", "/"),
            ("PS1", "haulier# "),
        ])
        .stdin(open().ok()?)
        .stdout(open().ok()?)
        .stderr(open().ok()?)
        .spawn()
        .ok()?;
    pid_of(&child).ok()
}

/// For debugging (`haulier.init=shell`): a shell on the serial line, or the screen; `haulier`
/// starts when it ends.
fn shell_first(console: &Console) -> Result<()> {
    let terminal = console
        .serial()
        .or_else(|| console.paths().first().map(|path| path.as_path()))
        .context("there is no console for a shell")?;
    console.say("haulier.init=shell: a shell comes first; type exit to start haulier");
    if let Some(pid) = start_shell(&terminal.to_string_lossy()) {
        wait_for(pid, &mut None);
    }
    Ok(())
}

/// Waits for one process and meanwhile collects all others, whose parents have ended.
fn wait_for(pid: Pid, shell: &mut Option<Pid>) -> Option<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => return Some(status),
            Ok(Some((ended, _))) if Some(ended) == *shell => {
                // Someone typed exit.
                std::thread::sleep(Duration::from_secs(1));
                *shell = start_shell(SHELL_SCREEN);
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No children at all: it was collected before.
            Err(_) => return None,
        }
    }
}

fn collect(pid: Pid) {
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
}

fn describe(status: Option<WaitStatus>) -> String {
    match status {
        None => "ended".into(),
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => "ended".into(),
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".into(),
        },
    }
}
