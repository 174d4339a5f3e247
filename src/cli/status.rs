//! `ratchetfs status`: every live mount, or one.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::args::StatusArgs;
use super::failure::Failure;
use super::output::{complain, print, print_anew};
use super::{show, targets};
use crate::clock;
use crate::control::client::{Client, MountId};
use crate::control::messages::MountStatus;
use crate::control::socket::{self, Socket};
use crate::control::{ControlError, mount_table};
use crate::private::uid;

/// A mount that says nothing for this long is named instead of waited for: its status waits for nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Places that were passed over are named one by one up to here: all users may make some in /tmp.
const PASSED_OVER_MAX: usize = 3;

pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    loop {
        let mounts = statuses(args)?;
        let text = if args.json { show::json(&mounts)? } else { as_text(&mounts) };
        if !args.watch {
            return Ok(print(&text)?);
        }
        if args.json {
            print(&text)?
        } else {
            print_anew(&text)?
        }
        clock::block_for(Duration::from_secs(1));
    }
}

fn statuses(args: &StatusArgs) -> Result<Vec<MountStatus>, Failure> {
    match &args.mount_point {
        Some(given) => Ok(vec![targets::live_mount(given)?.status_within(PATIENCE)?]),
        None => {
            let mut mounts = of_all();
            mounts.sort_by(|a, b| a.place.mount_point.cmp(&b.place.mount_point));
            Ok(mounts)
        }
    }
}

/// All are asked at the same time, so that one that hangs holds up no other.
fn of_all() -> Vec<MountStatus> {
    let found = socket::of_everybody();
    let asked: Vec<_> =
        found.sockets.into_iter().map(|socket| std::thread::spawn(move || ask(&socket))).collect();
    let mut mounts: Vec<MountStatus> = Vec::new();
    let mut silent = Vec::new();
    let mut told = HashSet::new();
    for (mount, answer) in asked.into_iter().filter_map(|asked| asked.join().ok()).flatten() {
        // It may have sockets in two places.
        if !told.insert(mount) {
            continue;
        }
        match answer {
            Ok(status) => mounts.push(status),
            // It ended between being found and being asked, and is no longer a mount.
            Err(error) if error.is_hang_up() => {}
            Err(error) => silent.push(error.to_string()),
        }
    }
    silent.iter().for_each(|line| complain(line));
    for line in found.passed_over.iter().take(PASSED_OVER_MAX) {
        complain(line);
    }
    if let more @ 1.. = found.passed_over.len().saturating_sub(PASSED_OVER_MAX) {
        complain(&format!("{more} more such places are passed over"));
    }
    if silent.is_empty() {
        tell_of_the_unreachable(&mounts);
    }
    mounts
}

fn ask(socket: &Socket) -> Option<(MountId, Result<MountStatus, ControlError>)> {
    let mut client = Client::live(socket)?;
    Some((client.mount().clone(), client.status_within(PATIENCE)))
}

/// Mounts that the kernel has, and that none of the sockets speaks for.
fn tell_of_the_unreachable(heard: &[MountStatus]) {
    let is_heard =
        |path: &Path| heard.iter().any(|status| Path::new(&status.place.mount_point) == path);
    let mine = |owner: Option<u32>| uid() == 0 || owner == Some(uid());
    for mounted in mount_table::ours().unwrap_or_default() {
        if mine(mounted.owner) && !is_heard(&mounted.mount_point) {
            complain(&targets::why_unreachable(&mounted));
        }
    }
}

fn as_text(mounts: &[MountStatus]) -> String {
    if mounts.is_empty() {
        return "nothing is mounted\n".to_owned();
    }
    mounts.iter().map(show::status).collect::<Vec<_>>().join("\n")
}
