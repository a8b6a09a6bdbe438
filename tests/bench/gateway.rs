//! What the gateway carries, beside the way between two containers: `unshare -nm target/release/examples/gateway`, as root.
//!
//! Two data planes on loopback, a container on each with the kernel's own TCP, and a gateway on the first. iperf3 goes from
//! container to container, and then through a front of the gateway to a container of the other node and to one of its own.
//! Then idle streams are opened: what memory and time they take. All of it runs on the same cores.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use peerd::daemon::data::{Attachment, DataConfig, DataHandle, DataPlane, Device, Replies, Resolver};
use peerd::daemon::gateway::{Front, GatewayHandle, Listen};
use peerd::membership::{Container, Membership, Network, Node, Role, State};
use peerd::model::{AttachmentId, Boot, ClusterId, Generation, NetworkId, NetworkSecret, NodeId, Rev, Vni, WgSecret};
use peerd::router::Drops;
use peerd::sys::clock;
use peerd::sys::device_pair::device_pair;
use peerd::sys::lab::Host;
use peerd::sys::tun::{TunSpec, attach_tun};
use peerd::sys::udp;
use rand_core::SeedableRng;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const MTU: u16 = 1408;
const PORT: u16 = 5201;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 241, 7);
/// Containers: 1 on the first node, 2 on the second, 3 on the first. 7 is the gateway.
const MEMBERS: [(u8, u8); 4] = [(1, 1), (2, 2), (3, 1), (7, 1)];

struct NoResolver;

impl Resolver for NoResolver {
    fn handle_packet(&mut self, _: AttachmentId, _: &[u8], _: &mut Replies) {}
    fn handle_wake(&mut self, _: &mut Replies) {}
    fn handle_timeout(&mut self, _: Instant, _: &mut Replies) {}
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    fn forget(&mut self, _: AttachmentId) {}
    fn drops(&self) -> Drops {
        Drops::default()
    }
}

fn vni() -> Vni {
    Vni::try_from(7).expect("a VNI")
}

fn network() -> NetworkId {
    "pn-11111111-2222-4333-8444-555555555555".parse().expect("an id")
}

fn address(number: u8) -> Ipv4Addr {
    if number == 7 { GATEWAY } else { Ipv4Addr::new(10, 240, 0, number) }
}

fn secret(number: u8) -> WgSecret {
    WgSecret::random(&mut rand_chacha::ChaCha20Rng::from_seed([number; 32]))
}

fn membership(endpoints: &[SocketAddr; 2]) -> Arc<Membership> {
    let nodes = [1u8, 2].map(|number| Node {
        id: NodeId([number; 32]),
        name: format!("node-{number}").parse().expect("a label"),
        endpoints: vec![endpoints[usize::from(number) - 1]],
        boot: Boot(1),
        signer: None,
    });
    let mut members = Network::new("pn-test".parse().expect("a label"), vni(), NodeId([1; 32]));
    members.grants.insert(NodeId([2; 32]), Role::Host);
    for (number, node) in MEMBERS {
        members.insert_container(Arc::new(Container {
            id: AttachmentId([number; 8]),
            node: NodeId([node; 32]),
            address: address(number),
            app: "shop".parse().expect("a label"),
            kind: "web".parse().expect("a label"),
            number: u32::from(number),
            version: None,
            service: "web".parse().expect("a label"),
            server: None,
            public_key: secret(number).public(),
            state: State::Ready,
            rev: Rev(1),
        }));
    }
    Arc::new(Membership::new(ClusterId([3; 32]), nodes, [members]))
}

async fn attach(data: &DataHandle, number: u8, device: Device) -> Outcome<()> {
    let attachment = Attachment {
        id: AttachmentId([number; 8]),
        vni: vni(),
        address: address(number),
        secret: secret(number),
        mtu_bytes: MTU,
    };
    Ok(data.attach(attachment, device).await?)
}

fn main() -> Outcome<()> {
    // TUNs are made by this program, executed again: without this it would begin from the start each time, for ever.
    peerd::sys::helper::run_if_asked();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> Outcome<()> {
    let seconds = env::args().nth(1).unwrap_or_else(|| "5".to_owned());
    let idle: usize = env::args().nth(2).map_or(Ok(1000), |n| n.parse())?;
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let mut planes = Vec::new();
    let mut endpoints = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
    for (number, endpoint) in [1u8, 2].into_iter().zip(&mut endpoints) {
        let socket = udp::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        *endpoint = socket.local_addr()?;
        let node = NodeId([number; 32]);
        let config = DataConfig { socket, resolver: Box::new(NoResolver), seed: [number; 32], node };
        let (data, quic, _) = DataPlane::spawn(config)?;
        planes.push((data, quic));
    }
    let view = membership(&endpoints);
    let mut hosts = Vec::new();
    for (data, _) in &planes {
        data.set_network_keys(vni(), vec![(Generation(1), NetworkSecret::from_bytes([5; 32]).psk(vni()))]);
        data.set_membership(view.clone());
    }
    let gateway = GatewayHandle::spawn()?;
    for (number, node) in MEMBERS {
        let data = &planes[usize::from(node) - 1].0;
        if number == 7 {
            let (ours, theirs) = device_pair()?;
            attach(data, number, Device { fd: theirs, vnet_hdr: true, uso: false }).await?;
            gateway.add(network(), GATEWAY, MTU, ours).await?;
            continue;
        }
        let host = Host::create(&format!("c{number}"))?;
        let spec = TunSpec { ifname: "peerd0".into(), address: address(number), mtu_bytes: MTU.into() };
        let tun = attach_tun(host.netns(), &spec)?;
        let (vnet_hdr, uso) = (tun.facts.vnet_hdr, tun.facts.offloads.uso);
        attach(data, number, Device { fd: tun.fd, vnet_hdr, uso }).await?;
        hosts.push((number, host));
    }
    let mut servers = Vec::new();
    for (number, host) in &hosts {
        let mut server = Command::new("iperf3");
        server.args(["-s", "-p", &PORT.to_string(), "--forceflush"]).stdout(Stdio::piped());
        let mut server = host.spawn(&mut server).map_err(|error| format!("iperf3 in c{number}: {error}"))?;
        wait_until_it_listens(&mut server)?;
        servers.push(server);
    }

    let front = |port: u16, to: u8| Front {
        listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], port))),
        network: network(),
        to: vec![SocketAddrV4::new(address(to), PORT)],
        spare: Vec::new(),
        kept: Vec::new(),
    };
    gateway.set_fronts(vec![front(6002, 2), front(6003, 3)]);
    for (listen, status) in gateway.fronts().await {
        if let Some(error) = status.error {
            return Err(format!("{listen:?}: {error}").into());
        }
    }
    let host = &hosts[0].1;
    for reverse in [false, true] {
        for streams in ["1", "8"] {
            let way = if reverse { "down" } else { "up" };
            let straight = iperf(&seconds, "10.240.0.2", PORT, streams, reverse, |command| host.spawn(command))?;
            let remote = iperf(&seconds, "127.0.0.1", 6002, streams, reverse, Command::spawn)?;
            let local = iperf(&seconds, "127.0.0.1", 6003, streams, reverse, Command::spawn)?;
            println!(
                "{way} x{streams}: container to container {straight:.2} Gbit/s; gateway to the other node {remote:.2} \
                 ({:.2}x), to its own {local:.2}",
                remote / straight
            );
        }
    }
    let drops = planes[0].0.stats().await.ok_or("the data plane has stopped")?.drops;
    println!("drops at the gateway's node: {:?}", drops.iter().filter(|(_, n)| **n > 0).collect::<Vec<_>>());
    println!("{:?}", gateway.stats().await.values().collect::<Vec<_>>());
    idle_streams(&gateway, &hosts[1].1, idle).await?;
    for mut server in servers {
        server.kill()?;
        server.wait()?;
    }
    Ok(())
}

/// Opens streams that say a byte and then nothing.
async fn idle_streams(gateway: &GatewayHandle, host: &Host, count: usize) -> Outcome<()> {
    let listener = host.netns().inside(|| TcpListener::bind("10.240.0.2:7000"))??;
    std::thread::spawn(move || {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = std::io::Write::write_all(&mut stream, b"x");
            streams.push(stream);
        }
    });
    let listen = Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 6010)));
    let to = vec![SocketAddrV4::new(address(2), 7000)];
    gateway.set_fronts(vec![Front { listen, network: network(), to, spare: Vec::new(), kept: Vec::new() }]);
    gateway.fronts().await;
    let (before, begin) = (resident_kib()?, clock::now());
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect("127.0.0.1:6010")?;
        stream.read_exact(&mut [0])?;
        streams.push(stream);
    }
    let took = begin.elapsed();
    let after = resident_kib()?;
    println!(
        "{count} idle streams: {} KiB more in memory, {:.1} KiB each, opened one after the other at {:.0}/s",
        after.saturating_sub(before),
        after.saturating_sub(before) as f64 / count as f64,
        count as f64 / took.as_secs_f64()
    );
    let (ticks, wait) = (gateway_ticks()?, Duration::from_secs(10));
    tokio::time::sleep(wait).await;
    println!("their processor time: {} ms in {} s", (gateway_ticks()? - ticks) * 10, wait.as_secs());
    Ok(())
}

fn wait_until_it_listens(server: &mut Child) -> Outcome<()> {
    let mut said = BufReader::new(server.stdout.take().ok_or("its output is not kept")?).lines();
    while !said.next().ok_or("iperf3 has ended")??.contains("listening") {}
    // It goes on to say how each stream is, and waits for whoever reads that.
    std::thread::spawn(move || said.for_each(drop));
    Ok(())
}

/// Gbit/s as iperf3's receiver counts them.
fn iperf(
    seconds: &str,
    to: &str,
    port: u16,
    streams: &str,
    reverse: bool,
    spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>,
) -> Outcome<f64> {
    let mut command = Command::new("iperf3");
    command.args(["-J", "-c", to, "-p", &port.to_string(), "-t", seconds, "-P", streams]).stdout(Stdio::piped());
    if reverse {
        command.arg("-R");
    }
    let output = spawn(&mut command)?.wait_with_output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.ok_or_else(|| format!("iperf3: {}", report["error"]))? / 1e9)
}

fn resident_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}

/// What the gateway thread has used, in hundredths of a second.
fn gateway_ticks() -> Outcome<u64> {
    for task in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        if stat.contains("(peerd-gateway)") {
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            return Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?);
        }
    }
    Err("no gateway thread".into())
}

fn run(command: &mut Command) -> Outcome<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
