//! `ratchetfs uploads`: of live mounts through their sockets; without one, from the cache directory.

use std::path::{Component, Path};

use super::args::{UploadsArgs, UploadsCommand, UploadsTarget};
use super::{Failure, mount_table, print, resolve, show};
use crate::control::client::{Client, unexpected};
use crate::control::messages::{Request, Response, Upload};
use crate::mount::{self, UploadAction};

pub fn run(args: UploadsArgs) -> Result<(), Failure> {
    let (action, target) = match args.action {
        UploadsCommand::List(target) => (UploadAction::List, target),
        UploadsCommand::Resume(target) => (UploadAction::Resume, target),
        UploadsCommand::Abort(target) => (UploadAction::Abort, target),
    };
    let UploadsTarget { mut keys, cache_dir, json, store } = target;
    let named = match keys.first().and_then(|first| live_mount_named(Path::new(first), action)) {
        Some(client) => {
            keys.remove(0);
            Some(client)
        }
        // A key never begins with a slash: what does is a mount point.
        None => match keys.first().map(Path::new).filter(|first| first.is_absolute()) {
            Some(dir) => {
                return Err(Failure::Failed(format!(
                    "no live mount at {}; see ratchetfs status, or name its --cache-dir instead",
                    dir.display()
                )));
            }
            None => None,
        },
    };
    let names: Vec<String> = keys.iter().map(|key| key.to_string_lossy().into_owned()).collect();
    let mounts = match (named, &cache_dir) {
        (Some(client), _) => vec![client],
        (None, Some(_)) => Vec::new(),
        (None, None) => Client::of_all_mounts(),
    };
    let uploads = if mounts.is_empty() {
        let dir = resolve::cache_dir(cache_dir.as_deref())?;
        mount::uploads_at_rest(&dir, &resolve::store(store)?, action, &names)?
    } else {
        through(mounts, action, &names)?
    };
    let text = if json { show::json(&uploads)? } else { told(action, &uploads) };
    print(&text)
}

/// The live mount at `path`. A plain relative path may also be meant as a key: where that makes a difference,
/// it is one, and a mount point is `./DIR`.
fn live_mount_named(path: &Path, action: UploadAction) -> Option<Client> {
    let is_plain = matches!(path.components().next(), Some(Component::Normal(_)));
    if is_plain && action != UploadAction::List {
        return None;
    }
    Client::of_mount(&mount_table::resolve(path).ok()?)
}

/// Asks each mount. A name that none of them knows is an error, and nothing is done then; one that some do not know
/// is not.
fn through(
    mut mounts: Vec<Client>,
    action: UploadAction,
    names: &[String],
) -> Result<Vec<Upload>, Failure> {
    let known = asked(&mut mounts, UploadAction::List, &Request::UploadsList)?;
    let is_known = |name: &&String| known.iter().any(|upload| upload.is_named(name));
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        return Err(Failure::Failed(format!(
            "no live mount and no interrupted upload is named {unknown}; see ratchetfs uploads list"
        )));
    }
    let names = names.to_vec();
    let mut uploads = match action {
        UploadAction::List => known,
        UploadAction::Resume => {
            asked(&mut mounts, action, &Request::UploadsResume { names: names.clone() })?
        }
        UploadAction::Abort => {
            asked(&mut mounts, action, &Request::UploadsAbort { names: names.clone() })?
        }
    };
    uploads.retain(|upload| names.is_empty() || names.iter().any(|name| upload.is_named(name)));
    Ok(uploads)
}

/// The answers of all mounts; who does not answer is not asked again. One that refuses is an error where no other
/// has anything to tell.
fn asked(
    mounts: &mut Vec<Client>,
    action: UploadAction,
    request: &Request,
) -> Result<Vec<Upload>, Failure> {
    let mut uploads = Vec::new();
    let mut refused: Option<Failure> = None;
    mounts.retain_mut(|client| {
        let answer = match action {
            // Told at once: a mount that hangs is not waited for.
            UploadAction::List => client.ask(request),
            UploadAction::Resume | UploadAction::Abort => client.ask_patiently(request),
        };
        match answer {
            Ok(Response::Uploads(those)) => {
                uploads.extend(those);
                return true;
            }
            Ok(other) => refused = Some(unexpected(&other).into()),
            Err(e) => refused = Some(e.into()),
        }
        false
    });
    match refused {
        Some(e) if uploads.is_empty() => Err(e),
        _ => Ok(uploads),
    }
}

fn told(action: UploadAction, uploads: &[Upload]) -> String {
    match action {
        UploadAction::List => show::uploads(uploads),
        UploadAction::Resume => format!("{} uploads go on\n", uploads.len()),
        UploadAction::Abort => format!("{} uploads ended\n", uploads.len()),
    }
}
