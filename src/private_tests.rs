use super::*;

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_directory_that_others_may_write_to_is_not_believed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b");
    let real = directory(&dir).unwrap();
    assert_eq!((mode_of(&real), mode_of(&home.path().join("a"))), (0o700, 0o700));
    for mode in [0o755, 0o711] {
        set(&dir, mode);
        assert!(directory(&dir).is_ok(), "{mode:o}");
        assert_eq!(mode_of(&dir), mode, "it is the user's, and left as it is");
    }
    for mode in [0o775, 0o757, 0o1777] {
        set(&dir, mode);
        let told = directory(&dir).unwrap_err().to_string();
        assert!(told.contains("chmod go-w"), "{mode:o}: {told}");
    }
    set(&dir, 0o700);
    set(&home.path().join("a"), 0o777);
    let told = directory(&dir).unwrap_err().to_string();
    assert!(told.contains("exchange what is in") && told.contains("/a"), "{told}");
    let told = directory(&dir.join("new")).unwrap_err().to_string();
    assert!(told.contains("exchange what is in"), "{told}");
    assert!(!dir.join("new").exists());
    set(&home.path().join("a"), 0o1777);
    assert!(directory(&dir).is_ok());
}

#[test]
fn only_root_and_the_user_may_have_made_a_link_on_the_way() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("there")).unwrap();
    let link = home.path().join("link");
    std::os::unix::fs::symlink(home.path().join("there"), &link).unwrap();
    assert!(directory(&link.join("below")).is_ok());
    // Only root can give a link away.
    if uid() == 0 {
        std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).unwrap();
        let told = directory(&link.join("below")).unwrap_err().to_string();
        assert!(told.contains("symbolic link of user 65534"), "{told}");
    }
}

#[test]
fn a_folder_is_closed_to_others_with_what_is_in_it() {
    let home = tempfile::tempdir().unwrap();
    let inner = home.path().join("folder");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("file"), b"").unwrap();
    fs::create_dir(inner.join("sub")).unwrap();
    for (path, mode) in [("folder/file", 0o644), ("folder/sub", 0o755), ("folder", 0o755)] {
        set(&home.path().join(path), mode);
    }
    folder(&inner).unwrap();
    let modes =
        ["folder", "folder/sub", "folder/file"].map(|path| mode_of(&home.path().join(path)));
    assert_eq!(modes, [0o700, 0o700, 0o600]);
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&inner, &link).unwrap();
    assert!(folder(&link).is_err(), "a link is not followed");
}
