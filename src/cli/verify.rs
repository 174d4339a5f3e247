//! `ratchetfs verify`: of a mount's files through its socket; of a bucket's objects by itself.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::VerifyArgs;
use super::failure::Failure;
use super::output::{plain, print};
use super::units::{self, show_bytes};
use super::{resolve, show, targets};
use crate::control::client::{Client, unexpected};
use crate::control::messages::{FileVerdict, Request, Response, VerifyDepth};
use crate::mount;
use crate::settings::StoreOptions;
use crate::store::Key;

pub fn run(args: VerifyArgs) -> Result<(), Failure> {
    let VerifyArgs { targets, cached, full, json, store } = args;
    let depth = match (cached, full) {
        (true, _) => VerifyDepth::Cached,
        (_, true) => VerifyDepth::Full,
        _ => VerifyDepth::AsNeeded,
    };
    let store = resolve::store(store)?;
    let mut told = Telling::new(json);
    for target in &targets {
        match target.to_str().and_then(|text| text.strip_prefix("s3://")) {
            Some(_) if cached => {
                let line = "--cached is for mounts: nothing is cached of an s3:// address";
                return Err(Failure::Usage(line.to_owned()));
            }
            Some(address) => in_store(&store, address, &mut told)?,
            None => in_mount(Path::new(target), depth, &mut told)?,
        }
    }
    told.end()
}

/// `BUCKET`, `BUCKET/PREFIX/` or `BUCKET/KEY`.
fn in_store(options: &StoreOptions, address: &str, told: &mut Telling) -> Result<(), Failure> {
    let (bucket, key) = units::bucket_and_key(address);
    if bucket.is_empty() {
        return Err(Failure::Usage("s3:// names no bucket; write s3://BUCKET/KEY".to_owned()));
    }
    let all_below = key.is_empty() || key.ends_with('/');
    let tell = |key: &Key, verdict: FileVerdict| {
        Ok(told.tell(format!("s3://{bucket}/{}", key.as_text()), verdict)?)
    };
    Ok(mount::verify_in_store(options, bucket, &Key::from(key), all_below, tell)?)
}

fn in_mount(given: &Path, depth: VerifyDepth, told: &mut Telling) -> Result<(), Failure> {
    let targets::InMount { mut client, mounted, path } = targets::in_live_mount(given)?;
    let mut left = vec![path];
    while let Some(path) = left.pop() {
        let unreadable = |e: io::Error| Failure::Failed(format!("{}: {e}", path.display()));
        let kind = fs::symlink_metadata(&path).map_err(unreadable)?.file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).map_err(unreadable)?;
            let entries: io::Result<Vec<PathBuf>> =
                entries.map(|entry| Ok(entry?.path())).collect();
            let mut entries = entries.map_err(unreadable)?;
            entries.sort_unstable_by(|one, other| other.cmp(one));
            left.extend(entries);
        } else if kind.is_file() {
            let verdict = ask(&mut client, &mounted, &path, depth)?;
            told.tell(path.display().to_string(), verdict)?;
        }
    }
    Ok(())
}

fn ask(
    client: &mut Client,
    mounted: &Path,
    path: &Path,
    depth: VerifyDepth,
) -> Result<FileVerdict, Failure> {
    let below = path.strip_prefix(mounted).unwrap_or(path);
    let request = Request::Verify { path: below.as_os_str().as_bytes().to_vec(), depth };
    match client.ask_patiently(&request)? {
        Response::File(verdict) => Ok(verdict),
        other => Err(unexpected(&other).into()),
    }
}

/// What was found, file by file.
struct Telling {
    json: bool,
    files: Vec<File>,
    proven: u64,
    unproven: u64,
    damaged: u64,
    bytes: u64,
    progress: ProgressBar,
}

#[derive(Serialize)]
struct File {
    name: String,
    /// `proven`, `unproven` or `damaged`.
    state: &'static str,
    #[serde(flatten)]
    verdict: FileVerdict,
}

#[derive(Serialize)]
struct Report<'a> {
    files: &'a [File],
    proven: u64,
    unproven: u64,
    damaged: u64,
}

impl Telling {
    fn new(json: bool) -> Telling {
        // Drawn on a terminal alone.
        let progress = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{pos} files, {msg} read") {
            progress.set_style(style);
        }
        let (files, proven, unproven, damaged, bytes) = Default::default();
        Telling { json, files, proven, unproven, damaged, bytes, progress }
    }

    fn tell(&mut self, name: String, verdict: FileVerdict) -> io::Result<()> {
        let (state, count) = match (&verdict.unproven, verdict.damaged.is_empty()) {
            (_, false) => ("damaged", &mut self.damaged),
            (Some(_), true) => ("unproven", &mut self.unproven),
            (None, true) => ("proven", &mut self.proven),
        };
        *count += 1;
        self.bytes += verdict.read_from_disk + verdict.read_from_store;
        self.progress.inc(1);
        self.progress.set_message(show_bytes(self.bytes));
        if self.json {
            self.files.push(File { name, state, verdict });
            return Ok(());
        }
        let line = line_of(&name, state, &verdict);
        self.progress.suspend(|| print(&line))
    }

    fn end(self) -> Result<(), Failure> {
        self.progress.finish_and_clear();
        let Telling { files, proven, unproven, damaged, bytes, .. } = &self;
        if self.json {
            let (proven, unproven, damaged) = (*proven, *unproven, *damaged);
            print(&show::json(&Report { files, proven, unproven, damaged })?)?;
        } else {
            let read = show_bytes(*bytes);
            print(&format!(
                "{proven} proven, {unproven} unproven, {damaged} damaged; {read} read\n"
            ))?;
        }
        match damaged {
            0 => Ok(()),
            1 => Err(Failure::Failed("one file is damaged".to_owned())),
            many => Err(Failure::Failed(format!("{many} files are damaged"))),
        }
    }
}

/// A line for each file, and one for each damage.
fn line_of(name: &str, state: &str, verdict: &FileVerdict) -> String {
    let name = plain(name);
    let why = match &verdict.unproven {
        Some(why) => format!(": {}", plain(why)),
        None if verdict.proven_by.is_empty() => String::new(),
        None => format!(": {}", plain(&verdict.proven_by.join(", "))),
    };
    let mut text = format!("{state:8} {name}{why}\n");
    for damage in &verdict.damaged {
        let (start, end) = (damage.start, damage.end);
        let place = match damage.place.as_str() {
            "cache" => "in the cache (dropped; fetched again when read)".to_owned(),
            other => format!("in the {}", plain(other)),
        };
        let (found, expected) = (plain(&damage.found), plain(&damage.expected));
        text += &format!("         bytes {start}..{end} {place}: {found} for {expected}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::messages::FileDamage;

    #[test]
    fn a_line_says_what_and_why() {
        let line = |state: &str, verdict: FileVerdict| line_of("a\nb", state, &verdict);
        let proven =
            FileVerdict { proven_by: vec!["md5 of the whole".into()], ..Default::default() };
        assert_eq!(line("proven", proven), "proven   a\\nb: md5 of the whole\n");
        let unproven = FileVerdict { unproven: Some("why".into()), ..Default::default() };
        assert_eq!(line("unproven", unproven), "unproven a\\nb: why\n");
        let damage = FileDamage {
            place: "store".into(),
            start: 1,
            end: 9,
            expected: "x".into(),
            found: "y".into(),
        };
        let damaged = FileVerdict { damaged: vec![damage], ..Default::default() };
        let told = line("damaged", damaged);
        assert_eq!(told, "damaged  a\\nb\n         bytes 1..9 in the store: y for x\n");
    }
}
