//! What tells equal bytes: fingerprints of parts.

use std::sync::Arc;

use bytes::Bytes;

use crate::checked::Sum;
use crate::journal::Fingerprint;
use crate::range::ByteRange;
use crate::store::{ETag, PartBody, PartSource, Summed};

/// The bytes of a part that is to be stored.
#[derive(Clone)]
pub enum PartBytes {
    /// In memory.
    Whole(Summed),
    /// Read from where they are, compared with their checksums there.
    Streamed(Arc<dyn PartSource>),
}

impl From<Summed> for PartBytes {
    fn from(summed: Summed) -> PartBytes {
        PartBytes::Whole(summed)
    }
}

impl From<Bytes> for PartBytes {
    fn from(bytes: Bytes) -> PartBytes {
        Summed::from(bytes).into()
    }
}

impl PartBytes {
    /// Their fingerprint, and what is sent. Those that are streamed are read once for both.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn fingerprinted(self) -> std::io::Result<(Fingerprint, PartBody)> {
        /// Bytes read at a time.
        const READ_BYTES: u64 = 1 << 20;
        let source = match self {
            PartBytes::Whole(summed) => return Ok((fingerprint(&summed.bytes), summed.into())),
            PartBytes::Streamed(source) => source,
        };
        let (mut hasher, mut sum) = (Fingerprinter::default(), Sum::EMPTY);
        let whole = ByteRange::new(0, source.len());
        while sum.len < whole.end() {
            let bytes = source.read(ByteRange::at(sum.len, READ_BYTES).intersect(&whole)).await?;
            if bytes.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&bytes);
            sum = sum.then_bytes(&bytes);
        }
        Ok((hasher.finish(), PartBody::Read(source, sum)))
    }
}

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
