use super::*;
use crate::store::ETag;
use proptest::prelude::*;

const DEFAULTS: Defaults = Defaults { uid: 1000, gid: 1001, file_mode: 0o644, dir_mode: 0o755 };

fn head(metadata: &[(&str, &str)]) -> ObjectHead {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    ObjectHead {
        etag: ETag::new("e"),
        len: 0,
        last_modified: at(1_600_000_000, 0),
        metadata: metadata.iter().map(pair).collect(),
        content_type: None,
        carried: Carried::default(),
        version_id: None,
        sum: None,
        archived: None,
    }
}

fn at(seconds: u64, nanos: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, nanos)
}

#[test]
fn an_object_of_s3fs_keeps_its_mode_owner_and_time() {
    let metadata = [
        ("mode", "33261"),
        ("uid", "5"),
        ("gid", "6"),
        ("mtime", "1700000000.000000042"),
        ("atime", "1700000001"),
        ("ctime", "1700000002.500000000"),
        ("xattr", "%7B%22user.test%22%3A%22aGVsbG8%3D%22%7D"),
    ];
    let attributes = Attributes::from_head(&head(&metadata), false, &DEFAULTS);
    assert_eq!((attributes.kind, attributes.mode), (Kind::File, 0o755));
    assert_eq!((attributes.uid, attributes.gid), (5, 6));
    assert_eq!(attributes.mtime, at(1_700_000_000, 42));
    assert_eq!(
        attributes.extra().xattrs,
        BTreeMap::from([(b"user.test".to_vec(), b"hello".to_vec())])
    );
    // Written again, it is what s3fs wrote, atime and ctime included.
    let options = attributes.to_write_options().unwrap();
    assert_eq!(options.metadata, head(&metadata).metadata);
}

#[test]
fn an_object_of_rclone_keeps_its_time_and_all_else() {
    let metadata = [("mtime", "1700000000.5"), ("md5chksum", "bla==")];
    let attributes = Attributes::from_head(&head(&metadata), false, &DEFAULTS);
    assert_eq!(attributes.mtime, at(1_700_000_000, 500_000_000));
    assert_eq!((attributes.mode, attributes.uid, attributes.gid), (0o644, 1000, 1001));
    let written = attributes.to_write_options().unwrap().metadata;
    // s3fs reads the digits behind the point as nanoseconds, so all nine must be there.
    assert_eq!(written["mtime"], "1700000000.500000000");
    assert_eq!(written["md5chksum"], "bla==");
}

#[test]
fn octal_modes_of_rclone_are_told_from_decimal_ones_of_s3fs() {
    for (text, kind, mode) in [
        ("33188", Kind::File, 0o644),
        ("100644", Kind::File, 0o644),
        ("0100664", Kind::File, 0o664),
        ("16877", Kind::Directory, 0o755),
        ("40755", Kind::Directory, 0o755),
        ("41471", Kind::Symlink, 0o777),
        ("120777", Kind::Symlink, 0o777),
        ("35309", Kind::File, 0o4755),
        ("nonsense", Kind::File, 0o644),
    ] {
        let attributes = Attributes::from_head(&head(&[("mode", text)]), false, &DEFAULTS);
        assert_eq!((attributes.kind, attributes.mode), (kind, mode), "{text}");
    }
}

#[test]
fn an_object_that_says_nothing_gets_the_defaults() {
    let attributes = Attributes::from_head(&head(&[]), false, &DEFAULTS);
    let expected = Attributes::new(Kind::File, 0o644, 1000, 1001, at(1_600_000_000, 0));
    assert_eq!(attributes, expected);
    let marker = Attributes::from_head(&head(&[]), true, &DEFAULTS);
    assert_eq!((marker.kind, marker.mode), (Kind::Directory, 0o755));
}

#[test]
fn a_content_type_makes_a_directory_only_of_an_empty_object() {
    let mut head = head(&[]);
    head.content_type = Some("application/x-directory; charset=utf-8".to_owned());
    assert_eq!(Attributes::from_head(&head, false, &DEFAULTS).kind, Kind::Directory);
    head.len = 1;
    assert_eq!(Attributes::from_head(&head, false, &DEFAULTS).kind, Kind::File);
}

#[test]
fn what_an_object_has_beside_is_shared_until_it_is_changed() {
    let mut attributes = Attributes::new(Kind::File, 0o644, 0, 0, UNIX_EPOCH);
    let bare = attributes.clone();
    attributes.change_extra(|extra| extra.content_type = Some("text/plain".into()));
    let mut copy = attributes.clone();
    assert!(std::ptr::eq(copy.extra(), attributes.extra()));
    copy.change_extra(|extra| extra.xattrs.insert(b"user.a".to_vec(), b"b".to_vec()));
    assert!(attributes.extra().xattrs.is_empty());
    // What has nothing left is as if it never had.
    attributes.change_extra(|extra| extra.content_type = None);
    assert_eq!(attributes, bare);
}

#[test]
fn metadata_over_two_kibibytes_is_no_space() {
    let mut attributes = Attributes::new(Kind::File, 0o644, 0, 0, UNIX_EPOCH);
    attributes.change_extra(|extra| extra.xattrs.insert(b"user.a".to_vec(), vec![7; 1000]));
    assert!(attributes.to_write_options().is_ok());
    attributes.change_extra(|extra| extra.xattrs.insert(b"user.b".to_vec(), vec![7; 1000]));
    let error = attributes.to_write_options().unwrap_err();
    assert!(error.bytes > METADATA_BYTES_MAX);
}

#[test]
fn times_are_written_as_both_peers_read_them() {
    assert_eq!(format_time(at(1_700_000_000, 0)), "1700000000");
    assert_eq!(format_time(at(1_700_000_000, 5)), "1700000000.000000005");
    assert_eq!(format_time(UNIX_EPOCH - Duration::from_millis(1500)), "-1.500000000");
    assert_eq!(parse_time("-1.5"), Some(UNIX_EPOCH - Duration::from_millis(1500)));
    assert_eq!(parse_time("1.1234567899"), Some(at(1, 123_456_789)));
    for text in ["", ".", ".5", "1e9", "1,5", "--1", "1.x", "2024-01-01T00:00:00Z"] {
        assert_eq!(parse_time(text), None, "{text}");
    }
    assert_eq!(parse_time(&"9".repeat(30)), None);
}

proptest! {
    #[test]
    fn attributes_survive_the_store(
        kind in prop::sample::select(vec![Kind::File, Kind::Directory, Kind::Symlink]),
        mode in 0u32..=0o7777,
        owner in any::<(u32, u32)>(),
        seconds in -10_000_000_000i64..10_000_000_000,
        nanos in 0u32..1_000_000_000,
        xattrs in prop::collection::btree_map(any::<Vec<u8>>(), prop::collection::vec(any::<u8>(), 0..20), 0..2),
    ) {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let whole = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
        let mtime = whole + Duration::from_nanos(nanos.into());
        let mut attributes = Attributes::new(kind, mode, owner.0, owner.1, mtime);
        attributes.change_extra(|extra| {
            extra.xattrs = xattrs;
            extra.foreign.push(("other".into(), "kept".into()));
        });
        let options = attributes.to_write_options().unwrap();
        let mut head = head(&[]);
        head.metadata = options.metadata;
        head.content_type = options.content_type;
        let marker = kind == Kind::Directory;
        prop_assert_eq!(Attributes::from_head(&head, marker, &DEFAULTS), attributes);
    }
}

#[test]
fn a_store_that_drops_a_markers_metadata_keeps_them_in_its_type() {
    let mtime = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    let mut attributes = Attributes::new(Kind::Directory, 0o2750, 7, 8, mtime);
    attributes.change_extra(|extra| extra.xattrs.insert(b"user.a".to_vec(), b"b;c=d".to_vec()));
    let options = attributes.to_write_options().unwrap();
    let content_type = Some(directory_type_with(&options.metadata));
    let metadata = Metadata::new();
    let etag = crate::store::ETag::new("x");
    let (len, last_modified) = (0, UNIX_EPOCH);
    let head = ObjectHead { etag, len, last_modified, metadata, content_type, ..head(&[]) };
    let defaults = Defaults { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 };
    let read = Attributes::from_head(&head, true, &defaults);
    assert_eq!(read.to_write_options().unwrap(), options);
}
