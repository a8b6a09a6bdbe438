//! A node without a grant never learns that a network exists.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Host, contains, in_lab};

/// All bytes of all files below a folder.
fn everything_below(folder: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        bytes.extend(if path.is_dir() { everything_below(&path)? } else { fs::read(&path)? });
    }
    Ok(bytes)
}

/// What a node says, keeps and logs.
fn all_that_it_knows(host: &Host) -> Result<Vec<u8>> {
    let mut bytes = everything_below(&host.state_dir())?;
    bytes.extend(host.log()?.into_bytes());
    for words in [&["network", "ls"][..], &["container", "ls"], &["status"], &["node", "ls"], &["drops"]] {
        bytes.extend(host.peerctl(words)?.ok()?.stdout.into_bytes());
        bytes.extend(host.json(words)?.to_string().into_bytes());
    }
    Ok(bytes)
}

#[test]
fn a_node_without_a_grant_knows_neither_name_nor_vni_nor_members_nor_size() {
    in_lab(|lab| {
        let [a, b, c] = lab.cluster(["a", "b", "c"])?;
        let id = a.network("secretnet", &[&b])?;
        let one = a.container("web-1", "secretnet", "hiddenapp", &[])?;
        let two = b.container("web-2", "secretnet", "hiddenapp", &[])?;
        b.knows(&one)?;
        a.knows(&two)?;
        // c hears of everything it may hear of: a change after the network's shows that gossip passed.
        let token = a.peerctl(&["invite"])?.ok()?.stdout;
        let mut d = lab.host("d")?;
        d.peerd()?;
        d.peerctl_with_input(&["join", "-"], &token)?.ok()?;
        until_true("d on c", SOON, || {
            let nodes = c.json(&["node", "ls"])?;
            Ok(nodes.as_array().is_some_and(|nodes| nodes.iter().any(|node| node["name"] == "d")))
        })?;

        let granted = b.json(&["network", "inspect", "secretnet"])?;
        let key = |row: &serde_json::Value| row["public_key"].as_str().map(str::to_owned);
        let rows = b.json(&["container", "ls"])?;
        let mut secrets = vec!["secretnet".to_owned(), id.clone(), "hiddenapp".to_owned()];
        secrets.extend([one.id().to_owned(), two.id().to_owned(), one.address().to_owned()]);
        secrets.extend(rows.as_array().into_iter().flatten().filter_map(key));
        ensure!(secrets.len() == 8, "two public keys: {rows}");

        let known = all_that_it_knows(&c)?;
        for secret in &secrets {
            ensure!(!contains(&known, secret.as_bytes()), "c knows {secret}");
        }
        let vni = granted["vni"].to_string();
        for words in [&["network", "ls"][..], &["container", "ls"], &["status"]] {
            let said = c.peerctl(words)?.ok()?.stdout;
            let mut words = said.split(|c: char| !c.is_ascii_alphanumeric());
            ensure!(!words.any(|word| word == vni), "c knows the VNI {vni}:\n{said}");
        }
        ensure!(c.json(&["network", "ls"])? == serde_json::json!([]), "c lists a network");
        ensure!(c.json(&["container", "ls"])? == serde_json::json!([]), "c lists a container");
        // The same search finds all of it where it may be known.
        let known = all_that_it_knows(&b)?;
        for secret in &secrets {
            ensure!(contains(&known, secret.as_bytes()), "the search is blind: b does not know {secret}");
        }

        a.peerctl(&["network", "grant", "secretnet", "c"])?.ok()?;
        c.knows(&one)?;
        c.container("web-3", "secretnet", "hiddenapp", &[])?.reaches(two.address())
    });
}

#[test]
fn asking_for_a_network_without_a_grant_is_like_asking_for_one_that_never_existed() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let id = a.network("secretnet", &[])?;
        let never = format!("pn-{}", "0".repeat(id.len() - 3));
        for (real, absent) in [("secretnet", "nosuchnet"), (id.as_str(), never.as_str())] {
            for words in
                [&["network", "inspect", "N"][..], &["network", "grant", "N", "b"], &["invite", "--network", "N"]]
            {
                let ask = |network: &str| -> Result<String> {
                    let words: Vec<_> = words.iter().map(|word| if *word == "N" { network } else { word }).collect();
                    Ok(b.peerctl(&words)?.refused(4)?.stderr.replace(network, "N"))
                };
                ensure!(ask(real)? == ask(absent)?, "{words:?} tells {real} from {absent}");
            }
        }
        Ok(())
    });
}
