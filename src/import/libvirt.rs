//! A domain of libvirt: the disks below its images directory, `domain.xml` with them, and
//! `virsh define`. libvirt is talked to through its own program, which knows every kind of
//! connection and is there wherever libvirt is used.

use super::changes::Keep;
use super::{Capture, Options, OutDir, VARS, changes, copy_disks};
use crate::error::{Error, Kind, Result};
use crate::inventory::Cpu;
use crate::report::Report;
use crate::vm::libvirt::{DEFAULT_IMAGES, domain_xml};
use crate::vm::{Hypervisor, MachineType, VmPlan, lower_level, unknown_zone};
use crate::{say, warn};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The definition, kept beside the disks.
const DOMAIN: &str = "domain.xml";

pub(super) fn import(capture: &Capture<'_>, options: &Options, report: &dyn Report) -> Result<()> {
    let virsh = Virsh::connect(&options.connect)?;
    let mut plan = capture.plan.clone();
    virsh.refuse_if_defined(&plan)?;
    plan.hypervisor = virsh.hypervisor(plan.machine);
    if plan.hypervisor == Hypervisor::Tcg {
        warn!(
            report,
            "{} has no KVM: the machine is emulated in software, which is slow", options.connect
        );
    }
    if plan.hypervisor == Hypervisor::Tcg && plan.needs_many_addresses() {
        warn!(
            report,
            "the machine has {} MiB of memory, and software emulation has room for 900 GiB: the VM will not \
             start unless its memory is made less (virsh edit)",
            plan.memory_mib()
        );
    }
    if plan.tpm.is_some() && !virsh.emulates_tpm(plan.machine) {
        plan.tpm = None;
        warn!(
            report,
            "{} emulates no TPM (package swtpm), so the VM has none", options.connect
        );
    }
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| Path::new(DEFAULT_IMAGES).join(&plan.name));
    let vars = plan.varstore()?;
    let dir = OutDir::begin(&out, capture.bytes())?;
    plan.nvram = vars.as_ref().map(|_| dir.final_path(VARS));
    capture.say_notes(report);
    capture.say_others(unknown_zone(&plan).as_slice(), report);
    // Emulated ones do not depend on the host's.
    if plan.hypervisor == Hypervisor::Kvm {
        let level = lower_level(capture.machine.cpu.x86_64_level, Cpu::level_here());
        capture.say_others(level.as_slice(), report);
    }
    copy_disks(capture, &dir, report)?;
    changes::apply(capture, &mut plan, &dir, Keep::Over, options, report)?;
    for disk in &mut plan.disks {
        disk.file = dir.final_path(&disk.file);
    }
    if let Some(vars) = vars {
        dir.write(VARS, &vars, 0o600)?;
    }
    dir.write(DOMAIN, domain_xml(&plan).as_bytes(), 0o644)?;
    let whole = dir.commit()?;
    virsh.define(&whole.join(DOMAIN))?;
    say!(
        report,
        "To run it: virsh -c {} start {}",
        options.connect,
        plan.name
    );
    Ok(())
}

/// A libvirt that answers.
struct Virsh<'a> {
    uri: &'a str,
}

impl<'a> Virsh<'a> {
    fn connect(uri: &'a str) -> Result<Self> {
        // `qemu+ssh://host/system`: the disks would be copied here and looked for there.
        let authority = uri
            .split_once("://")
            .and_then(|(_, rest)| rest.split('/').next());
        if authority.is_some_and(|host| !host.is_empty()) {
            return Err(Error::refused(format!(
                "{uri} is another machine's libvirt, and the disks are copied on this one"
            ))
            .advise("Run haulier on that machine"));
        }
        let virsh = Self { uri };
        virsh.run(&["uri"]).map_err(|e| {
            e.into_kind(Kind::Refused).advise(
                "Is libvirtd running, and may you use it? Start it (systemctl start libvirtd), \
                 or name another connection with --connect",
            )
        })?;
        Ok(virsh)
    }

    /// Runs one virsh command. libvirt's own words become the cause of a failure.
    fn run(&self, args: &[&str]) -> Result<String> {
        let doing = format!("running virsh -c {} {}", self.uri, args.join(" "));
        let output = Command::new("virsh")
            .args(["--quiet", "--connect", self.uri])
            .args(args)
            // Its sentences are compared nowhere, but shown in one language.
            .env("LC_ALL", "C")
            .output()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => {
                    Error::refused("the program virsh is not installed on this machine")
                        .advise("Install libvirt's clients (package libvirt-clients)")
                }
                _ => Error::io(&*doing, e),
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said
            .lines()
            .map(|line| line.trim_start_matches("error:").trim())
            .filter(|line| !line.is_empty())
            .collect();
        Err(Error::new(Kind::Io, doing).because(said.join("; ")))
    }

    /// Never replaces a domain: `virsh define` would, without a word.
    fn refuse_if_defined(&self, plan: &VmPlan) -> Result<()> {
        let names = self.run(&["list", "--all", "--name"])?;
        if names.lines().any(|name| name.trim() == plan.name) {
            return Err(Error::refused(format!(
                "{} has a domain named {} already",
                self.uri, plan.name
            ))
            .advise("Choose another name with --name"));
        }
        let Some(uuid) = &plan.uuid else {
            return Ok(());
        };
        let uuids = self.run(&["list", "--all", "--uuid"])?;
        if uuids.lines().any(|other| other.trim() == uuid) {
            return Err(Error::refused(format!(
                "{} has a domain with the machine's UUID {uuid} already",
                self.uri
            ))
            .advise(
                "Perhaps it is this machine, imported before: undefine it first (virsh undefine). Perhaps it is \
                 another machine whose board has the same UUID: give this one another with --new-uuid",
            ));
        }
        Ok(())
    }

    fn hypervisor(&self, machine: MachineType) -> Hypervisor {
        let machine = machine.name();
        let asked = ["domcapabilities", "--virttype", "kvm", "--machine", machine];
        match self.run(&asked) {
            Ok(_) => Hypervisor::Kvm,
            Err(_) => Hypervisor::Tcg,
        }
    }

    /// Whether it can start a TPM of its own: it then knows swtpm.
    fn emulates_tpm(&self, machine: MachineType) -> bool {
        let asked = ["domcapabilities", "--machine", machine.name()];
        let Ok(said) = self.run(&asked) else {
            return false;
        };
        let tpm = said.split("<tpm ").nth(1);
        let tpm = tpm.and_then(|rest| rest.split("</tpm>").next());
        tpm.is_some_and(|tpm| tpm.contains("<value>emulator</value>"))
    }

    fn define(&self, domain: &Path) -> Result<()> {
        let path = domain.display().to_string();
        let folder = domain.parent().map_or_else(PathBuf::new, Path::to_owned);
        self.run(&["define", "--validate", &path]).map_err(|e| {
            e.advise(format!(
                "The disks and {DOMAIN} are whole in {}: virsh define can be repeated there",
                folder.display()
            ))
        })?;
        Ok(())
    }
}
