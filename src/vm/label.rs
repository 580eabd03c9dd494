//! Names that a cloud takes.

/// The name as a label of the DNS, which Proxmox VE and Kubernetes take (RFC 1123, 2.1): at most `most`
/// lower-case letters, digits and hyphens, a letter or digit first and last.
pub(super) fn dns_label(name: &str, most: usize) -> String {
    let label: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(most)
        .collect();
    match label.trim_matches('-') {
        "" => "machine".into(),
        label => label.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_label_that_is_never_empty() {
        for (name, most, label) in [
            ("R640-7XK3P52", 63, "r640-7xk3p52"),
            ("db.example_1", 63, "db-example-1"),
            ("abc-def", 4, "abc"),
            ("...", 63, "machine"),
        ] {
            assert_eq!(dns_label(name, most), label);
        }
    }
}
