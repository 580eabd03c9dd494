//! Plain lines: for logs, pipes, `TERM=dumb` and unattended runs on a serial line.

use super::{Level, Progress, Report};
use crate::units::ByteLen;
use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Writes each line as it comes and a line of progress every ten seconds.
pub struct PlainLines<W: Write + Send> {
    state: Mutex<State<W>>,
    every: Duration,
}

struct State<W> {
    out: W,
    task: String,
    began: Instant,
    shown: Instant,
    last: Progress,
}

impl<W: Write + Send> PlainLines<W> {
    /// Lines go to `out`; failures to write them are ignored, as a vanished terminal must not end
    /// a capture.
    pub fn new(out: W) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                out,
                task: String::new(),
                began: now,
                shown: now,
                last: Progress::default(),
            }),
            every: Duration::from_secs(10),
        }
    }

    fn with(&self, work: impl FnOnce(&mut State<W>)) {
        work(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()));
    }
}

impl<W: Write + Send> Report for PlainLines<W> {
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        let prefix = match level {
            Level::Info => "",
            Level::Warn => "warning: ",
            Level::Error => "error: ",
        };
        self.with(|state| {
            let _ = writeln!(state.out, "{prefix}{text}").and_then(|()| state.out.flush());
        });
    }

    fn begin(&self, task: &str, total: ByteLen) {
        self.with(|state| {
            state.task = task.to_owned();
            state.began = Instant::now();
            state.shown = state.began;
            state.last = Progress {
                total,
                ..Progress::default()
            };
            let _ = writeln!(state.out, "{task}: {total}").and_then(|()| state.out.flush());
        });
    }

    fn progress(&self, progress: Progress) {
        self.with(|state| {
            state.last = progress;
            if state.shown.elapsed() < self.every {
                return;
            }
            state.shown = Instant::now();
            let line = progress_line(&state.task, progress, state.began.elapsed());
            let _ = writeln!(state.out, "{line}").and_then(|()| state.out.flush());
        });
    }

    fn end(&self) {
        self.with(|state| {
            let took = state.began.elapsed();
            let line = progress_line(&state.task, state.last, took);
            let _ = writeln!(state.out, "{line}, {} s", took.as_secs())
                .and_then(|()| state.out.flush());
            state.task.clear();
        });
    }
}

/// `capturing disk-0: 42%, 3.1 GB of 7.4 GB, 118.0 MB/s, 1.2 GB written`
pub(super) fn progress_line(task: &str, progress: Progress, elapsed: Duration) -> String {
    let percent = percent(progress);
    let mut line = format!(
        "{task}: {percent}%, {} of {}",
        progress.done, progress.total
    );
    if let Some(rate) = rate(progress.done, elapsed) {
        line.push_str(&format!(", {rate}/s"));
    }
    if progress.written > ByteLen::ZERO {
        line.push_str(&format!(", {} written", progress.written));
    }
    line
}

/// Rounded down, so that 100% means all of it.
pub(super) fn percent(progress: Progress) -> u128 {
    (u128::from(progress.done.0) * 100)
        .checked_div(u128::from(progress.total.0))
        .unwrap_or(100)
        .min(100)
}

/// Bytes a second; `None` in the first instant.
fn rate(done: ByteLen, elapsed: Duration) -> Option<ByteLen> {
    let rate = (u128::from(done.0) * 1000).checked_div(elapsed.as_millis())?;
    u64::try_from(rate).ok().map(ByteLen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_one_line() {
        let progress = Progress {
            done: ByteLen(3_100_000_000),
            total: ByteLen(7_400_000_000),
            written: ByteLen(1_200_000_000),
        };
        assert_eq!(
            progress_line("capturing disk-0", progress, Duration::from_secs(31)),
            "capturing disk-0: 41%, 3.1 GB of 7.4 GB, 100.0 MB/s, 1.2 GB written"
        );
    }

    #[test]
    fn an_empty_task_is_done_at_once() {
        assert_eq!(percent(Progress::default()), 100);
    }

    #[test]
    fn a_line_shows_its_level() {
        let lines = PlainLines::new(Vec::new());
        lines.line(Level::Warn, format_args!("the log is dirty"));
        let out = lines.state.into_inner().unwrap().out;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "warning: the log is dirty\n"
        );
    }
}
