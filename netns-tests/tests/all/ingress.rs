//! Rows T1 to T7: what stands outside reaches services through a real nginx.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{
    Background, Container, Host, curl, in_lab, nginx_master, nginx_workers, repeats, serve_site, site, status,
};

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
        until_true("503", SOON, || Ok(status(&client, &[&format!("http://{at}/")])?.0 == 503))?;
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
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.send(sys.argv[3].encode())
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
        // At another address of the host: the client takes an answer from that one alone.
        a.exec(&["ip", "address", "add", "198.51.100.1/32", "dev", "eth0"])?.ok()?;
        client.exec(&["ip", "route", "add", "198.51.100.1/32", "via", a.address()])?.ok()?;
        let elsewhere = client.exec(&["python3", "-c", ASK, "198.51.100.1", "111", "again"])?;
        ensure!(elsewhere.stdout == "mail again\n", "{elsewhere}");
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

/// Somebody outside who loads a page all the time, eight at once, each by a connection of its own.
struct Load(Background);

impl Load {
    fn start(client: &Host, url: &str) -> Result<Self> {
        let mut ab = client.command("ab");
        // It says what became of them when it is interrupted.
        ab.args(["-q", "-l", "-s", "20", "-c", "8", "-n", "1000000", url]);
        Ok(Self(Background::start(&mut ab, Path::new("/run/lab").join("ab"))?))
    }

    /// Ends it: how many requests were answered, and how many of them not as they should be.
    fn end(mut self) -> Result<(usize, usize)> {
        self.0.still_runs()?;
        self.0.signal("INT")?;
        self.0.ended(SOON)?;
        let printed = self.0.printed()?;
        let number = |key: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(key));
            line.map(|rest| rest.trim().parse::<usize>()).transpose()
        };
        let done = number("Complete requests:")?.with_context(|| printed.clone())?;
        Ok((done, number("Failed requests:")?.unwrap_or(0) + number("Non-2xx responses:")?.unwrap_or(0)))
    }
}

/// Waits until so many requests were counted for a service of the only network.
fn counted(host: &Host, requests: usize) -> Result<()> {
    until_true(&format!("{requests} requests"), SOON * 12, || {
        Ok(host.json(&["ingress", "routes"])?[0]["requests"].as_u64() >= Some(requests as u64))
    })
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
        let load = Load::start(&client, &url)?;
        let mut talk = site::Talk::start(&client, &a, 80, "my-shop.test")?;
        talk.goes_on(3)?;
        let upload_s = repeats(6, 60);
        let mut upload = site::Upload::start(&client, &a, 80, upload_s)?;
        upload.has_begun()?;

        for next in ["v2", "v3"] {
            let new = version(next)?;
            a.peerctl(&["deploy", "my-shop", next])?.ok()?;
            serves(&client, &[&url], next)?;
            // While nginx's old workers go they may still take a connection; after that it is all the new one's.
            let only_new = || answers(&client, &[&url], 10).map(|found| found.keys().eq([next]));
            until_true(&format!("{next} alone"), SOON, only_new)?;
            ensure!(only_new()?, "somebody else than {next} answers again");
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
        counted(&a, requests)?;
        let (done, failed) = load.end()?;
        println!("FIGURE requests through two deployments: {done} done, {failed} failed");
        ensure!(done >= requests && failed == 0, "{done} done, {failed} failed");
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
        let load = Load::start(&client, &url)?;
        counted(&a, 500)?;
        second.signal("KILL")?;
        counted(&a, 2_000)?;
        let (done, failed) = load.end()?;
        println!("FIGURE a backend killed under load: {done} done, {failed} failed");
        // Eight are under way at a time, half of them at the one that dies.
        ensure!(done >= 2_000 && failed <= 8, "{done} done, {failed} failed");
        ensure!(answers(&client, &[&url], 10)?.keys().eq(["one"]), "the other one serves all");
        Ok(())
    });
}

#[test]
fn t6_certificates_by_name_503_without_a_container_and_404_without_a_service() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        let ports = "['3000:80:443']";
        apply(
            &a,
            &format!(
                "application: {{ id: my-shop }}\nservices:\n  one: {{ ports: {ports}, traffic_matches: ['one.test', '*.one.test'] }}\n  two: {{ ports: {ports}, traffic_matches: ['two.test'] }}\n"
            ),
        )?;
        let (one, two) = (web(&a, "one", &["--type", "one"])?, web(&a, "two", &["--type", "two"])?);
        let _servers = [serve_site(&one, "one", 3000)?, serve_site(&two, "two", 3000)?];
        a.peerctl(&["ingress", "enable"])?.ok()?;

        // Without a certificate HTTPS is not served, and status says what to do; HTTP is.
        let at = a.address();
        serves(&client, &["-H", "Host: one.test", &format!("http://{at}/")], "one")?;
        let told = a.json(&["ingress", "status"])?;
        let problems: Vec<_> =
            told["problems"].as_array().context("a list")?.iter().filter_map(|p| p.as_str()).collect();
        ensure!(problems.len() == 3 && problems.iter().all(|p| p.contains("peerctl ingress cert")), "{told}");

        // One is made here and trusted by its authority, the other comes as files.
        a.peerctl(&["ingress", "cert", "dev", "one.test", "*.one.test"])?.ok()?;
        let authority = a.peerctl(&["ingress", "cert", "ca"])?.ok()?.stdout;
        let folder = Path::new("/run/lab");
        let path = |name: &str| folder.join(name).display().to_string();
        fs::write(path("ca.pem"), authority)?;
        let subject = ["-subj", "/CN=two.test", "-addext", "subjectAltName=DNS:two.test"];
        let (key, chain) = (path("two.key"), path("two.pem"));
        let make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            &key,
            "-out",
            &chain,
        ];
        a.exec(&[&make[..], &subject].concat())?.ok()?;
        a.peerctl(&["ingress", "cert", "add", "--cert", &chain, "--key", &key])?.ok()?;
        let fetch = |name: &str, trust: &str| -> Result<()> {
            let resolve = format!("{name}:443:{at}");
            let who = name.split('.').rev().nth(1).unwrap_or_default();
            serves(&client, &["--cacert", trust, "--resolve", &resolve, &format!("https://{name}/")], who)
        };
        fetch("one.test", &path("ca.pem"))?;
        fetch("deep.one.test", &path("ca.pem"))?;
        fetch("two.test", &chain)?;
        // HTTP/2 where it is spoken.
        let resolve = format!("one.test:443:{at}");
        let version =
            ["-o", "/dev/null", "-w", "%{http_version}", "--http2", "-k", "--resolve", &resolve, "https://one.test/"];
        ensure!(curl(&client, &version)? == "2");
        ensure!(a.json(&["ingress", "status"])?["problems"] == serde_json::json!([]));

        // No service: 404. No container: 503, and when to come again.
        for url in [format!("http://{at}/"), format!("https://{at}/")] {
            let (code, _) = status(&client, &["-k", "-H", "Host: other.test", &url])?;
            ensure!(code == 404, "{url}: {code}");
        }
        a.peerctl(&["detach", two.id()])?.ok()?;
        until_true("503", SOON, || {
            let (code, header) = status(&client, &["-H", "Host: two.test", &format!("http://{at}/")])?;
            Ok(code == 503 && header.contains("retry-after: 5"))
        })?;

        // What a container is told of its client.
        let headers: serde_json::Value = serde_json::from_str(&curl(
            &client,
            &["-H", "Host: one.test", "-H", "X-Forwarded-For: 198.51.100.9", &format!("http://{at}/headers")],
        )?)?;
        ensure!(headers["X-Forwarded-For"] == format!("198.51.100.9, {}", client.address()), "{headers}");
        ensure!(headers["X-Real-IP"] == client.address() && headers["X-Forwarded-Proto"] == "http", "{headers}");
        ensure!(headers["Host"] == "one.test", "{headers}");
        // By the PROXY protocol, if the operator says so.
        a.peerctl(&["ingress", "enable", "--proxy-protocol"])?.refused(2)?;
        a.peerctl(&["ingress", "enable", "--proxy-protocol", "anybody"])?.refused(2)?;
        a.peerctl(&["ingress", "enable", "--proxy-protocol", "203.0.113.0/24", "--proxy-protocol", client.address()])?
            .ok()?;
        let url = format!("http://{at}/headers");
        let said = format!("\"X-Real-IP\": \"{}\"", client.address());
        until_true("the client by the PROXY protocol", SOON, || {
            let headers = curl(&client, &["--haproxy-protocol", "-H", "Host: one.test", &url]);
            Ok(headers.is_ok_and(|headers| headers.contains(&said)))
        })?;
        let plain = client.exec(&["curl", "-s", "--max-time", "5", "-H", "Host: one.test", &url])?;
        ensure!(plain.code != 0, "who does not speak it is not served: {plain}");
        // Who is no balancer may say what he likes: he is not served.
        let words = ["curl", "-s", "--max-time", "5", "--noproxy", "*", "--haproxy-protocol", "-H", "Host: one.test"];
        let direct = a.exec(&[&words[..], &[url.as_str()]].concat())?;
        ensure!(direct.code == 52 && direct.stdout.is_empty(), "{direct}");
        // It stays said until it is unsaid.
        let from = || -> Result<serde_json::Value> { Ok(a.json(&["ingress", "status"])?["proxy_from"].clone()) };
        let said = from()?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        a.peerctl(&["ingress", "disable"])?.ok()?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        ensure!(from()? == said && said.as_array().map(Vec::len) == Some(2), "{said}");
        a.peerctl(&["ingress", "enable", "--proxy-protocol", "none,192.0.2.1"])?.refused(2)?;
        a.peerctl(&["ingress", "enable", "--proxy-protocol", "none"])?.ok()?;
        ensure!(from()?.as_array().is_some_and(Vec::is_empty), "{}", from()?);
        until_true("the client without the PROXY protocol", SOON, || {
            Ok(curl(&client, &["-H", "Host: one.test", &url]).is_ok())
        })?;

        // What is wrong is refused, and changes nothing.
        for (chain, key) in [(&key, &key), (&chain, &chain), (&path("ca.pem"), &key), (&path("none"), &key)] {
            let refused = a.peerctl(&["ingress", "cert", "add", "--cert", chain, "--key", key])?;
            ensure!([4, 9].contains(&refused.code), "{refused}");
        }
        a.peerctl(&["ingress", "cert", "rm", "nobody.test"])?.refused(4)?;
        a.peerctl(&["ingress", "cert", "dev", "a b"])?.refused(2)?;
        ensure!(a.json(&["ingress", "cert", "ls"])?.as_array().map(Vec::len) == Some(2));
        a.peerctl(&["ingress", "cert", "rm", "two.test"])?.ok()?;
        ensure!(a.json(&["ingress", "cert", "ls"])?.as_array().map(Vec::len) == Some(1));
        Ok(())
    });
}

#[test]
fn t7_what_one_tenant_does_wrong_stays_with_that_tenant() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        a.network("other", &[])?;
        let file =
            "application: { id: my-shop }\nservices: { web: { ports: ['3000:80'], traffic_matches: ['good.test'] } }";
        let path = a.state_dir().with_file_name("good.yml");
        fs::write(&path, file)?;
        a.peerctl(&["apply", "-f", path.to_str().context("text")?, "--network", "demo"])?.ok()?;
        let good = web(&a, "good", &[])?;
        let _server = serve_site(&good, "good", 3000)?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        let good_words = ["-H", "Host: good.test", url.as_str()];
        serves(&client, &good_words, "good")?;

        // Text that would be nginx syntax is no server name; nothing of such a file is taken.
        for name in [
            "a.test; include /etc/passwd",
            "a.test { }",
            "$host",
            "a\ntest",
            "~^.*$",
            "a.test\"",
            "*",
            "bücher.test",
            &"x".repeat(65_000),
        ] {
            let text = serde_json::json!({
                "application": { "id": "an-evil" },
                "services": { "web": { "ports": ["1:80"], "traffic_matches": [name] } },
            });
            let shown = name.chars().take(30).collect::<String>();
            let refused = a.peerctl_with_input(&["apply", "-f", "-", "--network", "other"], &text.to_string())?;
            ensure!(refused.code == 9, "{shown}: {refused}");
        }
        // Another network claims the name, and a port that the host's own sshd has: what can be served is.
        let _sshd = Background::start(
            a.command("python3").args(["-m", "http.server", "2222"]),
            Path::new("/run/lab/sshd").into(),
        )?;
        until_true("a listener", SOON, || Ok(!is_closed(&a, "http://127.0.0.1:2222/")?))?;
        let text = "application: { id: an-evil }\nservices:\n  web: { ports: ['1:80'], traffic_matches: ['good.test'] }\n  ssh: { ports: ['1:2222'] }\n  fine: { ports: ['3000:81'] }\n";
        a.peerctl_with_input(&["apply", "-f", "-", "--network", "other"], text)?.ok()?;
        let fine = a.container("fine", "other", "an-evil", &["--type", "fine"])?;
        let _fine = serve_site(&fine, "fine", 3000)?;
        serves(&client, &[&format!("http://{}:81/", a.address())], "fine")?;
        serves(&client, &good_words, "good")?;
        let told = a.json(&["ingress", "status"])?["problems"].to_string();
        ensure!(told.contains("good.test") && told.contains("port 2222"), "{told}");

        // A certificate that breaks on the disk is left out.
        a.peerctl(&["ingress", "cert", "dev", "good.test"])?.ok()?;
        let certificates = a.state_dir().join("nginx/certificates");
        let broken = fs::read_dir(&certificates)?.filter_map(|entry| Some(entry.ok()?.path()));
        let broken = broken.filter(|path| !path.display().to_string().contains("development-ca"));
        broken
            .filter(|path| path.extension().is_some_and(|e| e == "crt"))
            .try_for_each(|path| fs::write(path, "nonsense"))?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        serves(&client, &good_words, "good")?;
        Ok(())
    });
}

/// What a process has open. A worker of an older configuration may end at any moment.
fn opened(pid: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string())).collect()
}

#[test]
fn nginx_inherits_nothing_of_the_daemon_and_is_started_again_when_it_is_killed() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        apply(&a, "application: { id: my-shop }\nservices: { web: { ports: ['3000:80'] } }")?;
        let one = web(&a, "one", &[])?;
        let _server = serve_site(&one, "one", 3000)?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        serves(&client, &[&url], "one")?;

        // Its own: standard streams, its log, listeners, its workers' channels, epoll. The daemon's: TUN, UDP, state.
        let state = a.state_dir();
        let inodes = |table: &str| -> Result<Vec<String>> {
            let text = a.exec(&["cat", &format!("/proc/net/{table}")])?.ok()?.stdout;
            Ok(text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9).map(str::to_owned)).collect())
        };
        let udp: Vec<_> = [inodes("udp")?, inodes("udp6")?].concat();
        ensure!(!udp.is_empty(), "the daemon has a UDP socket in this namespace");
        let pids = [vec![nginx_master(&a)?], nginx_workers(&a)?].concat();
        ensure!(pids.len() > 1 && !opened(&pids[0]).is_empty(), "a master and workers: {pids:?}");
        for (pid, to) in pids.iter().flat_map(|pid| opened(pid).into_iter().map(move |to| (pid, to))) {
            let own = ["socket:", "pipe:", "anon_inode:[event", "/dev/null"].iter().any(|own| to.starts_with(own));
            let log = to == state.join("nginx/logs/access.log").display().to_string();
            ensure!(own || log, "process {pid} has {to}");
            ensure!(!udp.iter().any(|inode| to == format!("socket:[{inode}]")), "process {pid} has the UDP socket");
        }

        let master = nginx_master(&a)?;
        a.exec(&["kill", "-9", &master])?.ok()?;
        until_true("another nginx", SOON * 2, || Ok(nginx_master(&a).is_ok_and(|now| now != master)))?;
        serves(&client, &[&url], "one")?;

        // The daemon killed, its nginx goes too, and the next start serves again.
        let master = nginx_master(&a)?;
        a.kill()?;
        // Nobody may have collected it.
        let has_ended = || Ok(fs::read_to_string(format!("/proc/{master}/cmdline")).unwrap_or_default().is_empty());
        until_true("nginx ends", SOON, has_ended)?;
        a.peerd()?;
        serves(&client, &[&url], "one")?;
        a.peerctl(&["ingress", "disable"])?.ok()?;
        ensure!(is_closed(&client, &url)?, "it still serves");
        Ok(())
    });
}

#[test]
fn a_request_under_way_ends_with_its_container_and_not_with_a_time_limit() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let client = lab.host("client")?;
        a.network("demo", &[&b])?;
        apply(&a, "application: { id: my-shop }\nservices: { web: { ports: ['3000:80'] } }")?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let one = web(&b, "one", &[])?;
        let _server = serve_site(&one, "one", 3000)?;
        let url = format!("http://{}/", a.address());
        serves(&client, &[&url], "one")?;
        let mut late = client.command("curl");
        late.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("{url}late?60")]);
        let mut late = Background::start(&mut late, Path::new("/run/lab/late").into())?;
        until_true("the request is under way", SOON, || {
            late.still_runs()?;
            Ok(a.json(&["ingress", "status"])?["gateways"][0]["streams"].as_u64() >= Some(2))
        })?;
        b.peerctl(&["detach", one.id()])?.ok()?;
        late.ended(SOON)?;
        ensure!(late.printed()?.starts_with('5'), "{}", late.printed()?);
        Ok(())
    });
}

#[test]
fn without_nginx_the_role_is_refused_and_the_package_is_named() {
    in_lab(|lab| {
        let mut a = lab.host("a")?;
        for folder in ["/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin", "/usr/bin", "/bin", "/sbin"] {
            let nginx = Path::new(folder).join("nginx");
            if nginx.exists() {
                // In this mount namespace alone.
                a.exec(&["mount", "--bind", "/dev/null", nginx.to_str().context("text")?])?.ok()?;
            }
        }
        a.peerd()?;
        a.peerctl(&["init"])?.ok()?;
        let refused = a.peerctl(&["ingress", "enable"])?.refused(1)?;
        ensure!(refused.stderr.contains("apt-get install nginx"), "{refused}");
        ensure!(a.json(&["ingress", "status"])?["enabled"] == false);
        Ok(())
    });
}
