//! The command that has started a mount, and waits for it.

use futures_util::future::BoxFuture;

/// What is told when a mount has come to be (a line worth knowing, mostly none), or cannot.
pub type Outcome = Result<Option<String>, String>;

/// The command that has started a mount, and waits until it has come to be or cannot.
pub trait Starter: Send + Sync + 'static {
    /// A line worth knowing meanwhile.
    fn meanwhile(&self, line: &str);

    /// Ends when the command was ended, and waits no more. Needs a runtime.
    fn gone(&self) -> BoxFuture<'static, ()>;

    /// How it went. For the first call.
    fn ready(&self, outcome: Outcome);
}
