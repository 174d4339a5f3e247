//! What a draft is made of: its state, its parts and their memory. What is done with them is in the modules beside this one.

mod content;
mod draft;
mod draft_state;
mod memory;
mod objects;
mod part;
mod sums;
mod transfer;

pub(in crate::writer) use content::Content;
pub(in crate::writer) use draft::EndedStaging;
pub use draft::{Draft, DraftProgress, WriterSettings, Writers};
pub(in crate::writer) use draft_state::{DraftState, LastSeal};
pub(in crate::writer) use memory::{Held, Memory, NotPut, Open, SealedMemory};
pub(in crate::writer) use objects::Put;
pub use objects::{Base, Published};
pub(in crate::writer) use part::{Claim, Part, Places, Source};
pub(in crate::writer) use transfer::Counts;
