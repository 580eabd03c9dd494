//! What the text of a volume group says, as far as it decides where bytes lie (`import_vsn1.c` and
//! the segment types' `*_text_import` of LVM2).

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

use super::text::{Section, Value, parse};

/// LVM counts in sectors of 512 bytes, whatever the disk's are.
const SECTOR: u64 = 512;
/// A volume group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub name: String,
    /// 32 letters with hyphens.
    pub id: String,
    pub seqno: u64,
    /// Bytes.
    pub extent_size: u64,
    /// What keeps the whole group from being read.
    pub unsupported: Option<String>,
    pub physical: Vec<Physical>,
    pub logical: Vec<Logical>,
}

/// A physical volume.
#[derive(Debug, Clone)]
pub(super) struct Physical {
    pub name: String,
    /// Without hyphens, as in the label.
    pub id: String,
    /// Bytes from the start of the volume to its first extent.
    pub start: u64,
    pub extents: u64,
    pub missing: bool,
}

/// A logical volume.
#[derive(Debug, Clone)]
pub(super) struct Logical {
    pub name: String,
    pub visible: bool,
    /// A status that we do not know.
    pub unknown_status: Option<String>,
    pub extents: u64,
    /// From the first extent on, without gaps.
    pub segments: Vec<Segment>,
}

/// A piece of a logical volume.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub extents: u64,
    /// `striped`, `raid5_ls`; what stands behind a `+` is in `flags`.
    pub kind: String,
    pub flags: Vec<String>,
    /// Everything it says.
    pub fields: Section,
}

impl Segment {
    /// `name, extent, name, extent` in the array `field`.
    pub(super) fn areas(&self, field: &str) -> Option<Vec<(&str, u64)>> {
        let values = self.fields.array(field)?;
        values
            .chunks(2)
            .map(|pair| match pair {
                [Value::Text(name), Value::Number(extent)] => Some((name.as_str(), *extent)),
                _ => None,
            })
            .collect()
    }

    /// The names in the array `field`, which must hold nothing else.
    pub(super) fn names(&self, field: &str) -> Option<Vec<&str>> {
        self.fields
            .array(field)?
            .iter()
            .map(|value| match value {
                Value::Text(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// A field that counts sectors, in bytes.
    pub(super) fn bytes(&self, field: &str) -> Option<u64> {
        self.fields.number(field)?.checked_mul(SECTOR)
    }
}

/// Statuses of a logical volume that do not change where its bytes lie.
const LOGICAL_STATUS: &[&str] = &[
    "READ",
    "WRITE",
    "VISIBLE",
    "FIXED_MINOR",
    "PVMOVE",
    "LOCKED",
    "NOTSYNCED",
    "REBUILD",
    "WRITEMOSTLY",
    "ACTIVATION_SKIP",
    "ERROR_WHEN_FULL",
    "CROP_METADATA",
    "NOSCAN",
    "CONVERTING",
];

/// Reads a text; an error is a clause.
pub(super) fn read(text: &[u8]) -> Result<Group, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
    let root = parse(text)?;
    if root.text("contents") != Some("Text Format Volume Group")
        || root.number("version") != Some(1)
    {
        return Err("it is of an unknown version".into());
    }
    let mut groups = root.sections();
    let (Some((name, group)), None) = (groups.next(), groups.next()) else {
        return Err("it does not hold one volume group".into());
    };
    let missing = |field: &str| format!("`{field}` is missing or senseless");
    let need = |section: &Section, field: &str| section.number(field).ok_or_else(|| missing(field));
    let extent_size = need(group, "extent_size")?
        .checked_mul(SECTOR)
        .filter(|size| *size > 0)
        .ok_or_else(|| missing("extent_size"))?;
    let mut unsupported = None;
    if group.text("format").is_some_and(|format| format != "lvm2") {
        unsupported = Some("is of an unknown format".to_owned());
    }
    for status in statuses(group)? {
        match status {
            "RESIZEABLE" | "READ" | "WRITE" | "CLUSTERED" | "SHARED" => {}
            "EXPORTED" => unsupported = Some("is exported (`vgimport` it for a map)".into()),
            "PARTIAL" => unsupported = Some("is marked as lacking a physical volume".into()),
            other => unsupported = Some(format!("has the unknown status {other}")),
        }
    }
    let mut physical = Vec::new();
    for (name, section) in group
        .section("physical_volumes")
        .into_iter()
        .flat_map(Section::sections)
    {
        let id = section.text("id").ok_or_else(|| missing("id"))?;
        physical.push(Physical {
            name: name.into(),
            id: id.replace('-', ""),
            start: need(section, "pe_start")?
                .checked_mul(SECTOR)
                .ok_or_else(|| missing("pe_start"))?,
            extents: need(section, "pe_count")?,
            missing: statuses(section)?
                .iter()
                .chain(&flags(section)?)
                .any(|status| *status == "MISSING"),
        });
    }
    let mut logical = Vec::new();
    for (name, section) in group
        .section("logical_volumes")
        .into_iter()
        .flat_map(Section::sections)
    {
        logical.push(read_logical(name, section).map_err(|why| format!("of {name}, {why}"))?);
    }
    Ok(Group {
        name: name.into(),
        id: group.text("id").ok_or_else(|| missing("id"))?.into(),
        seqno: need(group, "seqno")?,
        extent_size,
        unsupported,
        physical,
        logical,
    })
}

fn read_logical(name: &str, section: &Section) -> Result<Logical, String> {
    let status = statuses(section)?;
    let count = section
        .number("segment_count")
        .ok_or_else(|| "`segment_count` is missing".to_owned())?;
    let mut segments = Vec::new();
    let mut next = 0_u64;
    let mut found = 0_u64;
    // LVM numbers them, but writes them in their order.
    for (title, fields) in section.sections() {
        if !title.starts_with("segment") {
            continue;
        }
        let extents = fields.number("extent_count").unwrap_or(0);
        if fields.number("start_extent") != Some(next) || extents == 0 {
            return Err(format!("`{title}` leaves a gap"));
        }
        next = next.checked_add(extents).ok_or("it is too long")?;
        let kind = fields.text("type").ok_or("a segment has no type")?;
        let mut words = kind.split('+');
        segments.push(Segment {
            extents,
            kind: words.next().unwrap_or_default().into(),
            flags: words.map(str::to_owned).collect(),
            fields: fields.clone(),
        });
        found = found.saturating_add(1);
    }
    if found != count || count == 0 {
        return Err(format!("{found} segments are there instead of {count}"));
    }
    Ok(Logical {
        name: name.into(),
        visible: status.contains(&"VISIBLE"),
        unknown_status: status
            .iter()
            .find(|status| !LOGICAL_STATUS.contains(status))
            .map(|status| (*status).to_owned()),
        extents: next,
        segments,
    })
}

fn statuses(section: &Section) -> Result<Vec<&str>, String> {
    words(section, "status")
}

fn flags(section: &Section) -> Result<Vec<&str>, String> {
    words(section, "flags")
}

/// An array of strings, or one string.
fn words<'a>(section: &'a Section, field: &str) -> Result<Vec<&'a str>, String> {
    match section.get(field) {
        None => Ok(Vec::new()),
        Some(Value::Text(word)) => Ok(vec![word]),
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| match value {
                Value::Text(word) => Ok(word.as_str()),
                _ => Err(format!("`{field}` is senseless")),
            })
            .collect(),
        Some(_) => Err(format!("`{field}` is senseless")),
    }
}
