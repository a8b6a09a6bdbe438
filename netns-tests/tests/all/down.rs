//! A node that dies or stands still: when others notice, what they do until it is back, and whom it does not concern.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Background, Container, Host, Output, in_lab};

use crate::reach::three;

/// A crashed node's names are gone after so long.
const GONE: Duration = Duration::from_secs(10);
/// A stopped node is back so long after it goes on.
const BACK: Duration = Duration::from_secs(2);

fn state_of(host: &Host, name: &str) -> Result<String> {
    let rows = host.json(&["node", "ls"])?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == name).context("a row")?;
    Ok(row["state"].as_str().context("a state")?.to_owned())
}

fn is_named(asker: &Container, of: &Container) -> Result<bool> {
    Ok(!asker.dig(of.hostname(), "A")?.is_empty())
}

fn health(host: &Host) -> Result<String> {
    Ok(host.json(&["status"])?["health"].to_string())
}

/// What happens from now on, as `events` tells it.
fn listening(host: &Host) -> Result<Background> {
    let log = host.state_dir().with_extension("events");
    let mut events = Background::start(&mut host.peerctl_command(&["events", "--json"])?, log)?;
    until_true("the listener", SOON, || Ok(events_of(&mut events)?.first().is_some_and(|event| event == "listening")))?;
    Ok(events)
}

/// The events so far that are of a node or of health.
fn events_of(events: &mut Background) -> Result<Vec<String>> {
    events.still_runs()?;
    let printed = events.printed()?;
    let rows = printed.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let events = rows.filter_map(|row| Some(row["event"].as_str().or(row["data"]["event"].as_str())?.to_owned()));
    Ok(events.filter(|event| !event.starts_with("container-")).collect())
}

#[test]
fn a_crashed_nodes_names_are_gone_within_ten_seconds_and_back_with_its_start() {
    in_lab(|lab| {
        let ([a, _b, mut c], [on_a, on_b, on_c]) = three(lab)?;
        on_a.reaches(on_c.address())?;
        ensure!(is_named(&on_a, &on_c)? && is_named(&on_b, &on_c)?, "it has no name");

        until_true("the others' logs on its disk", SOON, || {
            let files = std::fs::read_dir(c.state_dir())?.filter_map(|file| file.ok()?.file_name().into_string().ok());
            // In the cluster those of the root, a and b, in the network those of a and b.
            Ok(files.filter(|file| file.starts_with("log-")).count() >= 5)
        })?;
        let mut events = listening(&a)?;
        c.kill()?;
        let began = now();
        for asker in [&on_a, &on_b] {
            until_true("the name to go", GONE, || Ok(!is_named(asker, &on_c)?))?;
        }
        let gone = began.elapsed();
        ensure!(gone < GONE, "the names went after {gone:?}");
        println!("names of a crashed node gone after {gone:?} (at most 10 s)");
        ensure!(state_of(&a, "c")? == "down" && state_of(&a, "b")? == "connected", "{}", a.json(&["node", "ls"])?);
        let told = health(&a)?;
        ensure!(told.contains("node-down") && told.contains("peerctl node expel c"), "{told}");
        until_true("the seconds to be counted on", SOON, || Ok(health(&a)? != told))?;
        ensure!(is_named(&on_a, &on_b)? && is_named(&on_b, &on_a)?, "others lost their names");

        // Refused at once, and not after a time.
        let asked = now();
        let refused = on_a.exec(&["ping", "-n", "-c", "1", "-W", "5", on_c.address()])?;
        ensure!(refused.code != 0 && refused.stdout.contains("Unreachable"), "{refused}");
        println!("a packet to its container is refused after {:?}", asked.elapsed());
        on_a.reaches(on_b.address())?;

        let began = now();
        c.peerd()?;
        for asker in [&on_a, &on_b] {
            until_true("the name to be back", GONE, || is_named(asker, &on_c))?;
        }
        println!("names back after {:?} from its start", began.elapsed());
        on_a.reaches(on_c.address())?;
        until_true("its state", SOON, || Ok(state_of(&a, "c")? == "connected" && !health(&a)?.contains("node-down")))?;
        // Each once, however many seconds it lasted.
        until_true("the last event", SOON, || Ok(events_of(&mut events)?.contains(&"health-cleared".to_owned())))?;
        let told = events_of(&mut events)?;
        for event in ["node-unreachable", "health-raised", "health-cleared", "node-connected"] {
            ensure!(told.iter().filter(|told| *told == event).count() == 1, "{event}: {told:?}");
        }
        Ok(())
    });
}

#[test]
fn a_node_that_is_stopped_harms_no_third_party_and_is_back_two_seconds_after_it_goes_on() {
    in_lab(|lab| {
        let ([a, b, mut c], [on_a, on_b, on_c]) = three(lab)?;
        on_a.reaches(on_c.address())?;
        // What is free is spread in the background, so it may get more.
        let held = |host: &Host| {
            let grants = host.json(&["network", "inspect", "demo"])?["grants"].clone();
            let row = grants.as_array().into_iter().flatten().find(|grant| grant["name"] == "c").cloned();
            row.and_then(|row| row["addresses"].as_u64()).context("its addresses")
        };
        let before = held(&a)?;

        c.daemon()?.signal("STOP")?;
        let stopped = now();
        for asker in [&on_a, &on_b] {
            until_true("the name to go", GONE, || Ok(!is_named(asker, &on_c)?))?;
        }
        println!("names of a stopped node gone after {:?}", stopped.elapsed());
        let mut checking = c.peerctl_command(&["status", "--check"])?;
        let checking = std::thread::spawn(move || Output::of(&mut checking, ""));
        // Its container and the service that it alone serves are ready by their records, and nobody reaches them.
        for awaited in [["container", on_c.id()], ["service", "db"]] {
            a.peerctl(&[&["wait", "--timeout", "0s", "--for"], &awaited[..]].concat())?.refused(8)?;
        }
        while stopped.elapsed() < Duration::from_secs(15) {
            ensure!(is_named(&on_a, &on_b)? && is_named(&on_b, &on_a)?, "a third party was harmed");
            ensure!(state_of(&a, "b")? == "connected" && state_of(&b, "a")? == "connected", "others are suspected");
            ensure!(on_a.ping(on_b.address())?, "a third party's packets are lost");
        }

        let checked = checking.join().map_err(|_| anyhow!("it panicked"))??.refused(3)?;
        ensure!(checked.stderr.contains("said nothing"), "{checked}");
        c.daemon()?.signal("CONT")?;
        let went_on = now();
        for asker in [&on_a, &on_b] {
            until_true("the name to be back", BACK, || is_named(asker, &on_c))?;
        }
        until_true("its packets", BACK, || on_a.ping(on_c.address()))?;
        let back = went_on.elapsed();
        ensure!(back < BACK, "back after {back:?}");
        println!("back {back:?} after it went on (at most 2 s)");
        while went_on.elapsed() < Duration::from_secs(6) {
            ensure!(is_named(&on_c, &on_a)? && is_named(&on_c, &on_b)?, "it took the others for dead");
        }
        ensure!(before > 0 && held(&a)? >= before, "its shares were touched");
        Ok(())
    });
}
