//! The only module that knows how a record becomes bytes: bincode 1.3 in its fixed-width little-endian
//! form, which every reader of that plain format understands.
//!
//! bincode does not evolve: any change to a record's fields or to the order of its variants is another
//! format, and comes with a new [`super::frame::VERSION`].

use std::io;

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest encoded record, in bytes. The longest real one holds two keys of 1 KiB and some KiB of
/// metadata; without a limit, a damaged length would make decoding allocate without bound.
pub const BODY_BYTES_MAX: usize = 1 << 20;

fn options() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(BODY_BYTES_MAX as u64)
        .reject_trailing_bytes()
}

/// Appends the encoded form of `record` to `out`.
///
/// # Errors
/// InvalidInput for a record that is too long or that has no encoded form; `out` is as before then.
pub fn encode_into<R: Serialize>(out: &mut Vec<u8>, record: &R) -> io::Result<()> {
    let before = out.len();
    options().serialize_into(&mut *out, record).map_err(|error| {
        out.truncate(before);
        io::Error::new(io::ErrorKind::InvalidInput, format!("record cannot be encoded: {error}"))
    })
}

/// Length that [`encode_into`] would append, in bytes.
///
/// # Errors
/// As [`encode_into`].
pub fn encoded_len<R: Serialize>(record: &R) -> io::Result<u64> {
    options()
        .serialized_size(record)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}

/// The record whose encoded form is exactly `body`; `None` if there is none.
pub fn decode<R: DeserializeOwned>(body: &[u8]) -> Option<R> {
    options().deserialize(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_only_from_all_of_its_bytes() {
        let record = (7u32, "key".to_owned(), Some([1u8; 32]));
        let mut body = vec![9];
        encode_into(&mut body, &record).unwrap();
        let body = body.split_off(1);
        assert_eq!(encoded_len(&record).unwrap(), body.len() as u64);
        assert_eq!(decode::<(u32, String, Option<[u8; 32]>)>(&body), Some(record));
        for len in 0..body.len() {
            assert_eq!(decode::<(u32, String, Option<[u8; 32]>)>(&body[..len]), None);
        }
        let mut longer = body.clone();
        longer.push(0);
        assert_eq!(decode::<(u32, String, Option<[u8; 32]>)>(&longer), None);
    }

    #[test]
    fn a_record_over_the_limit_is_refused_and_leaves_no_trace() {
        let mut out = vec![1, 2];
        assert!(encode_into(&mut out, &vec![0u8; BODY_BYTES_MAX]).is_err());
        assert_eq!(out, [1, 2]);
    }

    #[test]
    fn a_damaged_length_does_not_allocate() {
        let mut body = u64::MAX.to_le_bytes().to_vec();
        body.extend_from_slice(b"abc");
        assert_eq!(decode::<Vec<u8>>(&body), None);
    }
}
