//! What `peerd::sys` does to a real kernel: each test in namespaces of its own, from which nothing leaves.
//!
//! Every test runs as an ordinary user would, in a new user namespace; with root's rights also as root would, without.
//! Where the machine forbids that, the tests are listed as ignored and the reason is printed.

#![allow(clippy::unwrap_used)] // a test's own panic is its report

mod enclosure;
mod host;
mod namespaces;
mod probe;
mod sandbox;
mod tun;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use peerd::sys::cred;
use peerd::sys::lab::Enclosure;
use peerd::sys::sandbox::UserNamespace;

type Test = (&'static str, fn());

/// The hidden arguments by which this binary calls itself: a test's body in its namespaces, or a part in a test.
const INSIDE: &str = "inside";
const PART: &str = "part";

fn main() -> ExitCode {
    peerd::sys::helper::run_if_asked();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().as_slice() {
        [role, name] if role == INSIDE => run_inside(name),
        [role, name, rest @ ..] if role == PART => play(name, rest.iter().map(|a| a.to_string()).collect()),
        _ => run_all(),
    }
}

fn tests() -> impl Iterator<Item = Test> {
    [namespaces::TESTS, tun::TESTS, sandbox::TESTS, probe::TESTS, host::TESTS].concat().into_iter()
}

fn run_all() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test is a handful of processes and waits for them; signals go to one of them at a time.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for (kind, user_namespace) in [("user", UserNamespace::New), ("root", UserNamespace::Same)] {
        let why_not = why_not(user_namespace);
        if let Some(why) = &why_not {
            eprintln!("ignored: the tests as {kind}: {why}");
        }
        trials.extend(tests().map(|(name, _)| {
            Trial::test(name, move || in_enclosure(name, user_namespace))
                .with_kind(kind)
                .with_ignored_flag(why_not.is_some())
        }));
        let own = enclosure::TESTS.iter();
        trials.extend(own.map(|(name, body)| {
            Trial::test(*name, move || {
                body(user_namespace);
                Ok(())
            })
            .with_kind(kind)
            .with_ignored_flag(why_not.is_some())
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Why the tests of a kind cannot run here.
fn why_not(user_namespace: UserNamespace) -> Option<String> {
    if user_namespace == UserNamespace::Same && !cred::is_root() {
        return Some("this is not root".to_owned());
    }
    match Enclosure::spawn(&["true".into()], user_namespace) {
        Ok(enclosure) => enclosure.wait().err().map(|error| error.to_string()),
        Err(error) => Some(format!("{error} ({})", error.advice().unwrap_or_default())),
    }
}

fn in_enclosure(name: &str, user_namespace: UserNamespace) -> Result<(), Failed> {
    let command = [std::env::current_exe()?.into(), INSIDE.into(), name.into()];
    match Enclosure::spawn(&command, user_namespace)?.wait()? {
        0 => Ok(()),
        code => Err(format!("{name} ended with exit code {code}").into()),
    }
}

fn run_inside(name: &str) -> ExitCode {
    let Some((_, body)) = tests().find(|(known, _)| *known == name) else { return ExitCode::from(2) };
    // A panic ends the process with 101, and its message is on standard error.
    body();
    ExitCode::SUCCESS
}

/// Processes that a test needs besides itself.
fn play(name: &str, arguments: Vec<String>) -> ExitCode {
    match name {
        "linger" => enclosure::linger(&arguments),
        "keeper" => sandbox::keeper(),
        "hung" => tun::ask_a_hung_helper(&arguments),
        _ => ExitCode::from(2),
    }
}

/// The command line by which this binary plays a part.
fn part(name: &str, arguments: &[&str]) -> Vec<OsString> {
    let exe = std::env::current_exe().unwrap();
    let fixed = [exe.into_os_string(), PART.into(), name.into()];
    fixed.into_iter().chain(arguments.iter().map(OsString::from)).collect()
}

/// Looks until `so` holds; for what another process or the kernel does in its own time.
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: not within 10 s");
}
