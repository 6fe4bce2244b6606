//! Strings that came from disks, made safe to show.

use std::fmt;

/// Shows a string from a disk: control characters, bidirectional overrides and other invisible ones as `\u{…}`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let invisible = c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if invisible {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_codes_from_a_label_are_shown_and_not_obeyed() {
        assert_eq!(Escaped("a\u{1b}[2Jb\u{202e}c ü").to_string(), "a\\u{1b}[2Jb\\u{202e}c ü");
    }
}
