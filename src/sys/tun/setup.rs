//! The helper's side: inside the container's namespaces, the device and its routes.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{FALLBACK_METRIC, Order, TunError, TunFacts, TunSpec, device};
use crate::model::{CONTAINER_PREFIX, LINK_LOCAL_PREFIX};
use crate::sys::OsError;
use crate::sys::helper::{self, Asked, Task};
use crate::sys::netlink::{Existing, Link, LinkChange, LinkWatch, Netlink, Route, RouteTo};
use crate::sys::netns;

/// What leads through the interface, and nowhere without it.
const PREFIXES: [(Ipv4Addr, u8); 2] = [CONTAINER_PREFIX, LINK_LOCAL_PREFIX];
/// What every interface of ours carries as its alias; `ip link` shows it.
const ALIAS: &str = "peerd";
/// The queue of a TUN that nobody read holds 500; more were not there when the daemon came back.
const STALE_PACKETS_MAX: u32 = 4096;

/// Says that the descriptor has arrived, and then that the device will stay.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Taken;

/// Does `order` and answers on the socket it came by, and then whatever else is asked there, until nobody asks any more.
pub(in crate::sys) fn run(order: Order, asked: Asked) -> i32 {
    let Asked { socket, fds, .. } = asked;
    let mut next = Some((order, fds));
    while let Some((order, fds)) = next {
        if !serve(&order, &fds, socket.as_fd()) {
            return 1;
        }
        next = match helper::receive::<Task>(socket.as_fd()) {
            Ok(Some((Task::Tun(order), fds))) => Some((order, fds)),
            _ => None,
        };
    }
    0
}

/// Whether the asker has its answer, and what was made was taken.
fn serve(order: &Order, namespaces: &[OwnedFd], socket: BorrowedFd<'_>) -> bool {
    let (facts, made) = match enter(namespaces).and_then(|()| obey(order)) {
        Ok(Some((facts, made))) => (Ok(Some(facts)), Some(made)),
        Ok(None) => (Ok(None), None),
        Err(error) => (Err(error), None),
    };
    let fds: Vec<_> = made.iter().flat_map(|m| [m.fd.as_fd(), m.watch.as_fd()]).collect();
    let sent = helper::send(socket, &facts, &fds).is_ok();
    match made {
        None => sent,
        Some(made) if sent && kept(&made, socket) => true,
        Some(made) => {
            made.undo();
            false
        }
    }
}

/// Makes the device outlive this process once the asker has it.
fn kept(made: &Made, socket: BorrowedFd<'_>) -> bool {
    let taken = matches!(helper::receive::<Taken>(socket), Ok(Some(_)));
    taken && device::set_persistent(made.fd.as_fd(), true).is_ok() && helper::send(socket, &Taken, &[]).is_ok()
}

fn enter(fds: &[OwnedFd]) -> Result<(), TunError> {
    let [netns, owner] = fds else { return Err(TunError::Forbidden(OsError::INVAL)) };
    netns::enter_from_one_thread(netns.as_fd(), owner.as_fd()).map_err(|e| TunError::Forbidden(e.into()))
}

fn obey(order: &Order) -> Result<Option<(TunFacts, Made)>, TunError> {
    let mut netlink = Netlink::open().map_err(step("open a netlink socket"))?;
    match order {
        Order::Attach(spec) => attach(&mut netlink, spec).map(Some),
        Order::Adopt(spec) => adopt(&mut netlink, spec).map(Some),
        Order::Detach { ifname } => detach(&mut netlink, ifname).map(|()| None),
    }
}

/// What must go again if the rest fails. The device itself goes with its descriptor until it is made persistent.
struct Made {
    fd: OwnedFd,
    /// Hears of the interface's changes from here on.
    watch: OwnedFd,
    fallbacks: Vec<Route>,
}

impl Made {
    fn undo(self) {
        let Ok(mut netlink) = Netlink::open() else { return };
        for fallback in &self.fallbacks {
            // Nothing is left to be done about a failure here, and the route by itself harms nobody.
            let _ = netlink.remove_route(fallback);
        }
    }
}

fn attach(netlink: &mut Netlink, spec: &TunSpec) -> Result<(TunFacts, Made), TunError> {
    if find(netlink, &spec.ifname)?.is_some() {
        return Err(TunError::IfnameTaken(spec.ifname.clone()));
    }
    let fd = open_device(&spec.ifname)?;
    let watch = LinkWatch::socket().map_err(step("watch the interface"))?;
    let mut made = Made { fd, watch, fallbacks: Vec::new() };
    match configure(netlink, spec, &mut made, Existing::Refuse) {
        Ok(facts) => Ok((facts, made)),
        Err(error) => {
            made.undo();
            Err(error)
        }
    }
}

fn adopt(netlink: &mut Netlink, spec: &TunSpec) -> Result<(TunFacts, Made), TunError> {
    find_ours(netlink, &spec.ifname)?.ok_or_else(|| TunError::NoSuchInterface(spec.ifname.clone()))?;
    let fd = open_device(&spec.ifname)?;
    let watch = LinkWatch::socket().map_err(step("watch the interface"))?;
    let mut made = Made { fd, watch, fallbacks: Vec::new() };
    let mut facts = configure(netlink, spec, &mut made, Existing::Replace)?;
    facts.stale_packets = throw_stale_away(&made.fd);
    // The fallbacks were there before: they stay whatever happens next.
    made.fallbacks.clear();
    Ok((facts, made))
}

fn detach(netlink: &mut Netlink, ifname: &str) -> Result<(), TunError> {
    if let Some(link) = find_ours(netlink, ifname)? {
        netlink.remove_link(link.index).map_err(step("remove the interface"))?;
    }
    for fallback in PREFIXES.map(fallback) {
        match netlink.remove_route(&fallback) {
            Err(error) if OsError::from(&error) != OsError::SRCH => {
                return Err(step("remove the fallback routes")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn find(netlink: &mut Netlink, ifname: &str) -> Result<Option<Link>, TunError> {
    netlink.link(ifname).map_err(step("list the interfaces"))
}

fn find_ours(netlink: &mut Netlink, ifname: &str) -> Result<Option<Link>, TunError> {
    match find(netlink, ifname)? {
        Some(link) if link.kind != "tun" || link.alias.as_deref() != Some(ALIAS) => {
            Err(TunError::NotOurs(ifname.to_owned()))
        }
        found => Ok(found),
    }
}

fn open_device(ifname: &str) -> Result<OwnedFd, TunError> {
    let fd = device::open().map_err(|e| match OsError::from(e) {
        error if error.is_permission() => TunError::DeviceForbidden(error),
        error => TunError::DeviceMissing(error),
    })?;
    device::bind(fd.as_fd(), ifname).map_err(|e| match OsError::from(e) {
        OsError::BUSY => TunError::InUse(ifname.to_owned()),
        error if error.is_permission() => TunError::Forbidden(error),
        error => TunError::Step { step: "make the TUN".into(), source: error },
    })?;
    Ok(fd)
}

/// Brings about what `spec` says. What is so already is left alone: a daemon that starts has a thousand interfaces to look at, and
/// each change is told to everybody in the machine who watches interfaces.
fn configure(netlink: &mut Netlink, spec: &TunSpec, made: &mut Made, existing: Existing) -> Result<TunFacts, TunError> {
    let offloads = device::set_offloads(made.fd.as_fd());
    let link = find(netlink, &spec.ifname)?.ok_or_else(|| TunError::NoSuchInterface(spec.ifname.clone()))?;
    // Before the link is up: else the kernel gives it a link-local IPv6 address and asks for routers.
    let ipv6_off = link.ipv6_off || switch_ipv6_off(&spec.ifname);
    for stray in netlink.addresses().map_err(step("list the addresses"))? {
        let ours = stray.address == IpAddr::V4(spec.address) && stray.prefix_len == 32;
        if stray.ifindex == link.index && !ours && stray.address.is_ipv4() {
            netlink.remove_address(&stray).map_err(step("remove a stray address"))?;
        }
    }
    netlink.add_address(link.index, spec.address.into(), 32).map_err(step("set the address"))?;
    if !(link.up && link.mtu_bytes == spec.mtu_bytes && link.alias.as_deref() == Some(ALIAS)) {
        let change = LinkChange {
            up: true,
            mtu_bytes: Some(spec.mtu_bytes),
            alias: Some(ALIAS.to_owned()),
            ..LinkChange::default()
        };
        netlink.set_link(link.index, change).map_err(step("set the MTU and bring the interface up"))?;
    }
    let there = match existing {
        Existing::Refuse => Vec::new(),
        Existing::Replace => netlink.routes().map_err(step("list the routes"))?,
    };
    let is_missing = |route: &Route| !there.contains(route);
    for route in PREFIXES.map(|prefix| through(link.index, spec.address, prefix)).into_iter().filter(is_missing) {
        netlink.add_route(&route, existing).map_err(|e| route_error(e, &route))?;
    }
    for fallback in PREFIXES.map(fallback).into_iter().filter(is_missing) {
        match netlink.add_route(&fallback, Existing::Refuse) {
            Ok(()) => made.fallbacks.push(fallback),
            Err(error) if OsError::from(&error) == OsError::EXIST => {}
            Err(error) => return Err(step("set the fallback routes")(error)),
        }
    }
    let ifname = spec.ifname.clone();
    Ok(TunFacts { ifname, ifindex: link.index, vnet_hdr: true, offloads, ipv6_off, stale_packets: 0 })
}

fn through(ifindex: u32, source: Ipv4Addr, (destination, prefix_len): (Ipv4Addr, u8)) -> Route {
    let to = RouteTo::Link { ifindex, gateway: None, source: Some(source.into()) };
    Route { destination: destination.into(), prefix_len, to, metric: 0 }
}

fn fallback((destination, prefix_len): (Ipv4Addr, u8)) -> Route {
    Route { destination: destination.into(), prefix_len, to: RouteTo::Unreachable, metric: FALLBACK_METRIC }
}

fn route_error(error: io::Error, route: &Route) -> TunError {
    match OsError::from(error) {
        OsError::EXIST => TunError::RouteTaken(format!("{}/{}", route.destination, route.prefix_len)),
        source => TunError::Step { step: "set the routes".into(), source },
    }
}

/// IPv6 has no business on this interface. A kernel without IPv6 has no such file and needs none.
fn switch_ipv6_off(ifname: &str) -> bool {
    let folder = format!("/proc/sys/net/ipv6/conf/{ifname}");
    let write = |key: &str, value: &str| match fs::write(format!("{folder}/{key}"), value) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(()) => true,
    };
    let (no_routers, off) = (write("accept_ra", "0"), write("disable_ipv6", "1"));
    no_routers && off
}

/// Reads away what queued while nobody read: replaying it would only disturb its receivers.
fn throw_stale_away(fd: &OwnedFd) -> u32 {
    let mut packet = vec![0; 65_536 + 10];
    (0..STALE_PACKETS_MAX).take_while(|_| rustix::io::read(fd, &mut packet[..]).is_ok()).count() as u32
}

fn step(step: &'static str) -> impl Fn(io::Error) -> TunError {
    move |source| TunError::Step { step: step.to_owned(), source: source.into() }
}
