//! The state folder: a node's memory on disk, one small file a thing.
//!
//! A file is whole or it is not there: it is written under another name, synced, renamed, and its folder synced. What is
//! in it is the caller's business, and so is a checksum against what a disk does later.
//!
//! One process uses a folder at a time. Everything in it is for its owner alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::OsError;

/// A file larger than this is not one of ours.
pub const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;
/// Bounded by the file system, less what a temporary name adds.
pub const NAME_LEN_MAX: usize = 200;

const LOCK: &str = "lock";
const TEMPORARY: &str = ".new.";
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An open, locked state folder.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
    /// Holds the lock while it is open.
    _lock: File,
}

/// Why state cannot be read or written. What was there before is there still.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another peerd{} uses the state folder {}", pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), path.display())]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("{} is a symbolic link or no folder", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} belongs to another user (uid {owner})", path.display())]
    ForeignOwner { path: PathBuf, owner: u32 },
    #[error("{0:?} is no name for a state file")]
    Name(String),
    #[error("{} is full", .0.display())]
    Full(PathBuf),
    #[error("{} cannot be written: the file system is read-only", .0.display())]
    ReadOnly(PathBuf),
    #[error("cannot {step} {}", path.display())]
    Io { step: &'static str, path: PathBuf, source: io::Error },
}

impl StoreError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => Some("stop it, or give this one a folder of its own with --state-dir"),
            Self::NotAFolder(_) | Self::ForeignOwner { .. } => Some("name another folder with --state-dir"),
            Self::Full(_) => Some("make room; what was acknowledged before is safe"),
            Self::ReadOnly(_) | Self::Name(_) | Self::Io { .. } => None,
        }
    }
}

impl StateDir {
    /// Opens `path` for this process alone, making it when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |step| move |e: io::Error| classify(step, path, e);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(io("make"))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io("make")(error)),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => StoreError::NotAFolder(path.to_owned()),
            errno => io("open")(errno.into()),
        })?;
        let stat = rustix::fs::fstat(&dir).map_err(|e| io("look at")(e.into()))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StoreError::ForeignOwner { path: path.to_owned(), owner: stat.st_uid });
        }
        if stat.st_mode & 0o777 != 0o700 {
            rustix::fs::fchmod(&dir, Mode::RWXU).map_err(|e| io("close to others")(e.into()))?;
        }
        let lock = lock(&dir, path)?;
        let state = Self { path: path.to_owned(), dir, _lock: lock };
        match state.sweep() {
            // What is half written can stay there: it is never read.
            Ok(()) | Err(StoreError::ReadOnly(_)) => Ok(state),
            Err(error) => Err(error),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that is in it, by name.
    pub fn load_all(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.names()?.into_iter().map(|name| self.read(&name).map(|bytes| (name, bytes))).collect()
    }

    /// Writes one file, whole, on the disk when this returns.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_many([(name, bytes)])
    }

    /// Writes several files for the price of one sync of the folder. Each is whole; that all are is not promised: after
    /// a crash or an error some may be the new ones and some the old.
    pub fn write_many<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), StoreError> {
        let mut written = Vec::new();
        let result = (|| {
            for (name, bytes) in files {
                check_name(name)?;
                written.push(name);
                self.write_temporary(name, bytes).map_err(|e| self.io("write", name, e))?;
            }
            for name in &written {
                rustix::fs::renameat(&self.dir, temporary(name), &self.dir, *name)
                    .map_err(|e| self.io("rename", name, e.into()))?;
            }
            self.sync()
        })();
        if result.is_err() {
            for name in written {
                // Already renamed, or swept away at the next start.
                let _ = rustix::fs::unlinkat(&self.dir, temporary(name), AtFlags::empty());
            }
        }
        result
    }

    /// Removes a file, for good when this returns. That it is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) => self.sync(),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.io("remove", name, errno.into())),
        }
    }

    /// The names of all files, without the lock.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string()
                    && entry.file_type()?.is_file()
                    && check_name(&name).is_ok()
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        list().map_err(|e| classify("list", &self.path, e))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = || -> io::Result<Vec<u8>> {
            let file = File::from(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?);
            let mut bytes = Vec::new();
            file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > FILE_LEN_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
        };
        read().map_err(|e| self.io("read", name, e))
    }

    fn write_temporary(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.dir, temporary(name), flags, PRIVATE_FILE)?);
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.dir).map_err(|e| classify("sync", &self.path, e.into()))
    }

    /// Removes what a crash left half written.
    fn sweep(&self) -> Result<(), StoreError> {
        let list = fs::read_dir(&self.path).map_err(|e| classify("list", &self.path, e))?;
        for name in list.flatten().map(|entry| entry.file_name()) {
            if name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty())
                    .map_err(|e| classify("sweep", &self.path, e.into()))?;
            }
        }
        Ok(())
    }

    fn io(&self, step: &'static str, name: &str, source: io::Error) -> StoreError {
        classify(step, &self.path.join(name), source)
    }
}

fn lock(dir: &OwnedFd, path: &Path) -> Result<File, StoreError> {
    let io = |e: rustix::io::Errno| classify("lock", path, e.into());
    // Not for writing: a file that is open for that would keep its file system from being made read-only.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir.as_fd(), LOCK, flags, PRIVATE_FILE).map_err(io)?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // Only for the message: a lock without a number in it is a lock all the same.
            let _ = file.take(16).read_to_string(&mut pid);
            return Err(StoreError::Locked { path: path.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(errno) => return Err(io(errno)),
    }
    // Only for the message to who comes second: a disk that takes nothing is no reason not to serve what is attached.
    let _ = note_pid(dir);
    Ok(file)
}

fn note_pid(dir: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, LOCK, flags, Mode::empty())?);
    let pid = format!("{}\n", std::process::id());
    // Over what stands there before it is cut: on a full disk a file that was emptied does not grow again.
    file.write_all(pid.as_bytes())?;
    file.set_len(pid.len() as u64)
}

fn temporary(name: &str) -> String {
    format!("{TEMPORARY}{name}")
}

/// Names that mean a file in this very folder, the same on every system, and never one of our own.
fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let fits = (1..=NAME_LEN_MAX).contains(&name.len()) && !name.starts_with('.') && name != LOCK;
    if fits && name.bytes().all(plain) { Ok(()) } else { Err(StoreError::Name(name.to_owned())) }
}

fn classify(step: &'static str, path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match OsError::from(&source) {
        OsError::NOSPC | OsError::DQUOT => StoreError::Full(path),
        OsError::ROFS => StoreError::ReadOnly(path),
        _ => StoreError::Io { step, path, source },
    }
}

#[cfg(test)]
mod tests;
