//! Reading integers out of on-disk structures without a way to panic.
//!
//! Parsers receive a whole structure as bytes and pick fields at the offsets their format names. A field that
//! lies beyond the bytes is an error, not an index out of bounds.

/// A structure ended before one of its fields did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field at byte {offset:#x} of {len} bytes lies beyond a structure of {have} bytes")]
pub struct Truncated {
    /// Where the field starts in the structure.
    pub offset: usize,
    /// Bytes in the field.
    pub len: usize,
    /// Bytes in the structure.
    pub have: usize,
}

/// The bytes of one on-disk structure.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident: $int:ty, $from:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Truncated`] when the structure ends before the field.
        pub fn $name(self, offset: usize) -> Result<$int, Truncated> {
            let mut raw = [0; size_of::<$int>()];
            raw.copy_from_slice(self.slice(offset, size_of::<$int>())?);
            Ok(<$int>::$from(raw))
        }
    )*};
}

impl<'a> Fields<'a> {
    integers! {
        /// Reads the byte at `offset`.
        u8: u8, from_le_bytes;
        /// Reads a little-endian 16-bit field at `offset`.
        u16: u16, from_le_bytes;
        /// Reads a little-endian 32-bit field at `offset`.
        u32: u32, from_le_bytes;
        /// Reads a little-endian 64-bit field at `offset`.
        u64: u64, from_le_bytes;
        /// Reads a big-endian 16-bit field at `offset`.
        u16_be: u16, from_be_bytes;
        /// Reads a big-endian 32-bit field at `offset`.
        u32_be: u32, from_be_bytes;
        /// Reads a big-endian 64-bit field at `offset`.
        u64_be: u64, from_be_bytes;
    }

    /// Returns the `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`Truncated`] when the structure ends before the field.
    pub fn slice(self, offset: usize, len: usize) -> Result<&'a [u8], Truncated> {
        let end = offset.checked_add(len);
        end.and_then(|end| self.0.get(offset..end)).ok_or(Truncated { offset, len, have: self.0.len() })
    }

    /// Returns the `N` bytes at `offset`.
    ///
    /// # Errors
    /// [`Truncated`] when the structure ends before the field.
    pub fn array<const N: usize>(self, offset: usize) -> Result<[u8; N], Truncated> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(offset, N)?);
        Ok(out)
    }

    /// Tells whether the bytes at `offset` are `magic`; `false` when the structure is too short.
    #[must_use]
    pub fn has(self, offset: usize, magic: &[u8]) -> bool {
        self.slice(offset, magic.len()).is_ok_and(|found| found == magic)
    }
}

/// Bytes in JSON: standard base64 with padding, for `#[serde(with = "…")]`.
pub mod base64 {
    use std::{borrow::Cow, fmt};

    use data_encoding::BASE64;
    use serde::{Deserializer, Serializer, de};

    /// Writes bytes as a base64 string.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&BASE64.encode(bytes))
    }

    /// Reads a base64 string.
    ///
    /// # Errors
    /// The deserializer's own, and whatever is not base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
                BASE64.decode(text.as_bytes()).map_err(|e| E::custom(Cow::from(e.to_string())))
            }
        }
        input.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_end_are_errors() {
        let fields = Fields(&[1, 2, 3, 4]);
        assert_eq!(fields.u32(0), Ok(0x0403_0201));
        assert_eq!(fields.u16_be(2), Ok(0x0304));
        assert_eq!(fields.u32(1), Err(Truncated { offset: 1, len: 4, have: 4 }));
        assert_eq!(fields.u64(usize::MAX), Err(Truncated { offset: usize::MAX, len: 8, have: 4 }));
        assert!(fields.has(2, &[3, 4]));
        assert!(!fields.has(3, &[4, 5]));
    }
}
