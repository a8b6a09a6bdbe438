//! The resolver configuration of containers; never the host's own.
//!
//! A namespace that `ip netns` made takes its `/etc/resolv.conf` from `/etc/netns/NAME/resolv.conf` (ip-netns(8)).
//! [`provide`] writes that file and [`withdraw`] takes it away; a file that somebody else wrote is never touched. What a process
//! has of its own is only looked at: [`check`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// What a container's resolver is told (`FEATURES.md` E9).
pub const RESOLV_CONF: &str = "nameserver 169.254.240.53\nsearch svc.private-network.internal\noptions ndots:1 edns0\n";

/// The first line of a file that is ours to remove.
const MARK: &str = "# written by peerd for this network namespace; removed at detach\n";
/// Where `ip netns` keeps its namespaces, and what `ip netns exec` puts into `/etc`.
const NAMED_NETNS: &str = "/run/netns";
const NAMED_ETC: &str = "/etc/netns";
const FILE_NAME: &str = "resolv.conf";
/// What is being written, until it is whole. It is always ours.
const TEMPORARY: &str = ".resolv.conf.peerd";
/// More of a container's own file is not read.
const READ_LEN_MAX: u64 = 64 << 10;

/// Why a container's names are not set up. It can be attached all the same.
#[derive(Debug, thiserror::Error)]
pub enum ResolvError {
    #[error("{} is there already and not peerd's", .0.display())]
    Foreign(PathBuf),
    #[error("{} cannot be written", path.display())]
    Impossible { path: PathBuf, source: io::Error },
    #[error("its /etc/resolv.conf has no line nameserver 169.254.240.53, or another nameserver before it")]
    Elsewhere,
}

/// Writes the resolver configuration for the namespace at `netns`; the file's path, for [`withdraw`], or `None` for a
/// namespace without a name, in whose place nobody would look for such a file.
pub fn provide(netns: &Path) -> Result<Option<PathBuf>, ResolvError> {
    etc_of(netns).map(|folder| provide_in(&folder)).transpose()
}

/// Whether the files of the process `pid` name the resolver first. If they cannot be looked at, nothing is said against them.
pub fn check(pid: u32) -> Result<(), ResolvError> {
    let Ok(root) = File::open(format!("/proc/{pid}/root")) else { return Ok(()) };
    if asks_us(&root).unwrap_or(true) { Ok(()) } else { Err(ResolvError::Elsewhere) }
}

/// The files below `root` are a stranger's: they are looked up within it, and nothing there is waited for.
fn asks_us(root: &File) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, "etc/resolv.conf", flags, Mode::empty(), beneath) {
        Ok(file) => File::from(file),
        // Without the file the C libraries ask 127.0.0.1.
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(READ_LEN_MAX).read_to_end(&mut bytes)?;
    }
    Ok(first_nameserver(&String::from_utf8_lossy(&bytes)) == first_nameserver(RESOLV_CONF))
}

fn first_nameserver(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("nameserver")).map(str::trim_ascii)
}

/// Where [`provide`] would write for the namespace at `netns`, whether or not something is there.
pub fn place(netns: &Path) -> Option<PathBuf> {
    etc_of(netns).map(|folder| folder.join(FILE_NAME))
}

/// Removes what [`provide`] wrote, and its folder when that is empty then. A file that is not ours stays.
pub fn withdraw(path: &Path) -> io::Result<()> {
    // Of a node that was killed while it wrote.
    let _ = fs::remove_file(path.with_file_name(TEMPORARY));
    match is_ours(path) {
        Ok(true) => {
            fs::remove_file(path)?;
            if let Some(folder) = path.parent() {
                // Fails when the user keeps other files there, and then it stays.
                let _ = fs::remove_dir(folder);
            }
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The folder below `/etc/netns` for a namespace's path.
fn etc_of(netns: &Path) -> Option<PathBuf> {
    // /var/run is a link to /run on most systems; both spellings mean the same namespace.
    let parent = fs::canonicalize(netns.parent()?).ok()?;
    let named = fs::canonicalize(NAMED_NETNS).unwrap_or_else(|_| PathBuf::from(NAMED_NETNS));
    (parent == named).then(|| Path::new(NAMED_ETC).join(netns.file_name().unwrap_or_default()))
}

fn provide_in(folder: &Path) -> Result<PathBuf, ResolvError> {
    let path = folder.join(FILE_NAME);
    let wrote = match is_ours(&path) {
        Ok(true) => return Ok(path),
        Ok(false) => return Err(ResolvError::Foreign(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_new(folder, &path),
        Err(error) => Err(error),
    };
    match wrote {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(ResolvError::Foreign(path)),
        Err(source) => Err(ResolvError::Impossible { path, source }),
    }
}

fn write_new(folder: &Path, path: &Path) -> io::Result<()> {
    let made_folder = !folder.exists();
    fs::create_dir_all(folder)?;
    let text = format!("{MARK}{RESOLV_CONF}");
    let temporary = folder.join(TEMPORARY);
    let _ = fs::remove_file(&temporary);
    // Half a file would be read by every lookup in the container, and after a crash would look like somebody else's: so it
    // gets its name when it is whole. `create_new` follows no link, and a link never replaces what has the name.
    let wrote = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary);
    let wrote = wrote
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    if wrote.is_err() && made_folder {
        // Fails when it is not empty, and then it is not ours to remove.
        let _ = fs::remove_dir(folder);
    }
    wrote
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
        let path = provide_in(&folder).expect("written");
        let text = fs::read_to_string(folder.join("resolv.conf")).expect("the file");
        assert!(
            text.ends_with("\nnameserver 169.254.240.53\nsearch svc.private-network.internal\noptions ndots:1 edns0\n")
        );
        assert_eq!(provide_in(&folder).expect("a second time"), path);
        withdraw(&path).expect("removed");
        assert!(!folder.exists());
        withdraw(&path).expect("a second time");
    }

    #[test]
    fn what_a_killed_node_had_half_written_is_nobodys_file_and_goes() {
        let etc = tempfile::tempdir().expect("a folder");
        let folder = etc.path().join("web");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join(TEMPORARY), "# writ").expect("half a file");
        let path = provide_in(&folder).expect("written");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "only the whole file");
        fs::write(folder.join(TEMPORARY), "").expect("half a file");
        withdraw(&path).expect("removed");
        assert!(!folder.exists());
    }

    #[test]
    fn a_file_that_is_not_ours_stays() {
        let etc = tempfile::tempdir().expect("a folder");
        let path = etc.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").expect("written");
        assert!(matches!(provide_in(etc.path()), Err(ResolvError::Foreign(_))));
        withdraw(&path).expect("nothing to do");
        assert_eq!(fs::read_to_string(&path).expect("the file"), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn a_link_is_never_written_through() {
        let etc = tempfile::tempdir().expect("a folder");
        let target = etc.path().join("target");
        std::os::unix::fs::symlink(&target, etc.path().join("resolv.conf")).expect("a link");
        assert!(matches!(provide_in(etc.path()), Err(ResolvError::Foreign(_))));
        assert!(!target.exists());
    }

    #[test]
    fn other_files_of_the_folder_stay() {
        let etc = tempfile::tempdir().expect("a folder");
        fs::write(etc.path().join("hosts"), "").expect("written");
        let path = provide_in(etc.path()).expect("written");
        withdraw(&path).expect("removed");
        assert!(etc.path().join("hosts").exists());
    }

    #[test]
    fn a_containers_own_file_is_looked_at_within_its_root_and_not_waited_for() {
        use rustix::fs::{FileType, mknodat};
        let asks = |make: &dyn Fn(&Path)| {
            let root = tempfile::tempdir().expect("a folder");
            fs::create_dir(root.path().join("etc")).expect("a folder");
            make(&root.path().join("etc/resolv.conf"));
            asks_us(&File::open(root.path()).expect("a folder")).map_err(|error| error.kind())
        };
        let says = |text: &str| asks(&|path| fs::write(path, text).expect("written"));
        assert_eq!(says(RESOLV_CONF), Ok(true));
        assert_eq!(says("# from a template\nnameserver\t169.254.240.53 \nnameserver 192.0.2.1\n"), Ok(true));
        for other in
            ["", "nameserver 192.0.2.1\nnameserver 169.254.240.53\n", "search svc\n", "nameserver 169.254.240.5\n"]
        {
            assert_eq!(says(other), Ok(false), "{other:?}");
        }
        assert_eq!(asks(&|_| ()), Ok(false), "there is none");
        // A link leads to a file of the container's, and to none of the host's.
        let mut outside = tempfile::NamedTempFile::new().expect("a file");
        outside.write_all(RESOLV_CONF.as_bytes()).expect("written");
        let link_to = |to: &Path| asks(&|path| std::os::unix::fs::symlink(to, path).expect("a link"));
        assert_eq!(link_to(outside.path()), Ok(false));
        assert!(link_to(Path::new("resolv.conf")).is_err(), "it leads to itself");
        let to_ours = |path: &Path| {
            fs::write(path.with_file_name("ours"), RESOLV_CONF).expect("written");
            std::os::unix::fs::symlink("/etc/ours", path).expect("a link");
        };
        assert_eq!(asks(&to_ours), Ok(true));
        let pipe = |path: &Path| {
            mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from(0o644), 0).expect("a pipe");
        };
        assert_eq!(asks(&pipe), Ok(false));
    }

    #[test]
    fn a_namespace_without_a_name_has_no_folder() {
        assert_eq!(etc_of(Path::new("/proc/1/ns/net")), None);
        assert_eq!(etc_of(Path::new("relative")), None);
    }
}
