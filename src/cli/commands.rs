//! What each command does, in the terms of the stations.

use super::args::{CaptureOptions, Command, ImportArgs, KeyOptions};
use crate::capture::{self, More, Plan, Request, Store};
use crate::device::{Disk, ReadAt};
use crate::error::{Error, Kind, Result};
use crate::exit::Exit;
use crate::inventory::Machine;
use crate::report::bars::Bars;
use crate::report::log::Log;
use crate::report::plain::PlainLines;
use crate::report::{Report, Tee};
use crate::store;
use crate::store::list::State;
use crate::units::{ByteLen, SectorSize};
use crate::usedmap::{DiskInfo, map_disks};
use crate::volume::crypt::{Secrets, mistyped_recovery_group};
use crate::{import, say, warn};
use console::Term;
use serde::Serialize;
use std::io::{BufWriter, IsTerminal, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Runs one command.
pub(super) fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Inventory { json, disks, keys } => inventory(json, &disks, &keys),
        Command::Map {
            disk,
            json,
            sector_size,
            with,
            keys,
        } => map(&disk, &with, json, sector_size, &keys),
        Command::Plan { to, json, options } => plan(&to, json, &options),
        Command::Capture { to, options } => capture(to, options),
        Command::List { store, json } => list(&store, json),
        Command::Verify { stores } => verify(&stores),
        Command::Import(args) => import(args),
        Command::Appliance(_) => Err(Error::new(Kind::Unsupported, "the appliance runs apart")),
    }
}

/// Writes a result to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    written(
        stdout()
            .write_all(text.as_bytes())
            .and_then(|()| stdout().flush()),
    )
}

/// Piece by piece: the map of a large disk has millions of runs.
fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    written(
        serde_json::to_writer_pretty(&mut out, value)
            .map_err(std::io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush()),
    )
}

fn written(done: std::io::Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("writing to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Bars for a person, lines for a pipe or a dumb terminal.
fn report() -> Box<dyn Report> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if stderr().is_terminal() && !dumb {
        Box::new(Bars::stderr())
    } else {
        Box::new(PlainLines::new(stderr()))
    }
}

fn inventory(json: bool, disks: &[PathBuf], keys: &KeyOptions) -> Result<Exit> {
    let secrets = secrets(keys)?;
    let mut machine = Machine::here();
    let notes = if disks.is_empty() {
        machine.look_for_systems(&secrets)
    } else {
        let disks: Result<Vec<Disk>> = disks.iter().map(|path| Disk::open(path)).collect();
        machine.look_for_systems_on(&disks?, &secrets)
    };
    let report = report();
    for note in notes {
        warn!(report, "{note}");
    }
    if json {
        print_json(&machine)?
    } else {
        print(&machine.to_text())?
    }
    Ok(Exit::Done)
}

/// What the words say that opens encrypted volumes; a passphrase is asked for on the terminal.
fn secrets(keys: &KeyOptions) -> Result<Secrets> {
    let mut secrets = Secrets::new();
    for path in &keys.key_files {
        secrets.append(Secrets::from_key_file(path)?);
    }
    if keys.passphrase {
        let asking = |e| Error::io("asking for the passphrase", e);
        let terminal = Term::stderr();
        terminal
            .write_str("Passphrase or recovery key: ")
            .map_err(asking)?;
        let typed = Zeroizing::new(terminal.read_secure_line().map_err(asking)?);
        if let Some(group) = mistyped_recovery_group(&typed) {
            return Err(Error::refused(format!(
                "group {group} of the BitLocker recovery key is mistyped: each group of six digits \
                 is a multiple of 11"
            )));
        }
        secrets.append(Secrets::from_passphrase(&typed));
    }
    Ok(secrets)
}

fn map(
    path: &Path,
    with: &[PathBuf],
    json: bool,
    sector_size: u32,
    keys: &KeyOptions,
) -> Result<Exit> {
    let sector = SectorSize::new(sector_size)
        .ok_or_else(|| Error::refused(format!("a sector cannot have {sector_size} bytes")))?;
    let open = |path: &Path| Ok(Disk::open(path)?.with_sector_size(sector));
    let mut disks = vec![open(path)?];
    for path in with {
        disks.push(open(path)?);
    }
    let sources: Vec<(&dyn ReadAt, DiskInfo)> = disks
        .iter()
        .map(|disk| (disk as &dyn ReadAt, DiskInfo::from(disk.identity())))
        .collect();
    let mut maps = map_disks(&sources, &secrets(keys)?)?;
    let map = maps.swap_remove(0);
    if json {
        print_json(&map)?
    } else {
        print(&map.render_text())?
    }
    Ok(Exit::Done)
}

/// Opens what `--disk` names.
fn open_disks(options: &CaptureOptions) -> Result<Vec<Disk>> {
    if options.disks.is_empty() {
        return Err(Error::refused("no disk was named").advise(
            "Name each with --disk: a device (/dev/sda), an image file, or a serial number; \
             'haulier inventory' shows them",
        ));
    }
    let machine = Machine::read(Path::new("/"));
    let known: Vec<PathBuf> = machine.disks.iter().map(|disk| disk.device()).collect();
    let disks = capture::find_disks(&options.disks, &known)?;
    let paths = disks.iter().map(|disk| disk.identity().path.as_path());
    refuse_second_paths(&machine, paths)?;
    Ok(disks)
}

/// Two paths of one disk would be two images of it, and a VM with the same volumes twice.
fn refuse_second_paths<'a>(machine: &Machine, paths: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut seen: Vec<(PathBuf, &Path)> = Vec::new();
    for path in paths {
        let first = machine
            .first_path_of(path)
            .unwrap_or_else(|| path.to_owned());
        if let Some((_, other)) = seen.iter().find(|(of_other, _)| *of_other == first) {
            return Err(Error::refused(format!(
                "{} and {} are two paths of one disk",
                other.display(),
                path.display()
            ))
            .advise("Name one of them with --disk"));
        }
        seen.push((first, path));
    }
    Ok(())
}

fn plan(to: &[PathBuf], json: bool, options: &CaptureOptions) -> Result<Exit> {
    capture::refuse_second_pass_over(to.len(), options)?;
    let first = to
        .first()
        .ok_or_else(|| Error::refused("no store was named"))?;
    let disks = open_disks(options)?;
    for disk in &disks {
        disk.refuse_if_in_use()?;
    }
    let machine = Machine::read(Path::new("/"));
    let name = options.name.as_deref().unwrap_or(&machine.name);
    let word = options.since.as_deref();
    let earlier = capture::since::find(first, &machine, name, &disks, word, &None)?;
    let mut free = ByteLen::ZERO;
    for store in to {
        free = ByteLen(free.0.saturating_add(capture::free_space(store)?.0));
    }
    let mut plan = Plan::new(&disks, free, options.compression, &secrets(&options.keys)?)?;
    plan.since(&disks, &earlier)?;
    if json {
        print_json(&plan)?
    } else {
        print(&plan.to_text())?
    }
    let names: Vec<String> = to.iter().map(|store| store.display().to_string()).collect();
    plan.refuse_if_too_large(&names.join(" and "))?;
    Ok(Exit::Done)
}

fn capture(to: Vec<PathBuf>, options: CaptureOptions) -> Result<Exit> {
    let log = Log::new();
    let shown = report();
    let report = Tee(vec![shown.as_ref(), &log]);
    let mut stores = to.into_iter().map(Store::at);
    let store = stores
        .next()
        .ok_or_else(|| Error::refused("no store was named"))?;
    let disks = open_disks(&options)?;
    let secrets = secrets(&options.keys)?;
    let mut machine = Machine::here();
    for note in machine.look_for_systems_on(&disks, &secrets) {
        say!(log, "{note}");
    }
    let request = Request {
        machine,
        disks,
        medium: store.medium,
        store: store.path,
        further: stores.collect(),
        more: (stdin().is_terminal() && stderr().is_terminal() && options.since.is_none())
            .then_some(&AskOnTerminal as &dyn More),
        secrets,
        options,
    };
    let outcome = capture::run(&request, &log, &report)?;
    print(&format!("{}\n", outcome.directory.display()))?;
    if outcome.bad_bytes > ByteLen::ZERO {
        warn!(
            report,
            "{} could not be read: see bad_ranges in manifest.json", outcome.bad_bytes
        );
        return Ok(Exit::Damage);
    }
    Ok(Exit::Done)
}

/// Asks the person at the terminal, who has the time to plug in another medium.
#[derive(Debug)]
struct AskOnTerminal;

impl AskOnTerminal {
    fn ask(question: &str) -> Result<String> {
        let asking = |e| Error::io("asking on the terminal", e);
        let terminal = Term::stderr();
        terminal.write_str(question).map_err(asking)?;
        let typed = terminal.read_line().map_err(asking)?;
        Ok(typed.trim().to_owned())
    }
}

impl More for AskOnTerminal {
    fn begin(&self, why: &str, missing: ByteLen) -> Result<bool> {
        let question = format!(
            "\n{why}\nAbout {missing} are missing. It can be captured in parts: when one medium is full, you are asked for the next \
             one.\nType yes to begin: "
        );
        Ok(Self::ask(&question)? == "yes")
    }

    fn next(&self, parts: u32, least: ByteLen) -> Result<Option<Store>> {
        loop {
            let typed = Self::ask(&format!(
                "\n{parts} part(s) are whole, and their media are full. Plug in the next one, mount it, \
                 and type its directory\n(only Enter: stop here; --resume goes on later): "
            ))?;
            let path = PathBuf::from(&typed);
            if typed.is_empty() {
                return Ok(None);
            }
            let refusal = if !path.is_dir() {
                format!("{typed} is not a directory")
            } else {
                match capture::free_space(&path)? {
                    free if free < least => {
                        format!("{typed} has {free} free, and a part needs at least {least}")
                    }
                    _ => return Ok(Some(Store::at(path))),
                }
            };
            let _ = Term::stderr().write_line(&refusal);
        }
    }
}

fn list(path: &Path, json: bool) -> Result<Exit> {
    let list = store::list(path)?;
    if json {
        print_json(&list)?
    } else {
        print(&list.to_text())?
    }
    Ok(Exit::Done)
}

fn verify(paths: &[PathBuf]) -> Result<Exit> {
    let report = report();
    let verdict = store::verify_paths(paths, report.as_ref())?;
    if verdict.is_proven() {
        say!(report, "{}", verdict.to_text());
        Ok(Exit::Done)
    } else {
        Err(Error::new(Kind::Mismatch, verdict.to_text()))
    }
}

fn import(mut args: ImportArgs) -> Result<Exit> {
    let report = report();
    if args.pick.is_none() && stdin().is_terminal() && stderr().is_terminal() {
        args.pick = match &args.captures[..] {
            [path] => ask_which(path)?,
            _ => None,
        };
    }
    import::run(&args.into(), report.as_ref())?;
    Ok(Exit::Done)
}

/// Lets a person choose where a store holds several whole captures; `None` where there is nothing
/// to choose, and the import itself says what is wrong.
fn ask_which(path: &Path) -> Result<Option<String>> {
    let whole: Vec<String> = store::list(path)?
        .captures
        .iter()
        .filter(|capture| capture.state == State::Whole)
        .map(|capture| format!("{}/{}", capture.machine, capture.capture))
        .collect();
    if whole.len() < 2 {
        return Ok(None);
    }
    // The plain theme: console fonts lack the glyphs of the other.
    let chosen = dialoguer::Select::with_theme(&dialoguer::theme::SimpleTheme)
        .with_prompt("Which capture")
        .items(&whole)
        .default(whole.len().saturating_sub(1))
        .interact_opt()
        .map_err(|e| Error::refused("no capture was chosen").because(e))?;
    let chosen = chosen.and_then(|index| whole.into_iter().nth(index));
    chosen
        .map(Some)
        .ok_or_else(|| Error::refused("no capture was chosen"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paths_of_one_disk_are_refused_and_one_is_not() {
        let json = r#"{"version":2,"name":"san","disks":[{"name":"sda","paths":["sda","sdc"]},
            {"name":"sdb"}]}"#;
        let machine = Machine::from_json(json.as_bytes()).unwrap();
        let refused = |names: &[&'static str]| {
            let paths = names.iter().map(Path::new);
            refuse_second_paths(&machine, paths).err()
        };
        assert!(refused(&["/dev/sdc", "/dev/sdb", "disk.img"]).is_none());
        let error = refused(&["/dev/sdb", "/dev/sdc", "/dev/sda"]).unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        let text = error.to_string();
        assert!(
            text.contains("/dev/sdc and /dev/sda are two paths of one disk"),
            "{text}"
        );
    }
}
