//! A daemon is killed, or stopped, and started again: traffic goes on, and nothing leaves by another way meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::traffic::{Flow, Transfer, echo};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Container, Figures, Host, Lab, contains, in_lab, is_soak, repeats};

/// What nobody but the two containers may see.
const CANARY: &str = "canary-6f1d0c";
/// What `docs/reliability.md` promises of a kill.
const P99: Duration = Duration::from_secs(2);
const MAX: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(1);

/// Two nodes with a container each, which know each other.
fn pair(lab: &mut Lab) -> Result<(Host, Host, Container, Container)> {
    let [a, b] = lab.cluster(["a", "b"])?;
    a.network("demo", &[&b])?;
    let one = a.container("one", "demo", "shop", &[])?;
    let two = b.container("two", "demo", "shop", &[])?;
    a.knows(&two)?;
    b.knows(&one)?;
    Ok((a, b, one, two))
}

/// The index that the container's kernel gave the interface: another one is another interface.
fn ifindex(container: &Container) -> Result<String> {
    let link = container.exec(&["ip", "-o", "link", "show", "dev", "peerd0"])?.ok()?.stdout;
    Ok(link.split(':').next().context("an index")?.to_owned())
}

fn public_key(host: &Host, container: &Container) -> Result<String> {
    Ok(host.json(&["container", "inspect", container.id()])?["public_key"].as_str().context("a key")?.to_owned())
}

/// Ends the daemon in this way and starts it again, `count` times, under both kinds of traffic; the gaps in the datagrams.
fn interrupted(lab: &mut Lab, count: usize, end: impl Fn(&mut Host) -> Result<()>) -> Result<Figures> {
    let (mut a, _b, one, two) = pair(lab)?;
    let _echoes = (echo(&one)?, echo(&two)?);
    let mut datagrams = Flow::datagrams(&two, &one, CANARY)?;
    let mut connection = Flow::connection(&one, &two, CANARY)?;
    let interface = ifindex(&one)?;
    // A daemon that is away for a second is a gap of a second: so it is the traffic of this daemon that is measured.
    let before = datagrams.answers()?;
    end(&mut a)?;
    let ended = now();
    until_true("a second", SOON, || Ok(ended.elapsed() >= AWAY))?;
    a.peerd()?;
    datagrams.goes_on(50)?;
    ensure!(datagrams.longest_gap_since(before)? >= AWAY, "somebody else carried the traffic");
    let mut gaps = Figures::default();
    for _ in 0..count {
        let (before, key) = (datagrams.answers()?, public_key(&a, &one)?);
        end(&mut a)?;
        a.peerd()?;
        datagrams.goes_on(50)?;
        connection.goes_on(5)?;
        gaps.push(datagrams.longest_gap_since(before)?);
        ensure!(ifindex(&one)? == interface, "the interface was made anew instead of adopted");
        ensure!(public_key(&a, &one)? != key, "a new run goes on with the old key");
    }
    ensure!(datagrams.duplicates()? == 0, "a datagram was delivered twice");
    Ok(gaps)
}

#[test]
fn traffic_flows_again_soon_after_a_kill_and_tcp_connections_live() {
    in_lab(|lab| {
        let gaps = interrupted(lab, repeats(5, 30), Host::kill)?;
        gaps.promise("kill -9 and start, gap in datagrams", P99, MAX)
    });
}

#[test]
fn traffic_flows_again_soon_after_a_stop_and_tcp_connections_live() {
    in_lab(|lab| {
        let gaps = interrupted(lab, repeats(5, 30), Host::stop)?;
        gaps.promise("SIGTERM and start, gap in datagrams", P99, MAX)
    });
}

#[test]
fn a_transfer_survives_a_kill_of_either_node_byte_for_byte() {
    in_lab(|lab| {
        let (mut a, mut b, one, two) = pair(lab)?;
        let mib = repeats(100, 1024);
        let limit = if is_soak() { SOON * 30 } else { SOON * 3 };
        let mut transfer = Transfer::start(&one, &two, mib)?;
        transfer.arrived(25, limit)?;
        a.kill()?;
        a.peerd()?;
        transfer.arrived(60, limit)?;
        b.kill()?;
        b.peerd()?;
        transfer.whole(limit)
    });
}

/// Another way out of the container, as an engine's bridge is: a cable to its host, with the default route.
fn uplink(host: &Host, container: &Container) -> Result<()> {
    let script = format!(
        "ip link add uplink type veth peer name eth0 netns {0} && ip address add 198.51.100.1/24 dev uplink && \
         ip link set uplink up && ip -n {0} address add 198.51.100.2/24 dev eth0 && ip -n {0} link set eth0 up && \
         ip -n {0} route add default via 198.51.100.1",
        container.name()
    );
    host.exec(&["sh", "-c", &script])?.ok().map(drop)
}

/// Sends a text to each address, and says what became of it: TEXT ADDRESS...
const SEND: &str = r#"
import socket, sys
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for to in sys.argv[2:]:
    try:
        datagrams.sendto(sys.argv[1].encode(), (to, 9))
        print("sent")
    except OSError as error:
        print(error.strerror)
"#;
/// Another container, the last address of them all, the resolver, the first address of gateways.
const OVERLAY: [&str; 4] = ["10.240.0.200", "10.240.3.254", "169.254.240.53", "169.254.241.1"];

#[test]
fn no_packet_of_the_overlay_leaves_by_another_interface_when_its_own_is_deleted() {
    in_lab(|lab| {
        let (mut a, _b, one, _two) = pair(lab)?;
        uplink(&a, &one)?;
        // A daemon that runs would find out and end the attachment, and its routes with it.
        a.kill()?;
        let send = || -> Result<Vec<String>> {
            let said = one.python(SEND, &[&[CANARY], &OVERLAY[..]].concat())?.ok()?.stdout;
            Ok(said.lines().map(str::to_owned).collect())
        };
        ensure!(send()? == ["sent"; 4], "the interface stands, so that nobody is told");
        one.exec(&["ip", "link", "delete", "peerd0"])?.ok()?;
        let capture = a.capture("uplink")?;
        let said = send()?;
        ensure!(said == ["No route to host"; 4], "{said:?}");
        ensure!(!contains(&capture.stop()?, CANARY.as_bytes()), "the overlay's packets were seen on the uplink");
        for prefix in ["10.240.0.0/22", "169.254.240.0/20"] {
            let capture = a.capture("uplink")?;
            one.exec(&["ip", "route", "delete", "unreachable", prefix, "metric", "4200000000"])?.ok()?;
            send()?;
            ensure!(contains(&capture.stop()?, CANARY.as_bytes()), "nothing is ever seen on the uplink");
        }
        Ok(())
    });
}

#[test]
fn no_packet_of_the_overlay_leaves_by_another_interface_while_the_daemon_is_dead() {
    in_lab(|lab| {
        let (mut a, b, one, two) = pair(lab)?;
        uplink(&a, &one)?;
        let _echoes = (echo(&one)?, echo(&two)?);
        let mut datagrams = Flow::datagrams(&one, &two, CANARY)?;
        let mut connection = Flow::connection(&one, &two, CANARY)?;
        let interfaces = ["eth0", "lo", "uplink"];
        let listed = a.exec(&["ip", "-o", "link"])?.ok()?.stdout;
        ensure!(listed.lines().count() == interfaces.len(), "another interface to listen on: {listed}");
        let captures = interfaces.map(|interface| a.capture(interface));
        for _ in 0..repeats(3, 30) {
            a.kill()?;
            // What a program does that asks for a name, or calls somebody else, while nobody serves it.
            one.python(SEND, &[&[CANARY], &OVERLAY[..]].concat())?.ok()?;
            a.peerd()?;
            datagrams.goes_on(20)?;
            connection.goes_on(2)?;
        }
        for (interface, capture) in interfaces.iter().zip(captures) {
            ensure!(!contains(&capture?.stop()?, CANARY.as_bytes()), "the overlay's packets were seen on {interface}");
        }
        // The same search finds what does leave there.
        let captures = interfaces.map(|interface| a.capture(interface));
        one.python(SEND, &[CANARY, "203.0.113.9"])?.ok()?;
        a.exec(&["python3", "-c", SEND, CANARY, "127.0.0.1", b.address()])?.ok()?;
        for (interface, capture) in interfaces.iter().zip(captures) {
            ensure!(contains(&capture?.stop()?, CANARY.as_bytes()), "nothing is ever seen on {interface}");
        }
        Ok(())
    });
}
