//! What the hardware clock of the VM counts. One on local time counts that of the machine's zone; left to
//! itself a hypervisor takes its own host's.

use super::{Family, VmPlan};
use crate::inventory::{RtcBasis, System, SystemKind, is_zone_name};

/// The zone of a hardware clock on local time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zone {
    /// A name of the IANA's database: `Europe/Berlin`.
    Named(String),
    /// Minutes ahead of UTC, for systems that have names of their own for zones.
    Minutes(i32),
}

impl Zone {
    /// Of an installed system.
    pub(super) fn of(system: &System) -> Option<Self> {
        let zone = system.time_zone.as_ref()?;
        let is_windows = system.kind == Some(SystemKind::Windows);
        let name = zone.name.clone();
        match name.filter(|name| !is_windows && is_zone_name(name)) {
            Some(name) => Some(Self::Named(name)),
            None => zone
                .utc_offset_minutes
                .filter(|minutes| minutes.unsigned_abs() <= 24 * 60)
                .map(Self::Minutes),
        }
    }

    /// The variable `TZ` (POSIX.1-2017, 8.3), whose offset is what is added to local time to have UTC.
    pub(super) fn tz(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Minutes(minutes) => {
                let sign = if *minutes > 0 { "-" } else { "" };
                let (hours, minutes) = hours(*minutes);
                match minutes {
                    0 => format!("UTC{sign}{hours}"),
                    _ => format!("UTC{sign}{hours}:{minutes:02}"),
                }
            }
        }
    }

    /// For people.
    fn words(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Minutes(offset) => {
                let sign = if *offset < 0 { '-' } else { '+' };
                let (hours, minutes) = hours(*offset);
                format!("UTC{sign}{hours:02}:{minutes:02}")
            }
        }
    }
}

/// Hours and minutes without a sign.
fn hours(minutes: i32) -> (u32, u32) {
    let minutes = minutes.unsigned_abs();
    (minutes / 60, minutes % 60)
}

/// The zone that the VM's clock has to count, where it counts local time and the zone is known.
pub(super) fn zone(plan: &VmPlan) -> Option<&Zone> {
    let system = plan.system.as_ref()?;
    system
        .zone
        .as_ref()
        .filter(|_| plan.rtc == RtcBasis::Localtime)
}

/// Where the hypervisor can be told the zone: that it could not, because nobody knows it.
pub(crate) fn unknown_zone(plan: &VmPlan) -> Option<String> {
    (plan.rtc == RtcBasis::Localtime && zone(plan).is_none()).then(|| {
        "the machine's clock counts local time and its time zone is not known: the VM's counts the local time \
         of its host, so the host has to be in the machine's zone"
            .into()
    })
}

/// Where the hypervisor has no word for a zone: what its hosts have to be set to.
pub(super) fn zone_of_host(plan: &VmPlan) -> Option<String> {
    let Some(zone) = zone(plan) else {
        return unknown_zone(plan);
    };
    let when = match plan.system.as_ref().map(|system| system.family) {
        Some(Family::Windows) => " when it was captured",
        _ => "",
    };
    Some(format!(
        "the VM's clock counts the local time of its host: the host has to be in the machine's zone, {}{when}",
        zone.words()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::TimeZone;
    use std::process::Command;

    #[test]
    fn the_c_library_understands_every_offset() {
        for (minutes, tz, shown) in [
            (120, "UTC-2", "+0200"),
            (-300, "UTC5", "-0500"),
            (330, "UTC-5:30", "+0530"),
            (-210, "UTC3:30", "-0330"),
            (-30, "UTC0:30", "-0030"),
            (30, "UTC-0:30", "+0030"),
            (0, "UTC0", "+0000"),
        ] {
            assert_eq!(Zone::Minutes(minutes).tz(), tz);
            let date = Command::new("date").arg("+%z").env("TZ", tz).output();
            let said = String::from_utf8(date.unwrap().stdout).unwrap();
            assert_eq!(said.trim(), shown, "{tz}");
        }
        assert_eq!(Zone::Minutes(-210).words(), "UTC-03:30");
    }

    #[test]
    fn a_linux_has_a_name_and_a_windows_an_offset() {
        let zone = |kind, name: &str, minutes| {
            let time_zone = TimeZone {
                name: Some(name.into()),
                utc_offset_minutes: minutes,
            };
            Zone::of(&System {
                kind: Some(kind),
                time_zone: Some(time_zone),
                ..System::default()
            })
        };
        let berlin = Zone::Named("Europe/Berlin".into());
        assert_eq!(zone(SystemKind::Linux, "Europe/Berlin", None), Some(berlin));
        // Windows, too, has a zone of this name, but its others are no names of the IANA's.
        let utc = zone(SystemKind::Windows, "UTC", Some(0));
        assert_eq!(utc, Some(Zone::Minutes(0)));
        for name in ["$(id)", "/etc/passwd", "../../x", "' touch x"] {
            assert_eq!(zone(SystemKind::Linux, name, Some(i32::MIN)), None);
        }
    }
}
