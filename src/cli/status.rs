//! `ratchetfs status`: every live mount, or one.

use std::time::Duration;

use super::args::StatusArgs;
use super::{Failure, complain, mount_table, print, show};
use crate::control::client::Client;
use crate::control::messages::MountStatus;

/// A mount that says nothing for this long is named instead of waited for: its status waits for nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    loop {
        let mounts = statuses(args)?;
        let text = if args.json { show::json(&mounts)? } else { as_text(&mounts) };
        if !args.watch {
            return print(&text);
        }
        let clear = if args.json { "" } else { CLEAR };
        print(&format!("{clear}{text}"))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn statuses(args: &StatusArgs) -> Result<Vec<MountStatus>, Failure> {
    match &args.mount_point {
        Some(given) => Ok(vec![live_mount(given)?.status_within(PATIENCE)?]),
        None => {
            let mut mounts = of_all();
            mounts.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
            Ok(mounts)
        }
    }
}

/// All are asked at the same time, so that one that hangs holds up nobody for longer than itself.
fn of_all() -> Vec<MountStatus> {
    let asked: Vec<_> = Client::of_all_mounts()
        .into_iter()
        .map(|mut client| std::thread::spawn(move || client.status_within(PATIENCE)))
        .collect();
    let mut mounts = Vec::new();
    for answer in asked.into_iter().filter_map(|asked| asked.join().ok()) {
        match answer {
            Ok(status) => mounts.push(status),
            // It ended between being found and being asked, and is no longer a mount.
            Err(error) if error.is_hang_up() => {}
            Err(error) => complain(&error.to_string()),
        }
    }
    mounts
}

/// The live mount at `given`.
pub fn live_mount(given: &std::path::Path) -> Result<Client, Failure> {
    let shown = given.display();
    let path = mount_table::resolve(given).map_err(|e| mount_table::unresolved(given, &e))?;
    Client::of_mount(&path)
        .ok_or_else(|| Failure::Failed(format!("no live mount at {shown}; see ratchetfs status")))
}

fn as_text(mounts: &[MountStatus]) -> String {
    if mounts.is_empty() {
        return "nothing is mounted\n".to_owned();
    }
    mounts.iter().map(show::status).collect::<Vec<_>>().join("\n")
}
