//! The namespaces that a test runs in, and everything dies with.

use std::any::type_name;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::output::{Output, run};
use crate::wait;
use crate::{Lab, is_soak};

/// Set inside of the namespaces.
const INSIDE: &str = "PEERD_LAB";
/// The last line that a test prints inside, if it passed.
const PASSED: &str = "-- passed in its namespaces";
/// Where a test says that it could not run; `tests/run` counts these.
const SKIPS: &str = "PEERD_TEST_SKIPS";
/// A test that hangs is ended after this time, with all that it started.
const TEST_TIME_MAX: Duration = Duration::from_secs(150);
/// The published figures take longer.
const SOAK_TIME_MAX: Duration = Duration::from_secs(4 * 3600);

const NAMESPACES: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
const USER_NAMESPACE: [&str; 2] = ["--user", "--map-root-user"];

/// Runs a test in namespaces of its own. Where they are forbidden it is skipped, and says so.
///
/// # Panics
/// If the test fails, or does not end.
pub fn in_lab<F: FnOnce(&mut Lab) -> Result<()>>(test: F) {
    if env::var_os(INSIDE).is_some() {
        // What stands behind this call belongs to the process outside.
        match run_here(test) {
            Ok(()) => println!("{PASSED}"),
            Err(error) => println!("{error:?}"),
        }
        std::process::exit(0);
    }
    // The closure's type is named after the function that it stands in: all::reach::a_test::{{closure}}.
    let name = type_name::<F>();
    let name = name.split("::").skip(1).take_while(|part| !part.starts_with('{')).collect::<Vec<_>>().join("::");
    match permitted_namespaces() {
        Err(why) => skip(&format!("{name}: {why:#}")),
        Ok(namespaces) => {
            if let Err(error) = run_inside(&name, &namespaces) {
                panic!("{error:#}");
            }
        }
    }
}

/// Says that a test cannot run here, and why.
///
/// # Panics
/// If that cannot be said: a test must not go missing.
pub fn skip(reason: &str) {
    println!("SKIPPED: {reason}");
    if let Some(path) = env::var_os(SKIPS) {
        let mut file = OpenOptions::new().append(true).open(path).expect("the list of skipped tests");
        writeln!(file, "{}", reason.lines().collect::<Vec<_>>().join(" ")).expect("the list of skipped tests");
    }
}

/// The namespaces that this user may make.
fn permitted_namespaces() -> Result<Vec<&'static str>> {
    let user = [&USER_NAMESPACE[..], &NAMESPACES].concat();
    let candidates = if run("id", &["-u"])?.trim() == "0" { vec![NAMESPACES.to_vec(), user] } else { vec![user] };
    let mut why = String::new();
    for candidate in candidates {
        let tried = Output::of(Command::new("unshare").args(&candidate).args(["ip", "link"]), "")?;
        if tried.code == 0 {
            return Ok(candidate);
        }
        why = tried.stderr;
    }
    bail!("namespaces are forbidden here: {}", why.trim())
}

/// Runs the test `name` of this binary inside of new namespaces.
fn run_inside(name: &str, namespaces: &[&str]) -> Result<()> {
    let printed = tempfile::NamedTempFile::new()?;
    // Two writers of one file must both write at its end.
    let file = OpenOptions::new().append(true).open(printed.path())?;
    let mut child = Command::new("unshare")
        .args(namespaces)
        .arg(env::current_exe()?)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("cannot start unshare")?;
    let limit = if is_soak() { SOAK_TIME_MAX } else { TEST_TIME_MAX };
    let ended = wait::until(name, limit, || Ok(child.try_wait()?));
    if ended.is_err() {
        // unshare takes everything that it started with it.
        child.kill()?;
        child.wait()?;
    }
    let text = String::from_utf8_lossy(&fs::read(printed.path())?).into_owned();
    println!("{text}");
    let status = ended?;
    ensure!(status.success() && text.ends_with(&format!("{PASSED}\n")), "{name} failed in its namespaces ({status})");
    Ok(())
}

/// Makes the namespaces habitable, and runs the test.
fn run_here(test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    furnish()?;
    let mut lab = Lab::new()?;
    // A panic inside of a test ends this process, which is all the cleaning that there is to do.
    let outcome = test(&mut lab);
    if outcome.is_err() {
        lab.print_logs();
    }
    outcome
}

/// A /run and an /etc of our own: the names of namespaces stand in the one, their resolv.conf in the other.
fn furnish() -> Result<()> {
    ensure!(std::process::id() == 1, "the lab needs a pid namespace of its own");
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "lab", "/run"])?;
    for folder in ["/run/netns", "/run/etc", "/run/host-etc", "/run/lab"] {
        fs::create_dir(folder)?;
    }
    run("mount", &["--bind", "/etc", "/run/host-etc"])?;
    for entry in fs::read_dir("/run/host-etc")? {
        let name = entry?.file_name();
        if name != "netns" && name != "resolv.conf" {
            symlink(fs::canonicalize("/run/host-etc")?.join(&name), std::path::Path::new("/run/etc").join(&name))?;
        }
    }
    fs::create_dir("/run/etc/netns")?;
    fs::write("/run/etc/resolv.conf", "# This is the host's own.\nnameserver 192.0.2.254\n")?;
    run("mount", &["--bind", "/run/etc", "/etc"])?;
    run("ip", &["link", "set", "lo", "up"])?;
    Ok(())
}
