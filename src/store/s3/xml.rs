//! The XML of S3: answers by serde, long ones an element at a time, the two request bodies by hand.
//!
//! An answer costs no more memory than its own bytes and what is kept of it: [`each`] hands over one element
//! after the other, and what is not wanted is never built.
//!
//! Listings are asked for with encoding-type=url, because XML cannot carry every key; [`decode_key`] undoes
//! that encoding where the answer says that it was applied.

use std::fmt::Write as _;

use quick_xml::escape::escape;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::checksum::crc_text;
use crate::store::{ErrorKind, Key, Result, StoreError, StoredPart};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ErrorAnswer {
    pub code: Option<String>,
    pub message: Option<String>,
    pub region: Option<String>,
    pub endpoint: Option<String>,
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

/// A version, or a delete marker, which has neither ETag nor size.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListedVersionEntry {
    pub key: String,
    #[serde(default)]
    pub version_id: String,
    #[serde(default)]
    pub is_latest: bool,
    pub last_modified: String,
    #[serde(rename = "ETag")]
    pub etag: Option<String>,
    pub size: Option<u64>,
    pub storage_class: Option<String>,
}

/// The answer of GetBucketVersioning.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VersioningConfiguration {
    pub status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CommonPrefix {
    pub prefix: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListedPart {
    pub part_number: u32,
    #[serde(rename = "ETag")]
    pub etag: String,
    pub size: u64,
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
    #[serde(rename = "ChecksumCRC32C")]
    pub checksum_crc32c: Option<String>,
    pub checksum_type: Option<String>,
}

/// The answer of GetObjectTagging.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Tagging {
    pub tag_set: TagSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TagSet {
    pub tag: Vec<Tag>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

impl Tagging {
    /// Names and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tag_set.tag.iter().map(|tag| (tag.key.as_str(), tag.value.as_str()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteError {
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
}

/// The longest element of a listing that is read, in bytes: a key of 1,024 bytes with each of them escaped, and
/// as much again for all else.
const ELEMENT_BYTES_MAX: usize = 16 << 10;

/// An element of the answer: its name, and its text from `<` to `>`.
pub struct Element<'a> {
    pub name: &'a str,
    operation: &'static str,
    text: &'a str,
}

impl Element<'_> {
    /// What it holds; `Corrupt` where it is something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        quick_xml::de::from_str(self.text).map_err(|err| unreadable(self.operation, err))
    }
}

/// Hands over the elements right below the root, in order; `Corrupt` where the document is not a result.
pub fn each(
    operation: &'static str,
    body: &[u8],
    mut take: impl FnMut(Element<'_>) -> Result<()>,
) -> Result<()> {
    use quick_xml::events::Event;
    let corrupt = |err: quick_xml::Error| unreadable(operation, err);
    let body = std::str::from_utf8(body).map_err(|err| unreadable(operation, err))?;
    // A page of some gateway, answered with status 200, is no empty listing.
    if !root_of(body.as_bytes()).is_some_and(|root| root.ends_with(b"Result")) {
        return Err(unreadable(operation, "it is no result"));
    }
    let mut reader = quick_xml::Reader::from_str(body);
    let mut is_inside = false;
    loop {
        let from = reader.buffer_position() as usize;
        match reader.read_event().map_err(corrupt)? {
            Event::Start(start) if is_inside => {
                reader.read_to_end(start.name()).map_err(corrupt)?;
                let text = &body[from..reader.buffer_position() as usize];
                if text.len() > ELEMENT_BYTES_MAX {
                    return Err(unreadable(operation, "an element is too long"));
                }
                let name = start.local_name();
                let name = std::str::from_utf8(name.as_ref());
                let name = name.map_err(|err| unreadable(operation, err))?;
                take(Element { name, operation, text })?;
            }
            Event::Start(_) => is_inside = true,
            // The root's own end, since every other element is read to its end above.
            Event::End(_) => return Ok(()),
            Event::Empty(_) if !is_inside => return Ok(()),
            Event::Eof => return Err(unreadable(operation, "it ends too early")),
            _ => {}
        }
    }
}

/// A short answer; `Corrupt` where it is not what was asked for.
pub fn parse<T: DeserializeOwned>(operation: &'static str, body: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(body).map_err(|err| unreadable(operation, err))?;
    quick_xml::de::from_str(text).map_err(|err| unreadable(operation, err))
}

/// The same, of an answer none of whose elements has to be there: its root tells it from another document.
pub fn parse_rooted<T: DeserializeOwned>(
    operation: &'static str,
    root: &str,
    body: &[u8],
) -> Result<T> {
    if root_of(body).as_deref() != Some(root.as_bytes()) {
        return Err(unreadable(operation, format_args!("it is no {root}")));
    }
    parse(operation, body)
}

fn unreadable(operation: &'static str, why: impl std::fmt::Display) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, operation, format!("the answer is not readable: {why}"))
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
pub fn complete_body(parts: &[StoredPart], with_sums: bool) -> String {
    let mut xml = String::with_capacity(64 + parts.len() * 96);
    xml.push_str("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let etag = part.etag.quoted();
        // Writing to a String does not fail.
        let _ = write!(
            xml,
            "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag>",
            part.number,
            escape(&etag)
        );
        if let Some(crc) = part.crc.filter(|_| with_sums) {
            let _ = write!(xml, "<ChecksumCRC32C>{}</ChecksumCRC32C>", crc_text(crc));
        }
        xml.push_str("</Part>");
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
    fn elements_are_read_one_by_one_and_a_result_only() {
        let xml = br#"<?xml version="1.0"?><DeleteResult xmlns="x"><A/>
            <Error><Code>C</Code><Key>a&amp;b</Key><Error>no</Error></Error><B>t&#10;</B></DeleteResult>"#;
        let mut seen = Vec::new();
        each("X", xml, |element| {
            match element.name {
                "Error" => seen.push(element.read::<DeleteError>()?.key),
                "B" => seen.push(element.read()?),
                other => seen.push(other.to_owned()),
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["a&b", "t\n"]);
        each("X", b"<DeleteResult/>", |_| unreachable!()).unwrap();
        let long = format!("<AResult><B>{}</B></AResult>", "x".repeat(ELEMENT_BYTES_MAX));
        for wrong in ["", "<html></html>", "<AResult>", "<AResult><B>", "<AResult></B>", &long] {
            let err = each("X", wrong.as_bytes(), |_| Ok(())).unwrap_err();
            assert_eq!(err.kind, ErrorKind::Corrupt, "{wrong}");
        }
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
