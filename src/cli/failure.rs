//! Why a command could not do what it was asked: the line that is shown, and with it the exit status.

use std::fmt;
use std::io;

use super::output::one_line;
use crate::control::ControlError;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Help or version: text for standard output, and no failure.
    Shown(String),
    /// The command line is wrong. One line.
    Usage(String),
    /// It could not be done. One line.
    Failed(String),
    /// As `Failed`, and the line has been shown.
    Told,
}

impl Failure {
    pub fn usage(line: String) -> Failure {
        Failure::Usage(line)
    }

    pub fn add(self, more: &str) -> Failure {
        match self {
            Failure::Usage(line) => Failure::Usage(line + more),
            Failure::Failed(line) => Failure::Failed(line + more),
            other => other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Shown(text) | Failure::Usage(text) | Failure::Failed(text) => {
                f.write_str(text)
            }
            Failure::Told => Ok(()),
        }
    }
}

impl From<String> for Failure {
    fn from(line: String) -> Self {
        Failure::Failed(line)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(one_line(&format!("{error:#}")))
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Failure::Failed(one_line(&error.to_string()))
    }
}
