//! A tenant's raw sockets and a stranger on the wire get nothing through.

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{Background, Container, Host, in_lab};

/// Sends one UDP packet with a forged IPv4 header by the overlay's interface: SOURCE DESTINATION TEXT.
const FORGE: &str = r#"
import socket, struct, sys
source, destination, text = sys.argv[1], sys.argv[2], sys.argv[3].encode()
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def header(total, check):
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, 17, check,
                       socket.inet_aton(source), socket.inet_aton(destination))
udp = struct.pack("!HHHH", 4000, 4000, 8 + len(text), 0) + text
total = 20 + len(udp)
packet = header(total, checksum(header(total, 0))) + udp
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.sendto(packet, ("peerd0", 0x0800))
"#;

/// Prints every UDP packet to port 4000 that comes in by the overlay's interface, as the interface has it: SOURCE TEXT.
const WATCH: &str = r#"
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.bind(("peerd0", 0x0800))
print("watching", flush=True)
while True:
    packet, where = wire.recvfrom(65535)
    if where[2] == socket.PACKET_OUTGOING or len(packet) < 28 or packet[9] != 17:
        continue
    start = (packet[0] & 15) * 4
    if packet[start + 2:start + 4] == b"\x0f\xa0":
        print(socket.inet_ntoa(packet[12:16]), packet[start + 8:].decode("ascii", "replace"), flush=True)
"#;

/// Takes every data frame that leaves by eth0 and sends it again with TTL 77; with VNI, that one stands in its header.
const RELAY: &str = r#"
import socket, struct, sys
vni = int(sys.argv[1]) if len(sys.argv) > 1 else None
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 3))
print("relaying", flush=True)
while True:
    frame, where = wire.recvfrom(65535)
    if where[2] != socket.PACKET_OUTGOING or len(frame) < 14 + 28 + 12 or frame[12:14] != b"\x08\x00":
        continue
    ip = bytearray(frame[14:])
    start = (ip[0] & 15) * 4
    payload = start + 8
    if ip[9] != 17 or ip[8] == 77 or ip[payload] != 8:
        continue
    ip[8] = 77
    ip[10:12] = b"\0\0"
    ip[start + 6:start + 8] = b"\0\0"
    if vni is not None:
        ip[payload + 4:payload + 7] = vni.to_bytes(3, "big")
    total = sum(struct.unpack("!%dH" % (start // 2), ip[:start]))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    ip[10:12] = struct.pack("!H", ~total & 0xffff)
    wire.send(frame[:14] + bytes(ip))
"#;

fn start_python(container: &Container, program: &str, ready: &str) -> Result<Background> {
    let mut python = container.start(&["python3", "-c", program])?;
    until_true("the watcher", SOON, || {
        python.still_runs()?;
        Ok(python.printed()?.contains(ready))
    })?;
    Ok(python)
}

#[test]
fn n7_a_container_gets_no_packet_out_with_any_source_but_its_own() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let sender = a.container("web-1", "demo", "shop", &[])?;
        let neighbour = a.container("web-2", "demo", "shop", &[])?;
        let target = b.container("web-3", "demo", "shop", &[])?;
        sender.reaches(target.address())?;
        sender.reaches(neighbour.address())?;
        for to in [&target, &neighbour] {
            let watcher = start_python(to, WATCH, "watching")?;
            let forged = [
                neighbour.address(),
                target.address(),
                "10.240.3.254",
                "10.240.0.0",
                "10.240.3.255",
                "10.240.4.1",
                "169.254.240.53",
                "0.0.0.0",
                "127.0.0.1",
                "224.0.0.1",
                "255.255.255.255",
                "192.0.2.2",
                "198.51.100.7",
            ];
            for source in forged {
                sender.python(FORGE, &[source, to.address(), &format!("as-{source}")])?.ok()?;
            }
            // In order behind the others: when it is there, they are not coming any more.
            sender.python(FORGE, &[sender.address(), to.address(), "as-myself"])?.ok()?;
            until_true("the honest packet", SOON, || Ok(watcher.printed()?.contains("as-myself")))?;
            let printed = watcher.printed()?;
            let packets: Vec<_> = printed.lines().filter(|line| *line != "watching").collect();
            ensure!(packets == [format!("{} as-myself", sender.address())], "{packets:?}");
        }
        let drops = a.json(&["drops"])?;
        let counted: u64 = drops.as_array().into_iter().flatten().filter_map(|row| row["packets"].as_u64()).sum();
        ensure!(counted >= 26, "every one of the 26 forged packets is counted: {drops}");
        Ok(())
    });
}

/// Lets in data frames only that a relay touched.
fn accept_relayed_frames_only(host: &Host) -> Result<()> {
    let rules = "table inet relay { chain in { type filter hook input priority 0; \
                 meta l4proto udp @th,64,8 0x08 ip ttl != 77 drop; }; }";
    host.exec(&["nft", rules])?.ok().map(drop)
}

fn relay(host: &Host, vni: Option<u64>) -> Result<Background> {
    let mut command = host.command("python3");
    command.args(["-c", RELAY]).args(vni.map(|vni| vni.to_string()));
    let log = host.state_dir().with_file_name(if vni.is_some() { "rewriter.log" } else { "relay.log" });
    let mut relay = Background::start(&mut command, log)?;
    until("the relay", SOON, || {
        relay.still_runs()?;
        Ok(relay.printed()?.contains("relaying").then_some(()))
    })?;
    Ok(relay)
}

#[test]
fn n6_a_frame_with_its_vni_rewritten_is_not_delivered() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("red", &[&b])?;
        a.network("blue", &[&b])?;
        let vni = |name: &str| a.json(&["network", "inspect", name])?["vni"].as_u64().context("a VNI");
        let (red_vni, blue_vni) = (vni("red")?, vni("blue")?);
        ensure!(red_vni != blue_vni);
        let red = [a.container("red-1", "red", "shop", &[])?, b.container("red-2", "red", "shop", &[])?];
        let blue = [a.container("blue-1", "blue", "shop", &[])?, b.container("blue-2", "blue", "shop", &[])?];
        ensure!(red[1].address() == blue[1].address(), "the same destination in both networks");
        red[0].reaches(red[1].address())?;
        blue[0].reaches(blue[1].address())?;

        accept_relayed_frames_only(&a)?;
        accept_relayed_frames_only(&b)?;
        ensure!(!red[0].ping(red[1].address())?, "only relayed frames come in");
        let honest = [relay(&a, None)?, relay(&b, None)?];
        red[0].reaches(red[1].address())?;
        drop(honest);

        // Established tunnels on both sides: frames of the one with the header of the other.
        let watchers = [start_python(&red[1], WATCH, "watching")?, start_python(&blue[1], WATCH, "watching")?];
        let _rewriters = [relay(&a, Some(blue_vni))?, relay(&b, Some(blue_vni))?];
        for n in 0..20 {
            red[0].python(FORGE, &[red[0].address(), red[1].address(), &format!("red-{n}")])?.ok()?;
        }
        ensure!(!red[0].ping(red[1].address())?, "an echo came through a rewriting wire");
        // Blue's own frames are rewritten to what they are: behind all of red's, they arrive.
        until_true("blue's packet", SOON, || {
            blue[0].python(FORGE, &[blue[0].address(), blue[1].address(), "blue"])?.ok()?;
            Ok(watchers[1].printed()?.contains(" blue\n"))
        })?;
        for watcher in &watchers {
            ensure!(!watcher.printed()?.contains("red-"), "delivered:\n{}", watcher.printed()?);
        }
        Ok(())
    });
}

#[test]
fn malformed_datagrams_of_any_length_disturb_nobody() {
    in_lab(|lab| {
        let [mut a, mut b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = b.container("web-2", "demo", "shop", &[])?;
        one.reaches(two.address())?;
        let stranger = lab.host("stranger")?;
        let program = r#"
import random, socket, sys
random.seed(7)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
lengths = list(range(0, 200)) + [random.randrange(200, 2000) for _ in range(300)] + [9000, 40000, 65507]
for first in (None, 0x08, 0x01, 0x02, 0x03, 0x04, 0x00, 0x40, 0xc3):
    for length in lengths:
        data = bytearray(random.randbytes(length))
        if data and first is not None:
            data[0] = first
        if first == 0x08 and length > 16:
            data[1] = 0x10
            data[8:12] = bytes((random.randrange(1, 5), 0, 0, 0))
        if first in (1, 2, 3, 4) and length > 4:
            data[1:4] = b"\0\0\0"
        out.sendto(data, (sys.argv[1], 51790))
"#;
        for host in [&a, &b] {
            stranger.exec(&["python3", "-c", program, host.address()])?.ok()?;
        }
        one.reaches(two.address())?;
        for host in [&mut a, &mut b] {
            host.daemon()?;
            host.json(&["status"])?;
            ensure!(!host.log()?.contains("panicked"), "something panicked");
            let drops = host.json(&["drops"])?;
            let counted: u64 = drops.as_array().into_iter().flatten().filter_map(|row| row["packets"].as_u64()).sum();
            ensure!(counted > 2000, "junk is counted: {drops}");
        }
        Ok(())
    });
}
