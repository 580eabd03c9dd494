//! A bar for people, drawn with plain ASCII: console fonts lack the fancy glyphs.

use super::{Level, Progress, Report};
use crate::units::ByteLen;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use std::fmt;
use std::sync::Mutex;

/// Redraws a second: 2 keep a 9600 baud line from lagging behind.
const REDRAWS_PER_SECOND: u8 = 2;

/// One bar at the foot of a terminal, lines above it.
#[derive(Debug)]
pub struct Bars<T: TermLike + Clone + 'static> {
    terminal: T,
    bar: Mutex<Option<ProgressBar>>,
}

impl<T: TermLike + Clone + 'static> Bars<T> {
    /// Draws on `terminal`.
    pub fn new(terminal: T) -> Self {
        Self {
            terminal,
            bar: Mutex::new(None),
        }
    }

    fn with(&self, work: impl FnOnce(&mut Option<ProgressBar>)) {
        work(&mut self.bar.lock().unwrap_or_else(|e| e.into_inner()));
    }
}

impl Bars<console::Term> {
    /// Draws on standard error, so that standard output stays the result alone.
    pub fn stderr() -> Self {
        Self::new(console::Term::stderr())
    }
}

impl<T: TermLike + Clone + 'static> Report for Bars<T> {
    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        let text = match level {
            Level::Info => text.to_string(),
            Level::Warn => format!("warning: {text}"),
            Level::Error => format!("error: {text}"),
        };
        self.with(|bar| match bar {
            Some(bar) => bar.println(text),
            None => {
                // A vanished terminal must not end a capture.
                let _ = self
                    .terminal
                    .write_line(&text)
                    .and_then(|()| self.terminal.flush());
            }
        });
    }

    fn begin(&self, task: &str, total: ByteLen) {
        let target = ProgressDrawTarget::term_like_with_hz(
            Box::new(self.terminal.clone()),
            REDRAWS_PER_SECOND,
        );
        let new =
            ProgressBar::with_draw_target(Some(total.0), target).with_message(task.to_owned());
        // A template of our own making is always valid; the default style is a fair fallback.
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} [{bar:14}] {percent:>3}% {decimal_bytes_per_sec} ETA {eta}",
        ) {
            new.set_style(style.progress_chars("#>-"));
        }
        self.with(|bar| *bar = Some(new));
    }

    fn progress(&self, progress: Progress) {
        self.with(|bar| {
            if let Some(bar) = bar {
                bar.set_length(progress.total.0);
                bar.set_position(progress.done.0);
            }
        });
    }

    fn end(&self) {
        self.with(|bar| {
            if let Some(bar) = bar.take() {
                bar.abandon();
                // The bar stays as it is; what comes next begins below it.
                let _ = self
                    .terminal
                    .write_line("")
                    .and_then(|()| self.terminal.flush());
            }
        });
    }
}
