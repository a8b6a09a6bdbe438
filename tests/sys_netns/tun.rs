//! TUNs: whole or not at all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use peerd::sys::helper::{self, HelperError};
use peerd::sys::lab::Host;
use peerd::sys::netlink::{InterfaceAddress, Link, Route, RouteTo};
use peerd::sys::netns::Netns;
use peerd::sys::sandbox::{Sandbox, SandboxSpec, UserNamespace};
use peerd::sys::tun::{
    ANSWER_TIMEOUT, Adopters, FALLBACK_METRIC, Tun, TunError, TunSpec, adopt_tun, attach_tun, detach_tun, release_tun,
};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use crate::{Test, part};

pub const TESTS: &[Test] = &[
    ("an_attached_namespace_has_the_tun_its_address_and_its_routes", attached),
    ("packets_of_the_container_arrive_at_the_descriptor", packets),
    ("a_taken_name_is_refused_and_nothing_changes", taken_name),
    ("a_taken_route_is_refused_and_nothing_changes", taken_route),
    ("detach_leaves_nothing_and_is_no_error_twice", detached),
    ("an_interface_that_is_not_ours_is_neither_adopted_nor_removed", not_ours),
    ("a_tun_survives_its_daemon_and_is_adopted_with_its_settings_put_right", adopted),
    ("one_helper_takes_back_many_and_a_refusal_costs_the_others_nothing", adopted_by_one_helper),
    ("a_tun_that_another_daemon_holds_is_not_adopted", held),
    ("a_released_tun_goes_with_its_descriptor_under_any_name", released),
    ("without_the_tun_nothing_of_the_network_leaves_by_another_interface", no_leak),
    ("a_namespace_of_a_users_own_user_namespace_can_be_attached", of_another_user_namespace),
    ("a_missing_or_forbidden_driver_is_named", no_driver),
    ("a_helper_that_hangs_is_given_up", hung),
];

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 5);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 9);

fn spec() -> TunSpec {
    TunSpec { ifname: "peerd0".into(), address: ADDRESS, mtu_bytes: 1408 }
}

/// All that attaching could change. The kernel itself goes on changing an Ethernet's IPv6 addresses for a second or two,
/// so of those only the TUN's could count, and it goes with its link.
#[derive(Debug, PartialEq)]
struct Tables {
    links: Vec<Link>,
    addresses: Vec<InterfaceAddress>,
    routes: Vec<Route>,
}

fn tables(host: &mut Host) -> Tables {
    let netlink = host.netlink();
    let (mut addresses, mut routes) = (netlink.addresses().unwrap(), netlink.routes().unwrap());
    addresses.retain(|a| a.address.is_ipv4());
    routes.retain(|r| r.destination.is_ipv4());
    Tables { links: netlink.links().unwrap(), addresses, routes }
}

fn expected_routes(ifindex: u32) -> Vec<Route> {
    let through = |destination: [u8; 4], prefix_len| Route {
        destination: Ipv4Addr::from(destination).into(),
        prefix_len,
        to: RouteTo::Link { ifindex, gateway: None, source: Some(ADDRESS.into()) },
        metric: 0,
    };
    let prefixes = [through([10, 240, 0, 0], 22), through([169, 254, 240, 0], 20)];
    let fallback = |route: Route| Route { to: RouteTo::Unreachable, metric: FALLBACK_METRIC, ..route };
    prefixes.into_iter().flat_map(|route| [route.clone(), fallback(route)]).collect()
}

fn assert_attached(host: &mut Host, tun: &Tun) {
    let Tables { links, routes, .. } = tables(host);
    let link = links.iter().find(|link| link.name == "peerd0").unwrap();
    assert_eq!((link.index, link.mtu_bytes, link.up, link.kind.as_str()), (tun.facts.ifindex, 1408, true, "tun"));
    let mut on_tun = host.netlink().addresses().unwrap();
    on_tun.retain(|a| a.ifindex == link.index);
    assert_eq!(on_tun.len(), 1, "no other address, and none of IPv6: {on_tun:?}");
    assert_eq!((on_tun[0].address, on_tun[0].prefix_len), (IpAddr::V4(ADDRESS), 32));
    assert_eq!(routes, expected_routes(link.index));
}

fn attached() {
    let mut host = Host::create("web").unwrap();
    let tun = attach_tun(host.netns(), &spec()).unwrap();
    assert_attached(&mut host, &tun);
    assert!(tun.facts.vnet_hdr && tun.facts.ipv6_off);
    assert!(tun.facts.offloads.checksum && tun.facts.offloads.tso);
    assert!(rustix::io::fcntl_getfd(&tun.fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(&tun.fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    let own = Netns::current().unwrap();
    assert!(own.inside(|| UdpSocket::bind((ADDRESS, 0))).unwrap().is_err(), "only the container has the address");
}

/// A datagram of the container's to another one; where it would come from.
fn send(host: &Host, to: Ipv4Addr) -> io::Result<IpAddr> {
    host.netns().inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((to, 9))?;
        socket.send(b"canary")?;
        Ok(socket.local_addr()?.ip())
    })?
}

fn packets() {
    let host = Host::create("web").unwrap();
    let tun = attach_tun(host.netns(), &spec()).unwrap();
    assert_eq!(send(&host, OTHER).unwrap(), IpAddr::V4(ADDRESS));
    let mut packet = [0; 2048];
    let len = rustix::io::read(&tun.fd, &mut packet[..]).unwrap();
    let inner = &packet[10..len];
    assert_eq!((inner[0], &inner[12..16], &inner[16..20]), (0x45, &ADDRESS.octets()[..], &OTHER.octets()[..]));
    assert!(inner.ends_with(b"canary"));
    assert_eq!(rustix::io::read(&tun.fd, &mut packet[..]), Err(rustix::io::Errno::AGAIN), "and nothing else");
}

fn taken_name() {
    let mut host = Host::create("web").unwrap();
    host.bridge("peerd0").unwrap();
    let before = tables(&mut host);
    assert_eq!(attach_tun(host.netns(), &spec()).unwrap_err(), TunError::IfnameTaken("peerd0".into()));
    assert_eq!(tables(&mut host), before);
}

fn taken_route() {
    let (mut host, mut router) = (Host::create("web").unwrap(), Host::create("router").unwrap());
    host.cable("eth0", &mut router, "eth0").unwrap();
    host.address("eth0", Ipv4Addr::new(192, 0, 2, 2).into(), 24).unwrap();
    // The second of the two routes, so that the first has to be taken back.
    host.route(Ipv4Addr::new(169, 254, 240, 0).into(), 20, "eth0", Ipv4Addr::new(192, 0, 2, 1).into()).unwrap();
    let before = tables(&mut host);
    let error = attach_tun(host.netns(), &spec()).unwrap_err();
    assert_eq!(error, TunError::RouteTaken("169.254.240.0/20".into()));
    assert_eq!(tables(&mut host), before);
}

fn detached() {
    let mut host = Host::create("web").unwrap();
    let before = tables(&mut host);
    drop(attach_tun(host.netns(), &spec()).unwrap());
    assert_ne!(tables(&mut host), before, "it is persistent");
    detach_tun(host.netns(), "peerd0").unwrap();
    assert_eq!(tables(&mut host), before);
    detach_tun(host.netns(), "peerd0").unwrap();
    // And again from the beginning.
    let tun = attach_tun(host.netns(), &spec()).unwrap();
    assert_eq!(tun.facts.stale_packets, 0);
}

fn not_ours() {
    let mut host = Host::create("web").unwrap();
    host.bridge("peerd0").unwrap();
    let before = tables(&mut host);
    assert_eq!(detach_tun(host.netns(), "peerd0"), Err(TunError::NotOurs("peerd0".into())));
    assert_eq!(adopt_tun(host.netns(), &spec()).unwrap_err(), TunError::NotOurs("peerd0".into()));
    let missing = TunSpec { ifname: "peerd1".into(), ..spec() };
    assert_eq!(adopt_tun(host.netns(), &missing).unwrap_err(), TunError::NoSuchInterface("peerd1".into()));
    assert_eq!(tables(&mut host), before);
}

fn adopted() {
    let mut host = Host::create("web").unwrap();
    let first = attach_tun(host.netns(), &spec()).unwrap();
    send(&host, OTHER).unwrap();
    drop(first);
    // What a container with rights may do to its own interface meanwhile.
    let ifindex = host.netlink().link("peerd0").unwrap().unwrap().index;
    host.netlink().remove_route(&expected_routes(ifindex)[0]).unwrap();
    host.mtu("peerd0", 9000).unwrap();
    host.address("peerd0", OTHER.into(), 32).unwrap();
    let conf = "/proc/sys/net/ipv6/conf/peerd0";
    host.netns().inside(|| std::fs::write(format!("{conf}/disable_ipv6"), "0")).unwrap().unwrap();

    let second = adopt_tun(host.netns(), &spec()).unwrap();
    assert!(second.facts.ipv6_off);
    assert_attached(&mut host, &second);
    for (key, expected) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
        let now = host.netns().inside(|| std::fs::read_to_string(format!("{conf}/{key}"))).unwrap().unwrap();
        assert_eq!(now.trim(), expected, "{key}");
    }
    let mut packet = [0; 2048];
    assert_eq!(
        rustix::io::read(&second.fd, &mut packet[..]),
        Err(rustix::io::Errno::AGAIN),
        "no old packet is replayed"
    );
    send(&host, OTHER).unwrap();
    assert!(rustix::io::read(&second.fd, &mut packet[..]).is_ok());
}

/// The processes that this one has started and that still run.
fn children() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let listed = threads.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap());
    listed.map(|children| children.split_whitespace().count()).sum()
}

fn adopted_by_one_helper() {
    let mut hosts: Vec<Host> = (0..4).map(|n| Host::create(&format!("web-{n}")).unwrap()).collect();
    for host in &hosts {
        drop(attach_tun(host.netns(), &spec()).unwrap());
    }
    let before = children();
    let adopters = Adopters::default();
    let tuns: Vec<Tun> = hosts[..3].iter().map(|host| adopters.adopt(host.netns(), &spec()).unwrap()).collect();
    assert_eq!(children(), before + 1, "one helper for all");
    let missing = TunSpec { ifname: "peerd1".into(), ..spec() };
    assert_eq!(adopters.adopt(hosts[3].netns(), &missing).unwrap_err(), TunError::NoSuchInterface("peerd1".into()));
    let last = adopters.adopt(hosts[3].netns(), &spec()).unwrap();
    for (host, tun) in hosts.iter_mut().zip(tuns.iter().chain([&last])) {
        assert_attached(host, tun);
    }
    drop(adopters);
    assert_eq!(children(), before, "the helper ends");
    for (host, tun) in hosts.iter_mut().zip(tuns.iter().chain([&last])) {
        assert_attached(host, tun);
    }
}

fn held() {
    let mut host = Host::create("web").unwrap();
    let tun = attach_tun(host.netns(), &spec()).unwrap();
    assert_eq!(adopt_tun(host.netns(), &spec()).unwrap_err(), TunError::InUse("peerd0".into()));
    assert_attached(&mut host, &tun);
}

fn released() {
    let mut host = Host::create("web").unwrap();
    let tun = attach_tun(host.netns(), &spec()).unwrap();
    release_tun(tun.fd.as_fd()).unwrap();
    assert!(host.netlink().link("peerd0").unwrap().is_some(), "it stays while it is open");
    drop(tun);
    assert!(host.netlink().link("peerd0").unwrap().is_none());
}

fn no_leak() {
    let (mut host, mut router) = (Host::create("web").unwrap(), Host::create("router").unwrap());
    host.cable("eth0", &mut router, "eth0").unwrap();
    host.address("eth0", Ipv4Addr::new(192, 0, 2, 2).into(), 24).unwrap();
    host.route(Ipv4Addr::UNSPECIFIED.into(), 0, "eth0", Ipv4Addr::new(192, 0, 2, 1).into()).unwrap();
    let tun = attach_tun(host.netns(), &spec()).unwrap();
    release_tun(tun.fd.as_fd()).unwrap();
    drop(tun);
    let error = send(&host, OTHER).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "told at once, and by no other way: {error}");
    assert!(send(&host, Ipv4Addr::new(192, 0, 2, 9)).is_ok(), "the container's own network is untouched");
}

fn of_another_user_namespace() {
    let command = vec!["true".into()];
    let mut sandbox = Sandbox::spawn(&SandboxSpec { command, user_namespace: UserNamespace::New }).unwrap();
    let netns = sandbox.netns().unwrap();
    let tun = attach_tun(&netns, &spec()).unwrap();
    assert_eq!(tun.facts.ifname, "peerd0");
    assert_eq!(attach_tun(&netns, &spec()).unwrap_err(), TunError::IfnameTaken("peerd0".into()));
    detach_tun(&netns, "peerd0").unwrap();
    sandbox.start(&[]).unwrap();
    assert_eq!(sandbox.wait().unwrap(), 0);
}

fn no_driver() {
    let mut host = Host::create("web").unwrap();
    let before = tables(&mut host);
    mount_bind("/dev/net/tun", "/dev/net/tun").unwrap();
    let flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_remount("/dev/net/tun", flags, "").unwrap();
    let error = attach_tun(host.netns(), &spec()).unwrap_err();
    assert!(matches!(error, TunError::DeviceForbidden(_)), "{error:?}");
    assert!(error.advice().unwrap().contains("chmod 0666 /dev/net/tun"));

    mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
    let error = attach_tun(host.netns(), &spec()).unwrap_err();
    assert!(matches!(error, TunError::DeviceMissing(_)), "{error:?}");
    assert_eq!(tables(&mut host), before);
}

fn hung() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hangs");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let asks = part("hung", &[program.to_str().unwrap()]);
    let status = Command::new(&asks[0]).args(&asks[1..]).stdin(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// In a process of its own, because the helper's program is named once in a process.
pub fn ask_a_hung_helper(arguments: &[String]) -> ExitCode {
    helper::use_program(Path::new(&arguments[0]).to_owned());
    let error = attach_tun(&Netns::current().unwrap(), &spec()).unwrap_err();
    assert_eq!(error, TunError::Helper(HelperError::TimedOut(ANSWER_TIMEOUT)));
    ExitCode::SUCCESS
}
