//! What peerctl says about names and containers, and commands beside those that run.

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until};
use netns_tests::{Host, in_lab};

const ZONE: &str = "private-network.internal";

/// A command that stays, in a container by `run`; its id.
fn running(host: &Host) -> Result<(netns_tests::Background, String)> {
    let words = ["--network", "demo", "--app", "shop", "--type", "worker", "--", "sleep", "600"];
    let mut staying = host.run("worker", &words)?;
    let id = until("the container", SOON, || {
        staying.still_runs()?;
        let rows = host.json(&["container", "ls"])?;
        let row = rows.as_array().into_iter().flatten().find(|row| row["type"] == "worker");
        Ok(row.and_then(|row| row["id"].as_str()).map(str::to_owned))
    })?;
    Ok((staying, id))
}

#[test]
fn dns_query_and_explain_say_what_a_container_gets() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        a.network("other", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let other = a.container("web-2", "other", "shop", &[])?;
        let name = format!("shop.demo.{ZONE}");
        let told = a.peerctl(&["dns", "query", &name, "--as", web.id()])?.ok()?.stdout;
        ensure!(told.trim_end() == format!("{name}. 30 IN A {}", web.address()), "{told}");
        let told = a.json(&["dns", "query", &name, "AAAA", "--as", web.id()])?;
        ensure!(told["status"] == "NOERROR" && told["answers"] == serde_json::json!([]), "{told}");
        ensure!(a.json(&["dns", "query", &name, "--as", other.id()])?["status"] == "NXDOMAIN");
        a.peerctl(&["dns", "query", &name, "NOTYPE", "--as", web.id()])?.refused(2)?;
        a.peerctl(&["dns", "query", &name, "--as", "0000000000000000"])?.refused(4)?;

        let told = a.peerctl(&["dns", "explain", &name, "--as", web.id()])?.ok()?.stdout;
        ensure!(told.starts_with("1 address\n") && told.contains("is ready"), "{told}");
        let told = a.peerctl(&["dns", "explain", &name, "--as", other.id()])?.ok()?.stdout;
        ensure!(told.starts_with("NXDOMAIN\n") && told.contains("no other network exists"), "{told}");
        Ok(())
    });
}

#[test]
fn container_inspect_shows_one_container_whole() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        let id = a.network("demo", &[&b])?;
        let web = a.container("web-1", "demo", "shop", &["--version", "v7"])?;
        b.knows(&web)?;
        let here = a.json(&["container", "inspect", web.id()])?;
        ensure!(here["network_id"] == id.as_str() && here["version"] == "v7", "{here}");
        ensure!(here["hostname"] == web.hostname() && here["local"]["netns"] == "/run/netns/web-1", "{here}");
        let there = b.json(&["container", "inspect", web.id()])?;
        ensure!(there["node"] == "a" && there["local"].is_null(), "{there}");
        let text = b.peerctl(&["container", "inspect", web.id()])?.ok()?.stdout;
        ensure!(text.contains(web.hostname()) && !text.contains("namespace"), "{text}");
        b.peerctl(&["container", "inspect", "nothing"])?.refused(4)?;
        Ok(())
    });
}

#[test]
fn exec_runs_beside_the_command_in_its_namespaces_for_root_and_for_an_ordinary_user() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let mut b = lab.host("b")?;
        b.as_ordinary_user()?;
        b.peerd()?;
        b.peerctl(&["init"])?.ok()?;
        for host in [&a, &b] {
            host.network("demo", &[])?;
            let (_staying, id) = running(host)?;
            let show =
                "echo $PRIVATE_HOSTNAME $CONTAINER_NUMBER; ip -4 -o address show peerd0; cat /etc/resolv.conf; exit 7";
            let output = host.peerctl(&["exec", &id, "--", "sh", "-c", show])?;
            ensure!(output.code == 7, "{output}");
            let text = &output.stdout;
            ensure!(text.starts_with("1.worker.shop.pn-") && text.contains(" 1\n"), "{output}");
            ensure!(text.contains("inet 10.240.0.") && text.contains("nameserver 169.254.240.53"), "{output}");
            let output = host.peerctl(&["exec", "--env-prefix", "SCALINGO_", &id, "--", "env"])?.ok()?;
            ensure!(output.stdout.contains("\nSCALINGO_PRIVATE_IP=10.240.0."), "{output}");
            ensure!(host.peerctl(&["exec", &id, "--", "no-such-command"])?.code == 127);
            ensure!(host.peerctl(&["exec", "0000000000000000", "--", "true"])?.code == 125);
        }
        let web = a.container("web-1", "demo", "shop", &[])?;
        let refused = a.peerctl(&["exec", web.id(), "--", "true"])?.refused(125)?;
        ensure!(refused.stderr.contains("nsenter --net=/run/netns/web-1"), "{refused}");
        Ok(())
    });
}

#[test]
fn attach_by_pid_serves_the_processs_namespace_and_lets_go_with_it() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let mut command = a.command("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; exec sleep 600"]);
        let mut process = netns_tests::Background::start(&mut command, "/run/lab/process".into())?;
        // nsenter and unshare become the command, so the process is the one that was started, once it sleeps.
        let pid = process.pid().to_string();
        netns_tests::wait::until_true("the namespace", SOON, || {
            process.still_runs()?;
            Ok(std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end() == "sleep")
        })?;
        let answer = a.json_whole(&["attach", "--pid", &pid, "--network", "demo", "--app", "shop"])?;
        // It has the host's files, and those name no resolver of ours.
        ensure!(answer["warnings"][0]["code"] == "resolv-conf" && answer["warnings"][1].is_null(), "{answer}");
        let attached = &answer["data"];
        web.reaches(attached["address"].as_str().context("an address")?)?;
        process.signal("KILL")?;
        netns_tests::wait::until_true("it to go", SOON, || {
            Ok(a.json(&["container", "ls"])?.as_array().is_some_and(|rows| rows.len() == 1))
        })
    });
}

#[test]
fn a_receive_buffer_that_the_kernel_does_not_grant_is_told_in_the_log_and_in_status() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let limit = a.exec(&["cat", "/proc/sys/net/core/rmem_max"])?.ok()?.stdout;
        let is_small = limit.trim().parse::<usize>()? < 4 << 20;
        let status = a.json(&["status"])?;
        ensure!(status["health"].to_string().contains("socket-buffer-small") == is_small, "{limit}: {status}");
        let log = a.log()?;
        ensure!(log.contains("raise net.core.rmem_max to 4194304") == is_small, "{limit}: {log}");
        Ok(())
    });
}
