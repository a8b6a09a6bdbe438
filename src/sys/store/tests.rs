use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

fn state() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a folder");
    let path = parent.path().join("deep/state");
    (parent, path)
}

#[test]
fn what_was_written_is_there_after_the_next_start_and_for_the_owner_alone() {
    let (_parent, path) = state();
    let dir = StateDir::open(&path).expect("opens");
    dir.write("identity", b"one").expect("writes");
    dir.write_many([("identity", &b"two"[..]), ("records.1", b"")]).expect("writes");
    dir.write("gone", b"x").expect("writes");
    dir.remove("gone").expect("removes");
    dir.remove("gone").expect("a second time");
    drop(dir);

    let loaded = StateDir::open(&path).expect("opens").load_all().expect("loads");
    let expected = [("identity".to_owned(), b"two".to_vec()), ("records.1".to_owned(), vec![])];
    assert_eq!(loaded, expected.into());
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("identity")), 0o600);
    assert_eq!(mode(&path.join("lock")), 0o600);
}

#[test]
fn a_folder_that_was_open_to_others_is_closed() {
    let (_parent, path) = state();
    fs::create_dir_all(&path).expect("made");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("opened to others");
    StateDir::open(&path).expect("opens");
    assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_user_of_the_folder_is_refused_and_told_whose_it_is() {
    let (_parent, path) = state();
    let first = StateDir::open(&path).expect("opens");
    let error = StateDir::open(&path).expect_err("locked");
    assert!(matches!(&error, StoreError::Locked { pid: Some(pid), .. } if *pid == std::process::id()));
    assert!(error.to_string().starts_with(&format!("another peerd (pid {}) uses", std::process::id())));
    drop(first);
    StateDir::open(&path).expect("opens again");
}

#[test]
fn an_open_folder_holds_no_file_open_for_writing() {
    let (_parent, path) = state();
    let dir = StateDir::open(&path).expect("opens");
    dir.write("identity", b"x").expect("writes");
    let flags = rustix::fs::fcntl_getfl(&dir._lock).expect("flags");
    assert!(!flags.intersects(OFlags::WRONLY | OFlags::RDWR), "the file system could not be made read-only");
    assert_eq!(fs::read_to_string(path.join(LOCK)).expect("a pid"), format!("{}\n", std::process::id()));
}

#[test]
fn a_link_in_the_folders_place_is_refused() {
    let (parent, path) = state();
    fs::create_dir_all(parent.path().join("deep")).expect("made");
    symlink(parent.path(), &path).expect("a link");
    assert!(matches!(StateDir::open(&path), Err(StoreError::NotAFolder(_))));
    assert!(!parent.path().join("lock").exists());
}

#[test]
fn a_link_in_a_files_place_is_neither_read_nor_written_through() {
    let (parent, path) = state();
    let dir = StateDir::open(&path).expect("opens");
    let outside = parent.path().join("outside");
    fs::write(&outside, "secret").expect("written");
    symlink(&outside, path.join("identity")).expect("a link");
    symlink(&outside, path.join(".new.identity")).expect("a link");
    assert!(dir.load_all().expect("loads").is_empty());
    assert!(dir.write("identity", b"x").is_err());
    assert_eq!(fs::read(&outside).expect("still there"), b"secret");
}

#[test]
fn a_write_that_a_crash_cut_short_changes_nothing_and_is_swept_away() {
    let (_parent, path) = state();
    let dir = StateDir::open(&path).expect("opens");
    dir.write("identity", b"old").expect("writes");
    drop(dir);
    fs::write(path.join(".new.identity"), b"half").expect("written");

    let dir = StateDir::open(&path).expect("opens");
    assert_eq!(dir.load_all().expect("loads")["identity"], b"old");
    assert!(!path.join(".new.identity").exists());
}

#[test]
fn an_error_leaves_the_old_file_and_no_other() {
    let (_parent, path) = state();
    let dir = StateDir::open(&path).expect("opens");
    dir.write("a", b"old").expect("writes");
    assert!(matches!(dir.write_many([("a", &b"new"[..]), ("../b", b"new")]), Err(StoreError::Name(_))));
    assert_eq!(dir.load_all().expect("loads")["a"], b"old");
    assert!(!path.join(".new.a").exists());
}

#[test]
fn full_and_read_only_disks_are_told_apart() {
    let path = Path::new("/state");
    let of = |errno| classify("write", path, io::Error::from_raw_os_error(errno));
    assert!(matches!(of(libc::ENOSPC), StoreError::Full(_)));
    assert!(matches!(of(libc::EDQUOT), StoreError::Full(_)));
    assert!(matches!(of(libc::EROFS), StoreError::ReadOnly(_)));
    assert!(matches!(of(libc::EIO), StoreError::Io { .. }));
}

proptest! {
    #[test]
    fn no_name_leads_out_of_the_folder(name in ".{0,300}") {
        if check_name(&name).is_ok() {
            prop_assert!(!name.contains('/') && !name.contains('\0') && !name.starts_with('.') && name != LOCK);
            prop_assert_eq!(Path::new(&name).components().count(), 1);
        }
    }
}
