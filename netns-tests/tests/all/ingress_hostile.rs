//! Containers and clients that do to the way in what they should not: the others are served all the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until, until_true};
use netns_tests::{Background, Container, Host, Lab, curl, in_lab, nginx_workers, repeats, serve_site, status};

/// What the gateway's buffers may take, of one network, and what the daemon may need beside them.
const BUFFERS_MIB_MAX: u64 = 256;
const BESIDE_MIB_MAX: u64 = 32;
/// How long a container has to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A node with the role and a network, these services, and a client outside.
fn site_of(lab: &mut Lab, services: &str) -> Result<(Host, Host)> {
    let [a] = lab.cluster(["a"])?;
    let client = lab.host("client")?;
    a.network("demo", &[])?;
    let text = format!("application: {{ id: my-shop }}\nservices:\n{services}");
    a.peerctl_with_input(&["apply", "-f", "-"], &text)?.ok()?;
    a.peerctl(&["ingress", "enable"])?.ok()?;
    Ok((a, client))
}

fn container(host: &Host, name: &str, kind: &str) -> Result<Container> {
    host.container(name, "demo", "my-shop", &["--type", kind])
}

/// Starts a Python program that says `ready`, and waits until it does.
fn ready(program: &mut Background) -> Result<()> {
    until_true("ready", SOON * 2, || {
        program.still_runs()?;
        Ok(program.printed()?.contains("ready"))
    })
}

/// Starts a client's Python program.
fn client_program(client: &Host, name: &str, program: &str, words: &[&str]) -> Result<Background> {
    let mut command = client.command("python3");
    command.args(["-c", program]).args(words);
    Background::start(&mut command, Path::new("/run/lab").join(name))
}

/// Fetches a page so often; how long the slowest took.
fn slowest(client: &Host, words: &[&str], page: &str, times: usize) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for _ in 0..times {
        let begun = now();
        let got = curl(client, words)?;
        ensure!(got == page, "{got:?} by {words:?}");
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

fn serves(client: &Host, words: &[&str], page: &str) -> Result<()> {
    until_true(&format!("{page:?} by {words:?}"), SOON * 2, || Ok(curl(client, words).is_ok_and(|got| got == page)))
}

fn resident_mib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

/// Processor time of a daemon so far, in seconds.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().context("a name ends")?.split_whitespace().collect();
    // User and system time in ticks, of which Linux shows 100 a second.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Streams of the only gateway.
fn streams(host: &Host) -> Result<u64> {
    Ok(host.json(&["ingress", "status"])?["gateways"][0]["streams"].as_u64().unwrap_or(0))
}

/// Accepts on PORT and resets at once what it has accepted.
const RESETS: &str = r#"
import socket, struct, sys
listener = socket.create_server(("", int(sys.argv[1])), backlog=128)
print("ready", flush=True)
while True:
    stream, _ = listener.accept()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
"#;

#[test]
fn a_container_that_never_accepts_and_one_that_resets_cost_time_limits_and_no_request_of_others() {
    in_lab(|lab| {
        let (a, client) = site_of(
            lab,
            "  good: { ports: ['3000:80'], traffic_matches: ['good.test'] }\n  hole: { ports: ['3000:80'], traffic_matches: ['hole.test'] }\n  resets: { ports: ['3000:80'], traffic_matches: ['resets.test'] }\n  mixed: { ports: ['3000:80'], traffic_matches: ['mixed.test'] }\n",
        )?;
        let url = format!("http://{}/", a.address());
        let host = |name: &str| format!("Host: {name}.test");
        let mut servers = Vec::new();
        let swallow = |container: &Container| -> Result<()> {
            let rules = "table inet hole { chain input { type filter hook input priority 0; tcp dport 3000 drop; }; }";
            container.exec(&["nft", rules])?.ok().map(drop)
        };
        let reset = |container: &Container| -> Result<Background> {
            let mut server = container.start(&["python3", "-c", RESETS, "3000"])?;
            ready(&mut server)?;
            Ok(server)
        };
        servers.push(serve_site(&container(&a, "good", "good")?, "good", 3000)?);
        servers.push(serve_site(&container(&a, "mixed-good", "mixed")?, "mixed", 3000)?);
        for (name, kind) in [("hole", "hole"), ("mixed-hole", "mixed")] {
            swallow(&container(&a, name, kind)?)?;
        }
        for (name, kind) in [("resets", "resets"), ("mixed-resets", "mixed")] {
            servers.push(reset(&container(&a, name, kind)?)?);
        }
        let (good, mixed, resets) = (host("good"), host("mixed"), host("resets"));
        serves(&client, &["-H", &good, &url], "good")?;

        // Who asks for the one that swallows everything waits as long as it has to take a connection, and no longer.
        let begun = now();
        let mut waiting = client.command("curl");
        let words = ["-s", "-o", "/dev/null", "--max-time", "30", "-w", "%{http_code}", "-H", &host("hole"), &url];
        waiting.args(words);
        let mut waiting = Background::start(&mut waiting, Path::new("/run/lab/waiting").into())?;
        // Of a service with one of each, every request is answered by the one that serves; some wait for the limit before.
        let mut load = client.command("ab");
        load.args(["-q", "-l", "-s", "30", "-c", "8", "-n", "60", "-H", &mixed, &url]);
        let mut load = Background::start(&mut load, Path::new("/run/lab/mixed").into())?;
        until_true("a request waits", SOON, || Ok(streams(&a)? > 0))?;
        let slowest = slowest(&client, &["-H", &good, &url], "good", 20)?;
        ensure!(slowest < Duration::from_secs(2), "{slowest:?}");
        let begun_reset = now();
        ensure!(status(&client, &["-H", &resets, &url])?.0 == 502);
        ensure!(begun_reset.elapsed() < Duration::from_secs(2), "a reset is known at once");
        ensure!(waiting.ended(SOON)?.success(), "{}", waiting.printed()?);
        let took = begun.elapsed();
        ensure!(waiting.printed()? == "502", "{}", waiting.printed()?);
        ensure!((CONNECT_TIMEOUT / 2..CONNECT_TIMEOUT * 3 / 2).contains(&took), "{took:?}");
        load.ended(SOON * 2)?;
        let printed = load.printed()?;
        let failed = |key: &str| printed.lines().any(|line| line.starts_with(key) && !line.trim_end().ends_with(" 0"));
        ensure!(printed.contains("Complete requests:      60"), "{printed}");
        ensure!(!failed("Failed requests:") && !failed("Non-2xx responses:"), "{printed}");
        println!("FIGURE one of each kind: 60 requests answered, the others' slowest {slowest:?}, the limit {took:?}");
        Ok(())
    });
}

#[test]
fn a_request_with_a_body_is_not_lost_to_a_container_where_nothing_listens() {
    in_lab(|lab| {
        let (a, client) = site_of(lab, "  web: { ports: ['3000:80'] }\n")?;
        let mut servers = Vec::new();
        for name in ["one", "two"] {
            servers.push(serve_site(&container(&a, name, "web")?, "web", 3000)?);
        }
        let url = format!("http://{}/", a.address());
        serves(&client, &[&url], "web")?;
        let _silent = container(&a, "silent", "web")?;
        let all = || Ok(a.json(&["ingress", "routes"])?[0]["to"].as_array().is_some_and(|to| to.len() == 3));
        until_true("nginx knows all three", SOON, all)?;
        let body = Path::new("/run/lab/body");
        fs::write(body, "word=1")?;
        let body = body.to_str().context("text")?;
        // Long enough that nginx tries again whom it has left out.
        let begun = now();
        while begun.elapsed() < Duration::from_secs(6) {
            let words = ["ab", "-q", "-l", "-s", "30", "-c", "8", "-n", "200", "-p", body, "-T", "text/plain", &url];
            let printed = client.exec(&words)?.ok()?.stdout;
            let failed =
                |key: &str| printed.lines().any(|line| line.starts_with(key) && !line.trim_end().ends_with(" 0"));
            ensure!(printed.contains("Complete requests:      200"), "{printed}");
            ensure!(!failed("Failed requests:") && !failed("Non-2xx responses:"), "{printed}");
        }
        Ok(())
    });
}

/// Fetches PATH from each PORT by so many connections, reading a kilobyte a second of each: ADDRESS PORTS COUNT PATH.
const READS_SLOWLY: &str = r#"
import socket, sys, time
address, ports, count, path = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), sys.argv[4]
streams = []
for n in range(count):
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.settimeout(20)
    stream.connect((address, int(ports[n % len(ports)])))
    stream.sendall(b"GET %s HTTP/1.1\r\nHost: web.test\r\n\r\n" % path.encode())
    streams.append(stream)
for stream in streams:
    assert stream.recv(12) == b"HTTP/1.1 200", "refused"
print("ready", flush=True)
while True:
    for stream in streams:
        assert stream.recv(1024)
    time.sleep(1)
"#;

/// Sends a request's body a byte at a time by so many connections, and prints how many answers came: as above.
const WRITES_SLOWLY: &str = r#"
import socket, sys, time
address, ports, count, length = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]), 40
streams = [socket.create_connection((address, int(ports[n % len(ports)])), timeout=20) for n in range(count)]
for stream in streams:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(b"POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: %d\r\n\r\n" % length)
print("ready", flush=True)
for _ in range(length):
    for stream in streams:
        stream.sendall(b"x")
    time.sleep(0.05)
print("answers", sum(b" 200 " in stream.recv(4096) for stream in streams), flush=True)
"#;

#[test]
fn slow_readers_and_writers_hold_buffers_of_a_fixed_size_and_nobody_up() {
    in_lab(|lab| {
        let services = "  web: { ports: ['3000:80'], traffic_matches: ['web.test'] }\n  raw: { ports: [{ container: 3000, tcp: 2500 }] }\n";
        let (mut a, client) = site_of(lab, services)?;
        let mut servers = Vec::new();
        for kind in ["web", "raw"] {
            servers.push(serve_site(&container(&a, kind, kind)?, kind, 3000)?);
        }
        let by_nginx = ["-H", "Host: web.test", &format!("http://{}/", a.address())];
        let by_port = [format!("http://{}:2500/", a.address())];
        let by_port = [by_port[0].as_str()];
        serves(&client, &by_nginx, "web")?;
        serves(&client, &by_port, "raw")?;
        let pid = a.daemon()?.pid();
        let before = resident_mib(pid)?;

        let count = repeats(60, 500);
        let words = [a.address(), "80,2500", &count.to_string(), "/bytes?1000000000"];
        let mut readers = client_program(&client, "readers", READS_SLOWLY, &words)?;
        ready(&mut readers)?;
        let words = [a.address(), "80,2500", "40"];
        let mut writers = client_program(&client, "writers", WRITES_SLOWLY, &words)?;
        ready(&mut writers)?;
        let others = slowest(&client, &by_nginx, "web", 10)?.max(slowest(&client, &by_port, "raw", 10)?);
        ensure!(writers.ended(SOON)?.success(), "{}", writers.printed()?);
        ensure!(writers.printed()?.contains("answers 40"), "{}", writers.printed()?);
        readers.still_runs()?;

        // What they do not read stands in buffers of the streams, and time adds nothing to it.
        let (used, grown) = (cpu_s(pid)?, resident_mib(pid)?.saturating_sub(before));
        let begun = now();
        until_true("two seconds", SOON, || Ok(begun.elapsed() > Duration::from_secs(2)))?;
        let share = (cpu_s(pid)? - used) / begun.elapsed().as_secs_f64();
        println!("FIGURE {count} slow readers: {grown} MiB, {share:.2} of a processor, the others' slowest {others:?}");
        ensure!(grown < BUFFERS_MIB_MAX + BESIDE_MIB_MAX, "{grown} MiB");
        ensure!(share < 0.5, "{share} of a processor");
        ensure!(others < Duration::from_secs(3), "{others:?}");

        // They go, and their streams with them.
        drop(readers);
        until_true("their streams end", SOON, || Ok(streams(&a)? < 40))?;
        Ok(())
    });
}

/// Says a byte to whoever connects to PORT, and holds the connection as long as its client does.
const HOLDS: &str = r#"
import resource, selectors, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
listener = socket.create_server(("", int(sys.argv[1])), backlog=1024)
ready = selectors.DefaultSelector()
ready.register(listener, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        if key.fileobj is listener:
            stream, _ = listener.accept()
            stream.sendall(b"x")
            ready.register(stream, selectors.EVENT_READ)
        else:
            ready.unregister(key.fileobj)
            key.fileobj.close()
"#;

/// Connects so often, waits for a byte or asks for a page, and goes on holding: ADDRESS PORT COUNT REQUEST.
const IDLES: &str = r#"
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address, port, count, asks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "ask"
held = []
for _ in range(count):
    stream = socket.create_connection((address, port), timeout=20)
    if asks:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
    assert stream.recv(4096), "closed"
    held.append(stream)
print("ready", flush=True)
time.sleep(3600)
"#;

#[test]
fn idle_connections_by_the_thousand_take_little_memory_no_time_and_nobodys_place() {
    in_lab(|lab| {
        let services = "  web: { ports: ['3000:80'], traffic_matches: ['web.test'] }\n  raw: { ports: [{ container: 3001, tcp: 2500 }] }\n";
        let (mut a, client) = site_of(lab, services)?;
        let (web, raw) = (container(&a, "web", "web")?, container(&a, "raw", "raw")?);
        let _server = serve_site(&web, "web", 3000)?;
        let mut holds = raw.start(&["python3", "-c", HOLDS, "3001"])?;
        ready(&mut holds)?;
        let page = ["-H", "Host: web.test", &format!("http://{}/", a.address())];
        serves(&client, &page, "web")?;
        let pid = a.daemon()?.pid();
        let before = resident_mib(pid)?;

        // Half of them by nginx, which holds those itself; half at a port of the host, each with a stream of its own.
        let count = repeats(1_000, 5_000);
        let held = count.to_string();
        let mut by_nginx = client_program(&client, "by-nginx", IDLES, &[a.address(), "80", &held, "ask"])?;
        let mut by_port = client_program(&client, "by-port", IDLES, &[a.address(), "2500", &held, "wait"])?;
        ready(&mut by_nginx)?;
        ready(&mut by_port)?;
        ensure!(streams(&a)? >= count as u64, "{} streams", streams(&a)?);
        let grown = resident_mib(pid)?.saturating_sub(before);

        let (used, begun) = (cpu_s(pid)?, now());
        until_true("two seconds", SOON, || Ok(begun.elapsed() > Duration::from_secs(2)))?;
        let share = (cpu_s(pid)? - used) / begun.elapsed().as_secs_f64();
        let others = slowest(&client, &page, "web", 20)?;
        let each = grown as f64 * 1024.0 / count as f64;
        println!(
            "FIGURE {count} idle by nginx and {count} streams: {grown} MiB, {each:.1} KiB a stream, {share:.3} of a processor, the others' slowest {others:?}"
        );
        ensure!(each < 24.0, "{each} KiB a stream");
        ensure!(share < 0.2, "{share} of a processor");
        ensure!(others < Duration::from_secs(2), "{others:?}");
        by_nginx.still_runs()?;
        by_port.still_runs()?;
        drop((by_nginx, by_port));
        until_true("the streams end", SOON * 2, || Ok(streams(&a)? < 100))?;
        serves(&client, &page, "web")
    });
}

#[test]
fn a_worker_of_nginx_that_is_killed_costs_its_own_requests_and_is_replaced() {
    in_lab(|lab| {
        let (mut a, client) = site_of(lab, "  web: { ports: ['3000:80'] }\n")?;
        let _server = serve_site(&container(&a, "web", "web")?, "web", 3000)?;
        let url = format!("http://{}/", a.address());
        serves(&client, &[&url], "web")?;
        let pid = a.daemon()?.pid();
        let before = nginx_workers(&a)?;
        for worker in &before {
            a.exec(&["kill", "-9", worker])?.ok()?;
        }
        let after = until("new workers", SOON, || {
            Ok(Some(nginx_workers(&a)?).filter(|now| now.iter().all(|pid| !before.contains(pid))))
        })?;
        serves(&client, &[&url], "web")?;
        let mut answers = BTreeMap::<String, usize>::new();
        for _ in 0..20 {
            *answers.entry(curl(&client, &[&url])?).or_default() += 1;
        }
        ensure!(answers.len() == 1 && a.daemon()?.pid() == pid, "{answers:?}");
        // It was the master's doing: the daemon has not begun again with another one.
        ensure!(nginx_workers(&a)? == after && a.json(&["ingress", "status"])?["problems"] == serde_json::json!([]));
        Ok(())
    });
}
