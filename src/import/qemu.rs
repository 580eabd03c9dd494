//! A folder that runs: the disks, the UEFI variables and `run.sh`.

use super::changes::Keep;
use super::{Capture, Options, OutDir, VARS, changes, copy_disks};
use crate::error::Result;
use crate::inventory::Cpu;
use crate::report::Report;
use crate::say;
use crate::vm::qemu::run_script;
use crate::vm::{lower_level, unknown_zone};
use std::path::PathBuf;

/// The script.
const RUN: &str = "run.sh";

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    let mut plan = capture.plan.clone();
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(&plan.name));
    let vars = plan.varstore()?;
    let dir = OutDir::begin(&out, capture.bytes())?;
    capture.say_notes(report);
    capture.say_others(unknown_zone(&plan).as_slice(), report);
    let level = lower_level(capture.machine.cpu.x86_64_level, Cpu::level_here());
    capture.say_others(level.as_slice(), report);
    copy_disks(capture, &dir, report)?;
    changes::apply(capture, &mut plan, &dir, Keep::Over, options, report)?;
    if let Some(vars) = vars {
        dir.write(VARS, &vars, 0o644)?;
        plan.nvram = Some(VARS.into());
    }
    dir.write(RUN, run_script(&plan).as_bytes(), 0o755)?;
    let whole = dir.commit()?;
    say!(report, "To run it: {}", whole.join(RUN).display());
    Ok(())
}
