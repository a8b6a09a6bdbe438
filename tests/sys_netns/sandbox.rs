//! `peerctl run`'s sandbox: what its command finds, how it ends.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use peerd::sys::netlink::Netlink;
use peerd::sys::netns::Netns;
use peerd::sys::process::ChildHandle;
use peerd::sys::resolv::RESOLV_CONF;
use peerd::sys::sandbox::{Sandbox, SandboxError, SandboxSpec, UnshareError, UserNamespace};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, getpid, kill_process};

use crate::{Test, eventually, part};

pub const TESTS: &[Test] = &[
    ("the_command_finds_its_resolver_its_variables_and_a_network_of_its_own", finds),
    ("a_resolv_conf_that_is_a_link_or_missing_is_replaced_too", odd_resolv_conf),
    ("the_command_begins_only_when_told", waits),
    ("exit_codes_are_those_of_docker", exit_codes),
    ("a_signal_to_this_process_reaches_the_command", forwarded),
    ("the_command_inherits_no_descriptor", inherits_nothing),
    ("the_command_dies_with_its_keeper", dies_with_keeper),
    ("without_the_right_to_namespaces_the_reason_is_named", forbidden),
];

fn spec(command: &[&str], user_namespace: UserNamespace) -> SandboxSpec {
    SandboxSpec { command: command.iter().map(OsString::from).collect(), user_namespace }
}

fn run(command: &[&str], environment: &[(&str, &str)], user_namespace: UserNamespace) -> Result<i32, SandboxError> {
    let mut sandbox = Sandbox::spawn(&spec(command, user_namespace))?;
    let environment: Vec<_> = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    sandbox.start(&environment)?;
    Ok(sandbox.wait().unwrap())
}

fn both(mut test: impl FnMut(UserNamespace)) {
    test(UserNamespace::Same);
    test(UserNamespace::New);
}

const SEES_RESOLVER: &str = "[ \"$(cat /etc/resolv.conf)\" = \"$EXPECTED\" ]";

fn finds() {
    let host_file = fs::read("/etc/resolv.conf").ok();
    both(|user_namespace| {
        let script = format!(
            "{SEES_RESOLVER} && [ \"$PRIVATE_IP\" = 10.240.0.5 ] && [ \"$(id -u)\" = 0 ] && ! ls /sys/class/net/nosuch 2>/dev/null"
        );
        let environment = [("PRIVATE_IP", "10.240.0.5"), ("EXPECTED", RESOLV_CONF.trim_end())];
        assert_eq!(run(&["sh", "-c", &script], &environment, user_namespace), Ok(0));

        let sandbox = Sandbox::spawn(&spec(&["true"], user_namespace)).unwrap();
        let netns = sandbox.netns().unwrap();
        assert_ne!(netns.id(), Netns::current().unwrap().id());
        if user_namespace == UserNamespace::Same {
            let links = Netlink::open_in(&netns).unwrap().links().unwrap();
            assert_eq!(links.len(), 1, "nothing but lo: {links:?}");
            assert!(links[0].loopback && links[0].up);
        }
    });
    assert_eq!(fs::read("/etc/resolv.conf").ok(), host_file, "the host's own is untouched");
}

fn odd_resolv_conf() {
    let etc = tempfile::tempdir().unwrap();
    rustix::mount::mount_bind(etc.path(), "/etc").unwrap();
    let sees = || {
        both(|user_namespace| {
            let environment = [("EXPECTED", RESOLV_CONF.trim_end())];
            assert_eq!(run(&["sh", "-c", SEES_RESOLVER], &environment, user_namespace), Ok(0));
        });
    };
    sees();
    assert!(!Path::new("/etc/resolv.conf").exists(), "none was made");
    let target = etc.path().join("elsewhere");
    std::os::unix::fs::symlink(&target, "/etc/resolv.conf").unwrap();
    sees();
    assert!(!target.exists(), "a link that leads nowhere still does");
    fs::write(&target, "nameserver 192.0.2.53\n").unwrap();
    sees();
    assert_eq!(fs::read_to_string(&target).unwrap(), "nameserver 192.0.2.53\n");
}

fn waits() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("begun");
    let mut sandbox = Sandbox::spawn(&spec(&["touch", mark.to_str().unwrap()], UserNamespace::New)).unwrap();
    let running = fs::read_to_string(format!("/proc/{}/cmdline", sandbox.pid())).unwrap();
    assert!(running.contains("netns-helper") && !mark.exists());
    sandbox.start(&[]).unwrap();
    assert_eq!(sandbox.wait().unwrap(), 0);
    assert!(mark.exists());
}

fn exit_codes() {
    let code = |command: &[&str]| match run(command, &[], UserNamespace::New) {
        Ok(code) => code,
        Err(error) => error.exit_code(),
    };
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["there-is-no-such-command"]), 127);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    assert_eq!(code(&[script.to_str().unwrap()]), 126, "it may not be executed");
    assert_eq!(code(&["/"]), 126);
    assert_eq!(code(&[]), 125);
}

fn forwarded() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!("trap 'exit 42' TERM; touch {}; while :; do sleep 0.01; done", ready.display());
    let mut sandbox = Sandbox::spawn(&spec(&["sh", "-c", &script], UserNamespace::New)).unwrap();
    sandbox.start(&[]).unwrap();
    let waiter = std::thread::spawn(move || sandbox.wait().unwrap());
    eventually("the command's trap", || ready.exists());
    // Until the signal has its handler, the first process of a process namespace ignores it.
    eventually("the command's end", || {
        kill_process(getpid(), Signal::TERM).unwrap();
        waiter.is_finished()
    });
    assert_eq!(waiter.join().unwrap(), 42);
}

fn inherits_nothing() {
    // As a careless library might open it: without O_CLOEXEC.
    let careless = rustix::fs::open("/dev/zero", OFlags::RDONLY, Mode::empty()).unwrap();
    let script = "for fd in /proc/$$/fd/*; do
        case ${fd##*/}:$(readlink $fd) in [012]:*) ;; *:/dev/zero|*:socket:*) echo \"$fd\"; exit 1;; esac
    done";
    assert_eq!(run(&["sh", "-c", script], &[], UserNamespace::New), Ok(0));
    drop(careless);
}

fn dies_with_keeper() {
    let keeper = part("keeper", &[]);
    let mut keeper =
        Command::new(&keeper[0]).args(&keeper[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let command: u32 = line.trim().parse().unwrap();
    let command_alive = || fs::read_to_string(format!("/proc/{command}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(command_alive());
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    eventually("the command's end", || !command_alive());
}

/// Keeps a sandbox until it is killed; the sandbox was started by a thread that has ended long since.
pub fn keeper() -> ExitCode {
    let started = std::thread::spawn(|| {
        let mut sandbox = Sandbox::spawn(&spec(&["sleep", "600"], UserNamespace::New)).unwrap();
        sandbox.start(&[]).unwrap();
        sandbox
    });
    let sandbox = started.join().unwrap();
    let handle = ChildHandle::open(sandbox.pid()).unwrap();
    assert!(!handle.wait_ended(std::time::Duration::from_millis(100)).unwrap(), "it outlives the thread that began it");
    println!("{}", sandbox.pid());
    sandbox.wait().unwrap();
    ExitCode::FAILURE
}

fn forbidden() {
    // The limit counts for this user namespace and what is below it.
    if fs::write("/proc/sys/user/max_user_namespaces", "0").is_err() {
        return;
    }
    let error = Sandbox::spawn(&spec(&["true"], UserNamespace::New)).unwrap_err();
    assert!(matches!(error, SandboxError::Unshare(UnshareError::TooMany(_))), "{error:?}");
    assert!(error.advice().unwrap().contains("max_user_namespaces"));
    assert_eq!(error.exit_code(), 125);
}
