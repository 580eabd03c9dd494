//! The appliance's console: from the stick that we booted from to the end of a capture.

use super::console::Consoles;
use super::numbers::{chosen, numbered};
use super::sticks::Sticks;
use crate::capture::{self, Outcome, Request};
use crate::cli::answers;
use crate::cli::args::{After, AnswerArgs, ApplianceArgs, CaptureOptions};
use crate::device::{Disk, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::exit::Exit;
use crate::inventory::Machine;
use crate::report::bars::Bars;
use crate::report::log::Log;
use crate::report::plain::PlainLines;
use crate::report::{Level, Report, Tee};
use crate::stick::cmdline::Cmdline;
use crate::stick::{self, Stick};
use crate::store::list::State;
use crate::store::{self, CaptureDir, layout};
use crate::units::ByteLen;
use crate::usedmap::{DiskInfo, map_disks};
use crate::volume::crypt::{Secrets, mistyped_recovery_group};
use crate::{say, warn};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the wish for the machine's end is left for PID 1: `poweroff` or `reboot`.
const AFTER_FILE: &str = "/run/haulier/after";

/// How long a technician gets to put a pulled stick back, so that the log is kept on it.
const REPLUG_WAIT: Duration = Duration::from_secs(20);

/// Runs the appliance until the machine is to be switched off or started again.
pub fn run(args: &ApplianceArgs) -> Exit {
    let consoles = match Consoles::open(&args.consoles) {
        Ok(consoles) => consoles,
        Err(error) => {
            eprintln!("haulier: opening the consoles: {error}");
            return Exit::Failed;
        }
    };
    let log = Log::new();
    let plain = PlainLines::new(consoles.clone());
    let lines = Tee(vec![&plain, &log]);
    say!(lines, "\nHaulier {}\n", env!("CARGO_PKG_VERSION"));

    let appliance = Appliance {
        consoles: &consoles,
        log: &log,
        lines: &lines,
    };
    let (result, answers) = appliance.once();
    let exit = match &result {
        Ok(outcome) => {
            say!(
                lines,
                "haulier: capture finished: {}",
                outcome.directory.display()
            );
            if outcome.bad_bytes > ByteLen::ZERO {
                warn!(
                    lines,
                    "{} could not be read and are zero in the capture; manifest.json names the \
                     sectors",
                    outcome.bad_bytes
                );
                Exit::Damage
            } else {
                Exit::Done
            }
        }
        Err(error) => {
            say!(lines, "haulier: {error}");
            Exit::of(error)
        }
    };
    say!(lines, "haulier: exit code {}", exit.code());
    end(&consoles, &lines, answers.as_ref());
    exit
}

/// Leaves word for PID 1: as answered, or as the person says.
fn end(consoles: &Consoles, lines: &dyn Report, answers: Option<&AnswerArgs>) {
    let after = match answers {
        Some(AnswerArgs {
            unattended: true,
            after: After::Poweroff,
            ..
        }) => "poweroff",
        Some(AnswerArgs {
            unattended: true,
            after: After::Reboot,
            ..
        }) => "reboot",
        Some(_) | None => ask_end(consoles, lines),
    };
    let written = Path::new(AFTER_FILE)
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(AFTER_FILE, after));
    if let Err(error) = written {
        warn!(lines, "cannot tell the system to {after}: {error}");
    }
}

fn ask_end(consoles: &Consoles, lines: &dyn Report) -> &'static str {
    loop {
        say!(
            lines,
            "\nEnter: back to the start   p: power off   r: restart the machine"
        );
        match consoles.read_line(None) {
            Ok(Some(line)) => match line.as_str() {
                "" => return "again",
                "p" => return "poweroff",
                "r" => return "reboot",
                _ => {}
            },
            Ok(None) => {}
            // No console can be read: nobody will ever answer, but the machine must not spin.
            Err(_) => std::thread::sleep(Duration::from_secs(60)),
        }
    }
}

/// What is to be captured, and how.
struct Choice {
    disks: Vec<Disk>,
    secrets: Secrets,
    options: CaptureOptions,
}

struct Appliance<'a> {
    consoles: &'a Consoles,
    log: &'a Log,
    lines: &'a dyn Report,
}

impl Appliance<'_> {
    /// One run; the answers are given back as soon as they are known, for they say what follows.
    fn once(&self) -> (Result<Outcome>, Option<AnswerArgs>) {
        let stick = match self.find_stick() {
            Ok(stick) => stick,
            Err(error) => {
                self.show_machine();
                // Without the stick there is no answer file, but the kernel's words still hold.
                return (Err(error), self.answers("").ok());
            }
        };
        let file = match stick::answers(&stick) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => return (Err(error), self.answers("").ok()),
        };
        let answers = match self.answers(&file) {
            Ok(answers) => answers,
            Err(error) => return (Err(error), None),
        };
        let result = self.capture(&stick, &answers);
        (result, Some(answers))
    }

    fn find_stick(&self) -> Result<Stick> {
        let stick = stick::identify()?;
        say!(self.lines, "Stick: {}", stick.describe());
        Ok(stick)
    }

    fn show_machine(&self) -> Machine {
        let mut machine = Machine::here();
        for note in machine.look_for_systems(&Secrets::new()) {
            say!(self.log, "{note}");
        }
        say!(self.lines, "{}", machine.to_text());
        machine
    }

    /// The answer file's words, then the kernel's, which win.
    fn answers(&self, file: &str) -> Result<AnswerArgs> {
        let mut words = answers::from_file(file)?;
        words.extend(answers::from_kernel(&Cmdline::of_this_kernel()?));
        crate::cli::parse_answers(&words)
    }

    fn capture(&self, stick: &Stick, answers: &AnswerArgs) -> Result<Outcome> {
        let machine = self.show_machine();
        let all = numbered(&machine, stick::source_disks(stick, self.lines)?);
        let options = answers.capture.clone();
        if answers.unattended && options.keys.passphrase {
            return Err(Error::refused(
                "an unattended capture cannot ask for a passphrase: leave 'passphrase' out of the \
                 answers",
            )
            .advise("Put the key into a file on the stick and name it with key-files"));
        }
        let mut choice = Choice {
            disks: self.choose(&all, &options)?,
            secrets: stick::secrets(stick, &options.keys.key_files)?,
            options,
        };
        if choice.options.keys.passphrase {
            self.ask_secret(&mut choice.secrets)?;
        }
        self.show_disks(&all, &choice)?;
        if !answers.unattended
            && let Some(after) = self.ask(stick, &machine, &all, &mut choice)?
        {
            return leave(after);
        }
        self.write(stick, machine, choice, answers)
    }

    /// Until Enter: the choice is then made. Or what to do with the machine instead of a capture.
    fn ask(
        &self,
        stick: &Stick,
        machine: &Machine,
        all: &[(usize, PathBuf)],
        choice: &mut Choice,
    ) -> Result<Option<&'static str>> {
        loop {
            let name = choice.options.name.as_deref().unwrap_or(&machine.name);
            let earlier = newest(stick, name);
            // Before the keys are shown: what is typed at them counts.
            self.consoles.forget_typed();
            self.show_keys(choice, earlier.as_deref());
            let reading = |e| Error::io("reading the consoles", e);
            let Some(line) = self.consoles.read_line(None).map_err(reading)? else {
                continue;
            };
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("", _) => return Ok(None),
                ("p", _) => return Ok(Some("poweroff")),
                ("r", _) => return Ok(Some("reboot")),
                ("n", name) if !name.trim().is_empty() => {
                    choice.options.name = Some(name.trim().to_owned());
                    say!(self.lines, "The machine will be called {}", name.trim());
                }
                ("s", "") if choice.options.since.is_some() => {
                    choice.options.since = None;
                    say!(self.lines, "All that is in use will be stored");
                }
                ("s", "") => match &earlier {
                    Some(earlier) => {
                        choice.options.since = Some(earlier.clone());
                        say!(
                            self.lines,
                            "Only what changed since {earlier} will be stored; both have to stay on \
                             the stick"
                        );
                    }
                    None => say!(
                        self.lines,
                        "There is no whole capture of {name} on the stick yet"
                    ),
                },
                ("k", "") => {
                    self.ask_secret(&mut choice.secrets)?;
                    self.show_disks(all, choice)?;
                }
                _ => match chosen(&line, all) {
                    Some(chosen) => {
                        choice.disks = open_all(&chosen)?;
                        self.show_disks(all, choice)?;
                    }
                    None => say!(
                        self.lines,
                        "\"{line}\" is neither one of the keys nor the number of a disk"
                    ),
                },
            }
        }
    }

    /// Asks for a passphrase, which is not shown as it is typed. Empty: there is none.
    fn ask_secret(&self, secrets: &mut Secrets) -> Result<()> {
        let typed = self
            .consoles
            .read_secret(|| {
                say!(
                    self.lines,
                    "\nPassphrase or BitLocker recovery key of an encrypted volume (not shown as \
                     you type;\nonly Enter: none):"
                );
            })
            .map_err(|e| Error::io("reading the consoles", e))?;
        if typed.is_empty() {
            return Ok(());
        }
        if let Some(group) = mistyped_recovery_group(&typed) {
            say!(
                self.lines,
                "Group {group} of that recovery key is mistyped: type k to try again"
            );
            return Ok(());
        }
        secrets.append(Secrets::from_passphrase(&typed));
        Ok(())
    }

    fn show_keys(&self, choice: &Choice, earlier: Option<&str>) {
        let what = match choice.disks.len() {
            1 => "this disk".to_owned(),
            disks => format!("these {disks} disks"),
        };
        match (&choice.options.since, earlier) {
            (Some(since), _) => say!(
                self.lines,
                "Second pass: only what changed since {since} is stored   s: store everything"
            ),
            (None, Some(earlier)) => say!(
                self.lines,
                "This machine was captured already ({earlier})   s: store only what changed since"
            ),
            (None, None) => {}
        }
        say!(
            self.lines,
            "Enter: capture {what}   0 2: only disks 0 and 2   n NAME: call the machine so\n\
             k: passphrase of an encrypted volume   p: power off   r: restart the machine"
        );
    }

    fn choose(&self, all: &[(usize, PathBuf)], options: &CaptureOptions) -> Result<Vec<Disk>> {
        let paths: Vec<PathBuf> = all.iter().map(|(_, path)| path.clone()).collect();
        if options.disks.is_empty() || options.disks.iter().any(|disk| disk == "all") {
            if all.is_empty() {
                return Err(
                    Error::refused("no disk to capture was found besides the stick").advise(
                        "Check that the disks are switched on and the controller is not hidden by \
                     the firmware (Intel VMD or RST in RAID mode)",
                    ),
                );
            }
            return open_all(&paths);
        }
        for word in &options.disks {
            // The stick above all, by whatever path.
            let path = Path::new(word);
            if path.exists() && !std::fs::canonicalize(path).is_ok_and(|path| paths.contains(&path))
            {
                return Err(Error::refused(format!(
                    "{word} is not one of this machine's disks that can be captured"
                )));
            }
        }
        capture::find_disks(&options.disks, &paths)
    }

    fn show_disks(&self, all: &[(usize, PathBuf)], choice: &Choice) -> Result<()> {
        say!(self.lines, "\nTo be captured:");
        let sources: Vec<(&dyn ReadAt, DiskInfo)> = choice
            .disks
            .iter()
            .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
            .collect();
        let maps = map_disks(&sources, &choice.secrets)?;
        for (disk, map) in choice.disks.iter().zip(maps) {
            let identity = disk.identity();
            let number = all
                .iter()
                .find(|(_, path)| *path == identity.path)
                .map_or_else(|| "-".to_owned(), |(number, _)| number.to_string());
            let most = if map.nonzero_only().is_empty() {
                ""
            } else {
                "at most "
            };
            say!(
                self.lines,
                "{number:>3}  {}: {most}{} of {}",
                identity.path.display(),
                map.extents.total(),
                ByteLen(identity.size_bytes)
            );
            for line in map.render_brief().lines() {
                say!(self.lines, "{line}");
            }
        }
        Ok(())
    }

    fn write(
        &self,
        stick: &Stick,
        mut machine: Machine,
        choice: Choice,
        answers: &AnswerArgs,
    ) -> Result<Outcome> {
        // What is encrypted can be seen now.
        if !choice.secrets.is_empty() {
            for note in machine.look_for_systems_on(&choice.disks, &choice.secrets) {
                say!(self.log, "{note}");
            }
        }
        let store = stick::open_store(stick, self.lines)?;
        let path = store.path().to_owned();
        let bars = Bars::new(self.consoles.clone());
        let plain = PlainLines::new(self.consoles.clone());
        let shown: &dyn Report = if answers.unattended { &plain } else { &bars };
        let report = Tee(vec![shown, self.log]);
        let sources = choice.disks.iter().map(|disk| disk.identity().path.clone());
        let sticks = Sticks::new(
            self.consoles,
            &report,
            stick,
            store,
            sources.collect(),
            answers.unattended,
        )?;
        // A second pass lies beside what it builds on.
        let spans = choice.options.since.is_none() && (answers.span || !answers.unattended);
        let mut request = Request {
            machine,
            disks: choice.disks,
            store: path,
            further: Vec::new(),
            more: spans.then_some(&sticks),
            medium: format!("the stick {}", stick.describe()),
            secrets: choice.secrets,
            options: choice.options,
        };
        match self.run(&mut request, &sticks, &report) {
            Ok(outcome) => {
                sticks.close()?;
                sticks.say_where();
                Ok(outcome)
            }
            Err(error) if !sticks.is_there() => {
                sticks.abandon();
                Err(sticks.with_current(|stick| self.after_pull(stick, error)))
            }
            Err(error) => {
                if let Err(also) = sticks.close() {
                    warn!(self.lines, "{also}");
                }
                Err(error)
            }
        }
    }

    /// Goes on with what an interrupted run left of this machine on the stick, or else begins.
    fn run(
        &self,
        request: &mut Request<'_>,
        sticks: &Sticks<'_>,
        report: &dyn Report,
    ) -> Result<Outcome> {
        let options = &mut request.options;
        let name = options.name.as_deref().unwrap_or(&request.machine.name);
        if options.resume {
            return capture::run(request, self.log, report);
        }
        if CaptureDir::interrupted(&request.store, name)?.is_some() {
            say!(
                report,
                "An interrupted capture of this machine is on the stick: going on with it"
            );
            options.resume = true;
        } else if request.more.is_some()
            && let Some(part) = capture::goes_on_elsewhere(&request.store, name)?
        {
            say!(
                report,
                "Part {part} of a capture of {name} is whole on this stick, and part {} is on another \
                 one, or still to be written",
                part.saturating_add(1)
            );
            options.resume = sticks.ask_to_go_on()?;
        }
        match capture::run(request, self.log, report) {
            Err(error)
                if error.kind() == Kind::Refused
                    && request.options.resume
                    && !sticks.is_stopped() =>
            {
                warn!(report, "{error}");
                say!(report, "So it is captured from the beginning");
                request.options.resume = false;
                capture::run(request, self.log, report)
            }
            done => done,
        }
    }

    /// The stick was pulled in the middle: says so, and keeps the log on it if it comes back.
    fn after_pull(&self, stick: &Stick, error: Error) -> Error {
        self.lines.line(
            Level::Error,
            format_args!(
                "the stick {} was pulled while it was written. Put it back now: the log is kept \
                 on it",
                stick.describe()
            ),
        );
        let kept = stick.find_again(REPLUG_WAIT).and_then(|stick| {
            let store = stick::open_store(&stick, self.lines)?;
            let name = jiff::Timestamp::now()
                .strftime("failed-%Y-%m-%dT%H%M%SZ.log")
                .to_string();
            let path = store.path().join(name);
            let written = std::fs::write(&path, self.log.text());
            store.unmount()?;
            written.map_err(|e| Error::io(format!("writing {}", path.display()), e))
        });
        match kept {
            Ok(()) => say!(self.lines, "The log is on the stick"),
            Err(error) => warn!(
                self.lines,
                "the log could not be kept on the stick: {error}"
            ),
        }
        Error::new(
            Kind::Vanished,
            format!(
                "the stick {} was pulled during the capture",
                stick.describe()
            ),
        )
        .because(error)
        .advise("The capture on it is not finished: put the stick back and start again")
    }
}

/// Switches off or restarts at once, without a capture.
fn leave(after: &str) -> Result<Outcome> {
    std::fs::create_dir_all("/run/haulier")
        .and_then(|()| std::fs::write(AFTER_FILE, after))
        .map_err(|e| Error::io(format!("telling the system to {after}"), e))?;
    std::process::exit(Exit::Done.code().into())
}

/// The newest whole capture of a machine on the stick. A stick that was never used has none.
fn newest(stick: &Stick, machine: &str) -> Option<String> {
    let machine = layout::sanitise(machine)?;
    let captures = store::list(&stick.identity().path).ok()?.captures;
    captures
        .into_iter()
        .filter(|capture| capture.state == State::Whole && capture.machine == machine)
        .map(|capture| capture.capture)
        .max()
}

fn open_all(paths: &[PathBuf]) -> Result<Vec<Disk>> {
    paths.iter().map(|path| Disk::open(path)).collect()
}
