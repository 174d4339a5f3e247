//! The journal file, byte by byte. All numbers are little-endian.
//!
//! ```text
//! header   0   8  magic "RATCHETJ"
//!          8   4  version of the format, now 10
//!         12   4  n, length of the identity
//!         16   n  identity: what is mounted (see Identity::to_bytes)
//!       16+n   4  CRC-32C of the bytes before
//! frame    0   4  n, length of the body, 1 ..= 1 MiB
//!          4   4  CRC-32C of: the checksum before this one (4 bytes), n (4 bytes), the body
//!          8   n  body: one record, encoded by codec
//! frame …
//! ```
//!
//! The checksum before the first frame's is the header's. So each frame vouches for all before it and for
//! the identity: a frame that is moved, repeated, left over from another file, or written for another
//! bucket never counts. The layout of the header is the same in all versions, so that a program always
//! tells a future version from a damaged header.
//!
//! What replay keeps is the longest prefix of frames that are whole and whose checksums match. This module
//! is pure but for reading; [`super::log`] writes.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;

pub const MAGIC: &[u8; 8] = b"RATCHETJ";

/// Changes with every change to the bytes of a frame or to the fields of a record.
pub const VERSION: u32 = 10;

/// The versions whose records are all records of this one, with the same bytes: a journal of theirs is read, and
/// written anew. 9 has nothing behind ContentSummed, 8 nothing behind MarkedDeletionBegun, 7 nothing behind DraftContent, 6 not that either, 5 no ObjectVerified.
pub const READABLE: &[u32] = &[VERSION, 9, 8, 7, 6, 5];

/// Bytes of a header before the identity.
const HEADER_FIXED_BYTES: usize = 16;

/// Bytes of a frame before its body.
pub const FRAME_FIXED_BYTES: usize = 8;

/// The longest identity, in bytes; a longer one is damage. (An S3 key has at most 1,024.)
const IDENTITY_BYTES_MAX: usize = 16 << 10;

pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    // The algorithm is 32 bits wide; the upper half is zero.
    digest.finalize() as u32
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(four)
}

/// The header of a file for `identity`.
pub fn header(identity: &[u8]) -> Vec<u8> {
    header_of_version(identity, VERSION)
}

pub(super) fn header_of_version(identity: &[u8], version: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_FIXED_BYTES + identity.len() + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&(identity.len() as u32).to_le_bytes());
    bytes.extend_from_slice(identity);
    let sum = checksum(&[&bytes]);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The checksum that a header ends with: where the chain of the frames begins.
pub fn chain_start(header: &[u8]) -> u32 {
    match header.len().checked_sub(4) {
        Some(offset) => u32_at(header, offset),
        None => 0,
    }
}

/// What the beginning of a file says it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// Whole and checked.
    Valid { version: u32, identity: Vec<u8>, bytes: Vec<u8> },
    /// Too short, another magic, or a checksum that does not match.
    Damaged,
}

/// Reads the header from the beginning of a file.
///
/// # Errors
/// Those of reading; an early end is [`Header::Damaged`].
pub fn read_header(reader: &mut impl Read) -> io::Result<Header> {
    let mut bytes = vec![0; HEADER_FIXED_BYTES];
    if read_full(reader, &mut bytes)? < HEADER_FIXED_BYTES || !bytes.starts_with(MAGIC) {
        return Ok(Header::Damaged);
    }
    let identity_len = u32_at(&bytes, 12) as usize;
    if identity_len > IDENTITY_BYTES_MAX {
        return Ok(Header::Damaged);
    }
    let len = HEADER_FIXED_BYTES + identity_len + 4;
    bytes.resize(len, 0);
    if read_full(reader, &mut bytes[HEADER_FIXED_BYTES..])? < len - HEADER_FIXED_BYTES
        || checksum(&[&bytes[..len - 4]]) != chain_start(&bytes)
    {
        return Ok(Header::Damaged);
    }
    let identity = bytes[HEADER_FIXED_BYTES..len - 4].to_vec();
    Ok(Header::Valid { version: u32_at(&bytes, 8), identity, bytes })
}

/// Appends the frame of `record` to `out`, its checksum to be filled in by [`link`].
///
/// # Errors
/// InvalidInput for a record that is too long; `out` is as before then.
pub fn push_frame<R: Serialize>(out: &mut Vec<u8>, record: &R) -> io::Result<()> {
    let start = out.len();
    let body = start + FRAME_FIXED_BYTES;
    out.resize(body, 0);
    if let Err(error) = codec::encode_into(out, record) {
        out.truncate(start);
        return Err(error);
    }
    let len = ((out.len() - body) as u32).to_le_bytes();
    out[start..start + 4].copy_from_slice(&len);
    Ok(())
}

/// Makes the whole frames in `frames` go on from `chain`, whatever they followed before. Returns the checksum of the
/// last of them.
pub fn link(frames: &mut [u8], mut chain: u32) -> u32 {
    let mut rest = frames;
    while let Some(len) = first_frame(rest) {
        let (frame, behind) = rest.split_at_mut(len);
        chain = checksum(&[&chain.to_le_bytes(), &frame[..4], &frame[FRAME_FIXED_BYTES..]]);
        frame[4..FRAME_FIXED_BYTES].copy_from_slice(&chain.to_le_bytes());
        rest = behind;
    }
    chain
}

/// How many bytes at the beginning of `bytes` are whole frames that follow `chain`, and the checksum of the last.
pub fn linked(bytes: &[u8], mut chain: u32) -> (usize, u32) {
    let mut upto = 0;
    while let Some(len) = first_frame(&bytes[upto..]) {
        let frame = &bytes[upto..upto + len];
        let sum = checksum(&[&chain.to_le_bytes(), &frame[..4], &frame[FRAME_FIXED_BYTES..]]);
        if sum != u32_at(frame, 4) {
            break;
        }
        (upto, chain) = (upto + len, sum);
    }
    (upto, chain)
}

/// Length of the frame that `bytes` begin with, where it is whole.
fn first_frame(bytes: &[u8]) -> Option<usize> {
    let len = bytes.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize)?;
    let whole =
        (1..=codec::BODY_BYTES_MAX).contains(&len) && FRAME_FIXED_BYTES + len <= bytes.len();
    whole.then_some(FRAME_FIXED_BYTES + len)
}

/// Why replay stopped before the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The header is damaged; frames behind it that still match were kept.
    DamagedHeader,
    /// The file ends within a frame: the process died while it wrote.
    TornTail,
    /// A frame's length is impossible.
    BadLength,
    /// A frame's checksum does not match.
    BadChecksum,
    /// A frame is intact, but its body is no record that this program knows.
    UnknownRecord,
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DropReason::DamagedHeader => "damaged header",
            DropReason::TornTail => "torn tail",
            DropReason::BadLength => "impossible record length",
            DropReason::BadChecksum => "checksum mismatch",
            DropReason::UnknownRecord => "unknown record",
        })
    }
}

/// What reading the frames of a file came to.
#[derive(Debug)]
pub struct Replayed {
    pub records: u64,
    /// Bytes of the frames kept.
    pub bytes: u64,
    /// Checksum of the last frame kept: the chain goes on from here.
    pub chain: u32,
    /// `None` where the file ends with a whole frame.
    pub stopped: Option<DropReason>,
}

/// Reads frames up to the end or to the first that does not match, and hands each record to `each`.
///
/// # Errors
/// Those of reading, for which no conclusion about the file must be drawn.
pub fn replay<R: DeserializeOwned>(
    reader: &mut impl Read,
    chain: u32,
    mut each: impl FnMut(R),
) -> io::Result<Replayed> {
    let mut replayed = Replayed { records: 0, bytes: 0, chain, stopped: None };
    let mut body = Vec::new();
    loop {
        let mut fixed = [0; FRAME_FIXED_BYTES];
        match read_full(reader, &mut fixed)? {
            0 => return Ok(replayed),
            FRAME_FIXED_BYTES => {}
            _ => return Ok(stopped(replayed, DropReason::TornTail)),
        }
        let len = u32_at(&fixed, 0) as usize;
        if len == 0 || len > codec::BODY_BYTES_MAX {
            return Ok(stopped(replayed, DropReason::BadLength));
        }
        body.resize(len, 0);
        if read_full(reader, &mut body)? < len {
            return Ok(stopped(replayed, DropReason::TornTail));
        }
        let sum = checksum(&[&replayed.chain.to_le_bytes(), &fixed[..4], &body]);
        if sum != u32_at(&fixed, 4) {
            return Ok(stopped(replayed, DropReason::BadChecksum));
        }
        let Some(record) = codec::decode(&body) else {
            return Ok(stopped(replayed, DropReason::UnknownRecord));
        };
        each(record);
        replayed.records += 1;
        replayed.bytes += (FRAME_FIXED_BYTES + len) as u64;
        replayed.chain = sum;
    }
}

fn stopped(replayed: Replayed, reason: DropReason) -> Replayed {
    Replayed { stopped: Some(reason), ..replayed }
}

/// Fills `out` as far as there are bytes, and says how far.
fn read_full(reader: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match reader.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        for text in ["one", "two", "three"] {
            push_frame(&mut out, &text.to_owned()).unwrap();
        }
        link(&mut out, chain_start(&header(b"id")));
        out
    }

    fn read(bytes: &[u8], identity: &[u8]) -> (Vec<String>, Replayed) {
        let mut records = Vec::new();
        let chain = chain_start(&header(identity));
        let replayed = replay(&mut &bytes[..], chain, |record| records.push(record)).unwrap();
        (records, replayed)
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xE306_9283);
    }

    #[test]
    fn frames_come_back_in_order() {
        let (records, replayed) = read(&sample(), b"id");
        assert_eq!(records, ["one", "two", "three"]);
        assert_eq!(replayed.stopped, None);
        assert_eq!(replayed.bytes, sample().len() as u64);
    }

    #[test]
    fn frames_of_another_identity_do_not_count() {
        let (records, replayed) = read(&sample(), b"other");
        assert!(records.is_empty());
        assert_eq!(replayed.stopped, Some(DropReason::BadChecksum));
    }

    #[test]
    fn frames_that_are_linked_anew_are_of_the_other_file() {
        let (mut bytes, chain) = (sample(), chain_start(&header(b"id")));
        let (len, end) = linked(&bytes, chain);
        assert_eq!(len, bytes.len());
        for cut in 0..bytes.len() {
            let (whole, _) = linked(&bytes[..cut], chain);
            assert_eq!(read(&bytes[..whole], b"id").1.stopped, None, "cut to {cut}");
        }
        assert_eq!(linked(&bytes, end).0, 0);
        link(&mut bytes, chain_start(&header(b"other")));
        assert_eq!(read(&bytes, b"other").0, ["one", "two", "three"]);
        assert_eq!(linked(&bytes, chain).0, 0);
    }

    #[test]
    fn a_repeated_frame_does_not_count() {
        let mut bytes = sample();
        let first = bytes[..FRAME_FIXED_BYTES + 8 + 3].to_vec();
        bytes.extend_from_slice(&first);
        let (records, replayed) = read(&bytes, b"id");
        assert_eq!(records.len(), 3);
        assert_eq!(replayed.stopped, Some(DropReason::BadChecksum));
    }

    #[test]
    fn zeros_behind_the_frames_do_not_count() {
        let mut bytes = sample();
        bytes.extend_from_slice(&[0; 4096]);
        let (records, replayed) = read(&bytes, b"id");
        assert_eq!(records.len(), 3);
        assert_eq!(replayed.stopped, Some(DropReason::BadLength));
    }

    #[test]
    fn an_intact_frame_of_an_unknown_record_ends_the_prefix() {
        let mut bytes = Vec::new();
        let chain = chain_start(&header(b"id"));
        push_frame(&mut bytes, &7u8).unwrap();
        link(&mut bytes, chain);
        let (records, replayed) = read(&bytes, b"id");
        assert!(records.is_empty());
        assert_eq!(replayed.stopped, Some(DropReason::UnknownRecord));
    }

    #[test]
    fn any_flip_in_a_header_is_damage() {
        let intact = header(b"endpoint");
        let valid = read_header(&mut &intact[..]).unwrap();
        assert_eq!(
            valid,
            Header::Valid {
                version: VERSION,
                identity: b"endpoint".to_vec(),
                bytes: intact.clone()
            }
        );
        for bit in 0..intact.len() * 8 {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.extend_from_slice(&[0; 64]);
            assert_eq!(read_header(&mut &bytes[..]).unwrap(), Header::Damaged, "bit {bit}");
        }
        for len in 0..intact.len() {
            assert_eq!(read_header(&mut &intact[..len]).unwrap(), Header::Damaged, "length {len}");
        }
    }
}
