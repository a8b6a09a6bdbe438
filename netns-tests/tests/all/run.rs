//! `peerctl run`: a command on a network, for root and for an ordinary user.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{Host, in_lab};

const DEMO: [&str; 4] = ["--network", "demo", "--app", "shop"];

/// A command on the network `demo`, run to its end.
fn run(host: &Host, more: &[&str], command: &[&str]) -> Result<netns_tests::Output> {
    host.peerctl(&[&["run"], &DEMO[..], more, &["--"], command].concat())
}

#[test]
fn d7_a_command_finds_its_network_its_names_and_its_environment() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let id = a.network("demo", &[])?;
        let output = run(&a, &[], &["sh", "-c", "env; ip -4 -o address show peerd0; cat /etc/resolv.conf"])?.ok()?;
        let environment: BTreeMap<_, _> = output.stdout.lines().filter_map(|line| line.split_once('=')).collect();
        let address = *environment.get("PRIVATE_IP").context("PRIVATE_IP")?;
        let hostname = format!("1.web.shop.{id}.private-network.internal");
        for (name, value) in [
            ("PRIVATE_NETWORK_ID", id.as_str()),
            ("PRIVATE_HOSTNAME", &hostname),
            ("APP_ID", "shop"),
            ("CONTAINER_TYPE", "web"),
            ("CONTAINER_NUMBER", "1"),
        ] {
            ensure!(environment.get(name) == Some(&value), "{name} is not {value}\n{output}");
        }
        ensure!(output.stdout.contains(&format!("inet {address}/32")), "{output}");
        ensure!(output.stdout.contains("nameserver 169.254.240.53"), "{output}");

        let output = run(&a, &["--env-prefix", "SCALINGO_"], &["env"])?.ok()?;
        ensure!(output.stdout.contains(&format!("SCALINGO_PRIVATE_NETWORK_ID={id}")), "{output}");
        ensure!(!output.stdout.contains("\nPRIVATE_IP="), "{output}");
        Ok(())
    });
}

#[test]
fn the_exit_code_is_the_commands_and_nothing_is_left() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        for (command, code) in [
            (&["true"][..], 0),
            (&["sh", "-c", "exit 7"], 7),
            (&["sh", "-c", "kill -KILL $$"], 137),
            (&["/etc/passwd"], 126),
            (&["no-such-command"], 127),
        ] {
            let output = run(&a, &[], command)?;
            ensure!(output.code == code, "exit code {code} was due\n{output}");
        }
        let unknown = a.peerctl(&["run", "--network", "nowhere", "--app", "shop", "--", "true"])?;
        ensure!(unknown.code == 125, "exit code 125 was due\n{unknown}");
        until_true("the containers to go", SOON, || Ok(a.json(&["container", "ls"])? == serde_json::json!([])))
    });
}

#[test]
fn an_ordinary_users_containers_reach_each_other_between_hosts() {
    in_lab(|lab| {
        let hosts = lab.ordinary_users_cluster(["a", "b"])?;
        let [a, b] = &hosts;
        a.network("demo", &[b])?;
        let page = "a page of an ordinary user";
        let server = "cd $(mktemp -d) && echo -n \"$1\" > index.html && exec python3 -m http.server 8080";
        let words = [&DEMO[..], &["--type", "db", "--", "sh", "-c", server, "sh", page]].concat();
        let mut serving = b.run("server", &words)?;
        let fetch = "curl -sSf --max-time 5 --noproxy '*' http://db.shop.demo.private-network.internal:8080/";
        let fetched = until("the page", SOON, || {
            serving.still_runs()?;
            let output = run(a, &[], &["sh", "-c", fetch])?;
            Ok(Some(output.ok()?.stdout))
        })?;
        ensure!(fetched == page, "{fetched}");
        // The command is killed, not told: its container goes all the same.
        drop(serving);
        until_true("the container to go", SOON, || Ok(b.json(&["container", "ls"])? == serde_json::json!([])))
    });
}

#[test]
fn where_user_namespaces_are_forbidden_an_ordinary_user_is_told_so() {
    in_lab(|lab| {
        let mut a = lab.host("a")?;
        a.as_ordinary_user_without_namespaces()?;
        a.peerd()?;
        a.peerctl(&["init"])?.ok()?;
        a.network("demo", &[])?;
        let refused = run(&a, &[], &["true"])?.refused(125)?;
        ensure!(refused.stderr.contains("max_user_namespaces"), "{refused}");
        ensure!(a.json(&["container", "ls"])? == serde_json::json!([]), "half attached");
        Ok(())
    });
}
