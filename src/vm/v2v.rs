//! The domain that virt-v2v reads (`-i libvirtxml`): disks in their order, and what it asks for besides.

use super::libvirt::letters;
use super::xml::Xml;

/// A domain with these qcow2 images, by their whole paths.
pub(crate) fn xml_for_v2v(images: &[&str]) -> String {
    let mut xml = Xml::new();
    xml.open("domain", &[("type", "kvm")]);
    xml.text("name", &[], "haulier");
    xml.text("memory", &[("unit", "KiB")], "2097152");
    xml.text("vcpu", &[], "1");
    xml.open("os", &[]);
    xml.text("type", &[], "hvm");
    xml.close();
    xml.open("devices", &[]);
    for (number, image) in images.iter().enumerate() {
        xml.open("disk", &[("type", "file"), ("device", "disk")]);
        xml.empty("driver", &[("name", "qemu"), ("type", "qcow2")]);
        xml.empty("source", &[("file", image)]);
        xml.empty(
            "target",
            &[("dev", &format!("sd{}", letters(number))), ("bus", "scsi")],
        );
        xml.close();
    }
    xml.close();
    xml.close();
    xml.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_text_and_never_elements() {
        let xml = xml_for_v2v(&["/x/disk-0.changed.qcow2", "/x/a&'b<c>.qcow2"]);
        assert!(xml.contains("file=\"/x/disk-0.changed.qcow2\""), "{xml}");
        assert!(xml.contains("&lt;c&gt;"), "{xml}");
        assert!(xml.contains("dev=\"sdb\""), "{xml}");
    }

    #[test]
    fn no_disk_is_left_out_where_letters_end() {
        let names: Vec<String> = (0..28).map(|n| format!("/x/{n}.qcow2")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let xml = xml_for_v2v(&names);
        assert_eq!(xml.matches("<disk ").count(), 28, "{xml}");
        assert!(xml.contains("dev=\"sdz\""), "{xml}");
        assert!(xml.contains("dev=\"sdab\""), "{xml}");
    }
}
