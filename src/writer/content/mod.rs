//! Where a draft's bytes are: into memory, to the local disk, and back out from wherever they are.

pub(in crate::writer) mod fill;
pub(in crate::writer) mod readback;
pub(in crate::writer) mod stage;
pub(in crate::writer) mod verify;
