//! Text in fixed fields: labels, and whatever else a format pads with zeros or spaces.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Returns the text in a field that is padded with zeros or spaces; `None` for an empty one.
#[must_use]
pub fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    trimmed(&String::from_utf8_lossy(field.get(..end)?))
}

/// Returns the text in a field of UTF-16, little endian, that ends at its first zero.
#[must_use]
pub fn utf16(field: &[u8]) -> Option<String> {
    let units = field.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
    let text = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>();
    trimmed(&text)
}

fn trimmed(text: &str) -> Option<String> {
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_no_text() {
        for (name, field, want) in [
            ("zeros", &b"root\0\0\0"[..], Some("root")),
            ("spaces", b"MY STICK   ", Some("MY STICK")),
            ("full", b"0123456789", Some("0123456789")),
            ("what stood there before", b"new\0older", Some("new")),
            ("no UTF-8", b"a\xff", Some("a\u{fffd}")),
            ("empty", b"\0\0", None),
            ("blank", b"    ", None),
            ("no field", b"", None),
        ] {
            assert_eq!(text(field).as_deref(), want, "{name}");
        }
        for (name, field, want) in [
            ("ends at zero", &b"D\0a\0\0\0x\0"[..], Some("Da")),
            ("odd length", b"D\0a\0n", Some("Da")),
            ("half of a pair", b"a\0\x00\xd8", Some("a\u{fffd}")),
            ("empty", b"\0\0", None),
        ] {
            assert_eq!(utf16(field).as_deref(), want, "{name}");
        }
    }
}
