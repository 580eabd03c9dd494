//! The screen and the serial line, and what PID 1 says on them.

use haulier::device::sysfs::attribute;
use haulier::stick::cmdline::Cmdline;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const SCREEN: &str = "/dev/tty1";

/// Where people look. `/dev/console` would be only the last one of the command line.
#[derive(Debug)]
pub(crate) struct Console {
    paths: Vec<PathBuf>,
    /// One for each path.
    files: Mutex<Vec<Option<File>>>,
    kernel_log: Option<File>,
    handed_over: AtomicBool,
}

impl Console {
    /// Opens those that exist: the screen, and the first serial line.
    pub(crate) fn open(cmdline: &Cmdline) -> Self {
        let screen = Path::new(SCREEN).exists().then(|| SCREEN.into());
        let paths: Vec<PathBuf> = screen.into_iter().chain(serial_line(cmdline)).collect();
        Self {
            files: Mutex::new(paths.iter().map(|path| writable(path)).collect()),
            paths,
            kernel_log: writable(Path::new("/dev/kmsg")),
            handed_over: AtomicBool::new(false),
        }
    }

    /// Their device nodes.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The serial line, if there is one.
    pub(crate) fn serial(&self) -> Option<&Path> {
        let mut paths = self.paths.iter().map(PathBuf::as_path);
        paths.find(|path| *path != Path::new(SCREEN))
    }

    /// From now on `haulier` draws on them: [`Self::say`] goes to the kernel log alone.
    pub(crate) fn hand_over(&self, handed_over: bool) {
        self.handed_over.store(handed_over, Ordering::Relaxed);
    }

    /// A line for the technician, while the consoles are ours.
    pub(crate) fn say(&self, text: &str) {
        self.note(text);
        if !self.handed_over.load(Ordering::Relaxed) {
            self.print(text);
        }
    }

    /// A line that the technician must see even across a drawn screen.
    pub(crate) fn alert(&self, text: &str) {
        self.note(text);
        self.print(text);
    }

    /// A line for the kernel log only (`dmesg`).
    pub(crate) fn note(&self, text: &str) {
        if let Some(mut log) = self.kernel_log.as_ref() {
            // Level 7: it stays in the log and does not show on the consoles a second time.
            let _ = log.write_all(format!("<7>haulier-init: {text}").as_bytes());
        }
    }

    fn print(&self, text: &str) {
        let line = format!("{text}\r\n");
        let mut files = self.files.lock().unwrap_or_else(|e| e.into_inner());
        for (path, file) in self.paths.iter().zip(files.iter_mut()) {
            let written = file.as_mut().map(|file| file.write_all(line.as_bytes()));
            // A shell that ends on it hangs up the line for all who have it open: open it anew. A
            // console that takes nothing even then is no reason to stop.
            if !matches!(written, Some(Ok(()))) {
                *file = writable(path);
                let _ = file.as_mut().map(|file| file.write_all(line.as_bytes()));
            }
        }
    }

    /// What to say when nothing else works any more.
    pub(crate) fn last_words(text: &str) {
        let cmdline = Cmdline::of_this_kernel().unwrap_or_default();
        let console = Self::open(&cmdline);
        console.alert(
            &format!(
                "\n{text}\nNothing was written to the disks of this server. Switch it off or press \
             Ctrl-Alt-Del to restart."
            )
            .replace('\n', "\r\n"),
        );
    }

    /// Keeps the kernel's messages off the consoles: they would tear the screen.
    pub(crate) fn silence_kernel() {
        // Only emergencies (Documentation/admin-guide/sysctl/kernel.rst, printk).
        let _ = std::fs::write("/proc/sys/kernel/printk", "1");
    }
}

fn writable(path: &Path) -> Option<File> {
    // Not our controlling terminal; not waiting for a carrier that a serial line never gets.
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(path)
        .ok()
}

/// The serial line that the kernel was told to use, else the first that has hardware.
fn serial_line(cmdline: &Cmdline) -> Option<PathBuf> {
    let told = cmdline
        .values("console")
        .filter_map(console_device)
        .find(|name| is_serial_line(name))
        .map(str::to_owned);
    let exists = |name: &String| Path::new("/dev").join(name).exists();
    told.filter(exists)
        .or_else(|| (0..4).map(|n| format!("ttyS{n}")).find(has_hardware))
        .map(|name| Path::new("/dev").join(name))
}

/// `ttyS0` of `ttyS0,115200n8`.
fn console_device(value: &str) -> Option<&str> {
    value.split(',').next().filter(|name| !name.is_empty())
}

/// Not the screen's `tty0` and the like.
fn is_serial_line(name: &str) -> bool {
    !name.contains('/')
        && name
            .strip_prefix("tty")
            .map_or(name.starts_with("hvc"), |rest| {
                rest.starts_with(|c: char| c.is_ascii_uppercase())
            })
}

/// The kernel makes four nodes whatever there is; type 0 is a port without a chip.
fn has_hardware(name: &String) -> bool {
    attribute(&Path::new("/sys/class/tty").join(name).join("type")).is_some_and(|kind| kind != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_line_of_the_command_line_is_told_from_the_screen() {
        for (value, serial) in [
            ("ttyS1,115200n8", true),
            ("ttyAMA0", true),
            ("hvc0", true),
            ("tty0", false),
            ("tty1", false),
            ("uart8250/io", false),
        ] {
            let name = console_device(value).unwrap();
            assert_eq!(is_serial_line(name), serial, "{value}");
        }
        assert_eq!(console_device(""), None);
    }
}
