//! The release a kernel file says it is, from the boot header of an x86 bzImage.
//!
//! ```text
//! 0x202  "HdrS"
//! 0x20e  u16, little endian: 0x200 less than where the version text starts
//! text   "6.12.9-amd64 (user@host) #1 ...", NUL
//! ```
//!
//! Source: Linux kernel, "The Linux/x86 Boot Protocol".

/// Returns the kernel's release (`uname -r`), or `None` when `image` is no bzImage with a version text.
pub fn release(image: &[u8]) -> Option<&str> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(at).checked_add(0x200)?..)?;
    // The text ends in NUL; the release is its first word and short.
    let word = text.iter().take(256).position(|&byte| byte == b' ' || byte == 0)?;
    std::str::from_utf8(text.get(..word)?).ok().filter(|release| !release.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x1f0_u16.to_le_bytes());
        image[0x3f0..0x3f0 + text.len()].copy_from_slice(text);
        image
    }

    #[test]
    fn reads_the_release() {
        assert_eq!(release(&image(b"6.12.1 (x)\0")), Some("6.12.1"));
        assert_eq!(release(&image(b"6.12.1\0")), Some("6.12.1"));
    }

    #[test]
    fn anything_else_has_none() {
        assert_eq!(release(&image(b"")), None, "empty text");
        assert_eq!(release(&image(b"\xff\xfe \0")), None, "not text");
        assert_eq!(release(b"\x7fELF"), None, "short");
        assert_eq!(release(&vec![0; 0x400]), None, "no header");
        let mut far = image(b"6.12\0");
        far[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
        assert_eq!(release(&far), None, "text beyond the end");
    }
}
