//! What new objects are to get, from what was said: values that no store knows are refused here, and not by the first
//! file that is written.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::args::NewObjectArgs;
use super::failure::Failure;
use crate::secret::Secret;
use crate::settings::{NewObjects, StoreOptions};
use crate::store::Tags;
use crate::store::s3::{CustomerKey, is_plain_http_elsewhere};

/// The canned ACLs of S3, and those that OSS (`default`) and TOS (`bucket-owner-entrusted`) have besides.
const CANNED_ACLS: [&str; 9] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "bucket-owner-entrusted",
    "default",
];

/// No file of a key is longer, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;

pub fn resolve(args: NewObjectArgs) -> Result<NewObjects, Failure> {
    refuse_unknown_values(&args)?;
    let is_kms = args.sse.as_deref().is_some_and(|sse| sse.starts_with("aws:kms"));
    if args.sse_kms_key_id.is_some() && !is_kms {
        return refuse("--sse-kms-key-id needs --sse aws:kms (or aws:kms:dsse) beside it");
    }
    if args.sse.is_some() && args.sse_c_key_file.is_some() {
        return refuse(
            "--sse has the store keep a key, --sse-c-key-file names one of your own; drop one of them",
        );
    }
    let tags = args.tagging.as_deref().map(Tags::parse).transpose();
    let tags = tags.map_err(|what| {
        Failure::Usage(format!("--tagging: {what}; write them as 'team=web&kind=page'"))
    })?;
    Ok(NewObjects {
        storage_class: args.storage_class,
        sse: args.sse,
        sse_kms_key_id: args.sse_kms_key_id,
        customer_key: args.sse_c_key_file.as_deref().map(customer_key).transpose()?,
        acl: args.acl,
        tags: tags.unwrap_or_default(),
    })
}

/// What is in the file is not repeated in an error.
fn customer_key(file: &Path) -> Result<CustomerKey, Failure> {
    let shown = file.display();
    let mut content = Vec::with_capacity(KEY_FILE_BYTES_MAX as usize);
    let read = File::open(file)
        .and_then(|opened| opened.take(KEY_FILE_BYTES_MAX).read_to_end(&mut content));
    let content = Secret::new(content);
    if let Err(e) = read {
        return refuse(format!("--sse-c-key-file {shown}: {e}; name a readable file"));
    }
    CustomerKey::read(&content).ok_or_else(|| {
        Failure::Usage(format!(
            "--sse-c-key-file {shown} holds no key; make one: openssl rand -base64 32"
        ))
    })
}

/// The key goes with each request.
pub fn refuse_to_show_the_key(store: &StoreOptions) -> Result<(), Failure> {
    let is_exposed = store.endpoint_url.as_deref().is_some_and(is_plain_http_elsewhere);
    if store.new_objects.customer_key.is_some() && is_exposed {
        return refuse("--sse-c-key-file would send the key as plain text; use an https endpoint");
    }
    Ok(())
}

fn refuse_unknown_values(args: &NewObjectArgs) -> Result<(), Failure> {
    if let Some(sse) = &args.sse
        && !["AES256", "aws:kms", "aws:kms:dsse"].contains(&sse.as_str())
    {
        return refuse(format!("--sse {sse:?} is unknown; choose AES256, aws:kms or aws:kms:dsse"));
    }
    if let Some(acl) = &args.acl
        && !CANNED_ACLS.contains(&acl.as_str())
    {
        return refuse(format!(
            "--acl {acl:?} is unknown; choose one of {}",
            CANNED_ACLS.join(", ")
        ));
    }
    // Ceph and MinIO let administrators name their own classes, so only the form can be checked.
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if let Some(class) = &args.storage_class
        && (class.is_empty() || !class.chars().all(in_name))
    {
        return refuse(format!(
            "--storage-class {class:?} cannot be a class; write one such as STANDARD_IA"
        ));
    }
    Ok(())
}

fn refuse<T>(line: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Usage(line.into()))
}
