//! A node with many containers and many tunnels is killed and started again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Background, Container, Figures, Lab, in_lab, repeats};

/// What `docs/reliability.md` promises of a kill with up to 1,000 active tunnels.
const P99: Duration = Duration::from_secs(2);
const MAX: Duration = Duration::from_secs(5);

/// Sends an echo request to each address five times a second. Says "all" when each has answered, and so many seconds later the
/// longest time without an answer of each: SECONDS ADDRESS...
const ASK_ALL: &str = r#"
import select, socket, struct, sys, time
addresses = sys.argv[2:]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
raw.setblocking(False)
request = struct.pack("!BBHHH", 8, 0, 0xf0ff, 0x0700, 0)
heard, gaps, end, due, turn = {}, {}, None, time.monotonic(), 0
step = 0.2 / len(addresses)
while end is None or time.monotonic() < end:
    now = time.monotonic()
    due = max(due, now - 0.2)
    while due <= now:
        try:
            raw.sendto(request, (addresses[turn], 0))
        except OSError:
            pass
        turn, due = (turn + 1) % len(addresses), due + step
    select.select([raw], [], [], max(0, due - time.monotonic()))
    try:
        while True:
            packet, (sender, _) = raw.recvfrom(2048)
            now = time.monotonic()
            if packet[20] == 0 and end is not None:
                gaps[sender] = max(gaps.get(sender, 0), now - heard[sender])
            heard[sender] = now
    except BlockingIOError:
        pass
    if end is None and len(heard) == len(addresses):
        end = time.monotonic() + float(sys.argv[1])
        print("all", flush=True)
for address in addresses:
    print("gap", max(gaps.get(address, 0), time.monotonic() - heard[address]), flush=True)
"#;

/// What the killed node has, and who speaks to it.
struct Crowd {
    containers: usize,
    /// Containers of the other node; each has a tunnel to every one of the containers.
    speakers: usize,
}

/// Kills and starts the node, and the longest time without an answer of each tunnel.
fn interrupted(lab: &mut Lab, crowd: &Crowd) -> Result<Figures> {
    let [mut a, b] = lab.cluster(["a", "b"])?;
    a.network("demo", &[&b])?;
    let speakers = (0..crowd.speakers)
        .map(|n| b.container(&format!("speaker-{n}"), "demo", "shop", &["--type", "speaker"]))
        .collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = (0..crowd.containers).map(|n| format!("c{n}")).collect();
    a.crowd(&names, "demo", &[])?;
    let spoken_to: BTreeSet<_> = speakers.iter().map(Container::address).collect();
    let mut listeners = a.addresses()?;
    listeners.retain(|address| !spoken_to.contains(address.as_str()));
    ensure!(listeners.len() == crowd.containers, "{} of {}", listeners.len(), crowd.containers);
    until_true("all containers on b", SOON, || Ok(b.addresses()?.len() == crowd.containers + crowd.speakers))?;
    let watched = MAX * 2;
    let seconds = watched.as_secs().to_string();
    let listeners: Vec<_> = listeners.iter().map(String::as_str).collect();
    let words = [&["python3", "-c", ASK_ALL, &seconds], &listeners[..]].concat();
    let mut asking = speakers.iter().map(|speaker| speaker.start(&words)).collect::<Result<Vec<_>>>()?;
    until_true("an answer through every tunnel", SOON * 2, || {
        asking.iter_mut().try_for_each(Background::still_runs)?;
        Ok(asking.iter().all(|asker| asker.printed().is_ok_and(|printed| printed.contains("all"))))
    })?;
    a.kill()?;
    a.peerd()?;
    let mut gaps = Figures::default();
    for asker in &mut asking {
        ensure!(asker.ended(watched + SOON)?.success(), "{}", asker.printed()?);
        for gap in asker.printed()?.lines().filter_map(|line| line.strip_prefix("gap ")) {
            gaps.push(Duration::from_secs_f64(gap.parse().with_context(|| gap.to_owned())?));
        }
    }
    Ok(gaps)
}

#[test]
fn all_tunnels_of_a_node_carry_again_soon_after_a_kill() {
    in_lab(|lab| {
        let crowd = Crowd { containers: repeats(40, 200), speakers: 5 };
        let gaps = interrupted(lab, &crowd)?;
        let Crowd { containers, speakers } = crowd;
        gaps.promise(&format!("kill -9 and start with {containers} containers, {speakers} tunnels each"), P99, MAX)
    });
}

#[test]
fn a_node_with_1000_containers_carries_again_soon_after_a_kill() {
    in_lab(|lab| {
        let crowd = Crowd { containers: repeats(100, 1000), speakers: 1 };
        let gaps = interrupted(lab, &crowd)?;
        gaps.promise(&format!("kill -9 and start with {} containers, one tunnel each", crowd.containers), P99, MAX)
    });
}
