//! The resolver configuration of containers; never the host's own.
//!
//! A namespace that `ip netns` made takes its `/etc/resolv.conf` from `/etc/netns/NAME/resolv.conf` (ip-netns(8)).
//! [`install`] writes that file and [`remove`] takes it away; a file that somebody else wrote is never touched.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a container's resolver is told (`FEATURES.md` E9).
pub const RESOLV_CONF: &str = "nameserver 169.254.240.53\nsearch svc.private-network.internal\noptions ndots:1 edns0\n";

/// The first line of a file that is ours to remove.
const MARK: &str = "# written by peerd for this network namespace; removed at detach\n";
/// Where `ip netns` keeps its namespaces, and what `ip netns exec` puts into `/etc`.
const NAMED_NETNS: &str = "/run/netns";
const NAMED_ETC: &str = "/etc/netns";

/// What became of the file. None of these keeps a container from being attached.
#[derive(Debug)]
pub enum Installed {
    /// It is there and ours.
    Written(PathBuf),
    /// The namespace has no name below `/run/netns`, so nobody would read such a file.
    NotNamed,
    /// Somebody else's file is there and stays.
    Foreign(PathBuf),
    /// It cannot be written, as is usual for an ordinary user.
    Impossible { path: PathBuf, source: io::Error },
}

/// Writes the resolver configuration for the namespace at `netns`.
pub fn install(netns: &Path) -> Installed {
    match etc_of(netns) {
        Some(folder) => install_in(&folder),
        None => Installed::NotNamed,
    }
}

/// Removes what [`install`] wrote, and its folder when that is empty then.
pub fn remove(netns: &Path) -> io::Result<()> {
    etc_of(netns).map_or(Ok(()), |folder| remove_from(&folder))
}

/// The folder below `/etc/netns` for a namespace's path.
fn etc_of(netns: &Path) -> Option<PathBuf> {
    // /var/run is a link to /run on most systems; both spellings mean the same namespace.
    let parent = fs::canonicalize(netns.parent()?).ok()?;
    let named = fs::canonicalize(NAMED_NETNS).unwrap_or_else(|_| PathBuf::from(NAMED_NETNS));
    (parent == named).then(|| Path::new(NAMED_ETC).join(netns.file_name().unwrap_or_default()))
}

fn install_in(folder: &Path) -> Installed {
    let path = folder.join("resolv.conf");
    let wrote = match is_ours(&path) {
        Ok(true) => return Installed::Written(path),
        Ok(false) => return Installed::Foreign(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_new(folder, &path),
        Err(error) => Err(error),
    };
    match wrote {
        Ok(()) => Installed::Written(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Installed::Foreign(path),
        Err(source) => Installed::Impossible { path, source },
    }
}

fn write_new(folder: &Path, path: &Path) -> io::Result<()> {
    let made_folder = !folder.exists();
    fs::create_dir_all(folder)?;
    let text = format!("{MARK}{RESOLV_CONF}");
    // `create_new` follows no link: a link somebody put here is somebody else's file.
    let wrote = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let wrote = wrote.and_then(|mut file| {
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
            // Half a file would be read by every lookup in the container.
            let _ = fs::remove_file(path);
        })
    });
    if wrote.is_err() && made_folder {
        // Fails when it is not empty, and then it is not ours to remove.
        let _ = fs::remove_dir(folder);
    }
    wrote
}

fn remove_from(folder: &Path) -> io::Result<()> {
    let path = folder.join("resolv.conf");
    match is_ours(&path) {
        Ok(true) => {
            fs::remove_file(&path)?;
            // Fails when the user keeps other files there, and then it stays.
            let _ = fs::remove_dir(folder);
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the file at `path` begins with our mark; a link never does.
fn is_ours(path: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.is_file() && fs::read(path)?.starts_with(MARK.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_file_is_written_with_its_folder_and_both_go_again() {
        let etc = tempfile::tempdir().expect("a folder");
        let folder = etc.path().join("web");
        assert!(matches!(install_in(&folder), Installed::Written(_)));
        let text = fs::read_to_string(folder.join("resolv.conf")).expect("the file");
        assert!(
            text.ends_with("\nnameserver 169.254.240.53\nsearch svc.private-network.internal\noptions ndots:1 edns0\n")
        );
        assert!(matches!(install_in(&folder), Installed::Written(_)), "a second time");
        remove_from(&folder).expect("removed");
        assert!(!folder.exists());
        remove_from(&folder).expect("a second time");
    }

    #[test]
    fn a_file_that_is_not_ours_stays() {
        let etc = tempfile::tempdir().expect("a folder");
        let path = etc.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").expect("written");
        assert!(matches!(install_in(etc.path()), Installed::Foreign(_)));
        remove_from(etc.path()).expect("nothing to do");
        assert_eq!(fs::read_to_string(&path).expect("the file"), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn a_link_is_never_written_through() {
        let etc = tempfile::tempdir().expect("a folder");
        let target = etc.path().join("target");
        std::os::unix::fs::symlink(&target, etc.path().join("resolv.conf")).expect("a link");
        assert!(matches!(install_in(etc.path()), Installed::Foreign(_)));
        assert!(!target.exists());
    }

    #[test]
    fn other_files_of_the_folder_stay() {
        let etc = tempfile::tempdir().expect("a folder");
        fs::write(etc.path().join("hosts"), "").expect("written");
        assert!(matches!(install_in(etc.path()), Installed::Written(_)));
        remove_from(etc.path()).expect("removed");
        assert!(etc.path().join("hosts").exists());
    }

    #[test]
    fn a_namespace_without_a_name_has_no_folder() {
        assert_eq!(etc_of(Path::new("/proc/1/ns/net")), None);
        assert_eq!(etc_of(Path::new("relative")), None);
    }
}
