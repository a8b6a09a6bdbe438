//! Looking into a container: its sockets, and commands with the rights of who asked.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use peerd::sys::OsError;
use peerd::sys::clock;
use peerd::sys::lab::Host;
use peerd::sys::netns::{Netns, NetnsError};
use peerd::sys::probe::{COMMAND_TIMEOUT, CommandEnd, ProbeCommand, ProbeError, User, tcp_socket};
use peerd::sys::resolv::RESOLV_CONF;
use peerd::sys::sandbox::{Sandbox, SandboxSpec, UserNamespace};

use crate::{Test, eventually};

pub const TESTS: &[Test] = &[
    ("a_socket_of_a_namespace_connects_to_what_listens_in_there", socket),
    ("a_command_has_the_namespaces_of_the_process_and_nothing_else_of_anybodys", command),
    ("a_command_in_a_namespace_by_its_path_has_its_network_alone", command_by_path),
    ("a_command_has_no_capability_that_its_container_cannot_have", capabilities),
    ("a_command_never_has_the_rights_of_another_than_who_asked", rights),
    ("a_command_that_nobody_waits_for_ends_with_all_that_it_started", cancelled),
    ("a_process_that_has_ended_is_not_looked_into", ended),
];

const ROOT: User = User { uid: 0, gid: 0 };
const OTHER: User = User { uid: 1000, gid: 1000 };

fn sandbox(user_namespace: UserNamespace) -> Sandbox {
    Sandbox::spawn(&SandboxSpec { command: vec!["true".into()], user_namespace }).unwrap()
}

fn exit_code(netns: &Netns, line: &str) -> Result<CommandEnd, ProbeError> {
    ProbeCommand::start(&netns.anchor(), line, ROOT)?.wait()
}

fn socket() {
    let host = Host::create("web").unwrap();
    let listener = host.netns().inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    assert!(TcpListener::bind(address).is_ok(), "here the port is free");
    let socket = socket2::Socket::from(tcp_socket(host.netns()).unwrap());
    assert!(socket.nonblocking().unwrap());
    socket.set_nonblocking(false).unwrap();
    socket.connect(&address.into()).unwrap();
    let (mut accepted, from) = listener.accept().unwrap();
    assert_eq!(Some(from), socket.local_addr().unwrap().as_socket());
    drop(socket);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    // A namespace of a user's own: entered by a helper where this process may not.
    for user_namespace in [UserNamespace::Same, UserNamespace::New] {
        let socket = socket2::Socket::from(tcp_socket(&sandbox(user_namespace).netns().unwrap()).unwrap());
        socket.set_nonblocking(false).unwrap();
        let refused = OsError::from(socket.connect(&address.into()).unwrap_err());
        assert_eq!(refused, OsError::CONNREFUSED, "somebody listens in an empty namespace");
    }
}

fn command() {
    for user_namespace in [UserNamespace::Same, UserNamespace::New] {
        let sandbox = sandbox(user_namespace);
        let netns = sandbox.netns().unwrap();
        assert_eq!(exit_code(&netns, "exit 7"), Ok(CommandEnd::Exited(7)));
        assert_eq!(exit_code(&netns, "kill -TERM $$"), Ok(CommandEnd::Exited(128 + 15)));
        let facts = [
            format!("[ $(readlink /proc/self/ns/net) = net:[{}] ]", netns.id().inode),
            format!("[ \"$(cat /etc/resolv.conf)\" = '{}' ]", RESOLV_CONF.trim_end()),
            // What the shell itself sets, and PATH.
            "[ \"$(env | cut -d= -f1 | grep -v '^PWD$\\|^SHLVL$\\|^_$\\|^OLDPWD$')\" = PATH ]".to_owned(),
            "[ $(pwd) = / ]".to_owned(),
            "[ $(id -u) = 0 ]".to_owned(),
            "grep -q 'NoNewPrivs:.1' /proc/self/status".to_owned(),
            "[ $(ls /proc/self/fd | wc -l) = 4 ]".to_owned(),
            "[ \"$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2 | sort -u)\" = /dev/null ]".to_owned(),
        ];
        for fact in facts {
            assert_eq!(exit_code(&netns, &fact), Ok(CommandEnd::Exited(0)), "{fact} in {user_namespace:?}");
        }
    }
}

fn command_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web");
    let mut host = Host::create("web").unwrap();
    host.publish(&path).unwrap();
    let netns = Netns::open(&path).unwrap();
    let line = format!(
        "[ $(readlink /proc/self/ns/net) = net:[{}] ] && [ $(readlink /proc/self/ns/mnt) = {} ]",
        netns.id().inode,
        std::fs::read_link("/proc/self/ns/mnt").unwrap().display()
    );
    assert_eq!(exit_code(&netns, &line), Ok(CommandEnd::Exited(0)));
}

fn capabilities() {
    // As an engine starts a container: root, with a few capabilities, in a network namespace of its own.
    let script = "exec setpriv --bounding-set -all,+chown,+net_raw --inh-caps -all sleep 3600";
    let mut child = Command::new("unshare").args(["--net", "sh", "-c", script]).spawn().unwrap();
    let status_of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let few = format!("{:016x}", 1u64 | 1 << 13);
    eventually("the container", || status_of(&child.id().to_string()).contains(&format!("CapBnd:\t{few}")));
    let netns = Netns::of_pid(child.id()).unwrap();
    for kind in ["CapPrm", "CapEff", "CapBnd"] {
        let line = format!("grep -q '{kind}:.{few}' /proc/self/status");
        assert_eq!(exit_code(&netns, &line), Ok(CommandEnd::Exited(0)), "{kind}");
    }
    let line = "grep -q 'CapInh:.0000000000000000' /proc/self/status && ! mount -t tmpfs none /mnt 2>/dev/null";
    assert_eq!(exit_code(&netns, line), Ok(CommandEnd::Exited(0)));
    // Nor does it come upon the file that the daemon was started from.
    let own = std::fs::metadata("/proc/self/exe").unwrap();
    let line = format!("[ \"$(stat -Lc %d:%i /proc/$PPID/exe)\" != {}:{} ]", own.dev(), own.ino());
    assert_eq!(exit_code(&netns, &line), Ok(CommandEnd::Exited(0)));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn rights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web");
    let mut host = Host::create("web").unwrap();
    host.publish(&path).unwrap();
    let netns = Netns::open(&path).unwrap();
    let mark = folder.path().join("mark");
    let run = |line: &str| ProbeCommand::start(&netns.anchor(), line, OTHER)?.wait();
    let is_nobody = run(&format!("[ $(id -u):$(id -g):$(id -G) = 1000:1000:1000 ] && ! touch {}", mark.display()));
    // In a user namespace where nobody else exists, nobody can become another.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().last() == Some("1") {
        assert_eq!(is_nobody, Err(ProbeError::Start(OsError::INVAL)));
    } else {
        assert_eq!(is_nobody, Ok(CommandEnd::Exited(0)));
    }
    assert!(!mark.exists(), "it had root's rights");

    let sandbox = sandbox(UserNamespace::Same);
    let anchor = sandbox.netns().unwrap().anchor();
    let refused = ProbeCommand::start(&anchor, &format!("touch {}", mark.display()), OTHER).map(drop);
    assert_eq!(refused, Err(ProbeError::OtherUser));
    assert!(!mark.exists());
}

fn cancelled() {
    let sandbox = sandbox(UserNamespace::New);
    let folder = tempfile::tempdir().unwrap();
    let alive = folder.path().join("alive");
    let line = format!("echo $$ > {0}; sleep 3600 & echo $! >> {0}; wait", alive.display());
    let command = ProbeCommand::start(&sandbox.netns().unwrap().anchor(), &line, ROOT).unwrap();
    let pids = || std::fs::read_to_string(&alive).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    eventually("both processes", || pids().len() == 2);
    let canceller = command.canceller().unwrap();
    let began = clock::now();
    drop(canceller);
    assert_eq!(command.wait(), Ok(CommandEnd::TimedOut));
    assert!(began.elapsed() < COMMAND_TIMEOUT - Duration::from_secs(1), "it had all its time");
    eventually("both to end", || pids().iter().all(|pid| !runs(pid)));
}

/// Whether a process is there and no zombie.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn ended() {
    let sandbox = sandbox(UserNamespace::Same);
    let (pid, anchor) = (sandbox.pid(), sandbox.netns().unwrap().anchor());
    drop(sandbox);
    let refused = ProbeCommand::start(&anchor, "true", ROOT).map(drop);
    assert_eq!(refused, Err(NetnsError::NoSuchProcess(pid).into()));
}
