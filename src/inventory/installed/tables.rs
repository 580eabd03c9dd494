//! fstab(5) and crypttab(5): columns between blanks, where a blank in a name is `\040`.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::reading::plain;
use super::system::{CrypttabEntry, FstabEntry};

/// Lines that are told.
const MOST: usize = 1024;

/// The entries of `/etc/fstab`.
pub(super) fn fstab(text: &str) -> Vec<FstabEntry> {
    lines(text)
        .filter_map(|columns| {
            let mut columns = columns.into_iter();
            Some(FstabEntry {
                spec: columns.next()?,
                file: columns.next()?,
                fs_type: columns.next()?,
                options: options(columns.next()),
            })
        })
        .collect()
}

/// The entries of `/etc/crypttab`.
pub(super) fn crypttab(text: &str) -> Vec<CrypttabEntry> {
    lines(text)
        .filter_map(|columns| {
            let mut columns = columns.into_iter();
            Some(CrypttabEntry {
                name: columns.next()?,
                spec: columns.next()?,
                key: columns.next(),
                options: options(columns.next()),
            })
        })
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .take(MOST)
        .map(|line| {
            line.split_ascii_whitespace()
                .filter_map(|column| plain(&unescaped(column)))
                .collect()
        })
}

fn options(column: Option<String>) -> Vec<String> {
    let column = column.unwrap_or_default();
    let options = column.split(',').filter(|option| !option.is_empty());
    options.map(str::to_owned).collect()
}

/// `\040` is a blank, `\011` a tabulator, `\134` a backslash (getmntent(3)).
fn unescaped(column: &str) -> String {
    let mut text = String::new();
    let mut rest = column;
    while let Some((before, behind)) = rest.split_once('\\') {
        text.push_str(before);
        let code = behind
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                text.push(char::from(code));
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                text.push('\\');
                rest = behind;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_the_rest_is_passed_over() {
        let text = "# <file system>\nUUID=abcd / ext4 errors=remount-ro,noatime 0 1\n\n  \
                    /dev/sdb1\t/srv/my\\040files\txfs\nLABEL=x none\n\\9 /a\\\\b auto defaults\n";
        let entries = fstab(text);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].options, ["errors=remount-ro", "noatime"]);
        assert_eq!(entries[1].file, "/srv/my files");
        assert_eq!(entries[1].options, Vec::<String>::new());
        assert_eq!(entries[2].spec, "\\9");
    }

    #[test]
    fn encrypted_volumes_have_names() {
        let entries = crypttab("sda3_crypt UUID=1234 none luks,discard\nswap /dev/sda4\n");
        assert_eq!(entries[0].name, "sda3_crypt");
        assert_eq!(entries[0].options, ["luks", "discard"]);
        assert_eq!(entries[1].key, None);
    }
}
