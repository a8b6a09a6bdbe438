//! A node that leaves its cluster: what the others see, what stays on its own host, and how it comes back.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Host, in_lab};

/// How soon a container that ended well is out of DNS.
const GONE: Duration = Duration::from_secs(2);

fn knows_node(host: &Host, name: &str) -> Result<bool> {
    let nodes = host.json(&["node", "ls"])?;
    Ok(nodes.as_array().into_iter().flatten().any(|node| node["name"] == name))
}

fn has_interface(container: &str) -> Result<bool> {
    let shown = std::process::Command::new("ip").args(["-n", container, "link", "show", "peerd0"]).output()?;
    Ok(shown.status.success())
}

#[test]
fn who_leaves_is_gone_with_its_names_within_two_seconds_and_joins_again_as_another() {
    in_lab(|lab| {
        let [a, b, mut c] = lab.cluster(["a", "b", "c"])?;
        a.network("demo", &[&b, &c])?;
        let stays = a.container("web-1", "demo", "shop", &[])?;
        c.knows(&stays)?;
        let goes = c.container("web-2", "demo", "shop", &[])?;
        a.knows(&goes)?;
        b.knows(&goes)?;
        stays.reaches(goes.address())?;
        let old = c.json(&["status"])?["node"]["id"].clone();

        let began = now();
        let left = c.json(&["leave"])?;
        ensure!(left["node"] == old && left["interfaces_kept"] == 1, "{left}");
        for host in [&a, &b] {
            until_true("the node and its container to go", GONE, || {
                let rows = host.json(&["container", "ls"])?;
                Ok(!knows_node(host, "c")? && rows.as_array().is_some_and(|rows| rows.len() == 1))
            })?;
        }
        until_true("its name to go", GONE, || Ok(stays.dig(goes.hostname(), "A")?.is_empty()))?;
        ensure!(began.elapsed() < GONE, "it took {:?}", began.elapsed());
        c.ended()?;
        c.peerctl(&["leave"])?.refused(3)?;

        // Its address rests.
        let next = b.container("web-3", "demo", "shop", &[])?;
        ensure!(next.address() != goes.address(), "{} was given again at once", next.address());

        // The interface is kept for the next start, which knows it, and takes it away: the node is in no cluster.
        ensure!(has_interface("web-2")?, "the interface is gone");
        let files: Vec<_> =
            fs::read_dir(c.state_dir())?.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect();
        ensure!(files.iter().all(|file| ["lock", "attachments"].contains(&file.as_str())), "{files:?} stay");
        c.peerd()?;
        until_true("the interface to go", SOON, || Ok(!has_interface("web-2")?))?;
        ensure!(c.json(&["status"])?["cluster"].is_null(), "it is still in the cluster");
        c.peerctl(&["leave"])?.refused(1)?;

        // The same name, another node.
        c.join(&a, &["--network", "demo"])?;
        ensure!(c.json(&["status"])?["node"]["id"] != old, "the key was kept");
        until_true("c again", SOON, || knows_node(&b, "c"))?;
        let again = c.container("web-4", "demo", "shop", &[])?;
        again.reaches(stays.address())
    });
}

#[test]
fn leave_with_release_removes_the_interfaces_and_what_would_lose_something_is_refused() {
    in_lab(|lab| {
        let [a, mut b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let stays = a.container("web-1", "demo", "shop", &[])?;
        let goes = b.container("web-2", "demo", "shop", &[])?;
        stays.reaches(goes.address())?;
        let refused = a.peerctl(&["leave"])?.refused(5)?;
        ensure!(refused.stderr.contains("root.key"), "{refused}");
        stays.reaches(goes.address())?;

        let left = b.json(&["leave", "--release"])?;
        ensure!(left["interfaces_kept"] == 0, "{left}");
        ensure!(!has_interface("web-2")?, "the interface stays");
        b.ended()?;
        // Alone again, the first node may leave too.
        until_true("b to go", GONE, || Ok(!knows_node(&a, "b")?))?;
        a.peerctl(&["leave", "--release"])?.ok()?;
        ensure!(!has_interface("web-1")?, "the interface stays");
        Ok(())
    });
}

#[test]
fn a_leave_that_nobody_would_hear_of_leaves_the_containers_as_they_are() {
    in_lab(|lab| {
        let [mut a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = b.container("web-1", "demo", "shop", &[])?;
        let two = b.container("web-2", "demo", "shop", &[])?;
        a.knows(&two)?;
        // Its connections stand for minutes.
        a.daemon()?.signal("STOP")?;
        until_true("the other to be down", SOON, || {
            Ok(b.json(&["status"])?["health"].to_string().contains("node-down"))
        })?;
        for words in [&["leave"][..], &["leave", "--release", "--drain", "1s"]] {
            b.peerctl(words)?.refused(8)?;
        }
        b.knows(&one)?;
        one.reaches(two.address())?;
        ensure!(has_interface("web-1")? && has_interface("web-2")?, "an interface is gone");
        a.daemon()?.signal("CONT")
    });
}
