//! When is everything there? Nobody tells: a RAID controller takes its time, a disk spins up, a USB
//! stick takes a second or three. So: wait until the stick is found and nothing new comes.

use crate::console::Console;
use crate::modules::Loader;
use haulier::device::sysfs::attribute;
use haulier::stick;
use haulier::stick::cmdline::Cmdline;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// With the stick found, nothing new for so long is enough.
const QUIET: Duration = Duration::from_secs(2);
/// Without it, USB gets more.
const QUIET_WITHOUT_STICK: Duration = Duration::from_secs(10);
/// Whatever is missing then, `haulier` starts and says so.
const CEILING: Duration = Duration::from_secs(30);

/// When the last device came.
#[derive(Debug)]
pub(crate) struct News(Mutex<(Instant, u64)>);

impl Default for News {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), 1)))
    }
}

impl News {
    /// A device came.
    pub(crate) fn arrived(&self) {
        let mut news = self.0.lock().unwrap_or_else(|e| e.into_inner());
        *news = (Instant::now(), news.1.wrapping_add(1));
    }

    fn last(&self) -> (Instant, u64) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What is known at a moment.
#[derive(Debug, Clone, Copy)]
struct Situation {
    since_start: Duration,
    since_news: Duration,
    loading: bool,
    stick_found: bool,
    disks_spinning_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Wait,
    Ready,
    /// The ceiling is reached.
    Enough,
}

fn judge(now: Situation) -> Verdict {
    let quiet = if now.stick_found {
        QUIET
    } else {
        QUIET_WITHOUT_STICK
    };
    if !now.loading && !now.disks_spinning_up && now.since_news >= quiet {
        Verdict::Ready
    } else if now.since_start >= CEILING {
        Verdict::Enough
    } else {
        Verdict::Wait
    }
}

/// Returns when it makes sense to start.
pub(crate) fn wait(cmdline: &Cmdline, loader: &Loader, news: &News, console: &Console) {
    let start = Instant::now();
    // A kernel started by hand, without a stick: there is none to wait for.
    let mut stick_found = !cmdline.has("haulier.boot");
    let mut looked_at = 0;
    loop {
        let (last, count) = news.last();
        if !stick_found && count != looked_at {
            looked_at = count;
            stick_found = stick::is_present();
        }
        let late = disks_without_node(Path::new("/sys/bus/scsi/devices"));
        let verdict = judge(Situation {
            since_start: start.elapsed(),
            since_news: last.elapsed(),
            loading: !loader.is_idle(),
            stick_found,
            disks_spinning_up: !late.is_empty(),
        });
        match verdict {
            Verdict::Wait => std::thread::sleep(Duration::from_millis(100)),
            Verdict::Ready => break,
            Verdict::Enough => {
                for disk in late {
                    console.say(&format!(
                        "The disk {disk} does not get ready: going on without it"
                    ));
                }
                if !loader.is_idle() {
                    console.say(&format!("Still loading: {}", loader.busy_with().join(", ")));
                }
                break;
            }
        }
    }
    if !stick_found {
        console.say("The stick has not been found yet");
    }
    console.note(&format!(
        "devices settled after {:.1} s",
        start.elapsed().as_secs_f32()
    ));
}

/// SCSI disks that answered, but are not ready to be read: they spin up.
fn disks_without_node(scsi: &Path) -> Vec<String> {
    // Peripheral device types 0x00 (disk) and 0x14 (zoned disk), SPC-4 table 141.
    let is_disk =
        |device: &Path| matches!(attribute(&device.join("type")).as_deref(), Some("0" | "20"));
    std::fs::read_dir(scsi)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|device| is_disk(device) && !device.join("block").exists())
        .map(|device| {
            let address = device.file_name().unwrap_or_default().to_string_lossy();
            match attribute(&device.join("model")) {
                Some(model) => format!("{model} (SCSI {address})"),
                None => format!("SCSI {address}"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn situation(since_start: u64, since_news: u64) -> Situation {
        Situation {
            since_start: Duration::from_secs(since_start),
            since_news: Duration::from_secs(since_news),
            loading: false,
            stick_found: true,
            disks_spinning_up: false,
        }
    }

    #[test]
    fn with_the_stick_a_short_quiet_is_enough() {
        assert_eq!(judge(situation(4, 1)), Verdict::Wait);
        assert_eq!(judge(situation(4, 2)), Verdict::Ready);
    }

    #[test]
    fn without_the_stick_it_waits_longer_but_not_for_ever() {
        let without = |since_start, since_news| {
            judge(Situation {
                stick_found: false,
                ..situation(since_start, since_news)
            })
        };
        assert_eq!(without(4, 4), Verdict::Wait);
        assert_eq!(without(12, 10), Verdict::Ready);
        assert_eq!(without(30, 1), Verdict::Enough);
    }

    #[test]
    fn a_driver_still_loading_or_a_disk_spinning_up_is_waited_for_up_to_the_ceiling() {
        for now in [situation(8, 8), situation(31, 8)] {
            let expected = if now.since_start < CEILING {
                Verdict::Wait
            } else {
                Verdict::Enough
            };
            let loading = Situation {
                loading: true,
                ..now
            };
            let spinning_up = Situation {
                disks_spinning_up: true,
                ..now
            };
            assert_eq!(judge(loading), expected);
            assert_eq!(judge(spinning_up), expected);
        }
    }

    #[test]
    fn a_disk_that_answered_but_has_no_node_is_late() {
        let dir = tempfile::tempdir().unwrap();
        for (address, kind, ready) in [
            ("0:0:0:0", "0", true),
            ("0:0:1:0", "0", false),
            ("0:0:2:0", "5", false),
        ] {
            let device = dir.path().join(address);
            fs::create_dir(&device).unwrap();
            fs::write(device.join("type"), kind).unwrap();
            fs::write(device.join("model"), "ST4000NM").unwrap();
            if ready {
                fs::create_dir(device.join("block")).unwrap();
            }
        }
        fs::create_dir(dir.path().join("host0")).unwrap();
        assert_eq!(disks_without_node(dir.path()), ["ST4000NM (SCSI 0:0:1:0)"]);
    }
}
