//! Drivers that this machine's kernel lacks: User-Mode Linux is a Linux kernel that runs as a
//! program, takes an image as its disk and this machine's files as its root, and is up in a second
//! (Debian: `user-mode-linux`, with F2FS, HFS+, JFS, ReiserFS, XFS of version 4, vfat and more).

use super::{arg, try_run};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Where Debian puts the modules of User-Mode Linux.
const MODULES: &str = "/usr/lib/uml/modules";

/// Runs the lines of `script` as root of a machine of its own whose disk is `image`
/// (`/mnt/dev/ubda`), with an empty folder `/mnt/fs` to mount it at. The first line that fails
/// fails the test. The machine is switched off without unmounting anything that is still mounted:
/// that is how a filesystem is left dirty. `scratch` is a folder of the test's own.
pub fn run_in_uml(image: &Path, scratch: &Path, modules: &[&str], script: &str) -> String {
    let dir = tempfile::tempdir_in(scratch).unwrap();
    // modprobe wants its modules below lib/modules.
    fs::create_dir(dir.path().join("lib")).unwrap();
    symlink(MODULES, dir.path().join("lib/modules")).unwrap();
    let load: String = modules
        .iter()
        .map(|module| format!("modprobe -d {} {module}\n", arg(dir.path())))
        .collect();
    let init = dir.path().join("init");
    fs::write(
        &init,
        format!(
            "#!/bin/bash\n\
             export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C\n\
             mount -t proc proc /proc\n\
             trap 'echo \"UML-ENDED $?\"; sleep 0.2; echo o > /proc/sysrq-trigger; sleep 60' EXIT\n\
             set -e\n\
             mount -t tmpfs tmp /mnt\n\
             mkdir /mnt/dev /mnt/fs\n\
             mount -t devtmpfs dev /mnt/dev\n\
             {load}\
             {script}\n"
        ),
    )
    .unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let disk = format!("ubd0={}", arg(image));
    let init = format!("init={}", arg(&init));
    let home = format!("uml_dir={}/", arg(dir.path()));
    let output = try_run(
        "timeout",
        &[
            "-k",
            "5",
            "300",
            "linux.uml",
            "mem=192M",
            &disk,
            &init,
            &home,
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            "quiet",
            "con=null",
            "con0=null,fd:1",
        ],
    );
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(
        said.contains("UML-ENDED 0"),
        "User-Mode Linux (Debian: user-mode-linux) with {script}\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}
