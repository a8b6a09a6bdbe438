//! A full network: 1022 containers on two nodes, and what the next one gets.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until};
use netns_tests::{Container, Host, in_lab};

const TOTAL: usize = 1022;
/// What an attach may take that asks nobody, with a daemon that is not optimised.
const PROMPT: Duration = Duration::from_millis(150);
const ZONE: &str = "private-network.internal";

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("c{n}")).collect()
}

/// How long one attach takes.
fn attach_alone(host: &Host, n: usize) -> Result<Duration> {
    let name = format!("c{n}");
    Command::new("ip").args(["netns", "add", &name]).status()?;
    let path = format!("/run/netns/{name}");
    let began = now();
    host.peerctl(&["attach", "--netns", &path, "--network", "demo", "--app", "shop"])?.ok()?;
    Ok(began.elapsed())
}

#[test]
fn n1_1022_containers_on_two_nodes_fill_a_network_exactly_and_tcp_tells_them_all() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let began = now();
        // More than half on one node: the other gives addresses back.
        a.crowd(&names(0..510), "demo", &[])?;
        let mut took = (510..560).map(|n| attach_alone(&a, n)).collect::<Result<Vec<_>>>()?;
        took.sort_unstable();
        println!("the 511th to 560th, beyond a's own half: median {:?}, at most {:?}", took[25], took[49]);
        ensure!(took[25] <= PROMPT, "an attach beyond the node's own half waits: {took:?}");
        a.crowd(&names(560..700), "demo", &[])?;
        b.crowd(&names(700..TOTAL), "demo", &[])?;
        println!("{TOTAL} attached in {:.1} s", began.elapsed().as_secs_f64());
        for host in [&a, &b] {
            let all = until("all containers", SOON, || Ok(Some(host.addresses()?).filter(|all| all.len() == TOTAL)))?;
            let different: BTreeSet<_> = all.iter().collect();
            ensure!(different.len() == TOTAL, "an address is held twice");
            let (first, last) = (Ipv4Addr::new(10, 240, 0, 1), Ipv4Addr::new(10, 240, 3, 254));
            let in_range =
                |text: &&String| text.parse::<Ipv4Addr>().is_ok_and(|address| (first..=last).contains(&address));
            ensure!(different.iter().all(in_range), "an address is no container's: {different:?}");
        }
        for (host, name) in [(&a, "one-too-many-a"), (&b, "one-too-many-b")] {
            Command::new("ip").args(["netns", "add", name]).status()?;
            let path = format!("/run/netns/{name}");
            let refused =
                host.peerctl(&["attach", "--netns", &path, "--network", "demo", "--app", "shop"])?.refused(5)?;
            let text = &refused.stderr;
            ensure!(text.contains("is full") && text.contains("1022 of 1022 addresses in use"), "{refused}");
            ensure!(text.contains("peerctl container ls --network demo"), "{refused}");
        }

        let asker = Container::found("c0");
        let name = format!("shop.demo.{ZONE}");
        let whole: BTreeSet<_> =
            asker.exec(&["dig", "+tcp", "+short", &name])?.ok()?.stdout.lines().map(str::to_owned).collect();
        ensure!(whole == a.addresses()?.into_iter().collect(), "{} of {TOTAL} by TCP", whole.len());
        let plain = asker.exec(&["dig", "+ignore", "+noedns", &name])?.ok()?.stdout;
        let size = plain.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).context("a size")?;
        ensure!(size.parse::<usize>()? <= 512 && plain.contains(" tc "), "{plain}");
        ensure!(!plain.contains("extra bytes"), "{plain}");
        let edns = asker.exec(&["dig", "+ignore", "+bufsize=4096", &name])?.ok()?.stdout;
        let size = edns.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).context("a size")?;
        ensure!((513..=1232).contains(&size.parse::<usize>()?) && edns.contains(" tc "), "{edns}");
        Ok(())
    });
}
