//! What goes on after the calls that caused it have returned: [`WriteBack`] sends closed files, [`AttributeSaver`] saves
//! changed attributes.

pub mod misled;
pub mod saver;
mod waiting;
pub mod write_back;

pub use saver::AttributeSaver;
pub use write_back::WriteBack;
