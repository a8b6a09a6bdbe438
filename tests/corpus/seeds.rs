//! Seeds: for each target some bytes that it takes, and some that are nearly right.

use std::net::{Ipv4Addr, SocketAddrV4};

use peerd::control::{Attach, Request, Target, encode_line};
use peerd::model::{AttachmentId, RESOLVER};
use peerd::packet::{Gso, Offload, Superpacket, UDP_HEADERS_LEN, write_udp};
use peerd::router::Output;

use crate::fuzz::{Cluster, dialling, pair_of_routers};

/// The seeds of a target, with the names of their files.
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds: Vec<(&str, Vec<u8>)> = match target {
        "control" => control(),
        "datagram" => datagrams(),
        "device" => packets(),
        "dialled" => answered(),
        "dns" => queries(),
        "frame" => frames(),
        "member" => programs(),
        "message" => return messages(),
        "record" => return records(),
        "service_file" => service_files(),
        "state" => return files(),
        "tcp" => streams(),
        "token" => tokens(),
        "upstream" => answers(),
        _ => panic!("no target {target}"),
    };
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn control() -> Vec<(&'static str, Vec<u8>)> {
    let attach = Request::Attach(Box::new(Attach {
        target: Target::Netns("/run/netns/web".to_owned()),
        network: Some("demo".to_owned()),
        app: "shop".to_owned(),
        kind: "web".to_owned(),
        number: Some(1),
        version: Some("v1".to_owned()),
        service: None,
        server: Some("default".to_owned()),
        ready_when: "http:8080/health".parse().ok(),
        ifname: "peerd0".to_owned(),
    }));
    let invite = Request::Invite { networks: vec!["demo".to_owned()], ttl_s: 3600, uses: 1, signer: false };
    vec![
        ("attach", encode_line(&attach)),
        ("invite", encode_line(&invite)),
        ("detach", encode_line(&Request::Detach { target: "0123456789abcdef".to_owned(), drain_s: Some(30) })),
        ("done", b"{\"done\":{\"data\":[{\"a\":1.5e300}],\"warnings\":[]}}\n".to_vec()),
        ("deep", [b"{\"done\":{\"data\":".as_slice(), &[b'['; 200], &[b']'; 200], b",\"warnings\":[]}}\n"].concat()),
        ("unknown", b"{\"reboot\":{\"now\":true}}\n".to_vec()),
    ]
}

/// What a container answers to a gateway that dials it: packets behind their lengths.
fn answered() -> Vec<(&'static str, Vec<u8>)> {
    let (_, _, _, syn) = dialling();
    let asked = u32::from_be_bytes([syn[24], syn[25], syn[26], syn[27]]);
    let segment = |flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]| {
        let mut packet = syn[..40].to_vec();
        packet.extend_from_slice(payload);
        packet[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        packet[12..16].copy_from_slice(&syn[16..20]);
        packet[16..20].copy_from_slice(&syn[12..16]);
        packet[20..22].copy_from_slice(&syn[22..24]);
        packet[22..24].copy_from_slice(&syn[20..22]);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[28..32].copy_from_slice(&acknowledged.to_be_bytes());
        packet[32..34].copy_from_slice(&[0x50, flags]);
        [&[packet.len() as u8], &packet[..]].concat()
    };
    let (acknowledged, accepts) = (asked.wrapping_add(1), segment(0x12, 7, asked.wrapping_add(1), b""));
    let said = segment(0x18, 8, acknowledged, b"hello");
    let gap = segment(0x18, 100, acknowledged, b"later");
    let done = segment(0x11, 13, acknowledged, b"");
    let reset = segment(0x14, 0, acknowledged, b"");
    vec![
        ("opened", accepts.clone()),
        ("opened-said-done", [&accepts[..], &said, &gap, &done].concat()),
        ("opened-reset", [&accepts[..], &said, &segment(0x14, 13, acknowledged, b"")].concat()),
        ("opened-twice", [&accepts[..], &accepts, &segment(0x02, 90, 0, b"")].concat()),
        ("refused", reset),
        ("guessed", segment(0x12, 7, asked.wrapping_add(9), b"")),
        ("crossed", segment(0x02, 7, 0, b"")),
    ]
}

fn service_files() -> Vec<(&'static str, Vec<u8>)> {
    let file = |text: &str| text.as_bytes().to_vec();
    let whole = "application: { id: ap-1, name: Back Office, namespace: backoffice-workers }
services:
  web:
    ports: [\"3000:80:443\", \"4000::8443\", 5000, { container: 3001, http: 8080, tcp: 25, udp: 111, name: admin }]
    traffic_matches: [app.your_domain.com, \"*.anotherdomain.com\"]
    dns_behaviour: versioned
    load_balancing: roundrobin
databases:
  mysql: { primary: default, servers: { default: { port: 3306 }, leopard: } }
  mongodb: { port: 27017 }
";
    vec![
        ("whole", file(whole)),
        ("plain", file("services:\n  api:\n    ports:\n    - container: 3000\n")),
        ("alias", file("services: { web: &web { ports: [80] }, api: *web }\n")),
        ("json", file("\u{feff}{\"services\": {\"web\": {\"ports\": [\"80:\"]}}}\r\n")),
        ("block", file("%YAML 1.2\n---\n? services\n: web:\n    ports:\n    - |-\n     80\n    - '81'\n...\n")),
        ("bomb", file("a: &a [x, x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n")),
        ("deep", file("[[[[[[[[[[[[[[[[[[[[{")),
        ("mapping", file("services: { web: { ports: [3000:80:, 4000::] } }\n")),
        ("twice", file("services:\n  web:\n  WEB:\n  mysql-default: !t\ndatabases: { mysql: , mysql: }\n---\n")),
        ("ports", file("services: { a: { ports: ['1:80', '2:80', '3::80', '0', ':1', '1:2:3:4'] } }\n")),
    ]
}

fn datagrams() -> Vec<(&'static str, Vec<u8>)> {
    let frame = [0x08, 0x10, 0, 2, 1, 0, 7, 1, 4, 0, 0, 0, 1, 1, 0, 0];
    vec![
        ("frame", [&[0][..], &frame].concat()),
        ("mixed", [&[4][..], &[0x40, 1, 2, 3], &frame[..4], &[1, 0, 0, 0], &[0xff, 0]].concat()),
        ("version", [&[0][..], &[0x08, 0x20], &frame[2..]].concat()),
        ("partial", [&[0][..], &[0x08, 0x11], &frame[2..]].concat()),
        ("type", [&[0][..], &[0x08, 0x12], &frame[2..]].concat()),
        ("short", vec![0, 0x08, 0x10, 0]),
        ("client", vec![0, 1, 0, 0, 0, 9]),
    ]
}

fn udp(to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let from = SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 1), 1000);
    let mut packet = vec![0; UDP_HEADERS_LEN + payload.len()];
    write_udp(&mut packet, from, SocketAddrV4::new(to, port), payload).expect("it fits");
    packet
}

fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let with = |offload: Offload, packet: &[u8]| [&offload.encode()[..], packet].concat();
    let local = udp(Ipv4Addr::new(10, 240, 0, 3), 2000, b"near");
    let remote = udp(Ipv4Addr::new(10, 240, 0, 2), 2000, &[7; 300]);
    let mut tcp = remote.clone();
    tcp[9] = 6;
    tcp[32] = 0x50;
    let mut spoofed = remote.clone();
    spoofed[15] = 9;
    let mut undone = remote.clone();
    let pseudo_header = 2 * (10 * 256 + 240) + 1 + 2 + 17 + 308u16;
    undone[26..28].copy_from_slice(&pseudo_header.to_be_bytes());
    let cut = Offload { gso: Gso::Udp { segment_bytes: 100 }, checksum: Some((20, 6)), headers_len: 28 };
    let cut_tcp = Offload { gso: Gso::Tcp { segment_bytes: 90, ecn: true }, checksum: Some((20, 16)), headers_len: 40 };
    vec![
        ("local", with(Offload::NONE, &local)),
        ("remote", with(Offload::NONE, &remote)),
        ("resolver", with(Offload::NONE, &udp(RESOLVER, 53, &queries()[0].1))),
        ("udp-superpacket", with(cut, &remote)),
        ("tcp-superpacket", with(cut_tcp, &tcp)),
        ("udp-undone", with(Offload { gso: Gso::None, ..cut }, &undone)),
        ("no-segments", with(Offload { gso: Gso::Udp { segment_bytes: 0 }, ..cut }, &remote)),
        ("spoofed", with(Offload::NONE, &spoofed)),
        ("cut", with(Offload::NONE, &local[..30])),
    ]
}

fn query(name: &[&str], kind: u8, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!more.is_empty())];
    for label in name {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind, 0, 1]);
    bytes.extend_from_slice(more);
    bytes
}

fn queries() -> Vec<(&'static str, Vec<u8>)> {
    let zone = ["pn-green", "private-network", "internal"];
    let shop = [&["shop"][..], &zone].concat();
    let edns = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let mut looped = query(&["a"], 1, &[]);
    looped[12..15].copy_from_slice(&[0xc0, 12, 0]);
    vec![
        ("address", query(&shop, 1, &[])),
        ("edns", query(&shop, 28, &edns)),
        ("numbered", query(&[&["1", "web"][..], &shop].concat(), 255, &[])),
        ("pointer", query(&["1", "0", "240", "10", "in-addr", "arpa"], 12, &[])),
        ("outside", query(&["example", "com"], 1, &[])),
        ("loop", looped),
        ("response", [&[0x12, 0x34, 0x81, 0], &query(&shop, 1, &[])[4..]].concat()),
        ("short", vec![0x12, 0x34, 1]),
        ("service", query(&["web"], 1, &[])),
        ("service-suffix", query(&["Web", "cloud66", "local"], 1, &[])),
        ("service-namespace", query(&["web", "backoffice"], 28, &[])),
        ("service-port", query(&["_admin", "_tcp", "web"], 33, &[])),
        ("services", query(&["_services", "svc", "private-network", "internal"], 16, &[])),
    ]
}

/// A real handshake's first message, and what is nearly one.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let ([_, mut router], now) = pair_of_routers();
    let mut packet = udp(Ipv4Addr::new(10, 240, 0, 1), 2000, b"hello");
    packet[12..20].copy_from_slice(&[10, 240, 0, 2, 10, 240, 0, 1]);
    packet[10..12].fill(0);
    let sum = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let neighbour = router.handle_device(now, AttachmentId([2; 8]), &mut Superpacket::complete(&mut packet));
    assert_eq!(neighbour, None, "the other container is on another node");
    let mut initiation = Vec::new();
    while let Some(output) = router.poll_output() {
        if let Output::Wire { batch, .. } = output {
            initiation = batch.bytes().to_vec();
        }
    }
    let framed = |frame: &[u8]| [&(frame.len() as u16).to_be_bytes()[..], frame].concat();
    let mut rewritten = initiation.clone();
    rewritten[6] ^= 1;
    let marked = [&[0x08, 0x11][..], &initiation[2..]].concat();
    let mut data = [&initiation[..8], &[4, 0, 0, 0, 1, 1, 0, 0], &[0; 64]].concat();
    vec![
        ("initiation", framed(&initiation)),
        ("twice", [framed(&initiation), framed(&initiation)].concat()),
        ("rewritten", framed(&rewritten)),
        ("marked", framed(&marked)),
        ("data", framed(&data)),
        ("response", {
            data[8] = 2;
            data.resize(8 + 92, 1);
            framed(&data)
        }),
        ("short", framed(&initiation[..20])),
    ]
}

/// Programs of a compromised member; see `fuzz/src/member.rs` for the words.
fn programs() -> Vec<(&'static str, Vec<u8>)> {
    let (cluster, open, closed, own, seal) = (0, 1, 2, 3, 6);
    vec![
        ("nothing", vec![1, 7, 0, 9]),
        ("expels-the-signer", vec![1, 0, cluster, 0, 0, 1, seal, cluster, 0]),
        ("signs-nodes", vec![1, 0, cluster, 1, 1, 2, 1, 0, cluster, 2, 77, 5, 1, seal, cluster, 0]),
        (
            "grants-itself",
            vec![1, 0, open, 5, 1, 1, 9, 0, open, 7, 0, 9, 0, closed, 5, 1, 1, 9, seal, open, 0, seal, closed, 0],
        ),
        (
            "takes-all-addresses",
            vec![
                1, 0, open, 8, 0, 1, 3, 254, 1, 1, 1, 0, open, 12, 5, 5, 5, 5, 5, 5, 5, 5, 0, 1, 1, 3, 1, seal, open, 0,
            ],
        ),
        (
            "defines-a-network",
            vec![
                1, 0, own, 4, 1, 9, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, own, 5, 1, 1, 1, seal,
                own, 0,
            ],
        ),
        ("moves", vec![1, 0, cluster, 3, 2, 0, 9, 0, 8, 1, seal, cluster, 0]),
        ("rotates-the-secret", [&[1, 0, open, 11, 9][..], &[3; 32], &[9, seal, open, 0]].concat()),
    ]
}

fn messages() -> Vec<(String, Vec<u8>)> {
    let cluster = Cluster::shared();
    let mut seeds: std::collections::BTreeMap<String, Vec<u8>> = std::collections::BTreeMap::new();
    for (from, bytes) in &cluster.sent {
        // The number of the message follows the array's header; the shortest of each is enough.
        let number = if bytes.get(1) == Some(&0x18) { bytes[2] } else { bytes.get(1).copied().unwrap_or_default() };
        let seed = seeds.entry(format!("{number:02}-of-{from}")).or_insert_with(|| bytes.clone());
        if bytes.len() < seed.len() {
            seed.clone_from(bytes);
        }
    }
    let id = cluster.open.as_str().as_bytes();
    let network = [&[0x78, id.len() as u8], id].concat();
    let ask_space = [&[0x82, 0x18, 29, 0x84][..], &network, &[0xf4, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xf5]].concat();
    let reclaim = [&[0x82, 0x18, 31, 0x83][..], &network, &[0xf4, 0x19, 0xff, 0xff]].concat();
    seeds.insert("29-made".to_owned(), ask_space);
    seeds.insert("31-made".to_owned(), reclaim);
    seeds.insert("cut".to_owned(), vec![0x82, 0x0b, 0x81, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    seeds.into_iter().collect()
}

fn records() -> Vec<(String, Vec<u8>)> {
    // A Hello carries records: [0, [{..., 3: [record...]}]]. They begin where an array of three and a key do.
    let hello = messages().into_iter().find(|(name, _)| name.starts_with("00-")).expect("a Hello was said").1;
    let begins = [0x83, 0x58, 0x20];
    let at: Vec<usize> = (0..hello.len() - 3).filter(|at| hello[*at..at + 3] == begins).collect();
    let mut seeds: Vec<(String, Vec<u8>)> =
        at.iter().enumerate().map(|(number, at)| (format!("of-a-hello-{number}"), hello[*at..].to_vec())).collect();
    seeds.push(("cut".to_owned(), hello[at[0]..at[0] + 60].to_vec()));
    seeds
}

fn files() -> Vec<(String, Vec<u8>)> {
    let cluster = Cluster::shared();
    let mut seeds = Vec::new();
    for (place, name) in cluster.files.iter().enumerate() {
        let content = cluster.stored.content(name).expect("a file that was listed");
        // Secrets and keys are in the files; these are of nobody.
        let payload = &content[7..content.len() - 32];
        let name = name.split('-').take(2).collect::<Vec<_>>().join("-").chars().take(12).collect::<String>();
        seeds.push((format!("{place}-{name}"), [&[place as u8, 1][..], payload].concat()));
        seeds.push((format!("{place}-{name}-torn"), [&[place as u8, 0][..], &content[..content.len() / 2]].concat()));
    }
    seeds
}

fn tokens() -> Vec<(&'static str, Vec<u8>)> {
    let text = Cluster::shared().invite.to_text();
    let wrapped: String =
        text.chars().enumerate().flat_map(|(at, c)| [Some(c), (at % 40 == 39).then_some('\n')]).flatten().collect();
    vec![
        ("token", text.as_bytes().to_vec()),
        ("wrapped", wrapped.to_ascii_uppercase().into_bytes()),
        ("cut", text.as_bytes()[..text.len() - 4].to_vec()),
        ("other", b"peerd2-aaaa".to_vec()),
    ]
}

/// Packets of TCP from port 4000 on to the resolver, each behind its length.
fn streams() -> Vec<(&'static str, Vec<u8>)> {
    const SYN: u8 = 2;
    let segment = |port: u16, sequence: u32, flags: u8, payload: &[u8]| {
        let total = (40 + payload.len()) as u8;
        let mut packet = vec![0x45, 0, 0, total, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 240, 0, 1, 169, 254, 240, 53];
        let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        packet[10..12].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
        packet.extend_from_slice(&port.to_be_bytes());
        packet.extend_from_slice(&[0, 53]);
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 1, 0x50, flags, 3, 232, 0, 0, 0, 0]);
        packet.extend_from_slice(payload);
        [&[total][..], &packet].concat()
    };
    let many: Vec<u8> = (4000..4008).flat_map(|port| segment(port, 1, SYN, &[])).collect();
    let spoken =
        [segment(4000, 1, SYN, &[]), segment(4000, 2, 0x18, b"\0\x05hello"), segment(4000, 9, 4, &[])].concat();
    vec![("many", many), ("spoken", spoken), ("never-begun", segment(4000, 2, 0x18, b"hello"))]
}

/// What upstreams say of `www.example.org`.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let question = &query(&["www", "example", "org"], 1, &[])[12..];
    let message = |id: u8, flags: [u8; 2], answers: u8, records: &[u8]| {
        [&[0, id, flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, 0], question, records].concat()
    };
    let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
    vec![
        ("address", message(1, [0x81, 0x80], 1, &address)),
        ("many", message(1, [0x81, 0x80], 40, &address.repeat(40))),
        ("cut", message(1, [0x83, 0x80], 0, &[])),
        ("nothing", message(1, [0x81, 0x83], 0, &[])),
        ("forged", message(2, [0x81, 0x80], 1, &address)),
    ]
}
