//! What a draft is made of: its state, its parts and their memory. What is done with them is in the wings.

mod content;
mod draft;
mod memory;
mod objects;
mod part;

pub(in crate::writer) use content::Content;
pub(in crate::writer) use draft::{Core, Counts, EndedStaging, LastSeal};
pub use draft::{Draft, DraftProgress, Still, WriterSettings, Writers};
pub(in crate::writer) use memory::Held;
pub(in crate::writer) use objects::Put;
pub use objects::{Base, Published};
pub(in crate::writer) use part::{Claim, Memory, Open, Part, Places, Source};
