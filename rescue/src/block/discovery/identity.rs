//! What tells one disk from another: model, serial number, world wide name, size and sectors, as sysfs says.
//!
//! Where the kernel keeps them differs by driver:
//!
//! | | model | serial | world wide name |
//! |---|---|---|---|
//! | SCSI, ATA | `device/vendor`, `device/model` | `device/vpd_pg80` | `device/wwid` |
//! | USB | the same | `vpd_pg80`, else `serial` of the USB device | `device/wwid` |
//! | NVMe | `device/model` | `device/serial` | `wwid`, `eui`, `nguid` |
//! | virtio | | `serial` | |
//! | MMC | `device/name` | `device/serial`, `device/cid` | |

use std::path::Path;

use super::{Node, attribute, raw_attribute};
use crate::{
    block::{Identity, Transport},
    bytes::Fields,
    units::SectorSize,
};

/// Reads the identity of a whole disk; `None` where sysfs has no size for it. A drive without a medium has size 0.
pub(super) fn read(node: &Node) -> Option<Identity> {
    let transport = transport(node);
    let sectors: u64 = node.attribute("size")?.parse().ok()?;
    let sector_size = sectors_of(node, "queue/logical_block_size").unwrap_or(SectorSize::B512);
    Some(Identity {
        path: node.path().display().to_string(),
        model: model(node),
        serial: serial(node, transport),
        wwn: wwn(node),
        transport,
        // Whatever the sectors of the disk, this attribute counts in units of 512 bytes.
        len: sectors.checked_mul(512)?,
        sector_size,
        physical_sector_size: sectors_of(node, "queue/physical_block_size").unwrap_or(sector_size),
    })
}

fn sectors_of(node: &Node, name: &str) -> Option<SectorSize> {
    SectorSize::new(node.attribute(name)?.parse().ok()?).ok()
}

fn model(node: &Node) -> Option<String> {
    // virtio devices have a number in the place of the vendor's name, and no model.
    let model = node.attribute("device/model").or_else(|| node.attribute("device/name"))?;
    match node.attribute("device/vendor") {
        // The kernel's name for whatever speaks ATA; the model has the vendor's own.
        Some(vendor) if vendor != "ATA" && !vendor.starts_with("0x") && !model.starts_with(&vendor) => {
            Some(format!("{vendor} {model}"))
        }
        _ => Some(model),
    }
}

fn serial(node: &Node, transport: Transport) -> Option<String> {
    node.attribute("serial")
        .or_else(|| unit_serial(&raw_attribute(&node.dir.join("device/vpd_pg80"))?))
        .or_else(|| node.attribute("device/serial"))
        .or_else(|| node.attribute("device/cid"))
        .or_else(|| (transport == Transport::Usb).then(|| usb_serial(&node.dir)).flatten())
}

/// Reads a unit serial number page.
///
/// ```text
///  0      1      2..4         4..
/// | type | 0x80 | length, BE | ASCII, padded with spaces on either side |
/// ```
///
/// Source: SCSI Primary Commands, "Unit Serial Number VPD page".
fn unit_serial(page: &[u8]) -> Option<String> {
    let page = Fields(page);
    if page.u8(1).ok()? != 0x80 {
        return None;
    }
    let text = String::from_utf8_lossy(page.slice(4, usize::from(page.u16_be(2).ok()?)).ok()?);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// Finds the serial number of the USB device that a disk hangs on, which many a bridge keeps to itself otherwise.
fn usb_serial(disk: &Path) -> Option<String> {
    let device = disk.ancestors().find(|dir| dir.join("idVendor").exists())?;
    attribute(&device.join("serial"))
}

fn wwn(node: &Node) -> Option<String> {
    node.attribute("wwid")
        .or_else(|| node.attribute("device/wwid"))
        .or_else(|| Some(format!("eui.{}", hex_digits(&node.attribute("nguid")?)?)))
        .or_else(|| Some(format!("eui.{}", hex_digits(&node.attribute("eui")?)?)))
}

/// Returns the hexadecimal digits of an identifier; `None` for one that was never set.
fn hex_digits(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
    digits.contains(|c| c != '0').then_some(digits)
}

fn transport(node: &Node) -> Transport {
    let name = node.name.as_str();
    let path = node.dir.to_string_lossy();
    let passes = |bus: &str| {
        path.split('/')
            .any(|part| part.strip_prefix(bus).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
    };
    match name {
        _ if name.starts_with("nvme") => Transport::Nvme,
        _ if name.starts_with("mmcblk") => Transport::Mmc,
        _ if name.starts_with("nbd") => Transport::Nbd,
        _ if name.starts_with("loop") => Transport::File,
        _ if name.starts_with("xvd") || path.to_ascii_lowercase().contains("/vmbus") => Transport::Virtual,
        _ if passes("usb") => Transport::Usb,
        _ if passes("virtio") => Transport::Virtio,
        _ if passes("ata") => Transport::Ata,
        _ if passes("host") || name.starts_with("sd") || name.starts_with("sr") => Transport::Scsi,
        _ => Transport::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_serial_number_is_read_and_trimmed() {
        for (name, page, want) in [
            ("padded", &b"\0\x80\0\x08  WD-42  "[..], Some("WD-42")),
            ("longer page than it says", b"\0\x80\0\x02ABCD", Some("AB")),
            ("shorter page than it says", b"\0\x80\0\x09ABCD", None),
            ("another page", b"\0\x83\0\x04ABCD", None),
            ("only spaces", b"\0\x80\0\x04    ", None),
            ("header cut", b"\0\x80\0", None),
        ] {
            assert_eq!(unit_serial(page).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn an_identifier_that_was_never_set_is_none() {
        assert_eq!(hex_digits("00 00 00 00 00 00 00 00"), None);
        assert_eq!(hex_digits("00 25 38 5A 01 02 03 04").as_deref(), Some("0025385a01020304"));
    }
}
