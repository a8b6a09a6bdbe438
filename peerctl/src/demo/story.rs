//! What the demo shows, in order. Every line is something that was looked at; one that does not hold fails the demo.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use peerd::control::{ContainerRow, Invited, Joined, NetworkCreated, Request};
use peerd::sys::clock;
use serde::Serialize;

use super::part::{Ask, Seen};
use super::stage::{Container, Node, Switch, wait_for};
use crate::cli::Demo;
use crate::render::Paint;

/// Two networks, so that there is something that cannot be seen, and the types of their containers. Blue has addresses
/// that red has not, and both have some in common.
const NETWORKS: [&str; 2] = ["blue", "red"];
const CONTAINERS: [&[&str]; 2] = [&["web", "web", "web", "worker"], &["web", "worker"]];
/// The application, of the same name in both.
const APP: &str = "shop";
/// What the speed is measured with.
const SPEED_MIB: usize = 64;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    held: bool,
    /// What was seen.
    seen: String,
    ms: f64,
}

/// Tells what it sees.
pub struct Story {
    json: bool,
    paint: Paint,
    began: Instant,
    steps: Vec<Step>,
}

impl Story {
    pub fn new(json: bool, paint: Paint) -> Self {
        Self { json, paint, began: clock::now(), steps: Vec::new() }
    }

    /// Plays everything. An error is something that kept the demo from going on; what did not hold is in the steps.
    pub fn tell(&mut self, demo: &Demo, folder: &Path) -> anyhow::Result<()> {
        self.chapter(&format!("{} nodes, each on a host of its own; one switch between them", demo.nodes));
        let mut switch = Switch::new()?;
        let nodes = self.nodes(demo, folder, &mut switch)?;
        self.chapter("2 networks, both 10.240.0.0/22; 6 containers, each with an interface and a key of its own");
        let mut containers = self.containers(&nodes)?;
        self.chapter("inside a network: names and pages");
        self.reach(&mut containers)?;
        self.chapter("between networks: nothing");
        self.isolation(&mut containers)?;
        self.chapter("on the wire between two nodes: ciphertext");
        self.ciphertext(&nodes, &mut containers)?;
        self.chapter("speed, on this machine, all of it in userspace");
        self.speed(&mut containers)?;
        if demo.keep && self.steps.iter().all(|step| step.held) {
            self.keep(&nodes);
        }
        Ok(())
    }

    fn nodes(&mut self, demo: &Demo, folder: &Path, switch: &mut Switch) -> anyhow::Result<Vec<Node>> {
        let began = clock::now();
        let nodes: Vec<Node> = (1..=demo.nodes).map(|n| Node::start(n, folder, switch)).collect::<Result<_, _>>()?;
        let addresses: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
        self.saw("daemons started", true, addresses.join(", "), began);

        let began = clock::now();
        let joined: Joined = nodes[0].ask(&Request::Init { name: None })?;
        self.saw(
            "peerctl init",
            true,
            format!("cluster {}, first signer {}", &joined.cluster[..8], joined.name),
            began,
        );
        for name in NETWORKS {
            let began = clock::now();
            let made: NetworkCreated =
                nodes[0].ask(&Request::NetworkCreate { name: Some(name.to_owned()), internal: false })?;
            self.saw(&format!("peerctl network create {name}"), true, format!("VNI {}", made.vni), began);
        }
        for node in &nodes[1..] {
            let began = clock::now();
            let networks = NETWORKS.map(str::to_owned).to_vec();
            let invited: Invited = nodes[0].ask(&Request::Invite { networks, ttl_s: 600, uses: 1, signer: false })?;
            let joined: Joined = node.ask(&Request::Join { token: invited.token.clone() })?;
            let seen = format!("{} is in, by a token good for one use", joined.name);
            self.saw("peerctl join", true, seen, began);
            let again = node.client.ask(&Request::Join { token: invited.token });
            if again.is_ok() {
                self.saw("joining twice", false, "it was allowed".to_owned(), began);
            }
        }
        let began = clock::now();
        for node in &nodes {
            wait_for("both networks on every node", || {
                let rows: Vec<peerd::control::NetworkRow> = node.ask(&Request::NetworkLs).ok()?;
                (rows.len() == 2 && rows.iter().all(|row| row.granted.len() == nodes.len())).then_some(())
            })?;
        }
        self.saw("gossip", true, "every node knows both networks and who may host them".to_owned(), began);
        Ok(nodes)
    }

    /// The containers of each network, one after the other on the nodes in turn.
    fn containers(&mut self, nodes: &[Node]) -> anyhow::Result<[Vec<Container>; 2]> {
        let mut all = NETWORKS.map(|_| Vec::new());
        for ((containers, network), kinds) in all.iter_mut().zip(NETWORKS).zip(CONTAINERS) {
            for (i, kind) in kinds.iter().copied().enumerate() {
                let began = clock::now();
                // The last one, which looks at the others, is on the last node: what it fetches from node-1 crosses a cable.
                let node = if i + 1 == kinds.len() {
                    nodes.last().context("there are nodes")?
                } else {
                    &nodes[i % nodes.len()]
                };
                let page = format!("{network} {kind} on {}", node.name);
                let mut container = node.run(network, APP, kind, &page)?;
                let rows: Vec<ContainerRow> = node.ask(&Request::ContainerLs { network: Some(network.to_owned()) })?;
                let known: Vec<&str> =
                    containers.iter().filter_map(|c: &Container| Some(c.row().ok()?.id.as_str())).collect();
                container.identify(&rows, |row| {
                    row.node == node.name && row.kind == kind && !known.contains(&row.id.as_str())
                })?;
                known_everywhere(nodes, network, i + 1)?;
                let row = container.row()?;
                let seen = format!("{}.{kind}.{APP} of {network} is {} on {}", row.number, row.address, node.name);
                self.saw("peerctl run", true, seen, began);
                containers.push(container);
            }
        }
        Ok(all)
    }

    fn reach(&mut self, [blue, _]: &mut [Vec<Container>; 2]) -> anyhow::Result<()> {
        let (worker, webs) = blue.split_last_mut().context("blue has containers")?;
        let name = private_name("web", "blue");
        let mut expected: Vec<String> =
            webs.iter().map(|web| Ok(web.address()?.to_string())).collect::<anyhow::Result<_>>()?;
        expected.sort();
        let began = clock::now();
        let seen = worker.look(&Ask::Resolve(name.clone()))?;
        let text = said(&seen, &seen.addresses.join(", "));
        self.saw(&format!("worker resolves {name}"), seen.addresses == expected, text, began);
        for web in webs.iter() {
            let (at, page) = (web.page_at()?, format!("blue web on {}", web.row()?.node));
            let began = clock::now();
            let seen = worker.look(&Ask::Fetch(at))?;
            let text = said(&seen, &format!("{:?}", seen.page));
            self.saw(&format!("worker fetches http://{}/", at.ip()), seen.page == page, text, began);
        }
        Ok(())
    }

    fn isolation(&mut self, [blue, red]: &mut [Vec<Container>; 2]) -> anyhow::Result<()> {
        let (worker, webs) = red.split_last_mut().context("red has containers")?;
        for (name, what) in [("blue", "blue's name"), ("green", "a name that never existed")] {
            let began = clock::now();
            let seen = worker.look(&Ask::Resolve(private_name("web", name)))?;
            let held = seen.addresses.is_empty() && seen.error.is_some();
            let text = said(&seen, &format!("it resolved to {}", seen.addresses.join(", ")));
            self.saw(&format!("red's worker resolves {what}"), held, text, began);
        }
        let mut reds: Vec<_> = webs.iter().map(Container::address).collect::<anyhow::Result<_>>()?;
        reds.push(worker.address()?);
        let blues: Vec<_> = blue.iter().map(Container::address).collect::<anyhow::Result<_>>()?;
        let only_blues = blues.iter().find(|address| !reds.contains(address)).context("an address that red has not")?;
        let began = clock::now();
        let seen = worker.look(&Ask::Connect(SocketAddr::from((*only_blues, 80))))?;
        let text = said(&seen, "it connected");
        self.saw(&format!("red's worker connects to blue's {only_blues}"), seen.error.is_some(), text, began);

        let web = webs.first().context("red has a web")?;
        let (at, page) = (web.page_at()?, format!("red web on {}", web.row()?.node));
        let began = clock::now();
        let seen = worker.look(&Ask::Fetch(at))?;
        let both = if blues.contains(&web.address()?) { ", on an address that blue has too" } else { "" };
        let text = said(&seen, &format!("{:?}{both}", seen.page));
        self.saw(&format!("red's worker fetches http://{}/", at.ip()), seen.page == page, text, began);
        Ok(())
    }

    fn ciphertext(&mut self, nodes: &[Node], [blue, _]: &mut [Vec<Container>; 2]) -> anyhow::Result<()> {
        let canary = format!("blue web on {}", nodes[0].name);
        let began = clock::now();
        let cable = nodes.last().context("there are nodes")?.capture(canary.as_bytes())?;
        let at = blue[0].page_at()?;
        let seen = last(blue)?.look(&Ask::Fetch(at))?;
        let captured = cable.finish()?;
        let inside = format!("{:?}: the page, as the container reads it", seen.page);
        self.saw("inside", seen.page == canary, said(&seen, &inside), began);
        let frame = captured.samples.iter().find(|frame| frame.len() > 58).map(|frame| hex(&frame[42..58]));
        let outside = format!(
            "{} frames, {} of them with the page's text; one begins {}",
            captured.frames,
            captured.canary_frames[0],
            frame.as_deref().unwrap_or("-")
        );
        let held = captured.canary_frames[0] == 0 && frame.is_some() && captured.missed == 0;
        self.saw("on the wire", held, outside, began);
        Ok(())
    }

    fn speed(&mut self, [blue, _]: &mut [Vec<Container>; 2]) -> anyhow::Result<()> {
        let at = blue[0].page_at()?;
        let began = clock::now();
        let seen = last(blue)?.look(&Ask::Speed(at, SPEED_MIB))?;
        let gbit = seen.bytes as f64 * 8.0 / seen.ms / 1e6;
        let text =
            said(&seen, &format!("{gbit:.2} Gbit/s of HTTP over one TCP connection, encrypted and decrypted here"));
        self.saw(&format!("worker fetches {SPEED_MIB} MiB"), seen.bytes == SPEED_MIB << 20, text, began);
        Ok(())
    }

    fn keep(&self, nodes: &[Node]) {
        let socket = nodes[0].client.socket.display();
        eprintln!(
            "\nIt goes on until you interrupt it. From another terminal, for {}:\n  \
             peerctl --socket {socket} status\n  \
             peerctl --socket {socket} container ls\n  \
             peerctl --socket {socket} domain-names --network blue",
            nodes[0].name
        );
        loop {
            std::thread::park();
        }
    }

    fn chapter(&self, title: &str) {
        if !self.json {
            println!("\n{}", self.paint.bold(title));
        }
    }

    fn saw(&mut self, what: &str, held: bool, seen: String, began: Instant) {
        let ms = began.elapsed().as_secs_f64() * 1e3;
        if !self.json {
            let mark = if held { self.paint.good("ok") } else { self.paint.bad("NO") };
            println!("  {mark} {what}: {seen}  {}", self.paint.dim(&format!("{ms:.1} ms")));
        }
        self.steps.push(Step { what: what.to_owned(), held, seen, ms });
    }

    /// Says why the demo could not go on.
    pub fn broke_off(&self, error: &anyhow::Error) {
        eprintln!(
            "error: the demo broke off\n  {error:#}\n  try: peerctl demo once more, and report it if it stays so"
        );
    }

    /// The last line, and the exit code.
    pub fn end(&self) -> u8 {
        let held = self.steps.iter().filter(|step| step.held).count();
        let all = held == self.steps.len();
        if self.json {
            let data =
                serde_json::json!({ "held": all, "steps": self.steps, "ms": self.began.elapsed().as_millis() as u64 });
            println!("{}", serde_json::json!({ "schema": "peerctl.demo/1", "data": data, "warnings": [] }));
        } else {
            let verdict = if all { self.paint.good("all of it held") } else { self.paint.bad("not all of it held") };
            println!(
                "\n{held} of {} steps: {verdict}, in {:.1} s",
                self.steps.len(),
                self.began.elapsed().as_secs_f64()
            );
        }
        u8::from(!all)
    }
}

/// Waits until every node has heard of a network's containers: numbers and names come from what a node knows.
fn known_everywhere(nodes: &[Node], network: &str, count: usize) -> anyhow::Result<()> {
    for node in nodes {
        let rows = || -> anyhow::Result<Vec<ContainerRow>> {
            node.ask(&Request::ContainerLs { network: Some(network.to_owned()) })
        };
        let known = wait_for("every container known on every node", || {
            rows().ok().filter(|rows| rows.len() == count).map(drop)
        });
        known.with_context(|| format!("{} knows {:?}\n{}", node.name, rows().ok(), node.last_words()))?;
    }
    Ok(())
}

fn private_name(kind: &str, network: &str) -> String {
    format!("{kind}.{APP}.{network}.private-network.internal")
}

/// What was seen, or why nothing was.
fn said(seen: &Seen, otherwise: &str) -> String {
    seen.error.clone().unwrap_or_else(|| otherwise.to_owned())
}

fn last(containers: &mut [Container]) -> anyhow::Result<&mut Container> {
    containers.last_mut().context("there are containers")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
