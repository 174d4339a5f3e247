//! `ratchetfs status`: every live mount, or one.

use std::time::Duration;

use super::args::StatusArgs;
use super::{Failure, mount_table, print, show};
use crate::control::client::Client;
use crate::control::messages::MountStatus;

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
        Some(given) => Ok(vec![live_mount(given)?.status()?]),
        None => {
            // A mount that ends between being found and being asked is no longer a mount.
            let mut mounts: Vec<MountStatus> = Client::of_all_mounts()
                .iter_mut()
                .filter_map(|client| client.status().ok())
                .collect();
            mounts.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
            Ok(mounts)
        }
    }
}

/// The live mount at `given`.
pub fn live_mount(given: &std::path::Path) -> Result<Client, Failure> {
    let shown = given.display();
    let path = mount_table::resolve(given).map_err(|e| format!("{shown}: {e}"))?;
    Client::of_mount(&path)
        .ok_or_else(|| Failure::Failed(format!("no live mount at {shown}; see ratchetfs status")))
}

fn as_text(mounts: &[MountStatus]) -> String {
    if mounts.is_empty() {
        return "nothing is mounted\n".to_owned();
    }
    mounts.iter().map(show::status).collect::<Vec<_>>().join("\n")
}
