//! A draft's bytes on their way: to the store while the writer goes on, and to where a crash leaves them.

pub(in crate::writer) mod pressure;
mod seal;
mod send;
mod streamed;
