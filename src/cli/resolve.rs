//! From what was said to settings: defaults filled in, contradictions refused. Looks at the machine
//! only for defaults; whether a mount is possible here is the business of [`super::checks`].

use std::path::{Path, PathBuf};

use super::args::{
    CacheTierArgs, CertificateArgs, FileArgs, MountArgs, RunArgs, StoreArgs, TransferArgs,
};
use super::failure::Failure;
use super::new_objects;
use super::units::{self, show_bytes};
use crate::settings::{
    CacheOptions, ClientCertificate, FileOptions, MEMORY_BYTES_MIN, MountSettings, PART_BYTES_MAX,
    PART_BYTES_MIN, RunOptions, StoreOptions, TransferOptions,
};
use crate::store::{Rates, s3};
use crate::without;

/// The settings of a mount. The mount point is still as it was given.
pub fn mount_settings(args: MountArgs) -> Result<MountSettings, Failure> {
    let MountArgs { bucket, mount_point, options, config: _ } = args;
    without::check().map_err(Failure::Usage)?;
    let settings = MountSettings {
        bucket: bucket.bucket,
        prefix: bucket.prefix,
        mount_point,
        store: store(options.store)?,
        cache: cache(options.cache)?,
        transfer: transfer(options.transfer),
        files: files(options.files),
        run: run(options.run)?,
    };
    refuse_contradictions(&settings)?;
    Ok(with_log_file(settings))
}

/// Which server, for every command that speaks to one.
pub fn store(args: StoreArgs) -> Result<StoreOptions, Failure> {
    let mut options = StoreOptions {
        // Read here and not by clap, which repeats a wrong value in its error: it may hold a secret.
        endpoint_url: args
            .endpoint_url
            .map(|url| units::endpoint_url(&url))
            .transpose()
            .map_err(|cure| Failure::Usage(format!("--endpoint-url: {cure}")))?,
        region: args.region,
        profile: args.profile,
        no_sign_request: args.no_sign_request.unwrap_or(false),
        provider: args.provider.unwrap_or_default(),
        addressing: args.addressing.unwrap_or_default(),
        client_certificate: client_certificate(&args.certificates)?,
        ca_bundle: args.certificates.ca_bundle.map(|file| absolute(&file)).transpose()?,
        requester_pays: args.requester_pays.unwrap_or(false),
        new_objects: new_objects::resolve(args.new_objects)?,
        embedded: args.embedded.map(|dir| absolute(&dir)).transpose()?,
        start_dir: std::env::current_dir().unwrap_or_else(|_| "/".into()),
    };
    refuse_store_contradictions(&options)?;
    if options.embedded.is_none() {
        say_as_aws_tools_do(&mut options)?;
    }
    new_objects::refuse_to_show_the_key(&options)?;
    if let Some(file) = &options.ca_bundle
        && let Err(e) = std::fs::File::open(file)
    {
        let file = file.display();
        return refuse(format!(
            "--ca-bundle (or AWS_CA_BUNDLE) {file}: {e}; name a readable PEM file"
        ));
    }
    Ok(options)
}

fn client_certificate(args: &CertificateArgs) -> Result<Option<ClientCertificate>, Failure> {
    match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (absolute(certificate)?, absolute(key)?);
            Ok(Some(ClientCertificate { certificate, key }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => refuse("--client-cert needs its private key beside it: --client-key"),
        (None, Some(_)) => refuse("--client-key needs its certificate beside it: --client-cert"),
    }
}

/// What was not said to this program but to all tools of AWS.
fn say_as_aws_tools_do(options: &mut StoreOptions) -> Result<(), Failure> {
    if options.endpoint_url.is_none()
        && let Some((url, place)) = s3::configured_endpoint(options.profile.as_deref())
    {
        let url = units::endpoint_url(&url);
        options.endpoint_url =
            Some(url.map_err(|cure| Failure::Usage(format!("{place}: {cure}")))?);
    }
    let bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|file| !file.is_empty());
    if let (None, Some(file)) = (&options.ca_bundle, bundle) {
        options.ca_bundle = Some(absolute(Path::new(&file))?);
    }
    Ok(())
}

/// The cache directory that was said, else the usual one.
pub fn cache_dir(said: Option<&Path>) -> Result<PathBuf, Failure> {
    said.map_or_else(|| Ok(CacheOptions::default_dir()), absolute)
}

fn cache(args: CacheTierArgs) -> Result<CacheOptions, Failure> {
    let dir = cache_dir(args.cache_dir.as_deref())?;
    Ok(CacheOptions {
        size: args.cache_size.unwrap_or_else(|| CacheOptions::default_size(&dir)),
        memory: args.memory.unwrap_or_else(CacheOptions::default_memory),
        metadata_ttl: args.metadata_ttl.unwrap_or_default(),
        dir,
    })
}

fn transfer(args: TransferArgs) -> TransferOptions {
    let usual = TransferOptions::default();
    TransferOptions {
        part_size: args.part_size.unwrap_or(usual.part_size),
        concurrency: args.concurrency.map_or(usual.concurrency, usize::from),
        rates: Rates {
            upload: args.upload_limit,
            download: args.download_limit,
            requests: args.request_limit,
        },
        max_attempts: args.max_attempts,
        timeout: args.timeout.unwrap_or(usual.timeout),
        on_outage: args.on_outage.unwrap_or(usual.on_outage),
        resume_expiry: args.resume_expiry.unwrap_or(usual.resume_expiry),
    }
}

fn files(args: FileArgs) -> FileOptions {
    // SAFETY: neither call has preconditions, and neither can fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let offline = args.offline.unwrap_or(false);
    let stands_still = offline || args.version_at.is_some();
    FileOptions {
        read_only: args.read_only.unwrap_or(false) || stands_still,
        write_back: args.write_back.unwrap_or(false) && !stands_still,
        fast_attributes: args.fast_attributes.unwrap_or(false),
        allow_other: args.allow_other.unwrap_or(false),
        uid: args.uid.unwrap_or(uid),
        gid: args.gid.unwrap_or(gid),
        file_mode: args.file_mode.unwrap_or(0o644),
        dir_mode: args.dir_mode.unwrap_or(0o755),
        content_type: args.content_type.unwrap_or(true),
        offline,
        version_at: args.version_at,
    }
}

fn run(args: RunArgs) -> Result<RunOptions, Failure> {
    Ok(RunOptions {
        foreground: args.foreground.unwrap_or(false),
        mount_timeout: args.mount_timeout,
        log_level: args.log_level.unwrap_or(log::LevelFilter::Info),
        log_file: args.log_file.map(|file| absolute(&file)).transpose()?,
        metrics_listen: args.metrics_listen,
    })
}

/// In the background standard error is not read.
fn with_log_file(mut settings: MountSettings) -> MountSettings {
    let run = &mut settings.run;
    if !run.foreground && run.log_file.is_none() {
        run.log_file = Some(settings.cache.dir.join("ratchetfs.log"));
    }
    settings
}

fn refuse_store_contradictions(store: &StoreOptions) -> Result<(), Failure> {
    let elsewhere = [
        (store.endpoint_url.is_some(), "--endpoint-url"),
        (store.profile.is_some(), "--profile"),
        (store.no_sign_request, "--no-sign-request"),
        (store.provider != Default::default(), "--provider"),
        (store.ca_bundle.is_some(), "--ca-bundle"),
        (store.client_certificate.is_some(), "--client-cert"),
    ];
    if store.embedded.is_some()
        && let Some((_, flag)) = elsewhere.iter().find(|(is_said, _)| *is_said)
    {
        return refuse(format!(
            "--embedded serves the bucket itself, so {flag} means nothing; drop one of them"
        ));
    }
    if store.no_sign_request && store.profile.is_some() {
        return refuse(
            "--no-sign-request sends no credentials, --profile names some; drop one of them",
        );
    }
    let certificate = store.client_certificate.as_ref();
    for (flag, file) in [
        ("--client-cert", certificate.map(|it| &it.certificate)),
        ("--client-key", certificate.map(|it| &it.key)),
    ] {
        if let Some(file) = file
            && let Err(e) = std::fs::File::open(file)
        {
            return refuse(format!("{flag} {}: {e}; name a readable PEM file", file.display()));
        }
    }
    Ok(())
}

fn refuse_contradictions(settings: &MountSettings) -> Result<(), Failure> {
    if settings.files.read_only && settings.files.write_back {
        return refuse("--read-only writes nothing back; drop it or --write-back");
    }
    if settings.files.offline && settings.cache.size == 0 {
        return refuse(
            "--offline reads what is on the disk, --cache-size 0 keeps nothing there; drop it",
        );
    }
    if settings.files.offline && settings.files.version_at.is_some() {
        return refuse(
            "--offline shows what was seen last, --version-at asks the store for what was; drop one of them",
        );
    }
    let part = settings.transfer.part_size;
    if part < PART_BYTES_MIN {
        return refuse(format!(
            "--part-size {} is below what S3 takes; choose 5MiB or more",
            show_bytes(part)
        ));
    }
    if part > PART_BYTES_MAX {
        return refuse(format!(
            "--part-size {} is above what S3 takes; choose 5GiB or less",
            show_bytes(part)
        ));
    }
    let memory = settings.cache.memory;
    if memory < MEMORY_BYTES_MIN {
        return refuse(format!(
            "--memory {} is too little; give 16MiB or more",
            show_bytes(memory)
        ));
    }
    // One part on its way out while the next one fills.
    if part.saturating_mul(2) > memory {
        return refuse(format!(
            "two parts of --part-size {} do not fit into --memory {}; lower the one or raise the other",
            show_bytes(part),
            show_bytes(memory)
        ));
    }
    Ok(())
}

fn refuse<T>(line: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Usage(line.into()))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|e| Failure::Usage(format!("{}: {e}; name a path", path.display())))
}
