//! Network namespaces found, refused and known again.

use std::path::Path;
use std::process::{Command, Stdio};

use peerd::sys::lab::Host;
use peerd::sys::netns::{Anchor, Netns, NetnsError};

use crate::Test;

pub const TESTS: &[Test] = &[
    ("a_path_that_is_no_network_namespace_is_refused_with_its_reason", refused),
    ("one_namespace_by_two_ways_has_one_identity", identity),
    ("another_namespace_in_the_place_of_the_remembered_one_is_noticed", replaced),
];

fn refused() {
    let open = |path: &str| Netns::open(Path::new(path));
    for missing in ["/run/netns/there-is-none", "/dev/null/below"] {
        assert_eq!(open(missing).unwrap_err(), NetnsError::NoSuchPath(missing.into()));
    }
    // A file, a device, a folder, and a namespace of another kind.
    for other in ["/proc/self/status", "/dev/null", "/", "/proc/self/ns/mnt"] {
        assert_eq!(open(other).unwrap_err(), NetnsError::NotANetns(other.into()));
    }
    assert_eq!(Netns::of_pid(4_000_000).unwrap_err(), NetnsError::NoSuchProcess(4_000_000));
}

fn identity() {
    let own = Netns::current().unwrap();
    assert_eq!(Netns::open(Path::new("/proc/self/ns/net")).unwrap().id(), own.id());
    assert_eq!(Netns::of_pid(std::process::id()).unwrap().id(), own.id());
    let other = Host::create("other").unwrap();
    assert_ne!(other.netns().id(), own.id());
    assert_eq!(Netns::open(&other.netns().path()).unwrap().id(), other.netns().id());
}

fn replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web");
    let mut first = Host::create("first").unwrap();
    first.publish(&path).unwrap();
    let anchor = Netns::open(&path).unwrap().anchor();
    assert_eq!(Netns::reopen(&anchor).unwrap().id(), first.netns().id());

    let mut second = Host::create("second").unwrap();
    let kept = first.netns().try_clone().unwrap();
    drop(first);
    assert_eq!(Netns::reopen(&anchor).unwrap_err(), NetnsError::NoSuchPath(path.clone()));
    second.publish(&path).unwrap();
    assert!(matches!(Netns::reopen(&anchor), Err(NetnsError::Replaced(_))));
    drop(kept);

    // A process id that is used again, and a machine that was started again.
    let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let anchor = Netns::of_pid(child.id()).unwrap().anchor();
    assert!(Netns::reopen(&anchor).is_ok());
    let earlier = Anchor { started_ticks: anchor.started_ticks.map(|t| t - 1), ..anchor.clone() };
    assert!(matches!(Netns::reopen(&earlier), Err(NetnsError::Replaced(_))));
    let before = Anchor { machine_boot: "another".into(), ..anchor.clone() };
    assert!(matches!(Netns::reopen(&before), Err(NetnsError::Replaced(_))));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(Netns::reopen(&anchor), Err(NetnsError::NoSuchProcess(_))));
}
