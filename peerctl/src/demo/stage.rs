//! What the demo plays on: hosts on one switch, a node on each, containers on the nodes. All of them real.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use peerd::control::{ContainerRow, Request};
use peerd::sys::clock;
use peerd::sys::lab::{Capture, Host};
use serde::de::DeserializeOwned;

use super::part::{Ask, Seen};
use crate::client::Client;

/// How long anything on the stage may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// The switch's name for its bridge.
const BRIDGE: &str = "switch0";
/// The hosts' interface; it leads to the switch.
pub const UPLINK: &str = "eth0";

/// Looks until something is so, and fails when it never is.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let began = clock::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(began.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A switch that hosts are cabled to; the cables go with it.
pub struct Switch(Host);

impl Switch {
    pub fn new() -> anyhow::Result<Self> {
        let mut host = Host::create("switch")?;
        host.bridge(BRIDGE)?;
        Ok(Self(host))
    }
}

/// A host with a node on it. The node is told to stop when this is dropped.
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    pub client: Client,
    host: Host,
    daemon: Child,
    log: PathBuf,
    program: PathBuf,
}

impl Node {
    /// Cables a new host to the switch and starts a node on it.
    pub fn start(number: u8, folder: &Path, switch: &mut Switch) -> anyhow::Result<Self> {
        let name = format!("node-{number}");
        let address = Ipv4Addr::new(192, 0, 2, number);
        let mut host = Host::create(&name)?;
        let port = format!("port{number}");
        host.cable(UPLINK, &mut switch.0, &port)?;
        switch.0.plug(&port, BRIDGE)?;
        host.address(UPLINK, IpAddr::V4(address), 24)?;
        let folder = folder.join(&name);
        std::fs::create_dir(&folder)?;
        let (socket, log) = (folder.join("peerd.sock"), folder.join("log"));
        let program = std::env::current_exe()?;
        let daemon = host.spawn(
            Command::new(&program)
                .args(["daemon", "--name", &name, "--log", "info", "--listen", "0.0.0.0:51790"])
                .arg("--state-dir")
                .arg(folder.join("state"))
                .arg("--socket")
                .arg(&socket)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log)?),
        )?;
        let mut node = Self { name, address, client: Client::new(socket, false), host, daemon, log, program };
        wait_for("the node's socket", || {
            let ended = node.daemon.try_wait().ok().flatten().is_some();
            (ended || node.client.socket.exists()).then_some(())
        })?;
        ensure!(node.client.socket.exists(), "{} did not start:\n{}", node.name, node.last_words());
        Ok(node)
    }

    /// Asks the node for something.
    pub fn ask<T: DeserializeOwned>(&self, request: &Request) -> anyhow::Result<T> {
        let answer = self.client.ask(request).and_then(|answer| answer.parse());
        answer.map_err(|failure| anyhow!("{}: {failure}\n{}", self.name, self.last_words()))
    }

    /// Begins to listen to what passes this host's cable.
    pub fn capture(&self, canary: &[u8]) -> anyhow::Result<Capture> {
        Ok(Capture::open(self.host.netns(), UPLINK, vec![canary.to_vec()])?)
    }

    /// Starts a container that serves `page`, by `peerctl run`.
    pub fn run(&self, network: &str, app: &str, kind: &str, page: &str) -> anyhow::Result<Container> {
        let program = self.program.to_str().context("this program's path is not UTF-8")?;
        let args = ["run", "--network", network, "--app", app, "--type", kind, "--", program, "demo-part", page];
        let mut child = self.host.spawn(
            Command::new(program)
                .arg("--socket")
                .arg(&self.client.socket)
                .arg("--quiet")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        let mut container = Container { child, stdin, stdout: BufReader::new(stdout), row: None };
        container.hear().with_context(|| format!("a {kind} of {app} on {}\n{}", self.name, self.last_words()))?;
        Ok(container)
    }

    /// The end of the node's log, for a failure.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It ends with the enclosure at the latest.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A container: a command in namespaces of its own, attached to a network.
pub struct Container {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    row: Option<ContainerRow>,
}

impl Container {
    /// What the nodes call it.
    pub fn row(&self) -> anyhow::Result<&ContainerRow> {
        self.row.as_ref().context("the container is not in the list yet")
    }

    /// Its address.
    pub fn address(&self) -> anyhow::Result<Ipv4Addr> {
        Ok(self.row()?.address.parse()?)
    }

    /// Where it serves its page.
    pub fn page_at(&self) -> anyhow::Result<SocketAddr> {
        Ok((self.address()?, 80).into())
    }

    /// Remembers which of these rows this container is.
    pub fn identify(&mut self, rows: &[ContainerRow], is_it: impl Fn(&ContainerRow) -> bool) -> anyhow::Result<()> {
        self.row = Some(rows.iter().find(|row| is_it(row)).context("no row of this container")?.clone());
        Ok(())
    }

    /// Has the container look at something.
    pub fn look(&mut self, ask: &Ask) -> anyhow::Result<Seen> {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        self.stdin.write_all(&line)?;
        self.hear()
    }

    fn hear(&mut self) -> anyhow::Result<Seen> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            let mut why = String::new();
            if let Some(stderr) = &mut self.child.stderr {
                stderr.take(16 << 10).read_to_string(&mut why)?;
            }
            bail!("the container ended: {why}");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The command dies with its peerctl, and everything with the enclosure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
