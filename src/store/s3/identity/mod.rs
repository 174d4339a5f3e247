//! Credentials: looked for where every AWS tool looks, in its order, held, and renewed.
//!
//! - `chain`: the sources, asked in order; `failure`: what is said of one that fails, without secrets;
//! - `profile`: the AWS configuration files; `web`: the HTTP client of the services that give credentials;
//! - `cache`: credentials that are held, and renewed before they expire.
//!
//! Environment, profiles (keys, roles, SSO, web identity, `credential_process`), web identity, ECS and EKS, IMDSv2: by the
//! library of AWS's own tools.

mod cache;
mod chain;
mod failure;
mod profile;
mod web;

pub use cache::{Cache, Held, NO_CREDENTIALS};
pub use chain::open;
pub use profile::{Profile, configured_endpoint, variable};
#[cfg(test)]
pub use {cache::Source, failure::Failure};
