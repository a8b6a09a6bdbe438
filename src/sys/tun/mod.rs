//! A container's TUN: made inside its network namespace by a [helper](super::helper), handed out as a file descriptor.
//!
//! [`attach_tun`] makes the device whole or leaves nothing; [`adopt_tun`] takes back a device that outlived the daemon;
//! [`detach_tun`] removes it, and [`Adopters`] take back many. All of them block for some milliseconds (at most [`ANSWER_TIMEOUT`]): keep them off the
//! runtime's threads and off the data thread.
//!
//! What a container finds in its namespace (`FEATURES.md` N4):
//! ```text
//! peerd0: ADDRESS/32, MTU, no IPv6
//! 10.240.0.0/22    dev peerd0 scope link src ADDRESS
//! 169.254.240.0/20 dev peerd0 scope link src ADDRESS
//! unreachable 10.240.0.0/22 metric 4200000000
//! unreachable 169.254.240.0/20 metric 4200000000
//! ```
//! The last two outlive the device: without it the network's packets never leave by another interface.
//!
//! Nothing here reads or writes packets.

mod device;
mod setup;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use setup::run;

use super::OsError;
use super::helper::{self, HelperError, Running, Task};
use super::netlink::LinkWatch;
use super::netns::Netns;

/// The longest interface name, in bytes: `IFNAMSIZ` less its terminating zero.
pub const IFNAME_LEN_MAX: usize = 15;
/// The metric of the fallback routes: worse than any that a user would set.
pub const FALLBACK_METRIC: u32 = 4_200_000_000;

/// A TUN to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunSpec {
    pub ifname: String,
    pub address: Ipv4Addr,
    pub mtu_bytes: u32,
}

/// A TUN in a container's namespace. It stays when this is dropped: it is persistent, for the next daemon to adopt.
#[derive(Debug)]
pub struct Tun {
    /// The device: close-on-exec, non-blocking, every packet with a virtio-net header of 10 bytes when
    /// [`TunFacts::vnet_hdr`] says so.
    pub fd: OwnedFd,
    pub facts: TunFacts,
    /// Becomes readable when somebody changes the interface, moves or deletes it.
    pub watch: LinkWatch,
}

/// What the kernel gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunFacts {
    pub ifname: String,
    /// Counts within the namespace.
    pub ifindex: u32,
    /// Whether packets carry a virtio-net header.
    pub vnet_hdr: bool,
    pub offloads: Offloads,
    /// Whether IPv6 is off on the device; if not, the router drops it all the same.
    pub ipv6_off: bool,
    /// How many packets had queued while nobody read; they are too old to be worth anything and were thrown away.
    pub stale_packets: u32,
}

/// Which superpackets the kernel may hand over and take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// Checksums may be partial.
    pub checksum: bool,
    /// TCP segmentation, IPv4 and IPv6.
    pub tso: bool,
    /// UDP segmentation, IPv4 and IPv6 (Linux 6.2).
    pub uso: bool,
}

/// Why a TUN was not made, adopted or removed. The namespace is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum TunError {
    #[error("{0:?} is no name for an interface")]
    IfnameInvalid(String),
    #[error("an MTU of {0} bytes is out of range")]
    MtuInvalid(u32),
    #[error("there is an interface {0} in the container already")]
    IfnameTaken(String),
    #[error("there is no interface {0} in the container")]
    NoSuchInterface(String),
    #[error("interface {0} in the container is not one of peerd's")]
    NotOurs(String),
    #[error("interface {0} in the container is held by another process")]
    InUse(String),
    #[error("the container has a route to {0} already")]
    RouteTaken(String),
    #[error("there is no /dev/net/tun")]
    DeviceMissing(#[source] OsError),
    #[error("/dev/net/tun cannot be opened")]
    DeviceForbidden(#[source] OsError),
    #[error("the container's namespaces cannot be entered")]
    Forbidden(#[source] OsError),
    #[error("cannot {step}")]
    Step { step: String, source: OsError },
    #[error(transparent)]
    #[serde(skip)]
    Helper(#[from] HelperError),
}

impl TunError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::IfnameInvalid(_) => Some("a name has 1 to 15 bytes, no '/', no ':', no space"),
            Self::MtuInvalid(_) => Some("use 576 to 65535 bytes"),
            Self::IfnameTaken(_) => Some("give another with --ifname"),
            Self::RouteTaken(_) => Some("a namespace belongs to one private network at most: detach it from the other"),
            Self::DeviceMissing(_) => Some("load the driver: modprobe tun"),
            Self::DeviceForbidden(_) => {
                Some("allow it: chmod 0666 /dev/net/tun, for good with the udev rule KERNEL==\"tun\", MODE=\"0666\"")
            }
            Self::Forbidden(_) => Some(
                "an ordinary user's daemon serves containers in that user's own user namespaces; else run peerd as root",
            ),
            Self::InUse(_) => Some("is another peerd running that serves this container?"),
            Self::NoSuchInterface(_) | Self::NotOurs(_) | Self::Step { .. } | Self::Helper(_) => None,
        }
    }

    /// Whether the device that was to be adopted has gone for good. Otherwise the system may only not give it at this moment.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoSuchInterface(_) | Self::NotOurs(_))
    }
}

/// What a helper is told to do with a TUN.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Attach(TunSpec),
    Adopt(TunSpec),
    Detach { ifname: String },
}

/// Longer than this no call of this room takes.
pub const ANSWER_TIMEOUT: Duration = helper::ANSWER_TIMEOUT;

/// Makes a TUN in `netns`, persistent, up, with its address and routes.
///
/// # Errors
/// The namespace is left as it was.
pub fn attach_tun(netns: &Netns, spec: &TunSpec) -> Result<Tun, TunError> {
    spec.check()?;
    let helper = start(netns, Order::Attach(spec.clone()))?;
    open(&helper)
}

/// Takes back a TUN that [`attach_tun`] made for an earlier daemon, and puts right whatever of its settings is no longer
/// as `spec` says. Packets that had queued are thrown away.
pub fn adopt_tun(netns: &Netns, spec: &TunSpec) -> Result<Tun, TunError> {
    Adopters::default().adopt(netns, spec)
}

/// Helpers that take back one TUN after another, any number of them side by side: starting a process takes longer than what it
/// does. They end when this is dropped.
#[derive(Debug, Default)]
pub struct Adopters(Mutex<Vec<Running>>);

impl Adopters {
    /// As [`adopt_tun`].
    pub fn adopt(&self, netns: &Netns, spec: &TunSpec) -> Result<Tun, TunError> {
        spec.check()?;
        let order = Order::Adopt(spec.clone());
        let idle = self.idle().pop();
        // A helper may stand in a user namespace from which no way leads into this one: then a fresh one is asked.
        let again =
            idle.and_then(|helper| Some((tell(&helper, netns, &order).and_then(|()| open(&helper)).ok()?, helper)));
        let (tun, helper) = match again {
            Some(done) => done,
            None => {
                let helper = start(netns, order)?;
                (open(&helper)?, helper)
            }
        };
        self.idle().push(helper);
        Ok(tun)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the TUN and the fallback routes. That there is no such TUN (any more) is no error.
pub fn detach_tun(netns: &Netns, ifname: &str) -> Result<(), TunError> {
    check_ifname(ifname)?;
    let helper = start(netns, Order::Detach { ifname: ifname.to_owned() })?;
    let (result, _) = answer(&helper)?;
    result.map(drop)
}

/// Lets the device go when its last descriptor is closed, under whatever name the container has given it since.
pub fn release_tun(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    device::set_persistent(fd, false)
}

impl TunSpec {
    fn check(&self) -> Result<(), TunError> {
        check_ifname(&self.ifname)?;
        if (576..=65535).contains(&self.mtu_bytes) { Ok(()) } else { Err(TunError::MtuInvalid(self.mtu_bytes)) }
    }
}

/// As the kernel's `dev_valid_name`, less what it would expand or make unprintable.
pub fn check_ifname(ifname: &str) -> Result<(), TunError> {
    let fits = (1..=IFNAME_LEN_MAX).contains(&ifname.len()) && ifname != "." && ifname != "..";
    if fits && ifname.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%')) {
        Ok(())
    } else {
        Err(TunError::IfnameInvalid(ifname.to_owned()))
    }
}

fn start(netns: &Netns, order: Order) -> Result<Running, TunError> {
    let owner = owner(netns)?;
    Ok(helper::start(&Task::Tun(order), &[netns.as_fd(), owner.as_fd()], &[], helper::Output::Quiet)?)
}

/// Has a helper that has done what it was started for do something else.
fn tell(helper: &Running, netns: &Netns, order: &Order) -> Result<(), TunError> {
    let owner = owner(netns)?;
    Ok(helper.send(&Task::Tun(order.clone()), &[netns.as_fd(), owner.as_fd()])?)
}

fn owner(netns: &Netns) -> Result<OwnedFd, TunError> {
    netns.owner().map_err(|e| TunError::Forbidden(e.into()))
}

type Answer = Result<Option<TunFacts>, TunError>;

/// What a helper says to its order.
fn answer(helper: &Running) -> Result<(Answer, Vec<OwnedFd>), TunError> {
    let (answer, fds) = helper.answer::<Answer>()?;
    if !fds.is_empty() {
        // Until the helper reads this, the device goes when the helper does: nobody's death can leave a stray one.
        helper.send(&setup::Taken, &[])?;
        helper.receive::<setup::Taken>(Some(ANSWER_TIMEOUT))?.ok_or(HelperError::Died)?;
    }
    Ok((answer, fds))
}

fn open(helper: &Running) -> Result<Tun, TunError> {
    let (result, fds) = answer(helper)?;
    match (result?, <[OwnedFd; 2]>::try_from(fds)) {
        (Some(facts), Ok([fd, watch])) => {
            let watch = LinkWatch::new(watch, facts.ifindex);
            Ok(Tun { fd, facts, watch })
        }
        _ => Err(HelperError::Garbled.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_refuse_or_expand_is_refused_here() {
        for good in ["peerd0", "a", "fifteen-bytes-x", "ü0".trim_start_matches('ü')] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "a:b", "tun%d", "sixteen-bytes-xx", "a\n", "ü0"] {
            assert_eq!(check_ifname(bad), Err(TunError::IfnameInvalid(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn an_error_survives_the_way_from_the_helper() {
        let error = TunError::Step { step: "set the address".into(), source: OsError::BUSY };
        let bytes = serde_json::to_vec(&Err::<(), _>(error.clone())).expect("encodes");
        assert_eq!(serde_json::from_slice::<Result<(), TunError>>(&bytes).expect("decodes"), Err(error));
    }
}
