//! Makes exFAT volumes of every shape, also those no tool makes: TexFAT, fragmented tables, sectors of any size.

use crate::tools::Noise;

/// How the clusters of something lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One run, for which the FAT does not count.
    Run,
    /// A chain with a free cluster behind each of its own.
    Scattered,
}

/// A volume in the making. Its FAT holds noise where it does not count.
pub struct Volume {
    pub sector: usize,
    pub cluster: usize,
    pub clusters: usize,
    pub fats: usize,
    pub fat_offset: usize,
    pub fat_len: usize,
    pub heap: usize,
    pub bytes: Vec<u8>,
    /// Clusters of the bitmap, or of the two.
    pub bitmaps: Vec<Vec<usize>>,
    pub upcase: Vec<usize>,
    fat: Vec<u32>,
    used: Vec<u8>,
    next: usize,
    tables: Vec<u8>,
}

fn rotate(sum: u32, byte: u8) -> u32 {
    sum.rotate_right(1).wrapping_add(u32::from(byte))
}

fn rotate16(sum: u16, byte: u8) -> u16 {
    sum.rotate_right(1).wrapping_add(u16::from(byte))
}

impl Volume {
    /// * `tables`: how bitmaps and up-case table lie.
    pub fn new(sector: usize, cluster: usize, clusters: usize, fats: usize, tables: Shape) -> Self {
        let fat_offset = 24 * sector;
        let fat_len = ((clusters + 2) * 4).next_multiple_of(sector);
        let heap = (fat_offset + fats * fat_len).next_multiple_of(cluster.max(sector));
        let mut noise = Noise(99);
        let mut volume = Self {
            sector,
            cluster,
            clusters,
            fats,
            fat_offset,
            fat_len,
            heap,
            bytes: noise.take(heap + clusters * cluster),
            bitmaps: Vec::new(),
            upcase: Vec::new(),
            fat: (0..clusters + 2).map(|_| u32::try_from(noise.next() & 0xffff_ffff).unwrap()).collect(),
            used: vec![0; clusters.div_ceil(8)],
            next: 2,
            tables: Vec::new(),
        };
        let len = volume.used.len();
        for number in 0..fats {
            let own = volume.place(&vec![0; len], tables, true);
            volume
                .tables
                .extend(entry(0x81, &[(1, &[u8::try_from(number).unwrap()]), (20, &le32(own[0])), (24, &le64(len))]));
            volume.bitmaps.push(own);
        }
        volume.upcase(tables);
        volume
    }

    /// Lower-case letters and nothing else, in the compressed form.
    fn upcase(&mut self, shape: Shape) {
        let mut words = vec![0xffff, 0x61];
        words.extend(0x41..=0x5au16);
        words.extend([0xffff, u16::MAX - 0x7a]);
        let table = words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let sum = table.iter().fold(0, |sum, byte| rotate(sum, *byte));
        self.upcase = self.place(&table, shape, true);
        let fields: [(usize, &[u8]); 3] =
            [(4, &sum.to_le_bytes()), (20, &le32(self.upcase[0])), (24, &le64(table.len()))];
        self.tables.extend(entry(0x82, &fields));
    }

    /// Puts `data` into clusters and returns them.
    ///
    /// * `chained`: the FAT has to name them although they lie in one run.
    fn place(&mut self, data: &[u8], shape: Shape, chained: bool) -> Vec<usize> {
        let count = data.len().div_ceil(self.cluster).max(1);
        let step = if shape == Shape::Run { 1 } else { 2 };
        let own = (0..count).map(|index| self.next + index * step).collect::<Vec<_>>();
        self.next += count * step;
        assert!(self.next <= self.clusters + 2, "the volume is too small for its files");
        for (cluster, part) in own.iter().zip(data.chunks(self.cluster)) {
            let at = self.at(*cluster);
            self.bytes[at..at + self.cluster].fill(0);
            self.bytes[at..at + part.len()].copy_from_slice(part);
        }
        for (index, cluster) in own.iter().enumerate() {
            self.used[(cluster - 2) / 8] |= 1 << ((cluster - 2) % 8);
            if chained || shape == Shape::Scattered {
                self.fat[*cluster] = own.get(index + 1).map_or(u32::MAX, |next| u32::try_from(*next).unwrap());
            }
        }
        own
    }

    /// Returns where a cluster begins.
    pub fn at(&self, cluster: usize) -> usize {
        self.heap + (cluster - 2) * self.cluster
    }

    /// Adds a file and returns its entries.
    pub fn file(&mut self, name: &str, data: &[u8], shape: Shape) -> Vec<u8> {
        self.named(name, data, shape, 0x20)
    }

    /// Adds a directory with the entries of files and directories in it, and returns its own.
    pub fn directory(&mut self, name: &str, entries: &[Vec<u8>], shape: Shape) -> Vec<u8> {
        let mut data = entries.concat();
        data.resize(data.len().next_multiple_of(self.cluster).max(self.cluster), 0);
        self.named(name, &data, shape, 0x10)
    }

    fn named(&mut self, name: &str, data: &[u8], shape: Shape, attributes: u8) -> Vec<u8> {
        let text = name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let hash = text.iter().fold(0, |sum, byte| rotate16(sum, *byte));
        let (first, flags) = match (data.is_empty(), shape) {
            (true, _) => (0, 1),
            (_, Shape::Run) => (self.place(data, shape, false)[0], 3),
            (_, Shape::Scattered) => (self.place(data, shape, true)[0], 1),
        };
        let mut stream: Vec<(usize, &[u8])> = Vec::new();
        let (hash, first, len) = (hash.to_le_bytes(), le32(first), le64(data.len()));
        let head = [flags, 0, u8::try_from(text.len() / 2).unwrap()];
        stream.extend([(1, &head[..]), (4, &hash[..]), (8, &len[..]), (20, &first[..]), (24, &len[..])]);
        let mut set = [entry(0x85, &[(4, &[attributes]), (8, &[0, 0, 0x21, 0x58])]), entry(0xc0, &stream)].concat();
        text.chunks(30).for_each(|part| set.extend(entry(0xc1, &[(2, part)])));
        set[1] = u8::try_from(set.len() / 32 - 1).unwrap();
        let covered = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
        let sum = covered.fold(0, |sum, (_, byte)| rotate16(sum, *byte));
        set[2..4].copy_from_slice(&sum.to_le_bytes());
        set
    }

    /// Writes the root directory with `entries`, bitmaps, FATs and boot regions.
    pub fn finish(mut self, entries: &[Vec<u8>]) -> Self {
        let label = entry(0x83, &[(1, &[4]), (2, b"D\0A\0T\0A\0")]);
        let root = [label.to_vec(), self.tables.clone(), entries.concat()].concat();
        let root = self.place(&[root, vec![0; 32]].concat(), Shape::Scattered, true)[0];
        for own in self.bitmaps.clone() {
            for (cluster, part) in own.iter().zip(self.used.clone().chunks(self.cluster)) {
                let at = self.at(*cluster);
                self.bytes[at..at + part.len()].copy_from_slice(part);
            }
        }
        self.fat[..2].copy_from_slice(&[0xffff_fff8, u32::MAX]);
        let fat = self.fat.iter().flat_map(|link| link.to_le_bytes()).collect::<Vec<_>>();
        for number in 0..self.fats {
            let at = self.fat_offset + number * self.fat_len;
            self.bytes[at..at + fat.len()].copy_from_slice(&fat);
        }
        self.boot(root);
        self
    }

    fn boot(&mut self, root: usize) {
        let sector = self.sector;
        let mut region = vec![0; 12 * sector];
        region[..3].copy_from_slice(&[0xeb, 0x76, 0x90]);
        region[3..11].copy_from_slice(b"EXFAT   ");
        region[72..80].copy_from_slice(&le64(self.bytes.len() / sector));
        for (at, value) in [
            (80, self.fat_offset / sector),
            (84, self.fat_len / sector),
            (88, self.heap / sector),
            (92, self.clusters),
            (96, root),
            (100, 0x1234_abcd),
        ] {
            region[at..at + 4].copy_from_slice(&le32(value));
        }
        region[105] = 1;
        region[108] = u8::try_from(sector.ilog2()).unwrap();
        region[109] = u8::try_from((self.cluster / sector).ilog2()).unwrap();
        region[110] = u8::try_from(self.fats).unwrap();
        region[112] = 0xff;
        region[510..512].copy_from_slice(&[0x55, 0xaa]);
        (1..9).for_each(|number| region[number * sector + sector - 2..][..2].copy_from_slice(&[0x55, 0xaa]));
        self.bytes[..12 * sector].copy_from_slice(&region);
        self.seal();
    }

    /// Makes the checksum of the main boot region right and copies it to the backup.
    pub fn seal(&mut self) {
        let sector = self.sector;
        let covered = self.bytes[..11 * sector].iter().enumerate().filter(|(at, _)| !matches!(at, 106 | 107 | 112));
        let sum = covered.fold(0, |sum, (_, byte)| rotate(sum, *byte)).to_le_bytes();
        self.bytes[11 * sector..12 * sector].chunks_exact_mut(4).for_each(|slot| slot.copy_from_slice(&sum));
        self.bytes.copy_within(..12 * sector, 12 * sector);
    }

    /// Changes the entry of a cluster in FAT `number`.
    pub fn link(&mut self, number: usize, cluster: usize, to: u32) {
        let at = self.fat_offset + number * self.fat_len + cluster * 4;
        self.bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
    }

    /// Changes the bit of a cluster in bitmap `number`.
    pub fn mark(&mut self, number: usize, cluster: usize, used: bool) {
        let (byte, bit) = ((cluster - 2) / 8, (cluster - 2) % 8);
        let at = self.at(self.bitmaps[number][byte / self.cluster]) + byte % self.cluster;
        self.bytes[at] = self.bytes[at] & !(1 << bit) | u8::from(used) << bit;
    }

    /// Returns how many clusters are used.
    pub fn count(&self) -> usize {
        self.used.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Returns where the name of something stands in a directory.
    pub fn find(&self, name: &str) -> usize {
        let text = name.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let found = self.bytes.chunks(32).position(|entry| entry[0] == 0xc1 && entry[2..].starts_with(&text));
        found.unwrap() * 32
    }
}

fn le32(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}

fn le64(value: usize) -> [u8; 8] {
    (value as u64).to_le_bytes()
}

fn entry(kind: u8, fields: &[(usize, &[u8])]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = kind;
    fields.iter().for_each(|(at, value)| bytes[*at..*at + value.len()].copy_from_slice(value));
    bytes
}
