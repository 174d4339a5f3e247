//! ETags in the memory of an MD5 sum: nearly every part's and small object's is one, and there may be a million.

use super::ETag;

/// An ETag, without a heap block where it is 32 hexadecimal digits of one case. The case is kept: it is
/// sent back to the store as it came.
#[derive(Clone, Debug)]
pub struct CompactTag(Form);

#[derive(Clone, Debug)]
enum Form {
    Lower([u8; 16]),
    Upper([u8; 16]),
    Text(Box<str>),
}

impl CompactTag {
    pub fn new(etag: &ETag) -> CompactTag {
        let text = etag.as_str();
        if let Some(sum) = parse(text, b'a') {
            CompactTag(Form::Lower(sum))
        } else if let Some(sum) = parse(text, b'A') {
            CompactTag(Form::Upper(sum))
        } else {
            CompactTag(Form::Text(text.into()))
        }
    }

    /// The sum, where it is written as nearly all stores do: in lower case.
    pub fn lower_sum(&self) -> Option<&[u8; 16]> {
        match &self.0 {
            Form::Lower(sum) => Some(sum),
            Form::Upper(_) | Form::Text(_) => None,
        }
    }

    pub fn of_lower_sum(sum: [u8; 16]) -> CompactTag {
        CompactTag(Form::Lower(sum))
    }

    pub fn etag(&self) -> ETag {
        match &self.0 {
            Form::Lower(sum) => ETag(format(sum, b"0123456789abcdef")),
            Form::Upper(sum) => ETag(format(sum, b"0123456789ABCDEF")),
            Form::Text(text) => ETag(text.to_string()),
        }
    }
}

/// As that of the ETags.
impl PartialEq for CompactTag {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Lower(one) | Form::Upper(one), Form::Lower(other) | Form::Upper(other)) => {
                one == other
            }
            _ => self.etag() == other.etag(),
        }
    }
}

impl Eq for CompactTag {}

/// The sum that `text` writes with digits beyond 9 from `ten` on.
fn parse(text: &str, ten: u8) -> Option<[u8; 16]> {
    let text: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        _ if (ten..ten + 6).contains(&digit) => Some(digit - ten + 10),
        _ => None,
    };
    let mut sum = [0; 16];
    for (byte, pair) in sum.iter_mut().zip(text.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(sum)
}

fn format(sum: &[u8; 16], digits: &[u8; 16]) -> String {
    let mut text = String::with_capacity(32);
    for byte in sum {
        text.push(char::from(digits[usize::from(byte >> 4)]));
        text.push(char::from(digits[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_etag_comes_back_letter_by_letter() {
        for text in [
            "0123456789abcdef0123456789abcdef",
            "0123456789ABCDEF0123456789ABCDEF",
            "01234567890123456789012345678901",
            "0123456789abcdef0123456789ABCDEF",
            "0123456789abcdef0123456789abcdef-12",
            "",
            "é",
            "W/\"0123456789abcdef0123456789abcdef\"",
        ] {
            assert_eq!(CompactTag::new(&ETag::new(text)).etag().as_str(), text);
        }
    }

    #[test]
    fn two_that_differ_in_case_only_are_equal() {
        let tag = |text| CompactTag::new(&ETag::new(text));
        let lower = tag("0123456789abcdef0123456789abcdef");
        assert_eq!(lower, tag("0123456789ABCDEF0123456789ABCDEF"));
        assert_eq!(lower, tag("0123456789abcdef0123456789ABCDEF"));
        assert_ne!(lower, tag("0123456789abcdef0123456789abcdee"));
        assert_ne!(lower, tag("0123456789abcdef0123456789abcdef-1"));
        assert_eq!(tag("a-2"), tag("A-2"));
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Option<CompactTag>>() <= 24);
    }
}
