//! Switching off and restarting, with the stick written out and unmounted first.

use crate::console::Console;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};
use std::path::Path;

/// Below it lies everything that `haulier` mounts.
const OURS: &str = "/run/haulier/";

/// How it goes on after `haulier` has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    PowerOff,
    Reboot,
}

impl After {
    /// What `haulier` wrote down; `None` if nothing that makes sense.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "poweroff" => Some(Self::PowerOff),
            "reboot" => Some(Self::Reboot),
            _ => None,
        }
    }
}

/// Does it. Does not return unless the kernel refuses.
pub(crate) fn end(after: After, console: &Console) {
    rustix::fs::sync();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for folder in ours(&mounts) {
        if let Err(error) = release(&folder) {
            console.alert(&format!("{folder} could not be unmounted: {error}"));
        }
    }
    rustix::fs::sync();
    let (command, words) = match after {
        After::PowerOff => (RebootCommand::PowerOff, "switched off"),
        After::Reboot => (RebootCommand::Restart, "restarted"),
    };
    console.alert(&format!(
        "The server is {words}. The stick can be pulled out then."
    ));
    if let Err(error) = reboot(command) {
        console.alert(&format!(
            "The server could not be {words}: {error}. Everything is written; switch it off by hand."
        ));
    }
}

/// Unmounts; what is still in use becomes read-only, which writes it out just as well.
fn release(folder: &str) -> rustix::io::Result<()> {
    let folder = Path::new(folder);
    unmount(folder, UnmountFlags::empty())
        .or_else(|_| mount_remount(folder, MountFlags::RDONLY, ""))
}

/// The mount points below [`OURS`], the last mounted first (proc_pid_mounts(5)).
fn ours(mounts: &str) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let ours = points
        .filter(|point| point.starts_with(OURS))
        .map(str::to_owned);
    let mut ours: Vec<_> = ours.collect();
    ours.reverse();
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_words_are_understood() {
        assert_eq!(After::parse("poweroff\n"), Some(After::PowerOff));
        assert_eq!(After::parse(" reboot"), Some(After::Reboot));
        for text in ["", "halt", "poweroff reboot", "POWEROFF"] {
            assert_eq!(After::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_haulier_mounted_is_unmounted_in_reverse() {
        let mounts = "proc /proc proc rw 0 0\n\
                      tmpfs /run tmpfs rw 0 0\n\
                      /dev/sdb3 /run/haulier/store ext4 rw 0 0\n\
                      /dev/sdb1 /run/haulier/esp vfat ro 0 0\n";
        assert_eq!(ours(mounts), ["/run/haulier/esp", "/run/haulier/store"]);
    }
}
