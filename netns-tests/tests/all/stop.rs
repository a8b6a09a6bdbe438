//! A node that stops says so; a node that moves is found.

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Host, in_lab};

/// How `of` stands in `host`'s status.
fn state_of(host: &Host, of: &str) -> Result<String> {
    let status = host.json(&["status"])?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    let peer = peers.iter().find(|peer| peer["name"] == of);
    Ok(peer.and_then(|peer| peer["state"].as_str()).unwrap_or_default().to_owned())
}

#[test]
fn a_stopped_node_says_goodbye_and_logs_no_error() {
    in_lab(|lab| {
        let [mut a, b] = lab.cluster(["a", "b"])?;
        until_true("a link", SOON, || Ok(state_of(&b, "a")? == "connected"))?;
        a.stop()?;
        // Without a goodbye the link would stand until its idle timeout, ten minutes later.
        until_true("the end of the link", SOON, || Ok(state_of(&b, "a")? == "unreachable"))?;
        let log = a.log()?;
        ensure!(!log.lines().any(|line| line.contains("ERROR")), "{log}");
        Ok(())
    });
}

#[test]
fn a_host_that_gets_another_address_is_announced_there() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = b.container("web-2", "demo", "shop", &[])?;
        a.knows(&two)?;
        b.knows(&one)?;
        one.reaches(two.address())?;
        let old = format!("{}/24", b.address());
        b.exec(&["ip", "address", "add", "192.0.2.77/24", "dev", "eth0"])?.ok()?;
        b.exec(&["ip", "address", "delete", &old, "dev", "eth0"])?.ok()?;
        // The kernel takes the second address of a prefix away with the first, unless it is told not to.
        b.exec(&["sh", "-c", "ip address show eth0 | grep -q 192.0.2.77 || ip address add 192.0.2.77/24 dev eth0"])?
            .ok()?;
        until_true("b's new address on a", SOON * 2, || {
            let nodes = a.json(&["node", "ls"])?;
            let b = nodes.as_array().into_iter().flatten().find(|node| node["name"] == "b").cloned();
            Ok(b.is_some_and(|b| b["endpoints"].to_string().contains("192.0.2.77")))
        })?;
        one.reaches(two.address())
    });
}
