//! What the store holds, and what each request makes of it, as S3 does. Pure: a request is applied at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::range::ByteRange;
use crate::store::retry::settle::{hex, multipart_etag};
use crate::store::{
    Capabilities, Carried, CopyRequest, ETag, ErrorKind, Key, ListedObject, ListedUpload, Metadata,
    ObjectHead, Precondition, Result, StoreError, StoredPart, Tags, UploadId, WriteOptions,
};

/// What stores answer for a folder that no object makes.
const ETAG_OF_A_FOLDER: &str = "d41d8cd98f00b204e9800998ecf8427e-0";

const PARTS_MAX: u32 = 10_000;

/// What an error says that has this kind.
pub(super) fn error(kind: ErrorKind, operation: &'static str) -> StoreError {
    StoreError::new(kind, operation, format!("{kind:?}, says the store in memory"))
}

#[derive(Clone)]
pub(super) struct Object {
    pub bytes: Bytes,
    pub head: ObjectHead,
    /// Where the ETag is that.
    pub md5: Option<[u8; 16]>,
}

impl Object {
    pub fn listed(&self, key: &[u8]) -> ListedObject {
        ListedObject {
            key: Key::new(key),
            etag: self.head.etag.clone(),
            len: self.head.len,
            last_modified: self.head.last_modified,
            storage_class: self.head.carried.storage.class.clone(),
        }
    }
}

struct Upload {
    key: Key,
    options: WriteOptions,
    initiated: SystemTime,
    parts: BTreeMap<u32, (ETag, Bytes)>,
}

pub(super) struct Bucket {
    pub objects: BTreeMap<Vec<u8>, Object>,
    /// Those that stay when what was in them is gone, where the store keeps them.
    pub folders: BTreeSet<Vec<u8>>,
    uploads: BTreeMap<String, Upload>,
    capabilities: Capabilities,
    /// How often something was made or changed: its time, and what ids are made of.
    changes: u64,
}

impl Bucket {
    pub fn new(capabilities: Capabilities) -> Bucket {
        Bucket {
            objects: BTreeMap::new(),
            folders: BTreeSet::new(),
            uploads: BTreeMap::new(),
            capabilities,
            changes: 0,
        }
    }

    /// Each change is made a second after the one before.
    fn next_time(&mut self) -> SystemTime {
        self.changes += 1;
        UNIX_EPOCH + Duration::from_secs(1_000_000 + self.changes)
    }

    fn object(&self, operation: &'static str, key: &Key) -> Result<&Object> {
        self.objects.get(key.as_bytes()).ok_or_else(|| error(ErrorKind::NotFound, operation))
    }

    /// The object, in the version that is meant; no condition can be sent of a weak ETag.
    fn source(
        &self,
        operation: &'static str,
        key: &Key,
        if_match: Option<&ETag>,
    ) -> Result<&Object> {
        let object = self.object(operation, key)?;
        match if_match.filter(|etag| !etag.is_weak()) {
            Some(etag) if *etag != object.head.etag => {
                Err(error(ErrorKind::PreconditionFailed, operation))
            }
            _ => Ok(object),
        }
    }

    pub fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Object> {
        const OPERATION: &str = "GetObject";
        let object = self.source(OPERATION, key, Some(if_match))?;
        if range.is_empty() {
            return Err(error(ErrorKind::Invalid, OPERATION));
        }
        if range.end() > object.head.len {
            return Err(error(ErrorKind::InvalidRange, OPERATION));
        }
        // The client compares what a store ignores.
        if *if_match != object.head.etag {
            return Err(error(ErrorKind::PreconditionFailed, OPERATION));
        }
        Ok(object.clone())
    }

    pub fn head(&self, key: &Key) -> Result<ObjectHead> {
        const OPERATION: &str = "HeadObject";
        let mut head = match self.object(OPERATION, key) {
            Err(_) if self.folders.contains(key.as_bytes()) => return Ok(head_of_a_folder()),
            object => object?.head.clone(),
        };
        if let Tags::These(tags) = &head.carried.tags {
            head.carried.tags = Tags::Counted(tags.split('&').count() as u32);
        }
        Ok(head)
    }

    pub fn tags(&self, key: &Key) -> Result<Tags> {
        Ok(self.object("GetObjectTagging", key)?.head.carried.tags.clone())
    }

    fn check(&self, operation: &'static str, key: &Key, precondition: &Precondition) -> Result<()> {
        let is_known = match operation {
            "CopyObject" => self.capabilities.conditional_copies,
            _ => self.capabilities.conditional_writes,
        };
        let etag = self.objects.get(key.as_bytes()).map(|object| &object.head.etag);
        let is_met = match precondition {
            Precondition::None => return Ok(()),
            Precondition::Matches(wanted) if wanted.is_weak() => {
                return Err(error(ErrorKind::Unsupported, operation));
            }
            Precondition::Absent => etag.is_none(),
            Precondition::Matches(wanted) => etag == Some(wanted),
        };
        if !is_known {
            return Err(error(ErrorKind::Unsupported, operation));
        }
        if is_met { Ok(()) } else { Err(error(ErrorKind::PreconditionFailed, operation)) }
    }

    pub fn put(
        &mut self,
        key: &Key,
        bytes: Bytes,
        options: &WriteOptions,
        precondition: &Precondition,
    ) -> Result<ETag> {
        self.check("PutObject", key, precondition)?;
        check_options("PutObject", options)?;
        Ok(self.keep(key, bytes, options, None))
    }

    /// Makes the object, of its own MD5 where no ETag is given.
    pub fn keep(
        &mut self,
        key: &Key,
        bytes: Bytes,
        options: &WriteOptions,
        etag: Option<ETag>,
    ) -> ETag {
        let md5 = etag.is_none().then(|| <[u8; 16]>::from(Md5::digest(&bytes)));
        let etag = etag.unwrap_or_else(|| ETag::new(&md5.map(|md5| hex(&md5)).unwrap_or_default()));
        let loses = key.as_bytes().ends_with(b"/") && !self.capabilities.marker_metadata;
        let head = ObjectHead {
            etag: etag.clone(),
            len: bytes.len() as u64,
            last_modified: self.next_time(),
            metadata: if loses { Metadata::new() } else { options.metadata.clone() },
            content_type: options.content_type.clone(),
            carried: options.carried.clone().unwrap_or_default(),
            version_id: None,
            sum: None,
            archived: None,
        };
        if self.capabilities.keeps_folders {
            let slashes = key.as_bytes().iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let folders = slashes.map(|(at, _)| key.as_bytes()[..=at].to_vec());
            self.folders.extend(folders.collect::<Vec<_>>());
        }
        self.objects.insert(key.as_bytes().to_vec(), Object { bytes, head, md5 });
        etag
    }

    /// Of other bytes than all objects before it.
    pub fn touch(&mut self, key: &Key, options: &WriteOptions) -> ListedObject {
        let bytes = (self.changes + 1).to_string();
        self.keep(key, bytes.into(), options, None);
        self.objects[key.as_bytes()].listed(key.as_bytes())
    }

    /// With a condition, one that is gone already is refused too, as some servers do.
    pub fn delete(&mut self, key: &Key, if_match: Option<&ETag>) -> Result<()> {
        const OPERATION: &str = "DeleteObject";
        let wanted =
            if_match.filter(|etag| !etag.is_weak() && self.capabilities.conditional_deletes);
        let etag = self.objects.get(key.as_bytes()).map(|object| &object.head.etag);
        if wanted.is_some() && wanted != etag {
            return Err(error(ErrorKind::PreconditionFailed, OPERATION));
        }
        self.forget(key);
        Ok(())
    }

    /// A folder goes when nothing is in it.
    pub fn forget(&mut self, key: &Key) {
        let key = key.as_bytes();
        self.objects.remove(key);
        let is_inside = |inside: &Vec<u8>| inside.starts_with(key) && inside != key;
        if !self.objects.keys().chain(&self.folders).any(is_inside) {
            self.folders.remove(key);
        }
    }

    pub fn copy(&mut self, request: &CopyRequest) -> Result<ETag> {
        const OPERATION: &str = "CopyObject";
        let source = self.source(OPERATION, &request.source, request.source_etag.as_ref())?.clone();
        self.check(OPERATION, &request.target, &request.precondition)?;
        let options = match &request.replace {
            None if request.source == request.target => {
                return Err(error(ErrorKind::Invalid, OPERATION));
            }
            None => {
                let mut options = source.head.write_options();
                options.carried =
                    Some(Carried { storage: request.storage.clone(), ..source.head.carried });
                options
            }
            Some(replace) => {
                let mut options = replace.clone();
                if let Some(carried) = options.carried.as_mut().filter(|_| request.keeps_tags) {
                    carried.tags = source.head.carried.tags;
                }
                options
            }
        };
        check_options(OPERATION, &options)?;
        Ok(self.keep(&request.target, source.bytes, &options, None))
    }

    pub fn create_upload(&mut self, key: &Key, options: &WriteOptions) -> Result<UploadId> {
        check_options("CreateMultipartUpload", options)?;
        let initiated = self.next_time();
        let id = format!("upload-{:08}", self.changes);
        let upload = Upload {
            key: key.clone(),
            options: options.clone(),
            initiated,
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        Ok(UploadId(id))
    }

    fn upload(&self, operation: &'static str, key: &Key, id: &UploadId) -> Result<&Upload> {
        let upload = self.uploads.get(&id.0).filter(|upload| upload.key == *key);
        upload.ok_or_else(|| error(ErrorKind::NoSuchUpload, operation))
    }

    pub fn put_part(
        &mut self,
        operation: &'static str,
        key: &Key,
        id: &UploadId,
        number: u32,
        bytes: Bytes,
    ) -> Result<ETag> {
        self.upload(operation, key, id)?;
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(error(ErrorKind::Invalid, operation));
        }
        let etag = ETag::new(&hex(&Md5::digest(&bytes)));
        if let Some(upload) = self.uploads.get_mut(&id.0) {
            upload.parts.insert(number, (etag.clone(), bytes));
        }
        Ok(etag)
    }

    /// The bytes that an UploadPartCopy takes.
    pub fn part_of(&self, source: &Key, etag: &ETag, range: ByteRange) -> Result<Bytes> {
        const OPERATION: &str = "UploadPartCopy";
        if !self.capabilities.copies_parts {
            return Err(error(ErrorKind::Unsupported, OPERATION));
        }
        if range.is_empty() {
            return Err(error(ErrorKind::Invalid, OPERATION));
        }
        let source = self.source(OPERATION, source, Some(etag))?;
        if range.end() > source.head.len {
            return Err(error(ErrorKind::InvalidRange, OPERATION));
        }
        Ok(source.bytes.slice(range.start() as usize..range.end() as usize))
    }

    /// As servers do: the upload is looked up before the condition is.
    pub fn complete(
        &mut self,
        key: &Key,
        id: &UploadId,
        parts: &[StoredPart],
        precondition: &Precondition,
    ) -> Result<ETag> {
        const OPERATION: &str = "CompleteMultipartUpload";
        let upload = self.upload(OPERATION, key, id)?;
        self.check(OPERATION, key, precondition)?;
        let invalid = || error(ErrorKind::Invalid, OPERATION);
        let stored = |part: &StoredPart| {
            let (etag, bytes) = upload.parts.get(&part.number)?;
            (*etag == part.etag).then(|| bytes.clone())
        };
        let bytes: Option<Vec<Bytes>> = parts.iter().map(stored).collect();
        let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(invalid)?;
        let is_ascending = parts.windows(2).all(|pair| pair[0].number < pair[1].number);
        let before_the_last = &bytes[..bytes.len() - 1];
        let are_equal = before_the_last.windows(2).all(|pair| pair[0].len() == pair[1].len());
        if !is_ascending || self.capabilities.equal_parts && !are_equal {
            return Err(invalid());
        }
        let etag = ETag::new(&multipart_etag(parts).ok_or_else(invalid)?);
        let options = upload.options.clone();
        self.uploads.remove(&id.0);
        Ok(self.keep(key, bytes.concat().into(), &options, Some(etag)))
    }

    /// One that is gone is as good as aborted.
    pub fn abort(&mut self, key: &Key, id: &UploadId) -> Result<()> {
        if self.upload("AbortMultipartUpload", key, id).is_ok() {
            self.uploads.remove(&id.0);
        }
        Ok(())
    }

    pub fn parts(&self, key: &Key, id: &UploadId) -> Result<Vec<StoredPart>> {
        let parts = self.upload("ListParts", key, id)?.parts.iter();
        let stored = parts.map(|(number, (etag, bytes))| StoredPart {
            number: *number,
            etag: etag.clone(),
            len: bytes.len() as u64,
            crc: None,
        });
        Ok(stored.collect())
    }

    pub fn uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        if !self.capabilities.lists_uploads {
            return Err(error(ErrorKind::Unsupported, "ListMultipartUploads"));
        }
        let below = self.uploads.iter();
        let below = below.filter(|(_, it)| it.key.as_bytes().starts_with(prefix.as_bytes()));
        let listed = below.map(|(id, upload)| ListedUpload {
            key: upload.key.clone(),
            upload_id: UploadId(id.clone()),
            initiated: Some(upload.initiated),
        });
        let mut listed: Vec<ListedUpload> = listed.collect();
        listed.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listed)
    }
}

/// What would be lost is not written.
fn check_options(operation: &'static str, options: &WriteOptions) -> Result<()> {
    match &options.carried {
        Some(carried) if !matches!(carried.tags, Tags::Counted(_)) => Ok(()),
        _ => Err(error(ErrorKind::Invalid, operation)),
    }
}

fn head_of_a_folder() -> ObjectHead {
    ObjectHead {
        etag: ETag::new(ETAG_OF_A_FOLDER),
        len: 0,
        last_modified: UNIX_EPOCH,
        metadata: Metadata::new(),
        content_type: None,
        carried: Carried::default(),
        version_id: None,
        sum: None,
        archived: None,
    }
}
