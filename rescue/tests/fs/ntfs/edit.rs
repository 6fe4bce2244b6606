//! Changing NTFS images in ways that no tool makes them: attributes in many pieces, lies, damage.

/// An image, and where its MFT lies.
pub struct Image {
    pub bytes: Vec<u8>,
    pub cluster: usize,
    pub record: usize,
    /// The clusters of the MFT in order.
    mft: Vec<u64>,
    /// The clusters of `$Bitmap` in order.
    bitmap: Vec<u64>,
}

pub const DATA: u32 = 0x80;
pub const BITMAP: u32 = 0xb0;
const LIST: u32 = 0x20;

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// Returns the clusters of a non-resident attribute in order; holes are left out.
fn clusters(attribute: &[u8]) -> Vec<u64> {
    let (mut at, mut last, mut out) = (usize::from(attribute[32]), 0i64, Vec::new());
    while attribute[at] != 0 {
        let (len, offset) = (usize::from(attribute[at] & 15), usize::from(attribute[at] >> 4));
        let number = |bytes: &[u8]| {
            let fill = if bytes.last().is_some_and(|byte| *byte > 127) { 0xff } else { 0 };
            let mut raw = [fill; 8];
            raw[..bytes.len()].copy_from_slice(bytes);
            i64::from_le_bytes(raw)
        };
        let count = number(&attribute[at + 1..at + 1 + len]);
        if offset > 0 {
            last += number(&attribute[at + 1 + len..at + 1 + len + offset]);
            out.extend((last..last + count).map(|cluster| u64::try_from(cluster).unwrap()));
        }
        at += 1 + len + offset;
    }
    out
}

/// Encodes clusters as mapping pairs.
fn pairs(clusters: &[u64]) -> Vec<u8> {
    let (mut out, mut last) = (Vec::new(), 0i64);
    for run in clusters.chunk_by(|a, b| a + 1 == *b) {
        let start = i64::try_from(run[0]).unwrap();
        out.push(0x42);
        out.extend(u16::try_from(run.len()).unwrap().to_le_bytes());
        out.extend(i32::try_from(start - last).unwrap().to_le_bytes());
        last = start;
    }
    out.push(0);
    out
}

fn pad(mut attribute: Vec<u8>) -> Vec<u8> {
    attribute.resize(attribute.len().next_multiple_of(8), 0);
    let len = u32::try_from(attribute.len()).unwrap();
    attribute[4..8].copy_from_slice(&len.to_le_bytes());
    attribute
}

/// Returns the attributes of a record.
pub fn attributes(record: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut out) = (usize::from(record[20]), Vec::new());
    while four(record, at) != u32::MAX {
        let len = to_usize(four(record, at + 4).into());
        out.push(record[at..at + len].to_vec());
        at += len;
    }
    out
}

/// Puts other attributes into a record.
pub fn set_attributes(record: &mut [u8], attributes: &[Vec<u8>]) {
    let first = usize::from(record[20]);
    let all = [attributes.concat(), vec![0xff; 4], vec![0; 4]].concat();
    record[first..].fill(0);
    record[first..first + all.len()].copy_from_slice(&all);
    record[24..28].copy_from_slice(&u32::try_from(first + all.len()).unwrap().to_le_bytes());
}

impl Image {
    pub fn new(bytes: Vec<u8>) -> Self {
        let sector = usize::from(bytes[11]) | usize::from(bytes[12]) << 8;
        let cluster = sector * usize::from(bytes[13]);
        let record = if bytes[64] < 128 { cluster * usize::from(bytes[64]) } else { 1 << (256 - u32::from(bytes[64])) };
        let first = word(&bytes, 48);
        let mut image = Self { bytes, cluster, record, mft: (first..first + 64).collect(), bitmap: vec![] };
        image.mft = image.clusters(0, DATA);
        image.bitmap = image.clusters(6, DATA);
        image
    }

    /// Returns where record `number` lies.
    pub fn place(&self, number: u64) -> usize {
        let at = to_usize(number) * self.record;
        to_usize(self.mft[at / self.cluster]) * self.cluster + at % self.cluster
    }

    /// Returns where byte `at` of an attribute in one piece lies.
    pub fn byte(&self, number: u64, kind: u32, at: usize) -> usize {
        to_usize(clusters(&self.attribute(number, kind))[at / self.cluster]) * self.cluster + at % self.cluster
    }

    fn pieces(&self, number: u64) -> Vec<usize> {
        let step = self.record.min(self.cluster);
        let at = to_usize(number) * self.record;
        let place = |at: usize| to_usize(self.mft[at / self.cluster]) * self.cluster + at % self.cluster;
        (at..at + self.record).step_by(step).map(place).collect()
    }

    /// Returns record `number` with its update sequence put back.
    pub fn record(&self, number: u64) -> Vec<u8> {
        let step = self.record.min(self.cluster);
        let mut out: Vec<u8> =
            self.pieces(number).into_iter().flat_map(|at| self.bytes[at..at + step].to_vec()).collect();
        let array = usize::from(out[4]);
        for part in 0..out.len() / 512 {
            let (to, from) = (part * 512 + 510, array + 2 + part * 2);
            let original = [out[from], out[from + 1]];
            out[to..to + 2].copy_from_slice(&original);
        }
        out
    }

    /// Writes record `number`, and its copy in the mirror.
    pub fn put(&mut self, number: u64, mut record: Vec<u8>) {
        let array = usize::from(record[4]);
        record[array..array + 2].copy_from_slice(&[9, 0]);
        for part in 0..record.len() / 512 {
            let (from, to) = (part * 512 + 510, array + 2 + part * 2);
            let original = [record[from], record[from + 1]];
            record[to..to + 2].copy_from_slice(&original);
            record[from..from + 2].copy_from_slice(&[9, 0]);
        }
        let step = self.record.min(self.cluster);
        for (at, part) in self.pieces(number).into_iter().zip(record.chunks(step)) {
            self.bytes[at..at + step].copy_from_slice(part);
        }
        if number < 4 {
            let mirror = to_usize(word(&self.bytes, 56)) * self.cluster + to_usize(number) * self.record;
            self.bytes[mirror..mirror + record.len()].copy_from_slice(&record);
        }
    }

    /// Changes record `number`.
    pub fn edit(&mut self, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let mut record = self.record(number);
        change(&mut record);
        self.put(number, record);
    }

    /// Returns the first attribute of that type in record `number`.
    pub fn attribute(&self, number: u64, kind: u32) -> Vec<u8> {
        let found = attributes(&self.record(number)).into_iter().find(|attribute| four(attribute, 0) == kind);
        found.unwrap_or_else(|| panic!("record {number} has no attribute {kind:#x}"))
    }

    /// Returns the number of the file with `name` in the root folder.
    pub fn find(&self, name: &str) -> u64 {
        let units = name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let named = |number: &u64| {
            let at = self.place(*number);
            self.bytes[at..].starts_with(b"FILE") && self.record(*number).windows(units.len()).any(|part| part == units)
        };
        (24..(self.mft.len() * self.cluster / self.record) as u64).find(named).unwrap()
    }

    /// Returns how many records in use continue others.
    pub fn continued(&self) -> usize {
        let all = (24..(self.mft.len() * self.cluster / self.record) as u64).map(|number| self.record(number));
        all.filter(|record| record.starts_with(b"FILE") && record[22] & 1 == 1 && word(record, 32) != 0).count()
    }

    /// Returns the clusters of an attribute in one piece.
    pub fn clusters(&self, number: u64, kind: u32) -> Vec<u64> {
        clusters(&self.attribute(number, kind))
    }

    /// Puts the plain content of a file elsewhere, in as many clusters.
    pub fn set_clusters(&mut self, number: u64, clusters: &[u64]) {
        self.edit(number, |record| {
            let mut parts = attributes(record);
            let data = parts.iter_mut().find(|part| four(part, 0) == DATA).unwrap();
            data.truncate(usize::from(data[32]));
            data[24..32].copy_from_slice(&(clusters.len() as u64 - 1).to_le_bytes());
            data.extend(pairs(clusters));
            *data = pad(data.clone());
            set_attributes(record, &parts);
        });
    }

    fn bit(&self, cluster: u64) -> (usize, u8) {
        let at = to_usize(cluster / 8);
        (to_usize(self.bitmap[at / self.cluster]) * self.cluster + at % self.cluster, 1 << (cluster % 8))
    }

    /// Says in `$Bitmap` that `cluster` is in use, or that it is free.
    pub fn mark(&mut self, cluster: u64, used: bool) {
        let (at, mask) = self.bit(cluster);
        self.bytes[at] = if used { self.bytes[at] | mask } else { self.bytes[at] & !mask };
    }

    /// Says in the bitmap of the MFT that record `number` is in use.
    fn mark_record(&mut self, number: u64) {
        let at = self.byte(0, BITMAP, to_usize(number / 8));
        self.bytes[at] |= 1 << (number % 8);
    }

    /// Takes free clusters, from the end of the volume towards its start, every second one.
    fn take(&mut self, count: usize) -> Vec<u64> {
        let all = (self.bytes.len() / self.cluster) as u64 - 1;
        let free = |cluster: &u64| self.bytes[self.bit(*cluster).0] & self.bit(*cluster).1 == 0;
        let found = (0..all).rev().filter(free).step_by(2).take(count).collect::<Vec<_>>();
        assert_eq!(found.len(), count, "the volume is too full");
        found.iter().for_each(|cluster| self.mark(*cluster, true));
        found
    }

    /// Moves the clusters of an attribute behind the first `keep` to single clusters all over the volume, and spreads
    /// what says where they are over `holders`.
    ///
    /// * `outside`: the attribute list itself gets clusters of its own.
    pub fn spread(&mut self, number: u64, keep: usize, holders: &[u64], outside: bool) {
        let old = self.clusters(number, DATA);
        let mut new = old.clone();
        let fresh = self.take(old.len() - keep);
        new[keep..].copy_from_slice(&fresh);
        for (from, to) in old.iter().zip(&new) {
            let from = to_usize(*from) * self.cluster;
            self.bytes.copy_within(from..from + self.cluster, to_usize(*to) * self.cluster);
        }
        let mut record = self.record(number);
        match number {
            0 => self.mft.clone_from(&new),
            6 => self.bitmap.clone_from(&new),
            _ => {}
        }
        let sequence = u64::from(record[16]) | u64::from(record[17]) << 8;
        let base = number | sequence << 48;
        let mut parts = attributes(&record);
        let at = parts.iter().position(|attribute| four(attribute, 0) == DATA).unwrap();
        let whole = parts[at].clone();
        let piece = |first: usize, clusters: &[u64]| {
            let mut piece = whole[..64].to_vec();
            piece[16..24].copy_from_slice(&(first as u64).to_le_bytes());
            piece[24..32].copy_from_slice(&((first + clusters.len()) as u64).wrapping_sub(1).to_le_bytes());
            piece[32..34].copy_from_slice(&64u16.to_le_bytes());
            if first > 0 {
                piece[40..64].fill(0);
            }
            piece.extend(pairs(clusters));
            pad(piece)
        };
        let each = (new.len() - keep).div_ceil(holders.len().max(1));
        let cut = if holders.is_empty() { new.len() } else { keep };
        parts[at] = piece(0, &new[..cut]);
        let mut listed = parts.iter().map(|part| entry(part, base)).collect::<Vec<_>>();
        for (index, (holder, part)) in holders.iter().zip(new[cut..].chunks(each)).enumerate() {
            let piece = piece(cut + index * each, part);
            let mut other = record.clone();
            other[16..20].copy_from_slice(&[1, 0, 0, 0]);
            other[32..40].copy_from_slice(&base.to_le_bytes());
            other[44..48].copy_from_slice(&u32::try_from(*holder).unwrap().to_le_bytes());
            listed.push(entry(&piece, holder | 1 << 48));
            set_attributes(&mut other, &[piece]);
            self.put(*holder, other);
        }
        if !holders.is_empty() {
            listed.sort_by_key(|entry| (four(entry, 0), word(entry, 8)));
            let list = self.list(&listed.concat(), outside);
            let place = parts.iter().position(|attribute| four(attribute, 0) > LIST).unwrap();
            parts.insert(place, list);
        }
        set_attributes(&mut record, &parts);
        holders.iter().for_each(|holder| self.mark_record(*holder));
        old[keep..].iter().for_each(|cluster| self.mark(*cluster, false));
        self.put(number, record);
        old[keep..].iter().for_each(|cluster| {
            let at = to_usize(*cluster) * self.cluster;
            self.bytes[at..at + self.cluster].fill(0x77);
        });
    }

    fn list(&mut self, value: &[u8], outside: bool) -> Vec<u8> {
        let mut list = vec![0; if outside { 64 } else { 24 }];
        list[..4].copy_from_slice(&LIST.to_le_bytes());
        list[14] = 99;
        if !outside {
            list[16..20].copy_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            list[20] = 24;
            list.extend(value);
            return pad(list);
        }
        let taken = self.take(value.len().div_ceil(self.cluster));
        for (cluster, part) in taken.iter().zip(value.chunks(self.cluster)) {
            let at = to_usize(*cluster) * self.cluster;
            self.bytes[at..at + part.len()].copy_from_slice(part);
        }
        list[8] = 1;
        list[24..32].copy_from_slice(&(taken.len() as u64 - 1).to_le_bytes());
        list[32] = 64;
        list[40..48].copy_from_slice(&((taken.len() * self.cluster) as u64).to_le_bytes());
        for at in [48, 56] {
            list[at..at + 8].copy_from_slice(&(value.len() as u64).to_le_bytes());
        }
        list.extend(pairs(&taken));
        pad(list)
    }
}

/// Makes an entry of an attribute list for an attribute without a name.
fn entry(attribute: &[u8], holder: u64) -> Vec<u8> {
    let mut entry = vec![0; 32];
    entry[..4].copy_from_slice(&attribute[..4]);
    (entry[4], entry[7]) = (32, 26);
    if attribute[8] == 1 {
        entry[8..16].copy_from_slice(&attribute[16..24]);
    }
    entry[16..24].copy_from_slice(&holder.to_le_bytes());
    entry[24..26].copy_from_slice(&attribute[14..16]);
    entry
}
