//! A node that ends and starts again is the same node.

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Host, Lab, in_lab, repeats};
use serde_json::Value;

/// What must outlive a daemon: who the node is, its cluster, its networks, its nodes.
fn identity(host: &Host) -> Result<[Value; 4]> {
    let status = host.json(&["status"])?;
    let names = |list: &Value, field: &str| -> Value {
        list.as_array().into_iter().flatten().map(|row| row[field].clone()).collect()
    };
    let nodes = host.json(&["node", "ls"])?;
    let networks = host.json(&["network", "ls"])?;
    Ok([status["node"]["id"].clone(), status["cluster"].clone(), names(&networks, "id"), names(&nodes, "id")])
}

/// A node that was ended in this way comes back as itself and serves containers again.
fn comes_back(lab: &mut Lab, end: impl FnOnce(&mut Host) -> Result<()>) -> Result<()> {
    let [a, mut b] = lab.cluster(["a", "b"])?;
    a.network("demo", &[&b])?;
    let one = a.container("web-1", "demo", "shop", &[])?;
    b.knows(&one)?;
    let before = identity(&b)?;
    end(&mut b)?;
    b.peerd()?;
    // What it had heard in its last second may not be on its disk: it hears that again.
    until_true("the node as it was", SOON, || {
        let after = identity(&b)?;
        ensure!(after[..2] == before[..2], "another node came back: {after:?} instead of {before:?}");
        Ok(after == before)
    })?;
    let two = b.container("web-2", "demo", "shop", &["--number", "2"])?;
    two.reaches(one.address())?;
    until_true("the new container's name on the other node", SOON, || Ok(one.dig(two.hostname(), "A")?.len() == 1))
}

#[test]
fn a_stopped_node_comes_back_as_itself() {
    in_lab(|lab| {
        comes_back(lab, |host| {
            host.stop()?;
            ensure!(!host.socket().exists(), "the socket outlived its daemon");
            Ok(())
        })
    });
}

#[test]
fn a_killed_node_comes_back_as_itself() {
    in_lab(|lab| comes_back(lab, Host::kill));
}

#[test]
fn a_node_killed_right_after_its_first_attach_starts_alone_with_its_network_and_its_containers() {
    in_lab(|lab| {
        let [mut a, mut b] = lab.cluster(["a", "b"])?;
        for round in 0..repeats(3, 30) {
            let network = format!("demo-{round}");
            a.network(&network, &[&b])?;
            let attach = |name: &str| b.container(&format!("{name}-{round}"), &network, "shop", &[]);
            let (one, two) = (attach("one")?, attach("two")?);
            b.kill()?;
            // Nobody is there to say again what it has not on its disk.
            a.kill()?;
            b.peerd()?;
            let rows = b.json(&["container", "ls"])?;
            for container in [&one, &two] {
                let mut listed = rows.as_array().into_iter().flatten();
                let found = listed.any(|row| row["id"] == container.id() && row["address"] == container.address());
                ensure!(found, "{} is not there: {rows}", container.name());
            }
            one.reaches(two.address())?;
            a.peerd()?;
        }
        Ok(())
    });
}
