//! One guest's way: made, booted on its metal, captured there, imported and booted as a VM, and what it
//! says of itself compared each time.

use anyhow::Result;
use haulier::inventory::{EfiVariable, GLOBAL, SECURITY_DATABASE};
use haulier::vm::varstore;
use haulier_testbed::command::{run, tool};
use haulier_testbed::guest::{Base, Boot, DISK_WWN, Guest, PASSPHRASE, Recipe, Root};
use haulier_testbed::guestfs::emulated;
use haulier_testbed::journey::{self, DISK_SERIAL, LOGIN, MAC};
use haulier_testbed::libvirt::Host;
use haulier_testbed::product::{Product, scratch};
use haulier_testbed::qemu::serial::Serial;
use haulier_testbed::qemu::{Bus, Drive, Firmware, Machine, Running, Screen};
use haulier_testbed::stick::{STICK_BYTES, Stick};
use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a boot may take that is tried once more; 40 s on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(200);

/// What firmware lets nobody change without a key.
const AUTHENTICATED: u32 = 0x27;
/// `gEfiSecureBootEnableDisableGuid` of edk2.
const SECURE_BOOT_ENABLE: &str = "f0a30bc7-af08-4556-99c4-001009c93a44";

/// The second card of the metal.
const SECOND_MAC: &str = "52:54:00:7a:3c:02";

/// A guest on its hardware.
#[derive(Debug, Clone)]
pub(crate) struct Metal {
    name: &'static str,
    recipe: Recipe,
    bus: Bus,
}

impl Metal {
    pub(crate) fn new(name: &'static str, recipe: Recipe, bus: Bus) -> Self {
        Self { name, recipe, bus }
    }
}

/// A VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Virtual {
    libvirt: bool,
    profile: &'static str,
}

impl Virtual {
    pub(crate) fn qemu(profile: &'static str) -> Self {
        Self {
            libvirt: false,
            profile,
        }
    }

    pub(crate) fn libvirt(profile: &'static str) -> Self {
        Self {
            libvirt: true,
            profile,
        }
    }
}

/// What a booted system says of itself: its network cards, its files, its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts(Vec<String>);

impl Facts {
    fn of(heard: &str) -> Self {
        let mut facts: Vec<String> = heard
            .lines()
            .filter_map(|line| {
                let said = ["network: ", "payload: "]
                    .iter()
                    .find_map(|key| line.find(key));
                // The kernel's word on what the firmware does.
                let enforced = line.find("Secure boot enabled");
                let host = line.find("ledger login:").or(said).or(enforced)?;
                Some(line.get(host..)?.trim().to_owned())
            })
            .collect();
        facts.sort();
        facts.dedup();
        Self(facts)
    }
}

/// A captured guest.
pub(crate) struct Scene {
    metal: Metal,
    folder: TempDir,
    product: Product,
    stick: PathBuf,
    facts: Facts,
    /// Where libvirt runs, once it is needed.
    host: OnceCell<Host>,
}

impl Scene {
    /// Makes the guest, boots it on its metal, captures it.
    pub(crate) fn new(metal: &Metal) -> Self {
        let start = Instant::now();
        let product = Product::find().unwrap();
        let folder = scratch().unwrap();
        let at = |name: &str| folder.path().join(name);
        let base = Base::flavored(metal.recipe.flavor, &|line| println!("{line}")).unwrap();
        let guest = Guest::make(&base, metal.recipe, &at("server.img")).unwrap();
        println!("made in {:.0} s", start.elapsed().as_secs_f64());

        // Written to in an overlay: what is captured is the disk as it was made.
        let start = Instant::now();
        let facts = twice(|patience| {
            let mut running = machine(metal, &guest, &folder, true).start()?;
            booted(metal, running.serial(), patience)
        });
        let addresses = facts.0.iter().filter(|fact| fact.starts_with("network: "));
        assert_eq!(addresses.count(), 2, "{facts:?}");
        assert!(
            facts
                .0
                .iter()
                .any(|fact| fact.ends_with(&guest.payload.line())),
            "{facts:?}"
        );
        for (name, address) in metal.recipe.addresses {
            let known = |fact: &String| fact.contains(name) && fact.ends_with(address);
            assert!(facts.0.iter().any(known), "{facts:?}");
        }
        println!(
            "boots on its metal in {:.0} s: {facts:?}",
            start.elapsed().as_secs_f64()
        );

        let enforced = facts.0.iter().any(|fact| fact.starts_with("Secure boot"));
        assert_eq!(enforced, metal.recipe.own_keys, "{facts:?}");
        if metal.recipe.own_keys {
            refused_by_others(metal, &guest, &folder);
        }

        let start = Instant::now();
        let stick =
            Stick::make(&product.image, &product.lock, &at("stick.img"), STICK_BYTES).unwrap();
        let mut answers = journey::UNATTENDED.to_owned();
        if metal.recipe.root == Root::Luks {
            answers += "key-files = [\"ledger.key\"]\n";
            stick.put("ledger.key", PASSPHRASE.as_bytes()).unwrap();
        }
        stick.answer(&answers).unwrap();
        let ended = journey::capture(machine(metal, &guest, &folder, false), &stick).unwrap();
        assert_eq!(ended.exit_code, 0, "{}", ended.screen);
        assert_eq!(ended.source.writes, 0);
        println!("captured in {:.0} s", start.elapsed().as_secs_f64());
        for disk in std::iter::once(&guest.path).chain(&guest.more) {
            fs::remove_file(disk).unwrap();
        }
        Self {
            metal: metal.clone(),
            stick: stick.path().to_owned(),
            product,
            folder,
            facts,
            host: OnceCell::new(),
        }
    }

    fn host(&self) -> &Host {
        self.host
            .get_or_init(|| Host::start(&self.folder.path().join("host")).unwrap())
    }

    /// Imports it, boots it, compares; returns the VM's configuration.
    pub(crate) fn travels(&self, to: &Virtual) -> String {
        let target = if to.libvirt { "libvirt" } else { "qemu" };
        let start = Instant::now();
        let out = self.folder.path().join(format!("{target}-{}", to.profile));
        let name = format!("ledger-{}", to.profile);
        let mut import = self.product.command();
        import
            .arg("import")
            .arg(&self.stick)
            .args(["--to", target, "--profile", to.profile, "--name", &name])
            .arg("--out")
            .arg(&out);
        if self.metal.recipe.root == Root::Luks {
            let key = self.folder.path().join("ledger.key");
            fs::write(&key, PASSPHRASE).unwrap();
            if self.metal.recipe.crypttab {
                // One that does not fit comes before it.
                let wrong = self.folder.path().join("wrong.key");
                fs::write(&wrong, "incorrect horse battery").unwrap();
                import.arg("--key-file").arg(&wrong);
            }
            import.arg("--key-file").arg(&key);
        }
        emulated(&mut import, self.folder.path()).unwrap();
        run(&mut if to.libvirt {
            self.host().command(&import)
        } else {
            import
        })
        .unwrap();
        println!(
            "{}",
            fs::read_to_string(out.join("changes.txt")).unwrap_or_default()
        );
        let imported = start.elapsed();

        let start = Instant::now();
        let (facts, configuration) = if to.libvirt {
            let file = out.join("domain.xml");
            run(tool("virt-xml-validate").arg(&file).arg("domain")).unwrap();
            let definition = run(self.host().virsh().args(["dumpxml", &name])).unwrap();
            let facts = twice(|patience| {
                let mut domain = self.host().boot(&name)?;
                booted(&self.metal, domain.serial(), patience)
            });
            run(self.host().virsh().args(["undefine", "--nvram", &name])).unwrap();
            (facts, definition)
        } else {
            let script = out.join("run.sh");
            let facts = twice(|patience| {
                let mut running = Running::script(&script, Screen::Hidden)?;
                booted(&self.metal, running.serial(), patience)
            });
            (facts, fs::read_to_string(&script).unwrap())
        };
        println!(
            "| {} | {:?} | {} | {target} | {} | {:.0} | {:.0} |",
            self.metal.name,
            self.metal.bus,
            to.profile,
            if facts == self.facts {
                "the same"
            } else {
                "DIFFERS"
            },
            imported.as_secs_f64(),
            start.elapsed().as_secs_f64(),
        );
        assert_eq!(facts, self.facts, "on the metal it was the second");
        fs::remove_dir_all(&out).unwrap();
        configuration
    }
}

impl Scene {
    /// Imports it for a cloud that takes no UEFI variables, one file a disk, and boots it with a firmware that
    /// knows nothing of it.
    pub(crate) fn lands_in_a_cloud(&self) {
        let start = Instant::now();
        let out = self.folder.path().join("cloud");
        let mut import = self.product.command();
        import
            .arg("import")
            .arg(&self.stick)
            .args(["--to", "openstack", "--fallback-loader", "--out"])
            .arg(&out);
        run(emulated(&mut import, self.folder.path()).unwrap()).unwrap();
        let changes = fs::read_to_string(out.join("changes.txt")).unwrap();
        println!("{changes}");
        assert!(
            changes.contains("BOOTX64.EFI: a copy of /EFI/debian/shimx64.efi"),
            "{changes}"
        );
        let imported = start.elapsed();
        let image = out.join("disk-0.qcow2");
        let info = run(Command::new("qemu-img").arg("info").arg(&image)).unwrap();
        assert!(!info.contains("backing file"), "{info}");
        run(Command::new("qemu-img").args(["check", "-q"]).arg(&image)).unwrap();

        let start = Instant::now();
        let facts = twice(|patience| {
            let mut running = Machine::new(journey::firmware_of(&self.metal.recipe))
                .network_card("virtio-net-pci", MAC)
                .network_card("virtio-net-pci", SECOND_MAC)
                .disk(Drive::qcow2(&image, Bus::Scsi, DISK_SERIAL))
                .start()?;
            booted(&self.metal, running.serial(), patience)
        });
        println!(
            "| {} | {:?} | auto | openstack's image, fresh variables | {} | {:.0} | {:.0} |",
            self.metal.name,
            self.metal.bus,
            if facts == self.facts {
                "the same"
            } else {
                "DIFFERS"
            },
            imported.as_secs_f64(),
            start.elapsed().as_secs_f64(),
        );
        assert_eq!(facts, self.facts, "on the metal it was the second");
    }
}

/// The guest's hardware; with `overlay` its disks are not written to.
fn machine(metal: &Metal, guest: &Guest, folder: &TempDir, overlay: bool) -> Machine {
    let mut machine = Machine::new(journey::firmware_of(&metal.recipe))
        .product("Dell Inc.", "PowerEdge R640", "7XK3P52")
        .network_card_in_slot("e1000e", MAC, 24)
        .network_card_in_slot("e1000e", SECOND_MAC, 25)
        .stays_after_shutdown();
    for (number, path) in std::iter::once(&guest.path).chain(&guest.more).enumerate() {
        let serial = format!("{DISK_SERIAL}{number}");
        let drive = if overlay {
            let over = path.with_extension("qcow2");
            run(Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .args([path, &over]))
            .unwrap();
            Drive::qcow2(over, metal.bus, &serial)
        } else {
            Drive::raw(path, metal.bus, &serial)
        };
        machine = machine.disk(match metal.recipe.lvm_devices {
            true => drive.wwn(DISK_WWN),
            false => drive,
        });
    }
    if metal.recipe.boot == Boot::Uefi {
        let variables = folder.path().join("metal.fd");
        fs::write(&variables, nvram(guest)).unwrap();
        machine = machine.variables(&variables);
    }
    machine
}

/// The metal's UEFI variables, as an installer left them; with keys of the owner's, Secure Boot is on.
fn nvram(guest: &Guest) -> Vec<u8> {
    let variable = |name: &str, guid: &str, attributes: u32, data: Vec<u8>| EfiVariable {
        name: name.into(),
        guid: guid.into(),
        attributes,
        data,
    };
    let mut variables = vec![
        variable("Boot0000", GLOBAL, 7, guest.recipe.load_option().unwrap()),
        variable("BootOrder", GLOBAL, 7, vec![0, 0]),
    ];
    if let Some(keys) = &guest.keys {
        let own = signature_list(&keys.certificate().unwrap());
        // Who starts the stick needs Microsoft's, too.
        let microsofts = tempfile::NamedTempFile::new().unwrap();
        Firmware::SecureBoot
            .new_variables(microsofts.path())
            .unwrap();
        let microsofts = haulier_testbed::nvram::variables(microsofts.path()).unwrap();
        let mut allowed = microsofts
            .iter()
            .filter(|(name, _)| name.starts_with("db-"));
        let (_, allowed) = allowed.next().unwrap();
        variables.extend([
            variable("PK", GLOBAL, AUTHENTICATED, own.clone()),
            variable("KEK", GLOBAL, AUTHENTICATED, own.clone()),
            variable(
                "db",
                SECURITY_DATABASE,
                AUTHENTICATED,
                [own, allowed.clone()].concat(),
            ),
            variable("SecureBootEnable", SECURE_BOOT_ENABLE, 3, vec![1]),
        ]);
    }
    varstore::build(&variables).unwrap()
}

/// `EFI_SIGNATURE_LIST` with one certificate (UEFI 2.10, 32.4.1).
fn signature_list(certificate: &[u8]) -> Vec<u8> {
    let owner = [0x4c; 16];
    let signature = u32::try_from(owner.len() + certificate.len()).unwrap();
    // EFI_CERT_X509_GUID
    let mut list = vec![
        0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0,
        0x72,
    ];
    for length in [28 + signature, 0, signature] {
        list.extend(length.to_le_bytes());
    }
    list.extend(owner);
    list.extend(certificate);
    list
}

/// Without this the row would prove nothing: a firmware with Microsoft's keys alone does not start it.
fn refused_by_others(metal: &Metal, guest: &Guest, folder: &TempDir) {
    let variables = folder.path().join("microsofts.fd");
    Firmware::SecureBoot.new_variables(&variables).unwrap();
    let mut running = machine(metal, guest, folder, true)
        .variables(&variables)
        .start()
        .unwrap();
    let serial = running.serial();
    serial.wait_for("Access Denied", PATIENCE).unwrap();
    println!("refused by a firmware without the owner's key");
}

/// A boot, and a second one where the first does not come to its end: now and then one of QEMU's emulated
/// machines stands still in the middle of its kernel's start, wherever its disk comes from.
fn twice(boot: impl Fn(Duration) -> Result<Facts>) -> Facts {
    boot(PATIENCE).unwrap_or_else(|error| {
        println!("once more, because of: {error:#}");
        boot(LOGIN).unwrap()
    })
}

/// Waits for the login prompt, with the passphrase where one is asked for.
fn booted(metal: &Metal, serial: &mut Serial, patience: Duration) -> Result<Facts> {
    if metal.recipe.root == Root::Luks {
        serial.wait_for("unlock disk", patience)?;
        serial.send(&format!("{PASSPHRASE}\n"))?;
    }
    serial.wait_for("login: ", patience)?;
    Ok(Facts::of(&serial.text()))
}
