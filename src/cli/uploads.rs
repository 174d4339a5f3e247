//! `ratchetfs uploads`: of live mounts through their sockets; without one, from the cache directory.

use std::path::{Component, Path};

use super::args::{
    UploadsAbort, UploadsArgs, UploadsChange, UploadsCommand, UploadsList, UploadsTarget,
};
use super::failure::Failure;
use super::output::{plain, print};
use super::targets::{self, Effect};
use super::{bucket_uploads, resolve, show, units};
use crate::control::client::{Client, unexpected};
use crate::control::messages::{Request, Response, Upload, UploadState};
use crate::control::mount_table;
use crate::mount::{self, UploadAction};

pub fn run(args: UploadsArgs) -> Result<(), Failure> {
    let (action, target, all) = match args.action {
        UploadsCommand::List(UploadsList { target, all: true }) => {
            return bucket_uploads::list(target);
        }
        UploadsCommand::List(UploadsList { target, .. }) => (UploadAction::List, target, true),
        UploadsCommand::Resume(UploadsChange { target, all }) => {
            (UploadAction::Resume, target, all)
        }
        UploadsCommand::Abort(UploadsAbort { change, older_than: Some(age), yes }) => {
            return bucket_uploads::abort(change.target, age, yes);
        }
        UploadsCommand::Abort(UploadsAbort { change: UploadsChange { target, all }, .. }) => {
            if all && target.keys.first().is_some_and(|it| bucket_uploads::is_a_bucket(it)) {
                return Err(Failure::Usage(
                    "--all of a bucket ends what others have begun there: say from which age on, such as \
                     --older-than 7d"
                        .to_owned(),
                ));
            }
            (UploadAction::Abort, target, all)
        }
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
                let path = mount_table::resolve(dir).unwrap_or_else(|_| dir.to_owned());
                return Err(Failure::Failed(format!(
                    "{}, or name its --cache-dir instead",
                    targets::no_live_mount(dir, &path)
                )));
            }
            None => None,
        },
    };
    let names: Vec<String> = keys.iter().map(|key| key.to_string_lossy().into_owned()).collect();
    let mounts = match named {
        Some(client) => vec![client],
        None if targets::is_cache_dir_said() => Vec::new(),
        None => meant_without_a_name(action, &names, all)?,
    };
    let uploads = if mounts.is_empty() {
        let dir = resolve::cache_dir(cache_dir.as_deref())?;
        mount::uploads_at_rest(&dir, &resolve::store(store)?, action, &names)?
    } else {
        through(mounts, action, &names)?
    };
    let text = if json { show::json(&uploads)? } else { told(action, &uploads) };
    Ok(print(&text)?)
}

/// The mounts that are meant where none is named. A key may be one of several mounts: then it names none of them.
fn meant_without_a_name(
    action: UploadAction,
    names: &[String],
    all: bool,
) -> Result<Vec<Client>, Failure> {
    const WHAT: &str = "the mount point, keys, or the --cache-dir";
    let effect = match action {
        UploadAction::List => Effect::Looks,
        UploadAction::Resume => Effect::Mends,
        UploadAction::Abort => Effect::Drops,
    };
    if names.is_empty() || all {
        return targets::unnamed(effect, all, WHAT);
    }
    let mut mounts = targets::unnamed(Effect::Looks, false, WHAT)?;
    if mounts.len() > 1 {
        mounts.retain_mut(|client| match client.ask(&Request::UploadsList) {
            Ok(Response::Uploads(uploads)) => {
                uploads.iter().any(|upload| names.iter().any(|name| upload.is_named(name)))
            }
            _ => false,
        });
    }
    if mounts.len() > 1 && effect != Effect::Looks {
        return Err(Failure::Usage(format!(
            "several mounts have uploads of these names; name the mount point too, or say --all: {}",
            targets::names_of(mounts).join(", ")
        )));
    }
    if mounts.is_empty() && !Client::of_own_mounts().is_empty() {
        return Err(unknown(&names[0]));
    }
    Ok(mounts)
}

fn unknown(name: &str) -> Failure {
    Failure::Failed(format!(
        "no live mount and no interrupted upload is named {name}; see ratchetfs uploads list"
    ))
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
    if let Some(stranger) = names.iter().find(|name| !is_known(name)) {
        return Err(unknown(stranger));
    }
    // A mount knows its own bucket.
    let plain = |name: &String| match name.strip_prefix("s3://").map(units::bucket_and_key) {
        Some((_, key)) if !key.is_empty() => key.to_owned(),
        _ => name.clone(),
    };
    let names: Vec<String> = names.iter().map(plain).collect();
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

/// The answers of all mounts; one that does not answer is not asked again. One that refuses is an error where no other
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
        UploadAction::Abort => {
            let dropped = uploads.iter().filter(|upload| is_closed(upload)).map(|upload| {
                let (key, bytes) = (plain(&upload.key), upload.bytes_total.unwrap_or(0));
                format!("dropped {key}: {bytes} bytes that were closed and not in the store\n")
            });
            dropped.chain([format!("{} uploads ended\n", uploads.len())]).collect()
        }
    }
}

/// A closed file that waited for its upload.
fn is_closed(upload: &Upload) -> bool {
    matches!(upload.state, UploadState::Pending | UploadState::Failed)
}
