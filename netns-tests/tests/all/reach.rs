//! Containers of one network reach each other, on any node.

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until, until_true};
use netns_tests::{Container, Host, Lab, contains, in_lab};

/// Three hosts with a network `demo`, and a container on each that all of them know.
pub fn three(lab: &mut Lab) -> Result<([Host; 3], [Container; 3])> {
    let hosts = lab.cluster(["a", "b", "c"])?;
    let [a, b, c] = &hosts;
    a.network("demo", &[b, c])?;
    let containers = [
        a.container("web-1", "demo", "shop", &[])?,
        b.container("web-2", "demo", "shop", &["--number", "2"])?,
        c.container("db-1", "demo", "shop", &["--type", "db"])?,
    ];
    for host in &hosts {
        for container in &containers {
            host.knows(container)?;
        }
    }
    Ok((hosts, containers))
}

#[test]
fn containers_on_three_hosts_ping_each_other_by_address_and_by_name() {
    in_lab(|lab| {
        let (_hosts, containers) = three(lab)?;
        for from in &containers {
            for to in &containers {
                from.reaches(to.address())?;
                from.reaches(to.hostname())?;
            }
        }
        Ok(())
    });
}

#[test]
fn two_containers_of_one_host_reach_each_other() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = a.container("web-2", "demo", "shop", &[])?;
        let capture = lab.capture()?;
        one.reaches(two.address())?;
        let _page = two.serve("a page from next door")?;
        ensure!(one.fetch("2.web.shop.demo.private-network.internal")? == "a page from next door");
        ensure!(!contains(&capture.stop()?, b"a page from next door"), "it took the way over the switch");
        Ok(())
    });
}

#[test]
fn a_page_is_fetched_by_address_and_by_name_and_never_shows_on_the_wire() {
    in_lab(|lab| {
        let (_hosts, [web_1, _, db_1]) = three(lab)?;
        let canary = "canary-4f1d-the-plain-text-of-a-page";
        let capture = lab.capture()?;
        let _page = db_1.serve(canary)?;
        for name in [db_1.address(), db_1.hostname(), "db.shop.demo.private-network.internal"] {
            let page = until(&format!("a page from {name}"), SOON, || web_1.fetch(name).map(Some))?;
            ensure!(page == canary, "{name} gave {page:?}");
        }
        let wire = capture.stop()?;
        ensure!(wire.len() > 3 * canary.len(), "the page did not cross the switch");
        ensure!(!contains(&wire, canary.as_bytes()), "plaintext on the wire");
        ensure!(!contains(&wire, b"private-network"), "a name on the wire");
        Ok(())
    });
}

#[test]
fn bulk_data_flows_both_ways_between_hosts() {
    in_lab(|lab| {
        let (_hosts, [web_1, web_2, _]) = three(lab)?;
        let mut server = web_2.start(&["iperf3", "--server", "--forceflush"])?;
        until_true("the iperf3 server", SOON, || {
            server.still_runs()?;
            Ok(server.printed()?.contains("Server listening"))
        })?;
        for (name, direction) in [(web_2.address(), "--format=m"), (web_2.hostname(), "--reverse")] {
            let output = web_1.exec(&["iperf3", "--json", "--time=2", "--client", name, direction])?.ok()?;
            let report: serde_json::Value = serde_json::from_str(&output.stdout)?;
            let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's figure")?;
            println!("{direction} {:.0} Mbit/s", bits / 1e6);
            // Not a figure to be proud of: that it flows, and does not limp from one retransmission to the next.
            ensure!(bits > 20e6, "{bits} bit/s");
        }
        Ok(())
    });
}

#[test]
fn packets_of_every_size_arrive_whole() {
    in_lab(|lab| {
        let (_hosts, [web_1, web_2, _]) = three(lab)?;
        web_1.reaches(web_2.address())?;
        for size in ["0", "1", "15", "16", "17", "576", "1379", "1380", "1381", "8000", "65507"] {
            let output = web_1.exec(&["ping", "-n", "-c", "1", "-W", "5", "-s", size, web_2.address()])?;
            ensure!(output.code == 0, "{size} bytes\n{output}");
        }
        let refused = web_1.exec(&["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1381", web_2.address()])?;
        ensure!(refused.code != 0, "an inner packet above the MTU of 1408 went through whole\n{refused}");
        Ok(())
    });
}

/// A stream that a paused node forgot to go on with would stand still until TCP's own timer, if not for ever.
#[test]
fn bulk_streams_one_after_the_other_are_paused_and_go_on() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = b.container("web-2", "demo", "shop", &["--number", "2"])?;
        a.knows(&two)?;
        let mut server = two.start(&["iperf3", "--server", "--forceflush"])?;
        until_true("the iperf3 server", SOON, || {
            server.still_runs()?;
            Ok(server.printed()?.contains("listening"))
        })?;
        for direction in ["--parallel=2", "--reverse"].into_iter().cycle().take(6) {
            let words = ["timeout", "30", "iperf3", "--json", "--bytes=20M", "--client", two.address(), direction];
            let report: serde_json::Value = serde_json::from_str(&one.exec(&words)?.ok()?.stdout)?;
            ensure!(report["end"]["sum_sent"]["bytes"].as_u64() >= Some(20 << 20), "{}", report["end"]);
        }
        for host in [&a, &b] {
            let status = host.json(&["status"])?;
            let pauses = status["data_plane"]["pauses"].as_str().context("a fact")?;
            println!("{}: {pauses}", host.name());
        }
        Ok(())
    });
}
