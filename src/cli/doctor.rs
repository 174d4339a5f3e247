//! `ratchetfs doctor`: every check at once, each with its cure.

use std::fs;
use std::path::Path;

use super::args::DoctorArgs;
use super::failure::Failure;
use super::output::{one_line, print};
use super::units::{BucketAddress, show_bytes};
use super::{checks, resolve};
use crate::mount::{self, Found};
use crate::settings;

/// The kernel that brought FUSE passthrough.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);

/// What one look found.
enum Finding {
    Good(String),
    /// Works, but less well than it could.
    Note(String),
    Bad(String),
}

impl From<checks::Checked<String>> for Finding {
    fn from(checked: checks::Checked<String>) -> Self {
        checked.map_or_else(Finding::Bad, Finding::Good)
    }
}

pub fn run(args: DoctorArgs) -> Result<(), Failure> {
    let store = resolve::store(args.store)?;
    let read_only = args.read_only.unwrap_or(false);
    if args.policy {
        return print_policy(&store, args.bucket.as_ref(), read_only);
    }
    let cache_dir = resolve::cache_dir(args.cache_dir.as_deref())?;
    let mut findings = vec![
        checks::fuse_device().map(|()| "/dev/fuse can be used".to_owned()).into(),
        fusermount(),
        kernel(),
        cache(&cache_dir),
        clock(),
        credentials(&store),
    ];
    if let Some(address) = &args.bucket {
        findings.extend(bucket(&store, address, read_only));
    }
    let mut bad = 0;
    let mut text = String::new();
    for finding in &findings {
        let (mark, line) = match finding {
            Finding::Good(line) => ("ok  ", line),
            Finding::Note(line) => ("note", line),
            Finding::Bad(line) => ("BAD ", line),
        };
        bad += usize::from(matches!(finding, Finding::Bad(_)));
        text.push_str(&format!("{mark}  {}\n", one_line(line)));
    }
    print(&text)?;
    match bad {
        0 => Ok(()),
        1 => Err(Failure::Failed("one thing would stop a mount here".to_owned())),
        many => Err(Failure::Failed(format!("{many} things would stop a mount here"))),
    }
}

fn print_policy(
    store: &settings::StoreOptions,
    address: Option<&BucketAddress>,
    read_only: bool,
) -> Result<(), Failure> {
    let Some(BucketAddress { bucket, prefix }) = address else {
        return Err(Failure::Usage(
            "--policy is of a bucket; name it: ratchetfs doctor --policy s3://BUCKET[/PREFIX]"
                .to_owned(),
        ));
    };
    let policy = mount::policy(store, bucket, prefix, read_only)?;
    Ok(print(&format!("{policy}\n"))?)
}

/// Whether it answers; and where it does, what it allows.
fn bucket(
    store: &settings::StoreOptions,
    BucketAddress { bucket, prefix }: &BucketAddress,
    read_only: bool,
) -> Vec<Finding> {
    let bad = |error: anyhow::Error| vec![Finding::Bad(one_line(&format!("{error:#}")))];
    if let Err(error) = mount::probe(store, bucket, prefix) {
        return bad(error);
    }
    let rights = match mount::rights(store, bucket, prefix, read_only) {
        Ok(rights) => rights,
        Err(error) => return bad(error),
    };
    let told = rights.into_iter().map(|found| match found {
        Found::Granted(line) => Finding::Good(line),
        Found::Missed(line) => Finding::Note(line),
        Found::Refused(line) => Finding::Bad(line),
    });
    std::iter::once(Finding::Good(format!("bucket {bucket} answers"))).chain(told).collect()
}

fn fusermount() -> Finding {
    match (checks::fusermount(), checks::fusermount_path()) {
        (Err(line), _) => Finding::Bad(line),
        (Ok(()), Some(path)) => Finding::Good(format!("fusermount3 is {}", path.display())),
        (Ok(()), None) => {
            Finding::Note("no fusermount3; root does without, others cannot mount".into())
        }
    }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(found) if found >= PASSTHROUGH_SINCE => {
            Finding::Good(format!("kernel {release}: FUSE passthrough for root"))
        }
        Some(_) => {
            Finding::Note(format!("kernel {release}: no FUSE passthrough (6.9 and later have it)"))
        }
        None => Finding::Note("cannot tell the kernel's version".to_owned()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cache(dir: &Path) -> Finding {
    match checks::writable_dir(dir, "cache directory", "--cache-dir") {
        Err(line) => Finding::Bad(line),
        Ok(dir) => {
            let free = settings::disk_bytes(&dir).map_or(0, |disk| disk.free);
            Finding::Good(format!("cache directory {}, {} free", dir.display(), show_bytes(free)))
        }
    }
}

/// Signatures are good for 15 minutes: a clock that is never set soon makes every request fail.
fn clock() -> Finding {
    let mut now = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all-zero bytes are a valid timex that asks for nothing to be changed; adjtimex fills it.
    let state = unsafe { libc::adjtimex(now.as_mut_ptr()) };
    if state >= 0 && state != libc::TIME_ERROR {
        Finding::Good("the clock is kept in time".to_owned())
    } else {
        Finding::Note(
            "no service keeps the clock in time; stores refuse requests 15 minutes off".into(),
        )
    }
}

/// Asks for them, as a mount does; whether the store knows them, the bucket tells.
fn credentials(store: &settings::StoreOptions) -> Finding {
    if store.embedded.is_some() || store.no_sign_request {
        return Finding::Good("no credentials needed".to_owned());
    }
    match mount::identify(store) {
        Ok(source) => Finding::Good(format!("credentials from {source}")),
        Err(e) => Finding::Bad(one_line(&format!("{e:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version("6.18.0-rc1+"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("banana"), None);
        assert!((5, 15) < PASSTHROUGH_SINCE && (6, 18) > PASSTHROUGH_SINCE);
    }
}
