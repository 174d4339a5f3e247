//! What is said of a source that fails. The library's errors quote what helper programs print and what services answer;
//! none of it is shown: only what can be told without secrets (exit status, HTTP status, names of files and profiles).

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use aws_credential_types::provider::error::CredentialsError;

use crate::lock::{Mutex, rank};

/// Why there are no credentials: one line, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// None are set up.
    None,
    /// Those that are set up cannot be had.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::None => f.write_str("none were found"),
            Failure::Failed(line) => f.write_str(line),
        }
    }
}

/// What the HTTP client saw last of a service that gives credentials.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Option<String>, rank::CredentialNotes>>);

impl Notes {
    pub fn write(&self, line: String) {
        *self.0.lock() = Some(line);
    }

    pub fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

/// The library's own words of failures, and what is said in their place.
const KNOWN: [(&str, &str); 8] = [
    ("the SSO token has expired", "the session has ended"),
    ("cached SSO token", "its session cannot be read"),
    ("failed to read", "its session cannot be read"),
    ("Stderr:", "the program fails"),
    ("external process, could not parse", "its answer makes no sense"),
    (
        "URI did not refer to an allowed IP address",
        "plain http is for containers and loopback only",
    ),
    ("the auth token could not be used", "the authorization token is no line of text"),
    ("failed to perform DNS lookup", "its host is not known"),
];

/// Why a source failed.
pub fn cause_of(error: &CredentialsError) -> String {
    // What is not there: no answer was heard, these name profiles, settings and variables.
    if let (CredentialsError::CredentialsNotLoaded(_), Some(what)) = (error, error.source()) {
        return what.to_string();
    }
    let mut at: Option<&dyn Error> = Some(error);
    let mut known = None;
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind().to_string();
        }
        let text = error.to_string();
        if let Some(status) = exit_status(&text) {
            return format!("the program ends with {status}");
        }
        let found = KNOWN.iter().find(|(theirs, _)| text.contains(theirs));
        known = known.or(found.map(|(_, ours)| (*ours).to_owned()));
        // These name profiles and settings.
        if let Some((_, what)) = text.split_once("ProfileFile provider could not be built: ") {
            return what.to_owned();
        }
        at = error.source();
    }
    known.unwrap_or_else(|| "its answer makes no sense".to_owned())
}

/// What a helper program ended with, of the library's sentence about it.
fn exit_status(text: &str) -> Option<&str> {
    let (_, behind) = text.split_once("external process exited with code ")?;
    let (status, _) = behind.split_once(". Stderr:")?;
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_of_a_helper_is_told_and_nothing_that_it_said() {
        let text = "Error retrieving credentials: external process exited with code exit status: 3. \
                    Stderr: hunter2. Stderr: 4";
        let cause = cause_of(&CredentialsError::provider_error(text));
        assert_eq!(cause, "the program ends with exit status: 3");
        let text =
            "Error retrieving credentials from external process, could not parse response: hunter2";
        let cause = cause_of(&CredentialsError::provider_error(text));
        assert_eq!(cause, "its answer makes no sense");
        assert_eq!(cause_of(&CredentialsError::unhandled("hunter2")), "its answer makes no sense");
    }
}
