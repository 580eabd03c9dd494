//! The record of a run: kept in memory, and in a file as soon as there is a place for one.

use super::{Level, Progress, Report};
use crate::units::ByteLen;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

/// Time-stamped lines, first in memory, then in every file that was attached.
///
/// The stick may be pulled while it is written: the memory keeps all lines, so that they can be
/// written again when it is back.
#[derive(Debug, Default)]
pub struct Log(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lines: String,
    file: Option<File>,
    task: String,
}

impl Log {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends all lines so far to the file at `path`, and every later one as it comes.
    pub fn attach(&self, path: &Path) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(state.lines.as_bytes())?;
        state.file = Some(file);
        Ok(())
    }

    /// Ends the file after a sync; later lines stay in memory only.
    pub fn detach(&self) -> std::io::Result<()> {
        let file = self.0.lock().unwrap_or_else(|e| e.into_inner()).file.take();
        file.map_or(Ok(()), |file| file.sync_all())
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .lines
            .clone()
    }

    fn add(&self, text: fmt::Arguments<'_>) {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let line = format!(
            "{} {text}\n",
            jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")
        );
        state.lines.push_str(&line);
        // A pulled stick must not stop the run here: the writer of the images will say it.
        if state
            .file
            .as_mut()
            .is_some_and(|file| file.write_all(line.as_bytes()).is_err())
        {
            state.file = None;
        }
    }
}

impl Report for Log {
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        match level {
            Level::Info => self.add(text),
            Level::Warn => self.add(format_args!("warning: {text}")),
            Level::Error => self.add(format_args!("error: {text}")),
        }
    }

    fn begin(&self, task: &str, total: ByteLen) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).task = task.to_owned();
        self.add(format_args!("{task}: {total}"));
    }

    fn progress(&self, _: Progress) {}

    fn end(&self) {
        let task = std::mem::take(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()).task);
        self.add(format_args!("{task}: ended"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_said_before_there_was_a_file_are_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capture.log");
        let log = Log::new();
        log.line(Level::Info, format_args!("first"));
        log.attach(&path).unwrap();
        log.line(Level::Error, format_args!("second"));
        log.detach().unwrap();
        log.line(Level::Info, format_args!("third"));
        let file = std::fs::read_to_string(&path).unwrap();
        let ends: Vec<_> = file
            .lines()
            .map(|line| line.split_once(' ').unwrap().1)
            .collect();
        assert_eq!(ends, ["first", "error: second"]);
        assert!(log.text().ends_with("third\n"));
    }
}
