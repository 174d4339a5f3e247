//! Multipart uploads: begun once, gone on with after a crash, and never sent the same part twice.
//!
//! An upload that a crash or a failed close left behind is *interrupted*: the journal still knows it and its
//! acknowledged parts. A new upload of the same key goes on with it ([`resume`]); a new upload of any other key
//! that produces a part which an interrupted upload holds, or an object that was completed before, has it copied inside
//! the store ([`reuse`]).
//!
//! From the bottom up: [`fingerprint`] tells equal bytes; [`outcome`], what became of a completion; [`create`] begins
//! an upload in the store, and ends those that were begun without an answer; [`interrupted`] keeps what has no writer;
//! [`session`] is one upload as journal and store agree on it; [`multipart`] brings its parts there by the cheapest way;
//! [`Uploads`] is what all of a mount share.
//!
//! Consistency: an upload id is journaled before its first part is sent, a part after its ETag came; with the id,
//! the mark that its object will have, which tells it from all objects of others.
//! What the journal says of an interrupted upload is believed only where ListParts agrees.
//! Retries: the store's own; an upload that the store forgot is begun again, once, and its parts are
//! asked of the caller again ([`UploadError::Restarted`]).
//! Cancellation: dropping a future leaves at most a part that the store has and the journal has not.
//! Crash: costs only what was not acknowledged.

mod create;
mod error;
mod fingerprint;
mod interrupted;
mod multipart;
mod outcome;
mod resume;
mod reuse;
mod session;
mod uploads;

pub use error::UploadError;
pub use fingerprint::{Fingerprinter, PartBytes};
pub use interrupted::{Interrupted, InterruptedUpload, describe};
pub use multipart::Upload;
pub use outcome::{Outcome, Proof};
pub use resume::UploadPlan;
pub use reuse::{Moving, TEMPORARY_PREFIX};
pub use session::Seal;
pub use uploads::Uploads;
