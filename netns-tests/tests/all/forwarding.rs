//! Names outside: asked of the host's own nameservers, and of nobody where they are not to be told.

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Background, Host, in_lab};

const ZONE: &str = "private-network.internal";

/// A nameserver on every address of its host: dnsmasq, which says what it is asked.
fn nameserver(host: &Host) -> Result<Background> {
    let mut command = host.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-daemon",
        "--log-queries",
        "--log-facility=-",
    ]);
    command.args(["--user=root", "--pid-file=", "--local-ttl=20", "--address=/www.example.org/192.0.2.80"]);
    for last in 1..=120 {
        command.arg(format!("--host-record=many.example.org,198.51.100.{last}"));
    }
    let serving = Background::start(&mut command, "/run/lab/nameserver.log".into())?;
    until_true("the nameserver", SOON, || {
        Ok(host
            .exec(&["dig", "+short", "+tries=1", "+time=1", "@127.0.0.1", "www.example.org"])?
            .stdout
            .contains("192.0.2.80"))
    })?;
    Ok(serving)
}

#[test]
fn another_name_is_forwarded_kept_by_its_ttl_and_asked_by_tcp_when_it_is_long() {
    in_lab(|lab| {
        let outside = lab.host("outside")?;
        let serving = nameserver(&outside)?;
        let [a] = lab.cluster(["a"])?;
        std::fs::write("/etc/resolv.conf", format!("nameserver {}\n", outside.address()))?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        for _ in 0..3 {
            ensure!(web.dig("www.example.org", "A")? == ["192.0.2.80"]);
        }
        let asked = serving.printed()?.matches("query[A] www.example.org from 192.0.2.2").count();
        ensure!(asked == 1, "asked {asked} times in 20 s of life");
        let long = web.exec(&["dig", "+tcp", "+short", "many.example.org"])?.ok()?.stdout;
        ensure!(long.lines().count() == 120, "{long}");
        let cut = web.exec(&["dig", "+ignore", "+noedns", "many.example.org"])?.ok()?.stdout;
        ensure!(cut.contains(" tc ") && cut.contains("NOERROR"), "{cut}");
        Ok(())
    });
}

#[test]
fn private_names_are_never_told_outside_and_an_internal_network_asks_nothing() {
    in_lab(|lab| {
        let outside = lab.host("outside")?;
        let serving = nameserver(&outside)?;
        let [a] = lab.cluster(["a"])?;
        std::fs::write("/etc/resolv.conf", format!("nameserver {}\n", outside.address()))?;
        a.network("demo", &[])?;
        a.peerctl(&["network", "create", "closed", "--internal"])?.ok()?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let closed = a.container("web-2", "closed", "shop", &[])?;
        let private = [
            format!("absent.demo.{ZONE}"),
            format!("shop.other.{ZONE}"),
            ZONE.to_owned(),
            "7.0.240.10.in-addr.arpa".to_owned(),
            "single".to_owned(),
        ];
        for name in &private {
            web.dig(name, "A")?;
        }
        ensure!(closed.dig_status("www.example.org", "A")?.0 == "REFUSED");
        ensure!(closed.dig(&format!("shop.closed.{ZONE}"), "A")? == [closed.address()]);
        ensure!(web.dig("www.example.org", "A")? == ["192.0.2.80"], "the other network does ask");
        let told = serving.printed()?;
        let from_node: Vec<_> =
            told.lines().filter(|line| line.contains("query[") && !line.contains("127.0.0.1")).collect();
        ensure!(from_node.len() == 1 && from_node[0].contains("www.example.org"), "{from_node:?}");
        Ok(())
    });
}

#[test]
fn an_upstream_that_is_dead_touches_no_private_name() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        // Nobody has this address on the switch.
        std::fs::write("/etc/resolv.conf", "nameserver 192.0.2.200\n")?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let mut flood = Vec::new();
        for n in 0..8 {
            flood.push(web.start(&["dig", "+tries=1", "+time=6", &format!("host{n}.example.org")])?);
        }
        let name = format!("shop.demo.{ZONE}");
        ensure!(web.exec(&["dig", "+short", "+tries=1", "+time=1", &name])?.ok()?.stdout.trim_end() == web.address());
        for mut query in flood {
            query.ended(SOON)?;
        }
        ensure!(web.dig_status("www.example.org", "A")?.0 == "SERVFAIL");
        Ok(())
    });
}
