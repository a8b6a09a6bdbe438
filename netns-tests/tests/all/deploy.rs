//! A deployment under load: who is old is answered by what is old, who is new by what is new, and nobody by nobody.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Background, Container, Host, in_lab, repeats};

pub const PORT: &str = "7100";

/// Answers each line with its own version, once it has warmed up: PORT VERSION.
pub const API: &str = r#"
import socketserver, sys, time
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        for _ in self.rfile:
            self.wfile.write(sys.argv[2].encode() + b"\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128
print("warming up", flush=True)
time.sleep(0.7)
Server(("", int(sys.argv[1])), Answer).serve_forever()
"#;

/// Looks `api` up and asks what it leads to, again and again, each time anew: PORT. A line for each answer: how many, and of which
/// version; one that begins with `failed` for each that was none.
const WEB: &str = r#"
import socket, sys
port, number = int(sys.argv[1]), 0
while True:
    number += 1
    try:
        found = socket.getaddrinfo("api", port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        print("failed lookup", number, error, flush=True)
        continue
    try:
        with socket.create_connection(found[0][4], timeout=5) as connection:
            connection.sendall(b"hello\n")
            version = connection.makefile().readline().strip()
            assert version, "an empty answer"
        print("answer", number, version, flush=True)
    except (OSError, AssertionError) as error:
        print("failed request", number, found[0][4][0], error, flush=True)
"#;

/// A container that asks all the time.
pub struct Web {
    asking: Background,
}

impl Web {
    pub fn start(container: &Container) -> Result<Self> {
        Ok(Self { asking: container.start(&["python3", "-c", WEB, PORT])? })
    }

    /// The versions that have answered, in order.
    fn answers(&mut self) -> Result<Vec<String>> {
        self.asking.still_runs()?;
        let printed = self.asking.printed()?;
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if let Some(failed) = whole.lines().find(|line| !line.starts_with("answer ")) {
            anyhow::bail!("{failed}");
        }
        Ok(whole.lines().filter_map(|line| line.split(' ').nth(2)).map(str::to_owned).collect())
    }

    /// Waits for so many answers from now on, and says of which versions they were.
    pub fn goes_on(&mut self, count: usize) -> Result<Vec<String>> {
        let before = self.answers()?.len();
        until_true("answers", SOON * 3, || Ok(self.answers()?.len() >= before + count))?;
        let mut versions = self.answers()?.split_off(before);
        versions.sort_unstable();
        versions.dedup();
        Ok(versions)
    }

    /// Waits until one of this version has answered.
    fn reaches(&mut self, version: &str) -> Result<()> {
        until_true(version, SOON, || Ok(self.answers()?.last().is_some_and(|last| last == version)))
    }
}

/// A container of the service `api` on each host, that serves a while after it was attached, and what runs in it.
struct Apis {
    containers: Vec<(Container, Background)>,
}

impl Apis {
    fn start(hosts: [&Host; 2], version: &str) -> Result<Self> {
        let condition = format!("tcp:{PORT}");
        let words = ["--type", "api", "--version", version, "--ready-when", &condition];
        let mut containers = Vec::new();
        for host in hosts {
            let name = format!("api-{version}-{}", host.name());
            let container = host.container(&name, "demo", "shop", &words)?;
            let server = container.start(&["python3", "-c", API, PORT, version])?;
            containers.push((container, server));
        }
        Ok(Self { containers })
    }

    /// Waits until every node knows that all are ready.
    fn ready(&self, hosts: [&Host; 2]) -> Result<()> {
        for host in hosts {
            for (container, _) in &self.containers {
                host.peerctl(&["wait", "--for", "container", container.id()])?.ok()?;
            }
        }
        Ok(())
    }

    /// Drains them, all at once, and ends them.
    fn drain(self, hosts: [&Host; 2]) -> Result<()> {
        let mut drains = Vec::new();
        for (host, (container, _)) in hosts.iter().zip(&self.containers) {
            let mut detach = host.peerctl_command(&["detach", container.id(), "--drain", "3s"])?;
            let log = Path::new("/run/lab").join(format!("drain-{}", container.name()));
            drains.push(Background::start(&mut detach, log)?);
        }
        for drain in &mut drains {
            ensure!(drain.ended(SOON)?.success(), "{}", drain.printed()?);
        }
        Ok(())
    }
}

#[test]
fn e5_old_gets_old_and_new_gets_new_through_deployments_under_load_and_nothing_fails() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let hosts = [&a, &b];
        let answers = repeats(100, 2_000);
        let unknown = a.peerctl(&["deploy", "shop", "v1"])?.refused(4)?;
        ensure!(unknown.stderr.contains("shop"), "{unknown}");

        let mut apis = Apis::start(hosts, "v1")?;
        let early = a.json_whole(&["deploy", "shop", "v1"])?;
        ensure!(early["warnings"][0]["code"] == "no-ready-container" && early["data"]["ready"] == 0, "{early}");
        apis.ready(hosts)?;
        let deployed = a.json_whole(&["deploy", "shop", "v1"])?;
        ensure!(deployed["data"]["ready"] == 2 && deployed["warnings"] == serde_json::json!([]), "{deployed}");
        b.peerctl(&["deploy", "shop", "v9"])?.refused(6)?;

        let mut webs = Vec::new();
        let mut web_containers = vec![a.container("web-v1", "demo", "shop", &["--version", "v1"])?];
        webs.push(("v1".to_owned(), Web::start(&web_containers[0])?));
        for number in 2..2 + repeats(2, 5) {
            let (old, version) = (format!("v{}", number - 1), format!("v{number}"));
            let was_asking: usize =
                webs.iter_mut().map(|(_, web)| web.answers().map(|a| a.len())).sum::<Result<_>>()?;
            // While the new one warms up, nobody is led to it.
            let new_apis = Apis::start(hosts, &version)?;
            for (_, web) in &mut webs {
                ensure!(web.goes_on(answers)? == [old.clone()], "{old} was not left alone");
            }
            new_apis.ready(hosts)?;
            // The new caller is answered by its own version, before the deploy as well as after it.
            let host = hosts[number % 2];
            let words = ["--version", &version];
            web_containers.push(host.container(&format!("web-{version}"), "demo", "shop", &words)?);
            let mut new_web = Web::start(web_containers.last().context("one was just pushed")?)?;
            ensure!(new_web.goes_on(answers)? == [version.clone()], "new did not get new");
            // Only who has the version before for its own is sure to get it: it has containers, and the others' have none.
            let (_, old_web) = webs.last_mut().context("there is an old one")?;
            ensure!(old_web.goes_on(answers)? == [old.clone()], "old did not get old");
            a.peerctl(&["deploy", "shop", &version])?.ok()?;
            ensure!(new_web.goes_on(answers)? == [version.clone()], "new did not get new after the deploy");
            ensure!(old_web.goes_on(answers)? == [old.clone()], "old did not get old after the deploy");
            webs.push((version.clone(), new_web));
            apis.drain(hosts)?;
            apis = new_apis;
            // Nothing old is left: all get the latest.
            for (_, web) in &mut webs {
                web.reaches(&version)?;
                ensure!(web.goes_on(answers)? == [version.clone()], "the latest is not what is left");
            }
            let asked: usize = webs.iter_mut().map(|(_, web)| web.answers().map(|a| a.len())).sum::<Result<_>>()?;
            println!("{old} to {version}: {} lookups and requests, none failed", asked - was_asking);
        }
        let asked: usize = webs.iter_mut().map(|(_, web)| web.answers().map(|a| a.len())).sum::<Result<_>>()?;
        println!("FIGURE deployments under load: {asked} lookups, {asked} requests, 0 failed");
        Ok(())
    });
}
