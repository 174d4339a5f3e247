//! `ratchetfs uploads list --all` and `abort --all --older-than`: all uploads that a bucket has, those of other machines and
//! programs too. What a mount of this machine has in its journal is never ended here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;

use super::args::UploadsTarget;
use super::failure::Failure;
use super::output::{confirm, plain, print};
use super::units::{self, show_bytes};
use super::{resolve, show, targets};
use crate::control::client::{Client, unexpected};
use crate::control::messages::{
    BucketUpload, KnownUploads, Request, Response, StoredParts, UploadName,
};
use crate::control::mount_table;
use crate::mount::{self, BucketUploads};

/// Uploads that are asked about, or ended, by one request to a mount; the bar moves on as often.
const TOGETHER: usize = 64;

/// Whether an argument names a bucket: by its address, or by where it is mounted.
pub fn is_a_bucket(argument: &OsStr) -> bool {
    let path = Path::new(argument);
    argument.to_string_lossy().starts_with("s3://")
        || path.is_absolute()
        || mount_table::resolve(path).is_ok_and(|path| Client::of_mount(&path).is_some())
}

pub fn list(target: UploadsTarget) -> Result<(), Failure> {
    let json = target.json;
    let mut rows = Vec::new();
    for mut bucket in buckets(&target)? {
        let (begun, known) = bucket.begun(&target)?;
        rows.extend(bucket.with_parts(begun, &known)?);
    }
    if json {
        return Ok(print(&show::json(&rows)?)?);
    }
    let text = if rows.is_empty() { "no interrupted uploads\n".to_owned() } else { table(&rows) };
    Ok(print(&text)?)
}

pub fn abort(target: UploadsTarget, older_than: Duration, yes: bool) -> Result<(), Failure> {
    if target.keys.is_empty() {
        let line =
            "--older-than is of one bucket: name s3://BUCKET[/PREFIX], or where it is mounted";
        return Err(Failure::Usage(line.to_owned()));
    }
    if target.json && !yes {
        return Err(Failure::Usage("--json asks nothing: say --yes too".to_owned()));
    }
    // One is named.
    let Some(mut bucket) = buckets(&target)?.pop() else { return Ok(()) };
    let (mut begun, known) = bucket.begun(&target)?;
    begun.retain(|upload| {
        let is_old = upload.age_seconds.is_some_and(|age| age >= older_than.as_secs());
        is_old && !is_ours(&known, &upload.name)
    });
    let names: Vec<UploadName> = begun.iter().map(|upload| upload.name.clone()).collect();
    let rows = bucket.with_parts(begun, &known)?;
    if !target.json {
        print(&table(&rows))?;
    }
    if !yes && !names.is_empty() {
        match confirm(&format!("end them, {} in all?", sum(&rows)))? {
            Some(true) => {}
            Some(false) => return Err(Failure::Failed("nothing was ended".to_owned())),
            None => {
                let line = "there is no terminal to ask on, and nothing was ended; say --yes";
                return Err(Failure::Usage(line.to_owned()));
            }
        }
    }
    bucket.end(&names)?;
    if target.json {
        return Ok(print(&show::json(&rows)?)?);
    }
    Ok(print(&format!("{} ended\n", sum(&rows)))?)
}

/// An upload, as it is shown.
#[derive(Serialize)]
struct Row {
    bucket: String,
    key: String,
    upload_id: String,
    age_seconds: Option<u64>,
    parts: u64,
    bytes: u64,
    /// A mount of this machine has it in its journal.
    ours: bool,
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let age = row.age_seconds.map_or("of unknown age".to_owned(), |age| {
            format!("{} old", humantime::format_duration(Duration::from_secs(age)))
        });
        let whose = if row.ours { "of this machine" } else { "of another" };
        let line = format!(
            "s3://{}/{}  {} parts, {}, {age}, {whose}  {}",
            row.bucket,
            row.key,
            row.parts,
            show_bytes(row.bytes),
            row.upload_id
        );
        text += &plain(&line);
        text.push('\n');
    }
    text
}

fn sum(rows: &[Row]) -> String {
    let bytes = rows.iter().map(|row| row.bytes).sum();
    match rows.len() {
        1 => format!("1 upload, {}", show_bytes(bytes)),
        many => format!("{many} uploads, {}", show_bytes(bytes)),
    }
}

fn is_ours(known: &[KnownUploads], upload: &UploadName) -> bool {
    known.iter().any(|known| known.has(upload))
}

/// A bucket, and the way to ask it.
struct Bucket {
    name: String,
    way: Way,
}

enum Way {
    /// A live mount asks, as it does for itself.
    Mount(Client),
    Store(BucketUploads),
}

/// The buckets that are meant: one that is named, or those that are mounted.
fn buckets(target: &UploadsTarget) -> Result<Vec<Bucket>, Failure> {
    let clients = match target.keys.as_slice() {
        [] => Client::of_own_mounts(),
        [one] => match one.to_str().filter(|text| text.starts_with("s3://")) {
            Some(address) => {
                let units::BucketAddress { bucket, prefix } =
                    units::bucket_address(address).map_err(Failure::Usage)?;
                let options = resolve::store(target.store.clone())?;
                let way = Way::Store(BucketUploads::reach(&options, &bucket, prefix)?);
                return Ok(vec![Bucket { name: bucket, way }]);
            }
            None => vec![targets::live_mount(Path::new(one))?],
        },
        _ => {
            let line = "--all is of one bucket: name s3://BUCKET[/PREFIX], or where it is mounted";
            return Err(Failure::Usage(line.to_owned()));
        }
    };
    if clients.is_empty() {
        let line = "nothing is mounted: name s3://BUCKET[/PREFIX]";
        return Err(Failure::Usage(line.to_owned()));
    }
    let named = clients.into_iter().map(|mut client| {
        let name = client.status()?.place.bucket;
        Ok(Bucket { name, way: Way::Mount(client) })
    });
    named.collect()
}

impl Bucket {
    /// All that the bucket has, the oldest first; and what journals know, asked for after that.
    fn begun(
        &mut self,
        target: &UploadsTarget,
    ) -> Result<(Vec<BucketUpload>, Vec<KnownUploads>), Failure> {
        let mut begun = match &mut self.way {
            Way::Store(store) => store.begun()?,
            Way::Mount(client) => match client.ask_patiently(&Request::BucketUploads)? {
                Response::BucketUploads(uploads) => uploads,
                other => return Err(unexpected(&other).into()),
            },
        };
        begun.sort_by_key(|upload| std::cmp::Reverse(upload.age_seconds));
        Ok((begun, known_uploads(&self.name, target.cache_dir.as_deref())?))
    }

    /// The same with what the store has of each; what has ended meanwhile is left out.
    fn with_parts(
        &mut self,
        begun: Vec<BucketUpload>,
        known: &[KnownUploads],
    ) -> Result<Vec<Row>, Failure> {
        // Drawn on a terminal alone.
        let progress = ProgressBar::new(begun.len() as u64);
        let mut rows = Vec::with_capacity(begun.len());
        for together in begun.chunks(TOGETHER) {
            let names: Vec<UploadName> = together.iter().map(|it| it.name.clone()).collect();
            let parts = self.parts(names)?;
            for (upload, parts) in together.iter().zip(parts) {
                let Some(StoredParts { parts, bytes }) = parts else { continue };
                rows.push(Row {
                    bucket: self.name.clone(),
                    key: upload.name.key.to_string(),
                    upload_id: upload.name.upload_id.0.clone(),
                    age_seconds: upload.age_seconds,
                    parts,
                    bytes,
                    ours: is_ours(known, &upload.name),
                });
            }
            progress.inc(together.len() as u64);
        }
        progress.finish_and_clear();
        Ok(rows)
    }

    fn parts(&mut self, uploads: Vec<UploadName>) -> Result<Vec<Option<StoredParts>>, Failure> {
        match &mut self.way {
            Way::Store(store) => Ok(store.parts(&uploads)?),
            Way::Mount(client) => {
                match client.ask_patiently(&Request::BucketUploadParts { uploads })? {
                    Response::BucketUploadParts(parts) => Ok(parts),
                    other => Err(unexpected(&other).into()),
                }
            }
        }
    }

    fn end(&mut self, names: &[UploadName]) -> Result<(), Failure> {
        let progress = ProgressBar::new(names.len() as u64);
        for together in names.chunks(TOGETHER) {
            let uploads = together.to_vec();
            let ended = match &mut self.way {
                Way::Store(store) => store.end(&uploads).map_err(Failure::from),
                Way::Mount(client) => {
                    match client.ask_patiently(&Request::BucketUploadsEnd { uploads }) {
                        Ok(Response::Done) => Ok(()),
                        Ok(other) => Err(unexpected(&other).into()),
                        Err(error) => Err(error.into()),
                    }
                }
            };
            ended.map_err(|failure| {
                failure.add(&format!(" ({} were ended before)", progress.position()))
            })?;
            progress.inc(together.len() as u64);
        }
        progress.finish_and_clear();
        Ok(())
    }
}

/// What the journals of this machine know of a bucket's uploads: those of live mounts, and of the cache directory.
///
/// # Errors
/// A mount of the bucket cannot be asked, or a journal not be read: what is of this machine is not known then.
fn known_uploads(bucket: &str, cache_dir: Option<&Path>) -> Result<Vec<KnownUploads>, Failure> {
    let mut known = Vec::new();
    for mut client in mounts_of(bucket)? {
        match client.ask(&Request::KnownUploads) {
            Ok(Response::KnownUploads(one)) => known.push(one),
            Ok(other) => return Err(unexpected(&other).into()),
            // It has ended: its journal is at rest.
            Err(error) if error.is_hang_up() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (at_rest, mounted) = mount::known_at_rest(&resolve::cache_dir(cache_dir)?, bucket)?;
    let plain = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let asked: Vec<PathBuf> = known.iter().map(|it| plain(Path::new(&it.folder))).collect();
    if let Some(folder) = mounted.iter().find(|folder| !asked.contains(&plain(folder))) {
        return Err(Failure::Failed(format!(
            "a process works in {}, and cannot be asked which uploads are its own; see ratchetfs status",
            folder.display()
        )));
    }
    known.extend(at_rest);
    known.retain(|known| known.bucket == bucket);
    Ok(known)
}

/// The live mounts that may be of a bucket: those that the kernel has, and this user's that it has elsewhere.
fn mounts_of(bucket: &str) -> Result<Vec<Client>, Failure> {
    let (mut meant, mut others) = (Vec::new(), Vec::new());
    for mounted in mount_table::ours()? {
        let client = Client::of_mount(&mounted.mount_point);
        let source = mounted.source.strip_prefix("s3://").unwrap_or_default();
        match client {
            Some(client) if source.split('/').next() == Some(bucket) => meant.push(client),
            Some(client) => others.push(client.mount().clone()),
            None if source.split('/').next() == Some(bucket) => {
                let why = targets::why_unreachable(&mounted);
                let line = format!("which uploads are of this machine cannot be told: {why}");
                return Err(Failure::Failed(line));
            }
            None => {}
        }
    }
    let is_new = |client: &Client| {
        !others.contains(client.mount())
            && meant.iter().all(|it: &Client| it.mount() != client.mount())
    };
    let elsewhere: Vec<Client> = Client::of_own_mounts().into_iter().filter(is_new).collect();
    meant.extend(elsewhere);
    Ok(meant)
}
