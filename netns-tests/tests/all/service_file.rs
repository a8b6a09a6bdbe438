//! Service files: applied by an owner, seen by every node of the network, and refused with the place of the mistake.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Host, in_lab};

const FILE: &str = "\
application: { id: ap-shop, name: Shop, namespace: front }
services:
  web: { ports: ['3000:80:443', 5000], traffic_matches: [app.example.com], load_balancing: sticky }
  api:
databases:
  mysql: { servers: { default: , leopard: { port: 3307 } } }
";

/// Writes a service file on a host.
fn file(host: &Host, text: &str) -> Result<String> {
    let path: PathBuf = host.state_dir().with_file_name("service.yml");
    fs::write(&path, text)?;
    path.into_os_string().into_string().ok().context("a path of ours is text")
}

fn services(host: &Host) -> Result<Vec<String>> {
    let rows = host.json(&["service", "ls"])?;
    let names = rows.as_array().context("a list")?.iter().map(|row| row["name"].as_str().unwrap_or("?").to_owned());
    Ok(names.collect())
}

#[test]
fn an_owner_applies_a_file_and_every_node_of_the_network_sees_what_it_says() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let path = file(&a, FILE)?;
        a.peerctl(&["validate", "-f", &path])?.ok()?;

        // A dry run tells all and does nothing.
        let dry = a.peerctl(&["apply", "-f", &path, "--dry-run"])?.ok()?.stdout;
        for line in [
            "+ application ap-shop",
            "+ service web: port 3000:80:443",
            "+ database mysql: server leopard on port 3307",
        ] {
            ensure!(dry.lines().any(|told| told == line), "{line}: {dry}");
        }
        ensure!(services(&a)?.is_empty(), "a dry run changes nothing");

        let began = now();
        let applied = a.peerctl(&["apply", "-f", &path])?.ok()?.stdout;
        ensure!(applied == dry, "what was told before is what is done: {applied}");
        let there = ["api", "mysql-default", "mysql-leopard", "web"];
        ensure!(services(&a)? == there, "{:?}", services(&a)?);
        until_true("the services on the other node", SOON, || Ok(services(&b)? == there))?;
        println!("the other node knows the services {:?} after apply began", began.elapsed());

        let web = b.json(&["service", "inspect", "web"])?;
        ensure!(web["ports"] == serde_json::json!(["3000:80:443", "5000"]), "{web}");
        ensure!(web["load_balancing"] == "sticky" && web["defined"] == true && web["containers"] == 0, "{web}");
        let names = serde_json::json!(["web.front", "web.front.svc.private-network.internal"]);
        ensure!(web["names_elsewhere"] == names, "{web}");
        let mysql = b.json(&["service", "inspect", "mysql.front"])?;
        ensure!(
            mysql["name"] == "mysql-default" && mysql["names"] == serde_json::json!(["mysql", "mysql-default"]),
            "{mysql}"
        );

        // The same again is no change, and a change is told by itself.
        ensure!(a.json(&["apply", "-f", &path])?["changes"] == serde_json::json!([]));
        let changed = FILE.replace("sticky", "closest").replace("  api:\n", "");
        let told = a.peerctl_with_input(&["apply", "-f", "-"], &changed)?.ok()?.stdout;
        ensure!(told == "- service api\n~ service web: load_balancing sticky -> closest\n", "{told}");
        until_true("the change on the other node", SOON, || {
            Ok(services(&b)? == there[1..] && b.json(&["service", "inspect", "web"])?["load_balancing"] == "closest")
        })
    });
}

#[test]
fn who_does_not_own_the_network_applies_nothing() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let path = file(&b, FILE)?;
        let refused = b.peerctl(&["apply", "-f", &path])?.refused(6)?;
        ensure!(refused.stderr.contains("only owners of network demo"), "{refused}");
        b.peerctl(&["apply", "-f", &path, "--dry-run"])?.refused(6)?;
        ensure!(services(&b)?.is_empty() && services(&a)?.is_empty());
        b.peerctl(&["apply", "-f", &path, "--network", "other"])?.refused(4)?;
        b.peerctl(&["service", "inspect", "web"])?.refused(4)?;
        b.peerctl(&["service", "ls", "--app", "ap-shop"])?.refused(4).map(drop)
    });
}

#[test]
fn a_wrong_file_is_refused_with_its_place_and_by_the_node_too() {
    in_lab(|lab| {
        let mut a = lab.host("a")?;
        // Without a node.
        let path = file(&a, "services:\n  web:\n    ports: ['3000:80:70000']\n")?;
        for verb in ["validate", "apply"] {
            let refused = a.peerctl(&[verb, "-f", &path, "--app", "ap-shop"])?.refused(9)?;
            let expected = format!("error: {path}:3:22: port 70000 does not exist\n");
            ensure!(refused.stderr.starts_with(&expected), "{refused}");
        }
        let many =
            a.peerctl_with_input(&["validate", "-f", "-"], "services:\n  web: { port: [80], load_balancing: x }\n")?;
        ensure!(many.code == 9 && many.stdout.is_empty() && many.stderr.lines().count() == 9, "{many}");
        ensure!(
            many.stderr.contains("standard input:2:10: unknown key \"port\" in service web, did you mean ports?"),
            "{many}"
        );
        a.peerctl(&["validate", "-f", "/nonexistent/service.yml"])?.refused(9)?;
        a.peerctl_with_input(&["validate", "-f", "-"], FILE)?.ok()?;
        a.peerctl_with_input(&["apply", "-f", "-"], FILE)?.refused(3)?;

        // Past peerctl, which would have refused it.
        a.peerd()?;
        a.peerctl(&["init"])?.ok()?;
        a.peerctl(&["network", "create", "demo"])?.ok()?;
        let bomb = r"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
            .to_owned()
            + &r"d: [*c,*c,*c,*c,*c,*c,*c,*c]\n".repeat(900);
        for (text, told) in [
            (r"services:\n  web:\n    ports: [0]\n", "3:13: port 0 does not exist"),
            (r"services: { web: { ports: [3000:80:] } }", "YAML takes this for a mapping"),
            (&bomb, "repeat too much"),
            (r"\u0000", "the character U+0000"),
        ] {
            let line = format!(r#"{{"verb":"apply","network":null,"app":"ap-shop","text":"{text}","dry_run":false}}"#);
            let answer = said(&a, &(line + "\n"))?;
            ensure!(answer.contains("invalid-file") && answer.contains(told), "{told}: {answer}");
        }
        ensure!(services(&a)?.is_empty());
        a.peerctl(&["status"])?.ok().map(drop)
    });
}

#[test]
fn what_another_application_holds_is_refused_with_its_name() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        a.peerctl_with_input(&["apply", "-f", "-"], FILE)?.ok()?;
        let attached = a.container("web-1", "demo", "undefined", &[])?;
        for (text, told) in [
            (
                "application: { id: b, namespace: front }\nservices: { web: }",
                "the namespace front is application ap-shop's",
            ),
            ("application: { id: b, namespace: undefined }\nservices: { web: }", "is application undefined's"),
            (
                "services: { api: { ports: ['1:80'], traffic_matches: [APP.example.com] } }",
                "app.example.com on http port 80 is of service api of application b and of service web of application ap-shop",
            ),
            (
                "services: { api: { ports: ['1:443'] } }",
                "port 443 is http of service api of application b and https of",
            ),
            (
                "services: { api: { ports: [{ container: 1, tcp: 80 }] } }",
                "port 80 is tcp of service api of application b",
            ),
        ] {
            for dry in [&[][..], &["--dry-run"]] {
                let refused =
                    a.peerctl_with_input(&[&["apply", "-f", "-", "--app", "b"], dry].concat(), text)?.refused(5)?;
                ensure!(refused.stderr.contains(told), "{told}: {refused}");
            }
        }
        // Beside it, on the same port, for other names; and the application itself is not in its own way.
        let beside =
            "services: { api: { ports: ['1:80'], traffic_matches: [b.example.com] }, rest: { ports: ['1:80'] } }";
        a.peerctl_with_input(&["apply", "-f", "-", "--app", "b"], beside)?.ok()?;
        a.peerctl_with_input(&["apply", "-f", "-"], &FILE.replace("5000", "5001"))?.ok()?;
        drop(attached);
        Ok(())
    });
}

/// Says a line on the control socket; what is answered.
fn said(host: &Host, line: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
