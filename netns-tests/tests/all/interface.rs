//! The dedicated interface of a container: what it carries, its keys, and that there is nothing to choose.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Host, Output, in_lab, manual};

/// One column of `container ls`, by container id.
fn public_key(host: &Host, container: &Container) -> Result<String> {
    let rows = host.json(&["container", "ls"])?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["id"] == container.id());
    Ok(row.and_then(|row| row["public_key"].as_str()).context("a public key")?.to_owned())
}

#[test]
fn n1_n4_the_interface_has_one_address_two_routes_with_fallbacks_and_nothing_else() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let said = |words: &str| -> Result<Vec<String>> {
            let words: Vec<_> = words.split(' ').collect();
            Ok(web.exec(&words)?.ok()?.stdout.lines().map(|line| line.trim().to_owned()).collect())
        };
        let addresses = said("ip -o address show dev peerd0")?;
        ensure!(addresses.len() == 1, "one address: {addresses:?}");
        ensure!(addresses[0].contains(&format!("inet {}/32 ", web.address())), "{addresses:?}");
        ensure!(web.address().starts_with("10.240."), "{}", web.address());
        let routes: BTreeSet<_> = said("ip route show")?.into_iter().collect();
        ensure!(routes.len() == 4, "{routes:?}");
        for (to, how) in [
            ("10.240.0.0/22 ", "dev peerd0"),
            ("169.254.240.0/20 ", "dev peerd0"),
            ("unreachable 10.240.0.0/22", "metric 4200000000"),
            ("unreachable 169.254.240.0/20", "metric 4200000000"),
        ] {
            ensure!(routes.iter().any(|route| route.starts_with(to) && route.contains(how)), "{to} {how}: {routes:?}");
        }
        let default = said("ip -6 route show default")?;
        ensure!(default.is_empty(), "{default:?}");
        Ok(())
    });
}

#[test]
fn n6_every_network_gets_a_24_bit_vni_of_its_own() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let mut vnis = BTreeSet::new();
        for n in 0..20 {
            let made = a.json(&["network", "create", &format!("net-{n}")])?;
            let vni = made["vni"].as_u64().context("a VNI")?;
            ensure!((1..1 << 24).contains(&vni) && vnis.insert(vni), "{made}");
        }
        ensure!(a.peerctl(&["network", "create", "mine", "--vni", "7"])?.code == 2, "a VNI can be chosen");
        Ok(())
    });
}

#[test]
fn n7_each_container_has_a_key_that_gossip_carries_and_no_disk_keeps() {
    in_lab(|lab| {
        let [mut a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = a.container("web-2", "demo", "shop", &[])?;
        for container in [&one, &two] {
            b.knows(container)?;
        }
        let before = public_key(&a, &one)?;
        ensure!(before != public_key(&a, &two)?, "two containers share a key");
        ensure!(before == public_key(&b, &one)?, "the other node was told another key");
        // Were the key on the disk, the node would go on with it.
        a.stop()?;
        a.peerd()?;
        until_true("another key", SOON, || Ok(public_key(&a, &one)? != before))?;
        let after = public_key(&a, &one)?;
        until_true("the new key on the other node", SOON, || Ok(public_key(&b, &one)? == after))
    });
}

#[test]
fn n9_neither_range_nor_mask_nor_ttl_can_be_chosen() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        a.exec(&["ip", "netns", "add", "free"])?.ok()?;
        // No verb has an option whose name speaks of them. An invite's life and a variable's prefix are other things.
        let unspeakable = ["addr", "cidr", "ttl", "mask", "prefix", "range", "subnet", "gateway", "ip", "vni"];
        let others = ["invite --ttl", "run --env-prefix", "exec --env-prefix"];
        let verbs = manual::verbs()?;
        ensure!(verbs.len() > 15, "{verbs:?}");
        let mut seen = 0;
        for verb in &verbs {
            for option in manual::options(verb)? {
                seen += 1;
                let is_one = option.trim_start_matches('-').split('-').any(|word| unspeakable.contains(&word));
                let said = format!("{} {option}", verb.join(" "));
                ensure!(!is_one || others.contains(&said.as_str()), "{said}");
            }
        }
        ensure!(seen > 50, "the options were not read: {seen}");
        let attach = ["attach", "--netns", "/run/netns/free", "--network", "demo", "--app", "shop"];
        for more in [["--address", "10.240.0.77"], ["--ip", "10.240.0.77"], ["--prefix", "22"], ["--ttl", "5"]] {
            a.peerctl(&[&attach[..], &more].concat())?.refused(2)?;
        }
        for more in [["--subnet", "10.1.0.0/16"], ["--range", "10.1.0.0/16"], ["--ttl", "5"]] {
            a.peerctl(&[&["network", "create", "mine"][..], &more].concat())?.refused(2)?;
        }
        let config = Output::of(a.daemon_command(&a.socket())?.arg("--print-default-config"), "")?.ok()?.stdout;
        ensure!(config.contains("listen") && !config.contains("10.240") && !config.contains("ttl"), "{config}");
        Ok(())
    });
}
