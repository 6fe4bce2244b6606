//! Shell patterns as `modules.alias` uses them: `*`, `?`, `[a-f0-9]`, `[!x]`.

// Numbers here are positions in a slice that exists, and at most three more.
#![warn(clippy::indexing_slicing)]

/// Tells whether all of `text` matches `pattern`. Time is bounded by the product of their lengths.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    // Where to go on when a match fails: behind the last star, which then takes one byte more. Earlier stars need no
    // second look: whatever they could take, the last one can.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(at), text.get(pos)) {
            (Some(b'*'), _) => {
                retry = Some((at + 1, pos));
                at += 1;
                continue;
            }
            (None, None) => return true,
            (Some(_), Some(byte)) => one(pattern.get(at..).unwrap_or_default(), *byte),
            _ => None,
        };
        match (step, retry) {
            (Some(used), _) => {
                at += used;
                pos += 1;
            }
            (None, Some((behind_star, from))) if from < text.len() => {
                retry = Some((behind_star, from + 1));
                at = behind_star;
                pos = from + 1;
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the front of `pattern`; returns how many pattern bytes that took.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => match set(pattern, byte) {
            Some((used, found)) => found.then_some(used),
            // A bracket that is never closed stands for itself.
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (pattern.get(1) == Some(&byte)).then_some(2),
        literal => (*literal == byte).then_some(1),
    }
}

/// Reads a `[…]` at the front of `pattern`: its length and whether it holds `byte`.
fn set(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let mut at = 1;
    let inverted = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(inverted);
    let (first, mut found) = (at, false);
    loop {
        let low = *pattern.get(at)?;
        // A bracket right at the start is a member, not the end.
        if low == b']' && at > first {
            return Some((at + 1, found != inverted));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                found |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_of_real_drivers() {
        let nvme = "pci:v00008086d00005845sv00001AF4sd00001100bc01sc08i02";
        for (pattern, text, want) in [
            ("pci:v*d*sv*sd*bc01sc08i02*", nvme, true),
            ("pci:v*d*sv*sd*bc01sc06i01*", nvme, false),
            ("pci:v00008086d00005845sv*sd*bc*sc*i*", nvme, true),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", true),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0099*",
                "cpu:type:x86,ven0002fam0006mod006B:feature:,0000,0099,00F0",
                true,
            ),
            ("scsi:t-0x00*", "scsi:t-0x00", true),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a[0-9]c", "a7c", true),
            ("a[!0-9]c", "a7c", false),
            ("a[]x]c", "a]c", true),
            ("a[b", "a[b", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b*c", "xxaxxbxxbxxc", true),
            ("*a*b*c", "xxaxxbxxbxxcd", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }

    /// The definition, slow: without sets and escapes.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
            (Some((b'?', rest)), Some((_, behind))) => slow(rest, behind),
            (Some((a, rest)), Some((b, behind))) => a == b && slow(rest, behind),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn no_pattern_makes_it_panic(pattern in "[a*?\\[\\]!^\\\\-]{0,24}", text in "[a\\]\\[-]{0,24}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn text_matches_itself_and_any_prefix_with_a_star(text in "[a-z:0-9]{0,40}", cut in 0usize..40) {
            let prefix = &text[..cut.min(text.len())];
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
            let starred = format!("{prefix}*");
            prop_assert!(matches(starred.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 4000]));
    }
}
