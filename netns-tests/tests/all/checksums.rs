//! Checksums: whoever leaves them undone, every one is right where it arrives, and none that was wrong becomes so.

use anyhow::{Context as _, Result, ensure};
use netns_tests::traffic::{ECHO_PORT, Transfer, echo};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Host, in_lab};

/// Has the kernel leave checksums to the overlay's interface, and cutting with them, or not (ETHTOOL_STXCSUM): 1 or 0.
const LEAVE_UNDONE: &str = r#"
import array, fcntl, socket, struct, sys
value = array.array("B", struct.pack("II", 0x17, int(sys.argv[1])))
request = struct.pack("16sP", b"peerd0", value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
"#;

/// Sends datagrams of many lengths, and ends when each has come back as it was: ADDRESS PORT.
const LENGTHS: &str = r#"
import random, socket, sys
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect((sys.argv[1], int(sys.argv[2])))
datagrams.settimeout(0.2)
for length in [*range(40), 100, 575, 1379, 1380, 1381, 4000]:
    sent = random.Random(length).randbytes(length)
    for attempt in range(25):
        datagrams.send(sent)
        try:
            back = datagrams.recv(65536)
        except TimeoutError:
            continue
        if len(back) == len(sent):
            assert back == sent, length
            break
    else:
        sys.exit("%d bytes have not come back" % length)
"#;

/// Sends a datagram that holds its checksum already: SOURCE DESTINATION HOW, which is right, wrong, or as a kernel leaves it
/// to be completed.
const SEND: &str = r#"
import socket, struct, sys
source, destination = map(socket.inet_aton, sys.argv[1:3])
text = sys.argv[3].encode()
def checksum(data):
    total = sum(struct.unpack("!%dH" % ((len(data) + 1) // 2), data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
length = 8 + len(text)
pseudo = source + destination + struct.pack("!HH", 17, length)
udp = lambda field: struct.pack("!HHHH", 4000, 7, length, field) + text
right = checksum(pseudo + udp(0))
field = {"right": right, "wrong": right ^ 0x0101, "undone": ~checksum(pseudo) & 0xffff}[sys.argv[3]]
header = lambda field: struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0x4000, 64, 17, field, source, destination)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.sendto(header(checksum(header(0))) + udp(field), ("peerd0", 0x0800))
"#;

/// Prints what comes to port 7.
const PRINT: &str = r#"
import socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 7))
print("listening", flush=True)
while True:
    print(datagrams.recv(2048).decode(), flush=True)
"#;

/// How many segments and datagrams a container's kernel has found damaged.
fn damaged(container: &Container) -> Result<u64> {
    let counters = container.exec(&["cat", "/proc/net/snmp"])?.ok()?.stdout;
    let mut sum = 0;
    for protocol in ["Tcp: ", "Udp: "] {
        let lines: Vec<_> = counters.lines().filter_map(|line| line.strip_prefix(protocol)).collect();
        let [names, values] = lines[..] else { anyhow::bail!("{counters}") };
        let mut fields = names.split(' ').zip(values.split(' '));
        let (_, value) = fields.find(|(name, _)| *name == "InCsumErrors").context("a counter")?;
        sum += value.parse::<u64>()?;
    }
    Ok(sum)
}

fn refused(host: &Host) -> Result<u64> {
    let drops = host.json(&["drops"])?;
    let rows = drops.as_array().into_iter().flatten();
    Ok(rows.filter(|row| row["reason"] == "no-partial-checksum").filter_map(|row| row["packets"].as_u64()).sum())
}

#[test]
fn what_is_sent_with_offloads_on_and_off_at_either_end_arrives_undamaged() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let pair = [a.container("web-1", "demo", "shop", &[])?, b.container("web-2", "demo", "shop", &[])?];
        pair[0].reaches(pair[1].address())?;
        let _echo = echo(&pair[1])?;
        for ends in [["1", "1"], ["1", "0"], ["0", "1"], ["0", "0"]] {
            for (container, undone) in pair.iter().zip(ends) {
                container.python(LEAVE_UNDONE, &[undone])?.ok()?;
            }
            pair[0].python(LENGTHS, &[pair[1].address(), ECHO_PORT])?.ok()?;
            Transfer::start(&pair[0], &pair[1], 20)?.whole(SOON * 2)?;
            Transfer::start(&pair[1], &pair[0], 20)?.whole(SOON * 2)?;
            for container in &pair {
                ensure!(damaged(container)? == 0, "{ends:?}: {} got damaged packets", container.name());
            }
        }
        ensure!((refused(&a)?, refused(&b)?) == (0, 0), "nobody rewrote a frame");
        Ok(())
    });
}

#[test]
fn a_wrong_checksum_is_wrong_where_it_arrives() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let (sender, target) = (a.container("web-1", "demo", "shop", &[])?, b.container("web-2", "demo", "shop", &[])?);
        sender.reaches(target.address())?;
        let mut listener = target.start(&["python3", "-c", PRINT])?;
        until_true("the listener", SOON, || {
            listener.still_runs()?;
            Ok(listener.printed()?.contains("listening"))
        })?;
        for how in ["wrong", "undone", "right"] {
            sender.python(SEND, &[sender.address(), target.address(), how])?.ok()?;
        }
        // In order behind the others: when it is there, they are not coming any more.
        until_true("the right one", SOON, || Ok(listener.printed()?.contains("right")))?;
        let printed = listener.printed()?;
        ensure!(printed.lines().collect::<Vec<_>>() == ["listening", "right"], "{printed}");
        ensure!(damaged(&target)? == 2, "its kernel has found two damaged: {}", damaged(&target)?);
        ensure!(refused(&b)? == 0, "they are delivered as they were sent");
        Ok(())
    });
}
