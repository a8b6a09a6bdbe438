//! Every verb of the manual as a script uses it: the envelope of `--json`, the three lines and the exit code of a refusal.
//!
//! What verbs there are is read from peerctl's own help, so a new one fails here until it has both.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until};
use netns_tests::{Background, Host, Output, in_lab, manual, skip};
use serde_json::{Value, json};

/// Verbs whose standard output is not an answer of ours, but a command's or a script.
const NO_ENVELOPE: [&str; 3] = ["run", "exec", "completion"];

/// Which verbs were heard.
struct Sweep {
    verbs: Vec<Vec<String>>,
    answered: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl Sweep {
    fn new() -> Result<Self> {
        Ok(Self { verbs: manual::verbs()?, answered: BTreeSet::new(), refused: BTreeSet::new() })
    }

    fn verb(&self, words: &[&str]) -> Result<String> {
        let verb = self.verbs.iter().find(|verb| words.len() >= verb.len() && verb.iter().eq(&words[..verb.len()]));
        Ok(verb.with_context(|| format!("{words:?} is no verb of the help's"))?.join("."))
    }

    fn json(host: &Host, words: &[&str], input: &str) -> Result<Output> {
        // In front, so that what stands behind two hyphens is the command's alone.
        host.peerctl_with_input(&[&["--json"], words].concat(), input)
    }

    /// The data that a verb answers, in its envelope.
    fn answers(&mut self, host: &Host, words: &[&str]) -> Result<Value> {
        self.answers_with_code(host, words, "", 0)
    }

    fn answers_with_code(&mut self, host: &Host, words: &[&str], input: &str, code: i32) -> Result<Value> {
        let verb = self.verb(words)?;
        let output = Self::json(host, words, input)?;
        ensure!(output.code == code, "exit code {code} was due\n{output}");
        self.answered.insert(verb.clone());
        if NO_ENVELOPE.contains(&verb.as_str()) {
            return Ok(Value::String(output.stdout));
        }
        ensure!(output.stdout.trim_end().lines().count() == 1, "one line was due\n{output}");
        let mut answer: Value = serde_json::from_str(&output.stdout).with_context(|| output.to_string())?;
        let schema = format!("peerctl.{}/1", if verb == "ps" { "container.ls" } else { &verb });
        ensure!(answer["schema"] == schema.as_str(), "{schema} was due\n{output}");
        let envelope = answer.as_object().with_context(|| output.to_string())?;
        let keys: BTreeSet<_> = envelope.keys().map(String::as_str).collect();
        ensure!(keys == BTreeSet::from(["schema", "data", "warnings"]), "{keys:?}\n{output}");
        for warning in answer["warnings"].as_array().with_context(|| output.to_string())? {
            ensure!(warning["code"].is_string() && warning["message"].is_string(), "{output}");
        }
        ensure!(!answer["data"].is_null(), "no data\n{output}");
        Ok(answer["data"].take())
    }

    /// The data that a verb answers that goes on until it is interrupted.
    fn answers_and_goes_on(&mut self, host: &Host, words: &[&str]) -> Result<Value> {
        let verb = self.verb(words)?;
        let mut command = host.peerctl_command(&[&["--json"], words].concat())?;
        let mut going = Background::start(&mut command, Path::new("/run/lab").join(&verb))?;
        let answer = until("an answer", SOON, || {
            going.still_runs()?;
            Ok(serde_json::from_str::<Value>(&going.printed()?).ok())
        })?;
        self.answered.insert(verb.clone());
        ensure!(answer["schema"] == format!("peerctl.{verb}/1"), "{answer}");
        Ok(answer["data"].clone())
    }

    /// A verb says in three lines why not.
    fn refuses(&mut self, host: &Host, words: &[&str], code: i32) -> Result<Output> {
        self.refuses_input(host, words, "", code)
    }

    fn refuses_input(&mut self, host: &Host, words: &[&str], input: &str, code: i32) -> Result<Output> {
        let verb = self.verb(words)?;
        self.refused.insert(verb);
        Self::json(host, words, input)?.refused(code)
    }
}

/// Whether an object has at least these fields.
fn has(value: &Value, fields: &[&str]) -> Result<()> {
    fields.iter().try_for_each(|field| {
        ensure!(value.get(field).is_some(), "no {field} in {value}");
        Ok(())
    })
}

#[test]
fn every_verb_answers_in_its_envelope_and_refuses_in_three_lines_with_its_exit_code() {
    in_lab(|lab| {
        let mut sweep = Sweep::new()?;
        let (mut a, mut b, nobody) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);
        a.peerd()?;
        b.peerd()?;

        has(&sweep.answers(&a, &["init"])?, &["cluster", "node", "name", "networks"])?;
        sweep.refuses(&a, &["init"], 5)?;
        has(&sweep.answers(&a, &["network", "create", "demo"])?, &["id", "name", "vni"])?;
        sweep.refuses(&a, &["network", "create", "demo"], 5)?;
        let invited = sweep.answers(&a, &["invite", "--network", "demo"])?;
        sweep.refuses(&a, &["invite", "--network", "nowhere"], 4)?;
        // A node that is not well says so in its code, and answers all the same.
        sweep.answers_with_code(&b, &["status", "--check"], "", 7)?;
        let token = invited["token"].as_str().context("a token")?.to_owned();
        sweep.refuses_input(&b, &["join", "-"], "no token", 9)?;
        has(&sweep.answers_with_code(&b, &["join", "-"], &token, 0)?, &["cluster", "node", "name", "networks"])?;

        let rows = sweep.answers(&a, &["network", "ls"])?;
        has(&rows[0], &["id", "name", "vni", "internal", "granted", "containers"])?;
        has(&sweep.answers(&a, &["network", "inspect", "demo"])?, &["id", "vni", "grants", "apps", "creator"])?;
        sweep.refuses(&a, &["network", "inspect", "nowhere"], 4)?;
        sweep.answers(&a, &["network", "grant", "demo", "b"])?;
        sweep.refuses(&a, &["network", "grant", "demo", "nobody"], 4)?;
        sweep.refuses(&b, &["network", "grant", "demo", "a"], 6)?;
        sweep.refuses(&a, &["network", "ungrant", "demo", "nobody"], 4)?;
        sweep.refuses(&a, &["network", "ungrant", "demo", "a"], 5)?;
        sweep.refuses(&b, &["network", "ungrant", "demo", "a"], 6)?;
        sweep.answers(&a, &["network", "ungrant", "demo", "b"])?;
        sweep.answers(&a, &["network", "grant", "demo", "b"])?;
        sweep.refuses(&a, &["node", "expel", "nobody"], 4)?;
        sweep.refuses(&a, &["node", "expel", "a"], 5)?;
        sweep.refuses(&b, &["node", "expel", "a"], 6)?;
        let mut d = lab.host("d")?;
        d.peerd()?;
        d.join(&a, &[])?;
        sweep.answers(&a, &["node", "expel", "d"])?;
        has(&sweep.answers(&a, &["node", "ls"])?[0], &["id", "name", "state", "endpoints"])?;

        for netns in ["free", "other"] {
            a.exec(&["ip", "netns", "add", netns])?.ok()?;
        }
        let attach = ["attach", "--netns", "/run/netns/free", "--network", "demo", "--app", "shop"];
        let attached = sweep.answers(&a, &attach)?;
        has(&attached, &["id", "address", "network", "app", "type", "number", "hostname", "state", "ifname"])?;
        sweep.refuses(&a, &attach, 5)?;
        let id = attached["id"].as_str().context("an id")?.to_owned();
        let (id, hostname) = (id.as_str(), attached["hostname"].as_str().context("a name")?);
        let row = [
            "id",
            "network",
            "vni",
            "node",
            "address",
            "app",
            "type",
            "number",
            "version",
            "service",
            "state",
            "public_key",
        ];
        has(&sweep.answers(&a, &["container", "ls"])?[0], &row)?;
        has(&sweep.answers(&a, &["ps", "--network", "demo"])?[0], &row)?;
        for verb in [&["container", "ls"][..], &["ps"]] {
            sweep.refuses(&a, &[verb, &["--network", "nowhere"]].concat(), 4)?;
        }
        has(&sweep.answers(&a, &["container", "inspect", id])?, &["id", "network_id", "hostname", "local"])?;
        sweep.refuses(&a, &["container", "inspect", "nothing"], 4)?;
        let names = sweep.answers(&a, &["domain-names", "--app", "shop"])?;
        ensure!(names["names"].as_array().is_some_and(|names| names.len() == 3), "{names}");
        sweep.refuses(&a, &["domain-names", "--app", "nothing"], 4)?;
        let asked = sweep.answers(&a, &["dns", "query", hostname, "--as", id])?;
        ensure!(asked["status"] == "NOERROR" && asked["answers"][0]["data"] == attached["address"], "{asked}");
        sweep.refuses(&a, &["dns", "query", hostname, "--as", "nothing"], 4)?;
        has(&sweep.answers(&a, &["dns", "explain", hostname, "--as", id])?, &["verdict", "steps"])?;
        sweep.refuses(&a, &["dns", "explain", "a..b", "--as", id], 2)?;

        services(&mut sweep, &a)?;
        ways_in(&mut sweep, &a, &nobody)?;

        let run = ["run", "--network", "demo", "--app", "shop", "--type", "task", "--"];
        let said = sweep.answers_with_code(&a, &[&run[..], &["sh", "-c", "echo ran; exit 7"]].concat(), "", 7)?;
        ensure!(said == "ran\n", "{said}");
        sweep.refuses(&a, &["run", "--network", "nowhere", "--app", "shop", "--", "true"], 125)?;
        sweep.refuses(&a, &["exec", "nothing", "--", "true"], 125)?;
        in_a_run_container(&mut sweep, &a)?;

        let drops = sweep.answers(&a, &["drops"])?;
        has(&drops[0], &["reason", "packets", "explanation"])?;
        let status = sweep.answers(&a, &["status"])?;
        has(&status, &["node", "cluster", "networks", "peers", "health"])?;
        has(&status["node"], &["id", "name", "listen", "uptime_s"])?;
        has(&sweep.answers(&a, &["wait", "--for", "converged"])?, &["waited_ms"])?;
        sweep.answers(&a, &["wait", "--for", "network", "demo"])?;
        sweep.answers(&a, &["wait", "--for", "container", id])?;
        sweep.answers(&a, &["wait", "--for", "service", "web"])?;
        sweep.answers(&a, &["wait", "--for", "service", "web.shop", "--network", "demo"])?;
        sweep.answers(&a, &["wait", "--for", "service", "web", "--app", "shop"])?;
        sweep.refuses(&a, &["wait", "--for", "service", "web", "--app", "other", "--timeout", "0s"], 8)?;
        sweep.refuses(&a, &["wait", "--for", "service", "web", "--network", "other", "--timeout", "0s"], 8)?;
        sweep.refuses(&a, &["wait", "--for", "converged", "--app", "shop"], 2)?;
        sweep.refuses(&a, &["wait", "--for", "service", "nobody", "--timeout", "0s"], 8)?;
        sweep.refuses(&a, &["wait", "--for", "container", "nothing", "--timeout", "0s"], 8)?;
        sweep.refuses(&a, &["wait", "--for", "network"], 2)?;
        sweep.refuses(&a, &["wait", "--for", "peace"], 2)?;
        let event = sweep.answers(&a, &["events", "--count", "1"])?;
        has(&event, &["time_unix_ms", "event", "subject", "message"])?;
        ensure!(event["event"] == "listening", "{event}");
        has(&status["peers"][0], &["node", "state", "path", "rtt_ms", "mtu_bytes", "rx_bytes", "tx_bytes"])?;
        ensure!(sweep.answers(&a, &["version"])?["version"].is_string(), "a version");
        sweep.refuses(&a, &["version", "surplus"], 2)?;
        sweep.answers(&a, &["completion", "bash"])?;
        sweep.refuses(&a, &["completion", "csh"], 2)?;
        sweep.refuses(&a, &["demo", "--nodes", "1"], 2)?;
        sweep.answers(&a, &["demo"])?;

        // The root key lies here, and nobody else could admit a node.
        sweep.refuses(&a, &["leave"], 5)?;
        has(&sweep.answers(&b, &["leave"])?, &["node", "interfaces_kept"])?;
        let deployed = sweep.answers(&a, &["deploy", "shop", "v1"])?;
        has(&deployed, &["network", "app", "version", "ready"])?;
        sweep.refuses(&a, &["deploy", "nobody", "v1"], 4)?;
        sweep.answers(&a, &["detach", id])?;
        sweep.refuses(&a, &["detach", id], 4)?;
        for verb in [&["network", "ls"][..], &["node", "ls"], &["drops"], &["status"], &["events"]] {
            sweep.refuses(&nobody, verb, 3)?;
        }

        for verb in &sweep.verbs {
            let verb = verb.join(".");
            ensure!(sweep.answered.contains(&verb), "{verb} was never asked");
            ensure!(sweep.refused.contains(&verb), "{verb} was never refused");
        }
        Ok(())
    });
}

/// The verbs of service files; application shop has a container already.
fn services(sweep: &mut Sweep, a: &Host) -> Result<()> {
    let (file, wrong) = ("services: { web: { ports: ['80:'] } }", "services: { web: { port: 80 } }");
    let named = ["-f", "-", "--app", "ap-shop"];
    for (verb, fields) in [
        ("validate", &["app", "namespace", "services", "databases"][..]),
        ("apply", &["network", "app", "namespace", "dry_run", "changes"]),
    ] {
        let words = [&[verb], &named[..]].concat();
        let output = Sweep::json(a, &words, file)?;
        ensure!(output.stdout.contains(r#""code":"service-file""#), "a warning was due\n{output}");
        has(&sweep.answers_with_code(a, &words, file, 0)?, fields)?;
        sweep.refuses_input(a, &words, wrong, 9)?;
    }
    let row =
        ["name", "network", "app", "namespace", "kind", "defined", "ports", "traffic_matches", "containers", "ready"];
    has(&sweep.answers(a, &["service", "ls", "--app", "ap-shop"])?[0], &row)?;
    sweep.refuses(a, &["service", "ls", "--network", "nowhere"], 4)?;
    let web = sweep.answers(a, &["service", "inspect", "web", "--app", "ap-shop"])?;
    has(&web, &["name", "names", "names_elsewhere", "containers_serving"])?;
    // Of two applications that have one, one has to be named; a container declares the other.
    sweep.refuses(a, &["service", "inspect", "web"], 2)?;
    ensure!(sweep.answers(a, &["service", "inspect", "web.shop"])?["defined"] == false);
    sweep.refuses(a, &["service", "inspect", "nothing"], 4)?;
    has(&sweep.answers(a, &["service", "rm", "--app", "ap-shop"])?, &["network", "app", "dry_run", "changes"])?;
    sweep.refuses(a, &["service", "rm", "--app", "ap-shop"], 4)?;
    // A service goes by a file without it; an application has to be named.
    sweep.refuses(a, &["service", "rm", "web"], 2).map(drop)
}

/// The verbs of the way in; whoever asks `nobody` reaches no node.
fn ways_in(sweep: &mut Sweep, a: &Host, nobody: &Host) -> Result<()> {
    let status = sweep.answers(a, &["ingress", "status"])?;
    has(&status, &["enabled", "nginx_version", "reloads", "routes", "certificates", "fault", "problems", "gateways"])?;
    sweep.answers(a, &["ingress", "enable"])?;
    // Nothing is to be served yet, and nginx runs.
    ensure!(sweep.answers(a, &["ingress", "status"])?["fault"].is_null());
    ensure!(sweep.answers(a, &["ingress", "routes"])? == json!([]));
    let made = sweep.answers(a, &["ingress", "cert", "dev", "a.test", "*.a.test"])?;
    ensure!(made["names"] == json!(["a.test", "*.a.test"]), "{made}");
    sweep.refuses(a, &["ingress", "cert", "dev", "a b"], 2)?;
    ensure!(sweep.answers(a, &["ingress", "cert", "ls"])? == json!([made]));
    ensure!(sweep.answers(a, &["ingress", "cert", "ca"])?["pem"].as_str().is_some_and(|pem| pem.contains("BEGIN")));
    sweep.answers(a, &["ingress", "cert", "rm", "a.test"])?;
    sweep.refuses(a, &["ingress", "cert", "rm", "a.test"], 4)?;
    let (chain, key) = ("/run/lab/b.pem", "/run/lab/b.key");
    let subject = ["-subj", "/CN=b.test", "-addext", "subjectAltName=DNS:b.test", "-keyout", key, "-out", chain];
    let make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    a.exec(&[&make[..], &subject].concat())?.ok()?;
    let add = |cert, key| ["ingress", "cert", "add", "--cert", cert, "--key", key];
    ensure!(sweep.answers(a, &add(chain, key))?["names"] == json!(["b.test"]));
    sweep.refuses(a, &add(chain, chain), 9)?;
    sweep.refuses(a, &add("/nowhere", key), 4)?;
    sweep.answers(a, &["ingress", "disable"])?;
    for verb in [&["status"][..], &["routes"], &["enable"], &["disable"], &["cert", "ls"], &["cert", "ca"]] {
        sweep.refuses(nobody, &[&["ingress"], verb].concat(), 3)?;
    }
    let network = ["--network", "demo"];
    let data = sweep.answers_and_goes_on(a, &[&["forward", "0:web.shop:80"][..], &network].concat())?;
    ensure!(data["listen"][0].as_str().is_some_and(|listen| listen.starts_with("127.0.0.1:")), "{data}");
    sweep.refuses(a, &["forward", "0:web.shop:80", "--network", "nowhere"], 4)?;
    let data = sweep.answers_and_goes_on(a, &[&["proxy", "--socks5", "127.0.0.1:0"][..], &network].concat())?;
    has(&data, &["network", "listen"])?;
    // 192.0.2.99 is no address of the host.
    sweep.refuses(a, &[&["proxy", "--socks5", "192.0.2.99:1080"][..], &network].concat(), 2).map(drop)
}

#[test]
fn a_plain_failure_is_exit_1_and_who_waits_in_vain_gets_exit_8() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        let mut b = lab.host("b")?;
        b.peerd()?;
        b.peerctl(&["--json", "network", "create", "early"])?.refused(1)?;
        let token = a.peerctl(&["invite"])?.ok()?.stdout;
        a.stop()?;
        b.peerctl_with_input(&["--json", "--quiet", "join", "-"], &token)?.refused(8)?;
        ensure!(b.json(&["status"])?["cluster"].is_null(), "half joined");
        Ok(())
    });
}

#[test]
fn a_token_that_is_drawn_too_stands_alone_on_standard_output_and_is_good() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let mut b = lab.host("b")?;
        b.peerd()?;
        let invited = a.peerctl(&["invite", "--qr"])?.ok()?;
        ensure!(invited.stdout.lines().count() == 1, "{invited}");
        ensure!(invited.stderr.contains('\u{2588}') && !invited.stderr.contains(invited.stdout.trim()), "{invited}");
        b.peerctl_with_input(&["join", "-"], &invited.stdout)?.ok().map(drop)
    });
}

/// `exec` has its answer beside a command that runs.
fn in_a_run_container(sweep: &mut Sweep, a: &Host) -> Result<()> {
    let words = ["--network", "demo", "--app", "shop", "--type", "worker", "--", "sleep", "600"];
    let mut staying = a.run("worker", &words)?;
    let id = netns_tests::wait::until("the container", netns_tests::wait::SOON, || {
        staying.still_runs()?;
        let rows = a.json(&["container", "ls"])?;
        let row = rows.as_array().into_iter().flatten().find(|row| row["type"] == "worker");
        Ok(row.and_then(|row| row["id"].as_str()).map(str::to_owned))
    })?;
    let said = sweep.answers(a, &["exec", &id, "--", "sh", "-c", "echo $CONTAINER_TYPE"])?;
    ensure!(said == "worker\n", "{said}");
    ensure!(sweep.answers_with_code(a, &["exec", &id, "--", "false"], "", 1)? == json!(""), "nothing to say");
    Ok(())
}

#[test]
fn bash_takes_its_completion_script_and_offers_the_verbs_of_a_group() {
    offers(
        "bash",
        r#"source "$1"; COMP_WORDS=(peerctl network ''); COMP_CWORD=2; _peerctl peerctl '' network; printf '%s\n' "${COMPREPLY[@]}""#,
    );
}

#[test]
fn zsh_takes_its_completion_script_and_offers_the_verbs_of_a_group() {
    // Its own machinery wants a terminal: what the script hands to it is printed.
    offers(
        "zsh",
        r#"compdef() { :; }; _describe() { print -l -- ${commands%%:*} }; source "$1"; _peerctl__subcmd__network_commands"#,
    );
}

#[test]
fn fish_takes_its_completion_script_and_offers_the_verbs_of_a_group() {
    offers("fish", r#"source $argv[2]; complete -C 'peerctl network '"#);
}

/// Gives a shell its script as the first argument of a program that prints what there is behind `peerctl network `.
fn offers(shell: &str, program: &str) {
    let verbs = manual::verbs().expect("the help");
    let group: Vec<_> = verbs.iter().filter(|verb| verb[0] == "network").map(|verb| verb[1].as_str()).collect();
    assert!(group.contains(&"create") && group.contains(&"grant"), "{group:?}");
    let script = manual::completion(shell).expect("a script");
    for verb in &verbs {
        assert!(script.contains(verb.last().expect("a word").as_str()), "{shell} lacks {verb:?}");
    }
    if Command::new(shell).arg("--version").output().is_err() {
        return skip(&format!("the completions of {shell} in {shell}: it is not there"));
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), script).expect("a file");
    let read = Output::of(Command::new(shell).arg("-n").arg(file.path()), "").expect("it starts");
    assert_eq!((read.code, read.stderr.as_str()), (0, ""), "{read}");
    let mut command = Command::new(shell);
    let offered = Output::of(command.args(["-c", program, shell]).arg(file.path()), "").expect("it starts");
    let words: BTreeSet<_> = offered.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(group.iter().all(|verb| words.contains(verb)), "{shell} does not offer {group:?}\n{offered}");
    assert!(!words.contains("attach"), "{shell} offers verbs of elsewhere\n{offered}");
}
