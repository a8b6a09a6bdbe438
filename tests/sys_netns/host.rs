//! The lab's hosts: cables, bridges, processes, captures.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use peerd::sys::interfaces;
use peerd::sys::lab::{Capture, Host};
use peerd::sys::netns::Netns;

use crate::{Test, eventually};

pub const TESTS: &[Test] = &[
    ("hosts_on_a_switch_reach_each_other_and_a_capture_sees_it", switched),
    ("a_command_runs_on_its_host", commands),
    ("a_published_host_has_a_path_until_it_goes", published),
    ("a_hosts_endpoints_are_its_own_addresses", endpoints),
];

fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

/// Two hosts on a switch, at .1 and .2.
fn switched_pair() -> (Host, Host, Host) {
    let mut switch = Host::create("switch").unwrap();
    switch.bridge("switch0").unwrap();
    let mut on_switch = |name: &str, last: u8| {
        let mut host = Host::create(name).unwrap();
        let port = format!("port{last}");
        host.cable("eth0", &mut switch, &port).unwrap();
        switch.plug(&port, "switch0").unwrap();
        host.address("eth0", at(last).into(), 24).unwrap();
        host
    };
    let (a, b) = (on_switch("a", 1), on_switch("b", 2));
    (switch, a, b)
}

fn switched() {
    let (_switch, a, b) = switched_pair();
    let canaries = vec![b"plain canary".to_vec(), b"nowhere".to_vec()];
    let capture = Capture::open(b.netns(), "eth0", canaries).unwrap();
    let from = a.netns().inside(|| UdpSocket::bind((at(1), 0))).unwrap().unwrap();
    let to = b.netns().inside(|| UdpSocket::bind((at(2), 9))).unwrap().unwrap();
    to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..10 {
        from.send_to(b"this is a plain canary for all to see", (at(2), 9)).unwrap();
    }
    let mut datagram = [0; 64];
    for _ in 0..10 {
        assert_eq!(to.recv_from(&mut datagram).unwrap().1.ip(), IpAddr::V4(at(1)));
    }
    eventually("the capture", || capture.so_far().canary_frames[0] == 10);
    let captured = capture.finish().unwrap();
    assert_eq!(captured.canary_frames, [10, 0]);
    assert!(captured.frames >= 10 && captured.bytes > 10 * 64);
    assert_eq!(captured.missed, 0);
}

fn commands() {
    let host = Host::create("a").unwrap();
    let mut child = host.spawn(Command::new("sleep").arg("60").stdin(Stdio::null())).unwrap();
    assert_eq!(Netns::of_pid(child.id()).unwrap().id(), host.netns().id());
    assert_ne!(Netns::current().unwrap().id(), host.netns().id());
    child.kill().unwrap();
    child.wait().unwrap();
}

fn published() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netns/a");
    let mut host = Host::create("a").unwrap();
    host.publish(&path).unwrap();
    assert_eq!(Netns::open(&path).unwrap().id(), host.netns().id());
    drop(host);
    assert!(!path.exists());
}

fn endpoints() {
    let (_switch, mut a, _b) = switched_pair();
    a.address("eth0", "2001:db8::1".parse().unwrap(), 64).unwrap();
    let addresses = a.netns().inside(interfaces::host_addresses).unwrap().unwrap();
    assert_eq!(addresses, [IpAddr::V4(at(1)), "2001:db8::1".parse().unwrap()]);
}
