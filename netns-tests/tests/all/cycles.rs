//! Containers come and go, also while the daemon is killed: nothing of them stays.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Host, Output, in_lab, repeats};

/// What a daemon may have grown after all cycles.
const GROWTH_KIB_MAX: u64 = 5 * 1024;
/// Cycles after which a daemon has everything that it makes once.
const WARM_UP: usize = 10;

/// All that a container could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    descriptors: usize,
    threads: usize,
    children: usize,
    namespaces: BTreeSet<String>,
    interfaces: usize,
    resolv_confs: BTreeSet<String>,
    state_files: BTreeSet<String>,
    records: usize,
}

fn names(folder: impl AsRef<std::path::Path>) -> Result<BTreeSet<String>> {
    Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

impl Traces {
    fn of(host: &mut Host) -> Result<Self> {
        let pid = host.daemon()?.pid();
        let records = host.json(&["container", "ls"])?.as_array().context("rows")?.len();
        let links = host.exec(&["ip", "-o", "link"])?.ok()?.stdout.lines().count();
        let children = Output::of(Command::new("pgrep").args(["-P", &pid.to_string()]), "")?.stdout.lines().count();
        Ok(Self {
            descriptors: names(format!("/proc/{pid}/fd"))?.len(),
            // Threads that wait for work to be given come and go by themselves: only those of ours count.
            threads: fs::read_dir(format!("/proc/{pid}/task"))?
                .flatten()
                .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
                .filter(|name| {
                    name.starts_with("peerd-close") || name.starts_with("netns") || name.starts_with("parent")
                })
                .count(),
            children,
            namespaces: names("/run/netns")?,
            interfaces: links,
            resolv_confs: names("/etc/netns")?,
            state_files: names(host.state_dir())?,
            records,
        })
    }
}

fn resident_kib(host: &mut Host) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", host.daemon()?.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a size")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn cycle(host: &Host, n: usize) -> Result<()> {
    let name = format!("c{n}");
    let container = host.container(&name, "demo", "shop", &[])?;
    host.peerctl(&["detach", container.id()])?.ok()?;
    let links = host.exec(&["ip", "-n", &name, "-o", "link"])?.ok()?.stdout;
    ensure!(links.lines().count() == 1, "an interface stays: {links}");
    let routes = host.exec(&["ip", "-n", &name, "route"])?.ok()?.stdout;
    ensure!(routes.is_empty(), "routes stay: {routes}");
    host.exec(&["ip", "netns", "delete", &name])?.ok().map(drop)
}

/// One cycle in which the daemon is killed at some moment of the attach or of the detach.
fn cycle_with_kill(host: &mut Host, n: usize) -> Result<()> {
    let (name, path) = (format!("k{n}"), format!("/run/netns/k{n}"));
    host.exec(&["ip", "netns", "add", &name])?.ok()?;
    let attach = ["attach", "--netns", &path, "--network", "demo", "--app", "shop"];
    let detach = ["detach", path.as_str()];
    let during_detach = n % 2 == 1;
    if during_detach {
        host.peerctl(&attach)?.ok()?;
    }
    let mut command = host.peerctl_command(if during_detach { &detach } else { &attach })?;
    let mut asked = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Every kill comes at another moment, from before the request is heard until after it is done.
    let moment = Duration::from_millis(n as u64 * 7 % 100);
    let began = now();
    until_true("the moment of the kill", SOON, || Ok(began.elapsed() >= moment))?;
    host.kill()?;
    asked.wait()?;
    host.peerd()?;
    let gone = host.peerctl(&detach)?;
    ensure!(gone.code == 0 || gone.code == 4, "{gone}");
    let links = host.exec(&["ip", "-n", &name, "-o", "link"])?.ok()?.stdout;
    ensure!(links.lines().count() == 1, "an interface stays: {links}");
    host.exec(&["ip", "netns", "delete", &name])?.ok().map(drop)
}

/// Everything is as it was, as soon as what is closed aside is closed.
fn leaves_nothing(host: &mut Host, before: &Traces) -> Result<()> {
    let mut after = Traces::of(host)?;
    until_true("no trace", SOON, || {
        after = Traces::of(host)?;
        Ok(after == *before)
    })
    .with_context(|| format!("{after:?} instead of {before:?}"))
}

#[test]
fn attach_and_detach_leave_nothing_behind() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        (0..WARM_UP).try_for_each(|n| cycle(&a, n))?;
        let (before, resident) = (Traces::of(&mut a)?, resident_kib(&mut a)?);
        let cycles = repeats(50, 1_000);
        (0..cycles).try_for_each(|n| cycle(&a, n))?;
        leaves_nothing(&mut a, &before)?;
        let grown = resident_kib(&mut a)?.saturating_sub(resident);
        println!("FIGURE {cycles} attach and detach cycles: 0 traces, {grown} KiB more of {resident} KiB");
        ensure!(grown <= GROWTH_KIB_MAX, "the daemon has grown by {grown} KiB");
        Ok(())
    });
}

#[test]
fn attach_and_detach_with_kills_amid_leave_nothing_behind() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        cycle(&a, 0)?;
        a.kill()?;
        a.peerd()?;
        let (before, resident) = (Traces::of(&mut a)?, resident_kib(&mut a)?);
        let cycles = repeats(50, 1_000);
        (0..cycles).try_for_each(|n| cycle_with_kill(&mut a, n))?;
        a.kill()?;
        a.peerd()?;
        leaves_nothing(&mut a, &before)?;
        let grown = resident_kib(&mut a)?.saturating_sub(resident);
        println!("FIGURE {cycles} cycles, each with a kill amid: 0 traces, {grown} KiB more of {resident} KiB");
        ensure!(grown <= GROWTH_KIB_MAX, "a fresh daemon takes {grown} KiB more");
        Ok(())
    });
}
