//! What a tenant can do to its own interface from inside, and a namespace that ends: told, cleaned up, at nobody's expense.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::traffic::{Flow, echo};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Container, Host, Lab, in_lab};

/// What a neighbour may notice of it.
const GAP_MAX: Duration = Duration::from_millis(500);
/// How long the daemon's processor time is looked at, and how many percent it may be.
const LOOK: Duration = Duration::from_secs(2);
const CPU_PERCENT_MAX: f64 = 5.0;
/// The kernel counts processor time in these: 100 a second (`getconf CLK_TCK`).
const TICKS_PER_S: f64 = 100.0;

/// A container that harms itself, a neighbour on the same node, and one on another node.
struct Scene {
    a: Host,
    b: Host,
    victim: Container,
    neighbour: Container,
    far: Container,
}

fn scene(lab: &mut Lab) -> Result<Scene> {
    let [a, b] = lab.cluster(["a", "b"])?;
    a.network("demo", &[&b])?;
    let victim = a.container("victim", "demo", "shop", &[])?;
    let neighbour = a.container("neighbour", "demo", "shop", &[])?;
    let far = b.container("far", "demo", "shop", &[])?;
    for container in [&victim, &neighbour] {
        b.knows(container)?;
    }
    a.knows(&far)?;
    victim.reaches(far.address())?;
    Ok(Scene { a, b, victim, neighbour, far })
}

/// The processor time that a process has used so far, in seconds.
fn processor_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit_once(')').context("a command")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS_PER_S)
}

/// The daemon does next to nothing while `meanwhile` is done again and again.
fn does_not_spin(host: &mut Host, what: &str, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
    let pid = host.daemon()?.pid();
    let (began, before) = (now(), processor_s(pid)?);
    until_true("the look at the processor", SOON, || {
        meanwhile()?;
        Ok(began.elapsed() >= LOOK)
    })?;
    let percent = (processor_s(pid)? - before) / began.elapsed().as_secs_f64() * 100.0;
    println!("FIGURE {what}: the daemon uses {percent:.1}% of a processor");
    ensure!(percent < CPU_PERCENT_MAX, "{what}: {percent:.1}%");
    Ok(())
}

/// The codes in `status`'s health that speak of a container's interface.
fn told_of(host: &Host, container: &Container) -> Result<Vec<String>> {
    let status = host.json(&["status"])?;
    let rows = status["health"].as_array().into_iter().flatten();
    let rows = rows.filter(|row| row["message"].as_str().is_some_and(|text| text.contains(container.id())));
    let codes = rows.filter_map(|row| row["code"].as_str()).filter(|code| code.starts_with("interface-"));
    Ok(codes.map(str::to_owned).collect())
}

fn is_listed(host: &Host, container: &Container) -> Result<bool> {
    let rows = host.json(&["container", "ls"])?;
    Ok(rows.as_array().into_iter().flatten().any(|row| row["id"] == container.id()))
}

/// A fault that stays: it is told, costs nothing, and is over when it is put right. `attached` stands throughout.
fn is_told_and_harms_nobody(lab: &mut Lab, code: &str, harm: &[&str], amend: &[&str]) -> Result<()> {
    let Scene { mut a, victim, neighbour, far, b: _b } = scene(lab)?;
    let _echo = echo(&far)?;
    let mut flow = Flow::datagrams(&neighbour, &far, "neighbour")?;
    let before = flow.answers()?;
    victim.exec(harm)?.ok()?;
    until_true(code, SOON, || Ok(told_of(&a, &victim)? == [code]))?;
    ensure!(a.log()?.contains("its interface was changed in the container"), "the log says nothing");
    flow.goes_on(50)?;
    let gap = flow.longest_gap_since(before)?;
    ensure!(gap <= GAP_MAX, "the neighbour was cut off for {gap:?}");
    drop(flow);
    does_not_spin(&mut a, code, || far.ping(victim.address()).map(|_| ()))?;
    ensure!(is_listed(&a, &victim)?, "it was detached");
    victim.exec(amend)?.ok()?;
    until_true("the fault's end", SOON, || Ok(told_of(&a, &victim)?.is_empty()))
}

#[test]
fn an_interface_that_is_set_down_is_told_and_harms_nobody() {
    in_lab(|lab| {
        let (harm, amend) = (["ip", "link", "set", "peerd0", "down"], ["ip", "link", "set", "peerd0", "up"]);
        is_told_and_harms_nobody(lab, "interface-down", &harm, &amend)
    });
}

#[test]
fn an_interface_with_an_mtu_of_65535_is_told_and_harms_nobody() {
    in_lab(|lab| {
        let set = |mtu| ["ip", "link", "set", "peerd0", "mtu", mtu];
        is_told_and_harms_nobody(lab, "interface-mtu", &set("65535"), &set("1408"))
    });
}

#[test]
fn an_interface_that_never_stays_the_same_does_not_keep_the_daemon_busy() {
    in_lab(|lab| {
        let Scene { mut a, b: _b, victim, neighbour, far } = scene(lab)?;
        let flapping = "while :; do ip link set peerd0 down; ip link set peerd0 mtu 9000 up; done";
        let mut flaps = victim.start(&["sh", "-c", flapping])?;
        does_not_spin(&mut a, "an interface that flaps", || Ok(()))?;
        flaps.still_runs()?;
        neighbour.reaches(far.address())
    });
}

/// Harm after which the container cannot be served: it is detached, nothing of it stays, and others notice nothing.
fn ends_the_attachment(lab: &mut Lab, what: &str, harm: impl FnOnce(&Scene) -> Result<()>) -> Result<()> {
    let mut scene = scene(lab)?;
    let _echo = echo(&scene.far)?;
    let mut flow = Flow::datagrams(&scene.neighbour, &scene.far, "neighbour")?;
    let before = flow.answers()?;
    harm(&scene)?;
    for host in [&scene.a, &scene.b] {
        until_true("the container's end", SOON, || Ok(!is_listed(host, &scene.victim)?))?;
    }
    flow.goes_on(50)?;
    let gap = flow.longest_gap_since(before)?;
    ensure!(gap <= GAP_MAX, "the neighbour was cut off for {gap:?}");
    drop(flow);
    does_not_spin(&mut scene.a, what, || Ok(()))?;
    ensure!(!std::path::Path::new("/etc/netns/victim/resolv.conf").exists(), "its resolv.conf stays");
    ensure!(scene.a.json(&["container", "inspect", scene.victim.id()]).is_err(), "its record stays");
    // The address and the name are free for the next.
    scene.a.container("next", "demo", "shop", &[])?.reaches(scene.far.address())
}

#[test]
fn a_deleted_interface_ends_its_attachment() {
    in_lab(|lab| {
        ends_the_attachment(lab, "a deleted interface", |scene| {
            scene.victim.exec(&["ip", "link", "delete", "peerd0"])?.ok().map(drop)
        })
    });
}

#[test]
fn an_interface_moved_to_another_namespace_ends_its_attachment_and_goes() {
    in_lab(|lab| {
        ends_the_attachment(lab, "a moved interface", |scene| {
            scene.a.exec(&["ip", "netns", "add", "elsewhere"])?.ok()?;
            scene.a.exec(&["ip", "-n", "victim", "link", "set", "peerd0", "netns", "elsewhere"])?.ok()?;
            until_true("the end of what was moved", SOON, || {
                let links = scene.a.exec(&["ip", "-n", "elsewhere", "-o", "link"])?.ok()?.stdout;
                Ok(!links.contains("peerd0"))
            })
        })
    });
}

#[test]
fn a_namespace_that_ends_ends_its_attachment() {
    in_lab(|lab| {
        ends_the_attachment(lab, "a namespace that is gone", |scene| {
            scene.a.exec(&["ip", "netns", "delete", "victim"])?.ok().map(drop)
        })
    });
}
