//! A Windows gets virtio's drivers by virt-v2v-in-place(1), which knows what each version of it wants. In:
//! the overlays. Out: the same with the driver of the VM's disks loaded by Windows' boot loader, which is
//! believed only when our own reader of the registry sees it there.

use super::layered::Layered;
use super::loader::FALLBACK;
use crate::error::{Error, Kind, Result};
use crate::inventory::installed::{RootPlace, look};
use crate::inventory::{DiskBoot, Machine, System, SystemKind};
use crate::report::Report;
use crate::units::SectorSize;
use crate::usedmap::DiskInfo;
use crate::vm::{DiskBus, Profile, VmPlan, printable, xml_for_v2v};
use crate::volume::crypt::Secrets;
use crate::warn;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The program's name.
const PROGRAM: &str = "virt-v2v-in-place";
/// Where RHEL and Fedora have it.
const LIBEXEC: &str = "/usr/libexec/virt-v2v-in-place";
/// Where virt-v2v looks for drivers if no variable names another place.
const SHARE: &str = "/usr/share/virtio-win";
/// The variables that do (virt-v2v(1), the second is its old name).
const VARIABLES: [&str; 2] = ["VIRTIO_WIN", "VIRTIO_WIN_DIR"];
/// How long it may take: 45 s in software emulation for a Windows with nothing on it, more with an ISO.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Characters of a sentence of it.
const LONGEST: usize = 600;
/// Why such a Windows gets nothing, and what to do.
const BITLOCKER: &str = "this Windows is encrypted by BitLocker, so no virtio drivers are put into it, and it will \
    not find its disks on virtio unless it has them already: import with --profile faithful, and have the recovery \
    key at hand, because a VM's TPM does not open the volume. To have it changed, turn BitLocker off on the machine \
    (manage-bde -off C:) and capture again when it is decrypted";

/// The place of a Windows that lacks the drivers of the VM's disks, or why it gets none; `None` where nothing is
/// to be done.
pub(super) fn needs(
    system: &System,
    plan: &VmPlan,
    profile: Profile,
) -> Option<std::result::Result<RootPlace, &'static str>> {
    let root = &system.root;
    let is_windows = match system.kind {
        Some(SystemKind::Windows) => true,
        // Closed, it says no more.
        None => root.filesystem.starts_with("BitLocker"),
        _ => false,
    };
    if !is_windows || profile != Profile::Virtio || plan.starts_on_virtio(system) {
        return None;
    }
    Some(if root.encrypted {
        Err(BITLOCKER)
    } else {
        Ok(root.clone())
    })
}

/// What to tell of a Windows that is not seen to start on the VM's disks, and gets no drivers.
pub(super) fn unreached(system: &System, plan: &VmPlan, machine: &Machine) -> Option<String> {
    let is_unreached =
        system.kind == Some(SystemKind::Windows) && !plan.unreached(system, machine).is_empty();
    is_unreached.then(|| {
        "this Windows' boot loader is not seen to load a driver for the VM's disks, so it may stop with \
         INACCESSIBLE_BOOT_DEVICE: --disk-bus names another kind of disk, and --profile virtio puts virtio's drivers \
         into it"
            .into()
    })
}

/// What it is done with.
#[derive(Debug)]
pub(super) struct Tools {
    program: PathBuf,
    /// Where the drivers come from.
    drivers: PathBuf,
}

impl Tools {
    /// Looks for both on this machine.
    ///
    /// # Errors
    /// With a sentence that names which is missing, and where it comes from.
    pub(super) fn find() -> std::result::Result<Self, String> {
        Self::find_in(
            &std::env::var_os("PATH").unwrap_or_default(),
            Path::new(LIBEXEC),
            &|name| std::env::var_os(name).filter(|value| !value.is_empty()),
            Path::new(SHARE),
        )
    }

    fn find_in(
        path: &OsStr,
        libexec: &Path,
        variable: &dyn Fn(&str) -> Option<OsString>,
        share: &Path,
    ) -> std::result::Result<Self, String> {
        let mut places = std::env::split_paths(path)
            .map(|folder| folder.join(PROGRAM))
            .chain([libexec.to_owned()]);
        let program = places.find(|place| place.is_file()).ok_or_else(|| {
            format!(
                "the program {PROGRAM}, which puts drivers into a Windows, is not installed on this machine \
                 (package virt-v2v)"
            )
        })?;
        let named = VARIABLES
            .iter()
            .find_map(|name| Some((name, variable(name)?)));
        let drivers = match named {
            Some((name, value)) => {
                let place = PathBuf::from(value);
                if !place.exists() {
                    return Err(format!(
                        "the variable {name} names {}, where Windows' virtio drivers should be, and there is \
                         nothing",
                        place.display()
                    ));
                }
                place
            }
            None if share.exists() => share.to_owned(),
            None => {
                return Err(format!(
                    "Windows' virtio drivers are not on this machine: {} is not there (package virtio-win of \
                     RHEL and Fedora; elsewhere download virtio-win.iso and name the file in the variable {})",
                    share.display(),
                    VARIABLES[0]
                ));
            }
        };
        Ok(Self { program, drivers })
    }

    /// Puts the drivers into the Windows at `root`; a sentence for each change. `disks` are the overlays with
    /// the images below them, in the order of `plan`; `before` is how they were started.
    ///
    /// # Errors
    /// With virt-v2v's own words, or when Windows is not seen to start on the VM's disks afterwards.
    pub(super) fn convert(
        &self,
        disks: &[(PathBuf, PathBuf)],
        plan: &VmPlan,
        root: &RootPlace,
        before: &[&DiskBoot],
        report: &dyn Report,
    ) -> Result<Vec<String>> {
        let folder = tempfile::Builder::new()
            .prefix("haulier-virt-v2v-")
            .tempdir()
            .map_err(|e| Error::io("making a folder for virt-v2v", e))?;
        let mut overlays = Vec::new();
        for (overlay, _) in disks {
            let whole = std::path::absolute(overlay)
                .map_err(|e| Error::io(format!("finding {}", overlay.display()), e))?;
            let text = whole.to_str().map(str::to_owned).ok_or_else(|| {
                Error::new(
                    Kind::Unsupported,
                    "virt-v2v takes only paths that are valid UTF-8",
                )
                .on(whole.display().to_string())
            })?;
            overlays.push(text);
        }
        let overlays: Vec<&str> = overlays.iter().map(String::as_str).collect();
        let domain = folder.path().join("domain.xml");
        std::fs::write(&domain, xml_for_v2v(&overlays))
            .map_err(|e| Error::io(format!("writing {}", domain.display()), e))?;
        let mut command = Command::new(&self.program);
        command
            .args(["-i", "libvirtxml", "--root"])
            .arg(self::root(plan, root));
        if plan
            .disks
            .iter()
            .any(|disk| disk.bus == DiskBus::VirtioScsi)
            && self.takes_block_driver()
        {
            command.args(["--block-driver", "virtio-scsi"]);
        }
        command.arg(&domain).env("LC_ALL", "C");
        // As for guestfish: libvirt's own session is one more thing that may be missing or refuse.
        if std::env::var_os("LIBGUESTFS_BACKEND").is_none() {
            command.env("LIBGUESTFS_BACKEND", "direct");
        }
        let said = folder.path().join("said");
        let status = run(command, &said)?;
        let said = std::fs::read(&said).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        if !status.success() {
            let words = sentences(&said, "error: ").pop();
            let words = words.unwrap_or_else(|| last_line(&said));
            return Err(Error::new(Kind::Unsupported, format!("{PROGRAM} failed")).because(words));
        }
        for warning in sentences(&said, "warning: ") {
            warn!(report, "{PROGRAM}: {warning}");
        }
        let seen = Seen::on(disks, plan, root)?;
        self.done(&seen, plan, before)
    }

    /// Whether it is of a version (2.2 is none) that can be asked for the other driver.
    fn takes_block_driver(&self) -> bool {
        let help = Command::new(&self.program)
            .arg("--help")
            .stdin(Stdio::null())
            .output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--block-driver"))
    }

    /// What was changed, where Windows is seen to start on the VM's disks.
    fn done(&self, seen: &Seen, plan: &VmPlan, before: &[&DiskBoot]) -> Result<Vec<String>> {
        let system = &seen.system;
        let drivers = system.drivers.as_deref().unwrap_or_default();
        if !plan.starts_on_virtio(system) {
            let with_start: Vec<&str> = drivers
                .iter()
                .filter(|driver| driver.start == Some(0))
                .map(|driver| driver.name.as_str())
                .collect();
            return Err(Error::new(
                Kind::Unsupported,
                format!("{PROGRAM} ended well, but Windows is not seen to start on the VM's disks"),
            )
            .because(format!(
                "with its boot loader it starts {}; ready to be installed lie: {}",
                listed(&with_start),
                listed(&staged(system))
            ))
            .advise(
                "The drivers in virtio-win have to be for this version of Windows: see virt-v2v's warnings above",
            ));
        }
        let buses: Vec<DiskBus> = plan.disks.iter().map(|disk| disk.bus).collect();
        let mut done = Vec::new();
        for (name, bus) in [
            ("viostor", DiskBus::VirtioBlk),
            ("vioscsi", DiskBus::VirtioScsi),
        ] {
            if buses.contains(&bus) {
                done.push(format!(
                    "Windows: the driver {name} of the VM's disks starts with the boot loader ({PROGRAM}, drivers \
                     from {})",
                    self.drivers.display()
                ));
            }
        }
        done.push(format!(
            "Windows: in Windows\\Drivers\\VirtIO lie drivers that it installs itself at its first start: {}",
            listed(&staged(system))
        ));
        let has_fallback = |boots: &[&DiskBoot]| {
            let esps = boots.iter().flat_map(|boot| &boot.esps);
            let mut loaders = esps.flat_map(|esp| esp.loaders.iter().flatten());
            loaders.any(|path| path.eq_ignore_ascii_case(FALLBACK))
        };
        let after: Vec<&DiskBoot> = seen.boots.iter().collect();
        if has_fallback(&after) && !has_fallback(before) {
            done.push("the ESP: Windows' loader lies at \\EFI\\BOOT\\BOOTX64.EFI, too".into());
        }
        done.push(
            "Windows: what else virt-v2v does to it (other hypervisors' tools are uninstalled and the guest agent \
             is installed at its first start, where there are such) is in virt-v2v(1)"
                .into(),
        );
        Ok(done)
    }
}

/// What is on the overlays afterwards.
struct Seen {
    system: System,
    boots: Vec<DiskBoot>,
}

impl Seen {
    fn on(disks: &[(PathBuf, PathBuf)], plan: &VmPlan, root: &RootPlace) -> Result<Self> {
        let mut layers = Vec::new();
        for ((overlay, image), planned) in disks.iter().zip(&plan.disks) {
            let sector = SectorSize::new(planned.logical_block_bytes).unwrap_or(SectorSize::B512);
            layers.push((Layered::open(overlay, image)?, sector));
        }
        let sources: Vec<_> = layers
            .iter()
            .map(|(disk, sector)| (disk.as_read(), disk.info(*sector)))
            .collect::<Vec<(_, DiskInfo)>>();
        let found = look(&sources, &Secrets::new())?;
        let system = found
            .systems
            .into_iter()
            .filter(|system| system.kind == Some(SystemKind::Windows))
            .find(|system| root.uuid.is_none() || system.root.uuid == root.uuid)
            .ok_or_else(|| {
                Error::new(
                    Kind::Unsupported,
                    format!("after {PROGRAM} no Windows is found where it was"),
                )
                .because(found.notes.join("; "))
            })?;
        let boots = layers
            .iter()
            .filter_map(|(disk, sector)| DiskBoot::look(disk.as_read(), *sector).ok())
            .collect();
        Ok(Self { system, boots })
    }
}

/// How virt-v2v calls the Windows' volume: libguestfs has the disks in their order.
fn root(plan: &VmPlan, root: &RootPlace) -> String {
    let of_disk = || {
        let [name] = &*root.disks else { return None };
        let index = plan
            .disks
            .iter()
            .position(|disk| disk.source_name == *name)?;
        let letter = ('a'..='z').nth(index)?;
        let number = root.partition.filter(|_| root.volume.is_none())?;
        Some(format!("/dev/sd{letter}{number}"))
    };
    // An error where there are several, not a question.
    of_disk().unwrap_or_else(|| "single".into())
}

fn staged(system: &System) -> Vec<&str> {
    let staged = system.staged_drivers.iter().flatten();
    staged.map(String::as_str).collect()
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        names => printable(&names.join(", ")),
    }
}

/// Runs it to its end; what it says on both its outputs goes to `said`.
fn run(mut command: Command, said: &Path) -> Result<ExitStatus> {
    let io = |e: std::io::Error| Error::io(format!("running {PROGRAM}"), e);
    let output = File::create(said).map_err(io)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(io)?)
        .stderr(output)
        .spawn()
        .map_err(io)?;
    let deadline = Instant::now().checked_add(PATIENCE);
    loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            return Ok(status);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            // Its servers and its machine end with it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(
                Error::new(Kind::Io, format!("running {PROGRAM}")).because(format!(
                    "it did not end within {} s; if this machine's KVM does not work, set \
                     LIBGUESTFS_BACKEND_SETTINGS=force_tcg",
                    PATIENCE.as_secs()
                )),
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What follows `kind` in what it said, each up to the next empty line or its next word.
fn sentences(said: &str, kind: &str) -> Vec<String> {
    let prefix = format!("{PROGRAM}: ");
    let mut found: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in said.lines() {
        let start = line.strip_prefix(&prefix);
        if let Some(words) = start.and_then(|line| line.strip_prefix(kind)) {
            found.push(words.trim().to_owned());
            is_inside = true;
            continue;
        }
        is_inside &= start.is_none() && !line.trim().is_empty() && !line.starts_with("[ ");
        if let Some(last) = found.last_mut().filter(|_| is_inside) {
            last.push(' ');
            last.push_str(line.trim());
        }
    }
    found.iter().map(|text| short(text)).collect()
}

fn last_line(said: &str) -> String {
    let line = said.lines().rev().find(|line| !line.trim().is_empty());
    short(line.unwrap_or("it said nothing"))
}

/// The Windows' own strings speak here, too.
fn short(text: &str) -> String {
    printable(&text.chars().take(LONGEST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn its_own_sentence_is_found_in_what_it_said() {
        let said = "[   0.0] Setting up the source: -i libvirtxml x.xml\n\
            virt-v2v-in-place: warning: there is no\nguest agent.\n\
            [  41.0] Converting\n\
            virt-v2v-in-place: warning: AV\n\
            virt-v2v-in-place: error: One of rhsrvany.exe or pvvxsvc.exe is missing.\n\
            One of them is required.\n\n\
            If reporting bugs, run virt-v2v-in-place with debugging enabled\n\n  virt-v2v-in-place -v -x [...]\n";
        assert_eq!(
            sentences(said, "error: "),
            ["One of rhsrvany.exe or pvvxsvc.exe is missing. One of them is required."]
        );
        assert_eq!(
            sentences(said, "warning: "),
            ["there is no guest agent.", "AV"]
        );
        assert_eq!(last_line("a\nb\n\n"), "b");
    }

    #[test]
    fn an_encrypted_windows_is_told_of_and_another_gets_drivers() {
        let machine = serde_json::json!({
            "version": 2, "name": "m", "disks": [{"name": "sda", "size_bytes": 1 << 20, "bus": "sata"}],
        });
        let machine = crate::inventory::Machine::from_json(machine.to_string().as_bytes()).unwrap();
        let source = serde_json::json!({
            "path": "/dev/sda", "size_bytes": 1 << 20, "logical_sector_bytes": 512,
            "physical_sector_bytes": 512, "model": null, "serial": null, "wwn": null,
        });
        let disk = crate::vm::VmDisk {
            file: "disk-0.qcow2".into(),
            source: serde_json::from_value(source).unwrap(),
        };
        let plan = VmPlan::with_firmware(&machine, &[disk], crate::inventory::FirmwareKind::Bios);
        let place = |filesystem: &str, encrypted: bool| RootPlace {
            disks: vec!["sda".into()],
            partition: Some(2),
            filesystem: filesystem.into(),
            encrypted,
            ..RootPlace::default()
        };
        let of = |kind: Option<SystemKind>, root: RootPlace, profile: Profile| {
            let system = System {
                kind,
                root,
                ..System::default()
            };
            let plan = plan
                .clone()
                .with_profile(profile, std::slice::from_ref(&system));
            (
                needs(&system, &plan, profile),
                self::root(&plan, &system.root),
            )
        };
        let windows = Some(SystemKind::Windows);
        let (plain, name) = of(windows, place("ntfs", false), Profile::Virtio);
        assert_eq!(plain, Some(Ok(place("ntfs", false))));
        assert_eq!(name, "/dev/sda2");
        for (kind, filesystem) in [(windows, "ntfs"), (None, "BitLocker")] {
            let (told, _) = of(kind, place(filesystem, true), Profile::Virtio);
            assert_eq!(told, Some(Err(BITLOCKER)));
        }
        for (kind, profile) in [
            (windows, Profile::Faithful),
            (windows, Profile::Auto),
            (None, Profile::Virtio),
            (Some(SystemKind::Linux), Profile::Virtio),
        ] {
            assert_eq!(of(kind, place("LUKS2", true), profile).0, None);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let find = |variable: Option<(&str, PathBuf)>| {
            let get = |name: &str| {
                let (known, value) = variable.clone()?;
                (known == name).then(|| value.into_os_string())
            };
            Tools::find_in(at("bin").as_os_str(), &at("libexec"), &get, &at("share"))
        };
        let missing = find(None).unwrap_err();
        assert!(missing.contains("package virt-v2v"), "{missing}");
        std::fs::write(at("libexec"), "").unwrap();
        let missing = find(None).unwrap_err();
        assert!(
            missing.contains("virtio-win.iso") && missing.contains("VIRTIO_WIN"),
            "{missing}"
        );
        let missing = find(Some(("VIRTIO_WIN", at("iso")))).unwrap_err();
        assert!(missing.contains("VIRTIO_WIN names"), "{missing}");
        std::fs::write(at("iso"), "").unwrap();
        let tools = find(Some(("VIRTIO_WIN_DIR", at("iso")))).unwrap();
        assert_eq!((tools.program, tools.drivers), (at("libexec"), at("iso")));
        std::fs::create_dir_all(at("bin")).unwrap();
        std::fs::write(at("bin/virt-v2v-in-place"), "").unwrap();
        std::fs::create_dir_all(at("share")).unwrap();
        let tools = find(None).unwrap();
        assert_eq!(
            (tools.program, tools.drivers),
            (at("bin/virt-v2v-in-place"), at("share"))
        );
    }

    #[test]
    fn the_other_driver_is_asked_for_only_where_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let tools = |help: &str| {
            let program = dir.path().join("program");
            std::fs::write(&program, format!("#!/bin/sh\necho '{help}'\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            Tools {
                program,
                drivers: PathBuf::new(),
            }
        };
        assert!(tools("  --block-driver <driver>").takes_block_driver());
        assert!(!tools("  --bridge <in:out>").takes_block_driver());
    }
}
