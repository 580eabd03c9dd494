//! A folder for a Proxmox VE host: the disks, the UEFI variables, and a script that makes the machine
//! of them there.

use super::grown::{Growth, MIB, copy_changed};
use super::{Capture, Options, OutDir, VARS};
use crate::error::Result;
use crate::report::Report;
use crate::say;
use crate::vm::proxmox;

/// The script.
const CREATE: &str = "create.sh";

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    let mut plan = capture.plan.clone();
    let growth = Growth::plan(capture, &mut plan, options.pad.then_some(MIB), report)?;
    let vars = plan.varstore()?;
    plan.nvram = vars.as_ref().map(|_| VARS.into());
    let files = proxmox::files(&plan);
    let dir = OutDir::begin(&options.folder(&plan), capture.bytes())?;
    capture.say_notes(report);
    capture.say_others(&files.notes, report);
    // Names of disks and drivers are those of the buses that the target has.
    let there = plan.clone().on_buses(&proxmox::buses(&plan));
    copy_changed(capture, &growth, there, &dir, options, report)?;
    if let Some(vars) = vars {
        dir.write(VARS, &vars, 0o644)?;
    }
    dir.write(CREATE, files.create.as_bytes(), 0o755)?;
    let whole = dir.commit()?;
    say!(
        report,
        "To make it, as root on the Proxmox VE host: {} [ID [STORAGE [BRIDGE]]]",
        whole.join(CREATE).display()
    );
    Ok(())
}
