//! Two halves of a cluster that do not hear each other, and what is true when they meet again.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until, until_true};
use netns_tests::{Container, Figures, Host, in_lab, repeats};
use serde_json::Value;

/// Attaches on each side of the cut.
const COUNT: usize = 20;
/// What `docs/reliability.md` promises of two nodes that meet again.
const WHOLE: Duration = Duration::from_secs(5);

/// From here on the host hears and tells nobody, as behind a pulled cable whose link stays up.
fn cut_off(host: &Host) -> Result<()> {
    cut(host, "iifname eth0", "oifname eth0")
}

/// From here on the two hosts do not hear each other.
pub fn cut_apart(host: &Host, other: &Host) -> Result<()> {
    cut(host, &format!("ip saddr {}", other.address()), &format!("ip daddr {}", other.address()))
}

/// What comes in so, and goes out so, is lost.
fn cut(host: &Host, inward: &str, outward: &str) -> Result<()> {
    let rules = format!(
        "add table inet cut; \
         add chain inet cut in {{ type filter hook input priority -200; }}; \
         add chain inet cut out {{ type filter hook output priority -200; }}; \
         add rule inet cut in {inward} drop; \
         add rule inet cut out {outward} drop"
    );
    host.exec(&["nft", &rules])?.ok().map(drop)
}

pub fn join_again(host: &Host) -> Result<()> {
    host.exec(&["nft", "delete table inet cut"])?.ok().map(drop)
}

fn containers(host: &Host) -> Result<Vec<Value>> {
    Ok(host.json(&["container", "ls"])?.as_array().context("rows")?.clone())
}

/// What `status` says of numbers that two containers have.
fn conflicts(host: &Host) -> Result<Vec<String>> {
    let status = host.json(&["status"])?;
    let rows = status["health"].as_array().into_iter().flatten().filter(|row| row["code"] == "number-conflict");
    Ok(rows.filter_map(|row| row["message"].as_str().map(str::to_owned)).collect())
}

#[test]
fn n3_nodes_that_are_cut_off_and_attach_at_the_same_time_never_use_one_address_twice() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        cut_off(&b)?;
        let (mut on_a, mut on_b): (Vec<Container>, Vec<Container>) = (Vec::new(), Vec::new());
        for at in 0..COUNT {
            on_a.push(a.container(&format!("a-{at}"), "demo", "shop", &["--type", "web"])?);
            on_b.push(b.container(&format!("b-{at}"), "demo", "shop", &["--type", "worker"])?);
        }
        ensure!(containers(&a)?.len() == COUNT && containers(&b)?.len() == COUNT, "the cut is none");
        join_again(&b)?;
        for host in [&a, &b] {
            let all =
                until("all containers", SOON * 2, || Ok(Some(containers(host)?).filter(|all| all.len() == 2 * COUNT)))?;
            let addresses: BTreeSet<_> = all.iter().filter_map(|row| row["address"].as_str()).collect();
            ensure!(addresses.len() == 2 * COUNT, "an address is held twice: {all:?}");
        }
        ensure!(conflicts(&a)?.is_empty(), "other types have other numbers");
        on_a[0].reaches(on_b[COUNT - 1].address())?;
        on_b[0].reaches(on_a[COUNT - 1].address())
    });
}

/// Whether the host's node sees that the other does not answer.
fn misses(host: &Host, other: &Host) -> Result<bool> {
    let rows = host.json(&["node", "ls"])?;
    Ok(rows.as_array().into_iter().flatten().any(|row| row["name"] == other.name() && row["state"] == "down"))
}

#[test]
fn two_nodes_that_attach_many_containers_while_cut_off_refuse_none_and_are_whole_soon_after() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let (one, two) =
            (a.container("one", "demo", "shop", &[])?, b.container("two", "demo", "shop", &["--type", "api"])?);
        a.knows(&two)?;
        b.knows(&one)?;
        let (mut healed, mut on_each) = (Figures::default(), 1);
        for cut in 0..repeats(2, 8) {
            // The first cut is the long one; more of its kind and the network would be full.
            let count = if cut == 0 { repeats(40, 200) } else { repeats(10, 40) };
            cut_off(&b)?;
            let attach = |host: &Host, kind: &str| {
                let names: Vec<String> = (0..count).map(|n| format!("{}-{cut}-{n}", host.name())).collect();
                host.crowd(&names, "demo", &["--type", kind])
            };
            thread::scope(|scope| {
                let on_a = scope.spawn(|| attach(&a, "web"));
                attach(&b, "worker")?;
                on_a.join().expect("an attach fails with an error")
            })?;
            for (host, other) in [(&a, &b), (&b, &a)] {
                until_true("the cut to be noticed", SOON, || misses(host, other))?;
                ensure!(containers(host)?.len() == 2 * on_each + count, "the cut is none");
            }
            on_each += count;
            let began = now();
            join_again(&b)?;
            for (host, other) in [(&a, &b), (&b, &a)] {
                let whole = || Ok(!misses(host, other)? && containers(host)?.len() == 2 * on_each);
                until_true("all containers", SOON, whole)?;
            }
            healed.push(began.elapsed());
            let mut held = [&a, &b].map(Host::addresses).into_iter().collect::<Result<Vec<_>>>()?;
            held.iter_mut().for_each(|addresses| addresses.sort());
            ensure!(held[0] == held[1], "they know different containers: {held:?}");
            held[0].dedup();
            ensure!(held[0].len() == 2 * on_each, "an address is held twice: {held:?}");
            one.reaches(two.address())?;
            two.reaches(one.address())?;
        }
        healed.promise("whole again after a cut in which both sides attached", WHOLE, WHOLE)
    });
}

#[test]
fn d3_of_two_containers_that_took_one_number_in_a_cut_the_lower_answers_and_the_other_is_a_warning() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        cut_off(&b)?;
        let (one, two) = (a.container("web-1", "demo", "shop", &[])?, b.container("web-2", "demo", "shop", &[])?);
        ensure!(one.hostname() == two.hostname() && one.hostname().starts_with("1."), "both took number 1");
        join_again(&b)?;
        // Both are the first container that their node saw, of one rev: the lower node id decides.
        let id = |host: &Host| Ok::<_, anyhow::Error>(host.json(&["status"])?["node"]["id"].to_string());
        let (first, second) = if id(&a)? < id(&b)? { (&one, &two) } else { (&two, &one) };
        for (host, container) in [(&a, &one), (&b, &two)] {
            let message = until("the warning", SOON * 2, || Ok(conflicts(host)?.pop()))?;
            let said = format!("is container {} and container {}", first.id(), second.id());
            ensure!(message.contains(&said), "{message}");
            ensure!(host.json(&["status"])?["health"].as_array().is_some_and(|rows| {
                rows.iter().any(|row| row["code"] == "number-conflict" && row["severity"] == "warning")
            }));
            ensure!(container.dig(first.hostname(), "A")? == [first.address()], "the lower answers on {}", host.name());
        }
        one.reaches(two.address())?;
        // The way out that the warning names.
        let loser = if second.id() == one.id() { &a } else { &b };
        loser.peerctl(&["detach", second.id()])?.ok()?;
        for host in [&a, &b] {
            until_true("the warning to go", SOON, || Ok(conflicts(host)?.is_empty()))?;
        }
        Ok(())
    });
}
