//! What is taken out of a service file drains by itself: nothing of what is under way ends.

use anyhow::{Context as _, Result, ensure};
use netns_tests::traffic::{Flow, echo};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, Host, in_lab};

use crate::deploy::{API, PORT, Web};

const FILE: &str = "
application: { id: shop, namespace: backoffice }
services:
  api: { ports: [{ container: 7100, name: main }] }
  idle:
databases:
  store: { servers: { default: { port: 7007 }, leopard: { port: 7007 } } }
";
const SERVICES: &str = "svc.private-network.internal";

/// What the verb warns of, and what it did.
fn changed(host: &Host, words: &[&str], file: &str) -> Result<(Vec<String>, serde_json::Value)> {
    let output = host.peerctl_with_input(&[&["--json"], words].concat(), file)?.ok()?;
    let mut answer: serde_json::Value = serde_json::from_str(&output.stdout)?;
    let warnings = answer["warnings"].as_array().context("a list")?;
    ensure!(warnings.iter().all(|warning| warning["code"] == "containers-left"), "{answer}");
    let told = warnings.iter().filter_map(|warning| warning["message"].as_str()).map(str::to_owned).collect();
    Ok((told, answer["data"].take()))
}

/// Waits until a name is no more, or is there without data.
fn gone(asker: &Container, name: &str, kind: &str) -> Result<()> {
    until_true(&format!("{name} to be gone"), SOON, || Ok(asker.dig(name, kind)?.is_empty()))
}

#[test]
fn nothing_under_way_ends_with_the_service_that_is_taken_out_and_whose_containers_stay_is_told() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        a.peerctl_with_input(&["apply", "-f", "-"], FILE)?.ok()?;
        let when = format!("tcp:{PORT}");
        let api = b.container("api-1", "demo", "shop", &["--type", "api", "--ready-when", &when])?;
        let leopard = b.container("leopard", "demo", "shop", &["--database", "store/leopard"])?;
        let caller = a.container("caller", "demo", "shop", &["--type", "client"])?;
        let stranger = a.container("stranger", "demo", "accounts-team", &["--type", "client"])?;
        [&api, &leopard].into_iter().try_for_each(|container| a.knows(container))?;
        let mut serving = api.start(&["python3", "-c", API, PORT, "v1"])?;
        let mut echoing = echo(&leopard)?;
        a.peerctl(&["wait", "--for", "container", api.id()])?.ok()?;
        let port = format!("_main._tcp.api.{SERVICES}");
        until_true("its port", SOON, || Ok(caller.dig(&port, "SRV")?.len() == 1))?;
        ensure!(caller.dig(&format!("store-leopard.{SERVICES}"), "A")? == [leopard.address()]);
        let mut web = Web::start(&caller)?;
        let mut held = Flow::connection(&caller, &leopard, "held")?;

        // Told beforehand, and nothing done.
        let without =
            FILE.replace("  api: { ports: [{ container: 7100, name: main }] }\n", "").replace("  idle:\n", "");
        let without = without.replace(", leopard: { port: 7007 }", "").replace("services:\n", "services: {}\n");
        let (dry, _) = changed(&a, &["apply", "-f", "-", "--dry-run"], &without)?;
        ensure!(caller.dig(&port, "SRV")?.len() == 1, "a dry run changes nothing");
        let (told, done) = changed(&a, &["apply", "-f", "-"], &without)?;
        ensure!(told == dry, "{told:?} {dry:?}");
        ensure!(done["changes"].as_array().is_some_and(|changes| changes.len() == 3), "{done}");
        // Nobody is left of what had no container.
        let [of_api, of_leopard] = &*told else { anyhow::bail!("{told:?}") };
        ensure!(of_api.starts_with("api: 1 container(s) stay, and its name leads to them"), "{of_api}");
        ensure!(of_leopard.starts_with("store-leopard: 1 container(s) stay, and no name"), "{of_leopard}");

        for asker in [&caller, &stranger] {
            gone(asker, &format!("store-leopard.backoffice.{SERVICES}"), "A")?;
            gone(asker, &format!("_main._tcp.api.backoffice.{SERVICES}"), "SRV")?;
            ensure!(asker.dig(&format!("api.backoffice.{SERVICES}"), "A")? == [api.address()]);
        }
        // Who has looked the server up before reaches it, and who speaks with it goes on.
        Flow::connection(&stranger, &leopard, "by a kept answer")?;
        held.goes_on(20)?;
        ensure!(web.goes_on(50)? == ["v1"]);

        // The same of a definition as a whole.
        b.peerctl(&["service", "rm", "--app", "shop"])?.refused(6)?;
        let (dry, _) = changed(&a, &["service", "rm", "--app", "shop", "--dry-run"], "")?;
        ensure!(dry == [""; 0], "what is left of it has no container: {dry:?}");
        a.peerctl_with_input(&["apply", "-f", "-"], FILE)?.ok()?;
        let (dry, would) = changed(&a, &["service", "rm", "--app", "shop", "--dry-run"], "")?;
        ensure!(dry.len() == 2 && would["dry_run"] == true, "{dry:?} {would}");
        ensure!(stranger.dig(&format!("api.backoffice.{SERVICES}"), "A")? == [api.address()], "nothing is done yet");
        let (told, done) = changed(&a, &["service", "rm", "--app", "shop"], "")?;
        ensure!(told == dry && done["changes"] == would["changes"], "{told:?} {done}");
        gone(&stranger, &format!("api.backoffice.{SERVICES}"), "A")?;
        ensure!(
            stranger.dig(&format!("api.shop.{SERVICES}"), "A")? == [api.address()],
            "its id is its namespace again"
        );
        ensure!(
            caller.dig(&format!("store-leopard.{SERVICES}"), "A")? == [leopard.address()],
            "what containers declare is there without a file"
        );
        a.peerctl(&["service", "rm", "--app", "shop"])?.refused(4)?;
        held.goes_on(20)?;
        ensure!(web.goes_on(50)? == ["v1"]);
        serving.still_runs()?;
        echoing.still_runs()
    });
}
