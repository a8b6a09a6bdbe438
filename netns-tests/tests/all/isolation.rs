//! Nothing of another network can be reached, resolved or seen, and nothing in the clear leaves a container.

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Host, Lab, contains, in_lab};

/// Two hosts that both carry the networks `red` and `blue`, with a container of each network on each host.
fn red_and_blue(lab: &mut Lab) -> Result<([Host; 2], [Container; 2], [Container; 2])> {
    let hosts = lab.cluster(["a", "b"])?;
    let [a, b] = &hosts;
    a.network("red", &[b])?;
    a.network("blue", &[b])?;
    let red = [a.container("red-1", "red", "shop", &[])?, b.container("red-2", "red", "shop", &["--number", "2"])?];
    // Different numbers of containers, so that an address of one network is free in the other.
    let blue =
        [a.container("blue-1", "blue", "bank", &[])?, b.container("blue-2", "blue", "bank", &["--number", "2"])?];
    b.container("blue-3", "blue", "bank", &["--number", "3"])?;
    for host in &hosts {
        for container in red.iter().chain(&blue) {
            host.knows(container)?;
        }
    }
    red[0].reaches(red[1].address())?;
    blue[0].reaches(blue[1].address())?;
    Ok((hosts, red, blue))
}

#[test]
fn n2_two_networks_with_the_same_addresses_never_mix() {
    in_lab(|lab| {
        let (_hosts, red, blue) = red_and_blue(lab)?;
        let _servers = [red[1].serve("this is red")?, blue[1].serve("this is blue")?];
        ensure!(red[0].fetch("2.web.shop.red.private-network.internal")? == "this is red");
        ensure!(blue[0].fetch("2.web.bank.blue.private-network.internal")? == "this is blue");
        for address in [blue[0].address(), blue[1].address()] {
            if let Ok(page) = red[0].fetch(address) {
                ensure!(page == "this is red", "red got {page:?} from {address}");
            }
        }
        Ok(())
    });
}

#[test]
fn n5_another_networks_container_can_be_neither_reached_nor_resolved() {
    in_lab(|lab| {
        let (hosts, red, _) = red_and_blue(lab)?;
        let [_, b] = &hosts;
        let [red_net, blue_net] = ["red", "blue"].map(|name| b.json(&["network", "inspect", name]));
        let (red_net, blue_net) = (red_net?, blue_net?);
        let rows = b.json(&["container", "ls"])?;
        let addresses = |vni: &serde_json::Value| -> Vec<String> {
            let rows = rows.as_array().into_iter().flatten().filter(|row| row["vni"] == *vni);
            rows.filter_map(|row| row["address"].as_str().map(str::to_owned)).collect()
        };
        let red_taken = addresses(&red_net["vni"]);
        let blue_only: Vec<_> = addresses(&blue_net["vni"]).into_iter().filter(|a| !red_taken.contains(a)).collect();
        ensure!(!blue_only.is_empty(), "blue has more containers than red: {rows}");
        let blue_id = blue_net["id"].as_str().unwrap_or_default();
        for container in &red {
            for address in &blue_only {
                ensure!(!container.ping(address)?, "red reached blue's {address}");
            }
            for network in ["blue", blue_id] {
                for below in ["bank.", "web.bank.", "1.web.bank.", ""] {
                    let name = format!("{below}{network}.private-network.internal");
                    ensure!(container.dig_status(&name, "A")?.0 == "NXDOMAIN", "{name}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn n5_nothing_outside_of_the_network_is_reached_over_the_interface() {
    in_lab(|lab| {
        let (hosts, red, _) = red_and_blue(lab)?;
        for address in [hosts[0].address(), hosts[1].address(), "198.51.100.1", "169.254.169.254"] {
            ensure!(!red[0].ping(address)?, "{address} answered");
        }
        Ok(())
    });
}

#[test]
fn n8_no_canary_shows_on_the_wire_while_the_capture_would_see_one() {
    in_lab(|lab| {
        let (hosts, red, _) = red_and_blue(lab)?;
        let capture = lab.capture()?;
        let canary = "feedfacecafebeef";
        red[0].exec(&["ping", "-n", "-c", "3", "-i", "0.2", "-p", canary, red[1].address()])?.ok()?;
        hosts[0].exec(&["ping", "-n", "-c", "1", "-p", "0ddba11e", hosts[1].address()])?.ok()?;
        let wire = capture.stop()?;
        ensure!(contains(&wire, &[0x0d, 0xdb, 0xa1]), "the capture is blind");
        ensure!(!contains(&wire, &[0xfe, 0xed, 0xfa, 0xce, 0xca, 0xfe]), "plaintext on the wire");
        ensure!(!contains(&wire, b"shop") && !contains(&wire, b"bank"), "a name on the wire");
        Ok(())
    });
}

#[test]
fn n4_a_dead_daemon_leaks_nothing_to_another_interface() {
    in_lab(|lab| {
        let ([mut a, _b], red, _) = red_and_blue(lab)?;
        // A second way out of the container, as an engine's bridge is one, with a default route.
        let peer = ["type", "veth", "peer", "name", "side0", "netns", "red-1"];
        a.exec(&[&["ip", "link", "add", "side"], &peer[..]].concat())?.ok()?;
        a.exec(&["ip", "address", "add", "198.51.100.1/24", "dev", "side"])?.ok()?;
        a.exec(&["ip", "link", "set", "side", "up"])?.ok()?;
        red[0].exec(&["ip", "address", "add", "198.51.100.2/24", "dev", "side0"])?.ok()?;
        red[0].exec(&["ip", "link", "set", "side0", "up"])?.ok()?;
        red[0].exec(&["ip", "route", "add", "default", "via", "198.51.100.1"])?.ok()?;

        let other = red[1].address().parse::<std::net::Ipv4Addr>()?.octets();
        let capture = a.capture("side")?;
        a.kill()?;
        ensure!(!red[0].ping(red[1].address())?, "an echo came back through a dead daemon");
        red[0].exec(&["ip", "link", "delete", "peerd0"])?.ok()?;
        until_true("an unreachable", SOON, || {
            let output = red[0].exec(&["ping", "-n", "-c", "1", "-W", "1", red[1].address()])?;
            let said = (output.stdout + &output.stderr).to_lowercase();
            Ok(said.contains("unreachable") || said.contains("no route to host"))
        })?;
        let seen = capture.stop()?;
        ensure!(!contains(&seen, &other), "an overlay packet left by another interface");

        let capture = a.capture("side")?;
        red[0].exec(&["ip", "route", "delete", "unreachable", "10.240.0.0/22", "metric", "4200000000"])?.ok()?;
        red[0].ping(red[1].address())?;
        ensure!(contains(&capture.stop()?, &other), "without the fallback it would have left: the capture is blind");
        Ok(())
    });
}
