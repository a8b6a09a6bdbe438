//! A container that goes in order: first its names, then, when nobody can have kept one, the container; and what packets for
//! one that is gone get.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::traffic::{Flow, echo};
use netns_tests::wait::{SOON, now, until, until_true};
use netns_tests::{Background, Container, Figures, Host, in_lab};

/// A container that ended well is out of the names after so long.
const GONE: Duration = Duration::from_secs(2);

fn state_of(host: &Host, id: &str) -> Result<String> {
    let rows = host.json(&["container", "ls"])?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["id"] == id);
    Ok(row.and_then(|row| row["state"].as_str()).unwrap_or("none").to_owned())
}

fn background(host: &Host, words: &[&str], log: &str) -> Result<Background> {
    Background::start(&mut host.peerctl_command(words)?, format!("/run/lab/{log}").into())
}

fn is_named(asker: &Container, of: &Container) -> Result<bool> {
    Ok(!asker.dig(of.hostname(), "A")?.is_empty())
}

#[test]
fn who_drains_is_out_of_the_names_at_once_and_its_connections_live_until_its_time_is_over() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let goes = a.container("goes", "demo", "shop", &["--type", "api"])?;
        let near = a.container("near", "demo", "shop", &["--number", "1"])?;
        let far = b.container("far", "demo", "shop", &["--number", "2"])?;
        a.knows(&far)?;
        b.knows(&goes)?;
        let _echo = echo(&goes)?;
        let mut flows = [Flow::connection(&near, &goes, "near")?, Flow::connection(&far, &goes, "far")?];
        ensure!(is_named(&near, &goes)? && is_named(&far, &goes)?, "it has no name");

        let began = now();
        let mut detach = background(&a, &["detach", goes.id(), "--drain", "8s"], "detach")?;
        for asker in [&near, &far] {
            until_true("its name to go", GONE, || Ok(!is_named(asker, &goes)?))?;
            let (status, _) = asker.dig_status(goes.hostname(), "A")?;
            ensure!(status == "NOERROR", "what drains is declared still, and not {status}");
        }
        println!("out of the names of both nodes {:?} after the drain began", began.elapsed());
        ensure!(state_of(&a, goes.id())? == "draining" && state_of(&b, goes.id())? == "draining");
        let left = a.json(&["container", "inspect", goes.id()])?["local"]["detached_in_s"].as_u64();
        ensure!(left.is_some_and(|left| left <= 8), "{left:?}");
        for flow in &mut flows {
            flow.goes_on(50)?;
        }
        // Who still has its address from before may come, as long as an answer of DNS lives.
        drop(Flow::connection(&far, &goes, "late")?);
        ensure!(began.elapsed() < Duration::from_secs(7), "too slow a machine to say anything");

        ensure!(detach.ended(SOON)?.success(), "{}", detach.printed()?);
        let took = began.elapsed();
        ensure!(took >= Duration::from_secs(8), "gone after {took:?} of 8 s");
        let told = detach.printed()?;
        let lines: Vec<_> = told.lines().collect();
        let due = [8, 5, 4, 3, 2, 1].map(|left| format!("draining: {left} s left"));
        ensure!(lines.first() == Some(&due[0].as_str()), "{told}");
        ensure!(lines.iter().all(|line| due.iter().any(|due| due == line)) && lines.len() <= due.len(), "{told}");
        for (host, asker) in [(&a, &near), (&b, &far)] {
            until_true("the container to go", GONE, || Ok(state_of(host, goes.id())? == "none"))?;
            refused_at_once(asker, goes.address())?;
        }
        ensure!(goes.exec(&["ip", "link", "show", "peerd0"])?.code != 0, "its interface stays");
        Ok(())
    });
}

#[test]
fn a_drain_ends_by_itself_when_the_caller_has_left_or_the_daemon_was_started_again() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let asker = a.container("asker", "demo", "shop", &["--type", "job"])?;
        let left = a.container("left", "demo", "shop", &[])?;
        let restarted = a.container("restarted", "demo", "shop", &[])?;
        let twice = a.container("twice", "demo", "shop", &[])?;
        let began = now();
        let mut callers = Vec::new();
        for (container, time) in [(&left, "3s"), (&restarted, "10s"), (&twice, "1h")] {
            let mut caller = background(&a, &["detach", container.id(), "--drain", time], container.name())?;
            until_true("the drain", SOON, || {
                caller.still_runs()?;
                Ok(caller.printed()?.contains("s left") && state_of(&a, container.id())? == "draining")
            })?;
            callers.push(caller);
        }
        for caller in &mut callers {
            caller.signal("INT")?;
            ensure!(!caller.ended(SOON)?.success());
        }
        until_true("the first to go", SOON, || Ok(state_of(&a, left.id())? == "none"))?;
        ensure!(began.elapsed() >= Duration::from_secs(3), "it went before its time");

        a.kill()?;
        a.peerd()?;
        if began.elapsed() < Duration::from_secs(9) {
            ensure!(state_of(&a, restarted.id())? == "draining", "{}", state_of(&a, restarted.id())?);
        }
        ensure!(!is_named(&asker, &restarted)? && !is_named(&asker, &twice)?, "the restart brought its name back");
        until_true("the second to go", SOON, || Ok(state_of(&a, restarted.id())? == "none"))?;
        ensure!(began.elapsed() >= Duration::from_secs(10), "it went before its time");

        // Who does not want to wait any longer detaches it, or says another time.
        ensure!(state_of(&a, twice.id())? == "draining");
        a.peerctl(&["detach", twice.id(), "--drain", "1s"])?.ok()?;
        ensure!(state_of(&a, twice.id())? == "none");
        let none = a.container("none", "demo", "shop", &[])?;
        a.peerctl(&["detach", none.id(), "--drain", "0s"])?.ok()?;
        ensure!(state_of(&a, none.id())? == "none");
        a.peerctl(&["detach", asker.id(), "--drain", "25h"])?.refused(2)?;
        a.peerctl(&["detach", none.id(), "--drain", "1s"])?.refused(4)?;
        ensure!(state_of(&a, asker.id())? == "ready");
        Ok(())
    });
}

#[test]
fn a_node_that_leaves_drains_all_its_containers_at_once_and_none_if_it_may_not_leave() {
    in_lab(|lab| {
        let [a, mut b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let stays = a.container("stays", "demo", "shop", &[])?;
        let goes = [
            b.container("goes-1", "demo", "shop", &["--type", "api"])?,
            b.container("goes-2", "demo", "shop", &["--type", "db"])?,
        ];
        for container in &goes {
            a.knows(container)?;
        }
        let _echo = echo(&goes[0])?;
        let mut flow = Flow::connection(&stays, &goes[0], "stays")?;
        a.peerctl(&["leave", "--drain", "1h"])?.refused(5)?;
        ensure!(state_of(&a, stays.id())? == "ready" && is_named(&goes[0], &stays)?, "a refused leave drains");

        let began = now();
        let mut leave = background(&b, &["leave", "--drain", "5s"], "leave")?;
        for container in &goes {
            until_true("their names to go", GONE, || Ok(!is_named(&stays, container)?))?;
            ensure!(state_of(&a, container.id())? == "draining");
        }
        flow.goes_on(50)?;
        ensure!(began.elapsed() < Duration::from_secs(5), "too slow a machine to say anything");
        ensure!(leave.ended(SOON)?.success(), "{}", leave.printed()?);
        ensure!(began.elapsed() >= Duration::from_secs(5) && leave.printed()?.contains("draining: 5 s left"));
        b.ended()?;
        for container in &goes {
            until_true("the containers to go", GONE, || Ok(state_of(&a, container.id())? == "none"))?;
            ensure!(container.exec(&["ip", "link", "show", "peerd0"])?.code != 0, "its interface stays");
        }
        Ok(())
    });
}

#[test]
fn a_command_that_ends_is_out_of_another_nodes_names_within_two_seconds() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let asker = b.container("asker", "demo", "shop", &[])?;
        let mut figures = Figures::default();
        for run in 0..10 {
            let words = ["--network", "demo", "--app", "shop", "--type", "job", "--", "sleep", "infinity"];
            let mut job = a.run(&format!("job-{run}"), &words)?;
            let name = "job.shop.demo.private-network.internal";
            until("its name", SOON, || {
                job.still_runs()?;
                Ok((asker.dig(name, "A")?.len() == 1).then_some(()))
            })?;
            let began = now();
            job.signal("TERM")?;
            until_true("its name to go", GONE, || Ok(asker.dig(name, "A")?.is_empty()))?;
            figures.push(began.elapsed());
            job.ended(SOON)?;
        }
        figures.promise("a command ended: out of another node's names", GONE, GONE)
    });
}

/// A refusal comes at once to each kind of packet, and not only after a time.
fn refused_at_once(from: &Container, address: &str) -> Result<()> {
    let program = r#"
import errno, socket, sys, time
address, began = sys.argv[1], time.monotonic()
try:
    socket.create_connection((address, 80), timeout=10)
    raise SystemExit("somebody answers")
except OSError as error:
    assert error.errno == errno.EHOSTUNREACH, error
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# To datagrams Linux tells "host unreachable" only where somebody asks for it: IP_RECVERR, which is 11.
datagrams.setsockopt(socket.IPPROTO_IP, 11, 1)
datagrams.settimeout(10)
datagrams.connect((address, 53))
datagrams.send(b"anyone?")
try:
    datagrams.recv(1)
    raise SystemExit("somebody answers")
except OSError as error:
    assert error.errno == errno.EHOSTUNREACH, error
print("%.6f" % (time.monotonic() - began))
"#;
    let output = from.python(program, &[address])?.ok()?;
    let took: f64 = output.stdout.trim().parse().with_context(|| output.to_string())?;
    println!("{address} refused for {}: TCP and UDP in {:.1} ms", from.name(), took * 1e3);
    ensure!(took < 0.5, "{address} was refused after {took} s only");
    Ok(())
}

#[test]
fn a_packet_for_nobody_is_refused_at_once_and_a_flood_of_them_is_not_answered_for_each() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let asker = a.container("asker", "demo", "shop", &[])?;
        let near = a.container("near", "demo", "shop", &[])?;
        let far = b.container("far", "demo", "shop", &["--number", "9"])?;
        a.knows(&far)?;
        asker.reaches(far.address())?;
        asker.reaches(near.address())?;
        refused_at_once(&asker, "10.240.3.254")?;
        a.peerctl(&["detach", near.id()])?.ok()?;
        refused_at_once(&asker, near.address())?;
        b.peerctl(&["detach", far.id()])?.ok()?;
        until_true("the other node to know", GONE, || Ok(state_of(&a, far.id())? == "none"))?;
        refused_at_once(&asker, far.address())?;

        // The addresses rest: whoever comes next gets another one.
        let next = b.container("next", "demo", "shop", &["--number", "9"])?;
        ensure!(next.address() != far.address(), "{} was given again at once", far.address());

        let flood = r#"
import socket, time
def refusals():
    heads, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Icmp:")]
    return int(values[heads.index("InDestUnreachs")])
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
before, began = refusals(), time.monotonic()
for _ in range(20000):
    datagrams.sendto(b"flood", ("10.240.3.254", 9))
print(refusals() - before, time.monotonic() - began)
"#;
        let output = asker.python(flood, &[])?.ok()?;
        let numbers: Vec<f64> = output.stdout.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [refusals, took] = numbers[..] else { anyhow::bail!("{output}") };
        println!("20,000 packets for nobody in {took:.2} s: {refusals} refusals");
        ensure!(refusals >= 1.0 && refusals <= 100.0 * (took + 2.0), "{refusals} refusals in {took} s");
        asker.reaches(next.address())
    });
}
