//! The installed system that all guests share: Debian with a stock kernel, as a tar archive.
//!
//! Installing the packages takes 40 s on a quiet machine with 2 processors and minutes on a busy
//! one, most of it dpkg and update-initramfs; so it is done once for a recipe and kept.

use super::recipe::{Drivers, ROOT_UUID};
use crate::command::{missing, run, tool};
use crate::digest::sha256_hex;
use anyhow::{Context, Result, bail};
use haulier_image::packages::{SUITE, keyring, mirror};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which parts of the system are whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flavor {
    /// As Debian installs it: initramfs-tools and systemd-networkd.
    #[default]
    Debian,
    /// As RHEL, Fedora and SUSE have it: dracut, with an initramfs for the metal only, and NetworkManager.
    Dracut,
    /// Debian's with systemd-boot, and kernels with their initramfs for the metal only on the ESP (the Boot
    /// Loader Specification's type 1).
    SystemdBoot,
    /// As Arch and Fedora have it where they want one file to be signed: systemd-boot, dracut, and unified kernel
    /// images by ukify, which name the root by its place.
    Unified,
}

impl Flavor {
    fn packages(self) -> Vec<&'static str> {
        let mut packages = PACKAGES.to_vec();
        if self == Self::Dracut {
            packages.retain(|name| !name.contains("initramfs"));
            packages.extend(["dracut", "network-manager"]);
        }
        if self.has_systemd_boot() {
            packages.push("systemd-boot");
        }
        if self == Self::Unified {
            packages.retain(|name| !name.contains("initramfs"));
            packages.extend(["dracut", "systemd-boot-efi", "systemd-ukify"]);
        }
        packages
    }

    /// Whether systemd-boot starts it instead of GRUB.
    pub const fn has_systemd_boot(self) -> bool {
        matches!(self, Self::SystemdBoot | Self::Unified)
    }

    /// What makes it what it is, run in the installed system.
    fn hook(self) -> String {
        match self {
            Self::Debian => FURTHER
                .replace("@METAL@", &METAL.join(" "))
                .replace("@VMWARE@", &VMWARE.join(" ")),
            Self::Dracut => DRACUT.into(),
            Self::SystemdBoot | Self::Unified => {
                let (how, root) = match self {
                    Self::SystemdBoot => (
                        ENTRIES.replace("@METAL@", &METAL.join(" ")),
                        format!("UUID={ROOT_UUID}"),
                    ),
                    _ => (UNIFIED.into(), "/dev/sda2".into()),
                };
                SYSTEMD_BOOT
                    .replace("@COMMAND_LINE@", &format!("root={root} ro {CONSOLE}"))
                    .replace("@HOW@", &how)
            }
        }
    }
}

/// What a small server has, and the tools from the same release that make its disks.
const PACKAGES: [&str; 22] = [
    "btrfs-progs",
    "cryptsetup-initramfs",
    "dbus",
    "e2fsprogs",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "iproute2",
    "kmod",
    // mke2fs reads tar archives through it, since 1.47.1.
    "libarchive13t64",
    "linux-image-amd64",
    "login",
    "lvm2",
    "mdadm",
    "passwd",
    "procps",
    "shim-signed",
    "systemd-sysv",
    "udev",
    "xfsprogs",
    "zstd",
];

/// What a kernel is told besides its root. Only the serial console is not what every server has: tests listen
/// there.
pub(super) const CONSOLE: &str = "console=tty0 console=ttyS0,115200n8 no_timer_check panic=30";

/// Files that no test looks at; they would be half of the system.
const LEFT_OUT: [&str; 11] = [
    "/usr/lib/modules/*/kernel/drivers/gpu/*",
    "/usr/lib/modules/*/kernel/drivers/infiniband/*",
    "/usr/lib/modules/*/kernel/drivers/media/*",
    "/usr/lib/modules/*/kernel/drivers/net/wireless/*",
    "/usr/lib/modules/*/kernel/drivers/staging/*",
    "/usr/lib/modules/*/kernel/sound/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// Root logs in without a password: these machines live for minutes, on a network of their own.
const HOOK: &str = r#"sed -i "s/^root:[^:]*:/root::/" "$1/etc/shadow""#;

/// The initramfs can open a LUKS root: cryptsetup's hook leaves its parts out where the system that
/// makes it has none.
const CRYPTSETUP: &str = r#"mkdir -p "$1/etc/initramfs-tools/conf.d" && echo "export CRYPTSETUP=y" > "$1/etc/initramfs-tools/conf.d/cryptsetup""#;

/// Further ones, as `MODULES=dep` makes them: without drivers of KVM's virtual machines, and with none but those of
/// VMware's.
const FURTHER: &str = r#"set -e
mkdir "$1/tmp/further"
further() {
    cp -a "$1/etc/initramfs-tools" "$1/tmp/$2"
    echo "MODULES=list" > "$1/tmp/$2/conf.d/modules"
    printf "%s\n" $3 > "$1/tmp/$2/modules"
    chroot "$1" sh -c "mkinitramfs -d /tmp/$2 -o /tmp/further/$2 \$(ls /usr/lib/modules)"
    rm -r "$1/tmp/$2"
}
further "$1" without-virtio "@METAL@"
further "$1" vmware "@VMWARE@""#;

/// The same by dracut, in place of the one that the packages made.
const DRACUT: &str = r#"chroot "$1" sh -c 'release=$(ls /usr/lib/modules) &&
dracut --force --no-hostonly --omit-drivers "virtio_blk virtio_scsi virtio_net" /boot/initrd.img-$release $release'"#;

/// systemd-boot and a kernel on the ESP, by the system's own tools. Only the tree of files is made: the ESP is none
/// yet, which is what the two variables are about; that something is mounted there is all that bootctl insists on.
const SYSTEMD_BOOT: &str = r#"mkdir -p "$1/boot/efi" && mount -t tmpfs tmpfs "$1/boot/efi" && { chroot "$1" sh -ec '
export SYSTEMD_RELAX_ESP_CHECKS=1 BOOT_ROOT=/boot/efi
release=$(ls /usr/lib/modules)
mkdir -p /etc/kernel
echo debian > /etc/kernel/entry-token
echo "@COMMAND_LINE@" > /etc/kernel/cmdline
@HOW@
bootctl --no-variables --esp-path=/boot/efi install
kernel-install add $release /boot/vmlinuz-$release $initramfs
find /boot/efi -type f' || { umount "$1/boot/efi"; false; }; }"#;

/// Kernel and initramfs as files.
const ENTRIES: &str = r#"echo layout=bls > /etc/kernel/install.conf
echo MODULES=list > /etc/initramfs-tools/conf.d/modules
printf "%s\n" @METAL@ > /etc/initramfs-tools/modules
update-initramfs -u -k $release
initramfs=/boot/initrd.img-$release"#;

/// Both in one program; only this first one is without drivers of virtual machines. The initramfs of the package
/// would be a second one in it.
const UNIFIED: &str = r#"printf "layout=uki\nuki_generator=ukify\ninitrd_generator=dracut\n" > /etc/kernel/install.conf
omit="omit_drivers+=\" virtio_blk virtio_scsi virtio_net \""
printf "hostonly=no\n%s\n" "$omit" > /etc/dracut.conf.d/metal.conf
trap "rm /etc/dracut.conf.d/metal.conf" EXIT
rm /boot/initrd.img-$release
initramfs="#;

/// The modules that it has.
const METAL: [&str; 7] = [
    "ahci",
    "ext4",
    "megaraid_sas",
    "mptsas",
    "nvme",
    "sd_mod",
    "ata_piix",
];

/// Those of a VM of VMware.
const VMWARE: [&str; 3] = ["ext4", "sd_mod", "vmw_pvscsi"];

/// What of the system is unpacked to be used on this machine.
const TOOLS: [&str; 9] = [
    "boot/",
    "etc/mke2fs.conf",
    "usr/bin/grub-mkimage",
    "usr/lib/grub/i386-pc/",
    "usr/lib/grub/x86_64-efi-signed/",
    "usr/lib/shim/",
    "usr/lib/x86_64-linux-gnu/",
    "usr/lib64/",
    "usr/sbin/",
];

/// The installed system.
#[derive(Debug, Clone)]
pub struct Base {
    directory: PathBuf,
}

impl Base {
    /// Takes the system from the cache, or installs it there. `say` gets a line when that will
    /// take a while.
    ///
    /// # Errors
    /// When mmdebstrap is missing or fails, or the cache cannot be written.
    pub fn get(say: &dyn Fn(&str)) -> Result<Self> {
        Self::flavored(Flavor::Debian, say)
    }

    /// The same with other parts.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn flavored(flavor: Flavor, say: &dyn Fn(&str)) -> Result<Self> {
        let cache = haulier_image::cache_dir()?.join("guests");
        let base = Self {
            directory: cache.join(&recipe(flavor)[..16]),
        };
        fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
        // Two test runs at once must not both install; the second one waits for the first.
        let lock = File::create(cache.join("lock")).context("making the guests' lock file")?;
        lock.lock().context("waiting for the guests' lock file")?;
        if !base.directory.exists() {
            say("installing a Debian server for the tests with mmdebstrap (once; about a minute)");
            let partial = tempfile::Builder::new()
                .prefix("partial-")
                .tempdir_in(&cache)
                .with_context(|| format!("making a directory in {}", cache.display()))?;
            install(flavor, &partial.path().join("base.tar"))?;
            unpack_tools(&partial.path().join("base.tar"), partial.path())?;
            fs::rename(partial.path(), &base.directory)
                .with_context(|| format!("keeping {}", base.directory.display()))?;
            // Renamed away: nothing is left to delete.
            let _ = partial.keep();
        }
        Ok(base)
    }

    /// The system as a tar archive without the two zero blocks at its end, so that another
    /// archive can simply follow.
    pub(crate) fn tar(&self) -> PathBuf {
        self.directory.join("base.tar")
    }

    /// A file of the system, among those that were unpacked.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.directory.join("tools").join(path)
    }

    /// The tree of files of the ESP, of a flavor with systemd-boot.
    pub(super) fn esp(&self) -> PathBuf {
        self.directory.join("efi")
    }

    /// The release of the installed kernel.
    pub(crate) fn kernel(&self) -> Result<String> {
        let folder = self.file("boot");
        for entry in
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
        {
            let name = entry?.file_name();
            if let Some(release) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) {
                return Ok(release.to_owned());
            }
        }
        bail!("there is no kernel in {}", folder.display())
    }

    /// Hands out the files that make a system one whose initramfs has only these drivers; with `dep`
    /// the next one has those of the machine that it is made in. `late` comes behind it,
    /// and its files in place of those of the same name.
    pub(crate) fn further(
        &self,
        release: &str,
        drivers: Drivers,
        dep: bool,
        late: Vec<u8>,
        mut file: impl FnMut(&str, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (name, modules) = match drivers {
            Drivers::Vmware => ("vmware", &VMWARE[..]),
            Drivers::All | Drivers::Metal => ("without-virtio", &METAL[..]),
        };
        let mut initramfs = padded(&self.directory.join("further").join(name))?;
        initramfs.extend(late);
        file(&format!("boot/initrd.img-{release}"), &initramfs)?;
        if dep {
            let path = "etc/initramfs-tools/conf.d/driver-policy";
            return file(path, b"MODULES=dep\n");
        }
        file("etc/initramfs-tools/conf.d/modules", b"MODULES=list\n")?;
        let modules = modules.join("\n") + "\n";
        file("etc/initramfs-tools/modules", modules.as_bytes())
    }

    /// The initramfs that the packages made, so that another archive can follow.
    pub(super) fn initramfs(&self, release: &str) -> Result<Vec<u8>> {
        padded(&self.file(&format!("boot/initrd.img-{release}")))
    }

    /// A program of the system, run through its own loader and libraries: this machine's release
    /// may be older.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.file("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(self.file("usr/lib/x86_64-linux-gnu"))
            .arg(self.file(program))
            .env("LC_ALL", "C")
            .env("MKE2FS_CONFIG", self.file("etc/mke2fs.conf"));
        command
    }
}

/// An initramfs up to where the kernel looks for the next archive.
fn padded(path: &Path) -> Result<Vec<u8>> {
    let mut initramfs = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    initramfs.resize(initramfs.len().next_multiple_of(4), 0);
    Ok(initramfs)
}

/// Changes when the installed system would be another one.
fn recipe(flavor: Flavor) -> String {
    let packages = flavor.packages();
    let hook = flavor.hook();
    let parts = [
        &[SUITE, HOOK, CRYPTSETUP, &hook][..],
        &packages[..],
        &LEFT_OUT[..],
        &TOOLS[..],
    ];
    sha256_hex(parts.concat().join("\n").as_bytes())
}

fn install(flavor: Flavor, tar: &Path) -> Result<()> {
    let source = format!(
        "deb [signed-by={}] {} {SUITE} main",
        keyring()?.display(),
        mirror()?
    );
    let mut command = tool("mmdebstrap");
    let folder = tar.parent().unwrap_or(Path::new(".")).display();
    if flavor.packages().contains(&"initramfs-tools") {
        command.arg(format!("--essential-hook={CRYPTSETUP}"));
    }
    command.arg(format!("--customize-hook={}", flavor.hook()));
    let (made, then) = match flavor {
        Flavor::Debian => ("/tmp/further", "rm -r \"$1/tmp/further\""),
        Flavor::Dracut => ("", ""),
        Flavor::SystemdBoot | Flavor::Unified => ("/boot/efi", "umount \"$1/boot/efi\""),
    };
    if !made.is_empty() {
        command
            .arg(format!("--customize-hook=copy-out {made} {folder}"))
            .arg(format!("--customize-hook={then}"));
    }
    command
        .arg(format!("--customize-hook={HOOK}"))
        .args(["--quiet", "--variant=minbase", "--architectures=amd64"])
        .arg(format!("--include={}", flavor.packages().join(",")))
        .args(["--aptopt=Acquire::Languages \"none\""])
        .args(["--aptopt=Acquire::Retries \"3\""])
        .args(["--dpkgopt=force-unsafe-io"])
        .args(LEFT_OUT.map(|pattern| format!("--dpkgopt=path-exclude={pattern}")))
        .arg(SUITE)
        .arg(tar)
        .arg(&source);
    run(&mut command).context("installing Debian with mmdebstrap")?;
    Ok(())
}

/// Unpacks [`TOOLS`] beside the archive, and cuts off the zero blocks at the archive's end.
fn unpack_tools(tar: &Path, directory: &Path) -> Result<()> {
    let doing = || format!("unpacking the tools of {}", tar.display());
    let to = directory.join("tools");
    fs::create_dir(&to).with_context(doing)?;
    let mut archive = tar::Archive::new(File::open(tar).with_context(doing)?);
    archive.set_preserve_permissions(true);
    let mut end = 0;
    for entry in archive.entries().with_context(doing)? {
        let mut entry = entry.with_context(doing)?;
        end = entry.raw_file_position() + entry.size().next_multiple_of(512);
        let path = entry.path().with_context(doing)?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
        let wanted = TOOLS.iter().any(|tool| path.starts_with(tool));
        if wanted && (entry.header().entry_type().is_file() || is_link(&entry)) {
            let to = to.join(path);
            fs::create_dir_all(to.parent().unwrap_or(directory)).with_context(doing)?;
            entry.unpack(&to).with_context(doing)?;
        }
    }
    let loader = to.join("usr/lib64/ld-linux-x86-64.so.2");
    if !loader.exists() {
        bail!("{}: there is no {}", doing(), loader.display());
    }
    let file = File::options().write(true).open(tar).with_context(doing)?;
    file.set_len(end).with_context(doing)
}

fn is_link(entry: &tar::Entry<'_, File>) -> bool {
    entry.header().entry_type().is_symlink()
}

/// Starts `program` with `input` as its standard input, fed by `feed`.
pub(crate) fn run_fed(
    command: &mut Command,
    feed: impl FnOnce(&mut std::process::ChildStdin) -> std::io::Result<()>,
) -> Result<()> {
    use std::process::Stdio;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| missing(command))?;
    let mut stdin = child.stdin.take().context("the pipe to the program")?;
    let fed = feed(&mut stdin);
    drop(stdin);
    let output = child.wait_with_output().context("waiting for a program")?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            crate::command::shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fed.with_context(|| format!("feeding {}", crate::command::shown(command)))
}
