//! A daemon that is killed at any moment: nothing acknowledged is lost, nothing unknown is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Host, in_lab};

const NAMESPACES: usize = 6;
const KILLS: u64 = 12;

/// The private address in a namespace, by what the kernel says.
fn address_in(host: &Host, netns: &str) -> Result<Option<String>> {
    let shown = host.exec(&["ip", "-n", netns, "-4", "-o", "address"])?.ok()?.stdout;
    let words = shown.split_whitespace().filter_map(|word| word.split_once('/'));
    Ok(words.map(|(address, _)| address.to_owned()).find(|address| address.starts_with("10.240.")))
}

fn listed(host: &Host) -> Result<BTreeSet<String>> {
    let rows = host.json(&["container", "ls"])?;
    let rows = rows.as_array().context("a list")?;
    let addresses: BTreeSet<String> = rows.iter().filter_map(|row| row["address"].as_str()).map(Into::into).collect();
    ensure!(addresses.len() == rows.len(), "one address twice: {rows:?}");
    Ok(addresses)
}

#[test]
fn a_kill_amid_attaches_and_detaches_loses_nothing_acknowledged_and_leaves_nothing_unknown() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let names: Vec<String> = (0..NAMESPACES).map(|i| format!("c{i}")).collect();
        for name in &names {
            a.exec(&["ip", "netns", "add", name])?.ok()?;
        }
        let mut attached: BTreeMap<&String, String> = BTreeMap::new();
        for kill in 0..KILLS {
            let mut asked: Vec<(&String, bool, Child)> = Vec::new();
            for name in &names {
                let (path, attach) = (format!("/run/netns/{name}"), !attached.contains_key(name));
                let words = ["attach", "--netns", &path, "--network", "demo", "--app", "shop"];
                let words = if attach { &words[..] } else { &["detach", path.as_str()] };
                let mut command = a.peerctl_command(words)?;
                asked.push((name, attach, command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?));
            }
            // Every kill comes at another moment, from before the first is heard until after the last is done.
            let until = Duration::from_millis(kill * 12);
            let began = now();
            until_true("the moment of the kill", SOON, || Ok(began.elapsed() >= until))?;
            a.kill()?;
            let mut unsure = BTreeSet::new();
            for (name, attach, child) in asked {
                let output = child.wait_with_output()?;
                match (output.status.success(), attach) {
                    (true, true) => {
                        attached.insert(name, String::from_utf8(output.stdout)?.trim().to_owned());
                    }
                    (true, false) => drop(attached.remove(name)),
                    (false, _) => drop(unsure.insert(name)),
                }
            }
            a.peerd()?;
            let mut there = BTreeMap::new();
            for name in &names {
                let address = address_in(&a, name)?;
                let ours = Path::new("/etc/netns").join(name).join("resolv.conf").exists();
                ensure!(ours == address.is_some(), "{name}: address {address:?}, resolv.conf {ours}");
                there.extend(address.map(|address| (name, address)));
            }
            let records = listed(&a)?;
            ensure!(there.values().cloned().collect::<BTreeSet<_>>() == records, "{there:?} against {records:?}");
            for name in names.iter().filter(|name| !unsure.contains(name)) {
                ensure!(there.get(name) == attached.get(name), "{name} was acknowledged: {there:?}, {attached:?}");
            }
            attached = there;
        }
        Ok(())
    });
}
