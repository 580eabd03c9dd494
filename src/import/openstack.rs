//! A folder for OpenStack: the disks as qcow2 images without another file below, the images'
//! properties, and a script that makes everything else.

use super::grown::{GIB, Growth, copy_changed};
use super::{Capture, Options, OutDir};
use crate::error::Result;
use crate::report::Report;
use crate::say;
use crate::vm::{openstack, without_variables};

/// The script.
const CREATE: &str = "create.sh";

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    let mut plan = capture.plan.clone();
    let growth = Growth::plan(capture, &mut plan, options.pad.then_some(GIB), report)?;
    let files = openstack::files(&plan);
    let dir = OutDir::begin(&options.folder(&plan), capture.bytes())?;
    capture.say_notes(report);
    capture.say_others(&files.notes, report);
    if !options.fallback_loader {
        capture.say_others(
            without_variables(&plan, &capture.boots, "OpenStack").as_slice(),
            report,
        );
    }
    // Names of disks and drivers are those of the buses that the target has.
    let there = plan.clone().on_buses(&openstack::buses(&plan));
    copy_changed(capture, &growth, there, &dir, options, report)?;
    for (index, image) in files.images.iter().enumerate() {
        dir.write(&format!("image-{index}.json"), image.as_bytes(), 0o644)?;
    }
    dir.write(CREATE, files.create.as_bytes(), 0o755)?;
    let whole = dir.commit()?;
    say!(
        report,
        "To make it: NETWORK=... {} (with the cloud's OS_ variables set)",
        whole.join(CREATE).display()
    );
    Ok(())
}
