//! Deterministic noise: what targets hold before a restore, and what test files are made of.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _, path::Path};

use crate::{At as _, Result};

/// Marsaglia's xorshift64*: a full-period generator of three shifts and a multiplication.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// Starts a sequence; the same `seed` gives the same bytes for ever.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Zero is the one state the generator never leaves.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// Returns the next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `bound`; `bound` is not zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
    }
}

/// Makes a file of `len` noise bytes: a disk that has been used for something else before.
///
/// # Errors
/// [`crate::Error::File`] when it cannot be written.
pub fn noise_file(path: &Path, len: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path).at(path)?;
    let mut left = len;
    // One buffer of odd length, started at another place each time: fast in debug builds as well, and no two
    // blocks of a disk are alike.
    let mut buffer = vec![0; (1 << 22) + 1];
    Noise::new(seed).fill(&mut buffer);
    let mut turn = 0;
    while left > 0 {
        turn = (turn + 4099) % (buffer.len() / 2);
        let part = &buffer[turn..];
        let part = &part[..usize::try_from(left).unwrap_or(usize::MAX).min(part.len())];
        file.write_all(part).at(path)?;
        left -= part.len() as u64;
    }
    file.sync_data().at(path)
}

/// Overwrites `len` bytes of a file at `offset` with noise.
///
/// # Errors
/// [`crate::Error::File`] when it cannot be written.
pub fn noise_at(path: &Path, offset: u64, len: usize, seed: u64) -> Result<()> {
    let mut bytes = vec![0; len];
    Noise::new(seed).fill(&mut bytes);
    File::options().write(true).open(path).and_then(|file| file.write_all_at(&bytes, offset)).at(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_each_time_and_has_no_zero_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("1"), dir.path().join("2"));
        let len = 9 * 1024 * 1024 + 17;
        noise_file(&one, len, 7).unwrap();
        noise_file(&other, len, 7).unwrap();
        let bytes = std::fs::read(&one).unwrap();
        assert_eq!(bytes.len() as u64, len);
        assert_eq!(bytes, std::fs::read(&other).unwrap());
        let mut blocks: Vec<&[u8]> = bytes.chunks_exact(4096).collect();
        assert!(blocks.iter().all(|block| block.iter().any(|b| *b != 0)));
        let count = blocks.len();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), count, "blocks repeat");
    }
}
