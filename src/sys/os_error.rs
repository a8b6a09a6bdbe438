//! An operating system's error number as a plain value.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// An `errno`: unlike [`io::Error`] it can be cloned, compared, and sent from a helper to the process that asked.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OsError(i32);

impl OsError {
    /// Permission denied by mode bits.
    pub const ACCES: Self = Self(libc::EACCES);
    /// The device or name is in use.
    pub const BUSY: Self = Self(libc::EBUSY);
    /// Nobody listens there.
    pub const CONNREFUSED: Self = Self(libc::ECONNREFUSED);
    /// The user's share of the disk is used up.
    pub const DQUOT: Self = Self(libc::EDQUOT);
    /// There is one already.
    pub const EXIST: Self = Self(libc::EEXIST);
    /// The kernel refuses the arguments, often because it is too old for them.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// No such device.
    pub const NODEV: Self = Self(libc::ENODEV);
    /// No such file.
    pub const NOENT: Self = Self(libc::ENOENT);
    /// The disk is full; for a new namespace: the limit of them is reached.
    pub const NOSPC: Self = Self(libc::ENOSPC);
    /// No such driver behind a device file.
    pub const NXIO: Self = Self(libc::ENXIO);
    /// A capability is missing.
    pub const PERM: Self = Self(libc::EPERM);
    /// The file system is read-only.
    pub const ROFS: Self = Self(libc::EROFS);
    /// No such process, or no such route.
    pub const SRCH: Self = Self(libc::ESRCH);

    /// The error with this number.
    pub fn from_raw(errno: i32) -> Self {
        Self(errno)
    }

    /// The number.
    pub fn raw(self) -> i32 {
        self.0
    }

    /// Whether the caller lacked a right, be it a mode bit or a capability.
    pub fn is_permission(self) -> bool {
        self == Self::ACCES || self == Self::PERM
    }
}

impl From<&io::Error> for OsError {
    /// An error that is not the system's own counts as `EIO`.
    fn from(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<io::Error> for OsError {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<rustix::io::Errno> for OsError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<OsError> for io::Error {
    fn from(error: OsError) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from_raw_os_error(self.0), f)
    }
}

impl fmt::Debug for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsError({}: {self})", self.0)
    }
}

impl std::error::Error for OsError {}
