//! The one way in which the engine shows what it does. Bars, plain lines, quiet and the test
//! recorder are implementations; the engine never prints.
//!
//! In: what the stations do. Out: [`plain::PlainLines`] for logs and dumb terminals,
//! [`bars::Bars`] for people, [`log::Log`] for the record, [`Tee`] for several at once; and of a
//! finished capture [`page::page`], for those who were not there.

pub mod bars;
pub mod log;
pub mod page;
pub mod plain;

use crate::units::ByteLen;
use std::fmt;
use std::sync::Mutex;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What is being done.
    Info,
    /// Something that the technician should know: a fallback, a doubt.
    Warn,
    /// Something failed.
    Error,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes dealt with so far.
    pub done: ByteLen,
    /// Bytes in all.
    pub total: ByteLen,
    /// Bytes written to the destination so far; 0 where nothing is written.
    pub written: ByteLen,
}

/// Receives what a task has to say. Called from several threads.
pub trait Report: Send + Sync {
    /// A line for the person and for the log.
    fn line(&self, level: Level, text: fmt::Arguments<'_>);

    /// A task of `total` bytes begins: "capturing disk-0", "verifying disk-0.qcow2".
    fn begin(&self, task: &str, total: ByteLen);

    /// How far it is; called often, the implementation decides how often to show it.
    fn progress(&self, progress: Progress);

    /// The task is over, well or not.
    fn end(&self);
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Quiet;

impl Report for Quiet {
    fn line(&self, _: Level, _: fmt::Arguments<'_>) {}
    fn begin(&self, _: &str, _: ByteLen) {}
    fn progress(&self, _: Progress) {}
    fn end(&self) {}
}

/// Passes everything on to each of several.
#[derive(Default)]
pub struct Tee<'a>(pub Vec<&'a dyn Report>);

impl Report for Tee<'_> {
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        self.0.iter().for_each(|report| report.line(level, text));
    }
    fn begin(&self, task: &str, total: ByteLen) {
        self.0.iter().for_each(|report| report.begin(task, total));
    }
    fn progress(&self, progress: Progress) {
        self.0.iter().for_each(|report| report.progress(progress));
    }
    fn end(&self) {
        self.0.iter().for_each(|report| report.end());
    }
}

/// Keeps every line, for tests and for the screen's last words.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<(Level, String)>>);

impl Recorder {
    /// The lines so far.
    pub fn lines(&self) -> Vec<(Level, String)> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Report for Recorder {
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        self.0
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push((level, text.to_string()));
    }
    fn begin(&self, _: &str, _: ByteLen) {}
    fn progress(&self, _: Progress) {}
    fn end(&self) {}
}

/// Says a line of information: `say!(report, "used map of {disk}")`.
#[macro_export]
macro_rules! say {
    ($report:expr, $($text:tt)*) => {
        $report.line($crate::report::Level::Info, format_args!($($text)*))
    };
}

/// Says a line that the technician should notice.
#[macro_export]
macro_rules! warn {
    ($report:expr, $($text:tt)*) => {
        $report.line($crate::report::Level::Warn, format_args!($($text)*))
    };
}
