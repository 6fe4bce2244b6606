//! A part of a disk, read as if it were all there is: how a parser sees one partition.

use super::{Error, ReadAt, check_range};
use crate::extent::Extent;

/// The bytes of one extent of another [`ReadAt`], counted from the extent's start.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    inner: &'a dyn ReadAt,
    extent: Extent,
}

impl<'a> Window<'a> {
    /// Shows `extent` of `inner`, cut to what `inner` holds.
    #[must_use]
    pub fn new(inner: &'a dyn ReadAt, extent: Extent) -> Self {
        Self { inner, extent: extent.intersect(Extent::new(extent.start, inner.len())) }
    }
}

impl ReadAt for Window<'_> {
    fn len(&self) -> u64 {
        self.extent.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        check_range("the region", self.extent.len(), offset, buf.len() as u64)?;
        self.inner.read_exact_at(buf, self.extent.start + offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        if offset >= self.len() {
            return Ok(None);
        }
        let data = self.inner.next_data(self.extent.start + offset)?.map(|data| data.intersect(self.extent));
        let data = data.filter(|data| !data.is_empty());
        Ok(data.map(|data| Extent::new(data.start - self.extent.start, data.end - self.extent.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    #[test]
    fn a_window_reads_its_extent_and_not_a_byte_more() {
        let disk = MemoryDisk::new((0..=255).cycle().take(4096).collect(), SectorSize::B512);
        let window = Window::new(&disk, Extent::new(16, 32));
        let mut buf = [0; 4];
        window.read_exact_at(&mut buf, 12).unwrap();
        assert_eq!(buf, [28, 29, 30, 31]);
        assert!(matches!(window.read_exact_at(&mut buf, 13), Err(Error::Beyond { size: 16, .. })));
        assert_eq!(Window::new(&disk, Extent::new(4000, 9000)).len(), 96);
        assert_eq!(window.next_data(3).unwrap(), Some(Extent::new(3, 16)));
    }
}
