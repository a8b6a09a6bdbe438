//! The control socket: where it is, and who may find it there.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::OsError;

/// How many connections may wait for the daemon.
const BACKLOG: i32 = 64;

/// Where the daemon keeps its state unless told otherwise (`CLI.md`).
pub fn default_state_dir() -> PathBuf {
    Surroundings::of_process().state_dir()
}

/// Where the daemon listens unless told otherwise (`CLI.md`).
pub fn default_socket() -> PathBuf {
    Surroundings::of_process().socket()
}

/// What the default places depend on.
#[derive(Debug, Clone, Default)]
struct Surroundings {
    uid: u32,
    home: Option<OsString>,
    xdg_state_home: Option<OsString>,
    xdg_runtime_dir: Option<OsString>,
    temp_dir: PathBuf,
}

impl Surroundings {
    fn of_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            home: std::env::var_os("HOME"),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            temp_dir: std::env::temp_dir(),
        }
    }

    fn state_dir(&self) -> PathBuf {
        if self.uid == 0 {
            return "/var/lib/peerd".into();
        }
        let home = || Some(absolute(&self.home)?.join(".local/state"));
        let state = absolute(&self.xdg_state_home).or_else(home);
        state.map_or_else(|| self.own_temp_dir().join("state"), |folder| folder.join("peerd"))
    }

    fn socket(&self) -> PathBuf {
        if self.uid == 0 {
            return "/run/peerd/peerd.sock".into();
        }
        let runtime = absolute(&self.xdg_runtime_dir).map(|folder| folder.join("peerd"));
        runtime.unwrap_or_else(|| self.own_temp_dir()).join("peerd.sock")
    }

    fn own_temp_dir(&self) -> PathBuf {
        self.temp_dir.join(format!("peerd-{}", self.uid))
    }
}

/// A relative path in one of the variables counts as none (XDG Base Directory Specification).
fn absolute(value: &Option<OsString>) -> Option<PathBuf> {
    value.as_ref().map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The daemon's listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// A socket's file, removed when this is dropped; another daemon's socket in its place stays.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("a daemon answers at {} already", .0.display())]
    InUse(PathBuf),
    #[error("{} is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("the path {} is too long for a socket", .0.display())]
    TooLong(PathBuf),
    #[error("the folder {} is not for this user alone", .0.display())]
    UnsafeFolder(PathBuf),
    #[error("cannot {step} {}", path.display())]
    Io { step: &'static str, path: PathBuf, source: io::Error },
}

impl SocketError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::InUse(_) => Some("stop it, or give this one a socket of its own with --socket"),
            Self::NotASocket(_) => Some("remove the file, or name another with --socket"),
            Self::TooLong(_) => Some("a socket's path has at most 107 bytes: name a shorter one with --socket"),
            Self::UnsafeFolder(_) => {
                Some("others could put a socket of theirs there: remove it, or name another with --socket")
            }
            Self::Io { .. } => None,
        }
    }
}

/// Listens at `path` with mode 0660, in a folder that is made 0700 when it is not there. A socket at which nobody
/// answers is replaced.
pub fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
    let io = |step| move |e: io::Error| SocketError::Io { step, path: path.to_owned(), source: e };
    let address = SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong(path.to_owned()))?;
    safe_folder(folder_of(path))?;
    remove_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| io("make")(e.into()))?;
    // On Linux the file gets the socket's own mode, less the umask: so it is never open to others, not for a moment.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o660)).map_err(|e| io("close to others")(e.into()))?;
    rustix::net::bind(&socket, &address).map_err(|errno| match errno {
        rustix::io::Errno::ADDRINUSE => SocketError::InUse(path.to_owned()),
        errno => io("bind")(errno.into()),
    })?;
    let meta = fs::symlink_metadata(path).map_err(io("look at"))?;
    let file = SocketFile { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
    // The umask may have taken the group's rights, which are what the group is for.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o660)).map_err(|e| io("open to its group")(e.into()))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|e| io("listen at")(e.into()))?;
    Ok(ControlSocket { listener: UnixListener::from(socket), file })
}

impl ControlSocket {
    /// The socket for the runtime that this is called in, and its file, to be dropped when the daemon stops.
    pub fn into_tokio(self) -> io::Result<(tokio::net::UnixListener, SocketFile)> {
        Ok((tokio::net::UnixListener::from_std(self.listener)?, self.file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode)) {
            // If it cannot be removed, the next daemon finds a socket at which nobody answers.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the folder 0700, or looks whether somebody else could exchange what is in it.
pub(super) fn safe_folder(folder: &Path) -> Result<(), SocketError> {
    let io = |step| move |e: io::Error| SocketError::Io { step, path: folder.to_owned(), source: e };
    if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        safe_folder(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io("make")(error)),
        _ => {}
    }
    let meta = fs::metadata(folder).map_err(io("look at"))?;
    let link = fs::symlink_metadata(folder).map_err(io("look at"))?;
    let own = rustix::process::geteuid().as_raw();
    let trusted = |uid: u32| uid == own || uid == 0;
    let sticky = meta.mode() & 0o1000 != 0;
    let others_write = meta.mode() & 0o022 != 0;
    if meta.is_dir() && trusted(meta.uid()) && trusted(link.uid()) && (sticky || !others_write) {
        Ok(())
    } else {
        Err(SocketError::UnsafeFolder(folder.to_owned()))
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io = |step| move |e: io::Error| SocketError::Io { step, path: path.to_owned(), source: e };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at")(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if OsError::from(&error) == OsError::CONNREFUSED => fs::remove_file(path).map_err(io("remove")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A daemon with a full backlog, or one that this user may not ask, is a daemon too.
        Ok(_) | Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("is there").permissions().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_its_groups_in_a_folder_of_its_owner_and_goes_with_the_daemon() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("run/peerd/peerd.sock");
        let socket = bind(&path).expect("binds");
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(&parent.path().join("run/peerd")), 0o700);
        UnixStream::connect(&path).expect("answers");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_at_which_a_daemon_answers_is_left_and_a_dead_one_is_replaced() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("peerd.sock");
        let dead = UnixListener::bind(&path).expect("binds");
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        assert!(path.exists());
        drop(dead);
        bind(&path).expect("replaces");
    }

    #[test]
    fn another_daemons_socket_stays_when_this_one_goes() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("peerd.sock");
        let first = bind(&path).expect("binds");
        fs::rename(&path, parent.path().join("moved")).expect("moves");
        let second = bind(&path).expect("binds");
        drop(first);
        UnixStream::connect(&path).expect("answers");
        drop(second);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("peerd.sock");
        fs::write(&path, "mine").expect("written");
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).expect("still there"), b"mine");
    }

    #[test]
    fn a_folder_in_which_others_may_write_is_refused() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("open");
        fs::create_dir(&folder).expect("made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("opened to others");
        assert!(matches!(bind(&folder.join("peerd.sock")), Err(SocketError::UnsafeFolder(_))));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).expect("sticky as /tmp");
        bind(&folder.join("peerd.sock")).expect("binds");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_said_to_be() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert!(matches!(bind(&path), Err(SocketError::TooLong(_))));
    }

    #[test]
    fn the_default_places_are_those_of_the_contract() {
        let paths = |s: Surroundings| (s.state_dir().display().to_string(), s.socket().display().to_string());
        let temp_dir = PathBuf::from("/tmp");
        let user = Surroundings { uid: 1000, home: Some("/u".into()), temp_dir, ..Surroundings::default() };
        let root = Surroundings { uid: 0, xdg_runtime_dir: Some("/run/user/0".into()), ..user.clone() };
        assert_eq!(paths(root), ("/var/lib/peerd".into(), "/run/peerd/peerd.sock".into()));
        assert_eq!(paths(user.clone()), ("/u/.local/state/peerd".into(), "/tmp/peerd-1000/peerd.sock".into()));
        let xdg = Surroundings {
            xdg_state_home: Some("/s".into()),
            xdg_runtime_dir: Some("/run/user/1000".into()),
            ..user.clone()
        };
        assert_eq!(paths(xdg), ("/s/peerd".into(), "/run/user/1000/peerd/peerd.sock".into()));
        let odd = Surroundings { home: None, xdg_state_home: Some("relative".into()), ..user };
        assert_eq!(paths(odd), ("/tmp/peerd-1000/state".into(), "/tmp/peerd-1000/peerd.sock".into()));
    }
}
