//! The protocol of the resolver, spoken by real clients: dig and Python's sockets.

use anyhow::{Result, ensure};
use netns_tests::{Lookup, in_lab};

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
fn e4_the_caller_is_its_interface_and_not_its_source_address() {
    in_lab(|lab| {
        let [a] = lab.cluster(["a"])?;
        a.network("red", &[])?;
        a.network("blue", &[])?;
        let red = a.container("red-1", "red", "shop", &[])?;
        let blue = a.container("blue-1", "blue", "shop", &[])?;
        ensure!(red.address() == blue.address(), "both are the first of their network");
        let name = format!("1.web.shop.red.{ZONE}");
        ensure!(red.dig(&name, "A")? == [red.address()]);
        ensure!(blue.dig_status(&name, "A")?.0 == "NXDOMAIN");
        for library in Lookup::both()? {
            ensure!(library.ask(&red, &name)? == [red.address()], "{}", library.name());
            ensure!(library.ask(&blue, &name)?.is_empty(), "{}", library.name());
        }
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
