//! SIGINT and SIGTERM: the first asks for an orderly unmount, the second for one without waiting.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Counts the requests to end.
pub struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    /// From here on the signals no longer kill the process. Needs a tokio runtime.
    pub fn listen() -> io::Result<EndSignals> {
        Ok(EndSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next request to end. Cancel-safe. Its name is for the log.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
