//! A node that is expelled: cut off at once, and out for ever, whatever it brings along.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Host, in_lab};

use crate::cuts::{cut_apart, join_again};

/// An expelled node is cut off after so long.
const CUT: Duration = Duration::from_secs(5);

fn knows_node(host: &Host, name: &str) -> Result<bool> {
    let nodes = host.json(&["node", "ls"])?;
    Ok(nodes.as_array().into_iter().flatten().any(|node| node["name"] == name))
}

fn generation(host: &Host) -> Result<u64> {
    let network = host.json(&["network", "inspect", "demo"])?;
    ensure!(network["secret_held"] == true, "the newest secret is not here");
    network["generation"].as_u64().context("a generation")
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// For a while nobody lets `name` in, and its containers have no way to anybody.
fn stays_out(hosts: [&Host; 2], name: &str) -> Result<()> {
    let began = now();
    while began.elapsed() < Duration::from_secs(6) {
        for host in hosts {
            ensure!(!knows_node(host, name)?, "{name} is back");
            let rows = host.json(&["container", "ls"])?;
            ensure!(rows.as_array().is_some_and(|rows| rows.len() == 2), "{rows}");
        }
    }
    Ok(())
}

#[test]
fn an_expelled_node_is_cut_within_five_seconds_and_stays_out_with_an_old_snapshot_and_as_a_clone() {
    in_lab(|lab| {
        let [a, b, mut c] = lab.cluster(["a", "b", "c"])?;
        a.network("demo", &[&b, &c])?;
        let on_a = a.container("web-1", "demo", "shop", &[])?;
        let on_b = b.container("web-2", "demo", "shop", &[])?;
        let on_c = c.container("web-3", "demo", "shop", &[])?;
        for host in [&a, &b] {
            host.knows(&on_c)?;
        }
        c.knows(&on_a)?;
        on_c.reaches(on_a.address())?;
        on_c.reaches(on_b.address())?;
        on_a.reaches(on_b.address())?;
        until_true("the others' logs on its disk", SOON, || {
            let files = std::fs::read_dir(c.state_dir())?.filter_map(|file| file.ok()?.file_name().into_string().ok());
            // In the cluster those of the root, a and b, in the network those of a and b.
            Ok(files.filter(|file| file.starts_with("log-")).count() >= 5)
        })?;
        c.stop()?;
        let snapshot = c.state_dir().with_extension("snapshot");
        copy(&c.state_dir(), &snapshot)?;
        c.peerd()?;
        on_c.reaches(on_b.address())?;
        let secret = generation(&b)?;

        // A connection that is open while the secret is replaced.
        let listener = "import socket,sys\ns=socket.socket()\ns.setsockopt(1,2,1)\ns.bind(('',7))\ns.listen()\n\
                        c,_=s.accept()\nwhile d:=c.recv(9): c.sendall(d)\n";
        let mut echo = on_b.start(&["python3", "-c", listener])?;
        let caller = "import socket,sys,time\ns=socket.create_connection((sys.argv[1],7),5)\nend=time.time()+8\n\
                      n=0\nwhile time.time()<end:\n s.sendall(b'x')\n assert s.recv(1)==b'x'\n n+=1\n time.sleep(.02)\nprint('whole',n)\n";
        until_true("the echo server", SOON, || {
            echo.still_runs()?;
            Ok(on_b.exec(&["ss", "-ltn"])?.stdout.contains(":7 "))
        })?;
        let mut call = on_a.start(&["python3", "-c", caller, on_b.address()])?;

        let began = now();
        a.peerctl(&["node", "expel", "c"])?.ok()?;
        for host in [&a, &b] {
            until_true("the node to go", CUT, || Ok(!knows_node(host, "c")?))?;
        }
        until_true("its packets to stop", CUT, || Ok(!on_c.ping(on_a.address())? && !on_c.ping(on_b.address())?))?;
        let cut = began.elapsed();
        ensure!(cut < CUT, "cut after {cut:?}");
        println!("an expelled node is cut after {cut:?} (at most 5 s; two of them are the last pings' own)");
        for host in [&a, &b] {
            until_true("the new secret", SOON, || Ok(generation(host)? == secret + 1))?;
        }
        println!("every other node holds the next secret {:?} after the expulsion", began.elapsed());
        ensure!(call.ended(SOON)?.success() && call.printed()?.contains("whole"), "{}", call.printed()?);

        until_true("the node to be told", SOON, || c.is_told("expelled"))?;
        ensure!(!a.is_told("expelled")? && !b.is_told("expelled")?, "nobody else was expelled");

        // Restarted, as it was once, and as its double on another host.
        c.kill()?;
        c.peerd()?;
        stays_out([&a, &b], "c")?;
        c.kill()?;
        std::fs::remove_dir_all(c.state_dir())?;
        copy(&snapshot, &c.state_dir())?;
        c.peerd()?;
        stays_out([&a, &b], "c")?;
        c.kill()?;
        let mut d = lab.host("d")?;
        copy(&snapshot, &d.state_dir())?;
        d.peerd()?;
        stays_out([&a, &b], "c")?;
        ensure!(!on_c.ping(on_a.address())?, "its container still gets through");
        on_a.reaches(on_b.address())
    });
}

#[test]
fn an_expelled_signers_key_admits_nobody_any_more_and_those_it_had_admitted_stay() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let (mut b, mut c, mut d) = (lab.host("b")?, lab.host("c")?, lab.host("d")?);
        [&mut b, &mut c, &mut d].into_iter().try_for_each(Host::peerd)?;
        b.join(&a, &["--signer"])?;
        c.join(&b, &[])?;
        a.network("demo", &[&c])?;
        let (on_a, on_c) = (a.container("web-1", "demo", "shop", &[])?, c.container("web-2", "demo", "shop", &[])?);
        c.knows(&on_a)?;
        on_c.reaches(on_a.address())?;

        // As with a stolen key, or a copy of its disk: it goes on where the root's node does not hear it.
        for (host, other) in [(&a, &b), (&c, &b), (&a, &d)] {
            cut_apart(host, other)?;
        }
        d.join(&b, &[])?;
        ensure!(knows_node(&b, "d")? && !knows_node(&a, "d")?, "the cut is none");
        a.peerctl(&["node", "expel", "b"])?.ok()?;
        until_true("the signer to go", CUT, || Ok(!knows_node(&a, "b")? && !knows_node(&c, "b")?))?;
        [&a, &c].into_iter().try_for_each(join_again)?;
        for host in [&b, &d] {
            until_true("it to be told", SOON, || host.is_told("expelled"))?;
        }
        stays_out([&a, &c], "d")?;
        // The certificate that it brings along is that of the expelled one.
        c.kill()?;
        c.peerd()?;
        stays_out([&a, &c], "b")?;
        on_c.reaches(on_a.address())
    });
}

#[test]
fn who_is_not_granted_a_network_any_more_hosts_nothing_there_and_keeps_its_other_networks() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        a.network("other", &[&b])?;
        let on_a = a.container("web-1", "demo", "shop", &[])?;
        let on_b = b.container("web-2", "demo", "shop", &[])?;
        let kept = [a.container("web-3", "other", "shop", &[])?, b.container("web-4", "other", "shop", &[])?];
        on_a.reaches(on_b.address())?;
        kept[0].reaches(kept[1].address())?;
        a.peerctl(&["network", "ungrant", "demo", "b"])?.ok()?;
        until_true("its container to go", CUT, || {
            let rows = a.json(&["container", "ls", "--network", "demo"])?;
            Ok(rows.as_array().is_some_and(|rows| rows.len() == 1) && !on_b.ping(on_a.address())?)
        })?;
        until_true("its interface to go too", SOON, || Ok(on_b.exec(&["ip", "link", "show", "peerd0"])?.code != 0))?;
        until_true("the new secret", SOON, || Ok(generation(&a)? == 1))?;
        ensure!(knows_node(&a, "b")?, "it left the cluster");
        kept[0].reaches(kept[1].address())
    });
}
