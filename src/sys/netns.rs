//! Network namespaces: found by path or process, known by identity, entered on a thread of their own.
#![allow(unsafe_code)] // two ioctls and `unshare`

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::OsError;

/// A network namespace, held open: it lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    origin: Origin,
    id: NetnsId,
    started_ticks: Option<u64>,
}

/// Where a namespace was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A file: `/run/netns/NAME`, `/proc/PID/ns/net`, or another bind mount.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
    /// Made, or asked for, by this process.
    Own,
}

/// A namespace's identity while it lives: two files are of one namespace exactly when these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    pub device: u64,
    pub inode: u64,
}

/// What is remembered of a namespace to find it again after a restart of the daemon, and to notice that another one
/// stands in its place: inode numbers are used again, process ids too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub origin: Origin,
    pub id: NetnsId,
    /// When the process at [`Origin::Pid`] began, in clock ticks since the machine's start.
    pub started_ticks: Option<u64>,
    /// Which run of the machine this was.
    pub machine_boot: String,
}

/// One namespace among those of all runs of the machine: each run gives the same numbers again.
pub type NetnsPlace = (String, NetnsId);

impl Anchor {
    /// Which namespace it is, wherever it was found.
    pub fn place(&self) -> NetnsPlace {
        (self.machine_boot.clone(), self.id)
    }
}

/// Why there is no such namespace to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    #[error("there is no file {}", .0.display())]
    NoSuchPath(PathBuf),
    #[error("there is no process {0}")]
    NoSuchProcess(u32),
    #[error("{} is not a network namespace", .0.display())]
    NotANetns(PathBuf),
    #[error("{origin} may not be opened by this user")]
    Forbidden { origin: Origin, source: OsError },
    #[error("{0} is another network namespace than it was")]
    Replaced(Origin),
    #[error("{origin} cannot be opened")]
    Io { origin: Origin, source: OsError },
}

impl NetnsError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NoSuchPath(_) | Self::NotANetns(_) => {
                Some("name a file below /run/netns (ip netns ls), /proc/PID/ns/net, or use --pid PID")
            }
            Self::Forbidden { .. } => {
                Some("an ordinary user's daemon serves that user's containers only; for others run peerd as root")
            }
            Self::NoSuchProcess(_) => Some("a process that has ended has no namespace: name one that runs"),
            Self::Replaced(_) | Self::Io { .. } => None,
        }
    }

    /// Whether the namespace has gone for good. Otherwise it may only not be had at this moment, or by this user.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::NoSuchPath(_) | Self::NoSuchProcess(_) | Self::Replaced(_) | Self::NotANetns(_) => true,
            Self::Forbidden { .. } | Self::Io { .. } => false,
        }
    }
}

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
/// `NS_GET_USERNS` and `NS_GET_NSTYPE` of linux/nsfs.h.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_NSTYPE: u32 = 0xb703;

impl Netns {
    /// The namespace that the file at `path` stands for.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        Self::open_as(path, Origin::Path(path.to_owned()))
    }

    /// The namespace that process `pid` is in.
    pub fn of_pid(pid: u32) -> Result<Self, NetnsError> {
        // Read before and after: the process cannot have been replaced in between if it began at one time.
        let before = started_ticks(pid).ok_or(NetnsError::NoSuchProcess(pid))?;
        let mut netns = Self::open_as(&PathBuf::from(format!("/proc/{pid}/ns/net")), Origin::Pid(pid))?;
        if started_ticks(pid) != Some(before) {
            return Err(NetnsError::NoSuchProcess(pid));
        }
        netns.started_ticks = Some(before);
        Ok(netns)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open_as(Path::new("/proc/thread-self/ns/net"), Origin::Own)
    }

    /// A new namespace with nothing in it but `lo`, which is down. Needs CAP_SYS_ADMIN.
    pub fn create() -> Result<Self, NetnsError> {
        let make = || {
            // SAFETY: the thread shares no file table that another would miss; only its network namespace changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(|e| NetnsError::Io { origin: Origin::Own, source: e.into() })?;
            Self::current()
        };
        on_own_thread(make).unwrap_or_else(|e| Err(NetnsError::Io { origin: Origin::Own, source: e.into() }))
    }

    /// Finds the namespace of `anchor` again, and refuses any other that has taken its place.
    pub fn reopen(anchor: &Anchor) -> Result<Self, NetnsError> {
        let found = match &anchor.origin {
            Origin::Path(path) => Self::open(path)?,
            Origin::Pid(pid) => Self::of_pid(*pid)?,
            Origin::Own => return Err(NetnsError::Replaced(Origin::Own)),
        };
        if found.anchor() == *anchor { Ok(found) } else { Err(NetnsError::Replaced(anchor.origin.clone())) }
    }

    /// What to remember of it.
    pub fn anchor(&self) -> Anchor {
        Anchor { origin: self.origin.clone(), id: self.id, started_ticks: self.started_ticks, machine_boot: boot_id() }
    }

    /// Its identity.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Where it was found.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A path that leads to it: the one by which it was opened, else one that works while this process holds it.
    pub fn path(&self) -> PathBuf {
        match &self.origin {
            Origin::Path(path) => path.clone(),
            Origin::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Origin::Own => PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())),
        }
    }

    /// A second handle on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            origin: self.origin.clone(),
            id: self.id,
            started_ticks: self.started_ticks,
        })
    }

    /// The user namespace that owns it: whoever has capabilities there may change it.
    pub fn owner(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ioctl takes no argument and only makes a new descriptor.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::c_ulong::from(NS_GET_USERNS)) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's; the kernel opens it close-on-exec.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Moves the calling thread into it, for good.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Does `work` inside, on a thread of its own that ends with it: sockets opened there belong to this namespace for
    /// ever, and children started there begin their life in it.
    ///
    /// # Errors
    /// When the calling process has not CAP_SYS_ADMIN over the namespace; such a caller needs a [`helper`](super::helper).
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| self.enter().map(|()| work()))?
    }

    fn open_as(path: &Path, origin: Origin) -> Result<Self, NetnsError> {
        let failed = |errno: rustix::io::Errno| {
            let source = OsError::from(errno);
            match &origin {
                Origin::Pid(pid) if source == OsError::NOENT || source == OsError::SRCH => {
                    NetnsError::NoSuchProcess(*pid)
                }
                Origin::Path(path) if source == OsError::NOENT || source.raw() == libc::ENOTDIR => {
                    NetnsError::NoSuchPath(path.clone())
                }
                origin if source.is_permission() => NetnsError::Forbidden { origin: origin.clone(), source },
                origin => NetnsError::Io { origin: origin.clone(), source },
            }
        };
        let not_a_netns = || NetnsError::NotANetns(path.to_owned());
        // Looked at before it is opened: opening a device or a pipe can do things.
        let looked_at = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let kind = rustix::fs::fstatfs(&looked_at).map_err(failed)?;
        if kind.f_type != NSFS_MAGIC {
            return Err(not_a_netns());
        }
        let reopened = format!("/proc/self/fd/{}", looked_at.as_raw_fd());
        let fd = rustix::fs::open(reopened, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        // SAFETY: the ioctl takes no argument and answers a constant.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(NS_GET_NSTYPE)) };
        if kind != libc::CLONE_NEWNET {
            return Err(not_a_netns());
        }
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        Ok(Self { fd, origin, id: NetnsId { device: stat.st_dev, inode: stat.st_ino }, started_ticks: None })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => write!(f, "the network namespace of process {pid}"),
            Self::Own => f.write_str("a network namespace of this process"),
        }
    }
}

/// When process `pid` began, in clock ticks since the machine's start; `None` when there is none.
pub(super) fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything, parentheses too. The 22nd is the start.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Moves the calling process into a network namespace for good, and into the user namespace that owns it if it takes that.
/// It must have one thread.
pub(super) fn enter_from_one_thread(netns: BorrowedFd<'_>, owner: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let net = || move_into_link_name_space(netns, Some(LinkNameSpaceType::Network));
    let user = || move_into_link_name_space(owner, Some(LinkNameSpaceType::User));
    // Root may enter as it is. An ordinary user has the right only from within the user namespace that is its own.
    net().or_else(|refused| match user() {
        // It is in that user namespace already, so the first refusal is the reason.
        Err(Errno::INVAL) => Err(refused),
        other => other.and_then(|()| net()),
    })
}

/// Another one after each start of the host.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        worker.join().map_err(|_| io::Error::other("the thread inside the network namespace panicked"))
    })
}
