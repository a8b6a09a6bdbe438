//! A node whose state folder is put back to an older copy: it asks what it did since, before it gives an address out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Container, Host, in_lab};

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// What `status` says of the gate, if it says anything.
fn awaited(host: &Host) -> Result<Option<String>> {
    let status = host.json(&["status"])?;
    let health = status["health"].as_array().context("a list")?;
    let row = health.iter().find(|row| row["code"] == "own-log-awaited");
    Ok(row.and_then(|row| Some(row["message"].as_str()?.to_owned())))
}

/// Whether a node's disk has the container's record.
fn is_stored(host: &Host, container: &Container) -> Result<bool> {
    let id = u64::from_str_radix(container.id(), 16)?.to_be_bytes();
    for file in fs::read_dir(host.state_dir())?.flatten() {
        // A file may go while it is looked for.
        if fs::read(file.path()).unwrap_or_default().windows(id.len()).any(|window| window == id) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn attach(host: &Host, names: impl IntoIterator<Item = usize>) -> Result<Vec<Container>> {
    names.into_iter().map(|n| host.container(&format!("web-{n}"), "demo", "shop", &[])).collect()
}

#[test]
fn a_node_with_an_older_state_folder_gives_no_address_out_that_a_container_has() {
    in_lab(|lab| {
        let [mut a, mut b, mut c] = lab.cluster(["a", "b", "c"])?;
        a.network("demo", &[&b, &c])?;
        let on_a = attach(&a, [1])?;
        let kept = attach(&b, 2..4)?;
        let old = b.state_dir().with_extension("old");
        let head = b.socket().with_extension("sock.head");
        ensure!(head.exists(), "there is no {}", head.display());
        until_true("the others' logs on its disk", SOON, || {
            let files = fs::read_dir(b.state_dir())?.filter_map(|file| file.ok()?.file_name().into_string().ok());
            // Of the root, a and c.
            Ok(files.filter(|name| name.starts_with("log-c-")).count() == 3)
        })?;
        b.kill()?;
        copy(&b.state_dir(), &old)?;
        b.peerd()?;
        ensure!(awaited(&b)?.is_none(), "a node with the newest folder asks");
        let forgotten = attach(&b, 4..10)?;
        for host in [&a, &c] {
            host.knows(&forgotten[5])?;
        }

        // Those who are stopped are to remember what they heard in their last second.
        until_true("the last record on the others' disks", SOON, || {
            Ok(is_stored(&a, &forgotten[5])? && is_stored(&c, &forgotten[5])?)
        })?;
        b.kill()?;
        fs::remove_dir_all(b.state_dir())?;
        fs::rename(&old, b.state_dir())?;
        fs::remove_file(&head)?;
        a.stop()?;
        c.stop()?;
        b.peerd()?;
        let message = awaited(&b)?.context("status does not say what it waits for")?;
        ensure!(message.contains(" a, c ") || message.contains(" c, a "), "{message}");

        a.peerd()?;
        c.peerd()?;
        let began = now();
        let next = attach(&b, 20..26)?;
        ensure!(began.elapsed() < Duration::from_secs(15), "it did not ask, it waited");
        ensure!(awaited(&b)?.is_none(), "it waits for what it has");
        let had: BTreeSet<&str> = on_a.iter().chain(&kept).chain(&forgotten).map(Container::address).collect();
        for container in &next {
            ensure!(!had.contains(container.address()), "{} has two holders", container.address());
        }
        // What is attached stays attached, and the new ones are as reachable as any.
        until_true("all are reached", SOON, || Ok(on_a[0].ping(kept[0].address())? && on_a[0].ping(next[5].address())?))
    });
}

#[test]
fn containers_stay_however_long_nobody_says_what_their_node_did_last() {
    in_lab(|lab| {
        let [mut a, mut b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let kept = attach(&b, 1..3)?;
        a.knows(&kept[1])?;
        b.kill()?;
        fs::remove_file(b.socket().with_extension("sock.head"))?;
        a.stop()?;
        b.peerd()?;
        ensure!(awaited(&b)?.is_some(), "it does not ask");
        until_true("it goes on alone", Duration::from_secs(30), || Ok(awaited(&b)?.is_none()))?;
        ensure!(kept[0].ping(kept[1].address())?, "a container is gone:\n{}", b.log()?);
        a.peerd()?;
        let on_a = a.container("web-3", "demo", "shop", &[])?;
        until_true("they are reached from outside", SOON, || on_a.ping(kept[0].address()))
    });
}
