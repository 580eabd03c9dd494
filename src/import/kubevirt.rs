//! A folder for KubeVirt: the disks, the manifests, and a script that applies them and uploads the
//! disks.

use super::grown::{Growth, MIB, copy_changed};
use super::{Capture, Options, OutDir};
use crate::error::Result;
use crate::report::Report;
use crate::say;
use crate::vm::{kubevirt, without_variables};

/// The manifests.
const MANIFEST: &str = "vm.yaml";
/// The script.
const UPLOAD: &str = "upload.sh";

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    let mut plan = capture.plan.clone();
    let growth = Growth::plan(capture, &mut plan, options.pad.then_some(MIB), report)?;
    let files = kubevirt::files(&plan);
    let dir = OutDir::begin(&options.folder(&plan), capture.bytes())?;
    capture.say_notes(report);
    capture.say_others(&files.notes, report);
    if !options.fallback_loader {
        capture.say_others(
            without_variables(&plan, &capture.boots, "KubeVirt").as_slice(),
            report,
        );
    }
    // Names of disks and drivers are those of the buses that the target has.
    let there = plan.clone().on_buses(&kubevirt::buses(&plan));
    copy_changed(capture, &growth, there, &dir, options, report)?;
    dir.write(MANIFEST, files.manifest.as_bytes(), 0o644)?;
    dir.write(UPLOAD, files.upload.as_bytes(), 0o755)?;
    let whole = dir.commit()?;
    say!(
        report,
        "To make it: {} [--uploadproxy-url URL] [--insecure]",
        whole.join(UPLOAD).display()
    );
    Ok(())
}
