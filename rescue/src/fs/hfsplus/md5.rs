//! MD5 of one short message: volumes of HFS+ have an identifier of eight bytes, of which a UUID is made by it.
//!
//! Source: RFC 1321.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// What is hashed before the identifier: the namespace that Apple took for it.
const NAMESPACE: [u8; 16] = *b"\xb3\xe2\x0f\x39\xf2\x92\x11\xd6\x97\xa4\x00\x30\x65\x43\xec\xac";

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// Computes the MD5 of `message`, of which only the first 55 bytes count.
fn md5(message: &[u8]) -> [u8; 16] {
    let mut block = [0u8; 64];
    let len = message.len().min(55);
    block.iter_mut().zip(message.iter().take(len).chain([&0x80])).for_each(|(to, from)| *to = *from);
    let bits = (len as u64).saturating_mul(8).to_le_bytes();
    block.iter_mut().skip(56).zip(bits).for_each(|(to, from)| *to = from);
    let words: Vec<u32> = block.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();

    let start = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let [mut a, mut b, mut c, mut d] = start;
    for step in 0..64u32 {
        let (round, in_round) = (step / 16, step % 16);
        let (mixed, word) = match round {
            0 => (b & c | !b & d, in_round),
            1 => (d & b | !d & c, in_round.wrapping_mul(5).wrapping_add(1) % 16),
            2 => (b ^ c ^ d, in_round.wrapping_mul(3).wrapping_add(5) % 16),
            _ => (c ^ (b | !d), in_round.wrapping_mul(7) % 16),
        };
        let pick = |list: &[u32], at: u32| usize::try_from(at).ok().and_then(|at| list.get(at)).copied().unwrap_or(0);
        let shift = SHIFTS.iter().zip(0u32..).find(|(_, n)| *n == round).map_or(0, |(row, _)| pick(row, step % 4));
        let sum = a.wrapping_add(mixed).wrapping_add(sine(step)).wrapping_add(pick(&words, word));
        (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(shift)));
    }
    let mut out = [0; 16];
    for ((slot, from), end) in out.as_chunks_mut::<4>().0.iter_mut().zip(start).zip([a, b, c, d]) {
        *slot = from.wrapping_add(end).to_le_bytes();
    }
    out
}

/// The constant of a step: the fraction of a sine, as 32 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is below 2^32 and not negative")]
fn sine(step: u32) -> u32 {
    ((f64::from(step) + 1.0).sin().abs() * 4_294_967_296.0).floor() as u32
}

/// Returns the UUID of a volume with the identifier `id`; one that is all zero has none.
#[must_use]
pub fn uuid(id: [u8; 8]) -> Option<String> {
    let digest = md5(&[&NAMESPACE[..], &id[..]].concat());
    (id != [0; 8]).then(|| uuid::Builder::from_md5_bytes(digest).into_uuid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_their_published_values() {
        for (text, want) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        ] {
            assert_eq!(data_encoding::HEXLOWER.encode(&md5(text.as_bytes())), want, "{text}");
        }
        assert_eq!(uuid([0; 8]), None);
    }
}
