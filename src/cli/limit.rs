//! `ratchetfs limit`: how fast a live mount may send, fetch and ask.

use super::args::LimitArgs;
use super::failure::Failure;
use super::output::print;
use super::{show, targets};
use crate::control::client::unexpected;
use crate::control::messages::{LimitChanges, Request, Response};

pub fn run(args: &LimitArgs) -> Result<(), Failure> {
    let mut client = targets::live_mount(&args.mount_point)?;
    let changes = LimitChanges { upload: args.up, download: args.down, requests: args.requests };
    match client.ask(&Request::Limit(changes))? {
        Response::Limits(rates) if args.json => print(&show::json(&rates)?)?,
        Response::Limits(rates) => print(&show::limits(&rates))?,
        other => return Err(unexpected(&other).into()),
    }
    Ok(())
}
