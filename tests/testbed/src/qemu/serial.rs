//! The machine's first serial line: everything that it says is kept, without the escape
//! sequences, and can be waited for.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How much of the log an error message shows.
const TAIL_LINES: usize = 40;

/// What the line has said so far; shared with the thread that reads it.
#[derive(Debug, Default)]
struct Heard {
    text: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(|error| error.into_inner())
    }
}

/// Takes what is left after the escape sequences have been removed.
struct Sink(Arc<Shared>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().text.extend_from_slice(bytes);
        self.0.more.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The line. Waiting moves a cursor, so that the same text can be waited for again.
#[derive(Debug)]
pub struct Serial {
    shared: Arc<Shared>,
    stream: File,
    cursor: usize,
}

impl Serial {
    /// Reads `stream` (a socket, a terminal) on a thread of its own until it ends; every byte also goes to
    /// `log` as it is.
    pub(crate) fn new(stream: impl Into<OwnedFd>, log: &Path) -> Result<Self> {
        let stream = File::from(stream.into());
        let mut log =
            File::create(log).with_context(|| format!("making the log {}", log.display()))?;
        let mut reader = stream.try_clone().context("sharing the serial line")?;
        let shared = Arc::new(Shared::default());
        let sink = Sink(Arc::clone(&shared));
        std::thread::spawn(move || {
            let end = Arc::clone(&sink.0);
            let mut plain = strip_ansi_escapes::Writer::new(sink);
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                // A full disk must not stop the machine's line: the text in memory goes on.
                let _ = log.write_all(&buffer[..count]);
                let _ = plain.write_all(&buffer[..count]);
                let _ = plain.flush();
            }
            end.lock().closed = true;
            end.more.notify_all();
        });
        Ok(Self {
            shared,
            stream,
            cursor: 0,
        })
    }

    /// Waits until `text` appears after what was waited for before.
    ///
    /// # Errors
    /// When it does not within `timeout`, or the line closes; with the end of the log.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<()> {
        self.wait(text, timeout, |rest| {
            find(rest, text).map(|at| at + text.len())
        })?;
        Ok(())
    }

    /// Waits for a whole line that contains `text`, and returns it trimmed.
    ///
    /// # Errors
    /// As [`Serial::wait_for`].
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let found = self.wait(text, timeout, |rest| {
            let at = find(rest, text)?;
            Some(at + rest[at..].find('\n')? + 1)
        })?;
        Ok(found.lines().last().unwrap_or_default().trim().to_owned())
    }

    /// Waits until one of `texts` appears; returns which one came first.
    ///
    /// # Errors
    /// As [`Serial::wait_for`].
    pub fn wait_for_any(&mut self, texts: &[&str], timeout: Duration) -> Result<usize> {
        let mut which = 0;
        self.wait(&texts.join("\" or \""), timeout, |rest| {
            let (at, index) = texts
                .iter()
                .enumerate()
                .filter_map(|(index, text)| Some((find(rest, text)?, index)))
                .min()?;
            which = index;
            Some(at + texts[index].len())
        })?;
        Ok(which)
    }

    /// Types `text`, as if at a terminal.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.stream
            .write_all(text.as_bytes())
            .with_context(|| format!("typing {text:?} on the serial line"))
    }

    /// Everything said so far, without escape sequences.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().text).into_owned()
    }

    /// The last lines, for error messages.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines[from..].join("\n")
    }

    /// Waits until `end` finds where the wanted text ends in what was not waited for yet; returns
    /// the text up to there.
    fn wait(
        &mut self,
        what: &str,
        timeout: Duration,
        mut end: impl FnMut(&str) -> Option<usize>,
    ) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut heard = self.shared.lock();
        loop {
            let rest = ascii(&heard.text[self.cursor..]);
            if let Some(end) = end(&rest) {
                self.cursor += end;
                return Ok(rest[..end].to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.closed || left.is_zero() {
                let why = if heard.closed {
                    "the machine went away".to_owned()
                } else {
                    format!("{} s passed", timeout.as_secs())
                };
                drop(heard);
                bail!(
                    "waiting for \"{what}\" on the serial line: {why}; the line's end:\n{}",
                    self.tail()
                );
            }
            heard = self
                .shared
                .more
                .wait_timeout(heard, left)
                .unwrap_or_else(|error| error.into_inner())
                .0;
        }
    }
}

/// A byte a character, so that positions in the text are positions in the bytes.
fn ascii(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| {
            if byte.is_ascii() {
                char::from(byte)
            } else {
                '?'
            }
        })
        .collect()
}

fn find(text: &str, what: &str) -> Option<usize> {
    text.find(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn line() -> (Serial, UnixStream) {
        let (ours, machine) = UnixStream::pair().unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        (Serial::new(ours, log.path()).unwrap(), machine)
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn escape_sequences_do_not_hide_a_text() {
        let (mut serial, mut machine) = line();
        machine
            .write_all(b"\x1b[1;32mHau\x1b[0mlier\x1b[K 0.1\r\nnext")
            .unwrap();
        assert_eq!(
            serial.wait_for_line("Haulier", SOON).unwrap(),
            "Haulier 0.1"
        );
        serial.wait_for("next", SOON).unwrap();
    }

    #[test]
    fn a_text_is_found_once_and_then_after_the_cursor() {
        let (mut serial, mut machine) = line();
        machine.write_all("äö login: x login: ".as_bytes()).unwrap();
        serial.wait_for("login: ", SOON).unwrap();
        serial.wait_for("login: ", SOON).unwrap();
        let error = serial
            .wait_for("login: ", Duration::from_millis(10))
            .unwrap_err();
        assert!(error.to_string().contains("login: x login:"), "{error}");
    }

    #[test]
    fn a_line_that_closes_ends_the_wait() {
        let (mut serial, mut machine) = line();
        machine.write_all(b"panic").unwrap();
        drop(machine);
        let error = serial.wait_for("login:", SOON).unwrap_err().to_string();
        assert!(
            error.contains("went away") && error.contains("panic"),
            "{error}"
        );
    }

    #[test]
    fn the_first_of_several_texts_is_told() {
        let (mut serial, mut machine) = line();
        machine.write_all(b"b then a").unwrap();
        assert_eq!(serial.wait_for_any(&["a", "b"], SOON).unwrap(), 1);
        assert_eq!(serial.wait_for_any(&["a", "b"], SOON).unwrap(), 0);
    }
}
