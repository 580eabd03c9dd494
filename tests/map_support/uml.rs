//! Drivers that this machine's kernel lacks: User-Mode Linux is a Linux kernel that runs as a
//! program, takes an image as its disk and this machine's files as its root, and is up in a second
//! (Debian: `user-mode-linux`, with F2FS, HFS+, JFS, ReiserFS, XFS of version 4, vfat and more).

use super::{arg, try_run};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Where Debian puts the modules of User-Mode Linux.
const MODULES: &str = "/usr/lib/uml/modules";

/// For init and all that it starts: see [`without_xstate`].
const NO_AVX: &str = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,\
                      -AVX_Fast_Unaligned_Load,-AVX2_Usable,-ERMS,-FSRM";

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
    let words = [
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
        NO_AVX,
        "quiet",
        "con=null",
        "con0=null,fd:1",
    ];
    let output = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            without_xstate();
            try_run("timeout", &words)
        });
        run.join().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(
        said.contains("UML-ENDED 0"),
        "User-Mode Linux (Debian: user-mode-linux) with {script}\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Has this thread, and all that it starts, use the old calls for floating-point registers.
///
/// User-Mode Linux 6.1 keeps 2,696 bytes of them. The kernel wants all that the processor has, which
/// is 11,008 bytes where there is AMX: "ptrace set fp regs failed, errno = 14", and init dies. When it
/// cannot read them (`PTRACE_GETREGSET`), it takes `PTRACE_GETFPREGS`, which all have
/// (arch/x86/um/os-Linux/registers.c). Those lack the upper halves of AVX's registers, so the C library
/// must not use them ([`NO_AVX`]).
fn without_xstate() {
    const SYS_PTRACE: i64 = 101;
    const PTRACE_GETREGSET: u64 = 0x4204;
    const EIO: u32 = 5;
    let reads = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        PTRACE_GETREGSET,
    )
    .unwrap();
    let rule = SeccompRule::new(vec![reads]).unwrap();
    let filter = SeccompFilter::new(
        [(SYS_PTRACE, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(EIO),
        TargetArch::x86_64,
    )
    .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
