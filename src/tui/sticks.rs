//! The sticks that a capture goes to: the one that we booted from, and those that it goes on on. In:
//! the first, its store mounted. Out: the store that is written to now; and when a part is whole, the
//! next one, proven and with room.

use super::console::Consoles;
use crate::capture::{More, Store};
use crate::error::{Error, Kind, Result};
use crate::report::Report;
use crate::say;
use crate::stick::{self, MountedStore, Seen, Stick};
use crate::units::ByteLen;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a stick that was just plugged in may take to appear: the kernel lets USB disks rest for a
/// second, slow ones take longer.
const APPEARS: Duration = Duration::from_secs(6);

/// The sticks of one capture.
pub(super) struct Sticks<'a> {
    consoles: &'a Consoles,
    report: &'a dyn Report,
    booted: &'a Stick,
    /// What is captured: never a stick.
    sources: Vec<PathBuf>,
    /// Nobody is asked: what is plugged in already is taken.
    unattended: bool,
    /// The disks at the beginning.
    seen: Seen,
    further: RefCell<Vec<Stick>>,
    /// The store of the last one.
    mounted: RefCell<Option<MountedStore>>,
    stopped: Cell<bool>,
}

impl fmt::Debug for Sticks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticks")
            .field("booted", self.booted)
            .field("further", &self.further)
            .finish_non_exhaustive()
    }
}

impl<'a> Sticks<'a> {
    /// Only the first one, whose store is `mounted`.
    ///
    /// # Errors
    /// When the disks of this machine cannot be listed.
    pub(super) fn new(
        consoles: &'a Consoles,
        report: &'a dyn Report,
        booted: &'a Stick,
        mounted: MountedStore,
        sources: Vec<PathBuf>,
        unattended: bool,
    ) -> Result<Self> {
        Ok(Self {
            consoles,
            report,
            booted,
            sources,
            unattended,
            seen: stick::seen()?,
            further: RefCell::default(),
            mounted: RefCell::new(Some(mounted)),
            stopped: Cell::new(false),
        })
    }

    /// Whether it was decided here that the capture ends, so that nothing else is to be tried.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// What `look` sees of the one that is written to now.
    pub(super) fn with_current<T>(&self, look: impl FnOnce(&Stick) -> T) -> T {
        match self.further.borrow().last() {
            Some(stick) => look(stick),
            None => look(self.booted),
        }
    }

    /// Whether the one that is written to is still plugged in. Between two parts none is.
    pub(super) fn is_there(&self) -> bool {
        self.mounted.borrow().is_none() || self.with_current(Stick::is_there)
    }

    /// Writes everything out: the stick may be pulled then.
    ///
    /// # Errors
    /// When it cannot be written any more.
    pub(super) fn close(&self) -> Result<()> {
        match self.mounted.borrow_mut().take() {
            Some(store) => store.unmount(),
            None => Ok(()),
        }
    }

    /// Lets go of a stick that was pulled out.
    pub(super) fn abandon(&self) {
        if let Some(store) = self.mounted.borrow_mut().take() {
            // What it says of a filesystem without a disk under it helps nobody.
            let _ = store.abandon();
        }
    }

    /// Where the capture lies, if that is more than one stick.
    pub(super) fn say_where(&self) {
        let further = self.further.borrow();
        if further.is_empty() {
            return;
        }
        let last = further.last().map(Stick::describe).unwrap_or_default();
        say!(
            self.report,
            "The last part is on the stick {last}. To import the capture, the sticks with all its \
             parts are needed"
        );
    }

    /// The further sticks that are plugged in, or why there is none.
    fn look(&self) -> Result<Vec<Stick>> {
        let used = self.further.borrow();
        let used: Vec<&Stick> = [self.booted].into_iter().chain(used.iter()).collect();
        let until = Instant::now() + APPEARS;
        loop {
            let found = stick::further(&used, &self.sources, &self.seen)?;
            if !found.sticks.is_empty() {
                return Ok(found.sticks);
            }
            if self.unattended || Instant::now() >= until {
                return Err(Error::refused(match found.refused.is_empty() {
                    true => "there is no further Haulier stick".to_owned(),
                    false => found.refused.join("\n"),
                }));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// The store of the first further stick that can be written and has `least` free.
    fn take(&self, least: ByteLen) -> Result<Store> {
        let mut refused = Vec::new();
        for stick in self.look()? {
            match self.open(&stick, least) {
                Ok((store, mounted)) => {
                    self.mounted.replace(Some(mounted));
                    self.further.borrow_mut().push(stick);
                    return Ok(store);
                }
                Err(error) => refused.push(error.to_string()),
            }
        }
        Err(Error::refused(refused.join("\n")))
    }

    fn open(&self, stick: &Stick, least: ByteLen) -> Result<(Store, MountedStore)> {
        let mounted = stick::open_store(stick, self.report)?;
        let free = mounted.space()?.free;
        if free < least {
            mounted.unmount()?;
            return Err(Error::refused(format!(
                "the stick {} has {free} free, and a part needs at least {least}",
                stick.describe()
            ))
            .advise("Put in another Haulier stick, or a larger one"));
        }
        say!(self.report, "Next stick: {}, {free} free", stick.describe());
        let store = Store {
            path: mounted.path().to_owned(),
            medium: format!("the stick {}", stick.describe()),
        };
        Ok((store, mounted))
    }

    /// Whether to go on with a capture that goes on on another stick; or else to begin anew.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub(super) fn ask_to_go_on(&self) -> Result<bool> {
        if self.unattended {
            return Ok(true);
        }
        loop {
            self.consoles.forget_typed();
            say!(
                self.report,
                "Enter: go on with it   a: capture from the beginning"
            );
            match &*self.read_line()? {
                "" => return Ok(true),
                "a" => return Ok(false),
                other => say!(self.report, "\"{other}\" is neither Enter nor a"),
            }
        }
    }

    /// What is typed, once somebody presses Enter.
    fn read_line(&self) -> Result<String> {
        loop {
            let line = self.consoles.read_line(None);
            if let Some(line) = line.map_err(|e| Error::io("reading the consoles", e))? {
                return Ok(line);
            }
        }
    }

    /// Ends the run between two parts.
    fn stop(&self, parts: u32, why: &str) -> Error {
        self.stopped.set(true);
        let last = self.with_current(Stick::describe);
        Error::new(
            Kind::NoSpace,
            format!(
                "the capture is not complete: part {parts} is whole on the stick {last}, and {why}"
            ),
        )
        .advise("Boot the server again from that stick to go on on another one")
    }
}

impl More for Sticks<'_> {
    fn begin(&self, why: &str, missing: ByteLen) -> Result<bool> {
        self.stopped.set(true);
        if self.unattended {
            self.look().map_err(|none| {
                Error::refused(format!("{why}. About {missing} are missing, and {none}")).advise(
                    "Plug in a second Haulier stick beside the one that the server boots from",
                )
            })?;
            say!(
                self.report,
                "{why}. About {missing} are missing: it goes on on the further stick"
            );
        } else {
            // Before the question is shown: what is typed at it counts.
            self.consoles.forget_typed();
            say!(
                self.report,
                "\n{why}.\nAbout {missing} are missing. It can go on on further Haulier sticks: you \
                 are asked for the next one when this\none is full. Type yes to begin, only Enter \
                 to stop"
            );
            if self.read_line()? != "yes" {
                return Ok(false);
            }
        }
        self.stopped.set(false);
        Ok(true)
    }

    fn next(&self, parts: u32, least: ByteLen) -> Result<Option<Store>> {
        self.close()?;
        if self.unattended {
            return match self.take(least) {
                Ok(store) => Ok(Some(store)),
                Err(error) => Err(self.stop(parts, &error.to_string())),
            };
        }
        say!(
            self.report,
            "\nPart {parts} is whole on the stick {}. It may be pulled, or stay",
            self.with_current(Stick::describe)
        );
        loop {
            self.consoles.forget_typed();
            say!(
                self.report,
                "Put in the next Haulier stick, then Enter   q: stop here, and go on at another boot"
            );
            match &*self.read_line()? {
                "" => match self.take(least) {
                    Ok(store) => return Ok(Some(store)),
                    Err(error) => say!(self.report, "{error}"),
                },
                "q" => return Err(self.stop(parts, "no further stick was put in")),
                other => say!(self.report, "\"{other}\" is neither Enter nor q"),
            }
        }
    }
}
