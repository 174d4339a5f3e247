//! The XML of S3: answers by serde, the two request bodies by hand.
//!
//! Listings are asked for with encoding-type=url, because XML cannot carry every key; [`decode_key`] undoes
//! that encoding where the answer says that it was applied.

use std::fmt::Write as _;

use quick_xml::escape::escape;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::store::{ErrorKind, Key, Result, StoreError, StoredPart};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ErrorAnswer {
    pub code: Option<String>,
    pub message: Option<String>,
    pub region: Option<String>,
}

/// A listing, its elements in the order they came: objects and common prefixes may be interleaved.
#[derive(Debug, Default, Deserialize)]
pub struct ListBucketResult {
    #[serde(rename = "$value", default)]
    pub elements: Vec<ListElement>,
}

#[derive(Debug, Deserialize)]
pub enum ListElement {
    EncodingType(String),
    IsTruncated(bool),
    NextContinuationToken(String),
    Contents(ListedEntry),
    CommonPrefixes(CommonPrefix),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListedEntry {
    pub key: String,
    pub last_modified: String,
    #[serde(rename = "ETag")]
    pub etag: String,
    pub size: u64,
    pub storage_class: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CommonPrefix {
    pub prefix: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListPartsResult {
    pub is_truncated: bool,
    pub next_part_number_marker: Option<String>,
    pub part: Vec<ListedPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListedPart {
    pub part_number: u32,
    #[serde(rename = "ETag")]
    pub etag: String,
    pub size: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListUploadsResult {
    pub encoding_type: Option<String>,
    pub is_truncated: bool,
    pub next_key_marker: Option<String>,
    pub next_upload_id_marker: Option<String>,
    pub upload: Vec<ListedUploadEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListedUploadEntry {
    pub key: String,
    pub upload_id: String,
    pub initiated: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateUploadResult {
    pub upload_id: String,
}

/// The answer of CopyObject, UploadPartCopy and CompleteMultipartUpload: an ETag where it went well.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ETagResult {
    #[serde(rename = "ETag")]
    pub etag: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeleteResult {
    pub error: Vec<DeleteError>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteError {
    pub key: String,
    pub code: String,
    #[serde(default)]
    pub message: String,
}

/// An answer's XML; `Corrupt` where it is not what was asked for.
pub fn parse<T: DeserializeOwned>(operation: &'static str, body: &[u8]) -> Result<T> {
    let corrupt = |why: String| {
        StoreError::new(ErrorKind::Corrupt, operation, format!("the answer is not readable: {why}"))
    };
    let text = std::str::from_utf8(body).map_err(|err| corrupt(err.to_string()))?;
    quick_xml::de::from_str(text).map_err(|err| corrupt(err.to_string()))
}

/// The error in a body, where its root element says that it is one.
pub fn parse_error(body: &[u8]) -> Option<ErrorAnswer> {
    if root_of(body)? != b"Error" {
        return None;
    }
    quick_xml::de::from_str(std::str::from_utf8(body).ok()?).ok()
}

/// The local name of a document's root element.
pub fn root_of(body: &[u8]) -> Option<Vec<u8>> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_reader(body);
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) | Event::Empty(element) => {
                return Some(element.local_name().as_ref().to_vec());
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// A key as a listing spells it. `+` is a space there, as in a query string: a `+` of the key itself is
/// sent as `%2B`.
pub fn decode_key(encoding_type: Option<&str>, text: &str) -> Key {
    if encoding_type != Some("url") {
        return Key::from(text);
    }
    let spaced = text.replace('+', " ");
    Key::new(percent_encoding::percent_decode_str(&spaced).collect::<Vec<u8>>())
}

/// The body of CompleteMultipartUpload.
pub fn complete_body(parts: &[StoredPart]) -> String {
    let mut xml = String::with_capacity(64 + parts.len() * 96);
    xml.push_str("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let etag = part.etag.quoted();
        // Writing to a String does not fail.
        let _ = write!(
            xml,
            "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>",
            part.number,
            escape(&etag)
        );
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

/// Whether a key can stand in an XML 1.0 document.
pub fn is_expressible(key: &Key) -> bool {
    std::str::from_utf8(key.as_bytes()).is_ok_and(|text| {
        text.chars().all(|c| {
            matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        })
    })
}

/// The body of DeleteObjects, for keys that are [`is_expressible`].
pub fn delete_body(keys: &[&Key]) -> String {
    let mut xml = String::with_capacity(64 + keys.len() * 96);
    xml.push_str("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");
    for key in keys {
        let text = String::from_utf8_lossy(key.as_bytes());
        xml.push_str("<Object><Key>");
        // Raw line ends and tabs are folded by XML readers; references to them are not.
        for c in escape(text.as_ref()).chars() {
            match c {
                '\t' => xml.push_str("&#9;"),
                '\n' => xml.push_str("&#10;"),
                '\r' => xml.push_str("&#13;"),
                other => xml.push(other),
            }
        }
        xml.push_str("</Key></Object>");
    }
    xml.push_str("</Delete>");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read_with_entries_in_any_order() {
        let xml = br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
            <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
            <Contents><Key>a%2Bb+c%0A</Key><LastModified>2024-01-02T03:04:05.678Z</LastModified>
            <ETag>&quot;abc&quot;</ETag><Size>7</Size></Contents>
            <CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>
            <Contents><Key>e</Key><LastModified>2024-01-02T03:04:05Z</LastModified>
            <ETag>"def"</ETag><Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>
            <NextContinuationToken>a&amp;b</NextContinuationToken></ListBucketResult>"#;
        let list: ListBucketResult = parse("List", xml).unwrap();
        let mut keys = Vec::new();
        let mut token = None;
        let mut truncated = false;
        for element in list.elements {
            match element {
                ListElement::Contents(entry) => keys.push(decode_key(Some("url"), &entry.key)),
                ListElement::CommonPrefixes(common) => keys.push(Key::from(&*common.prefix)),
                ListElement::NextContinuationToken(text) => token = Some(text),
                ListElement::IsTruncated(value) => truncated = value,
                ListElement::EncodingType(_) | ListElement::Other => {}
            }
        }
        assert!(truncated);
        assert_eq!(keys, [Key::from("a+b c\n"), Key::from("d/"), Key::from("e")]);
        assert_eq!(token.as_deref(), Some("a&b"));
    }

    #[test]
    fn an_error_is_known_by_its_root() {
        let xml =
            b"<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>m</Message></Error>";
        assert_eq!(parse_error(xml).unwrap().code.as_deref(), Some("SlowDown"));
        assert!(parse_error(b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>").is_none());
        assert!(parse_error(b"").is_none());
        assert!(parse_error(b"<html>").is_none());
        assert_eq!(
            parse::<ETagResult>("Copy", b"<CopyObjectResult/>").unwrap_err().kind,
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn keys_in_request_bodies_are_escaped() {
        let key = Key::from("a&<b>\n\"");
        let xml = delete_body(&[&key]);
        assert!(xml.contains("a&amp;&lt;b&gt;&#10;"), "{xml}");
        assert!(is_expressible(&key));
        assert!(!is_expressible(&Key::new(vec![1])));
        assert!(!is_expressible(&Key::new(vec![0xff])));
    }
}
