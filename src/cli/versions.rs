//! `ratchetfs versions` and `ratchetfs undelete`: of a mount's files through its socket; of a bucket's objects by
//! themselves.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::args::{UndeleteArgs, VersionsArgs};
use super::failure::Failure;
use super::output::{plain, print};
use super::units::show_bytes;
use super::{resolve, show, targets};
use crate::control::client::{Client, unexpected};
use crate::control::messages::{
    KeyVersion, KeyVersions, Request, Response, UndeleteOutcome, UndeletedKey,
};
use crate::mount;
use crate::store::Key;

pub fn versions(args: VersionsArgs) -> Result<(), Failure> {
    let VersionsArgs { target, json, store } = args;
    let store = resolve::store(store)?;
    let found = match object(&target)? {
        Target::Object { bucket, key } => mount::versions_in_store(&store, &bucket, &key)?,
        Target::File { mut client, below } => {
            match client.ask_patiently(&Request::Versions { path: below })? {
                Response::Versions(found) => found,
                other => return Err(unexpected(&other).into()),
            }
        }
    };
    if json {
        return Ok(print(&show::json(&found)?)?);
    }
    if found.versions.is_empty() {
        return Err(Failure::Failed(no_versions(&found.bucket, &found.key)));
    }
    Ok(print(&table(&found))?)
}

pub fn undelete(args: UndeleteArgs) -> Result<(), Failure> {
    let UndeleteArgs { targets, store } = args;
    let store = resolve::store(store)?;
    for target in &targets {
        let undeleted = match object(target)? {
            Target::Object { bucket, key } => mount::undelete_in_store(&store, &bucket, &key)?,
            Target::File { mut client, below } => {
                match client.ask_patiently(&Request::Undelete { path: below })? {
                    Response::Undeleted(undeleted) => undeleted,
                    other => return Err(unexpected(&other).into()),
                }
            }
        };
        print(&format!("{}\n", plain(&told(&undeleted)?)))?;
    }
    Ok(())
}

/// What is meant: an object, or a file of a live mount, which need not be there.
enum Target {
    Object { bucket: String, key: Key },
    File { client: Client, below: Vec<u8> },
}

fn object(target: &OsStr) -> Result<Target, Failure> {
    let Some(address) = target.as_bytes().strip_prefix(b"s3://") else {
        let given = Path::new(target);
        if given.is_dir() {
            let line = format!("{} is a directory; name a file", given.display());
            return Err(Failure::Usage(line));
        }
        let found = targets::in_live_mount(given)?;
        let below = found.path.strip_prefix(&found.mounted).unwrap_or(&found.path);
        return Ok(Target::File {
            below: below.as_os_str().as_bytes().to_vec(),
            client: found.client,
        });
    };
    let slash = address.iter().position(|byte| *byte == b'/').unwrap_or(address.len());
    let (bucket, key) = (&address[..slash], address.get(slash + 1..).unwrap_or_default());
    if bucket.is_empty() || key.is_empty() {
        let line = format!("{} names no object; write s3://BUCKET/KEY", target.display());
        return Err(Failure::Usage(line));
    }
    Ok(Target::Object { bucket: String::from_utf8_lossy(bucket).into_owned(), key: Key::new(key) })
}

fn no_versions(bucket: &str, key: &str) -> String {
    format!("there is no version of s3://{bucket}/{key}; check the name")
}

/// A line a version, the newest first.
fn table(found: &KeyVersions) -> String {
    let wide = |text: fn(&KeyVersion) -> &str| {
        found.versions.iter().map(|version| text(version).chars().count()).max().unwrap_or(0)
    };
    let ids = wide(|version| &version.id);
    let etags = wide(|version| version.etag.as_deref().unwrap_or("-"));
    let mut text = String::new();
    for version in &found.versions {
        let state = match (version.is_deleted, version.is_latest) {
            (false, true) => "current",
            (false, false) => "",
            (true, true) => "deleted, current",
            (true, false) => "deleted",
        };
        let size = version.len.map_or_else(|| "-".to_owned(), show_bytes);
        let etag = version.etag.as_deref().unwrap_or("-");
        let (id, when) = (&version.id, &version.last_modified);
        let line = format!("{id:ids$}  {when}  {size:>10}  {etag:etags$}  {state}");
        // Writing into a String cannot fail.
        _ = writeln!(text, "{}", plain(line.trim_end()));
    }
    text
}

/// What is said of what became of it.
fn told(undeleted: &UndeletedKey) -> Result<String, Failure> {
    let UndeletedKey { bucket, key, outcome } = undeleted;
    match outcome {
        UndeleteOutcome::Back(version) => Ok(format!(
            "s3://{bucket}/{key} is there again: version {} of {}, {}",
            version.id,
            version.last_modified,
            show_bytes(version.len.unwrap_or_default())
        )),
        UndeleteOutcome::Stands(version) => Ok(format!(
            "s3://{bucket}/{key} is there and was not deleted: its newest version is {} of {}",
            version.id, version.last_modified
        )),
        UndeleteOutcome::Gone => Err(Failure::Failed(format!(
            "no version of s3://{bucket}/{key} is left, so that it cannot be brought back: check the name, and \
             whether the bucket keeps versions"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: &str, len: Option<u64>, is_latest: bool) -> KeyVersion {
        KeyVersion {
            id: id.to_owned(),
            last_modified: "2026-11-01T12:00:00Z".to_owned(),
            is_latest,
            is_deleted: len.is_none(),
            etag: len.map(|len| format!("e{len}")),
            len,
        }
    }

    #[test]
    fn a_line_tells_a_version() {
        let versions = vec![
            version("long-id", None, true),
            version("id", Some(7), false),
            version("a\nb", Some(1 << 20), false),
        ];
        let found = KeyVersions { bucket: "b".to_owned(), key: "k".to_owned(), versions };
        let expected = "long-id  2026-11-01T12:00:00Z           -  -         deleted, current\n\
                        id       2026-11-01T12:00:00Z         7 B  e7\n\
                        a\\nb      2026-11-01T12:00:00Z    1.00 MiB  e1048576\n";
        assert_eq!(table(&found), expected);
    }
}
