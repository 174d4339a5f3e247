use super::*;

fn object(etag: &str) -> Object {
    Object {
        etag: etag.to_owned(),
        len: 0,
        modified: 0,
        pieces: Vec::new(),
        attributes: Attributes::default(),
        crc: None,
        version: None,
    }
}

#[test]
fn a_directory_is_served_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = Index::open(dir.path()).unwrap();
    let second = Index::open(dir.path()).err().unwrap();
    assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
    drop(first);
    Index::open(dir.path()).unwrap();
}

#[test]
fn of_many_conditional_puts_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    index.create_bucket("b").unwrap();
    let race = |condition: &Condition| {
        let wins = std::thread::scope(|scope| {
            let puts: Vec<_> = (0..8)
                .map(|n| {
                    let index = &index;
                    scope.spawn(move || {
                        index.put("b", "k", object(&n.to_string()), condition).is_ok()
                    })
                })
                .collect();
            puts.into_iter().map(|put| put.join().unwrap()).collect::<Vec<_>>()
        });
        wins.into_iter().filter(|won| *won).count()
    };
    assert_eq!(race(&Condition::Absent), 1);
    index.put("b", "k", object("start"), &Condition::None).unwrap();
    assert_eq!(race(&Condition::Matches("start".to_owned())), 1);
}

#[test]
fn versions_outlive_a_restart_and_a_rewrite() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    index.create_bucket("b").unwrap();
    let any = &Condition::None;
    index.put("b", "k", object("before"), any).unwrap();
    index.set_versioning("b", Versioning::Enabled).unwrap();
    index.put("b", "k", object("first"), any).unwrap();
    let keys = ["k".to_owned()];
    for n in 0..700 {
        index.put("b", "k", object(&n.to_string()), any).unwrap();
        let marker = index.delete("b", &keys, any).unwrap().remove(0).unwrap();
        index.delete_version("b", "k", &marker).unwrap();
        let current = index.object("b", "k").unwrap().0.version.clone().unwrap();
        index.delete_version("b", "k", &current).unwrap();
    }
    index.delete("b", &keys, any).unwrap();
    index.set_versioning("b", Versioning::Suspended).unwrap();
    let told = |index: &Index| {
        let of = |version: Version| version.object().map(|object| object.etag.clone());
        index.bucket("b", |bucket| bucket.objects.versions("k").map(of).collect::<Vec<_>>())
    };
    let expected = [None, Some("first".to_owned()), Some("before".to_owned())];
    assert_eq!(told(&index).unwrap(), expected);
    drop(index);
    let index = Index::open(dir.path()).unwrap();
    assert_eq!(told(&index).unwrap(), expected);
    assert_eq!(index.bucket("b", |it| it.versioning).unwrap(), Some(Versioning::Suspended));
    assert!(fs::metadata(dir.path().join("index")).unwrap().len() < 2000);
    index.delete_bucket("b").unwrap_err();
}

#[test]
fn outdated_records_are_dropped_at_a_start_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    index.create_bucket("b").unwrap();
    for n in 0..1500 {
        index.put("b", "k", object(&n.to_string()), &Condition::None).unwrap();
    }
    index.begin("b", "u", "7", Attributes::default()).unwrap();
    index.put_part("b", "u", "7", 3, object("part")).unwrap();
    drop(index);
    let before = fs::metadata(dir.path().join("index")).unwrap().len();
    let index = Index::open(dir.path()).unwrap();
    assert!(fs::metadata(dir.path().join("index")).unwrap().len() < before / 100);
    assert_eq!(index.object("b", "k").unwrap().0.etag, "1499");
    drop(index);
    let index = Index::open(dir.path()).unwrap();
    let numbers =
        index.upload("b", "u", "7", |u| u.parts.keys().copied().collect::<Vec<_>>()).unwrap();
    assert_eq!(numbers, [3]);
}
