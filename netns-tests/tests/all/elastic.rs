//! ElasticDNS, FEATURES E1 to E9: services by short names, asked from inside of containers by the clients that people have.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Host, Lookup, in_lab};

const SERVICES: &str = "svc.private-network.internal";

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// The addresses of some containers, sorted.
fn addresses<'c>(containers: impl IntoIterator<Item = &'c Container>) -> Vec<String> {
    sorted(containers.into_iter().map(|container| container.address().to_owned()).collect())
}

/// Waits until every host knows every container.
fn all_know<'c>(hosts: &[&Host], containers: impl IntoIterator<Item = &'c Container>) -> Result<()> {
    for container in containers {
        for host in hosts {
            host.knows(container)?;
        }
    }
    Ok(())
}

/// Applies a service file on a host, and waits until the others know its services too.
fn apply(host: &Host, others: &[&Host], network: &str, text: &str) -> Result<()> {
    host.peerctl_with_input(&["apply", "-f", "-", "--network", network], text)?.ok()?;
    let here = host.json(&["service", "ls", "--network", network])?;
    for other in others {
        let what = format!("the services on {}", other.name());
        until_true(&what, SOON, || {
            let there = other.peerctl(&["--json", "service", "ls", "--network", network])?;
            Ok(there.code == 0 && there.data()? == here)
        })?;
    }
    Ok(())
}

/// What a program of some runtime says the addresses of a name are, in their order.
fn by(container: &Container, words: &[&str]) -> Result<Vec<String>> {
    let said = container.exec(words)?;
    Ok(said.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

const JAVA: &str = "public class Lookup {
    public static void main(String[] words) {
        try {
            for (var one : java.net.InetAddress.getAllByName(words[0])) System.out.println(one.getHostAddress());
        } catch (java.net.UnknownHostException missing) {}
    }
}";

/// The runtimes beside the two C libraries that are at hand, each by a program that prints a name's IPv4 addresses.
fn runtimes(java: &str, name: &str) -> Vec<(&'static str, Vec<String>)> {
    let python = "import socket,sys
try: found = socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET, socket.SOCK_STREAM)
except socket.gaierror: found = []
for one in found: print(one[4][0])";
    let node = "require('dns').lookup(process.argv[1], {all: true, family: 4}, (error, found) => \
                (found || []).forEach(one => console.log(one.address)))";
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut runtimes = vec![("Python", own(&["python3", "-c", python, name]))];
    if Path::new("/usr/bin/nodejs").exists() {
        runtimes.push(("Node", own(&["nodejs", "-e", node, name])));
    }
    if Path::new("/usr/bin/javac").exists() {
        runtimes.push(("the JVM", own(&["java", java, name])));
    }
    runtimes
}

#[test]
fn e1_a_service_is_called_by_its_name_and_another_applications_by_its_namespace() {
    in_lab(|lab| {
        let mut a = lab.host("a")?;
        a.set("dns_suffixes = ['cloud66.local']")?;
        a.peerd()?;
        a.peerctl(&["init", "--name", "a"])?.ok()?;
        let mut b = lab.host("b")?;
        b.peerd()?;
        b.join(&a, &[])?;
        a.network("demo", &[&b])?;
        a.network("other", &[])?;
        let caller = a.container("caller", "demo", "shop", &["--type", "client"])?;
        let apis = [
            b.container("api-1", "demo", "shop", &["--type", "web", "--service", "api"])?,
            a.container("api-2", "demo", "shop", &["--type", "api"])?,
        ];
        let queue = b.container("queue-1", "demo", "backoffice-workers", &["--type", "queue"])?;
        let secret = a.container("secret-1", "other", "shop", &["--type", "secret"])?;
        all_know(&[&a, &b], apis.iter().chain([&queue]))?;
        let found = [
            ("api".to_owned(), addresses(&apis)),
            (format!("api.{SERVICES}"), addresses(&apis)),
            ("api.cloud66.local".to_owned(), addresses(&apis)),
            ("queue.backoffice-workers".to_owned(), addresses([&queue])),
            (format!("queue.backoffice-workers.{SERVICES}"), addresses([&queue])),
            ("queue.backoffice-workers.cloud66.local".to_owned(), addresses([&queue])),
        ];
        // What another application has, another network has, or nobody has.
        let missing =
            ["queue", "secret", "nothing", "nothing.backoffice-workers", "queue.shop", "nothing.cloud66.local"];
        for library in Lookup::both()? {
            for (name, due) in &found {
                let said = sorted(library.ask(&caller, name)?);
                ensure!(said == *due, "{name} by {}: {said:?}", library.name());
            }
            for name in missing {
                let said = library.ask(&caller, name)?;
                ensure!(said.is_empty(), "{name} by {}: {said:?}", library.name());
            }
        }
        let folder = tempfile::tempdir()?;
        let java = folder.path().join("Lookup.java");
        std::fs::write(&java, JAVA)?;
        let java = java.to_str().context("a path of ours is text")?;
        for (name, due) in &found {
            for (runtime, words) in runtimes(java, name) {
                let said = sorted(by(&caller, &words.iter().map(String::as_str).collect::<Vec<_>>())?);
                ensure!(said == *due, "{name} by {runtime}: {said:?}");
            }
        }
        // busybox asks as it stands, without the search list.
        let said = caller.exec(&["busybox", "nslookup", &format!("queue.backoffice-workers.{SERVICES}")])?.ok()?.stdout;
        ensure!(said.contains(queue.address()), "busybox: {said}");
        ensure!(caller.dig_status("secret.shop", "A")?.0 != "NOERROR", "another network's service");
        ensure!(secret.dig("secret", "A")? == [secret.address()], "in its own network it is there");
        // b has no suffix.
        let there = queue.dig_status("queue.cloud66.local", "A")?;
        ensure!(there.0 != "NOERROR", "{there:?}");
        Ok(())
    });
}

#[test]
fn e3_any_port_and_protocol_is_reached_by_a_services_name() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let caller = a.container("caller", "demo", "shop", &["--type", "client"])?;
        let api = b.container("api-1", "demo", "shop", &["--type", "api"])?;
        a.knows(&api)?;
        let folder = tempfile::tempdir()?;
        let mut servers = Vec::new();
        for port in ["80", "3000"] {
            let pages = folder.path().join(port);
            std::fs::create_dir(&pages)?;
            std::fs::write(pages.join("index.html"), format!("port {port}"))?;
            let pages = pages.to_str().context("a path of ours is text")?;
            servers.push(api.start(&["python3", "-m", "http.server", port, "--directory", pages])?);
        }
        servers.push(api.start(&["socat", "UDP-LISTEN:5000,reuseaddr,fork", "EXEC:cat"])?);
        for (url, due) in [("http://api:3000", "port 3000"), ("http://api", "port 80")] {
            let page = ["curl", "-sS", "--max-time", "5", "--noproxy", "*", url];
            until_true(url, SOON, || Ok(caller.exec(&page)?.stdout.trim() == due))?;
        }
        until_true("udp://api:5000", SOON, || {
            let mut echo = caller.command(&["socat", "-t", "1", "-", "UDP:api:5000"]);
            Ok(netns_tests::Output::of(&mut echo, "echoed")?.stdout == "echoed")
        })?;
        servers.iter_mut().try_for_each(netns_tests::Background::still_runs)
    });
}

/// Whether the name is this one container to who asks.
fn is(asker: &Container, name: &str, due: &Container) -> Result<()> {
    let said = asker.dig(name, "A")?;
    ensure!(said == [due.address()], "{name} to {}: {said:?}", asker.name());
    Ok(())
}

#[test]
fn e4_e5_an_old_caller_gets_the_old_and_who_asks_is_the_interface() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let versioned = |host: &Host, name: &str, kind: &str, version: &str| {
            host.container(name, "demo", "shop", &["--type", kind, "--version", version])
        };
        let old_api = versioned(&b, "api-old", "api", "v9")?;
        // Of what two nodes attach before they hear of each other, nobody says what was first.
        a.knows(&old_api)?;
        let new_api = versioned(&a, "api-new", "api", "v10")?;
        let (old_web, new_web) = (versioned(&a, "web-old", "web", "v9")?, versioned(&b, "web-new", "web", "v10")?);
        let unversioned = a.container("web-none", "demo", "shop", &[])?;
        let stranger = a.container("stranger", "demo", "backoffice-workers", &["--version", "v9"])?;
        all_know(&[&a, &b], [&old_api, &new_api, &old_web, &new_web, &unversioned, &stranger])?;
        let (short, long) = (format!("api.{SERVICES}"), format!("api.shop.{SERVICES}"));
        for name in ["api", &short] {
            is(&old_web, name, &old_api)?;
            is(&new_web, name, &new_api)?;
            // Nothing is deployed yet: the version that was attached last is the latest, whatever the strings say.
            is(&unversioned, name, &new_api)?;
        }
        is(&stranger, &long, &new_api)?;
        for (version, due) in [("v9", &old_api), ("v10", &new_api), ("v9", &old_api)] {
            a.peerctl(&["deploy", "shop", version, "--network", "demo"])?.ok()?;
            until_true("the deploy on b", SOON, || {
                Ok(b.json(&["dns", "query", &short, "--as", new_web.id()]).is_ok())
            })?;
            until_true(&format!("{version} is the latest"), SOON, || {
                Ok(unversioned.dig("api", "A")? == [due.address()] && stranger.dig(&long, "A")? == [due.address()])
            })?;
            is(&old_web, "api", &old_api)?;
            is(&new_web, "api", &new_api)?;
        }
        // The old caller takes the new one's address: it is answered as what it is, or not at all.
        let spoofed = old_web.exec(&["ip", "address", "add", &format!("{}/32", new_web.address()), "dev", "peerd0"])?;
        spoofed.ok()?;
        let asked = ["dig", "+short", "+tries=1", "+time=1", "-b", new_web.address(), "api", "A"];
        let said = old_web.exec(&asked)?.stdout;
        ensure!(!said.contains(new_api.address()), "by its source address it passes for another: {said}");
        Ok(())
    });
}

const BALANCED: &str = "
application: { id: shop, namespace: backoffice }
services:
  round: {}
  stuck: { load_balancing: sticky }
  near: { load_balancing: closest }
  latest: { dns_behaviour: non-versioned }
";

#[test]
fn e6_e7_the_target_says_how_its_containers_are_chosen() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        apply(&a, &[&b], "demo", BALANCED)?;
        let caller = a.container("caller", "demo", "shop", &["--type", "client", "--version", "v1"])?;
        let mut containers = Vec::new();
        for service in ["round", "stuck", "near", "latest"] {
            for (at, host) in [&a, &a, &b].into_iter().enumerate() {
                let version = if service == "latest" && at == 1 { "v2" } else { "v1" };
                let words = ["--type", service, "--version", version];
                containers.push(host.container(&format!("{service}-{at}"), "demo", "shop", &words)?);
            }
        }
        all_know(&[&a, &b], &containers)?;
        let of = |service: &'static str| containers.iter().filter(move |c| c.name().starts_with(service));
        let first = |name: &str| Ok::<_, anyhow::Error>(caller.dig(name, "A")?.first().context("an address")?.clone());
        let firsts = (0..6).map(|_| first("round")).collect::<Result<Vec<_>>>()?;
        ensure!(firsts[..3] == firsts[3..], "the whole list, by one further each time: {firsts:?}");
        ensure!(sorted(firsts[..3].to_vec()) == addresses(of("round")), "{firsts:?}");
        ensure!(sorted(caller.dig("round", "A")?) == addresses(of("round")), "the whole list");

        let stuck = caller.dig("stuck", "A")?;
        ensure!(stuck.len() == 1, "{stuck:?}");
        for _ in 0..5 {
            ensure!(caller.dig("stuck", "A")? == stuck, "it stays");
        }
        let held = of("stuck").find(|container| container.address() == stuck[0]).context("one of them")?;
        let host = if held.name() == "stuck-2" { &b } else { &a };
        host.peerctl(&["detach", held.id()])?.ok()?;
        until_true("another one", SOON, || {
            let said = caller.dig("stuck", "A")?;
            Ok(said.len() == 1 && said != stuck)
        })?;

        let near = sorted(caller.dig("near", "A")?);
        ensure!(near == addresses(of("near").take(2)), "those on the caller's node: {near:?}");
        for container in of("near").take(2) {
            a.peerctl(&["detach", container.id()])?.ok()?;
        }
        until_true("none is near", SOON, || Ok(caller.dig("near", "A")? == addresses(of("near").skip(2))))?;

        let latest = caller.dig("latest", "A")?;
        ensure!(latest == addresses(of("latest").skip(1).take(1)), "v2, whatever the caller: {latest:?}");
        Ok(())
    });
}

#[test]
fn e8_names_namespaces_services_and_ports_can_be_listed() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let file = "
application: { id: shop, namespace: backoffice }
services:
  web: { ports: ['3000:80:443', { container: 3001, name: admin }] }
databases:
  mysql: { primary: main, servers: { main: { port: 3306 }, leopard: { port: 3307 } } }
";
        apply(&a, &[&b], "demo", file)?;
        let web = b.container("web-1", "demo", "shop", &[])?;
        let worker = a.container("worker-1", "demo", "jobs-runner", &["--type", "worker"])?;
        all_know(&[&a, &b], [&web, &worker])?;
        let text = |asker: &Container, name: &str| {
            let lines = asker.dig(name, "TXT")?;
            Ok::<_, anyhow::Error>(sorted(lines.iter().map(|line| line.trim_matches('"').to_owned()).collect()))
        };
        let said = text(&web, &format!("_services.{SERVICES}"))?;
        ensure!(said == ["mysql", "mysql-leopard", "mysql-main", "web"], "{said:?}");
        ensure!(text(&worker, &format!("_services.{SERVICES}"))? == ["worker"], "each sees its own");
        ensure!(
            text(&worker, &format!("_services.backoffice.{SERVICES}"))?.contains(&"mysql-main".to_owned()),
            "by namespace"
        );
        let said = text(&web, &format!("_apps.{SERVICES}"))?;
        ensure!(said == ["backoffice", "jobs-runner"], "{said:?}");
        let target = format!("{}.", web.hostname());
        for (name, port) in [("_http._tcp.web", 3000), ("_admin._tcp.web", 3001)] {
            let said = web.dig(&format!("{name}.{SERVICES}"), "SRV")?;
            ensure!(said == [format!("0 1 {port} {target}")], "{name}: {said:?}");
            let more = web.exec(&["dig", "+noall", "+additional", &format!("{name}.{SERVICES}"), "SRV"])?.ok()?.stdout;
            ensure!(more.contains(&target) && more.contains(web.address()), "its address comes along: {more}");
        }
        let names = b.peerctl(&["domain-names", "--app", "shop", "--network", "demo"])?.ok()?.stdout;
        ensure!(names.lines().any(|name| name.starts_with("1.web.shop.")), "{names}");
        Ok(())
    });
}

#[test]
fn e9_one_nameserver_line_and_the_hosts_own_file_untouched() {
    in_lab(|lab| {
        let before = std::fs::read_to_string("/etc/resolv.conf")?;
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let inside = web.exec(&["cat", "/etc/resolv.conf"])?.ok()?.stdout;
        let lines: BTreeSet<&str> = inside.lines().filter(|line| !line.starts_with('#')).collect();
        let due = ["nameserver 169.254.240.53", "options ndots:1 edns0", "search svc.private-network.internal"];
        ensure!(lines == BTreeSet::from(due), "{inside}");
        ensure!(std::fs::read_to_string("/etc/resolv.conf")? == before, "the host's own");
        Ok(())
    });
}
