//! `forward` and `proxy`: an ordinary user reaches into a network from a shell.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until};
use netns_tests::{Background, Host, curl, in_lab, serve_site};

/// Starts a verb that listens, and waits until it says where.
fn listening(host: &Host, words: &[&str]) -> Result<(Background, String)> {
    let log = Path::new("/run/lab").join(format!("{}-{}", host.name(), words.join("_").replace(['/', ':'], "_")));
    let mut verb = Background::start(&mut host.peerctl_command(words)?, log)?;
    let listen = until("where it listens", SOON, || {
        verb.still_runs()?;
        Ok(verb.printed()?.lines().find(|line| line.starts_with("127.")).map(str::to_owned))
    })?;
    Ok((verb, listen))
}

#[test]
fn an_ordinary_user_fetches_pages_of_another_node_by_forward_and_by_proxy() {
    in_lab(|lab| {
        let [a, b] = lab.ordinary_users_cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let web = ["python3", "-m", "http.server", "3000"];
        let words = ["--network", "demo", "--app", "my-shop", "--type", "web", "--"];
        let mut run = b.run("web", &[&words[..], &web].concat())?;
        until("the container", SOON, || {
            run.still_runs()?;
            let rows = a.json(&["container", "ls"])?;
            Ok(rows[0]["address"].as_str().map(str::to_owned))
        })?;
        let id = a.json(&["network", "inspect", "demo"])?["id"].as_str().context("an id")?.to_owned();
        let full = format!("web.my-shop.{id}.private-network.internal");
        let (_forward, by_name) = listening(&a, &["forward", &format!("0:{full}:3000"), "--network", "demo"])?;
        let page = until("a page", SOON, || Ok(curl(&a, &[&format!("http://{by_name}/")]).ok()))?;
        ensure!(page.contains("Directory listing"), "{page}");
        let (_short, by_namespace) = listening(&a, &["forward", "0:web.my-shop:3000", "--network", "demo"])?;
        ensure!(curl(&a, &[&format!("http://{by_namespace}/")])? == page);

        let (_proxy, proxy) = listening(&a, &["proxy", "--socks5", "127.0.0.1:0", "--network", "demo"])?;
        let socks = format!("socks5h://{proxy}");
        ensure!(curl(&a, &["-x", &socks, &format!("http://{full}:3000/")])? == page);
        ensure!(curl(&a, &["-x", &socks, "http://web.my-shop:3000/"])? == page);
        let address = a.json(&["container", "ls"])?[0]["address"].as_str().context("an address")?.to_owned();
        ensure!(curl(&a, &["-x", &socks, &format!("http://{address}:3000/")])? == page);
        // What is not of the network is not reached through it, by name or address.
        for (url, code) in [
            ("http://example.com/", 97),
            ("http://web:3000/", 97),
            ("http://192.0.2.1/", 97),
            ("http://web.my-shop:3001/", 97),
        ] {
            let refused = a.exec(&["curl", "-s", "--max-time", "10", "-x", &socks, url])?;
            ensure!(refused.code == code, "{url}: {refused}");
        }
        a.peerctl(&["forward", "0:web.my-shop:3000", "--network", "nowhere"])?.refused(4)?;
        a.peerctl(&["forward", "web:3000"])?.refused(2)?;
        Ok(())
    });
}

#[test]
fn a_gateway_is_no_container_and_has_no_name() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let web = b.container("web", "demo", "shop", &[])?;
        let _server = serve_site(&web, "here", 3000)?;
        // `shop` is a domain of the internet too: for a container that name is outside, and here it can only be the network's.
        let (_forward, listen) = listening(&a, &["forward", "0:web.shop:3000"])?;
        let url = format!("http://{listen}/");
        until("a page", SOON, || Ok(curl(&a, &[&url]).ok().filter(|page| page == "here")))?;
        for host in [&a, &b] {
            ensure!(host.json(&["container", "ls"])?.as_array().map(Vec::len) == Some(1));
            ensure!(host.json(&["network", "ls"])?[0]["containers"] == 1);
        }
        let (status, _) = web.dig_status("gateway.shop.svc.private-network.internal", "A")?;
        ensure!(status == "NXDOMAIN", "{status}");
        let (status, _) = web.dig_status("_apps.svc.private-network.internal", "TXT")?;
        ensure!(status == "NOERROR", "{status}");
        let apps = web.dig("_apps.svc.private-network.internal", "TXT")?;
        ensure!(apps.iter().all(|line| !line.contains("gateway")), "{apps:?}");
        // It is gone with its node.
        Ok(())
    });
}

#[test]
fn ssh_reaches_a_container_by_forward() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let server = b.container("ssh-1", "demo", "my-shop", &["--type", "ssh"])?;
        let folder = Path::new("/run/lab/ssh");
        std::fs::create_dir_all(folder)?;
        std::fs::create_dir_all("/run/sshd")?;
        let path = |name: &str| folder.join(name).display().to_string();
        let (host_key, user_key) = (path("host"), path("user"));
        for key in [&host_key, &user_key] {
            a.exec(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])?.ok()?;
        }
        let allowed = format!("AuthorizedKeysFile={user_key}.pub");
        let sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", "2200", "-h", &host_key, "-o", &allowed];
        let more = ["-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes"];
        let mut running = server.start(&[&sshd[..], &more].concat())?;
        let (_forward, listen) = listening(&a, &["forward", "0:ssh.my-shop:2200"])?;
        let port = listen.rsplit(':').next().context("a port")?;
        let options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"];
        let ssh = ["ssh", "-p", port, "-i", &user_key, "root@127.0.0.1", "cat /proc/net/fib_trie; cat"];
        let words = [&ssh[..1], &options, &ssh[1..]].concat();
        let mut last = None;
        let said = until("a shell", SOON, || {
            running.still_runs()?;
            let output = a.exec(&words)?;
            let said = (output.code == 0).then(|| output.stdout.clone());
            last = Some(output);
            Ok(said)
        });
        let said = match (said, last) {
            (Ok(said), _) => said,
            (Err(error), Some(last)) => return Err(error.context(format!("{last}\n{}", running.printed()?))),
            (Err(error), None) => return Err(error),
        };
        ensure!(said.contains(server.address()), "it is another host's shell: {said}");
        Ok(())
    });
}
