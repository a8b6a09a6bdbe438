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
fn a_host_that_gets_another_address_is_found_there_whoever_had_dialled() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = b.container("web-2", "demo", "shop", &[])?;
        a.knows(&two)?;
        b.knows(&one)?;
        one.reaches(two.address())?;
        // One of the two has dialled the other: both move in turn.
        for (moves, stays, address) in [(&b, &a, "192.0.2.77"), (&a, &b, "192.0.2.78")] {
            let script = format!("ip address flush dev eth0 scope global && ip address add {address}/24 dev eth0");
            moves.exec(&["sh", "-c", &script])?.ok()?;
            until_true(&format!("{}'s new address on {}", moves.name(), stays.name()), SOON, || {
                let nodes = stays.json(&["node", "ls"])?;
                let mut nodes = nodes.as_array().into_iter().flatten();
                let moved = nodes.find(|node| node["name"] == moves.name());
                Ok(moved.is_some_and(|node| node["endpoints"].to_string().contains(address)))
            })?;
            one.reaches(two.address())?;
            two.reaches(one.address())?;
        }
        Ok(())
    });
}
