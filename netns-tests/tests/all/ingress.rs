//! Rows T1 to T7: what stands outside reaches services through a real nginx.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Host, curl, in_lab, serve_site, status};

/// Defines applications on a host as a file says.
fn apply(host: &Host, text: &str) -> Result<()> {
    let path = host.state_dir().with_file_name("service.yml");
    fs::write(&path, text)?;
    host.peerctl(&["apply", "-f", path.to_str().context("a path of ours is text")?])?.ok().map(drop)
}

fn web(host: &Host, name: &str, more: &[&str]) -> Result<Container> {
    host.container(name, "demo", "my-shop", more)
}

/// Who answers when a page is fetched so often, each time by a connection of its own.
fn answers(client: &Host, words: &[&str], times: usize) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for _ in 0..times {
        *found.entry(curl(client, words)?).or_default() += 1;
    }
    Ok(found)
}

#[test]
fn t1_nginx_distributes_requests_to_the_containers_of_every_node_as_they_come_and_go() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let client = lab.host("client")?;
        a.network("demo", &[&b])?;
        apply(&a, "application: { id: my-shop }\nservices: { web: { ports: ['3000:80'] } }")?;
        let (one, two) = (web(&a, "web-1", &[])?, web(&b, "web-2", &[])?);
        let _servers = [serve_site(&one, "one", 3000)?, serve_site(&two, "two", 3000)?];
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        let both = |who: &[&str]| {
            until_true(&format!("answers of {who:?}"), SOON * 2, || {
                Ok(answers(&client, &[&url], 8).is_ok_and(|found| found.keys().eq(who.iter())))
            })
        };
        both(&["one", "two"])?;
        // Round robin: of one worker each has every second request; two workers have turns of their own.
        let found = answers(&client, &[&url], 40)?;
        ensure!(found.values().all(|count| (15..=25).contains(count)), "{found:?}");

        let three = web(&b, "web-3", &[])?;
        let _server = serve_site(&three, "three", 3000)?;
        both(&["one", "three", "two"])?;
        b.peerctl(&["detach", two.id(), "--drain", "1s"])?.ok()?;
        both(&["one", "three"])?;

        // The other node has no such role: nobody listens there.
        let there = client.exec(&["curl", "-s", "--max-time", "5", &format!("http://{}/", b.address())])?;
        ensure!(there.code == 7, "{there}");
        let routes = a.json(&["ingress", "routes"])?;
        ensure!(routes[0]["protocol"] == "http" && routes[0]["listen"] == "80", "{routes}");
        until_true("requests are counted", SOON, || {
            Ok(a.json(&["ingress", "routes"])?[0]["requests"].as_u64() >= Some(48))
        })?;
        a.peerctl(&["ingress", "disable"])?.ok()?;
        let (gone, _) = (client.exec(&["curl", "-s", "--max-time", "5", &url])?, status);
        ensure!(gone.code == 7, "{gone}");
        Ok(())
    });
}
