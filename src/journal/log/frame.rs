//! Frames: how changes are encoded in a file of the log, and how whole frames are told from torn ones. Pure
//! functions over bytes; knows no file.

use super::super::record::Change;

/// The size of what precedes a payload: the payload's length, a checksum, the frame's number.
pub(super) const FRAME_HEADER: usize = 4 + 4 + 8;
/// The longest payload. A larger commit is split into several frames.
pub(super) const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// Returns the checksum of everything in a frame but the checksum itself. It starts from the file's salt, so
/// that a frame of another file is not taken for one of this file, not even inside a payload.
fn checksum(salt: u32, length: [u8; 4], number: [u8; 8], payload: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(salt, &length);
    let checksum = crc32c::crc32c_append(checksum, &number);
    crc32c::crc32c_append(checksum, payload)
}

/// Appends a frame with these changes to a buffer. Leaves the buffer as it was if they are too large for one.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    salt: u32,
    number: u64,
    changes: &[Change],
) -> Result<(), TooLarge> {
    let start = buffer.len();
    buffer.resize(start + FRAME_HEADER, 0);
    match postcard::to_extend(changes, std::mem::take(buffer)) {
        Ok(extended) => *buffer = extended,
        // Encoding into memory does not fail.
        Err(_) => return Err(TooLarge),
    }
    let payload = buffer.len() - start - FRAME_HEADER;
    let length = u32::try_from(payload).unwrap_or(u32::MAX).to_le_bytes();
    if payload > MAX_PAYLOAD {
        buffer.truncate(start);
        return Err(TooLarge);
    }
    let number = number.to_le_bytes();
    let Some((header, payload)) = buffer
        .get_mut(start..)
        .and_then(|frame| frame.split_at_mut_checked(FRAME_HEADER))
    else {
        return Err(TooLarge);
    };
    let checksum = checksum(salt, length, number, payload).to_le_bytes();
    for (place, byte) in header
        .iter_mut()
        .zip(length.iter().chain(&checksum).chain(&number))
    {
        *place = *byte;
    }
    Ok(())
}

/// The changes are too large for one frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// A whole frame that was found in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) number: u64,
    payload: &'a [u8],
    /// Its size in bytes, with what precedes the payload.
    pub(super) length: usize,
}

impl Frame<'_> {
    /// Decodes its changes; none if this version does not know the format of the payload.
    pub(super) fn changes(&self) -> Option<Vec<Change>> {
        postcard::from_bytes(self.payload).ok()
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Returns the frame at the beginning of these bytes; none if it is not whole.
pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Frame<'_>> {
    let length = take::<4>(bytes, 0)?;
    let checksum_found = u32::from_le_bytes(take(bytes, 4)?);
    let number = take::<8>(bytes, 8)?;
    let payload_length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    if payload_length == 0 || payload_length > MAX_PAYLOAD {
        return None;
    }
    let payload = bytes.get(FRAME_HEADER..FRAME_HEADER.checked_add(payload_length)?)?;
    (checksum(salt, length, number, payload) == checksum_found).then_some(Frame {
        number: u64::from_le_bytes(number),
        payload,
        length: FRAME_HEADER + payload_length,
    })
}

/// The whole frames of a file that may end in a torn one, or be damaged.
#[derive(Debug, Default)]
pub(super) struct Scan<'a> {
    pub(super) frames: Vec<Frame<'a>>,
    /// Whole frames follow after something that is not one: the file is damaged, and not only torn at its end.
    pub(super) is_damaged: bool,
}

/// Finds all whole frames. Each must have a higher number than the one before it; behind bytes that are no
/// frame, the next one is looked for byte by byte.
pub(super) fn scan(bytes: &[u8], salt: u32, first: u64) -> Scan<'_> {
    let mut scan = Scan::default();
    let mut at = 0;
    let mut next = first;
    let mut is_behind_a_bad_one = false;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() > FRAME_HEADER) {
        match decode(rest, salt).filter(|frame| frame.number >= next) {
            Some(frame) => {
                scan.is_damaged |= is_behind_a_bad_one;
                at += frame.length;
                next = frame.number + 1;
                scan.frames.push(frame);
            }
            None => {
                is_behind_a_bad_one = true;
                at += 1;
            }
        }
    }
    scan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Execution, StoredEvent},
        fuzz,
        journal::record::HoldKey,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    fn event(text: &str) -> StoredEvent {
        let mut event =
            crate::event::Event::new("test.event").data(serde_json::json!({ "text": text }));
        event.metadata.event_id = Some(Uuid::from_u128(7).into());
        event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
        StoredEvent::new(0, &event).unwrap()
    }

    fn key() -> HoldKey {
        HoldKey {
            execution: Execution {
                namespace: "default".to_owned(),
                workflow_id: "w".to_owned(),
                run_id: "r".to_owned(),
            },
            hold_id: Uuid::from_u128(3),
        }
    }

    fn frames(salt: u32, texts: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, text) in (5..).zip(texts) {
            let changes = [Change::Insert(vec![event(text)])];
            encode(&mut bytes, salt, number, &changes).unwrap();
        }
        bytes
    }

    fn numbers(bytes: &[u8], salt: u32) -> (Vec<u64>, bool) {
        let scan = scan(bytes, salt, 5);
        let numbers = scan.frames.iter().map(|frame| frame.number).collect();
        (numbers, scan.is_damaged)
    }

    #[test]
    fn changes_are_read_as_they_were_written() {
        let changes = vec![
            Change::Insert(vec![event("a"), event("b")]),
            Change::Hold(key(), "7@then".to_owned(), vec![event("c")]),
            Change::Release(key()),
            Change::Replace(key(), vec![event("d")]),
            Change::Discard(key()),
        ];
        let mut bytes = Vec::new();
        encode(&mut bytes, 9, 1, &changes).unwrap();
        let frame = decode(&bytes, 9).unwrap();
        assert_eq!((frame.number, frame.length), (1, bytes.len()));
        assert_eq!(frame.changes(), Some(changes));
        assert_eq!(decode(&bytes, 8), None, "it is of another file");
    }

    /// The format: what is in a file must be read by the next version.
    #[test]
    fn the_bytes_of_a_frame_never_change() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 2, &[Change::Release(key())]).unwrap();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "1f0000003798157f020000000000000001020764656661756c740177017210000000000000000000000000\
             00000003"
        );
    }

    #[test]
    fn torn_at_any_byte_it_gives_a_prefix() {
        let bytes = frames(9, &["one", "two", "three"]);
        let mut seen = Vec::new();
        for cut in 0..=bytes.len() {
            let (numbers, is_damaged) = numbers(&bytes[..cut], 9);
            assert!([5, 6, 7].starts_with(&numbers) && !is_damaged);
            seen.push(numbers.len());
        }
        assert!(seen.is_sorted());
        assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&3)));
    }

    #[test]
    fn one_byte_that_changed_costs_one_frame_and_is_seen() {
        let bytes = frames(9, &["one", "two", "three"]);
        let length = bytes.len() / 3;
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x41;
            let (numbers, is_damaged) = numbers(&bytes, 9);
            assert_eq!(numbers.len(), 2, "at {at}");
            assert_eq!(is_damaged, at < length * 2, "at {at}");
        }
    }

    #[test]
    fn frames_inside_of_a_payload_and_those_of_another_file_are_none() {
        let inner: String = frames(9, &["x"])
            .iter()
            .map(|it| char::from(*it & 0x7f))
            .collect();
        let mut bytes = frames(9, &[&inner, "two"]);
        bytes.extend(frames(10, &["other", "file"]));
        assert_eq!(numbers(&bytes, 9), (vec![5, 6], false));
    }

    #[test]
    fn a_payload_has_a_bound() {
        let large = "x".repeat(MAX_PAYLOAD);
        let mut bytes = vec![1];
        let changes = [Change::Insert(vec![event(&large)])];
        assert_eq!(encode(&mut bytes, 1, 1, &changes), Err(TooLarge));
        assert_eq!(bytes, [1]);
    }

    #[test]
    fn fuzz_frames() {
        let whole = frames(9, &["one", "two", "three"]);
        fuzz::run("frames of the log", |rng| {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(0..4) {
                let at = rng.usize(0..bytes.len());
                match rng.u8(0..3) {
                    0 => bytes[at] = rng.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, rng.u8(..)),
                }
            }
            // A payload whose checksum is right, whatever is in it.
            if rng.bool() {
                let payload: Vec<u8> = (0..rng.usize(1..60)).map(|_| rng.u8(..)).collect();
                let length = (payload.len() as u32).to_le_bytes();
                let number = rng.u64(5..10).to_le_bytes();
                let sum = checksum(9, length, number, &payload).to_le_bytes();
                bytes.splice(0..0, [&length[..], &sum, &number, &payload].concat());
            }
            let scan = scan(&bytes, 9, 5);
            assert!(scan.frames.is_sorted_by_key(|frame| frame.number));
            for frame in &scan.frames {
                std::hint::black_box(frame.changes());
            }
        });
    }

    proptest! {
        #[test]
        fn a_shorter_frame_over_a_longer_one_hides_it(long in "[a-z]{0,300}", short in "[a-z]{0,300}", cut in 0_usize..400) {
            // A write that came back short, and another frame in its place.
            let mut bytes = frames(9, &[&long]);
            bytes.truncate(cut.min(bytes.len().saturating_sub(1)));
            let second = frames(9, &[&short]);
            let rest = bytes.split_off(second.len().min(bytes.len()));
            let bytes = [second, rest].concat();
            prop_assert_eq!(numbers(&bytes, 9), (vec![5], false));
        }
    }
}
