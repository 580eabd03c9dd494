//! Network cards keep their names: a systemd.link(5) file for each. udev takes the first file that matches a
//! card and no other, so what the system's own file for the card sets (`MTUBytes=`, `WakeOnLan=`) goes into
//! ours.

use super::guest::{Guest, NewFile};
use super::wanted::Link;
use crate::error::Result;
use crate::vm::printable;
use std::collections::BTreeMap;

/// Where such files are; of two with one name the first counts.
const FOLDERS: [&str; 4] = [
    "/etc/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
    "/lib/systemd/network",
];
/// What is not taken over: ours gives the name. Alternative names by the place are those of the VM's places,
/// one of which may be what another card is called.
const NAMES: [&str; 3] = ["Name", "NamePolicy", "AlternativeNamesPolicy"];
/// What says of nobody's wish that a file has it: the default for all cards.
const DEFAULT: &str = "99-default.link";

/// A file of the system, with its drop-ins behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LinkFile {
    name: String,
    path: String,
    text: String,
}

/// The files to be written, and a sentence for each.
pub(super) fn prepare(guest: &dyn Guest, links: &[Link]) -> Result<(Vec<NewFile>, Vec<String>)> {
    let files = system_files(guest)?;
    Ok(links.iter().map(|link| keep_name(link, &files)).unzip())
}

/// All files of the system, in udev's order.
fn system_files(guest: &dyn Guest) -> Result<Vec<LinkFile>> {
    let mut found: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    let mut drop_ins: BTreeMap<(String, String), String> = BTreeMap::new();
    for folder in FOLDERS {
        for name in guest.list(folder)? {
            let path = format!("{folder}/{name}");
            if name.ends_with(".link") {
                found.entry(name).or_insert((path, Vec::new()));
            } else if let Some(of) = name.strip_suffix(".d").filter(|of| of.ends_with(".link")) {
                for part in guest.list(&path)? {
                    if part.ends_with(".conf") {
                        let whole = format!("{path}/{part}");
                        drop_ins.entry((of.to_owned(), part)).or_insert(whole);
                    }
                }
            }
        }
    }
    for ((of, _), path) in drop_ins {
        if let Some((_, parts)) = found.get_mut(&of) {
            parts.push(path);
        }
    }
    let mut files = Vec::new();
    for (name, (path, parts)) in found {
        // One that leads to /dev/null is switched off, also where another folder has it.
        let Some(mut text) = guest.read(&path)? else {
            continue;
        };
        for part in parts {
            text += &format!("\n{}", guest.read(&part)?.unwrap_or_default());
        }
        files.push(LinkFile { name, path, text });
    }
    Ok(files)
}

/// A card that keeps its name wherever it is.
fn keep_name(link: &Link, files: &[LinkFile]) -> (NewFile, String) {
    let Link { mac, name, .. } = link;
    let own = files.iter().find(|file| matches(&file.text, link));
    let settings = own.map(|file| settings(&file.text)).unwrap_or_default();
    let digits = mac.replace(':', "");
    // Ours comes first: a file of the system that goes by a place may find another card there in the VM.
    let path = format!("/etc/systemd/network/0-haulier-{digits}.link");
    // Bonds, bridges and VLANs have the address of the card below them, but no place on a bus. udev of
    // before 2018 knows a card's type by another word, the path all have.
    let mut content = format!(
        "# Written by haulier import: this card's name on the machine that this system comes from.\n\
         [Match]\nMACAddress={mac}\nPath=*pci-*\n\n[Link]\nName={name}\n"
    );
    let mut said = format!("{path}: the network card {mac} keeps its name {name}");
    if let Some(own) = own.filter(|_| !settings.is_empty()) {
        content += &format!("# As in {}:\n", printable(&own.path));
        for (key, value) in &settings {
            content += &format!("{key}={value}\n");
        }
        if own.name != DEFAULT {
            let keys: Vec<String> = settings.iter().map(|(key, _)| printable(key)).collect();
            let own = printable(&own.path);
            said += &format!(", and has what {own} sets: {}", keys.join(", "));
        }
    }
    (NewFile { path, content }, said)
}

/// `(section, key, value)` in the file's order; a line that ends in a backslash goes on.
fn assignments(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            let part = |text: &str| text.trim().to_owned();
            found.push((section.clone(), part(key), part(value)));
        }
    }
    found
}

/// What a file sets, without names.
fn settings(text: &str) -> Vec<(String, String)> {
    assignments(text)
        .into_iter()
        .filter(|(section, key, _)| section == "Link" && !NAMES.contains(&key.as_str()))
        .map(|(_, key, value)| (key, value))
        .collect()
}

/// Whether udev took this file for the card on its machine.
fn matches(text: &str, link: &Link) -> bool {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (section, key, value) in assignments(text) {
        if section != "Match" {
            continue;
        }
        let values = wanted.entry(key).or_default();
        if value.is_empty() {
            values.clear();
        }
        values.extend(value.split_whitespace().map(str::to_owned));
    }
    let by_pattern = |values: &[String], own: Option<&str>| {
        let Some(own) = own else { return false };
        // With `!` in front of the first the list says which are not meant.
        match values.first().and_then(|first| first.strip_prefix('!')) {
            Some(first) => !fits(first, own) && !values.iter().skip(1).any(|v| fits(v, own)),
            None => values.iter().any(|value| fits(value, own)),
        }
    };
    let place = link.pci_address.as_ref().map(|at| format!("pci-{at}"));
    let wanted = wanted.iter().filter(|(_, values)| !values.is_empty());
    wanted.into_iter().all(|(key, values)| match key.as_str() {
        "MACAddress" | "PermanentMACAddress" => values
            .iter()
            .any(|value| digits(value) == digits(&link.mac)),
        "Path" => by_pattern(values, place.as_deref()),
        "Driver" => by_pattern(values, link.driver.as_deref()),
        "Type" => by_pattern(values, Some("ether")),
        // By this name the kernel finds a card.
        "OriginalName" => by_pattern(values, Some("eth0")),
        // A file that asks for something else is not known to be the card's.
        _ => false,
    })
}

/// An address without what stands between its digits.
fn digits(address: &str) -> String {
    let digits = address.chars().filter(char::is_ascii_hexdigit);
    digits.collect::<String>().to_ascii_lowercase()
}

/// Whether a pattern of the shell with `*` and `?` fits the whole text.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // Whether what was read of the pattern fits the first n characters, for each n.
    let mut so_far = vec![false; text.len().saturating_add(1)];
    if let Some(first) = so_far.first_mut() {
        *first = true;
    }
    for wanted in pattern {
        let mut next = vec![false; so_far.len()];
        for (n, place) in next.iter_mut().enumerate() {
            let before = n.checked_sub(1);
            let had = |n: Option<usize>| n.is_some_and(|n| so_far.get(n) == Some(&true));
            *place = match wanted {
                '*' => so_far.iter().take(n.saturating_add(1)).any(|fit| *fit),
                '?' => had(before),
                c => had(before) && before.and_then(|n| text.get(n)) == Some(&c),
            };
        }
        so_far = next;
    }
    so_far.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::super::guest::fake::Fake;
    use super::*;

    const MAC: &str = "52:54:00:00:00:01";
    const DEFAULT_FILE: (&str, &str) = (
        "/usr/lib/systemd/network/99-default.link",
        "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep kernel\nAlternativeNamesPolicy=path\nMACAddressPolicy=persistent\n",
    );

    fn link() -> Link {
        Link {
            mac: MAC.into(),
            name: "enp24s0".into(),
            pci_address: Some("0000:18:00.0".into()),
            driver: Some("e1000e".into()),
        }
    }

    /// What is written for the card where the system has these files.
    fn written(files: &[(&str, &str)]) -> (NewFile, String) {
        let guest = Fake::new(&[&[DEFAULT_FILE], files].concat());
        let (files, said) = prepare(&guest, &[link()]).unwrap();
        (files[0].clone(), said[0].clone())
    }

    #[test]
    fn without_a_file_of_its_own_a_card_gets_its_name_and_what_all_cards_get() {
        let (file, said) = written(&[]);
        assert_eq!(
            file.path,
            "/etc/systemd/network/0-haulier-525400000001.link"
        );
        let link = "[Link]\nName=enp24s0\n# As in /usr/lib/systemd/network/99-default.link:\n\
                    MACAddressPolicy=persistent\n";
        assert!(file.content.ends_with(link), "{}", file.content);
        assert!(said.ends_with("keeps its name enp24s0"), "{said}");
    }

    #[test]
    fn what_the_first_matching_file_sets_is_taken_over() {
        let (file, said) = written(&[
            (
                "/etc/systemd/network/20-other.link",
                "[Match]\nMACAddress=52:54:00:00:00:02\n[Link]\nMTUBytes=1400\n",
            ),
            (
                "/etc/systemd/network/30-lan.link",
                "[Match]\nPath=pci-0000:18:00.0\n[Link]\nName=x\n# no\nMTUBytes=9000\nWakeOnLan=\\\n magic\n",
            ),
            (
                "/etc/systemd/network/30-lan.link.d/a.conf",
                "[Link]\nGenericReceiveOffload=false\n",
            ),
            (
                "/etc/systemd/network/40-lan.link",
                "[Match]\nDriver=e1000*\n[Link]\nMTUBytes=1300\n",
            ),
        ]);
        let settings = "MTUBytes=9000\nWakeOnLan=magic\nGenericReceiveOffload=false\n";
        assert!(file.content.ends_with(settings), "{}", file.content);
        assert!(!file.content.contains("Name=x"));
        assert!(
            said.ends_with("30-lan.link sets: MTUBytes, WakeOnLan, GenericReceiveOffload"),
            "{said}"
        );
    }

    #[test]
    fn conditions_are_those_of_udev() {
        for (condition, is_its) in [
            ("", true),
            ("MACAddress=52:54:00:00:00:02 525400000001", true),
            ("MACAddress=52:54:00:00:00:02", false),
            (
                "MACAddress=52:54:00:00:00:02\nMACAddress=\nDriver=e1000e",
                true,
            ),
            ("Path=pci-0000:18:00.?", true),
            ("Path=!pci-0000:18:*", false),
            ("Path=!pci-0000:19:* pci-0000:1a:*", true),
            ("Driver=igb e1000?", true),
            ("Type=wlan", false),
            ("OriginalName=*", true),
            ("KernelVersion=>6", false),
        ] {
            let text = format!("[Match]\n{condition}\n[Link]\n");
            assert_eq!(matches(&text, &link()), is_its, "{condition}");
        }
    }

    #[test]
    fn a_file_in_etc_hides_one_of_its_name() {
        let (file, _) = written(&[(
            "/etc/systemd/network/99-default.link",
            "[Match]\nOriginalName=*\n[Link]\nWakeOnLan=magic\n",
        )]);
        assert!(
            file.content.ends_with("WakeOnLan=magic\n"),
            "{}",
            file.content
        );
        assert!(!file.content.contains("MACAddressPolicy"));
    }
}
