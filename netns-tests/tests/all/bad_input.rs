//! What is wrong gets three lines and an exit code, and leaves nothing half done.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Background, Container, Host, Lab, in_lab};

/// A node with a network `demo`, and an empty namespace.
fn one_node(lab: &mut Lab) -> Result<(Host, &'static str)> {
    let [a] = lab.cluster(["a"])?;
    a.network("demo", &[])?;
    a.exec(&["ip", "netns", "add", "free"])?.ok()?;
    Ok((a, "/run/netns/free"))
}

/// Nothing of a refused attach is left: no container, no interface, no route, no resolv.conf.
fn nothing_half_done(host: &Host) -> Result<()> {
    ensure!(host.json(&["container", "ls"])? == serde_json::json!([]), "a container is listed");
    let left = host.exec(&["sh", "-c", "ip -n free -o link; ip -n free route; ls /etc/netns/free 2>/dev/null"])?;
    ensure!(!left.stdout.contains("peerd") && !left.stdout.contains("10.240."), "left behind:\n{left}");
    ensure!(!left.stdout.contains("resolv.conf"), "left behind:\n{left}");
    Ok(())
}

#[test]
fn without_a_daemon_it_is_exit_3() {
    in_lab(|lab| {
        let a = lab.host("a")?;
        for words in [&["status"][..], &["network", "ls"], &["attach", "--netns", "/run/netns/x", "--app", "shop"]] {
            a.peerctl(words)?.refused(3)?;
        }
        Ok(())
    });
}

#[test]
fn what_is_not_there_is_exit_4() {
    in_lab(|lab| {
        let (a, free) = one_node(lab)?;
        a.peerctl(&["network", "inspect", "nowhere"])?.refused(4)?;
        a.peerctl(&["network", "grant", "nowhere", "a"])?.refused(4)?;
        a.peerctl(&["network", "grant", "demo", "nobody"])?.refused(4)?;
        a.peerctl(&["invite", "--network", "nowhere"])?.refused(4)?;
        a.peerctl(&["detach", "0123456789abcdef"])?.refused(4)?;
        a.peerctl(&["attach", "--netns", free, "--network", "nowhere", "--app", "shop"])?.refused(4)?;
        a.peerctl(&["attach", "--netns", "/run/netns/absent", "--network", "demo", "--app", "shop"])?.refused(4)?;
        nothing_half_done(&a)
    });
}

#[test]
fn a_path_that_is_no_network_namespace_is_refused() {
    in_lab(|lab| {
        let (a, _) = one_node(lab)?;
        fs::write("/run/lab/file", "no namespace")?;
        for path in ["/run/lab/file", "/run/lab", "/dev/null", "/proc/self/ns/mnt"] {
            let refused = a.peerctl(&["attach", "--netns", path, "--network", "demo", "--app", "shop"])?;
            ensure!(refused.code != 0, "{path} was attached");
            let code = refused.code;
            refused.refused(code)?;
        }
        nothing_half_done(&a)
    });
}

#[test]
fn names_that_are_none_are_usage_errors() {
    in_lab(|lab| {
        let (a, free) = one_node(lab)?;
        let attach = ["attach", "--netns", free, "--network", "demo"];
        for more in [
            &["--app", "a.b"][..],
            &["--app", ""],
            &["--app", "shop", "--type", "7"],
            &["--app", "shop", "--number", "0"],
            &["--app", "shop", "--ifname", "a-name-longer-than-15"],
            &["--app", "shop", "--ifname", "../x"],
        ] {
            let refused = a.peerctl(&[&attach[..], more].concat())?;
            ensure!(refused.code == 2, "exit code 2 was due\n{refused}");
        }
        for name in ["svc", "a.b", "-a", &"a".repeat(64)] {
            let refused = a.peerctl(&["network", "create", "--", name])?;
            ensure!(refused.code == 2, "exit code 2 was due\n{refused}");
        }
        nothing_half_done(&a)
    });
}

#[test]
fn what_is_taken_is_exit_5() {
    in_lab(|lab| {
        let (a, free) = one_node(lab)?;
        a.peerctl(&["init"])?.refused(5)?;
        a.peerctl(&["network", "create", "demo"])?.refused(5)?;
        let attach = ["attach", "--netns", free, "--network", "demo", "--app", "shop"];
        // The interface's name.
        a.exec(&["ip", "-n", "free", "link", "add", "peerd0", "type", "veth", "peer", "name", "other0"])?.ok()?;
        a.peerctl(&attach)?.refused(5)?;
        ensure!(a.json(&["container", "ls"])? == serde_json::json!([]), "half attached");
        a.exec(&["ip", "-n", "free", "link", "show", "peerd0"])?.ok()?;
        a.exec(&["ip", "-n", "free", "link", "delete", "peerd0"])?.ok()?;
        nothing_half_done(&a)?;
        // One network for a namespace, one container for a number.
        a.peerctl(&attach)?.ok()?;
        a.peerctl(&attach)?.refused(5)?;
        a.exec(&["ip", "netns", "add", "other"])?.ok()?;
        let other = ["attach", "--netns", "/run/netns/other", "--network", "demo", "--app", "shop"];
        a.peerctl(&[&other[..], &["--number", "1"]].concat())?.refused(5)?;
        let rows = a.json(&["container", "ls"])?;
        ensure!(rows.as_array().map(Vec::len) == Some(1), "{rows}");
        Ok(())
    });
}

#[test]
fn a_second_daemon_on_the_state_dir_ends_and_the_first_goes_on() {
    in_lab(|lab| {
        let (mut a, _) = one_node(lab)?;
        let second_socket = Path::new("/run/lab/second.sock");
        let mut command = a.daemon_command(second_socket)?;
        let mut second = Background::start(command.args(["--listen", "[::]:51791"]), "/run/lab/second.log".into())?;
        let status = second.ended(SOON)?;
        ensure!(!status.success(), "a second daemon ran");
        ensure!(!second_socket.exists(), "it made its socket");
        let said = second.printed()?;
        let state_dir = a.state_dir().display().to_string();
        ensure!(said.contains("error: ") && said.contains(&state_dir) && said.contains("  try: "), "{said}");
        a.daemon()?;
        a.json(&["status"]).map(drop)
    });
}

#[test]
fn tokens_that_are_wrong_used_or_expired_admit_nobody() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let fresh = |lab: &mut Lab, name: &str| -> Result<Host> {
            let mut host = lab.host(name)?;
            host.peerd()?;
            Ok(host)
        };
        let refused = |host: &Host, token: &str| -> Result<()> {
            let output = host.peerctl_with_input(&["--quiet", "join", "-"], token)?;
            ensure!(output.code != 0, "admitted\n{output}");
            let code = output.code;
            output.refused(code)?;
            ensure!(host.json(&["status"])?["cluster"].is_null(), "half joined");
            Ok(())
        };
        let b = fresh(lab, "b")?;
        let token = a.peerctl(&["invite"])?.ok()?.stdout;
        let mut wrong = token.trim_end().to_owned().into_bytes();
        let last = wrong.len() - 2;
        wrong[last] = if wrong[last] == b'a' { b'b' } else { b'a' };
        for text in ["", "\n", "no token", "\u{0}\u{1}", &"x".repeat(100_000), &String::from_utf8(wrong)?] {
            refused(&b, text)?;
        }

        b.peerctl_with_input(&["join", "-"], &token)?.ok()?;
        let c = fresh(lab, "c")?;
        refused(&c, &token)?;

        let short = a.peerctl(&["invite", "--ttl", "1s"])?.ok()?.stdout;
        let made = now();
        until_true("the token's end", SOON, || Ok(made.elapsed().as_millis() > 1100))?;
        refused(&c, &short)?;

        let nodes = a.json(&["node", "ls"])?;
        ensure!(nodes.as_array().map(Vec::len) == Some(2), "{nodes}");
        // Who is in a cluster stays in it.
        let another = a.peerctl(&["invite"])?.ok()?.stdout;
        b.peerctl_with_input(&["--quiet", "join", "-"], &another)?.refused(5).map(drop)
    });
}

#[test]
fn a_node_of_another_cluster_stays_out() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let mut x = lab.host("x")?;
        x.peerd()?;
        x.peerctl(&["init"])?.ok()?;
        let token = a.peerctl(&["invite"])?.ok()?.stdout;
        x.peerctl_with_input(&["--quiet", "join", "-"], &token)?.refused(5)?;
        let clusters = [a.json(&["status"])?["cluster"].clone(), x.json(&["status"])?["cluster"].clone()];
        ensure!(clusters[0].is_string() && clusters[1].is_string() && clusters[0] != clusters[1], "{clusters:?}");
        ensure!(a.json(&["node", "ls"])?.as_array().map(Vec::len) == Some(1), "a stranger is listed");
        Ok(())
    });
}

#[test]
fn without_a_tun_device_attaching_says_so() {
    in_lab(|lab| {
        let (a, free) = one_node(lab)?;
        let attach = ["attach", "--netns", free, "--network", "demo", "--app", "shop"];
        let none = "mount -t tmpfs lab /dev/net";
        let forbidden = "mount --bind /dev/net /dev/net && mount -o remount,bind,nodev /dev/net";
        for hide in [none, forbidden] {
            a.exec(&["sh", "-c", hide])?.ok()?;
            let output = a.peerctl(&attach)?;
            a.exec(&["umount", "/dev/net"])?.ok()?;
            let code = output.code;
            ensure!(code != 0 && output.stderr.contains("/dev/net/tun"), "{output}");
            output.refused(code)?;
            nothing_half_done(&a)?;
        }
        // The next one is attached.
        a.peerctl(&attach)?.ok().map(drop)
    });
}

#[test]
fn a_container_that_the_system_does_not_give_back_at_a_start_is_served_when_it_does() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let (one, two) = (a.container("one", "demo", "shop", &[])?, a.container("two", "demo", "shop", &[])?);
        one.reaches(two.address())?;
        let before = a.json(&["container", "ls"])?.as_array().map(Vec::len);
        a.kill()?;
        a.exec(&["mount", "-t", "tmpfs", "lab", "/dev/net"])?.ok()?;
        a.peerd()?;
        let status = a.json(&["status"])?;
        a.exec(&["umount", "/dev/net"])?.ok()?;
        let told = |row: &serde_json::Value, of: &Container| {
            row["code"] == "container-unserved"
                && row["subject"] == of.id()
                && row["message"].as_str().is_some_and(|message| message.contains("/dev/net/tun"))
                && row["hint"].as_str().is_some_and(|hint| hint.contains("modprobe"))
        };
        let rows = status["health"].as_array().cloned().unwrap_or_default();
        for container in [&one, &two] {
            ensure!(rows.iter().any(|row| told(row, container)), "{status}");
        }
        until_true("both to be served", SOON, || one.ping(two.address()))?;
        ensure!(a.json(&["container", "ls"])?.as_array().map(Vec::len) == before, "one was let go");
        let codes = a.json(&["status"])?["health"].to_string();
        ensure!(!codes.contains("container-unserved"), "{codes}");
        Ok(())
    });
}
