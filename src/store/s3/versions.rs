//! Versions: whether the bucket keeps them, listings of them, and one of them in the place of what its key has now.

use http::Method;

use super::endpoint::Query;
use super::exchange::Request;
use super::list::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, below};
use super::pins::versioned;
use super::{S3Store, headers, object, xml};
use crate::store::{
    ETag, ErrorKind, Key, ListedVersion, ObjectHead, Result, StoreError, VersionId, VersionMarkers,
    VersionObject, VersionsPage, VersionsRequest,
};

fn corrupt(message: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, "ListObjectVersions", message)
}

impl S3Store {
    /// GetBucketVersioning: whether the bucket keeps versions, or has kept some.
    pub async fn keeps_versions(&self) -> Result<bool> {
        const OPERATION: &str = "GetBucketVersioning";
        let query = [("versioning", Vec::new())];
        let request = Request::new(OPERATION, Method::GET, None).query(&query);
        let answer = self.send_for_xml(request).await?;
        let told: xml::VersioningConfiguration =
            answer.read(|body| xml::parse_rooted(OPERATION, "VersioningConfiguration", body))?;
        Ok(matches!(told.status.as_deref(), Some("Enabled" | "Suspended")))
    }
}

pub async fn head(store: &S3Store, key: &Key, version: &VersionId) -> Result<ObjectHead> {
    let query: &Query<'_> = &[versioned(version)];
    object::head(store, key, query).await.map_err(|mut err| {
        // A delete marker, and what no id looks like. The answer to a HEAD says no more.
        if matches!(err.status, Some(400 | 405)) && err.code.is_none() {
            err.kind = ErrorKind::NotFound;
        }
        err
    })
}

pub async fn delete(store: &S3Store, key: &Key, version: &VersionId) -> Result<()> {
    let query = [versioned(version)];
    let request = Request::new("DeleteObject", Method::DELETE, Some(key)).query(&query);
    match store.send_for_headers(request).await {
        Ok(_) => Ok(()),
        Err(err) if err.kind == ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err),
    }
}

pub async fn list(store: &S3Store, request: &VersionsRequest) -> Result<VersionsPage> {
    const OPERATION: &str = "ListObjectVersions";
    let mut query: Vec<(&str, Vec<u8>)> = vec![
        ("versions", Vec::new()),
        ("encoding-type", b"url".to_vec()),
        ("prefix", request.prefix.as_bytes().to_vec()),
    ];
    if request.by_directory {
        query.push(("delimiter", b"/".to_vec()));
    }
    if let Some(markers) = &request.markers {
        query.push(("key-marker", markers.key.as_bytes().to_vec()));
        if let Some(version) = &markers.version {
            query.push(("version-id-marker", version.as_str().as_bytes().to_vec()));
        }
    }
    if let Some(max_keys) = request.max_keys {
        query.push(("max-keys", max_keys.to_string().into_bytes()));
    }
    let http = Request::new(OPERATION, Method::GET, None).query(&query).answer_max(PAGE_BYTES_MAX);
    let answer = store.send_for_xml(http).await?;
    answer.read(|body| page_of(body, request))
}

/// Reads a page: versions and delete markers in the order in which they came.
fn page_of(answer: &[u8], request: &VersionsRequest) -> Result<VersionsPage> {
    const OPERATION: &str = "ListObjectVersions";
    let (mut entries, mut prefixes): (
        Vec<(xml::ListedVersionEntry, bool)>,
        Vec<xml::CommonPrefix>,
    ) = Default::default();
    let (mut truncated, mut next_key, mut next_version, mut encoding) =
        (false, None::<String>, None::<String>, None::<String>);
    xml::each(OPERATION, answer, |element| {
        match element.name {
            "Version" => entries.push((element.read()?, true)),
            "DeleteMarker" => entries.push((element.read()?, false)),
            "CommonPrefixes" => prefixes.push(element.read()?),
            "IsTruncated" => truncated = element.read()?,
            "NextKeyMarker" => next_key = Some(element.read()?),
            "NextVersionIdMarker" => next_version = Some(element.read()?),
            "EncodingType" => encoding = Some(element.read()?),
            _ => {}
        }
        if entries.len() + prefixes.len() > PAGE_ENTRIES_MAX {
            return Err(corrupt("the page has too many entries"));
        }
        Ok(())
    })?;
    let decoded = |text: &str| xml::decode_key(encoding.as_deref(), text);
    let key_of = |text: &str| below(OPERATION, &request.prefix, decoded(text));
    let versions = entries.into_iter().map(|(entry, is_object)| {
        let key = key_of(&entry.key)?;
        listed(key, entry, is_object)
    });
    let common_prefixes = prefixes.iter().map(|common| key_of(&common.prefix));
    let next = match (truncated, next_key) {
        (false, _) => None,
        (true, Some(key)) => {
            let version = next_version.filter(|version| !version.is_empty());
            let version = version.as_deref().map(VersionId::new);
            Some(VersionMarkers { key: decoded(&key), version })
        }
        (true, None) => return Err(corrupt("there is more, but no marker")),
    };
    if next.is_some() && next == request.markers {
        return Err(corrupt("the listing goes on but does not move on"));
    }
    Ok(VersionsPage {
        versions: versions.collect::<Result<_>>()?,
        common_prefixes: common_prefixes.collect::<Result<_>>()?,
        next,
    })
}

fn listed(key: Key, entry: xml::ListedVersionEntry, is_object: bool) -> Result<ListedVersion> {
    let last_modified = headers::parse_iso_date(&entry.last_modified)
        .ok_or_else(|| corrupt(format!("{:?} is no date", entry.last_modified)))?;
    let object = match (is_object, &entry.etag, entry.size) {
        (false, ..) => None,
        (true, Some(etag), Some(size)) => Some(VersionObject {
            etag: ETag::new(etag),
            len: headers::object_len("ListObjectVersions", size)?,
            storage_class: entry.storage_class,
        }),
        (true, ..) => return Err(corrupt(format!("a version of {key} has no ETag or no size"))),
    };
    let (id, is_latest) = (VersionId::new(&entry.version_id), entry.is_latest);
    Ok(ListedVersion { key, id, is_latest, last_modified, object })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As AWS documents it.
    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
        <ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
          <Name>b</Name><Prefix>p/</Prefix><KeyMarker/><VersionIdMarker/>
          <NextKeyMarker>p/a+b</NextKeyMarker><NextVersionIdMarker>v1</NextVersionIdMarker>
          <MaxKeys>3</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
          <DeleteMarker><Key>p/a+b</Key><VersionId>v2</VersionId><IsLatest>true</IsLatest>
            <LastModified>2009-11-12T17:50:30.000Z</LastModified><Owner><ID>x</ID></Owner></DeleteMarker>
          <Version><Key>p/a+b</Key><VersionId>v1</VersionId><IsLatest>false</IsLatest>
            <LastModified>2009-10-12T17:50:30.000Z</LastModified><ETag>&quot;e1&quot;</ETag>
            <Size>7</Size><StorageClass>STANDARD</StorageClass><Owner><ID>x</ID></Owner></Version>
          <CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes>
        </ListVersionsResult>"#;

    #[test]
    fn a_page_of_versions_is_read_and_moves_on() {
        let request = VersionsRequest { prefix: Key::from("p/"), ..Default::default() };
        let page = page_of(PAGE.as_bytes(), &request).unwrap();
        let [marker, version] = &page.versions[..] else { panic!("{page:?}") };
        assert_eq!((marker.key.as_bytes(), marker.is_latest), (&b"p/a b"[..], true));
        assert_eq!((&marker.object, version.id.as_str()), (&None, "v1"));
        let object = version.object.as_ref().unwrap();
        assert_eq!((object.etag.as_str(), object.len), ("e1", 7));
        assert_eq!(page.common_prefixes, [Key::from("p/d/")]);
        assert_eq!(page.next.as_ref().unwrap().version, Some(VersionId::new("v1")));
        let again = VersionsRequest { markers: page.next, ..request };
        assert_eq!(page_of(PAGE.as_bytes(), &again).unwrap_err().kind, ErrorKind::Corrupt);
        let other = VersionsRequest { prefix: Key::from("q/"), ..Default::default() };
        assert_eq!(page_of(PAGE.as_bytes(), &other).unwrap_err().kind, ErrorKind::Corrupt);
    }

    #[test]
    fn a_version_without_etag_or_size_is_not_believed() {
        let request = VersionsRequest::default();
        for part in ["<Size>7</Size>", "<ETag>&quot;e1&quot;</ETag>"] {
            let page = PAGE.replace(part, "");
            assert_eq!(page_of(page.as_bytes(), &request).unwrap_err().kind, ErrorKind::Corrupt);
        }
    }
}
