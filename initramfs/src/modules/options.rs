//! Module parameters: ours, then those of the kernel command line (`module.parameter=value`), which
//! therefore win; and modules that the command line forbids (`modprobe.blacklist=`).

use super::canonical;
use haulier::stick::cmdline::Cmdline;
use std::collections::HashSet;
use std::ffi::CString;

/// The SCSI layer returns from loading a host's driver only once that host's disks are known, so
/// that waiting for the drivers is waiting for the disks.
const OURS: [(&str, &str); 1] = [("scsi_mod", "scan=sync")];

/// What goes with a module when it is loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    parameters: Vec<(String, String)>,
    forbidden: HashSet<String>,
}

impl Options {
    pub(crate) fn new(cmdline: &Cmdline) -> Self {
        let ours = OURS.map(|(module, text)| (module.to_owned(), text.to_owned()));
        let theirs = cmdline.iter().filter_map(|(key, value)| {
            let (module, parameter) = key.split_once('.')?;
            let text = match value {
                // The kernel parses it as it does its own command line.
                Some(value) if value.contains(' ') => format!("{parameter}=\"{value}\""),
                Some(value) => format!("{parameter}={value}"),
                None => parameter.to_owned(),
            };
            Some((canonical(module), text))
        });
        Self {
            parameters: ours.into_iter().chain(theirs).collect(),
            forbidden: ["modprobe.blacklist", "module_blacklist"]
                .into_iter()
                .flat_map(|key| cmdline.values(key))
                .flat_map(|list| list.split(','))
                .map(canonical)
                .collect(),
        }
    }

    /// The parameter text for `finit_module`.
    pub(super) fn of(&self, module: &str) -> CString {
        let texts: Vec<_> = self
            .parameters
            .iter()
            .filter(|(name, _)| name == module)
            .map(|(_, text)| text.as_str())
            .collect();
        CString::new(texts.join(" ")).unwrap_or_default()
    }

    pub(super) fn forbids(&self, module: &str) -> bool {
        self.forbidden.contains(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_parameters_come_last_and_so_win() {
        let options = Options::new(&Cmdline::parse(
            "usb-storage.quirks=0781:5580:u scsi_mod.scan=async nvme_core.flag a.b=\"c d\"",
        ));
        assert_eq!(options.of("usb_storage").as_c_str(), c"quirks=0781:5580:u");
        assert_eq!(options.of("scsi_mod").as_c_str(), c"scan=sync scan=async");
        assert_eq!(options.of("nvme_core").as_c_str(), c"flag");
        assert_eq!(options.of("a").as_c_str(), c"b=\"c d\"");
        assert_eq!(options.of("ahci").as_c_str(), c"");
    }

    #[test]
    fn the_command_line_can_forbid_modules() {
        let options = Options::new(&Cmdline::parse("modprobe.blacklist=ast,i-915"));
        assert!(options.forbids("ast"));
        assert!(options.forbids("i_915"));
        assert!(!options.forbids("ahci"));
    }
}
