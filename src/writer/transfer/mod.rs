//! A draft's bytes on their way: to the store while the writer goes on, and to where a crash leaves them.

pub(in crate::writer) mod pressure;
pub(in crate::writer) mod seal;
pub(in crate::writer) mod send;
pub(in crate::writer) mod streamed;
