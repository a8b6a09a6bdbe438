//! The rig itself, before anything is concluded from it.

use std::path::Path;

use anyhow::{Result, ensure};
use netns_tests::traffic::{ECHO_PORT, Flow, echo};
use netns_tests::wait::{SOON, until};
use netns_tests::{contains, in_lab};

#[test]
fn hosts_reach_each_other_over_the_switch_and_a_capture_sees_it() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let capture = lab.capture()?;
        a.exec(&["ping", "-n", "-c", "1", "-W", "5", "-p", "c0ffee", b.address()])?.ok()?;
        let wire = capture.stop()?;
        ensure!(contains(&wire, &[0xc0, 0xff, 0xee, 0xc0, 0xff, 0xee]), "the capture missed a plaintext echo");
        Ok(())
    });
}

#[test]
fn a_lab_has_an_etc_and_a_run_of_its_own() {
    in_lab(|_| {
        ensure!(Path::new("/etc/passwd").exists(), "/etc lost its files");
        std::fs::write("/etc/netns/mark", "")?;
        ensure!(std::fs::read_dir("/run/netns")?.next().is_none(), "somebody else's namespaces show");
        Ok(())
    });
    assert!(!Path::new("/etc/netns/mark").exists(), "the lab wrote into the machine's own /etc");
}

/// Says something and is gone before the answer, as one that is killed: ADDRESS PORT.
const GONE: &str = r#"
import socket, struct, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
connection.sendall(b"hello")
"#;

#[test]
fn an_echo_outlives_whoever_is_gone_before_the_answer() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let [web, api] = ["web", "api"].map(|name| a.container(name, "demo", "shop", &["--type", name]));
        let (web, api) = (web?, api?);
        let mut echoing = echo(&api)?;
        let mut held = Flow::connection(&web, &api, "held")?;
        for _ in 0..5 {
            web.python(GONE, &[api.address(), ECHO_PORT])?.ok()?;
        }
        held.goes_on(10)?;
        echoing.still_runs()
    });
}

#[test]
fn waiting_ends_at_its_deadline_and_keeps_the_last_error() {
    let mut asked = 0;
    let never = until::<()>("nothing", SOON / 100, || {
        asked += 1;
        anyhow::bail!("it is not so")
    });
    let error = format!("{:#}", never.expect_err("nothing comes"));
    assert!(error.contains("nothing: not within") && error.contains("it is not so"), "{error}");
    assert!(asked > 1);
}

#[test]
fn what_a_test_starts_ends_with_it() -> Result<()> {
    // Inside, /proc shows the inner processes only: a time of its own tells the sleeper apart.
    const SLEEPER: &str = "86399.25";
    in_lab(|lab| {
        lab.host("a")?.command("sleep").arg(SLEEPER).spawn()?;
        Ok(())
    });
    let listed = std::process::Command::new("pgrep").args(["-f", &format!("^sleep {SLEEPER}$")]).output()?;
    ensure!(listed.stdout.is_empty(), "a process outlived its test");
    Ok(())
}
