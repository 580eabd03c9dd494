//! Which devices LVM is told to look at: its devices file (lvmdevices(8)) and the filters of lvm.conf(5).
//! Both name disks of the metal, which may have other names and identifiers elsewhere.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::reading::{Reading, plain};
use super::system::{LvmDevice, LvmDevices};

/// The devices file, where lvm.conf does not name another one.
const FILE: &str = "/etc/lvm/devices/system.devices";
const CONFIGURATION: &str = "/etc/lvm/lvm.conf";
/// Entries that are told.
const MOST: usize = 256;

/// What restricts LVM on this system; `None` where nothing does.
pub(super) fn read(reading: &Reading<'_>) -> Option<LvmDevices> {
    let configuration = match reading.exists(CONFIGURATION) {
        true => settings(&reading.text(CONFIGURATION).unwrap_or_default()),
        false => Vec::new(),
    };
    // A file that lvm.conf switches off restricts nothing.
    let is_off = configuration
        .iter()
        .any(|(name, values)| name == "use_devicesfile" && values.iter().any(|value| value == "0"));
    let file = match !is_off && reading.exists(FILE) {
        true => entries(&reading.text(FILE).unwrap_or_default()),
        false => Vec::new(),
    };
    let filters = configuration
        .into_iter()
        .filter(|(name, _)| name == "filter" || name == "global_filter")
        .flat_map(|(_, values)| values)
        .filter_map(|value| plain(&value))
        .take(MOST)
        .collect();
    let found = LvmDevices {
        entries: file,
        filters,
    };
    (found != LvmDevices::default()).then_some(found)
}

/// The entries of a devices file: `IDTYPE=sys_wwid IDNAME=naa.5… DEVNAME=/dev/sda3 PVID=… PART=3`.
fn entries(text: &str) -> Vec<LvmDevice> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("IDTYPE="))
        .take(MOST)
        .map(|line| {
            let value = |key: &str| {
                let mut words = line.split_ascii_whitespace();
                let value = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
                value.and_then(plain)
            };
            LvmDevice {
                id_type: value("IDTYPE").unwrap_or_default(),
                id_name: value("IDNAME"),
                device: value("DEVNAME"),
                pv_uuid: value("PVID"),
            }
        })
        .collect()
}

/// The settings of lvm.conf by their own names, whatever section they are in: each a word, or the texts in
/// brackets.
fn settings(text: &str) -> Vec<(String, Vec<String>)> {
    let mut settings: Vec<(String, Vec<String>)> = Vec::new();
    let mut name = String::new();
    let mut letters = text.chars().peekable();
    let mut in_value = false;
    while let Some(letter) = letters.next() {
        match letter {
            '#' => while letters.next_if(|letter| *letter != '\n').is_some() {},
            '"' => {
                let mut value = String::new();
                while let Some(letter) = letters.next_if(|letter| *letter != '"') {
                    // What comes behind it stands for itself.
                    let escaped = (letter == '\\').then(|| letters.next()).flatten();
                    value.push(escaped.unwrap_or(letter));
                }
                letters.next();
                if let Some((_, values)) = settings.last_mut().filter(|_| in_value) {
                    values.push(value);
                }
            }
            '=' => {
                in_value = true;
                // `devices/filter` is another way to write it.
                let own = name.rsplit('/').next().unwrap_or_default();
                settings.push((own.to_owned(), Vec::new()));
                name.clear();
            }
            letter if letter.is_ascii_alphanumeric() || "_/-.".contains(letter) => {
                let mut word = String::from(letter);
                let is_word = |c: &char| c.is_ascii_alphanumeric() || "_/-.".contains(*c);
                while let Some(letter) = letters.next_if(is_word) {
                    word.push(letter);
                }
                match settings.last_mut() {
                    // A number ends its setting.
                    Some((_, values)) if in_value && values.is_empty() => {
                        values.push(word);
                        in_value = false;
                    }
                    _ => {
                        in_value = false;
                        name = word;
                    }
                }
            }
            _ => {}
        }
        if settings.len() > MOST.saturating_mul(4) {
            break;
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_file_is_read_as_lvm_writes_it() {
        let text = "# LVM uses devices listed in this file.\nVERSION=1.1.1\n\
            IDTYPE=sys_wwid IDNAME=naa.5002538e40a0b1c2 DEVNAME=/dev/sda3 PVID=MgW4kP7ww6FM PART=3\n\
            IDTYPE=devname IDNAME=/dev/sdb DEVNAME=. PVID=.\n";
        let found = entries(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].id_type, "sys_wwid");
        assert_eq!(found[0].id_name.as_deref(), Some("naa.5002538e40a0b1c2"));
        assert_eq!(found[0].device.as_deref(), Some("/dev/sda3"));
        assert_eq!(found[0].pv_uuid.as_deref(), Some("MgW4kP7ww6FM"));
        assert_eq!(found[1].id_type, "devname");
    }

    #[test]
    fn filters_are_read_without_comments_and_beside_other_settings() {
        let text = "devices {\n\t# filter = [ \"a|.*|\" ]\n\tuse_devicesfile = 0\n\
            \tfilter = [ \"a|^/dev/sda2$|\",\n\t\t\"r|.*|\" ] # \"x\"\n\tscan = [ \"/dev\" ]\n}\n\
            devices/global_filter=\"r|/dev/sdz|\"\nglobal { umask = 077 }\n";
        let found = settings(text);
        let of = |name: &str| -> Vec<String> {
            let found = found.iter().filter(|(known, _)| known == name);
            found.flat_map(|(_, values)| values.clone()).collect()
        };
        assert_eq!(of("filter"), ["a|^/dev/sda2$|", "r|.*|"]);
        assert_eq!(of("global_filter"), ["r|/dev/sdz|"]);
        assert_eq!(of("use_devicesfile"), ["0"]);
        assert_eq!(of("umask"), ["077"]);
        assert_eq!(of("scan"), ["/dev"]);
    }

    #[test]
    fn what_never_ends_ends() {
        for text in [
            "filter = [ \"a|",
            "=",
            "\"",
            "filter = \"\\",
            "a = = b \"c\"",
        ] {
            settings(text);
        }
        assert!(entries("IDTYPE=").len() == 1 && settings(&"a=1\n".repeat(5000)).len() < 2000);
    }
}
