//! What tells equal bytes: fingerprints of parts.

use crate::journal::Fingerprint;
use crate::range::ByteRange;
use crate::store::{ETag, PartBody};

/// The fingerprint of a part's bytes: collision-resistant, so equal fingerprints mean equal bytes.
/// BLAKE3 costs a ninth of what SHA-256 does on this kind of machine.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Fingerprint(*blake3::hash(bytes).as_bytes())
}

/// Of a part that was copied inside the store: its bytes are not known here, but where they came from.
pub(super) fn fingerprint_of_copy(etag: &ETag, range: ByteRange) -> Fingerprint {
    let mut hasher = blake3::Hasher::new_derive_key("ratchetfs: a part copied from an object");
    hasher.update(&range.start().to_le_bytes());
    hasher.update(&range.len().to_le_bytes());
    hasher.update(etag.as_str().to_ascii_lowercase().as_bytes());
    Fingerprint(*hasher.finalize().as_bytes())
}

pub(super) async fn fingerprint_of(body: &PartBody) -> std::io::Result<Fingerprint> {
    /// Bytes read at a time.
    const READ_BYTES: u64 = 1 << 20;
    let source = match body {
        PartBody::Whole(bytes) => return Ok(fingerprint(bytes)),
        PartBody::Read(source) => source,
    };
    let mut hasher = Fingerprinter::default();
    let whole = ByteRange::new(0, source.len());
    let mut at = 0;
    while at < whole.end() {
        let bytes = source.read(ByteRange::at(at, READ_BYTES).intersect(&whole)).await?;
        if bytes.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(hasher.finish())
}

/// [`fingerprint`], of bytes that come piece by piece.
#[derive(Default)]
pub struct Fingerprinter(blake3::Hasher);

impl Fingerprinter {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(&self) -> Fingerprint {
        Fingerprint(*self.0.finalize().as_bytes())
    }
}
