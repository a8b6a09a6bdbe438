//! What the way in could not have at once it has later, and what it waits for holds up nobody.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until, until_true};
use netns_tests::{Background, Host, curl, in_lab, nginx_master, nginx_workers, serve_site};

fn apply(host: &Host, network: &str, services: &str) -> Result<()> {
    let text = format!("application: {{ id: my-shop }}\nservices:\n{services}");
    host.peerctl_with_input(&["apply", "-f", "-", "--network", network], &text)?.ok().map(drop)
}

fn serves(client: &Host, url: &str, page: &str) -> Result<()> {
    until_true(&format!("{page:?} at {url}"), SOON * 4, || Ok(curl(client, &[url]).is_ok_and(|got| got == page)))
}

/// Somebody else's server on a port of a host.
fn holder(host: &Host, port: &str) -> Result<Background> {
    let log = Path::new("/run/lab").join(format!("holder-{port}"));
    let holder = Background::start(host.command("python3").args(["-m", "http.server", port]), log)?;
    let url = format!("http://127.0.0.1:{port}/");
    until_true("a listener", SOON, || Ok(host.exec(&["curl", "-s", "--noproxy", "*", &url])?.code == 0))?;
    Ok(holder)
}

fn end(mut holder: Background) -> Result<()> {
    holder.signal("KILL")?;
    holder.ended(SOON).map(drop)
}

#[test]
fn a_port_is_served_once_whoever_had_it_has_ended() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        let holders = [holder(&a, "2222")?, holder(&a, "2223")?];
        apply(&a, "demo", "  web: { ports: ['3000:2222'] }\n  mail: { ports: [{ container: 3000, tcp: 2223 }] }\n")?;
        let containers = ["web", "mail"].map(|kind| a.container(kind, "demo", "my-shop", &["--type", kind]));
        let [web, mail] = containers;
        let (web, mail) = (web?, mail?);
        let _servers = [serve_site(&web, "web", 3000)?, serve_site(&mail, "mail", 3000)?];
        let told = a.peerctl(&["ingress", "enable"])?.ok()?.stderr.clone();
        ensure!(told.contains("2222") && told.contains("2223"), "{told}");
        let [first, second] = holders;
        end(first)?;
        // The same settings once more are another round, and what is told is of that.
        let told = a.peerctl(&["ingress", "enable"])?.ok()?.stderr.clone();
        ensure!(!told.contains("2222") && told.contains("2223"), "{told}");
        serves(&client, &format!("http://{}:2222/", a.address()), "web")?;
        // And without being told.
        end(second)?;
        serves(&client, &format!("http://{}:2223/", a.address()), "mail")?;
        let problems = a.json(&["ingress", "status"])?["problems"].clone();
        ensure!(problems == serde_json::json!([]), "{problems}");
        Ok(())
    });
}

/// Opens a connection and says when it has ended.
const IDLE: &str = "
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print('ready', flush=True)
try:
    stream.recv(1)
except OSError:
    pass
print('ended', flush=True)
";

#[test]
fn a_stream_ends_with_its_container_also_while_a_reload_is_waited_for() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        let mail = "  mail: { ports: [{ container: 3000, tcp: 25 }] }\n";
        apply(&a, "demo", mail)?;
        let container = a.container("mail", "demo", "my-shop", &["--type", "mail"])?;
        let _server = serve_site(&container, "mail", 3000)?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        serves(&client, &format!("http://{}:25/", a.address()), "mail")?;
        let mut command = client.command("python3");
        command.args(["-c", IDLE, a.address(), "25"]);
        let idle = Background::start(&mut command, "/run/lab/idle".into())?;
        let says = |word: &str| until_true(word, SOON, || Ok(idle.printed()?.contains(word)));
        says("ready")?;
        // A reload, and what comes while the next one waits for its time.
        for port in [81, 82] {
            apply(&a, "demo", &format!("{mail}  web: {{ ports: ['1:{port}'] }}\n"))?;
        }
        a.peerctl(&["detach", container.id()])?.ok()?;
        says("ended")
    });
}

#[test]
fn an_nginx_that_does_not_end_is_killed_and_its_workers_with_it() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let client = lab.host("client")?;
        a.network("demo", &[])?;
        apply(&a, "demo", "  web: { ports: ['3000:80'] }\n")?;
        let container = a.container("web", "demo", "my-shop", &["--type", "web"])?;
        let _server = serve_site(&container, "web", 3000)?;
        a.peerctl(&["ingress", "enable"])?.ok()?;
        let url = format!("http://{}/", a.address());
        serves(&client, &url, "web")?;
        let (workers, master) = (nginx_workers(&a)?, nginx_master(&a)?);
        a.exec(&["kill", "-STOP", &master, &workers[0]])?.ok()?;
        a.peerctl(&["ingress", "disable"])?.ok()?;
        for pid in workers {
            let left = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            ensure!(left.is_empty(), "worker {pid} is still there");
        }
        ensure!(client.exec(&["curl", "-s", "--max-time", "5", "--noproxy", "*", &url])?.code == 7, "it still serves");
        Ok(())
    });
}

#[test]
fn a_network_whose_home_is_away_holds_up_no_other_one() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let mut b = lab.host("b")?;
        b.peerd()?;
        b.join(&a, &["--signer"])?;
        a.network("own", &[])?;
        b.network("far", &[&a])?;
        apply(&a, "own", "  mail: { ports: [{ container: 3000, tcp: 25 }] }\n")?;
        b.kill()?;
        // What has to reach into it needs an address there, which nobody gives.
        let far = Path::new("/run/lab/far");
        let forward = ["forward", "0:10.240.3.1:80", "--network", "far"];
        let mut forward = Background::start(&mut a.peerctl_command(&forward)?, far.into())?;
        let listen = until("where it listens", SOON, || {
            forward.still_runs()?;
            Ok(forward.printed()?.lines().find(|line| line.starts_with("127.")).map(str::to_owned))
        })?;
        let mut command = a.command("curl");
        command.args(["-s", "--max-time", "60", "--noproxy", "*", &format!("http://{listen}/")]);
        let begun = now();
        let mut waits = Background::start(&mut command, "/run/lab/waits".into())?;
        let container = a.container("mail", "own", "my-shop", &["--type", "mail"])?;
        let _server = serve_site(&container, "mail", 3000)?;
        serves(&a, "http://127.0.0.1:25/", "mail")?;
        let took = begun.elapsed();
        waits.still_runs().context("the other one was to wait meanwhile")?;
        println!("FIGURE a port of one network while another's home is away: {} ms", took.as_millis());
        ensure!(took < Duration::from_secs(5), "{took:?}");
        Ok(())
    });
}
