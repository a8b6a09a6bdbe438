//! Rows T1 to T7: what stands outside reaches services through a real nginx.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{Background, Container, Host, curl, in_lab, repeats, serve_site, site, status};

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
        ensure!(is_closed(&client, &format!("http://{}/", b.address()))?, "it serves too");
        let routes = a.json(&["ingress", "routes"])?;
        ensure!(routes[0]["protocol"] == "http" && routes[0]["listen"] == "80", "{routes}");
        until_true("requests are counted", SOON, || {
            Ok(a.json(&["ingress", "routes"])?[0]["requests"].as_u64() >= Some(48))
        })?;
        a.peerctl(&["ingress", "disable"])?.ok()?;
        ensure!(is_closed(&client, &url)?, "it still serves");
        Ok(())
    });
}

/// The routes as `ingress routes` tells them: protocol and listener, with where they lead.
fn listeners(host: &Host) -> Result<Vec<(String, Vec<String>)>> {
    let routes = host.json(&["ingress", "routes"])?;
    let routes = routes.as_array().context("a list")?.iter().map(|route| {
        let text = |key: &str| route[key].as_str().unwrap_or("?").to_owned();
        let to = route["to"].as_array().into_iter().flatten().filter_map(|to| to.as_str().map(str::to_owned));
        (format!("{} {}", text("protocol"), text("listen")), to.collect())
    });
    Ok(routes.collect())
}

/// Waits until a page is what it should be.
fn serves(client: &Host, words: &[&str], page: &str) -> Result<()> {
    let mut last = String::new();
    until_true(&format!("{page:?} by {words:?}"), SOON * 2, || {
        last = curl(client, words).unwrap_or_else(|error| format!("{error:#}"));
        Ok(last == page)
    })
    .with_context(|| last.clone())
}

/// Whether nobody listens.
fn is_closed(client: &Host, url: &str) -> Result<bool> {
    Ok(client.exec(&["curl", "-s", "--max-time", "5", "--noproxy", "*", url])?.code == 7)
}

#[test]
fn t2_short_forms_are_http_and_https_and_a_port_of_nobody_outside_is_on_loopback_where_it_runs() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let client = lab.host("client")?;
        a.network("demo", &[&b])?;
        apply(&a, "application: { id: my-shop }\nservices: { web: { ports: ['3000:80:443', '4000::8443', '5000'] } }")?;
        let one = web(&b, "web-1", &[])?;
        let _servers =
            [serve_site(&one, "http", 3000)?, serve_site(&one, "tls", 4000)?, serve_site(&one, "own", 5000)?];
        b.peerctl(&["ingress", "cert", "dev", "shop.test"])?.ok()?;
        b.peerctl(&["ingress", "enable"])?.ok()?;
        let at = b.address();
        serves(&client, &[&format!("http://{at}/")], "http")?;
        serves(&client, &["-k", &format!("https://{at}/")], "http")?;
        serves(&client, &["-k", &format!("https://{at}:8443/")], "tls")?;

        // The third is on loopback of the node that runs it, at an address of its own and at 127.0.0.1.
        let own = on_loopback(&b, "5000")?;
        ensure!(own.starts_with("127.240."), "{own}");
        serves(&b, &[&format!("http://{own}/")], "own")?;
        serves(&b, &["http://127.0.0.1:5000/"], "own")?;
        let inspected = b.json(&["service", "inspect", "web"])?;
        ensure!(inspected["loopback"].as_str().is_some_and(|ip| own == format!("{ip}:5000")), "{inspected}");
        ensure!(is_closed(&client, &format!("http://{at}:5000/"))?, "it is public");
        ensure!(
            is_closed(&a, "http://127.0.0.1:5000/")? && is_closed(&a, &format!("http://{own}/"))?,
            "it runs elsewhere"
        );
        for port in ["3000", "4000"] {
            ensure!(is_closed(&client, &format!("http://{at}:{port}/"))?, "{port} is the container's alone");
        }
        // With its container it goes.
        b.peerctl(&["detach", one.id()])?.ok()?;
        until_true("nobody listens", SOON, || is_closed(&b, "http://127.0.0.1:5000/"))?;
        let (code, _) = status(&client, &[&format!("http://{at}/")])?;
        ensure!(code == 503, "{code}");
        Ok(())
    });
}

/// Where the loopback address of a port is.
fn on_loopback(host: &Host, port: &str) -> Result<String> {
    until("a loopback port", SOON, || {
        let ends = format!(":{port}");
        let found = listeners(host)?.into_iter().find(|(listen, _)| listen.ends_with(&ends));
        Ok(found.and_then(|(listen, _)| listen.strip_prefix("tcp ").map(str::to_owned)))
    })
}

/// Gives back datagrams behind a name: NAME PORT.
const ECHO: &str = r#"
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", int(sys.argv[2])))
print("ready", flush=True)
while True:
    text, whence = sock.recvfrom(2048)
    sock.sendto(sys.argv[1].encode() + b" " + text, whence)
"#;

/// Sends a datagram and prints the answer: ADDRESS PORT TEXT.
const ASK: &str = r#"
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(1)
sock.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
print(sock.recv(2048).decode())
"#;

#[test]
fn t3_tcp_and_udp_are_ports_of_the_host_that_runs_the_one_container() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let client = lab.host("client")?;
        a.network("demo", &[&b])?;
        apply(
            &a,
            "application: { id: my-shop }\nservices: { mail: { ports: [{ container: 3001, tcp: 25 }, { container: 1111, udp: 111 }] } }",
        )?;
        let mail = ["--type", "mail"];
        let one = web(&a, "mail-1", &mail)?;
        let _servers = [serve_site(&one, "mail", 3001)?, one.start(&["python3", "-c", ECHO, "mail", "1111"])?];
        serves(&client, &[&format!("http://{}:25/", a.address())], "mail")?;
        let ask = |host: &Host| client.exec(&["python3", "-c", ASK, host.address(), "111", "hello"]);
        until_true("a datagram and its answer", SOON, || Ok(ask(&a)?.stdout == "mail hello\n"))?;
        // Not on the node that does not run it.
        ensure!(is_closed(&client, &format!("http://{}:25/", b.address()))? && ask(&b)?.code != 0);
        // One on a node; the refusal names the holder.
        let refused =
            a.peerctl(&["attach", "--pid", "1", "--network", "demo", "--app", "my-shop", "--type", "mail"])?;
        let refused = refused.refused(5)?;
        ensure!(refused.stderr.contains(one.id()), "{refused}");
        let two = web(&b, "mail-2", &mail)?;
        let _second = serve_site(&two, "second", 3001)?;
        serves(&client, &[&format!("http://{}:25/", b.address())], "second")?;
        a.peerctl(&["detach", one.id()])?.ok()?;
        until_true("the port is closed", SOON, || is_closed(&client, &format!("http://{}:25/", a.address())))?;
        Ok(())
    });
}

#[test]
fn t4_services_share_a_port_by_their_server_names_and_one_has_all_others() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        let file = "application: { id: my-shop }\nservices:\n  web: { ports: ['3000:80'], traffic_matches: ['app.a.com', '*.a.com'] }\n  api: { ports: ['3000:80'], traffic_matches: ['b.c.a.com'] }\n";
        apply(&a, file)?;
        let mut servers = Vec::new();
        for name in ["web", "api", "rest"] {
            let container = web(&a, name, &["--type", name])?;
            servers.push(serve_site(&container, name, 3000)?);
        }
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        let host = |name: &str| format!("Host: {name}");
        for (name, who) in
            [("app.a.com", "web"), ("x.a.com", "web"), ("x.y.a.com", "web"), ("APP.a.COM", "web"), ("b.c.a.com", "api")]
        {
            serves(&client, &["-H", &host(name), &url], who)?;
        }
        // The wildcard is for what is below the name alone; without a default there is nothing else.
        for name in ["a.com", "other.org", "xa.com", "", "..", "app.a.com.evil.org"] {
            let (code, _) = status(&client, &["-H", &host(name), &url])?;
            ensure!(code == 404 || name.is_empty() && code == 400 || name == ".." && code == 400, "{name:?}: {code}");
        }
        apply(&a, &(file.to_owned() + "  rest: { ports: ['3000:80'] }\n"))?;
        for (name, who) in [("a.com", "rest"), ("other.org", "rest"), ("app.a.com", "web"), ("b.c.a.com", "api")] {
            serves(&client, &["-H", &host(name), &url], who)?;
        }
        // Twice the same name, and two defaults, are mistakes that name both.
        for more in [
            "  two: { ports: ['1:80'], traffic_matches: ['app.a.com'] }\n",
            "  rest: { ports: ['1:80'] }\n  more: { ports: ['1:80'] }\n",
        ] {
            let refused = a.peerctl_with_input(&["apply", "-f", "-"], &(file.to_owned() + more))?.refused(9)?;
            ensure!(
                refused.stderr.contains("two") && refused.stderr.contains("web") || refused.stderr.contains("more"),
                "{refused}"
            );
        }
        serves(&client, &["-H", &host("app.a.com"), &url], "web")?;
        Ok(())
    });
}

/// Loads a page from outside again and again, each by a connection of its own: what `ab` found.
fn load(client: &Host, url: &str, requests: usize) -> Result<Background> {
    let mut ab = client.command("ab");
    ab.args(["-q", "-l", "-s", "20", "-c", "8", "-n", &requests.to_string(), url]);
    Background::start(&mut ab, Path::new("/run/lab").join("ab"))
}

/// How many requests `ab` made, and how many of them went wrong.
fn outcome(printed: &str) -> Result<(usize, usize)> {
    let number = |key: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(key));
        line.map(|rest| rest.trim().parse::<usize>()).transpose()
    };
    let done = number("Complete requests:")?.with_context(|| printed.to_owned())?;
    let failed = number("Failed requests:")?.unwrap_or(0) + number("Non-2xx responses:")?.unwrap_or(0);
    Ok((done, failed))
}

#[test]
fn t5_a_deployment_under_load_fails_no_request_and_what_is_under_way_ends_where_it_began() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let client = lab.host("client")?;
        a.network("demo", &[&b])?;
        apply(&a, "application: { id: my-shop }\nservices: { web: { ports: ['3000:80'] } }")?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        let version = |name: &str| -> Result<_> {
            let mut all = Vec::new();
            for host in [&a, &b] {
                let words = ["--version", name, "--ready-when", "tcp:3000"];
                let container = web(host, &format!("web-{name}-{}", host.name()), &words)?;
                let server = serve_site(&container, name, 3000)?;
                host.peerctl(&["wait", "--for", "container", container.id()])?.ok()?;
                all.push((container, server));
            }
            Ok(all)
        };
        let mut old = version("v1")?;
        a.peerctl(&["deploy", "my-shop", "v1"])?.ok()?;
        serves(&client, &[&url], "v1")?;
        let requests = repeats(2_000, 100_000);
        let mut ab = load(&client, &url, requests)?;
        let mut talk = site::Talk::start(&client, &a, 80, "my-shop.test")?;
        talk.goes_on(3)?;
        let upload_s = repeats(6, 60);
        let mut upload = site::Upload::start(&client, &a, 80, upload_s)?;
        upload.has_begun()?;

        for next in ["v2", "v3"] {
            let new = version(next)?;
            a.peerctl(&["deploy", "my-shop", next])?.ok()?;
            serves(&client, &[&url], next)?;
            // From here on nothing else is answered by.
            for _ in 0..10 {
                ensure!(curl(&client, &[&url])? == next, "{next} is not the only one");
            }
            talk.goes_on(5)?;
            old.extend(new);
        }
        ensure!(talk.answered()?.0 == "v1", "the WebSocket stays where it was opened");
        let (who, whole) = upload.ended()?;
        ensure!(who == "v1" && whole, "the upload ended at {who}, whole: {whole}");
        // Those that nobody is led to go; requests go on.
        for (container, _) in &old[..4] {
            let host = if container.name().ends_with("-a") { &a } else { &b };
            host.peerctl(&["detach", container.id(), "--drain", "1s"])?.ok()?;
        }
        ensure!(ab.ended(SOON * 12)?.success(), "{}", ab.printed()?);
        let (done, failed) = outcome(&ab.printed()?)?;
        println!("FIGURE requests through two deployments: {done} done, {failed} failed");
        ensure!(done == requests && failed == 0, "{}", ab.printed()?);
        Ok(())
    });
}

#[test]
fn a_backend_that_is_killed_costs_no_more_than_its_own_requests() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let client = lab.host("client")?;
        a.network("demo", &[&b])?;
        apply(&a, "application: { id: my-shop }\nservices: { web: { ports: ['3000:80'] } }")?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        let (one, two) = (web(&a, "web-1", &[])?, web(&b, "web-2", &[])?);
        let (_first, second) = (serve_site(&one, "one", 3000)?, serve_site(&two, "two", 3000)?);
        until_true("both", SOON, || Ok(answers(&client, &[&url], 6).is_ok_and(|found| found.len() == 2)))?;
        let mut ab = load(&client, &url, 2_000)?;
        second.signal("KILL")?;
        ensure!(ab.ended(SOON * 6)?.success(), "{}", ab.printed()?);
        let (done, failed) = outcome(&ab.printed()?)?;
        println!("FIGURE a backend killed under load: {done} done, {failed} failed");
        // Eight are under way at a time, half of them at the one that dies.
        ensure!(done == 2_000 && failed <= 8, "{}", ab.printed()?);
        ensure!(answers(&client, &[&url], 10)?.keys().eq(["one"]), "the other one serves all");
        Ok(())
    });
}
