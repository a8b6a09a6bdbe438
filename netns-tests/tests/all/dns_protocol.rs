//! The protocol of the resolver, spoken by real clients: dig, Python's sockets, the C libraries' getaddrinfo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netns_tests::wait::{SOON, until_true};
use netns_tests::{Container, in_lab};

const ZONE: &str = "private-network.internal";

/// Opens a stream to the resolver and speaks bytes; prints what comes back in hex until it ends.
const STREAM: &str = r#"
import socket, sys
stream = socket.create_connection(("169.254.240.53", 53), timeout=20)
stream.sendall(bytes.fromhex(sys.argv[1]))
if len(sys.argv) > 2:
    stream.shutdown(socket.SHUT_WR)
while data := stream.recv(65536):
    print(data.hex(), end="", flush=True)
"#;

/// Prints the addresses that getaddrinfo gives for a name, in their order.
const LOOKUP: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints, *found, *at;
    char text[64];
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    int code = getaddrinfo(argv[1], NULL, &hints, &found);
    if (code) { puts(gai_strerror(code)); return 1; }
    for (at = found; at; at = at->ai_next) {
        void *address = at->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
                                                 : (void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
        puts(inet_ntop(at->ai_family, address, text, sizeof text));
    }
    return argc == 0;
}
"#;

/// Builds the lookup program with one of the C compilers.
fn lookup_program(compiler: &str) -> Result<PathBuf> {
    let (source, program) = (Path::new("/run/lab/lookup.c"), PathBuf::from(format!("/run/lab/lookup-{compiler}")));
    std::fs::write(source, LOOKUP)?;
    let built = Command::new(compiler).arg("-o").args([&program, source]).output()?;
    ensure!(built.status.success(), "{compiler}: {}", String::from_utf8_lossy(&built.stderr));
    Ok(program)
}

fn looked_up(container: &Container, program: &Path, name: &str) -> Result<Vec<String>> {
    let output = container.exec(&[program.to_str().context("a path of ours is text")?, name])?.ok()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

/// A query as hex, behind its length.
fn framed(name: &str, asked: u8) -> String {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, asked, 0, 1]);
    let length = format!("{:04x}", message.len());
    length + &message.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
}

#[test]
fn dns_over_tcp_answers_pipelined_questions_in_one_stream_and_ends_it_when_idle() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let name = format!("shop.demo.{ZONE}");
        let short = web.exec(&["dig", "+tcp", "+short", &name])?.ok()?.stdout;
        ensure!(short.trim_end() == web.address(), "{short}");
        let kept = web.exec(&["dig", "+tcp", "+keepopen", "+short", &name, "A", &name, "A", &name, "A"])?.ok()?.stdout;
        ensure!(kept.lines().count() == 3, "{kept}");

        let question = framed(&name, 1);
        let said = web.python(STREAM, &[&question.repeat(20), "end"])?.ok()?.stdout;
        ensure!(said.matches("00211234").count() + said.matches("1234").count() >= 20, "{said}");
        // A question that comes in pieces, and a length that no question has.
        let half = question.split_at(20).0.to_owned();
        ensure!(web.python(STREAM, &[&half, "end"])?.ok()?.stdout.is_empty(), "half a question has no answer");
        ensure!(web.python(STREAM, &["ffff00"])?.code != 0, "a stream of nonsense is reset");
        // Nothing is said: the resolver ends the stream, and the container's program ends with it.
        let idle = web.python(STREAM, &[""])?;
        ensure!(idle.stdout.is_empty(), "{idle}");
        Ok(())
    });
}

#[test]
fn five_thousand_idle_streams_of_one_container_are_bounded_and_harm_nobody() {
    in_lab(|lab| {
        let [mut a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let other = a.container("web-2", "demo", "shop", &[])?;
        let pid = a.daemon()?.pid();
        let before = resident_kib(pid)?;
        let hold = r#"
import resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
held = []
for _ in range(5000):
    stream = socket.socket()
    stream.settimeout(5)
    stream.connect(("169.254.240.53", 53))
    held.append(stream)
print("held", len(held), flush=True)
time.sleep(60)
"#;
        let mut holding = web.start(&["python3", "-c", hold])?;
        until_true("the streams", SOON, || {
            holding.still_runs()?;
            Ok(holding.printed()?.contains("held 5000"))
        })?;
        let grown = resident_kib(pid)?.saturating_sub(before);
        println!("5,000 streams held: the daemon grew by {grown} KiB");
        ensure!(grown < 16 * 1024, "{grown} KiB");
        for container in [&other, &web] {
            let short = container.exec(&["dig", "+tcp", "+short", "+tries=1", &format!("1.web.shop.demo.{ZONE}")])?;
            ensure!(short.ok()?.stdout.trim_end() == web.address(), "by TCP from {}", container.name());
        }
        Ok(())
    });
}

fn resident_kib(pid: u32) -> Result<u64> {
    // The daemon is the child of the nsenter that was started, or took its place.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn e9_d5_both_c_libraries_find_names_by_the_one_nameserver_line_and_go_round() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        // None of the containers of the name: one that is prefers itself, by the same rule.
        let asker = a.container("client", "demo", "shop", &["--type", "client"])?;
        for number in 1..=4 {
            a.container(&format!("web-{number}"), "demo", "shop", &[])?;
        }
        let name = format!("shop.demo.{ZONE}");
        for compiler in ["gcc", "musl-gcc"] {
            let program = lookup_program(compiler)?;
            let firsts =
                (0..8).map(|_| Ok(looked_up(&asker, &program, &name)?[0].clone())).collect::<Result<Vec<_>>>()?;
            let different: std::collections::BTreeSet<_> = firsts.iter().collect();
            ensure!(different.len() == 4, "{compiler} does not go round: {firsts:?}");
            let one = looked_up(&asker, &program, &format!("2.web.shop.demo.{ZONE}"))?;
            ensure!(one.len() == 1, "{compiler}: an AAAA that is not there spoils nothing: {one:?}");
            // The search list is there, and leads nowhere near the raw names.
            let bare = asker.exec(&[program.to_str().context("a path of ours is text")?, "web"])?;
            ensure!(bare.code == 1, "{compiler}: {bare}");
        }
        Ok(())
    });
}

#[test]
fn n4_with_a_22_prefix_on_the_interface_the_round_robin_of_glibc_is_defeated() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        // None of the containers of the name: one that is prefers itself, by the same rule.
        let asker = a.container("client", "demo", "shop", &["--type", "client"])?;
        for number in 1..=4 {
            a.container(&format!("web-{number}"), "demo", "shop", &[])?;
        }
        // glibc looks at prefixes at all only where there is an IPv6 address, as on most containers' other interface.
        asker.exec(&["ip", "address", "add", "fd00::1/64", "dev", "lo"])?.ok()?;
        let program = lookup_program("gcc")?;
        let name = format!("shop.demo.{ZONE}");
        let different = || -> Result<usize> {
            let firsts =
                (0..8).map(|_| Ok(looked_up(&asker, &program, &name)?[0].clone())).collect::<Result<Vec<_>>>()?;
            Ok(firsts.iter().collect::<std::collections::BTreeSet<_>>().len())
        };
        ensure!(different()? == 4, "with /32 all have their turn");
        asker.exec(&["ip", "address", "add", &format!("{}/22", asker.address()), "dev", "peerd0"])?.ok()?;
        asker.exec(&["ip", "address", "del", &format!("{}/32", asker.address()), "dev", "peerd0"])?.ok()?;
        asker.exec(&["ip", "route", "replace", "169.254.240.0/20", "dev", "peerd0", "src", asker.address()])?.ok()?;
        ensure!(different()? < 4, "the reason for /32 has gone: look at docs/dns.md");
        Ok(())
    });
}

#[test]
fn e4_the_caller_is_its_interface_and_not_its_source_address() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("red", &[])?;
        a.network("blue", &[])?;
        let red = a.container("red-1", "red", "shop", &[])?;
        let blue = a.container("blue-1", "blue", "shop", &[])?;
        ensure!(red.address() == blue.address(), "both are the first of their network");
        ensure!(red.dig(&format!("1.web.shop.red.{ZONE}"), "A")? == [red.address()]);
        ensure!(blue.dig_status(&format!("1.web.shop.red.{ZONE}"), "A")?.0 == "NXDOMAIN");
        Ok(())
    });
}

#[test]
fn another_networks_name_is_answered_byte_for_byte_like_one_that_never_was() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("red", &[])?;
        let blue = a.network("blue", &[])?;
        let asker = a.container("red-1", "red", "shop", &[])?;
        a.container("blue-1", "blue", "shop", &[])?;
        let never = format!("pn-{}", "0".repeat(blue.len() - 3));
        for (there, never) in [("blue".to_owned(), "eulb".to_owned()), (blue, never)] {
            for asked in [1u8, 28, 6, 255] {
                let answer = |network: &str| -> Result<String> {
                    let name = format!("shop.{network}.{ZONE}");
                    let said = asker.python(STREAM, &[&framed(&name, asked), "end"])?.ok()?.stdout;
                    // The question is the only thing that may differ.
                    let hex: String = network.bytes().map(|byte| format!("{byte:02x}")).collect();
                    ensure!(said.contains(&hex), "{said}");
                    Ok(said.replacen(&hex, "", 1))
                };
                ensure!(answer(&there)? == answer(&never)?, "type {asked}: {there} is told from {never}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_is_not_a_plain_question_gets_its_code() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("demo", &[])?;
        let web = a.container("web-1", "demo", "shop", &[])?;
        let name = format!("shop.demo.{ZONE}");
        let status = |options: &[&str]| -> Result<String> {
            let words = [&["dig", "+tries=1", "+time=2"], options].concat();
            let text = web.exec(&words)?.stdout;
            let status = text.split_once("status: ").and_then(|(_, rest)| rest.split_once(','));
            Ok(status.map_or_else(|| text.clone(), |(status, _)| status.to_owned()))
        };
        ensure!(status(&["+opcode=UPDATE", &name])? == "NOTIMP");
        ensure!(status(&["+edns=1", "+noednsnegotiation", &name])? == "BADVERS");
        ensure!(status(&[&name, "CH", "A"])? == "REFUSED" || status(&["-c", "CH", &name])? == "REFUSED");
        let transfer = web.exec(&["dig", "AXFR", ZONE])?.stdout;
        ensure!(transfer.contains("Transfer failed") || transfer.contains("REFUSED"), "{transfer}");
        let any = web.dig(&name, "ANY")?;
        ensure!(any == ["\"RFC8482\" \"\""], "{any:?}");
        let shouted = web.exec(&["dig", "+noall", "+question", &name.to_uppercase()])?.ok()?.stdout;
        ensure!(shouted.contains(&name.to_uppercase()), "0x20: {shouted}");
        let soa = web.dig_status(ZONE, "SOA")?.1;
        ensure!(soa.len() == 1 && soa[0].ends_with(" 5"), "negative answers live 5 s: {soa:?}");
        Ok(())
    });
}
