//! Names as the C libraries see them, and the order of addresses that they leave to their programs.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netns_tests::{Container, Lab, Lookup, in_lab};

const ZONE: &str = "private-network.internal";

/// A container that asks, and four of the name `shop`, of which it is none: one that is prefers itself.
fn client_and_four(lab: &mut Lab) -> Result<(netns_tests::Host, Container, Vec<String>)> {
    let [a] = lab.cluster(["a"])?;
    a.network("demo", &[])?;
    let client = a.container("client", "demo", "shop", &["--type", "client"])?;
    let mut four = Vec::new();
    for number in 1..=4 {
        four.push(a.container(&format!("web-{number}"), "demo", "shop", &[])?.address().to_owned());
    }
    // glibc compares prefixes only where there is an IPv6 address, as on most containers' other interface.
    client.exec(&["ip", "address", "add", "fd00::1/64", "dev", "lo"])?.ok()?;
    Ok((a, client, four))
}

/// The addresses that came first in eight lookups.
fn firsts(lookup: &Lookup, container: &Container, name: &str) -> Result<BTreeSet<String>> {
    (0..8)
        .map(|_| {
            let all = lookup.ask(container, name)?;
            ensure!(all.len() == 4, "{}: {all:?}", lookup.name());
            Ok(all[0].clone())
        })
        .collect()
}

#[test]
fn e9_d5_both_c_libraries_find_names_by_the_one_nameserver_line_and_go_round() {
    in_lab(|lab| {
        let (_a, client, four) = client_and_four(lab)?;
        let four: BTreeSet<_> = four.into_iter().collect();
        for lookup in Lookup::both()? {
            let library = lookup.name();
            let seen = firsts(&lookup, &client, &format!("shop.demo.{ZONE}"))?;
            ensure!(seen == four, "{library} does not go round: {seen:?}");
            let one = lookup.ask(&client, &format!("2.web.shop.demo.{ZONE}"))?;
            ensure!(one.len() == 1, "{library}: an AAAA that is not there spoils nothing: {one:?}");
            // The search list leads to the services, and nowhere near the raw names.
            let seen = firsts(&lookup, &client, "web")?;
            ensure!(seen == four, "{library}: service web: {seen:?}");
            let bare = lookup.ask(&client, "2.web.shop")?;
            ensure!(bare.is_empty(), "{library}: {bare:?}");
        }
        Ok(())
    });
}

#[test]
fn n4_with_a_22_prefix_on_the_interface_the_round_robin_of_glibc_is_defeated() {
    in_lab(|lab| {
        let (_a, client, four) = client_and_four(lab)?;
        let (glibc, name) = (Lookup::glibc()?, format!("shop.demo.{ZONE}"));
        let seen = firsts(&glibc, &client, &name)?;
        ensure!(seen.len() == 4, "with /32 all have their turn: {seen:?}");

        let own = client.address();
        client.exec(&["ip", "address", "add", &format!("{own}/22"), "dev", "peerd0"])?.ok()?;
        client.exec(&["ip", "address", "del", &format!("{own}/32"), "dev", "peerd0"])?.ok()?;
        client.exec(&["ip", "route", "replace", "169.254.240.0/20", "dev", "peerd0", "src", own])?.ok()?;
        // The rule puts those before all others that share the most leading bits with the caller's own address.
        let own: Ipv4Addr = own.parse()?;
        let shared = |text: &str| text.parse::<Ipv4Addr>().map(|ip| (ip.to_bits() ^ own.to_bits()).leading_zeros());
        let mut nearest = (0, BTreeSet::new());
        for address in four {
            let bits = shared(&address)?;
            if bits > nearest.0 {
                nearest = (bits, BTreeSet::new());
            }
            if bits == nearest.0 {
                nearest.1.insert(address);
            }
        }
        ensure!(nearest.1.len() < 4, "these addresses cannot show it: {nearest:?}");
        let seen = firsts(&glibc, &client, &name)?;
        ensure!(seen == nearest.1, "the reason for /32 has gone: look at docs/dns.md: {seen:?}, {nearest:?}");
        Ok(())
    });
}
