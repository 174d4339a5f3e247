//! `ratchetfs cache`: of live mounts through their sockets; without one, in the cache directory.

use super::args::{CacheArgs, CacheChange, CacheCommand, CacheTarget};
use super::failure::Failure;
use super::output::{plain, print};
use super::targets::{self, Effect};
use super::units::show_bytes;
use super::{resolve, show};
use crate::control::client::{Client, unexpected};
use crate::control::messages::{CacheState, CacheVerdict, Request, Response};
use crate::mount::{self, CacheAction};

pub fn run(args: &CacheArgs) -> Result<(), Failure> {
    let (action, request, effect, target, all) = match &args.action {
        CacheCommand::Info(target) => {
            (CacheAction::Info, Request::CacheInfo, Effect::Looks, target, false)
        }
        CacheCommand::Verify(CacheChange { target, all }) => {
            (CacheAction::Verify, Request::CacheVerify, Effect::Mends, target, *all)
        }
        CacheCommand::Clear(CacheChange { target, all }) => {
            (CacheAction::Clear, Request::CacheClear, Effect::Drops, target, *all)
        }
    };
    let mut mounts = mounts(target, effect, all)?;
    let answers = if mounts.is_empty() {
        mount::cache_at_rest(&resolve::cache_dir(target.cache_dir.as_deref())?, action)?
    } else {
        let ask = |client: &mut Client| client.ask_patiently(&request);
        mounts.iter_mut().map(ask).collect::<Result<Vec<_>, _>>()?
    };
    print(&told(&answers, target.json)?)?;
    match damaged_bytes(&answers) {
        0 => Ok(()),
        bytes => Err(Failure::Failed(format!(
            "{} were damaged and have been dropped; they are fetched again when read",
            show_bytes(bytes)
        ))),
    }
}

/// The mounts that are meant; none where a cache directory is.
fn mounts(target: &CacheTarget, effect: Effect, all: bool) -> Result<Vec<Client>, Failure> {
    match &target.mount_point {
        Some(given) => Ok(vec![targets::live_mount(given)?]),
        None if targets::is_cache_dir_said() => Ok(Vec::new()),
        None => targets::unnamed(effect, all, "the mount point or the --cache-dir"),
    }
}

fn damaged_bytes(answers: &[Response]) -> u64 {
    let damaged = |answer: &Response| match answer {
        Response::Verified(verdict) => verdict.damaged_bytes,
        _ => 0,
    };
    answers.iter().map(damaged).sum()
}

/// All answers are of one kind: that of the question.
fn told(answers: &[Response], as_json: bool) -> Result<String, Failure> {
    let mut states: Vec<&CacheState> = Vec::new();
    let mut verdict: Option<CacheVerdict> = None;
    let mut cleared: Option<u64> = None;
    for answer in answers {
        match answer {
            Response::Cache(state) => states.push(state),
            Response::Verified(one) => {
                let sum = verdict.get_or_insert_default();
                sum.checked_bytes += one.checked_bytes;
                sum.damaged_bytes += one.damaged_bytes;
            }
            Response::Cleared(bytes) => *cleared.get_or_insert(0) += bytes,
            other => return Err(unexpected(other).into()),
        }
    }
    match (verdict, cleared) {
        (Some(verdict), _) if as_json => show::json(&verdict),
        (Some(verdict), _) => {
            Ok(format!("{} read and compared\n", show_bytes(verdict.checked_bytes)))
        }
        (None, Some(bytes)) if as_json => {
            show::json(&serde_json::json!({ "cleared_bytes": bytes }))
        }
        (None, Some(bytes)) => Ok(format!("{} freed\n", show_bytes(bytes))),
        (None, None) if as_json => show::json(&states),
        (None, None) if states.is_empty() => Ok("nothing is cached\n".to_owned()),
        (None, None) => {
            Ok(states.iter().map(|state| plain(&show::cache(state)).into_owned() + "\n").collect())
        }
    }
}
