//! A disk that is full, read-only, or has forgotten: traffic goes on, changes are refused, and nobody becomes somebody else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::traffic::{Flow, echo};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{Background, Container, Host, Lab, Output, in_lab};
use serde_json::Value;

const GAP_MAX: Duration = Duration::from_millis(500);

/// A node with a small disk of its own, another, and a container on each.
struct Scene {
    a: Host,
    _b: Host,
    one: Container,
    two: Container,
}

fn scene(lab: &mut Lab) -> Result<Scene> {
    let mut a = lab.host("a")?;
    fs::create_dir(a.state_dir())?;
    mount(&["-t", "tmpfs", "-o", "size=1m,mode=700", "disk"], &a.state_dir())?;
    a.peerd()?;
    a.peerctl(&["init"])?.ok()?;
    let mut b = lab.host("b")?;
    b.peerd()?;
    b.join(&a, &[])?;
    a.network("demo", &[&b])?;
    let (one, two) = (a.container("one", "demo", "shop", &[])?, b.container("two", "demo", "shop", &[])?);
    a.knows(&two)?;
    b.knows(&one)?;
    a.exec(&["ip", "netns", "add", "late"])?.ok()?;
    Ok(Scene { a, _b: b, one, two })
}

fn mount(words: &[&str], at: &Path) -> Result<()> {
    Output::of(Command::new("mount").args(words).arg(at), "")?.ok().map(drop)
}

fn attach_late(a: &Host) -> Result<Output> {
    a.peerctl(&["attach", "--netns", "/run/netns/late", "--network", "demo", "--app", "shop"])
}

fn node_id(host: &Host) -> Result<Value> {
    Ok(host.json(&["status"])?["node"]["id"].clone())
}

/// From when `spoil` is done until `amend` is, changes are refused and traffic goes on; afterwards all is well by itself.
fn refuses_and_recovers(
    lab: &mut Lab,
    spoil: impl FnOnce(&Path) -> Result<()>,
    amend: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let Scene { mut a, one, two, _b } = scene(lab)?;
    let _echoes = (echo(&one)?, echo(&two)?);
    let mut flow = Flow::datagrams(&one, &two, "disk")?;
    let (id, before) = (node_id(&a)?, flow.answers()?);
    spoil(&a.state_dir())?;
    attach_late(&a)?.refused(1)?;
    ensure!(a.is_told("state-unwritten")?, "status says nothing");
    ensure!(a.exec(&["ip", "-n", "late", "-o", "link"])?.ok()?.stdout.lines().count() == 1, "half attached");
    flow.goes_on(50)?;
    let gap = flow.longest_gap_since(before)?;
    ensure!(gap <= GAP_MAX, "traffic stood still for {gap:?}");

    // A start on such a disk is the same node, which keeps its containers until it can tell of their new keys.
    a.kill()?;
    a.peerd()?;
    ensure!(node_id(&a)? == id, "another node came back");
    ensure!(a.is_told("state-unwritten")?, "status says nothing after the start");
    attach_late(&a)?.refused(1)?;
    amend(&a.state_dir())?;
    until_true("the disk's end of refusing", SOON, || Ok(!a.is_told("state-unwritten")?))?;
    flow.goes_on(50)?;
    attach_late(&a)?.ok()?;
    // And all of that is remembered.
    a.kill()?;
    a.peerd()?;
    ensure!(node_id(&a)? == id, "another node came back");
    flow.goes_on(50)?;
    let rows = a.json(&["container", "ls"])?;
    ensure!(rows.as_array().is_some_and(|rows| rows.len() == 3), "{rows}");
    Ok(())
}

#[test]
fn on_a_full_disk_traffic_goes_on_and_changes_are_refused_until_there_is_room() {
    const FILLER: &str = ".filler";
    in_lab(|lab| {
        let fill = |state: &Path| {
            let mut file = fs::File::create(state.join(FILLER))?;
            loop {
                match std::io::Write::write(&mut file, &[0; 4096]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                    Err(error) => bail!(error),
                }
            }
        };
        refuses_and_recovers(lab, fill, |state| Ok(fs::remove_file(state.join(FILLER))?))
    });
}

#[test]
fn on_a_read_only_disk_traffic_goes_on_and_changes_are_refused_until_it_can_be_written() {
    in_lab(|lab| {
        refuses_and_recovers(
            lab,
            |state| mount(&["-o", "remount,ro"], state),
            |state| mount(&["-o", "remount,rw"], state),
        )
    });
}

#[test]
fn a_first_start_on_a_read_only_disk_is_refused_in_three_lines() {
    in_lab(|lab| {
        let a = lab.host("a")?;
        fs::create_dir(a.state_dir())?;
        mount(&["-t", "tmpfs", "-o", "ro,mode=700", "disk"], &a.state_dir())?;
        let refused = Output::of(&mut a.daemon_command(&a.socket())?, "")?;
        ensure!(refused.stderr.contains("read-only"), "{refused}");
        refused.refused(1).map(drop)
    });
}

#[test]
fn a_first_start_on_a_full_disk_asks_for_room_and_not_for_a_backup() {
    in_lab(|lab| {
        let a = lab.host("a")?;
        fs::create_dir(a.state_dir())?;
        mount(&["-t", "tmpfs", "-o", "size=64k,mode=700", "disk"], &a.state_dir())?;
        ensure!(fs::write(a.state_dir().join(".FILLER"), [0; 128 << 10]).is_err(), "there is room");
        let refused = Output::of(&mut a.daemon_command(&a.socket())?, "")?.refused(1)?;
        ensure!(refused.stderr.contains("make room") && !refused.stderr.contains("backup"), "{refused}");
        // A name that is none is a fault of the line, whatever the disk is like.
        a.peerctl(&["daemon", "--name", "a.b"])?.refused(2).map(drop)
    });
}

/// What became of a start: the node's id, or the refusal.
fn start(host: &Host) -> Result<Result<Value, Output>> {
    let log = host.state_dir().with_extension("start");
    let _ = fs::remove_file(&log);
    let mut daemon = Background::start(&mut host.daemon_command(&host.socket())?, log)?;
    until("a start or a refusal", SOON, || {
        if host.socket().exists() && host.peerctl(&["status"])?.code == 0 {
            return Ok(Some(Ok(node_id(host)?)));
        }
        let Err(_) = daemon.still_runs() else { return Ok(None) };
        let code = daemon.ended(SOON)?.code().context("it was not killed")?;
        let printed = daemon.printed()?;
        // The log comes first, the refusal last.
        let last: Vec<_> = printed.lines().collect();
        let stderr = last[last.len().saturating_sub(3)..].iter().map(|line| format!("{line}\n")).collect();
        Ok(Some(Err(Output { command: "peerd".to_owned(), code, stdout: String::new(), stderr })))
    })
}

#[test]
fn a_damaged_file_is_named_in_a_refusal_or_recovered_and_never_makes_another_node() {
    in_lab(|lab| {
        let [a, mut b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let (one, two) = (a.container("one", "demo", "shop", &[])?, b.container("two", "demo", "shop", &[])?);
        b.knows(&one)?;
        a.knows(&two)?;
        // What others signed is written a while later.
        until_true("another node's log on the disk", SOON, || {
            let mut names = fs::read_dir(b.state_dir())?.flatten().map(|file| file.file_name());
            Ok(names.any(|name| name.as_encoded_bytes().starts_with(b"log-n-")))
        })?;
        let id = node_id(&b)?;
        b.stop()?;
        let state = b.state_dir();
        let kept = state.with_extension("kept");
        Output::of(Command::new("cp").args(["-a"]).args([&state, &kept]), "")?.ok()?;
        let (mut refused, mut recovered) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&kept)? {
            let name = file?.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?}"))?;
            let whole = fs::read(kept.join(&name))?;
            let mut flipped = whole.clone();
            if let Some(byte) = flipped.get_mut(whole.len() / 2) {
                *byte ^= 1;
            }
            for damaged in [&whole[..0], &whole[..whole.len() / 2], &flipped] {
                Output::of(Command::new("cp").args(["-aT"]).args([&kept, &state]), "")?.ok()?;
                fs::write(state.join(&name), damaged)?;
                match start(&b)? {
                    Ok(same) => {
                        ensure!(same == id, "{name}: another node came back");
                        recovered.push(name.clone());
                    }
                    Err(refusal) => {
                        ensure!(fs::read(state.join(&name))? == damaged, "{name} was replaced");
                        let refusal = refusal.refused(9)?;
                        ensure!(refusal.stderr.contains(&name), "{name} is not named: {refusal}");
                        refused.push(name.clone());
                    }
                }
            }
        }
        println!("refused: {refused:?}\nrecovered: {recovered:?}");
        // Without what others signed the network is not known for a while: its container waits for that.
        Output::of(Command::new("cp").args(["-aT"]).args([&kept, &state]), "")?.ok()?;
        for file in
            fs::read_dir(&state)?.flatten().filter(|file| file.file_name().as_encoded_bytes().starts_with(b"log-"))
        {
            fs::write(file.path(), "")?;
        }
        b.peerd()?;
        one.reaches(two.address())?;
        b.stop()?;
        for name in ["node.key", "cluster", "own-c", "attachments", "boot"] {
            ensure!(refused.iter().filter(|refused| *refused == name).count() == 3, "{name} was believed");
        }
        ensure!(recovered.iter().any(|name| name.starts_with("log-")), "others' logs are fetched again");
        // Put back as it was, it is the node that it was.
        Output::of(Command::new("cp").args(["-aT"]).args([&kept, &state]), "")?.ok()?;
        b.peerd()?;
        ensure!(node_id(&b)? == id, "another node came back");
        one.reaches(two.address())
    });
}

#[test]
fn a_log_that_cannot_be_written_ends_no_node() {
    in_lab(|lab| {
        let a = lab.host("a")?;
        let daemon = a.daemon_command(&a.socket())?;
        let mut without_a_log = Command::new("sh");
        without_a_log.args(["-c", "exec \"$@\" 2>/dev/full", "sh"]).arg(daemon.get_program()).args(daemon.get_args());
        let mut daemon = Background::start(&mut without_a_log, a.state_dir().with_extension("out"))?;
        until_true("the node", SOON, || {
            daemon.still_runs()?;
            Ok(a.peerctl(&["status"])?.code == 0)
        })?;
        a.peerctl(&["init"])?.ok()?;
        a.network("demo", &[])?;
        let one = a.container("one", "demo", "shop", &[])?;
        let two = a.container("two", "demo", "shop", &[])?;
        one.reaches(two.address())?;
        daemon.still_runs()
    });
}
