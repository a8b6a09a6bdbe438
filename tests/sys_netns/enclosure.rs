//! The enclosure itself, seen from outside.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

use peerd::sys::OsError;
use peerd::sys::cred::is_root;
use peerd::sys::lab::{EncloseError, Enclosure};
use peerd::sys::netns::{Netns, NetnsError};
use peerd::sys::sandbox::{Sandbox, SandboxSpec, UserNamespace};
use peerd::sys::tun::{TunError, TunSpec, adopt_tun, attach_tun};
use rustix::fs::{FlockOperation, flock};

use crate::{eventually, part};

/// A test that runs outside of any namespaces but those it makes.
type Test = (&'static str, fn(UserNamespace));

pub const TESTS: &[Test] = &[
    ("an_enclosure_hands_out_its_commands_exit_code", exit_code),
    ("everything_in_an_enclosure_ends_with_it", ends_whole),
    ("the_helpers_argument_given_by_hand_is_refused", by_hand),
    ("a_user_without_rights_attaches_its_own_namespaces_and_no_others", without_rights),
];

fn exit_code(user_namespace: UserNamespace) {
    let run = |command: &[&str]| {
        let command: Vec<_> = command.iter().map(Into::into).collect();
        Enclosure::spawn(&command, user_namespace).map(|enclosure| enclosure.wait().unwrap())
    };
    assert_eq!(run(&["sh", "-c", "exit 7"]), Ok(7));
    assert_eq!(run(&["sh", "-c", "[ $$ = 1 ] && [ \"$(cat /proc/1/comm)\" = sh ] && [ \"$(id -u)\" = 0 ]"]), Ok(0));
    assert!(matches!(run(&["there-is-no-such-command"]), Err(EncloseError::Command { .. })));
}

fn ends_whole(user_namespace: UserNamespace) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("held");
    let file = File::create(&path).unwrap();
    let is_free = || {
        let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        flock(&file, FlockOperation::Unlock).unwrap();
        free
    };
    let enclosure = Enclosure::spawn(&part("linger", &[path.to_str().unwrap()]), user_namespace).unwrap();
    eventually("the grandchild", || !is_free());
    drop(enclosure);
    eventually("the grandchild's end", is_free);
}

fn without_rights(_: UserNamespace) {
    let spec = TunSpec { ifname: "peerd0".into(), address: Ipv4Addr::new(10, 240, 0, 5), mtu_bytes: 1408 };
    let command = vec!["sh".into(), "-c".into(), "grep -q peerd0 /proc/net/dev".into()];
    let mut sandbox = Sandbox::spawn(&SandboxSpec { command, user_namespace: UserNamespace::New }).unwrap();
    let netns = sandbox.netns().unwrap();
    drop(attach_tun(&netns, &spec).unwrap());
    drop(adopt_tun(&netns, &spec).unwrap());
    sandbox.start(&[]).unwrap();
    assert_eq!(sandbox.wait().unwrap(), 0);
    if !is_root() {
        let error = attach_tun(&Netns::current().unwrap(), &spec).unwrap_err();
        assert_eq!(error, TunError::Forbidden(OsError::PERM));
        assert!(matches!(Netns::of_pid(1), Err(NetnsError::Forbidden { .. })));
    }
}

fn by_hand(_: UserNamespace) {
    let exe = std::env::current_exe().unwrap();
    let output = Command::new(exe).args(["netns-helper", "sh"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: netns-helper is how peerd calls itself"));
}

/// The first process of an enclosure: leaves a child that holds a lock, in a session of its own so that no terminal
/// ends it, and waits to be killed.
pub fn linger(arguments: &[String]) -> ExitCode {
    Command::new("setsid").args(["flock", &arguments[0], "sleep", "600"]).status().unwrap();
    ExitCode::SUCCESS
}
