//! Local users and strangers who mean no good.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use anyhow::{Result, ensure};
use netns_tests::wait::{SOON, now, until_true};
use netns_tests::{Host, contains, in_lab};

/// What the node answers to these bytes.
fn said_to(host: &Host, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(SOON))?;
    // The node may answer and hang up before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn whatever_comes_over_the_control_socket_is_refused_and_the_node_goes_on() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let nested = "[".repeat(60_000).into_bytes();
        let huge = vec![b'x'; 1 << 20];
        let zero_uses = br#"{"verb":"invite","networks":[],"ttl_s":60,"uses":0,"signer":false}"#;
        let number_0 = br#"{"verb":"attach","target":{"netns":"/x"},"app":"a","type":"b","ifname":"c","number":0}"#;
        let version =
            br#"{"verb":"attach","target":{"netns":"/x"},"app":"a","type":"b","ifname":"c","version":"\u001b[2J"}"#;
        for bytes in [&b""[..], b"\n", b"noise\n", b"{}\n", b"\xff\xfe\n", &nested, &huge, zero_uses, number_0, version]
        {
            let answer = said_to(&a, bytes)?;
            ensure!(answer.contains("\"failed\"") && answer.contains("\"usage\""), "{answer}");
        }
        a.json(&["status"]).map(drop)
    });
}

#[test]
fn idle_callers_of_another_user_do_not_hold_up_the_owner() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        // Who may only look: another user in the socket's group, with more callers than there are places. Those beyond may be
        // turned away before they have said anything.
        if std::os::unix::fs::chown(a.socket(), None, Some(65_534)).is_err() {
            netns_tests::skip("hostile: this user cannot give a file to another group");
            return Ok(());
        }
        let hold = "import socket, sys, time\n\
            held = [socket.socket(socket.AF_UNIX) for _ in range(100)]\n\
            for one in held:\n    one.connect(sys.argv[1])\n\
            \x20   try: one.send(b'{')\n    except OSError: pass\n\
            print('held', flush=True)\ntime.sleep(60)";
        let socket = a.socket().display().to_string();
        let mut other = a.command("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", hold, &socket]);
        let mut other = match other.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                netns_tests::skip(&format!("hostile: setpriv: {error}"));
                return Ok(());
            }
        };
        let mut line = [0; 5];
        let read = other.stdout.as_mut().map(|stdout| stdout.read_exact(&mut line));
        if !matches!(read, Some(Ok(()))) || line != *b"held\n" {
            other.wait()?;
            netns_tests::skip("hostile: this user cannot be another one");
            return Ok(());
        }
        let asked = now();
        a.json(&["status"])?;
        let waited = asked.elapsed();
        other.kill()?;
        other.wait()?;
        ensure!(waited.as_millis() < 2000, "the owner waited {waited:?}");
        Ok(())
    });
}

#[test]
fn twenty_nodes_with_one_invite_for_one_are_one_node_more() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        let token = a.peerctl(&["invite"])?.ok()?.stdout;
        let mut joiners = Vec::new();
        for i in 0..20 {
            let mut host = lab.host(&format!("j{i}"))?;
            host.peerd()?;
            joiners.push(host);
        }
        let mut asked = Vec::new();
        for host in &joiners {
            let mut command = host.peerctl_command(&["--quiet", "join", "-"])?;
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().expect("it was just made").write_all(token.as_bytes())?;
            asked.push(child);
        }
        let codes = asked.into_iter().map(|child| Ok(child.wait_with_output()?.status.code()));
        let codes: Vec<Option<i32>> = codes.collect::<Result<_>>()?;
        ensure!(codes.iter().filter(|code| **code == Some(0)).count() == 1, "{codes:?}");
        ensure!(codes.iter().filter(|code| **code == Some(6)).count() == 19, "{codes:?}");
        ensure!(a.json(&["node", "ls"])?.as_array().map(Vec::len) == Some(2), "more than one was admitted");
        let token = token.trim().as_bytes();
        ensure!(!contains(a.log()?.as_bytes(), token), "the token stands in the log");
        Ok(())
    });
}

#[test]
fn an_interface_deleted_in_its_container_takes_the_container_off() {
    in_lab(|lab| {
        let [a, b] = lab.cluster(["a", "b"])?;
        a.network("demo", &[&b])?;
        let one = a.container("web-1", "demo", "shop", &[])?;
        let two = a.container("web-2", "demo", "shop", &[])?;
        b.knows(&one)?;
        one.exec(&["ip", "link", "delete", "peerd0"])?.ok()?;
        for host in [&a, &b] {
            until_true("the container to go", SOON, || {
                let rows = host.json(&["container", "ls"])?;
                let ids: Vec<_> = rows.as_array().into_iter().flatten().map(|row| row["id"].clone()).collect();
                Ok(ids == [two.id()])
            })?;
        }
        // Its namespace can be attached again.
        let again = ["attach", "--netns", "/run/netns/web-1", "--network", "demo", "--app", "shop"];
        a.peerctl(&again)?.ok().map(drop)
    });
}

#[test]
fn who_waits_for_a_container_that_never_answers_holds_up_nobody_and_takes_no_place_along() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let silent = a.container("web-1", "demo", "shop", &[])?;
        let rules = "table inet hole { chain input { type filter hook input priority 0; tcp dport 3000 drop; }; }";
        silent.exec(&["nft", rules])?.ok()?;
        let _page = silent.serve("it does answer here")?;
        let dial = |port: u16| -> Result<UnixStream> {
            let mut stream = UnixStream::connect(a.socket())?;
            let name = silent.address();
            writeln!(stream, r#"{{"verb":"dial","network":"demo","name":"{name}","port":{port}}}"#)?;
            Ok(stream)
        };
        let waiting = (0..300).map(|_| dial(3000)).collect::<Result<Vec<_>>>()?;
        let (began, mut refused) = (now(), 0);
        // The rest have a place and no answer.
        until_true("a refusal for those who are too many", SOON, || {
            for mut stream in &waiting {
                stream.set_nonblocking(true)?;
                let mut said = String::new();
                let _ = stream.read_to_string(&mut said);
                refused += usize::from(said.contains("\"conflict\""));
            }
            Ok(refused == 300 - 256)
        })?;
        ensure!(began.elapsed().as_secs() < 5, "they were refused after {:?}", began.elapsed());
        let asked = now();
        a.json(&["status"])?;
        ensure!(asked.elapsed().as_millis() < 2000, "the owner waited {:?}", asked.elapsed());
        drop(waiting);
        let left = now();
        until_true("a place for another stream", SOON, || {
            let mut stream = dial(8080)?;
            stream.set_read_timeout(Some(SOON))?;
            let mut line = [0; 10];
            stream.read_exact(&mut line)?;
            Ok(line.starts_with(b"{\"done\""))
        })?;
        ensure!(left.elapsed().as_secs() < 5, "their places were taken for {:?} more", left.elapsed());
        Ok(())
    });
}

#[test]
fn who_only_waits_takes_nobody_elses_place() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let begun = |words: &str| -> Result<UnixStream> {
            let mut stream = UnixStream::connect(a.socket())?;
            writeln!(stream, "{words}")?;
            Ok(stream)
        };
        let _waiting = (0..300)
            .map(|_| begun(r#"{"verb":"wait","awaited":{"network":"never"},"timeout_s":60}"#))
            .collect::<Result<Vec<_>>>()?;
        let _listening = (0..300).map(|_| begun(r#"{"verb":"events"}"#)).collect::<Result<Vec<_>>>()?;
        let asked = now();
        a.container("web-1", "demo", "shop", &[])?;
        a.json(&["status"])?;
        ensure!(asked.elapsed().as_secs() < 5, "the owner waited {:?}", asked.elapsed());
        Ok(())
    });
}

#[test]
fn another_user_of_the_sockets_group_looks_and_changes_nothing() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        if std::os::unix::fs::chown(a.socket(), None, Some(65_534)).is_err() {
            netns_tests::skip("hostile: this user cannot give a file to another group");
            return Ok(());
        }
        let say = "import socket, sys\n\
            one = socket.socket(socket.AF_UNIX)\n\
            one.connect(sys.argv[1])\n\
            one.sendall(sys.argv[2].encode() + b'\\n')\n\
            print(one.makefile().read())";
        let socket = a.socket().display().to_string();
        let said = |request: &str| {
            let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", say];
            a.exec(&[&words[..], &[&socket, request]].concat())
        };
        let looked = said(r#"{"verb":"status"}"#)?;
        if looked.code != 0 {
            netns_tests::skip("hostile: this user cannot be another one");
            return Ok(());
        }
        ensure!(looked.stdout.contains("\"done\""), "{looked}");
        let changes = [
            r#"{"verb":"network-create","name":"theirs","internal":false}"#,
            r#"{"verb":"invite","networks":[],"ttl_s":60,"uses":1,"signer":false}"#,
            r#"{"verb":"detach","target":"/run/netns/x","drain_s":null}"#,
            r#"{"verb":"leave","release":true,"drain_s":null}"#,
        ];
        for request in changes {
            let refused = said(request)?;
            ensure!(refused.stdout.contains("\"permission\"") && !refused.stdout.contains("\"done\""), "{refused}");
        }
        ensure!(a.json(&["network", "ls"])? == serde_json::json!([]), "a network was made");
        Ok(())
    });
}

#[test]
fn a_crash_of_the_node_writes_none_of_its_keys_into_a_core_file() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", a.daemon()?.pid()))?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
        let words: Vec<_> = core.split_whitespace().collect();
        ensure!(words[4..6] == ["0", "0"], "{limits}");
        Ok(())
    });
}
