//! The table of tightness: what a map takes against what others call used. A map that copied
//! everything would pass any proof of safety, so each row has a bound too.

use std::fmt::Write;

/// One filesystem.
pub struct Row {
    /// How it was made.
    pub variant: String,
    /// Bytes that our map takes.
    pub haulier: u64,
    /// Bytes that the filesystem's own tool calls used.
    pub own: u64,
    /// Bytes of metadata that its tool does not count as used (superblock copies, a boot sector);
    /// each caller says what they are.
    pub uncounted: u64,
    /// Bytes that partclone would copy; `None` where it refuses or there is none.
    pub partclone: Option<u64>,
}

/// Prints the rows as `docs/used-maps.md` has them and fails if one takes more than 1.01 times what
/// its filesystem calls used and its uncounted metadata.
pub fn print_and_check(filesystem: &str, own_tool: &str, rows: &[Row]) {
    assert!(!rows.is_empty(), "no row of {filesystem} was measured");
    let mut table = format!(
        "\n| {filesystem} | haulier | {own_tool} | partclone | ratio |\n| --- | ---: | ---: | ---: | ---: |\n"
    );
    for row in rows {
        let partclone = row.partclone.map_or("refuses".into(), grouped);
        let _ = writeln!(
            table,
            "| {} | {} | {} | {partclone} | {:.4} |",
            row.variant,
            grouped(row.haulier),
            grouped(row.own),
            row.haulier as f64 / (row.own + row.uncounted) as f64
        );
    }
    println!("{table}");
    for row in rows {
        check(row, own_tool);
    }
}

/// Fails if it takes more than 1.01 times what its filesystem calls used and its uncounted metadata.
pub fn check(row: &Row, own_tool: &str) {
    assert!(
        row.haulier * 100 <= (row.own + row.uncounted) * 101,
        "{} takes {} bytes, {own_tool} says {} and {} are uncounted",
        row.variant,
        row.haulier,
        row.own,
        row.uncounted
    );
}

/// `12,345,678`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
