//! The hardware clock: what it counts, and how far it is from the system's clock.

use super::sysroot::SysRoot;
use serde::{Deserialize, Serialize};

/// What a hardware clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtcBasis {
    /// UTC, as all but Windows do.
    Utc,
    /// Local time.
    Localtime,
}

/// The time zone of an installed system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeZone {
    /// Linux: its name in the IANA's database, `Europe/Berlin`. Windows: `W. Europe Standard Time`.
    pub name: Option<String>,
    /// Windows: minutes that local time was ahead of UTC when it last ran, summer time included.
    pub utc_offset_minutes: Option<i32>,
}

impl TimeZone {
    /// `None` where nothing of it is known.
    pub(super) fn known(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// Whether a text can be the name of a zone in the IANA's database (`theory.html`, "Timezone identifiers"): a path of
/// letters, digits, `_`, `+` and `-` below its folder. It goes to a shell, to XML and to the C library, which would open
/// other files.
pub(crate) fn is_zone_name(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
    };
    text.len() <= 64 && text.split('/').all(part)
}

/// What a hardware clock said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcClock {
    /// The date and time on it, RFC 3339 without a zone, because which zone is not known.
    pub reads: String,
    /// Seconds that it is ahead of the system's clock. The appliance's kernel sets its clock from the
    /// hardware clock, so there it is about 0 until somebody sets one of them.
    pub ahead_of_system_seconds: i64,
}

/// From hwclock's file: on a stick it is missing, because only the installed system knows.
pub(super) fn basis(root: &SysRoot) -> Option<RtcBasis> {
    // adjtime_config(5): the third line.
    match root.lines("/etc/adjtime")?.lines().nth(2)?.trim() {
        "UTC" => Some(RtcBasis::Utc),
        "LOCAL" => Some(RtcBasis::Localtime),
        _ => None,
    }
}

pub(super) fn read(root: &SysRoot) -> Option<RtcClock> {
    at(root, jiff::Timestamp::now())
}

fn at(root: &SysRoot, now: jiff::Timestamp) -> Option<RtcClock> {
    // Documentation/ABI/testing/sysfs-class-rtc: what it says, taken as UTC, in seconds since 1970.
    let seconds: i64 = root.text("/sys/class/rtc/rtc0/since_epoch")?.parse().ok()?;
    let reads = jiff::Timestamp::from_second(seconds).ok()?;
    Some(RtcClock {
        reads: reads.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        ahead_of_system_seconds: seconds.checked_sub(now.as_second())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_names_below_the_folder_of_zones_are_names() {
        for name in [
            "Europe/Berlin",
            "America/Argentina/Buenos_Aires",
            "Etc/GMT+2",
            "UTC",
        ] {
            assert!(is_zone_name(name), "{name}");
        }
        for text in [
            "",
            "/etc/passwd",
            "../x",
            "Europe/",
            "A;x",
            "W. Europe",
            ":x",
            "A\n",
        ] {
            assert!(!is_zone_name(text), "{text:?}");
        }
    }

    #[test]
    fn a_clock_on_local_time_is_hours_ahead() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("sys/class/rtc/rtc0");
        fs::create_dir_all(&dir).unwrap();
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let read = |text: &str| {
            fs::write(dir.join("since_epoch"), text).unwrap();
            at(&SysRoot::new(root.path()), now)
        };
        // `date -u -d @1700007200 +%FT%T`
        let clock = read("1700007200\n").unwrap();
        assert_eq!(clock.reads, "2023-11-15T00:13:20");
        assert_eq!(clock.ahead_of_system_seconds, 7200);
        for damaged in ["", "x", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(read(damaged), None, "{damaged}");
        }
    }
}
