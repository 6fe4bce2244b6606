//! Files as an enemy would write them: damaged, cut short, and with every checksum right. An error or the right data,
//! never a panic, a hang, or bytes that are not the chunk's.

use proptest::prelude::*;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    super::{
        backend::{Backend, MemoryBackend},
        sealed::{self, Packed},
    },
    support::*,
    *,
};

/// One change to bytes; places are taken modulo the length.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Number(usize, usize, u64),
    Cut(usize),
    Grow(Vec<u8>),
    Copy(usize, usize, usize),
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..300u64,
        prop::sample::select(vec![
            u64::MAX,
            u64::MAX - 63,
            1 << 63,
            1 << 32,
            0xffff_ffff,
            0x8000_0000,
            64 << 20,
            32 << 20
        ]),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        4 => (any::<usize>(), prop::sample::select(vec![1usize, 2, 4, 8]), any_number())
            .prop_map(|(at, width, number)| Change::Number(at, width, number)),
        1 => any::<usize>().prop_map(Change::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..100).prop_map(Change::Grow),
        1 => (any::<usize>(), any::<usize>(), 1..200usize).prop_map(|(from, to, len)| Change::Copy(from, to, len)),
    ]
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(any_change(), 1..5)
}

fn apply(bytes: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        let len = bytes.len().max(1);
        match change {
            Change::Flip(at, bit) => {
                if let Some(byte) = bytes.get_mut(at % len) {
                    *byte ^= 1 << bit;
                }
            }
            Change::Number(at, width, number) => {
                let at = at % len / width * width;
                for (byte, new) in bytes.iter_mut().skip(at).zip(&number.to_le_bytes()[..*width]) {
                    *byte = *new;
                }
            }
            Change::Cut(at) => bytes.truncate(at % len),
            Change::Grow(more) => bytes.extend(more),
            Change::Copy(from, to, count) => {
                let run: Vec<u8> = bytes.iter().skip(from % len).take(*count).copied().collect();
                bytes.iter_mut().skip(to % len).zip(run).for_each(|(byte, new)| *byte = new);
            }
        }
    }
}

fn sum_over(bytes: &mut [u8], from: usize, to: usize, sum_at: usize) {
    if let Some(sum) = bytes.get(from..to).map(xxh3_64)
        && let Some(field) = bytes.get_mut(sum_at..sum_at.saturating_add(8))
    {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |raw| u32::from_le_bytes(raw.try_into().unwrap()) as usize)
}

/// Makes every checksum of a pack right again: frames as they follow each other, index, trailer, header.
fn fix_pack(bytes: &mut [u8]) {
    sum_over(bytes, 0, 56, 56);
    let mut at = pack::HEADER_LEN;
    while bytes.get(at..at + 4) == Some(&b"RSfr"[..]) {
        let end = (at + frame::HEADER_LEN).saturating_add(u32_at(bytes, at + 8));
        sum_over(bytes, at + frame::HEADER_LEN, end, at + 48);
        sum_over(bytes, at, at + 56, at + 56);
        at = end;
    }
    if let Some(trailer) = bytes.len().checked_sub(pack::TRAILER_LEN) {
        let index = bytes[trailer + 8..trailer + 16].try_into().map(u64::from_le_bytes).unwrap();
        sum_over(bytes, usize::try_from(index).unwrap_or(usize::MAX), trailer, trailer + 48);
        sum_over(bytes, trailer, trailer + 56, trailer + 56);
    }
}

fn fix_blake3(bytes: &mut [u8]) {
    if let Some(at) = bytes.len().checked_sub(32) {
        let check = blake3::hash(&bytes[..at]);
        bytes[at..].copy_from_slice(check.as_bytes());
    }
}

/// Uses a store in every way there is. What it answers does not matter, as long as it is not wrong.
fn use_all_of(backend: &MemoryBackend, disks: &[Disk]) {
    let store = match Store::open_on(std::sync::Arc::new(backend.clone())) {
        Ok(store) => store,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let (mut reader, mut plain) = (store.reader(), Vec::new());
    for (id, want) in disks.iter().flat_map(Disk::chunks) {
        if reader.read_chunk(&id, &mut plain).is_ok() {
            assert_eq!(plain, want, "wrong bytes for chunk {id}");
        }
        let _ = reader.check_frame(&id);
    }
    for listed in store.images().unwrap() {
        let Listed::Image(image) = listed else { continue };
        let image = store.load(&image.id).unwrap();
        let damage = precheck(&store, &image);
        if image.disk.len <= 1 << 20 && damage.is_empty() {
            let _ = restore(&store, &image);
        }
        let _ = store.verify_image(&image.id, &|_, _| {}, &|| false);
    }
    let _ = store.verify(&|_, _| {}, &|| false);
    for disk in disks {
        let store = Store::open_on(std::sync::Arc::new(backend.clone())).unwrap();
        if let Ok(image) = capture(&store, disk) {
            assert_eq!(restore(&store, &image).unwrap(), disk.bytes, "a capture into it is whole");
        }
    }
}

thread_local! {
    /// A small store with two images, of which the second has deltas; made once.
    static SAMPLE: (MemoryBackend, [Disk; 2]) = {
        let backend = MemoryBackend::default();
        let disk = Disk::sample(1, 5);
        let changed = disk.changed(1);
        let store = store_on(backend.clone());
        let image = capture(&store, &disk).unwrap();
        capture_again(&store, &changed, &image).unwrap();
        (backend, [disk, changed])
    };
}

fn with_file(folder: &str, keep_index: bool, change: impl FnOnce(&str, Vec<u8>) -> Vec<u8>) {
    SAMPLE.with(|(backend, disks)| {
        let backend = backend.fork();
        let name = backend.names().into_iter().find(|name| name.starts_with(folder)).unwrap();
        backend.set(&name, change(&name, backend.get(&name).unwrap()));
        if !keep_index {
            backend.names().iter().filter(|name| name.starts_with("index/")).for_each(|name| backend.unset(name));
        }
        use_all_of(&backend, disks);
    });
}

/// Walks to the `at`th value of a JSON tree.
fn pick<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| pick(item, at)),
        Value::Object(fields) => fields.values_mut().find_map(|item| pick(item, at)),
        _ => None,
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

fn any_value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        6 => any_number().prop_map(|number| Some(number.into())),
        1 => any::<i64>().prop_map(|number| Some(number.into())),
        1 => any::<f64>().prop_map(|number| Some(number.into())),
        1 => Just(Some(Value::Null)),
        1 => ".{0,12}".prop_map(|text| Some(text.into())),
        1 => Just(Some(Value::Array(Vec::new()))),
        2 => Just(None),
    ]
}

/// Puts new values at places of a JSON text; `None` doubles what stands there.
fn change_json(json: &[u8], changes: &[(usize, Option<Value>)]) -> Vec<u8> {
    let mut tree: Value = serde_json::from_slice(json).unwrap();
    for (at, new) in changes {
        let mut at = at % count(&tree);
        let Some(place) = pick(&mut tree, &mut at) else { continue };
        match (new, place) {
            (Some(new), place) => *place = new.clone(),
            (None, Value::Array(items)) => items.extend(items.clone()),
            (None, Value::Object(fields)) => fields.clear(),
            (None, place) => *place = Value::Bool(true),
        }
    }
    serde_json::to_vec_pretty(&tree).unwrap()
}

fn any_json_changes() -> impl Strategy<Value = Vec<(usize, Option<Value>)>> {
    prop::collection::vec((any::<usize>(), any_value()), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn packs_with_right_checksums(changes in any_changes(), keep_index in any::<bool>()) {
        with_file("packs/", keep_index, |_, mut bytes| {
            apply(&mut bytes, &changes);
            fix_pack(&mut bytes);
            bytes
        });
    }

    #[test]
    fn packs_with_wrong_checksums(changes in any_changes(), keep_index in any::<bool>()) {
        with_file("packs/", keep_index, |_, mut bytes| {
            apply(&mut bytes, &changes);
            bytes
        });
    }

    #[test]
    fn indexes_with_right_checksums(changes in any_changes()) {
        with_file("index/", true, |_, mut bytes| {
            apply(&mut bytes, &changes);
            fix_blake3(&mut bytes);
            bytes
        });
    }

    #[test]
    fn manifests_that_lie(changes in any_json_changes()) {
        with_file("images/", true, |name, bytes| {
            let id = FileId::parse(&name[7..39]).unwrap();
            let json = sealed::unpack(Packed::Image, id, &bytes).unwrap();
            sealed::pack(Packed::Image, id, &change_json(&json, &changes))
        });
    }

    #[test]
    fn manifest_files_with_right_checksums(changes in any_changes()) {
        with_file("images/", true, |_, mut bytes| {
            apply(&mut bytes, &changes);
            fix_blake3(&mut bytes);
            bytes
        });
    }

    #[test]
    fn configs_that_lie(changes in any_json_changes()) {
        with_file(CONFIG, true, |_, bytes| {
            let json: Value = serde_json::from_slice(&bytes).unwrap();
            let mut fields = json.as_object().unwrap().clone();
            fields.remove("check");
            let json = change_json(&serde_json::to_vec(&fields).unwrap(), &changes);
            sealed::seal_text(std::str::from_utf8(&json).unwrap()).into_bytes()
        });
    }

    #[test]
    fn rubbish_everywhere(bytes in prop::collection::vec(any::<u8>(), 0..400), file in 0..4usize) {
        with_file(["packs/", "index/", "images/", CONFIG][file], file != 0, |_, _| bytes);
    }
}

#[test]
fn a_manifest_that_expands_without_end_is_refused() {
    let id = FileId([7; 16]);
    let name = images::path(id);
    let bomb = vec![b' '; 64 << 20];
    let mut bytes = sealed::pack(Packed::Image, id, &bomb);
    assert!(bytes.len() < 1 << 20);
    let at = bytes.len() - 80 + 16;
    for says in [0u64, 100, u64::MAX] {
        bytes[at..at + 8].copy_from_slice(&says.to_le_bytes());
        fix_blake3(&mut bytes);
        let backend = MemoryBackend::default();
        let store = store_on(backend.clone());
        backend.put(&name, &bytes).unwrap();
        let error = store.load(&id.to_string()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{says}: {error}");
    }
}

#[test]
fn a_pack_full_of_frame_headers_is_searched_in_time() {
    let lying = |stored_len| {
        let header = frame::FrameHeader {
            kind: frame::Kind::Raw,
            stored_len,
            plain_len: stored_len,
            id: ChunkId([1; 32]),
            stored_sum: 0,
        };
        header.to_bytes()
    };
    let backend = MemoryBackend::default();
    for (number, fill) in
        [lying(32 << 20), lying(1), [b'R', b'S', b'f', b'r'].repeat(16).try_into().unwrap()].iter().enumerate()
    {
        let id = FileId([u8::try_from(number).unwrap(); 16]);
        backend.set(&pack::path(id), fill.repeat((8 << 20) / fill.len()));
        let begun = std::time::Instant::now();
        let found = pack::rescan(&backend, id, 8 << 20);
        assert!(begun.elapsed().as_secs() < 20, "{number} took {:?}", begun.elapsed());
        assert!(found.len() <= (8 << 20) / frame::HEADER_LEN, "{number}");
    }
}
