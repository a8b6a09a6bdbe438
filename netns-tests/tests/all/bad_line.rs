//! A line that loses, delays, reorders and repeats datagrams.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::relay::{Impairment, Relay, check_loss};
use netns_tests::traffic::{ECHO_PORT, count, echo};
use netns_tests::{Container, Figures, Lab, in_lab, repeats};

/// A datagram every 10 ms until one comes back, and how long that took: ADDRESS PORT.
const FIRST_ECHO: &str = r#"
import socket, sys, time
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(0.01)
began = time.monotonic()
while time.monotonic() < began + 30:
    try:
        datagrams.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
        datagrams.recv(16)
        print(time.monotonic() - began)
        break
    except OSError:
        pass
"#;

/// So many containers on each side, each with each: fewer pairs than a hundred have no 99th percentile.
const SIDE: usize = 10;

/// How long it takes until the first answer, over pairs of containers that have never spoken.
fn established(lab: &mut Lab, loss_percent: u32) -> Result<Figures> {
    let [a, b] = lab.cluster(["a", "b"])?;
    a.network("demo", &[&b])?;
    let side = |host: &netns_tests::Host, name: &str| -> Result<Vec<Container>> {
        (0..SIDE).map(|at| host.container(&format!("{name}-{at}"), "demo", "shop", &[])).collect()
    };
    let (ones, others) = (side(&a, "one")?, side(&b, "other")?);
    let _echoes = others.iter().map(echo).collect::<Result<Vec<_>>>()?;
    others.iter().try_for_each(|other| a.knows(other))?;
    ones.iter().try_for_each(|one| b.knows(one))?;
    let delay = Duration::from_millis(5);
    let relay = Relay::between(&a, &b, Impairment { delay, loss_percent, ..Impairment::default() }, 1)?;
    let mut took = Figures::default();
    for one in &ones {
        for other in &others {
            let said = one.python(FIRST_ECHO, &[other.address(), ECHO_PORT])?.ok()?.stdout;
            took.push(Duration::from_secs_f64(said.trim().parse().context("no answer within 30 s")?));
        }
    }
    println!("{:?}", relay.passed());
    check_loss(relay.passed(), loss_percent.into())?;
    Ok(took)
}

#[test]
fn with_5_percent_lost_each_way_a_tunnel_is_there_within_a_second() {
    in_lab(|lab| {
        let promised = Duration::from_secs(1);
        established(lab, 5)?.promise("5% loss each way, first answer over a fresh pair", promised, promised * 2)
    });
}

#[test]
fn with_20_percent_lost_each_way_a_tunnel_is_there_within_two_seconds() {
    in_lab(|lab| {
        let promised = Duration::from_secs(2);
        established(lab, 20)?.promise("20% loss each way, first answer over a fresh pair", promised, promised * 2)
    });
}

#[test]
fn of_datagrams_that_come_disordered_and_twice_each_is_delivered_once() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let (one, two) = (a.container("one", "demo", "shop", &[])?, b.container("two", "demo", "shop", &[])?);
        a.knows(&two)?;
        b.knows(&one)?;
        one.reaches(two.address())?;
        let line = Impairment {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(10),
            duplicate_percent: 10,
            reorder_percent: 10,
            held_back: Duration::from_millis(40),
            ..Impairment::default()
        };
        let relay = Relay::between(&a, &b, line, 2)?;
        let sent = repeats(5_000, 100_000);
        let counted = count(&one, &two, sent)?;
        let passed = relay.passed();
        println!("FIGURE reordering and 10% duplicates: {counted:?} of {sent}, {passed:?}");
        let enough = sent as u64 / 20;
        ensure!(passed.duplicated >= enough && passed.held_back >= enough, "the line was too good: {passed:?}");
        ensure!(counted.disordered > 0, "nothing came disordered: {counted:?}");
        ensure!(counted.duplicates == 0, "{counted:?}");
        ensure!(counted.different * 100 >= sent * 99, "the line loses nothing, the tunnel does: {counted:?}");
        Ok(())
    });
}
