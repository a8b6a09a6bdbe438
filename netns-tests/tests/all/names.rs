//! The names of FEATURES D1 to D8, asked from inside of containers by dig and by the C libraries.

use anyhow::ensure;
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Lookup, in_lab};

const ZONE: &str = "private-network.internal";

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn d1_d2_d3_d4_names_lead_to_the_containers_that_they_say() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let id = a.network("demo", &[&b])?;
        let web_1 = a.container("web-1", "demo", "shop", &[])?;
        let web_2 = b.container("web-2", "demo", "shop", &["--number", "2"])?;
        let worker = b.container("worker-1", "demo", "shop", &["--type", "worker"])?;
        for host in [&a, &b] {
            for container in [&web_1, &web_2, &worker] {
                host.knows(container)?;
            }
        }
        let webs = sorted(vec![web_1.address().to_owned(), web_2.address().to_owned()]);
        let workers = vec![worker.address().to_owned()];
        let second = vec![web_2.address().to_owned()];
        let said = [
            ("D1", "shop", &webs),
            ("D2", "web.shop", &webs),
            ("D2", "worker.shop", &workers),
            ("D3", "2.web.shop", &second),
            ("D3, no leading zero", "02.web.shop", &vec![]),
            ("D3, nobody's number", "3.web.shop", &vec![]),
            ("D4", "1.shop", &vec![]),
        ];
        let libraries = Lookup::both()?;
        for asker in [&web_1, &web_2, &worker] {
            for network in [id.as_str(), "demo"] {
                for (row, below, due) in &said {
                    let name = format!("{below}.{network}.{ZONE}");
                    let (status, _) = asker.dig_status(&name, "A")?;
                    ensure!(status == if due.is_empty() { "NXDOMAIN" } else { "NOERROR" }, "{row}: {name} is {status}");
                    ensure!(sorted(asker.dig(&name, "A")?) == **due, "{row}: {name} by dig");
                    for library in &libraries {
                        let found = sorted(library.ask(asker, &name)?);
                        ensure!(found == **due, "{row}: {name} by {}: {found:?}", library.name());
                    }
                }
            }
        }
        ensure!(web_1.hostname() == format!("1.web.shop.{id}.{ZONE}"), "the 5-part name");
        Ok(())
    });
}

#[test]
fn d5_d6_answers_rotate_and_live_30_seconds() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        // Whatever their versions: the client decides.
        let asker = a.container("web-1", "demo", "shop", &["--version", "v1"])?;
        a.container("web-2", "demo", "shop", &["--version", "v2"])?;
        let name = format!("shop.demo.{ZONE}");
        let first = |asker: &Container| Ok::<_, anyhow::Error>(asker.dig(&name, "A")?[0].clone());
        let seen = [first(&asker)?, first(&asker)?, first(&asker)?];
        ensure!(seen[0] != seen[1] && seen[0] == seen[2], "{seen:?}");
        let (_, records) = asker.dig_status(&name, "A")?;
        let lives_30_s = |record: &String| record.split_whitespace().skip(1).take(2).eq(["30", "IN"]);
        ensure!(records.len() == 2 && records.iter().all(lives_30_s), "{records:?}");
        let reverse: Vec<_> = asker.address().rsplit('.').collect();
        for (name, asked) in [
            (format!("2.web.shop.demo.{ZONE}"), "A"),
            (format!("{}.in-addr.arpa", reverse.join(".")), "PTR"),
            (name, "ANY"),
            (ZONE.to_owned(), "SOA"),
            (ZONE.to_owned(), "NS"),
        ] {
            let (_, records) = asker.dig_status(&name, asked)?;
            ensure!(records.len() == 1 && records.iter().all(lives_30_s), "{name} {asked}: {records:?}");
        }
        Ok(())
    });
}

#[test]
fn d8_listed_names_resolve_and_go_with_their_container() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let asker = a.container("db-1", "demo", "shop", &["--type", "db"])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let listed = a.json(&["domain-names", "--app", "shop"])?;
        let names: Vec<_> = listed["names"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        ensure!(names.len() == 5, "{names:?}");
        ensure!(listed == a.json(&["private-networks-domain-names", "--app", "shop"])?, "the document's own verb");
        for name in &names {
            ensure!(asker.dig(name, "A")?.len() == 1, "{name}");
        }
        a.peerctl(&["detach", web.id()])?.ok()?;
        until_true("the name to go", SOON, || Ok(asker.dig_status(web.hostname(), "A")?.0 == "NXDOMAIN"))
    });
}

#[test]
fn what_is_not_there_is_said_as_dns_says_it() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let asker = a.container("web-1", "demo", "shop", &[])?;
        let status = |name: &str, asked: &str| asker.dig_status(name, asked).map(|(status, _)| status);
        ensure!(status(&format!("shop.demo.{ZONE}"), "AAAA")? == "NOERROR");
        ensure!(status(&format!("demo.{ZONE}"), "A")? == "NOERROR");
        ensure!(status(&format!("absent.demo.{ZONE}"), "A")? == "NXDOMAIN");
        let reverse = asker.exec(&["dig", "+short", "-x", asker.address()])?.ok()?.stdout;
        ensure!(reverse.trim_end() == format!("{}.", asker.hostname()), "{reverse}");
        Ok(())
    });
}

#[test]
fn e9_the_hosts_own_resolv_conf_is_never_touched_and_ours_goes_with_the_container() {
    in_lab(|lab| {
        let before = std::fs::read_to_string("/etc/resolv.conf")?;
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let ours = std::fs::read_to_string("/etc/netns/web-1/resolv.conf")?;
        let said: Vec<_> = ours.lines().filter(|line| !line.starts_with('#')).collect();
        let due = ["nameserver 169.254.240.53", "search svc.private-network.internal", "options ndots:1 edns0"];
        ensure!(said == due, "{ours}");
        a.peerctl(&["detach", web.id()])?.ok()?;
        ensure!(!std::path::Path::new("/etc/netns/web-1/resolv.conf").exists(), "ours stayed");
        ensure!(std::fs::read_to_string("/etc/resolv.conf")? == before, "the host's own changed");

        std::fs::create_dir_all("/etc/netns/web-2")?;
        std::fs::write("/etc/netns/web-2/resolv.conf", "nameserver 192.0.2.53\n")?;
        let web = a.container("web-2", "demo", "shop", &[])?;
        a.peerctl(&["detach", web.id()])?.ok()?;
        let theirs = std::fs::read_to_string("/etc/netns/web-2/resolv.conf")?;
        ensure!(theirs == "nameserver 192.0.2.53\n", "a file that was there is left alone: {theirs}");
        Ok(())
    });
}
