//! Several consoles as one: what is written goes to all, what is typed on any is read.

use indicatif::TermLike;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{LocalModes, OptionalActions};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// The width that every console has; a serial line does not know its own.
pub const WIDTH: u16 = 80;

/// The VGA console and serial lines of a machine.
#[derive(Debug, Clone)]
pub struct Consoles {
    open: Arc<Mutex<Vec<File>>>,
}

impl Consoles {
    /// Opens those of `paths` that can be opened; it is an error if none can.
    pub fn open(paths: &[impl AsRef<Path>]) -> io::Result<Self> {
        let mut open = Vec::new();
        let mut failure = None;
        for path in paths {
            match rustix::fs::open(
                path.as_ref(),
                OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK,
                Mode::empty(),
            ) {
                Ok(fd) => {
                    let file = File::from(fd);
                    set_line_mode(&file);
                    open.push(file);
                }
                Err(error) => failure = Some(io::Error::from(error)),
            }
        }
        match (open.is_empty(), failure) {
            (true, Some(error)) => Err(error),
            (true, None) => Err(io::ErrorKind::NotFound.into()),
            (false, _) => Ok(Self {
                open: Arc::new(Mutex::new(open)),
            }),
        }
    }

    /// The next line typed on any console, without its end and the blanks around it; `None` after
    /// `timeout`.
    pub fn read_line(&self, timeout: Option<Duration>) -> io::Result<Option<String>> {
        let line = self.read_whole_line(timeout)?;
        Ok(line.map(|line| line.trim().to_owned()))
    }

    /// The next line typed on any console after `ask` has asked for it, exactly, and not shown on
    /// any of them: what is pasted at once is not either.
    pub fn read_secret(&self, ask: impl FnOnce()) -> io::Result<Zeroizing<String>> {
        self.set_echo(false);
        self.forget_typed();
        ask();
        let line = loop {
            match self.read_whole_line(None) {
                Ok(Some(line)) => break Ok(Zeroizing::new(line)),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        self.set_echo(true);
        let line = line?;
        Ok(Zeroizing::new(
            line.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }

    fn set_echo(&self, echo: bool) {
        for console in self.lock().iter() {
            if let Ok(mut modes) = rustix::termios::tcgetattr(console) {
                modes.local_modes.set(LocalModes::ECHO, echo);
                let _ = rustix::termios::tcsetattr(console, OptionalActions::Now, &modes);
            }
        }
    }

    /// As the terminal gives it, with its end.
    fn read_whole_line(&self, timeout: Option<Duration>) -> io::Result<Option<String>> {
        let consoles: Vec<File> = self
            .lock()
            .iter()
            .map(File::try_clone)
            .collect::<io::Result<_>>()?;
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        loop {
            let mut waiting: Vec<PollFd<'_>> = consoles
                .iter()
                .map(|file| PollFd::new(file, PollFlags::IN))
                .collect();
            if poll(&mut waiting, timeout.as_ref())? == 0 {
                return Ok(None);
            }
            let ready = waiting
                .iter()
                .position(|fd| fd.revents().contains(PollFlags::IN));
            let Some(mut console) = ready.and_then(|at| consoles.get(at)) else {
                // Hung up (a serial line without carrier): do not spin.
                std::thread::sleep(Duration::from_millis(200));
                continue;
            };
            // The terminal gives whole lines, so one read is one line.
            let mut line = [0; 1024];
            match console.read(&mut line) {
                // Ctrl-D or a line that hung up: nobody pressed Enter.
                Ok(0) => std::thread::sleep(Duration::from_millis(200)),
                Ok(count) => {
                    let text = String::from_utf8_lossy(line.get(..count).unwrap_or_default());
                    return Ok(Some(text.into_owned()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets what was typed before it was asked for, so that an impatient Enter starts nothing.
    pub fn forget_typed(&self) {
        for console in self.lock().iter() {
            let _ = rustix::termios::tcflush(console, rustix::termios::QueueSelector::IFlush);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<File>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes to all. A console that does not take it (unplugged serial line) is passed over.
    fn write_all_consoles(&self, bytes: &[u8]) {
        for console in self.lock().iter() {
            write_patiently(console, bytes);
        }
    }
}

/// Writes what a slow line takes within a second; a line that takes nothing must not stop a
/// capture.
fn write_patiently(mut console: &File, mut bytes: &[u8]) {
    let patience = Timespec::try_from(Duration::from_secs(1)).ok();
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waiting = [PollFd::new(console, PollFlags::OUT)];
                if !poll(&mut waiting, patience.as_ref()).is_ok_and(|ready| ready > 0) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Whole lines with echo, whatever the last program left behind.
fn set_line_mode(console: &File) {
    if let Ok(mut modes) = rustix::termios::tcgetattr(console) {
        modes.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHOE;
        modes.output_modes |=
            rustix::termios::OutputModes::OPOST | rustix::termios::OutputModes::ONLCR;
        modes.input_modes |= rustix::termios::InputModes::ICRNL;
        let _ = rustix::termios::tcsetattr(console, OptionalActions::Now, &modes);
    }
}

impl Write for Consoles {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_consoles(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TermLike for Consoles {
    fn width(&self) -> u16 {
        WIDTH
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.escape(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.escape(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.escape(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.escape(n, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.write_all_consoles(format!("{line}\n").as_bytes());
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.write_all_consoles(text.as_bytes());
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write_all_consoles(b"\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Consoles {
    fn escape(&self, count: usize, direction: char) -> io::Result<()> {
        if count > 0 {
            self.write_all_consoles(format!("\x1b[{count}{direction}").as_bytes());
        }
        Ok(())
    }
}
