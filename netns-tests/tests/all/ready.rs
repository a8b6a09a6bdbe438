//! A container that is attached before it serves: no name leads to it until it does.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{Background, Container, Host, in_lab};

const ZONE: &str = "private-network.internal";

/// A server that begins to serve when its file is there: FOLDER. Until then it takes connections on port 8081 and says 503.
const SLOW: &str = r#"
import http.server, os, sys, threading, time
go = sys.argv[1]
class Early(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(go) else 503)
        self.end_headers()
early = http.server.ThreadingHTTPServer(("", 8081), Early)
threading.Thread(target=early.serve_forever, daemon=True).start()
print("waiting", flush=True)
while not os.path.exists(go):
    time.sleep(0.01)
http.server.ThreadingHTTPServer(("", 8080), Early).serve_forever()
"#;

/// Looks a name up again and again, and asks at once whatever it leads to: NAME PORT. Ends with the tenth answer, or at the first
/// that was none.
const EAGER: &str = r#"
import socket, sys, time
name, port = sys.argv[1], int(sys.argv[2])
empty = answered = 0
while answered < 10:
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)}
    except socket.gaierror as error:
        assert error.errno in (socket.EAI_NODATA, socket.EAI_NONAME), error
        empty += 1
        print("empty", empty, flush=True)
        time.sleep(0.005)
        continue
    for address in found:
        with socket.create_connection((address, port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert connection.recv(64).startswith(b"HTTP/1.0 200"), "no answer"
            answered += 1
print("answered", empty, flush=True)
"#;

struct Slow {
    go: PathBuf,
    _server: Background,
}

impl Slow {
    /// A server in `container` that does not serve yet.
    fn start(container: &Container) -> Result<Self> {
        let go = Path::new("/run/lab").join(format!("go-{}", container.name()));
        let text = go.to_str().context("a path of ours is text")?;
        let mut server = container.start(&["python3", "-c", SLOW, text])?;
        until_true("the slow server", SOON, || {
            server.still_runs()?;
            Ok(server.printed()?.contains("waiting"))
        })?;
        Ok(Self { go, _server: server })
    }

    fn go(&self) -> Result<()> {
        Ok(std::fs::write(&self.go, "")?)
    }
}

fn state_of(host: &Host, container: &Container) -> Result<String> {
    let rows = host.json(&["container", "ls"])?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["id"] == container.id()).context("a row")?;
    Ok(row["state"].as_str().context("a state")?.to_owned())
}

fn local(host: &Host, container: &Container) -> Result<serde_json::Value> {
    Ok(host.json(&["container", "inspect", container.id()])?["local"].take())
}

/// Waits until the node has looked at the container and says why it is not ready.
fn is_refused(host: &Host, container: &Container, reason: &str) -> Result<()> {
    until(&format!("{reason:?} as the reason"), SOON, || {
        let local = local(host, container)?;
        let told = local["not_ready"].as_str().unwrap_or_default();
        ensure!(told.contains(reason), "{local}");
        Ok(Some(()))
    })
}

#[test]
fn a_name_never_leads_to_a_container_that_does_not_serve_yet() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let near = a.container("near", "demo", "shop", &["--type", "job"])?;
        let far = b.container("far", "demo", "shop", &["--type", "job"])?;
        let api = a.container("api", "demo", "shop", &["--type", "api", "--ready-when", "tcp:8080"])?;
        ensure!(state_of(&a, &api)? == "starting", "it is ready at once");
        b.knows(&api)?;
        ensure!(state_of(&b, &api)? == "starting", "it is ready for the other node");
        let server = Slow::start(&api)?;

        // Declared, and nothing behind it: the raw view and the short name alike, on both nodes.
        for name in [format!("api.shop.demo.{ZONE}"), format!("api.svc.{ZONE}"), api.hostname().to_owned()] {
            for asker in [&near, &far, &api] {
                let (status, records) = asker.dig_status(&name, "A")?;
                ensure!(status == "NOERROR" && records.is_empty(), "{name} for {}: {records:?}", asker.name());
            }
        }
        is_refused(&a, &api, "Connection refused")?;
        ensure!(local(&a, &api)?["waits_for"] == "tcp:8080");
        let shown = a.peerctl(&["container", "inspect", api.id()])?.ok()?.stdout;
        ensure!(shown.contains("waits for   tcp:8080\n") && shown.contains("not ready   127.0.0.1:8080"), "{shown}");
        for awaited in [["container", api.id()], ["service", "api"]] {
            b.peerctl(&[&["wait", "--timeout", "1s", "--for"], &awaited[..]].concat())?.refused(8)?;
        }

        let mut events = b.peerctl_command(&["events", "--json"])?;
        let mut events = Background::start(&mut events, "/run/lab/events".into())?;
        until_true("the listener", SOON, || Ok(events.printed()?.contains("listening")))?;
        let name = format!("api.svc.{ZONE}");
        let mut eager = [
            near.start(&["python3", "-c", EAGER, &name, "8080"])?,
            far.start(&["python3", "-c", EAGER, &name, "8080"])?,
        ];
        for asker in &mut eager {
            until_true("a lookup", SOON, || {
                asker.still_runs()?;
                Ok(asker.printed()?.contains("empty 10\n"))
            })?;
        }
        server.go()?;
        for awaited in [["container", api.id()], ["service", "api"]] {
            b.peerctl(&[&["wait", "--for"], &awaited[..]].concat())?.ok()?;
        }
        for asker in &mut eager {
            let status = asker.ended(SOON)?;
            ensure!(status.success() && asker.printed()?.contains("answered"), "{}", asker.printed()?);
        }
        until_true("the event", SOON, || {
            events.still_runs()?;
            let printed = events.printed()?;
            let mut told =
                printed.lines().filter(|line| line.contains("\"container-state\"") && line.contains(api.id()));
            Ok(told.any(|line| line.contains("(ready)")))
        })?;
        let local = local(&a, &api)?;
        ensure!(local["waits_for"].is_null() && local["not_ready"].is_null(), "{local}");

        // Once ready, it stays so: what becomes of it later is not asked.
        drop(server);
        ensure!(far.exec(&["nc", "-z", "-w", "2", api.address(), "8080"])?.code != 0, "it still serves");
        ensure!(far.dig(&name, "A")? == [api.address()], "it is looked at for ever");
        Ok(())
    });
}

#[test]
fn http_waits_for_a_good_status_and_exec_for_exit_code_0_over_a_restart_too() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web", "demo", "shop", &["--ready-when", "http:8081/health?deep=1"])?;
        let mark = "/run/lab/mark";
        let exec = ["--type", "db", "--ready-when", "exec", "cd /proc && ip -o link show peerd0 && test -e", mark];
        let db = a.container("db", "demo", "shop", &exec)?;
        let closed = a.container("closed", "demo", "shop", &["--type", "x", "--ready-when", "http:9/"])?;
        let server = Slow::start(&web)?;
        is_refused(&a, &web, "127.0.0.1:8081: status 503")?;
        is_refused(&a, &db, "it ended with exit code 1")?;
        is_refused(&a, &closed, "10.240.")?;

        // The daemon's end changes nothing, nor does another start.
        for restart in [Host::kill as fn(&mut Host) -> Result<()>, Host::stop] {
            restart(&mut a)?;
            a.peerd()?;
            for container in [&web, &db, &closed] {
                ensure!(state_of(&a, container)? == "starting", "{} became ready", container.name());
            }
            is_refused(&a, &web, "status 503")?;
            is_refused(&a, &db, "exit code 1")?;
        }
        ensure!(web.dig(db.hostname(), "A")?.is_empty() && db.dig(web.hostname(), "A")?.is_empty());

        server.go()?;
        a.peerctl(&["wait", "--for", "container", web.id()])?.ok()?;
        ensure!(state_of(&a, &db)? == "starting", "one made the other ready");
        std::fs::write(mark, "")?;
        a.peerctl(&["wait", "--for", "container", db.id()])?.ok()?;
        ensure!(db.dig(web.hostname(), "A")? == [web.address()] && web.dig(db.hostname(), "A")? == [db.address()]);
        // Ready over a restart, though neither would be found so now.
        std::fs::remove_file(mark)?;
        drop(server);
        a.kill()?;
        a.peerd()?;
        ensure!(state_of(&a, &web)? == "ready" && state_of(&a, &db)? == "ready", "they are asked again");

        // What drains, or goes, before it was ever ready, is looked at no more.
        let drained = a.peerctl(&["detach", "--drain", "2s", closed.id()])?.ok()?;
        ensure!(drained.stderr.contains("draining: 2 s left"), "{drained}");
        a.peerctl(&["container", "inspect", closed.id()])?.refused(4)?;
        Ok(())
    });
}

#[test]
fn what_runs_in_a_namespace_of_its_own_is_asked_in_there_and_as_who_asked() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        asked_inside(&a, "0")
    });
}

#[test]
fn an_ordinary_users_containers_are_asked_with_its_rights() {
    in_lab(|lab| {
        let [a] = lab.ordinary_users_cluster(["a"])?;
        a.network("demo", &[])?;
        // Root in the container's own user namespace, and nobody else outside.
        asked_inside(&a, "0")
    });
}

/// `run` with each kind of condition; the command sees the container's own network and resolver, and `uid`.
fn asked_inside(host: &Host, uid: &str) -> Result<()> {
    let sees = format!(
        "grep -q 169.254.240.53 /etc/resolv.conf && ip link show peerd0 && [ $(id -u) = {uid} ] && [ -z \"$SECRET\" ]"
    );
    let serve = "sleep 0.5; exec python3 -m http.server 8080";
    let exec = format!("exec {sees}");
    let mut running = Vec::new();
    for (kind, when) in [("tcp", "tcp:8080"), ("http", "http:8080"), ("cmd", exec.as_str())] {
        let words =
            ["--network", "demo", "--app", "shop", "--type", kind, "--ready-when", when, "--", "sh", "-c", serve];
        running.push(host.run(kind, &words)?);
        let mut waited = None;
        until_true("it to be ready", SOON, || {
            for background in &mut running {
                background.still_runs()?;
            }
            let output = host.peerctl(&["wait", "--for", "service", kind, "--timeout", "5s"])?;
            let is_ready = output.code == 0;
            waited = Some(output);
            Ok(is_ready)
        })
        .with_context(|| format!("{waited:?} {}", host.json(&["container", "ls"]).unwrap_or_default()))?;
    }
    Ok(())
}

#[test]
fn a_command_that_hangs_ends_with_its_container_and_what_cannot_be_waited_for_is_refused() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let hangs = a.container("hangs", "demo", "shop", &["--ready-when", "exec", "sleep 86398.5 & sleep 86398.5"])?;
        let sleepers = || -> Result<usize> {
            let listed = std::process::Command::new("pgrep").args(["-f", "^sleep 86398.5$"]).output()?;
            Ok(String::from_utf8_lossy(&listed.stdout).lines().count())
        };
        until_true("the command", SOON, || Ok(sleepers()? == 2))?;
        // It holds up nobody.
        let other = a.container("other", "demo", "shop", &["--type", "db"])?;
        ensure!(hangs.dig(other.hostname(), "A")? == [other.address()]);
        is_refused(&a, &hangs, "it did not end within 10 s")?;
        until_true("the command again", SOON, || Ok(sleepers()? == 2))?;
        a.peerctl(&["detach", hangs.id()])?.ok()?;
        until_true("the command to end", SOON, || Ok(sleepers()? == 0))?;

        for when in ["tcp:0", "udp:53", "http:80/a b", "exec", "soon"] {
            let words = ["attach", "--pid", "1", "--app", "shop", "--ready-when", when];
            let refused = a.peerctl(&words)?.refused(2)?;
            ensure!(refused.stderr.contains("--ready-when tcp:8080"), "{refused}");
        }
        Ok(())
    });
}
