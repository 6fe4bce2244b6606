//! The checksums of ext4: all are raw registers, without the final inversion the CRCs are usually published with.

use crc::{Algorithm, Crc, Table};

/// CRC-32C as the kernel's `crc32c_le`: the seed is the register's start, the register's end the result.
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&Algorithm {
    width: 32,
    poly: 0x1edc_6f41,
    init: 0,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0x58e3_fa20,
    residue: 0,
});

/// CRC-16 of group descriptors before `metadata_csum`.
static CRC16: Crc<u16> = Crc::<u16>::new(&crc::CRC_16_MODBUS);

/// CRC-32 of a journal's transactions with version 1 checksums: bits in the other direction.
static CRC32_BE: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&crc::CRC_32_MPEG_2);

/// Continues the CRC-32C register `seed` over `parts`.
#[must_use]
pub fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    // The crate takes a start in the direction of the unreflected polynomial.
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// Computes the CRC-16 of `parts`, started with all ones.
#[must_use]
pub fn crc16(parts: &[&[u8]]) -> u16 {
    let mut digest = CRC16.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// Continues the big-endian CRC-32 register `seed` over `bytes`.
#[must_use]
pub fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32_BE.digest_with_initial(seed);
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_their_published_values() {
        let text = b"123456789";
        assert_eq!(!crc32c(!0, &[text]), 0xe306_9283);
        assert_eq!(crc32c(crc32c(!0, &[b"1234"]), &[b"567", b"89"]), crc32c(!0, &[text]));
        assert_eq!(crc16(&[b"12345", b"6789"]), 0x4b37);
        assert_eq!(crc32_be(crc32_be(!0, b"1234"), b"56789"), 0x0376_e6e7);
    }
}
